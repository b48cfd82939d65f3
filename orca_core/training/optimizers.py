"""Optimisers, their schedule, and their state as named tensors."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn


def make_optimizer(
    name: str,
    parameters: Iterable[nn.Parameter] | Iterable[dict[str, Any]],
    *,
    lr: float,
    weight_decay: float,
    momentum: float,
    betas: tuple[float, float],
) -> torch.optim.Optimizer:
    """SGD, Adam (L2 penalty) or AdamW (decoupled weight decay), as the published configurations name them.

    Adam takes one kernel a step; the fused SGD of torch 2.14 fails where momentum has begun for some parameters only.
    """
    if name == "sgd":
        return torch.optim.SGD(parameters, lr, momentum=momentum, weight_decay=weight_decay)
    kind = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[name]
    return kind(parameters, lr, betas=betas, weight_decay=weight_decay, fused=True)


def warmup_decay(epochs: float, warmup_epochs: float, decay_epochs: float | None) -> float:
    """Factor on the learning rate: linear from 0 to 1 at `warmup_epochs`, then linear to 0 at `decay_epochs`, and 0 after it.

    Args:
        epochs: Position, in epochs since the schedule started; the end of the step it is for, so that no step has rate 0.
        warmup_epochs: Length of the warm-up.
        decay_epochs: End of the decay; None for a constant rate after the warm-up.

    >>> [warmup_decay(t, 2, 6) for t in (1, 2, 4, 6, 7)]
    [0.5, 1.0, 0.5, 0.0, 0.0]
    """
    if epochs < warmup_epochs:
        return epochs / warmup_epochs
    if decay_epochs is None:
        return 1.0
    return max(0.0, (decay_epochs - epochs) / (decay_epochs - warmup_epochs))


def warmup_cosine(epochs: float, warmup_epochs: float, decay_epochs: float | None) -> float:
    """As `warmup_decay`, but down along half a period of a cosine (Loshchilov & Hutter 2017, SGDR, without its restarts).

    >>> [round(warmup_cosine(t, 2, 6), 3) for t in (1, 2, 3, 4, 6, 7)]
    [0.5, 1.0, 0.854, 0.5, 0.0, 0.0]
    """
    if epochs < warmup_epochs or decay_epochs is None:
        return warmup_decay(epochs, warmup_epochs, decay_epochs)
    share = min(1.0, (epochs - warmup_epochs) / (decay_epochs - warmup_epochs))
    return (1 + math.cos(math.pi * share)) / 2


def reference_warmup_decay(batch: int, per_epoch: int, warmup_epochs: float, decay_epochs: float | None) -> float:
    """The reference's `WarmupLR` (`task_configs.py:253`): counts batches whatever `accum` is, and goes on below 0 after the decay.

    Args:
        batch: Number of the batch since the schedule started, from 0: after a warm-up's start the first batch has rate 0.
        per_epoch: Batches of an epoch.
        warmup_epochs, decay_epochs: As in `warmup_decay`, rounded down to whole batches.

    >>> [reference_warmup_decay(batch, 10, 1, 3) for batch in (0, 5, 10, 20, 30, 35)]
    [0.0, 0.5, 1.0, 0.5, 0.0, -0.25]
    """
    warmup = int(warmup_epochs * per_epoch)
    if batch < warmup:
        return batch / warmup
    if decay_epochs is None:
        return 1.0
    end = int(decay_epochs * per_epoch)
    return (end - batch) / max(1, end - warmup)


def step_decay(epoch: int, steps: Iterable[int], factor: float = 0.2) -> float:
    """Factor on the learning rate in `epoch` (the first is 1): multiplied by `factor` after each of `steps` epochs.

    >>> [step_decay(epoch, (20, 40)) for epoch in (1, 20, 21)]
    [1.0, 1.0, 0.2]
    """
    return float(factor ** sum(epoch > step for step in steps))


def optimizer_state(optimizer: torch.optim.Optimizer, module: nn.Module) -> dict[str, Tensor]:
    """State of an optimiser over a module's parameters, by `optimizer.<parameter>/<entry>`."""
    return {
        f"optimizer.{name}/{entry}": value
        for name, parameter in module.named_parameters()
        for entry, value in optimizer.state.get(parameter, {}).items()
        if value is not None
    }


def load_optimizer_state(optimizer: torch.optim.Optimizer, module: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Put back what `optimizer_state` gave; parameters without an entry start afresh."""
    parameters = dict(module.named_parameters())
    state: dict[Tensor, dict[str, Any]] = {}
    for key, value in tensors.items():
        if key.startswith("optimizer."):
            name, _, entry = key.removeprefix("optimizer.").rpartition("/")
            state.setdefault(parameters[name], {})[entry] = value.to(parameters[name].device, copy=True)
    optimizer.state.clear()
    optimizer.state.update(state)
