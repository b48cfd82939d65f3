"""The GPUs of a simulated run: trials hold shares of them, and run out of memory if they need more than their share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from sweeper.planning.trials import PlannedTrial
from sweeper.running.nodes import Node
from sweeper.running.packing import CONTEXT_BYTES


@dataclass(frozen=True)
class _Place:
    """Where a trial runs: on which GPU, with which share of it."""

    gpu: int
    share: Fraction


class SimulatedGpus:
    """One machine with some GPUs. As in Ray, a trial is on one of them, and shares of a GPU add up to at most 1.

    Args:
        count: Number of GPUs.
        total_bytes: Memory of each.
        peak_of: The memory that a trial reserves while it trains, in bytes.

    Attributes:
        begun: (trial, share), in the order in which trials began.
    """

    def __init__(self, count: int, total_bytes: int, peak_of: Callable[[PlannedTrial], int]) -> None:
        self._count, self._total, self._peak_of = count, total_bytes, peak_of
        self._places: dict[str, _Place] = {}
        self.begun: list[tuple[str, Fraction]] = []

    def node(self, share: float) -> Node:
        """The machine, with as many slots as there are shares of this size."""
        return Node("gpu-node", "gpu-node", self._count * round(1 / share))

    def place(self, trial: PlannedTrial, share: float) -> bool:
        """Let a trial begin with a share of a GPU. False, and nothing happens, if no GPU has room for it."""
        asked = Fraction(1, round(1 / share))
        free = [gpu for gpu in range(self._count) if self.used(gpu) + asked <= 1]
        if free:
            self._places[trial.id] = _Place(max(free, key=self.used), asked)  # the fullest, so that others stay whole
            self.begun.append((trial.id, asked))
        return bool(free)

    def leave(self, trial_id: str) -> None:
        """Let a trial give its share back, if it has one."""
        self._places.pop(trial_id, None)

    def used(self, gpu: int) -> Fraction:
        """The share of a GPU that trials hold."""
        return sum((place.share for place in self._places.values() if place.gpu == gpu), Fraction(0))

    def runs_out(self, trial: PlannedTrial) -> bool:
        """Whether a running trial needs more memory than it may take."""
        share = self._places[trial.id].share
        return self._peak_of(trial) > (self._total if share == 1 else share * self._total - CONTEXT_BYTES)

    def worker(self, trial: PlannedTrial) -> dict[str, Any]:
        """What the process of a running trial tells of its memory."""
        return {"gpu_bytes": self._peak_of(trial), "gpu_total_bytes": self._total}
