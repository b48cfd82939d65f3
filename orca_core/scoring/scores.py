"""Task scores: pure functions of a whole set's outputs and targets. All are errors, lower is better."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from orca_core.errors import NotFiniteError
from orca_core.scoring.losses import normalised_errors
from orca_core.scoring.thresholds import area_under_roc, average_precision

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

    _refuse_not_finite(outputs)
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


def one_minus_macro_f1(outputs: Tensor, targets: Tensor) -> float:
    """1 - mean of the F1 of each class that is a target or a prediction of the set. (n, c) logits, (n,) class ids -> [0, 1]."""
    from sklearn.metrics import f1_score

    return 1.0 - float(f1_score(targets.numpy(), outputs.argmax(1).numpy(), average="macro", zero_division=0.0))


def one_minus_mean_auroc(outputs: Tensor, targets: Tensor) -> float:
    """1 - mean over labels of the area under each label's ROC curve. (n, labels) logits, targets 0 or 1 -> [0, 1].

    A label that is the same in the whole set has no area and is left out.

    Raises:
        NotFiniteError: If an output is NaN or infinite, or no label has an area.
    """
    _refuse_not_finite(outputs)
    varied = [label for label in range(targets.shape[1]) if 0 < targets[:, label].sum() < len(targets)]
    if not varied:
        raise NotFiniteError("the area under the ROC curve needs a label that is 0 and 1 in the set")
    areas = [area_under_roc(targets[:, label].numpy(), outputs[:, label].numpy()) for label in varied]
    return 1.0 - sum(areas) / len(areas)


def one_minus_macro_map(outputs: Tensor, targets: Tensor) -> float:
    """1 - mean over labels of the average precision of each. (n, labels) logits, targets 0 or 1 -> [0, 1].

    A label that is never 1 in the set has no precision and is left out.

    Raises:
        NotFiniteError: If an output is NaN or infinite, or no label is ever 1.
    """
    _refuse_not_finite(outputs)
    present = [label for label in range(targets.shape[1]) if targets[:, label].sum() > 0]
    if not present:
        raise NotFiniteError("the average precision needs a label that is 1 in the set")
    precisions = [average_precision(targets[:, label].numpy(), outputs[:, label].numpy()) for label in present]
    return 1.0 - sum(precisions) / len(precisions)


def one_minus_position_auroc(outputs: Tensor, targets: Tensor) -> float:
    """1 - area under the ROC curve of all positions of the set taken together. Logits and targets 0 or 1 of one shape -> [0, 1].

    Positions whose target is NaN do not count.

    Raises:
        NotFiniteError: If an output is NaN or infinite, or all targets are the same.
    """
    _refuse_not_finite(outputs)
    counts = ~torch.isnan(targets)
    truth = targets[counts]
    if not 0 < truth.sum() < len(truth):
        raise NotFiniteError("the area under the ROC curve needs positions of both kinds in the set")
    return 1.0 - area_under_roc(truth.numpy(), outputs[counts].numpy())


def one_minus_position_auroc_of_signs(outputs: Tensor, targets: Tensor) -> float:
    """As `one_minus_position_auroc`, of logits cut to 0 and 1 at 0: 1 - (TPR + TNR) / 2, what the reference takes for the area.

    As there, positions that do not count enter with output and target 0.
    """
    _refuse_not_finite(outputs)
    counts = ~torch.isnan(targets)
    return one_minus_position_auroc(((outputs > 0) & counts).float(), torch.nan_to_num(targets))


def one_minus_r2(outputs: Tensor, targets: Tensor) -> float:
    """1 - R²: squared errors over squared deviations from the mean of the set, mean over values. (n, values) both -> [0, inf).

    Raises:
        NotFiniteError: If an output is NaN or infinite, or a value is the same in the whole set, for which R² is not defined.
    """
    _refuse_not_finite(outputs)
    true = targets.double()
    spread = (true - true.mean(0)).square().sum(0)
    if not (spread > 0).all():
        raise NotFiniteError("R² needs targets that differ in the set")
    return ((outputs.double() - true).square().sum(0) / spread).mean().item()


CONTACT = 8.0
"""Distance up to which two residues count as near, in Angstrom."""

LONG_RANGE = 24
"""Steps along the chain from one residue to the other, at least, for their pair to be of long range."""


def long_range_mae(outputs: Tensor, targets: Tensor) -> float:
    """MAE_8: mean absolute error of the distances of long-range pairs that are near in truth, per protein, then over proteins.

    Predictions are made symmetric and are 0.01 at least. Pairs are those with column - row >= 24 and a true distance of at most
    8 Angstrom; a protein without such pairs is left out (reference: `utils.py:173`).

    Args:
        outputs, targets: (n, 1, l, l) distances in Angstrom; NaN in the targets for what lies outside of a protein.

    Raises:
        NotFiniteError: If no protein has such a pair.
    """
    errors = []
    for predicted, true in zip(outputs[:, 0].double(), targets[:, 0].double(), strict=True):
        symmetric = ((predicted + predicted.T) / 2).clamp(min=0.01)
        pairs = torch.ones_like(true, dtype=torch.bool).triu(LONG_RANGE) & (true <= CONTACT)  # NaN is not <= 8
        if pairs.any():
            errors.append((symmetric - true)[pairs].abs().mean())
    if not errors:
        raise NotFiniteError(f"MAE_8 needs a pair of residues {LONG_RANGE} apart and within {CONTACT:g} Angstrom in the set")
    return torch.stack(errors).mean().item()


def _refuse_not_finite(outputs: Tensor) -> None:
    if not torch.isfinite(outputs).all():
        raise NotFiniteError("an output of the model is NaN or infinite")


SCORES: Mapping[str, Score] = {
    "1-accuracy": one_minus_accuracy,
    "1-auroc": one_minus_auroc,
    "1-macro-f1": one_minus_macro_f1,
    "1-mean-auroc": one_minus_mean_auroc,
    "1-macro-map": one_minus_macro_map,
    "1-position-auroc": one_minus_position_auroc,
    "1-position-auroc-of-signs": one_minus_position_auroc_of_signs,
    "1-r2": one_minus_r2,
    "mae-8": long_range_mae,
    "nrmse": mean_normalised_error,
    "relative-l2": mean_normalised_error,
}
