"""From the losses of a batch to its gradients: the task's loss and the terms' penalties, summed or as a term wants them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from orca_core.finetuning.accumulation import Accumulation
from orca_core.finetuning.terms.base import Term


@dataclass(frozen=True)
class Losses:
    """Of one batch.

    Args:
        task: The task's loss, smoothed.
        penalties: What else is minimised, by the term it comes from.
        columns: What terms report.
    """

    task: Tensor
    penalties: Mapping[Term, Tensor | float]
    columns: Mapping[str, Tensor]


def add_gradients(losses: Losses, accumulation: Accumulation, share: float, parameters: Sequence[nn.Parameter]) -> Mapping[str, Tensor]:
    """Add the gradients of a batch; returns the columns of a term that treats its gradient in its own way.

    Args:
        losses: Of the batch.
        accumulation: Where gradients are added.
        share: Of the batch in its group's samples.
        parameters: Those that train.
    """
    total = losses.task + sum(losses.penalties.values()) if losses.penalties else losses.task
    splitting = next((term for term in losses.penalties if term.splits_gradient), None)
    if splitting is None:
        accumulation.backward(total, share, parameters)
        return {}
    parts = losses.task, torch.as_tensor(losses.penalties[splitting])
    task, own = (accumulation.gradient(part, share, parameters) for part in parts)
    combined = splitting.combine(task, own, parameters)
    if combined.gradients is None:
        accumulation.backward(total, share, parameters)
    else:
        others = sum(value for term, value in losses.penalties.items() if term is not splitting)
        accumulation.add(combined.gradients, others, share, parameters)
    return combined.columns
