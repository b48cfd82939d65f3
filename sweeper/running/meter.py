"""Counts the GPU time that the trials of a run have held."""

from __future__ import annotations

import math
from collections.abc import Callable


class GpuMeter:
    """Adds up the GPU time of trials, each from its start until it ends, pauses or is lost.

    Args:
        clock: Monotonic clock, in seconds.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._started: dict[str, tuple[float, float]] = {}  # running trial -> when it started, and the share of a GPU that it holds
        self._gpus, self._gpus_times_starts = 0.0, 0.0  # sums over these: reading the meter takes the same time for any number of them
        self._gpu_seconds = 0.0  # held by trials that run no more

    def start(self, trial_id: str, gpu: float) -> None:
        """Record that a trial holds a share of a GPU from now on, >= 0; without effect if it holds one already."""
        if trial_id not in self._started:
            self._started[trial_id] = (self._clock(), gpu)
            self._add(trial_id, 1)

    def stop(self, trial_id: str) -> None:
        """Record that a trial runs no more; without effect if it does not."""
        if trial_id in self._started:
            self._add(trial_id, -1)
            started, gpu = self._started.pop(trial_id)
            self._gpu_seconds += gpu * (self._clock() - started)
            if not self._started:
                self._gpus = self._gpus_times_starts = 0.0  # what rounding has left

    def _add(self, trial_id: str, sign: int) -> None:
        started, gpu = self._started[trial_id]
        self._gpus += sign * gpu
        self._gpus_times_starts += sign * gpu * started

    @property
    def gpus(self) -> float:
        """GPUs that trials hold now."""
        return self._gpus

    @property
    def hours(self) -> float:
        """GPU-hours held so far, by running trials, too."""
        return (self._gpu_seconds + self._clock() * self._gpus - self._gpus_times_starts) / 3600

    def seconds_until(self, hours: float) -> float:
        """Seconds until that many GPU-hours are used up, if the trials that run now go on; 0 if they are, infinite if none runs."""
        left, rate = hours - self.hours, self._gpus
        return 0.0 if left <= 0 else left * 3600 / rate if rate else math.inf
