"""How batches become optimiser steps: what a step takes of its group of batches, scaled in fp16, clipped."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from orca_core.settings import Settings


class Accumulation(ABC):
    """Gradients of the batches of a group, and the optimiser step that follows.

    Args:
        settings: `finetune.accum` and `finetune.clip`.
        scaler: Multiplies the loss in fp16, where small gradients vanish, and divides the gradients again before they are used.
    """

    def __init__(self, settings: Settings, scaler: torch.amp.GradScaler) -> None:
        self.scaler = scaler
        self.accum: int = settings["finetune.accum"]
        self.clip: float | None = settings["finetune.clip"]

    @abstractmethod
    def steps(self, group_sizes: Sequence[int]) -> int:
        """Number of optimiser steps of an epoch, from the numbers of batches of its groups."""

    @abstractmethod
    def backward(self, loss: Tensor, share: float, parameters: Sequence[nn.Parameter]) -> None:
        """Add the gradient of one batch.

        Args:
            loss: Mean over the batch.
            share: Of the batch in its group's samples.
            parameters: Those that train.
        """

    @abstractmethod
    def _weight(self, share: float) -> float:
        """Of a batch's mean in the step."""

    def gradient(self, loss: Tensor, share: float, parameters: Sequence[nn.Parameter]) -> list[Tensor | None]:
        """The gradient that `backward` would add for a part of a loss, which is kept for more: weighted, and scaled in fp16."""
        if not loss.requires_grad:
            return [None] * len(parameters)
        return list(torch.autograd.grad(self.scaler.scale(loss * self._weight(share)), parameters, retain_graph=True, allow_unused=True))

    def add(self, gradients: Sequence[Tensor | None], loss: Tensor | float, share: float, parameters: Sequence[nn.Parameter]) -> None:
        """Add a gradient made of what `gradient` returned, and that of the rest of the batch's loss."""
        for parameter, more in zip(parameters, gradients, strict=True):
            if more is not None:
                parameter.grad = more if parameter.grad is None else parameter.grad + more
        if isinstance(loss, Tensor) and loss.requires_grad:
            self.backward(loss, share, parameters)
        else:
            self._after_batch(parameters)

    def _after_batch(self, parameters: Sequence[nn.Parameter]) -> None:
        """Do what follows the gradients of every batch."""
        return

    @abstractmethod
    def step(self, group_size: int, optimizer: torch.optim.Optimizer, parameters: Sequence[nn.Parameter]) -> bool:
        """Take the optimiser step of a group of batches; False if the group is dropped instead."""


class MeanOverSamples(Accumulation):
    """A step takes the mean over the samples of its group."""

    def steps(self, group_sizes: Sequence[int]) -> int:
        return len(group_sizes)

    def _weight(self, share: float) -> float:
        return share

    def backward(self, loss: Tensor, share: float, parameters: Sequence[nn.Parameter]) -> None:
        self.scaler.scale(loss if share == 1 else loss * share).backward()

    def step(self, group_size: int, optimizer: torch.optim.Optimizer, parameters: Sequence[nn.Parameter]) -> bool:
        if parameters:
            if self.clip is not None:
                self.scaler.unscale_(optimizer)
                nn.utils.clip_grad_norm_(parameters, self.clip)
            self.scaler.step(optimizer)
            self.scaler.update()
        return True


class SumOfMeans(Accumulation):
    """As the reference: a step takes the sum of the batches' means, clipped after every batch; an incomplete group is dropped."""

    def steps(self, group_sizes: Sequence[int]) -> int:
        return sum(size == self.accum for size in group_sizes)

    def _weight(self, share: float) -> float:
        return 1.0

    def backward(self, loss: Tensor, share: float, parameters: Sequence[nn.Parameter]) -> None:
        self.scaler.scale(loss).backward()
        self._after_batch(parameters)

    def _after_batch(self, parameters: Sequence[nn.Parameter]) -> None:
        if self.clip is not None:
            # Gradients are summed while still scaled for fp16, so the limit is scaled as well.
            nn.utils.clip_grad_norm_(parameters, self.clip * self.scaler.get_scale())

    def step(self, group_size: int, optimizer: torch.optim.Optimizer, parameters: Sequence[nn.Parameter]) -> bool:
        if group_size < self.accum:
            return False
        if parameters:
            self.scaler.step(optimizer)
            self.scaler.update()
        return True


def make_accumulation(settings: Settings, scaler: torch.amp.GradScaler) -> Accumulation:
    """The accumulation that `finetune.accumulation` names."""
    kinds = {"mean": MeanOverSamples, "sum": SumOfMeans}
    return kinds[settings["finetune.accumulation"]](settings, scaler)
