"""The processes of a run's trials: since when each is silent, what it holds of a GPU, how far it came and how often it was lost.

Trials of a group share a process; each counts by itself here.
"""

from __future__ import annotations

from collections.abc import Callable

from sweeper.running.losses import Loss, Restarts
from sweeper.running.meter import GpuMeter

OVERDUE_GRACE_S = 30.0
"""Seconds for which a trial beyond its time limit may be silent before its process is ended: if it reports, it can store its state."""


class Processes:
    """The trials that have a process now, and the losses of those that had one.

    Args:
        trial_minutes: The time limit of each trial; None = there is none.
        seconds: For how many seconds a trial has run, earlier attempts left out.
        clock: Monotonic clock, in seconds.

    Attributes:
        meter: Counts the GPU time of the trials.
        hung: Trials that are over their time limit, and whose process has to be ended since they do not report; see `find_hung`.
    """

    def __init__(self, trial_minutes: float | None, seconds: Callable[[str], float], clock: Callable[[], float]) -> None:
        self.meter = GpuMeter(clock)
        self.hung: frozenset[str] = frozenset()
        self._trial_minutes, self._seconds, self._clock = trial_minutes, seconds, clock
        self._restarts = Restarts()
        self._reports: dict[str, float] = {}  # trial that runs -> when it last reported, or started
        self._gpu_shares: dict[str, float] = {}  # trial -> share of a GPU that its process holds, or held last

    @property
    def count(self) -> int:
        """How many trials have a process now."""
        return len(self._reports)

    @property
    def num_new_rows(self) -> int:
        """Number of rows with which trials came further than any attempt before."""
        return self._restarts.num_new

    def start(self, trial_id: str, gpu: float) -> None:
        """Record that a process begins a trial, or goes on with it, and which share of a GPU it holds."""
        self._reports[trial_id] = self._clock()
        self._gpu_shares[trial_id] = gpu
        self._restarts.start(trial_id)
        self.meter.start(trial_id, gpu)

    def report(self, trial_id: str, rows: int) -> None:
        """Record that a trial has reported so many rows."""
        self._reports[trial_id] = self._clock()
        self._restarts.advance(trial_id, rows)

    def lose(self, trial_id: str, loss: Loss) -> bool:
        """Record that the process of a trial was lost. Returns whether the trial should be started again."""
        return self._restarts.lose(trial_id, loss)

    def stop(self, trial_id: str) -> None:
        """Record that a trial runs no more, for now or for good; without effect if it does not run."""
        self._reports.pop(trial_id, None)
        self.meter.stop(trial_id)

    def forget(self, trial_id: str) -> None:
        """Record that a trial has ended for good."""
        self.stop(trial_id)
        self._gpu_shares.pop(trial_id, None)
        self._restarts.forget(trial_id)
        self.hung -= {trial_id}

    def gpu(self, trial_id: str) -> float | None:
        """The share of a GPU that the process of a trial holds, or held last; None if it had none."""
        return self._gpu_shares.get(trial_id)

    def largest_group(self, trial_id: str, fused: int) -> int:
        """How many trials may share the process of a trial, itself included, of those that `finetune.fused` allows."""
        return self._restarts.width(trial_id, fused)

    # ------------------------------------------------------------------------------------------------------------ silence

    def silent(self, minutes: float) -> list[tuple[str, float]]:
        """The running trials that have not reported for so many minutes, and for how many seconds."""
        now = self._clock()
        return [(trial_id, now - at) for trial_id, at in self._reports.items() if now - at >= minutes * 60]

    def is_overdue(self, trial_id: str, by_s: float = 0.0) -> bool:
        """Whether a trial has run longer than its time limit, by more than so many seconds."""
        return self._trial_minutes is not None and self._seconds(trial_id) > self._trial_minutes * 60 + by_s

    def find_hung(self) -> None:
        """Find the trials that are over their time limit and will not notice, since they do not report; see `hung`."""
        if self._trial_minutes is not None:
            quiet = self.silent(OVERDUE_GRACE_S / 60)
            self.hung = frozenset(trial_id for trial_id, _ in quiet if self.is_overdue(trial_id, by_s=OVERDUE_GRACE_S))
