"""Where the trials of a run pause, and which of them go on: early stopping, as `planning/stopping.py` decides it, in the course of a run.

A trial pauses at a rung if its candidate is not decided there yet. It also pauses if its candidate is stopped there, and then ends as
PRUNED. A later run may open a candidate again, for example since it has more seeds now: trials that were PRUNED then are *undecided* until
it is settled whether they go on.

Without a scheduler no trial pauses.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

from orca_core.rows import EpochRow, Row
from sweeper.planning.planner import Planner
from sweeper.planning.stopping import EarlyStopping
from sweeper.planning.trials import PlannedTrial
from sweeper.running.reached import Reached

_SCORES = ("train_loss", "valid_loss", "valid_error", "test_error")
"""Scores of the last epoch, which become those of a trial that was stopped early."""


class Pauses:
    """How far trials have come, and what that means for them.

    Args:
        planner: Holds the plan.
        ended: Trial id -> row, of trials that ended for good in earlier runs.
        stopping: Decides which candidates are stopped early; None = one that knows of no earlier runs, if the sweep has a scheduler.

    Attributes:
        undecided: Trials that an earlier run stopped early, and whose candidates are open again.
    """

    def __init__(self, planner: Planner, ended: Mapping[str, Mapping[str, Any]], stopping: EarlyStopping | None) -> None:
        self._space, self._ended, self._stopping = planner.space, ended, stopping
        if stopping is None and planner.space.scheduler.name != "fifo":
            self._stopping = EarlyStopping(planner)
        self._reached = Reached()
        self.undecided: dict[str, PlannedTrial] = {}
        for trial in planner.plan.trials:
            if self.was_pruned(trial) and not self.may_go_on(trial) and not self.is_stopped(trial):
                self.undecided[trial.id] = trial

    def in_cohorts(self, trials: Iterable[PlannedTrial]) -> list[PlannedTrial]:
        """Trials cohort after cohort, so that few of them wait for others."""
        return list(trials) if self._stopping is None else sorted(trials, key=self._stopping.cohort_of)

    def rungs(self, trial: PlannedTrial) -> tuple[int, ...]:
        """The epochs after which a trial may have to pause."""
        return () if self._stopping is None else self._stopping.rungs_of(trial)

    def limit(self, trial: PlannedTrial) -> float:
        """The epoch after which a trial must not go on for now; infinite if there is none."""
        return math.inf if self._stopping is None else self._stopping.limit(trial.id)

    def add(self, trials: Iterable[PlannedTrial]) -> None:
        """Take in trials that are new to the plan."""
        if self._stopping is not None:
            self._stopping.add(trials)

    def observe(self, trial: PlannedTrial, row: Row) -> None:
        """Take in how far a trial's fine-tuning has come."""
        if self._stopping is not None:
            self._reached.observe(trial, row)
            if isinstance(row, EpochRow) and row.stage == "finetune":
                self._stopping.observe(trial.id, row.epoch, getattr(row, self._space.metric))

    def end(self, trial_id: str, status: str) -> None:
        """Take in that a trial has ended by itself, and so will report no more."""
        if self._stopping is not None:
            self._stopping.end(trial_id, status)

    def forget(self, trial_id: str) -> None:
        """Forget how far a trial has come: it has ended, or starts once more."""
        self._reached.forget(trial_id)

    def settle(self) -> list[PlannedTrial]:
        """Decide all that can be decided by now; returns the trials for which something was."""
        if self._stopping is None:
            return []
        return [trial for candidate in self._stopping.settle() for trial in candidate.trials]

    def must_pause(self, trial_id: str) -> bool:
        """Whether a trial stands where its candidate is not decided yet, or is stopped."""
        return self._stopping is not None and self._reached.stored_epoch(trial_id) >= self._stopping.limit(trial_id)

    def is_stopped(self, trial: PlannedTrial) -> bool:
        """Whether the candidate of a trial is stopped early."""
        return self._stopping is not None and self._stopping.is_stopped(trial.id)

    def was_pruned(self, trial: PlannedTrial) -> bool:
        """Whether an earlier run stopped a trial early."""
        row = self._ended.get(trial.id)
        return self._stopping is not None and row is not None and row["status"] == "PRUNED" and trial.accepts(row)

    def may_go_on(self, trial: PlannedTrial) -> bool:
        """Whether a trial that an earlier run stopped early may go on."""
        return self._stopping is None or not self._stopping.has_ended_right(trial.id, self._ended[trial.id]["best_epoch"])

    def result(self, trial: PlannedTrial) -> dict[str, Any]:
        """The result of a trial whose candidate is stopped: the scores of its last epoch."""
        last = self._reached.last_row(trial.id)
        scores = {name: value for name, value in last.cells().items() if name in _SCORES}
        return {"status": "PRUNED", "cause": f"{self._space.scheduler.name} after epoch {last.epoch}", "best_epoch": last.epoch} | scores
