"""How long trials take on a number of slots: the queue of a run, in simulated time."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator, Mapping, Sequence

from orca_core.addresses import Address
from orca_core.stages import Stage
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
    running: list[tuple[float, int, list[PlannedTrial], Iterator[float]]] = []  # (next event, number of the start, trials, further work)
    now, started = 0.0, 0
    while True:
        while queue.num_groups < slots and (first := queue.next()) is not None:
            group = [first, *queue.beside(first, lambda trial: trial.config.finetune.fused)]
            started += 1
            heapq.heappush(running, (now, started, group, _work_of(group, seconds, queue, stored, keep_at)))
        if not running:
            return now
        now, number, group, work = heapq.heappop(running)
        if (step := next(work, None)) is None:
            for trial in group:
                if queue.is_preparing(trial.id):
                    queue.complete_preparing(trial.id)
                else:
                    queue.end(trial.id)
        else:
            heapq.heappush(running, (now + step, number, group, work))


def _work_of(
    group: Sequence[PlannedTrial], seconds: Seconds, queue: TrialQueue, stored: set[Address], keep_at: Mapping[str, Sequence[int]]
) -> Iterator[float]:
    """The work of a group, most often one trial. A group that is not full takes as long as a full one."""
    padding = max(1.0, group[0].config.finetune.fused / len(group))

    def padded(trial: PlannedTrial, stage: Stage) -> float:
        return seconds(trial, stage) * (padding if stage.kind == "finetune" else 1.0)

    for trial in group:
        stages = trial.stages
        if queue.is_preparing(trial.id):
            stages = stages[: next(number for number, stage in enumerate(stages) if stage.kind == "finetune")]
        yield from _work(trial, stages, padded, queue, stored, keep_at)


def _work(
    trial: PlannedTrial,
    stages: Iterable[Stage],
    seconds: Seconds,
    queue: TrialQueue,
    stored: set[Address],
    keep_at: Mapping[str, Sequence[int]],
) -> Iterator[float]:
    """The work of a trial for some of its stages in steps, as seconds. What others wait for is published at the end of a step."""
    for stage in stages:
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
