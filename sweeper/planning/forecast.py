"""How long trials take on a number of slots: the queue of a run, in simulated time."""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Mapping, Sequence

from orca_core.addresses import Address
from sweeper.planning.order import Seconds
from sweeper.planning.queue import TrialQueue
from sweeper.planning.trials import PlannedTrial


def forecast(trials: Sequence[PlannedTrial], seconds: Seconds, slots: int, keep_at: Mapping[str, Sequence[int]] = {}) -> float:
    """Seconds until all trials have ended, each stage that several need being computed once.

    Args:
        trials: In the order in which they start.
        seconds: Estimates durations.
        slots: Number of trials that run at once, at least 1.
        keep_at: Folder of a trajectory -> epochs at which trials leave it (`Plan.keep_at`).
    """
    queue, stored = TrialQueue(trials), set[Address]()
    running: list[tuple[float, int, PlannedTrial, Iterator[float]]] = []  # (next event, number of the start, trial, its further work)
    now, started = 0.0, 0
    while True:
        while queue.num_running < slots and (trial := queue.next()) is not None:
            started += 1
            heapq.heappush(running, (now, started, trial, _work(trial, seconds, queue, stored, keep_at)))
        if not running:
            return now
        now, number, trial, work = heapq.heappop(running)
        if (step := next(work, None)) is None:
            queue.end(trial.id)
        else:
            heapq.heappush(running, (now + step, number, trial, work))


def _work(
    trial: PlannedTrial, seconds: Seconds, queue: TrialQueue, stored: set[Address], keep_at: Mapping[str, Sequence[int]]
) -> Iterator[float]:
    """The work of a trial in steps, as seconds. What others wait for is published at the end of a step."""
    for stage in trial.stages:
        if stage.address not in stored:
            length = seconds(trial, stage)
            if stage.has_epochs:
                kept = [epoch for epoch in keep_at.get(stage.folder, ()) if stage.start < epoch < stage.end]
                begun = max((epoch for epoch in kept if stage.address_at(epoch) in stored), default=stage.start)
                for epoch in (epoch for epoch in kept if epoch > begun):
                    yield length * (epoch - begun) / (stage.end - stage.start)
                    begun = epoch
                    stored.add(stage.address_at(epoch))
                    queue.publish(trial.id, stage.kind, stage.phase, epoch, stage.fold)
                length *= (stage.end - begun) / (stage.end - stage.start)
            yield length
            stored.add(stage.address)
        queue.publish(trial.id, stage.kind, stage.phase, fold=stage.fold)
