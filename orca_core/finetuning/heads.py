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
    weight, bias = weights["linear.weight"], weights["linear.bias"]
    log_p = torch.baddbmm(bias.unsqueeze(1), x, weight.transpose(1, 2)).log_softmax(2)
    targets = torch.zeros_like(log_p).scatter_(2, y.unsqueeze(2), 1.0)
    if smoothing is not None:
        share = smoothing.view(-1, 1, 1)
        targets = targets * (1 - share) + share / log_p.shape[2]
    losses = (targets * log_p).sum((1, 2)).div_(-x.shape[1])
    by_logits = log_p.exp_().sub_(targets).div_(x.shape[1])
    return losses, {"linear.weight": torch.bmm(by_logits.transpose(1, 2), x), "linear.bias": by_logits.sum(1)}
