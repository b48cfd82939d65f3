"""Losses of a trial's process: how often a trial is started again.

A trial whose machine or process was lost is started again, from its last stored state. How often is bounded, so that a trial that kills its
process, for example by its memory, does not do so for ever. A loss is forgotten when the trial has come further than before: a long trial
on spot machines may lose many of them.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass

MAX_LOSSES = 3
"""How often in a row, without getting any further, a trial is started again. Errors of the trial itself are never retried within a run."""


@dataclass(frozen=True, slots=True)
class Loss:
    """The loss of a trial's process.

    Args:
        cause: `infrastructure`, `out-of-memory` (Ray ended the process since the machine ran out of memory) or `process-start`.
        error: What happened, in one line.
        node: Id of the node, if it is known.
        is_announced: Whether the machine was about to be taken away, so that the loss does not count.
    """

    cause: str = "infrastructure"
    error: str = "the worker's process or machine was lost"
    node: str | None = None
    is_announced: bool = False


PROCESS_LOST = Loss()
"""A loss of which nothing more is known."""


class Restarts:
    """Counts the losses of each trial since it last came further than before.

    Attributes:
        num_new: Number of rows with which trials came further than any attempt before.
    """

    def __init__(self) -> None:
        self.num_new = 0
        self._losses: Counter[str] = Counter()
        self._reported: Counter[str] = Counter()
        self._furthest: Counter[str] = Counter()

    def advance(self, trial_id: str, rows: int) -> None:
        """Record that a running trial has reported rows. Each attempt reports all rows from the beginning, reused ones included."""
        before = max(self._reported[trial_id], self._furthest[trial_id])
        self._reported[trial_id] += rows
        self.num_new += max(0, self._reported[trial_id] - before)
        if trial_id in self._losses and self._reported[trial_id] > self._furthest[trial_id]:
            del self._losses[trial_id]

    def start(self, trial_id: str) -> None:
        """Record that an attempt starts, or goes on after a pause."""
        self._furthest[trial_id] = max(self._furthest[trial_id], self._reported[trial_id])
        self._reported[trial_id] = 0

    def lose(self, trial_id: str, loss: Loss) -> bool:
        """Record a loss. Returns whether the trial should be started again."""
        self._furthest[trial_id] = max(self._furthest[trial_id], self._reported[trial_id])
        if not loss.is_announced:
            self._losses[trial_id] += 1
        return self._losses[trial_id] <= MAX_LOSSES

    def width(self, trial_id: str, fused: int) -> int:
        """How large a group a trial may be in (`finetune.fused`). One that was lost several times in a row may be what killed its process:
        it goes on among fewer others, and at last alone, so that the others come to their end."""
        losses = self._losses.get(trial_id, 0)
        return max(1, fused if losses <= 1 else math.isqrt(fused) if losses < MAX_LOSSES else 1)

    def forget(self, trial_id: str) -> None:
        """Forget a trial that has ended."""
        for counts in (self._losses, self._reported, self._furthest):
            counts.pop(trial_id, None)
