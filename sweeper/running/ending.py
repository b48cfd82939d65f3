"""Why and how a run ends: at a request to stop, at a limit of its budget, or because it cannot go on."""

from __future__ import annotations

import math
from collections.abc import Callable

from orca_core.patience import Patience
from sweeper.running.meter import GpuMeter
from sweeper.running.outcome import Outcome
from sweeper.space.space import SearchSpace

LAST_ROWS_S = 30.0
"""How long to retry writing the last rows of a run that was ended, in seconds."""


class Ending:
    """How a run ends, once it begins to.

    Args:
        space: Its budget says when the run ends.
        patience: Waits for storage that is out of reach.
        meter: Counts the GPU time of the run.
        clock: Monotonic clock, in seconds.

    Attributes:
        reason: Why the run ended early, in one line; empty if it did not.
        cuts_short: Whether a trial was cut short by the end.
    """

    def __init__(self, space: SearchSpace, patience: Patience, meter: GpuMeter, clock: Callable[[], float]) -> None:
        self.reason = ""
        self.cuts_short = False
        self._space, self._patience, self._meter, self._clock = space, patience, meter, clock
        self._deadline = clock() + 3600 * (space.budget.hours or math.inf)
        self._how: Outcome | None = None
        self._is_closed = False

    @property
    def has_begun(self) -> bool:
        """Whether the run should end as soon as possible."""
        return self._how is not None

    def begin(self) -> None:
        """End the run at the next step, unless it ends already."""
        self._how = self._how or Outcome.STOPPED

    def stop(self) -> None:
        """End the run at the next step, and wait for storage no longer than a moment. May be called from a signal handler, or from
        another thread."""
        self.begin()
        self._patience.stop(after_s=LAST_ROWS_S)

    def fail(self, outcome: Outcome, reason: str) -> None:
        """End the run, since no trial could come to its end any more."""
        self._how, self.reason = outcome, reason

    def lose_machines(self) -> None:
        """End the run: Ray itself is gone."""
        self.fail(Outcome.LOST, "no node of Ray's is left, not even its head")

    def give_up_waiting(self, why: str) -> None:
        """End the run: no machine came that could run a trial."""
        self._how, self.reason = self._how or Outcome.NO_WORKER, self.reason or why

    def check_deadline(self) -> None:
        """End the run if its time budget is used up, or if storage was out of reach for too long."""
        gpu_hours = self._space.budget.gpu_hours
        if self._clock() >= self._deadline or (gpu_hours is not None and self._meter.hours >= gpu_hours):
            self.stop()
        if given_up := self._patience.given_up:
            self.fail(Outcome.STORE_LOST, given_up)
            self._patience.stop(after_s=LAST_ROWS_S)

    def note(self, num_cut: int) -> str:
        """What is said when the run begins to end, if it would otherwise be silent for a while; empty if it would not.

        Args:
            num_cut: How many trials are cut short by the end.
        """
        if self._how is not Outcome.STORE_LOST:
            return ""
        are = "trial is" if num_cut == 1 else "trials are"
        return (
            f"{self._space.name}: storage has been out of reach for as long as budget.storage_minutes "
            f"({self._space.budget.storage_minutes:g}) allows. The sweep ends: {num_cut} {are} interrupted. "
            "Writing the last rows is tried for up to a minute more."
        )

    def close(self) -> None:
        """Record that the run is over."""
        self._is_closed = True

    def outcome(self, *, is_work_left: bool) -> Outcome:
        """The state of the run, given whether trials wait that were not started."""
        if not self._is_closed:
            return Outcome.RUNNING
        if self._how not in (None, Outcome.STOPPED):
            return self._how
        # A request to stop that came after the last trial had nothing to stop: the sweep is finished.
        return Outcome.STOPPED if self.cuts_short or is_work_left else Outcome.FINISHED
