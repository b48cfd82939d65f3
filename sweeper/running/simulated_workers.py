"""What workers do for trials, in simulated time: they report what real ones would, from a store in memory."""

from __future__ import annotations

import math
from collections.abc import Callable, Generator
from dataclasses import dataclass, replace
from random import Random
from typing import Any

from orca_core.rows import EpochRow, Row, StageRow
from orca_core.stages import Stage
from sweeper.planning.trials import PlannedTrial
from sweeper.running.job import PAUSED, TrialJob
from sweeper.running.simulated_store import SimulatedStages

EPOCH_S = {"pretrain": 3.0, "source": 2.0, "align": 1.0, "adapt": 2.0, "finetune": 4.0}
"""Mean seconds per epoch of a stage; for `source`, of the complete stage."""

_Work = Generator[tuple[float, "Row | _Due | None"], None, None]
"""What a worker does for a trial: seconds until its next report, and the row reported."""


GroupWork = Generator[tuple[float, PlannedTrial, "Row | dict[str, Any] | None"], None, None]
"""What it does for a group: also whose report it is, and of each trial at last how it ends."""


@dataclass(frozen=True)
class _Due:
    """A member of a group waits for the others before an epoch of fine-tuning."""

    epoch: int


STORED_AFTER_S = 0.2
"""Seconds from the row of a stage's last epoch until its state is stored."""


class SimulatedWorkers:
    """The workers of a run.

    Args:
        job_of: What a worker is told of a trial.
        store_of: The stage store that a trial uses.
        error_of: The error of a trial after an epoch of fine-tuning; None = the trial fails there.
        random: Decides how long an epoch takes.

    Attributes:
        computing: Id -> folder of the stage that the trial's worker is computing now.
    """

    def __init__(
        self,
        job_of: Callable[[PlannedTrial], TrialJob],
        store_of: Callable[[PlannedTrial], SimulatedStages],
        error_of: Callable[[PlannedTrial, int], float | None],
        random: Random,
    ) -> None:
        self.computing: dict[str, str] = {}
        self._job_of, self._store_of, self._error_of, self._random = job_of, store_of, error_of, random

    def work(self, group: list[PlannedTrial]) -> GroupWork:
        """The work of a worker for a group, as (seconds until its next report, whose it is, the row reported or how the trial ends).

        Args:
            group: Its members. Those that have ended are removed by whoever takes in the reports.
        """
        works = {trial.id: (self._work(trial), self._job_of(trial).limit) for trial in group}
        while group:
            for trial in list(group):
                work, limit = works[trial.id]
                for seconds, step in work:
                    if isinstance(step, _Due):
                        if limit is not None and step.epoch > limit:
                            yield 0.0, trial, {"status": PAUSED}
                        break
                    yield seconds, trial, step
                    if trial not in group:
                        break
                else:
                    yield 0.0, trial, {"status": "COMPLETE"} | self._scores(trial)

    def _work(self, trial: PlannedTrial) -> _Work:
        """The work of a worker, stage by stage, as (seconds until its next report, the row reported). Reuses what the store has."""
        job = self._job_of(trial)
        store = self._store_of(trial)
        for stage in filter(None, (cut_stage(trial, planned) for planned in trial.stages)):
            ends = job.keep_at.get(stage.folder, ())
            keeps_tensors = not trial.is_last_phase(stage) or any(epoch > stage.end for epoch in ends)
            states = store.states[stage.folder]
            has_tensors = states.get(stage.address)
            if has_tensors or (has_tensors is False and not keeps_tensors):
                for epoch in range(stage.start + 1, stage.end + 1):
                    yield 0.0, self._epoch(trial, stage, epoch)
                yield 0.0, simulate_stage(stage, is_reused=True)
                continue
            self.computing[trial.id] = stage.folder
            if not stage.has_epochs:
                yield self._seconds(stage), None
                store.computed[stage.folder, 0] += 1
            else:
                stored = [address.epoch or 0 for address, with_tensors in states.items() if with_tensors]
                found = max((epoch for epoch in stored if stage.start < epoch < stage.end), default=stage.start)
                for epoch in range(stage.start + 1, found + 1):
                    yield 0.0, self._epoch(trial, stage, epoch)
                for epoch in range(found + 1, stage.end + 1):
                    if trial.group is not None and stage.kind == "finetune":
                        yield 0.0, _Due(epoch)
                    yield self._seconds(stage), None
                    store.computed[stage.folder, epoch] += 1
                    if epoch in ends and epoch < stage.end:
                        store.states[stage.folder][stage.address_at(epoch)] = True
                    yield 0.0, self._epoch(trial, stage, epoch)
                yield STORED_AFTER_S, None
            store.states[stage.folder][stage.address] = keeps_tensors
            del self.computing[trial.id]
            yield 0.0, simulate_stage(stage, is_reused=False)

    def _epoch(self, trial: PlannedTrial, stage: Stage, epoch: int) -> EpochRow:
        """The row that a worker reports for an epoch; without an error if the trial fails there."""
        error = self._error_of(trial, epoch) if stage.kind == "finetune" else 0.0
        return EpochRow(stage=stage.kind, phase=stage.phase, fold=stage.fold, epoch=epoch, valid_error=error, seconds=EPOCH_S[stage.kind])

    def _scores(self, trial: PlannedTrial) -> dict[str, Any]:
        """The scores of a trial that came to its end: those of its best epoch."""
        epoch = best_epoch_of(trial)
        return dict.fromkeys(("valid_error", "valid_loss", "train_loss", "test_error"), self._error_of(trial, epoch)) | {
            "best_epoch": epoch
        }

    def _seconds(self, stage: Stage) -> float:
        return EPOCH_S[stage.kind] * self._random.uniform(0.5, 1.5)


def simulate_error(trial: PlannedTrial, epoch: int) -> float:
    """An error that depends only on the trial's id, and decreases from epoch to epoch."""
    return int(trial.id[:8], 16) / 16**8 + math.exp(-epoch)


def best_epoch_of(trial: PlannedTrial) -> int:
    """The best epoch of a simulated trial: the last one or, where folds choose it, the first."""
    return 1 if trial.config.is_cross_validated else trial.finetuning[-1].end


def cut_stage(trial: PlannedTrial, stage: Stage) -> Stage | None:
    """The part of a planned stage that is run: after folds, the final training ends at the best epoch. None if that is nothing."""
    if not trial.config.is_cross_validated or stage.kind != "finetune" or stage.fold is not None:
        return stage
    best = best_epoch_of(trial)
    return replace(stage, end=min(stage.end, best)) if stage.start < best else None


def simulate_stage(stage: Stage, *, is_reused: bool) -> StageRow:
    """The row that a worker reports for a stage."""
    epochs = stage.end - stage.start
    seconds = EPOCH_S[stage.kind] * max(1, epochs)
    return StageRow(
        stage=stage.kind,
        phase=stage.phase,
        fold=stage.fold,
        key=stage.key,
        epochs=epochs,
        reused_epochs=epochs if is_reused else 0,
        seconds=0.0 if is_reused else seconds,
        saved_s=seconds if is_reused else 0.0,
    )
