"""Task scores: pure functions of a whole set's outputs and targets. All are errors, lower is better."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from orca_core.errors import NotFiniteError
from orca_core.scoring.losses import normalised_errors

Score = Callable[[Tensor, Tensor], float]


def one_minus_accuracy(outputs: Tensor, targets: Tensor) -> float:
    """Share of samples whose largest logit is not their class. (n, c) logits, (n,) class ids -> [0, 1]."""
    return (outputs.argmax(1) != targets).double().mean().item()


def one_minus_auroc(outputs: Tensor, targets: Tensor) -> float:
    """1 - area under the ROC curve; with more than two classes the mean over pairs of classes (Hand & Till 2001).

    (n, c) logits, (n,) class ids -> [0, 1]. Classes that the set lacks are left out.

    Raises:
        NotFiniteError: If an output is NaN or infinite, or the set has one class only, for which the area is not defined.
    """
    from sklearn.metrics import roc_auc_score

    if not torch.isfinite(outputs).all():
        raise NotFiniteError("an output of the model is NaN or infinite")
    probabilities = torch.softmax(outputs.double(), 1)
    present = torch.unique(targets)
    if len(present) < 2:
        raise NotFiniteError("the area under the ROC curve needs at least two classes in the set")
    if len(present) == 2:
        second = probabilities[:, present[1]] / probabilities[:, present].sum(1)
        return 1.0 - float(roc_auc_score((targets == present[1]).numpy(), second.numpy()))
    shares = probabilities[:, present]
    shares = shares / shares.sum(1, keepdim=True)
    ids = torch.searchsorted(present, targets)
    return 1.0 - float(roc_auc_score(ids.numpy(), shares.numpy(), multi_class="ovo", average="macro"))


def mean_normalised_error(outputs: Tensor, targets: Tensor) -> float:
    """Mean over samples of norm(error) / norm(target): nRMSE, relative L2. (n, channels, ...) both -> [0, inf)."""
    return normalised_errors(outputs.double(), targets.double()).mean().item()


SCORES: Mapping[str, Score] = {
    "1-accuracy": one_minus_accuracy,
    "1-auroc": one_minus_auroc,
    "nrmse": mean_normalised_error,
    "relative-l2": mean_normalised_error,
}
