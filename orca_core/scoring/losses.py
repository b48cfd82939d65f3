"""Task losses. Shapes: n samples, c classes; dense outputs and targets (n, channels, ...)."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor
from torch.nn import functional as F

Loss = Callable[[Tensor, Tensor], Tensor]


def cross_entropy(train_targets: Tensor) -> Loss:
    """Cross-entropy of (n, c) logits and (n,) class ids, mean over samples."""
    return F.cross_entropy


def balanced_cross_entropy(train_targets: Tensor) -> Loss:
    """Cross-entropy weighted by 1 / class share of the training set, weighted mean over samples: ORCA's loss for OpenML tables."""
    counts = torch.bincount(train_targets).to(torch.float32)
    weights = counts.sum() / counts.clamp(min=1)

    def loss(outputs: Tensor, targets: Tensor) -> Tensor:
        return F.cross_entropy(outputs, targets, weight=weights.to(outputs))

    return loss


def nrmse(train_targets: Tensor) -> Loss:
    """Mean over samples of rmse / rms(target): PDEBench's normalised error."""
    return lambda outputs, targets: normalised_errors(outputs, targets).mean()


def normalised_errors(outputs: Tensor, targets: Tensor) -> Tensor:
    """(n,) norms of the error over norms of the target, per sample.

    Root mean squares give the same ratio as norms, so this is both PDEBench's nRMSE and the relative L2 of Li et al. 2021.

    >>> normalised_errors(torch.tensor([[[1.0, 0.0]]]), torch.tensor([[[3.0, 4.0]]])).item() * 5
    4.4721360206604
    """
    difference = (outputs - targets).flatten(1)
    return difference.norm(dim=1) / targets.flatten(1).norm(dim=1).clamp(min=1e-12)


LOSSES: Mapping[str, Callable[[Tensor], Loss]] = {
    "cross-entropy": cross_entropy,
    "balanced-cross-entropy": balanced_cross_entropy,
    "nrmse": nrmse,
    "relative-l2": nrmse,
}
