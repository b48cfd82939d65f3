"""States of fine-tuning that trials share, counted by reference and dropped when their last trial has ended.

A state holds the weights and the optimiser's moments: of a large body, gigabytes. It is needed by the trials that go on from it,
and by a trial that is continued; when all of these have ended and their rows are written, its rows stay and its tensors go.
Pretraining, source features and aligned embedders are small beside it and serve other sweeps; `sweeper clean` drops those.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Protocol

from orca_core.errors import StoreError
from sweeper.planning.planner import Planner
from sweeper.planning.trials import PlannedTrial


class StateStore(Protocol):
    """What a keeper needs of a store."""

    def strip(self, folder: str) -> None:
        """Remove the tensors of a trajectory's states; rows stay."""

    def drop_folder(self, folder: str) -> None:
        """Remove all artifacts of a key."""


class StateKeeper:
    """Drops what no trial of a plan needs any more.

    Args:
        store: The stage store.
        planner: Says at which epochs trials leave a trajectory, and which weights are kept.
        trials: Those that are to be run.
    """

    def __init__(self, store: StateStore, planner: Planner, trials: Iterable[PlannedTrial]) -> None:
        self._store, self._planner = store, planner
        self._needed_by: Counter[str] = Counter()
        self._ended: list[tuple[int, str]] = []
        self.add(trials)

    def add(self, trials: Iterable[PlannedTrial]) -> None:
        """Trials that will need their states."""
        self._needed_by.update(stage.folder for trial in trials for stage in trial.finetuning)

    def end(self, trial: PlannedTrial, status: str, batch: int) -> None:
        """A trial has ended for good.

        Args:
            trial: Which.
            status: How. One that is COMPLETE leaves no interim state.
            batch: Number of the batch that will hold its last row.
        """
        for stage in trial.finetuning:
            self._needed_by[stage.folder] -= 1
            has_state = stage is not trial.finetuning[-1] or bool(self._planner.ends_of(stage.folder)) or status != "COMPLETE"
            has_state |= trial.config.phases[stage.phase].is_surgical
            if self._needed_by[stage.folder] <= 0 and (has_state or self._planner.space.keep == "none"):
                self._ended.append((batch, stage.folder))

    def drop(self, written: int) -> None:
        """Drop what is not needed any more.

        Args:
            written: Batches of rows that are written: rows that are not must stay with their stage.
        """
        waiting = []
        for batch, folder in self._ended:
            if batch > written:
                waiting.append((batch, folder))
                continue
            try:
                if self._planner.space.keep == "none":
                    self._store.drop_folder(folder)
                elif self._planner.space.keep != "all":
                    self._store.strip(folder)
            except (StoreError, OSError):  # a full disk, say
                waiting.append((batch, folder))
        self._ended = waiting
