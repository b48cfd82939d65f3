"""Counts the GPU time that the trials of a run have held."""

from __future__ import annotations

import math
from collections.abc import Callable


class GpuMeter:
    """Adds up the GPU time of trials, each from its start until it ends, pauses or is lost.

    Args:
        gpu_per_trial: Share of a GPU that each holds, >= 0.
        clock: Monotonic clock, in seconds.
    """

    def __init__(self, gpu_per_trial: float, clock: Callable[[], float]) -> None:
        self._gpu, self._clock = gpu_per_trial, clock
        self._started: dict[str, float] = {}  # running trial -> when it started
        self._sum_of_starts = 0.0  # over the running trials: reading the meter takes the same time for any number of them
        self._seconds = 0.0  # held by trials that run no more

    def start(self, trial_id: str) -> None:
        """Record that a trial runs from now on; without effect if it does already."""
        if trial_id not in self._started:
            self._started[trial_id] = self._clock()
            self._sum_of_starts += self._started[trial_id]

    def stop(self, trial_id: str) -> None:
        """Record that a trial runs no more; without effect if it does not."""
        if (started := self._started.pop(trial_id, None)) is not None:
            self._seconds += self._clock() - started
            self._sum_of_starts -= started

    @property
    def hours(self) -> float:
        """GPU-hours held so far, by running trials, too."""
        running = self._clock() * len(self._started) - self._sum_of_starts
        return self._gpu * (self._seconds + running) / 3600

    def seconds_until(self, hours: float) -> float:
        """Seconds until that many GPU-hours are used up, if the trials that run now go on; 0 if they are, infinite if none runs."""
        left, rate = hours - self.hours, self._gpu * len(self._started)
        return 0.0 if left <= 0 else left * 3600 / rate if rate else math.inf
