"""How far the fine-tuning of each trial has come: where it may pause, and with which scores it would be stopped."""

from __future__ import annotations

from dataclasses import dataclass

from orca_core.rows import EpochRow, ProbeRow, Row
from sweeper.planning.trials import PlannedTrial


@dataclass
class _Reached:
    last: EpochRow
    stored_epoch: int


class Reached:
    """The last epoch of fine-tuning that each trial has reported since it started or went on."""

    def __init__(self) -> None:
        self._reached: dict[str, _Reached] = {}

    def observe(self, trial: PlannedTrial, row: Row) -> None:
        """Take in a row that a trial reported."""
        if isinstance(row, ProbeRow) or row.stage != "finetune":
            return
        before = self._reached.get(trial.id)
        if isinstance(row, EpochRow):
            # The state at the end of a phase is stored after the row of its last epoch; the row of the stage follows then.
            is_stored = all(row.epoch != stage.end for stage in trial.finetuning)
            self._reached[trial.id] = _Reached(row, row.epoch if is_stored else before.stored_epoch if before else 0)
        elif before is not None:
            before.stored_epoch = before.last.epoch

    def stored_epoch(self, trial_id: str) -> int:
        """The epoch after which a trial can stop and go on later, if its state is stored where it may have to pause; 0 if there is none."""
        reached = self._reached.get(trial_id)
        return reached.stored_epoch if reached else 0

    def last_row(self, trial_id: str) -> EpochRow:
        """The last epoch that a trial has reported."""
        return self._reached[trial_id].last

    def forget(self, trial_id: str) -> None:
        """Forget a trial that has ended, or starts once more."""
        self._reached.pop(trial_id, None)
