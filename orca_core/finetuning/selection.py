"""Which epoch of fine-tuning is the best one, and its weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, Self

import torch
from torch import Tensor

from orca_core.config.knobs import TrialConfig
from orca_core.rows import EpochRow
from orca_core.training.state import pack, unpack


@dataclass(frozen=True)
class Selection:
    """The rule by which an epoch is the best one.

    Args:
        split: Whose error decides.
        ties: Which of several epochs of the same lowest error is taken.
    """

    split: Literal["valid", "test"]
    ties: Literal["earliest", "latest"] = "earliest"

    @classmethod
    def of(cls, config: TrialConfig) -> Self:
        """The rule of a trial."""
        return cls(config.selection, config.selection_ties)

    @property
    def name(self) -> str:
        """What a trajectory's state calls the best weights by this rule: trials that share the state may differ in the rule."""
        return f"best-{self.split}" if self.ties == "earliest" else f"best-{self.split}-{self.ties}"

    def error(self, row: EpochRow) -> float:
        """The error that decides."""
        error: float = row.cells()[f"{self.split}_error"]
        return error

    def prefers(self, error: float, best: float) -> bool:
        """Whether a later epoch of some error is better than the best one so far."""
        return error < best or (self.ties == "latest" and error == best)


@dataclass(frozen=True)
class BestWeights:
    """Trained parameters of the best epoch so far.

    Args:
        epoch: After which they were taken.
        error: On the selection split.
        tensors: By the parameter's name; on the CPU.
    """

    epoch: int
    error: float
    tensors: Mapping[str, Tensor]

    def state(self, selection: Selection) -> dict[str, Tensor]:
        """For a trajectory's state."""
        at = torch.tensor([self.epoch, self.error], dtype=torch.float64)
        return pack(selection.name, self.tensors) | {f"{selection.name}-at": at}

    @classmethod
    def from_state(cls, selection: Selection, state: Mapping[str, Tensor]) -> BestWeights | None:
        """What `state` put into a trajectory's state; None if there is none by this rule."""
        at = state.get(f"{selection.name}-at")
        return None if at is None else cls(int(at[0]), float(at[1]), unpack(selection.name, state))
