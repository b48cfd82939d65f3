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
    weights = class_weights(train_targets)

    def loss(outputs: Tensor, targets: Tensor) -> Tensor:
        return F.cross_entropy(outputs, targets, weight=weights.to(outputs))

    return loss


def class_weights(train_targets: Tensor) -> Tensor:
    """1 / share of each class in (n,) class ids, as (c,) float32; n for a class without samples."""
    counts = torch.bincount(train_targets).to(torch.float32)
    return counts.sum() / counts.clamp(min=1)


def binary_cross_entropy(positive_weight: float) -> Callable[[Tensor], Loss]:
    """Cross-entropy of logits and targets 0 or 1, mean over all that count; a 1 weighs `positive_weight`. Any shape; NaN does not count."""

    def make(train_targets: Tensor) -> Loss:
        def loss(outputs: Tensor, targets: Tensor) -> Tensor:
            counts = ~torch.isnan(targets)
            known = torch.where(counts, targets, torch.zeros_like(targets))
            weight = outputs.new_full((), positive_weight)  # filled there: a copy would wait for the device
            terms = F.binary_cross_entropy_with_logits(outputs, known, pos_weight=weight, reduction="none")
            return (terms * counts).sum() / counts.sum().clamp(min=1)

        return loss

    return make


def mean_squared_error(train_targets: Tensor) -> Loss:
    """Mean of squared errors over all values that count. Any shape; NaN targets do not count."""

    def loss(outputs: Tensor, targets: Tensor) -> Tensor:
        counts = ~torch.isnan(targets)
        known = torch.where(counts, targets, torch.zeros_like(targets))
        return ((outputs - known).square() * counts).sum() / counts.sum().clamp(min=1)

    return loss


def nrmse(train_targets: Tensor) -> Loss:
    """Mean over samples of rmse / rms(target): PDEBench's normalised error."""
    return lambda outputs, targets: normalised_errors(outputs, targets).mean()


def rmse(train_targets: Tensor) -> Loss:
    """Mean over samples of the root of the mean squared error of each. (n, ...) outputs and targets."""
    return lambda outputs, targets: ((outputs - targets).flatten(1).norm(dim=1) / targets[0].numel() ** 0.5).mean()


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
    "bce": binary_cross_entropy(1.0),
    "bce-weight-4": binary_cross_entropy(4.0),
    "bce-weight-10": binary_cross_entropy(10.0),
    "mse": mean_squared_error,
    "nrmse": nrmse,
    "rmse": rmse,
    "relative-l2": nrmse,
}
