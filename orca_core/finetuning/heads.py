"""The step of many linear heads on features that are computed once: its gradient is written out, which is faster than autograd."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from orca_core.model.predictor import Classifier
from orca_core.tasks import TaskData


def is_plain_head(module: nn.Module, loss: str, data: TaskData) -> bool:
    """Whether a module is a linear layer on features, with the cross-entropy as its loss.

    Args:
        module: What trains.
        loss: Name of the task's loss.
        data: The task's data, by whose `decode` outputs may pass before the loss.
    """
    return is_linear_head(module) and loss == "cross-entropy" and data.decode is None


def is_linear_head(module: nn.Module) -> bool:
    """Whether a module is a linear layer on features."""
    return isinstance(module, Classifier) and not module.pools_late and isinstance(module.hidden, nn.Identity)


def head_gradient(weights: Mapping[str, Tensor], x: Tensor, y: Tensor, smoothing: Tensor | None) -> tuple[Tensor, dict[str, Tensor]]:
    """Cross-entropy of linear heads and its gradient: for m heads, n samples, d features, c classes.

    With targets q, one-hot or smoothed, and p = softmax(x W' + b), the loss of a sample is -sum q log p, and its gradient by the logits
    p - q.

    Args:
        weights: `linear.weight` (m, c, d) and `linear.bias` (m, c).
        x: (m, n, d).
        y: (m, n) classes.
        smoothing: (m,) shares of the uniform distribution in the targets; None = 0.

    Returns:
        (m,) mean losses, and the gradients by name, of the shape of the weights.
    """
    log_p = _log_p(weights, x)
    samples, classes = x.shape[1], y.unsqueeze(1)
    losses = log_p.gather(1, classes).sum((1, 2)).div_(-samples)
    if smoothing is None:
        by_logits = log_p.exp_().scatter_add_(1, classes, _constant(classes, -1.0))
    else:
        share = smoothing.view(-1, 1, 1)
        losses = losses * (1 - smoothing) - smoothing * log_p.mean((1, 2))
        by_logits = log_p.exp_().sub_(share / log_p.shape[1]).scatter_add_(1, classes, (share - 1).expand(classes.shape))
    by_logits.div_(samples)
    return losses, {"linear.weight": torch.bmm(by_logits, x), "linear.bias": by_logits.sum(2)}


def head_scores(weights: Mapping[str, Tensor], x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Cross-entropy of linear heads, and how many samples have a largest logit that is not their class. Shapes as of `head_gradient`.

    Returns:
        (m,) sums of losses in float64, and (m,) numbers of samples.
    """
    log_p, classes = _log_p(weights, x), y.unsqueeze(1)
    return log_p.gather(1, classes).double().sum((1, 2)).neg_(), (log_p.max(1).indices != y).sum(1)


def cross_entropies(outputs: Tensor, y: Tensor, smoothing: Tensor | None) -> Tensor:
    """(m,) mean cross-entropies of (m, n, c) logits of m models to (m, n) classes, smoothed as in `head_gradient`."""
    log_p = outputs.transpose(1, 2).contiguous().log_softmax(1)
    losses = log_p.gather(1, y.unsqueeze(1)).mean((1, 2)).neg()
    return losses if smoothing is None else losses * (1 - smoothing) - smoothing * log_p.mean((1, 2))


def _log_p(weights: Mapping[str, Tensor], x: Tensor) -> Tensor:
    """(m, c, n) logarithms of probabilities. Samples last: over a short last axis torch's softmax takes 20 times as long."""
    return torch.baddbmm(weights["linear.bias"].unsqueeze(2), weights["linear.weight"], x.transpose(1, 2)).log_softmax(1)


def _constant(like: Tensor, value: float) -> Tensor:
    return torch.tensor(value).expand(like.shape)
