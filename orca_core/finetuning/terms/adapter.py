"""What an adapter adds to fine-tuning: AdaLoRA's penalty, its ranks, and their state."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from orca_core.adapters.base import Adapter
from orca_core.finetuning.terms.base import Penalty, Start, Step, Term


class AdapterTerm(Term):
    """The adapter's own part in training.

    Args:
        adapter: In the model's body.
    """

    def __init__(self, adapter: Adapter) -> None:
        self.adapter = adapter

    def penalty(self, step: Step) -> Penalty:
        return Penalty(self.adapter.penalty())

    def after_step(self, step: int) -> None:
        self.adapter.after_step(step)

    def state(self) -> dict[str, Tensor]:
        return self.adapter.state()

    def load_state(self, tensors: Mapping[str, Tensor]) -> None:
        self.adapter.load_state(tensors)


def adapter_term(start: Start) -> AdapterTerm | None:
    """The term of `adapter`."""
    return AdapterTerm(start.model.adapter) if start.model.adapter else None
