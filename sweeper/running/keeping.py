"""Fine-tuning states that trials share: reference-counted, and dropped when the last trial that needs them has ended.

A state holds weights and optimizer moments, gigabytes for a large body. It is needed by the trials that go on from it, and by a trial that
is resumed. Once all of these have ended and their rows are written, its tensors are deleted; its rows stay, so that its epochs can still be
reported. Pretraining, source features and aligned embedders are small in comparison and serve other sweeps; `sweeper clean` drops those.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable
from functools import partial
from typing import Protocol

from orca_core.errors import StoreError
from sweeper.planning.planner import Planner
from sweeper.planning.rungs import list_rungs
from sweeper.planning.trials import PlannedTrial
from sweeper.running.writer import AtOnce, Writer


class StateStore(Protocol):
    """The methods of a store that a keeper calls."""

    def strip(self, folder: str) -> None:
        """Remove the tensors of a trajectory's states; rows stay."""

    def drop_folder(self, folder: str) -> None:
        """Remove all artifacts of a key."""


class StateKeeper:
    """Drops the states that no trial of a plan needs any more.

    Args:
        store: The stage store.
        planner: Knows at which epochs trials leave a trajectory, and which weights the sweep keeps.
        trials: The trials to run.
        writer: Where states are dropped; None = at once.
    """

    def __init__(self, store: StateStore, planner: Planner, trials: Iterable[PlannedTrial], writer: Writer | None = None) -> None:
        self._store, self._planner, self._writer = store, planner, writer or AtOnce()
        self._failed: deque[str] = deque()
        self._needed_by: Counter[str] = Counter()
        self._ended: list[tuple[int, str]] = []
        self.add(trials)

    def add(self, trials: Iterable[PlannedTrial]) -> None:
        """Count more trials as users of their states."""
        self._needed_by.update(stage.folder for trial in trials for stage in trial.finetuning)

    def end(self, trial: PlannedTrial, status: str, batch: int) -> None:
        """Record that a trial has ended and will not run again.

        Args:
            trial: The trial.
            status: How it ended.
            batch: Number of the batch of rows that will contain its last one.
        """
        for stage in trial.finetuning:
            self._needed_by[stage.folder] -= 1
            # The last phase of a COMPLETE trial stores rows but no tensors, unless trials share its trajectory or its state holds the
            # layers that `surgical` chose. So for most trials of a sweep there is nothing to drop, and the store is not accessed.
            has_state = not trial.is_last_phase(stage) or bool(self._planner.ends_of(stage.folder)) or status != "COMPLETE"
            has_state |= trial.config.phases[stage.phase].is_surgical
            has_state |= bool(list_rungs(self._planner.space.scheduler, stage.end))  # where a trial may have to pause, it stores its state
            if self._needed_by[stage.folder] <= 0 and (has_state or self._planner.space.keep == "none"):
                self._ended.append((batch, stage.folder))

    def drop(self, written: int) -> None:
        """Drop the states that are no longer needed.

        Args:
            written: Number of batches of rows written so far. States stay until the rows of their trial are written: after a crash they are
                reported again from there.
        """
        while self._failed:
            self._ended.append((0, self._failed.popleft()))
        waiting = []
        for batch, folder in self._ended:
            if batch > written or not self._writer.submit(partial(self._drop, folder)):
                waiting.append((batch, folder))
        self._ended = waiting

    def _drop(self, folder: str) -> None:
        if self._needed_by[folder] > 0:
            return  # a trial that was proposed meanwhile goes on from here; the state goes when that one has ended
        try:
            if self._planner.space.keep == "none":
                self._store.drop_folder(folder)
            elif self._planner.space.keep != "all":
                self._store.strip(folder)
        except (StoreError, OSError):  # for example a full disk; tried again after the next trial
            self._failed.append(folder)
