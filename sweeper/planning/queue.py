"""Which trial runs next: leaders of shared stages first.

Two trials that need the same unpublished stage would compute it twice. So the first to start leads: the others are held back
until it has published what they need or has ended, and trials of other branches fill the slots meanwhile. Nothing is locked: if a
leader dies its claims go, and the next one in line computes the stage.
"""

from __future__ import annotations

import heapq
from collections import defaultdict
from collections.abc import Iterable

from orca_core.addresses import Address
from sweeper.planning.trials import PlannedTrial


class TrialQueue:
    """Trials that wait, and the stages that running ones are about to publish.

    Args:
        trials: To run, in order of preference.
        share: Whether trials share stages; if not, none waits for another.
    """

    def __init__(self, trials: Iterable[PlannedTrial], share: bool = True) -> None:
        self._share = share
        self._trials: list[PlannedTrial] = []
        self._waiting: list[int] = []  # a heap of positions in `_trials`
        self._held: defaultdict[str, list[int]] = defaultdict(list)  # claimed folder -> positions of trials that wait for it
        self._published: set[Address] = set()
        self._claims: dict[str, str] = {}  # folder of a stage -> trial that is to publish it
        self._running: dict[str, PlannedTrial] = {}
        self.add(trials)

    def add(self, trials: Iterable[PlannedTrial]) -> None:
        """Put more trials at the end."""
        for trial in trials:
            heapq.heappush(self._waiting, len(self._trials))
            self._trials.append(trial)

    @property
    def is_empty(self) -> bool:
        """Whether no trial waits."""
        return not self._waiting and not self._held

    @property
    def num_running(self) -> int:
        """Trials that were handed out and have not ended."""
        return len(self._running)

    def next(self) -> PlannedTrial | None:
        """Hand out the first trial that no running one leads, or None if all wait for a leader."""
        while self._waiting:
            position = heapq.heappop(self._waiting)
            trial = self._trials[position]
            if (folder := self._claimed_by_another(trial)) is not None:
                self._held[folder].append(position)
                continue
            self._running[trial.id] = trial
            for stage in trial.stages:
                if self._share and stage.address not in self._published:  # also if nobody needs it yet: tpe adds trials later
                    self._claims.setdefault(stage.folder, trial.id)
            return trial
        return None

    def publish(self, trial_id: str, kind: str, phase: int = 0, epoch: int | None = None) -> None:
        """A running trial has stored one of its stages, or with `epoch` a state on the way that other trials leave from."""
        trial = self._running.get(trial_id)
        for stage in trial.stages if trial else ():
            if (stage.kind, stage.phase) != (kind, phase):
                continue
            self._published.add(stage.address if epoch is None else stage.address_at(epoch))
            if epoch is None and self._claims.get(stage.folder) == trial_id:
                del self._claims[stage.folder]
            self._release(stage.folder)

    def end(self, trial_id: str) -> None:
        """A running trial has ended, in whatever way; what it claimed and did not publish is free again."""
        trial = self._running.pop(trial_id, None)
        for stage in trial.stages if trial else ():
            if self._claims.get(stage.folder) == trial_id:
                del self._claims[stage.folder]
                self._release(stage.folder)

    def _release(self, folder: str) -> None:
        for position in self._held.pop(folder, ()):
            heapq.heappush(self._waiting, position)

    def _claimed_by_another(self, trial: PlannedTrial) -> str | None:
        """A folder that a running trial is about to publish a stage in, and that this one needs; None if it may run."""
        return next((stage.folder for stage in trial.stages if stage.folder in self._claims and stage.address not in self._published), None)
