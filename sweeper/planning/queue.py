"""Which trial runs next: leaders of shared stages first.

Two trials that need the same stage, not yet in the store, would both compute it. So the first to start becomes its leader and claims the
stage's folder; the others are blocked until the leader has published what they need or has ended, while trials of other branches fill the
slots. A claim is not a lock: if a leader dies its claims are released, and the next trial in line computes the stage.

A folder holds one stage, or one trajectory: the epochs of a stage that several trials follow and leave at different epochs.
"""

from __future__ import annotations

import heapq
from collections import defaultdict
from collections.abc import Iterable

from orca_core.addresses import Address
from sweeper.planning.trials import PlannedTrial


class TrialQueue:
    """Waiting trials, and the stages that running ones are about to publish.

    Args:
        trials: To run, in order of preference.
        share: Whether trials share stages; if not, no trial waits for another.
    """

    def __init__(self, trials: Iterable[PlannedTrial], share: bool = True) -> None:
        self._share = share
        self._trials: list[PlannedTrial] = []
        self._waiting: list[int] = []  # a heap of positions in `_trials`: a released trial resumes its position in the order
        self._blocked: defaultdict[str, list[int]] = defaultdict(list)  # claimed folder -> positions of trials that need it
        self._published: set[Address] = set()
        self._claims: dict[str, str] = {}  # folder of a stage -> trial that leads it
        self._running: dict[str, PlannedTrial] = {}
        self._positions: dict[str, int] = {}  # of the running and the paused trials
        self.add(trials)

    def add(self, trials: Iterable[PlannedTrial]) -> None:
        """Append more trials."""
        for trial in trials:
            heapq.heappush(self._waiting, len(self._trials))
            self._trials.append(trial)

    @property
    def is_empty(self) -> bool:
        """Whether no trial is waiting or blocked."""
        return not self._waiting and not self._blocked

    @property
    def num_waiting(self) -> int:
        """Number of trials that wait or are blocked."""
        return len(self._waiting) + sum(len(positions) for positions in self._blocked.values())

    @property
    def num_running(self) -> int:
        """Number of trials that were handed out and have not ended."""
        return len(self._running)

    def next(self) -> PlannedTrial | None:
        """Hand out the first trial that is not blocked by a leader; None if there is none."""
        while self._waiting:
            position = heapq.heappop(self._waiting)
            trial = self._trials[position]
            if (folder := self._find_claim(trial)) is not None:
                self._blocked[folder].append(position)  # under the claim, so that no blocked trial is looked at again before its release
                continue
            self._running[trial.id], self._positions[trial.id] = trial, position
            for stage in trial.stages:
                # Claimed even if no other trial needs it yet: tpe adds trials later. A trajectory keeps its first leader.
                if self._share and stage.address not in self._published:
                    self._claims.setdefault(stage.folder, trial.id)
            return trial
        return None

    def publish(self, trial_id: str, kind: str, phase: int = 0, epoch: int | None = None, fold: int | None = None) -> None:
        """Record that a running trial has stored one of its stages or, with `epoch`, an interim state from which other trials go on."""
        trial = self._running.get(trial_id)
        for stage in trial.stages if trial else ():
            if (stage.kind, stage.phase, stage.fold) != (kind, phase, fold):
                continue
            address = stage.address if epoch is None else stage.address_at(epoch)
            # After an interim state the leader goes on computing: it keeps its claim on the rest of the trajectory.
            is_given_up = epoch is None and self._claims.get(stage.folder) == trial_id
            if is_given_up:
                del self._claims[stage.folder]
            if is_given_up or address not in self._published:  # else nothing has changed for those that are blocked
                self._published.add(address)
                self._release(stage.folder)

    def end(self, trial_id: str) -> None:
        """Record that a running or paused trial has ended, however it ended."""
        self.pause(trial_id)
        self._positions.pop(trial_id, None)

    def pause(self, trial_id: str) -> None:
        """Record that a running trial has stopped for now; the stages it claimed but did not publish are free again."""
        trial = self._running.pop(trial_id, None)
        for stage in trial.stages if trial else ():
            if self._claims.get(stage.folder) == trial_id:
                del self._claims[stage.folder]
                self._release(stage.folder)

    def resume(self, trial_id: str) -> None:
        """Let a paused trial wait again, at its place in the order: before all that have not started. Repeated calls change nothing."""
        if (position := self._positions.pop(trial_id, None)) is not None:
            heapq.heappush(self._waiting, position)

    def _release(self, folder: str) -> None:
        """Let the trials blocked by a folder wait again; `next` blocks those that still need something."""
        for position in self._blocked.pop(folder, ()):
            heapq.heappush(self._waiting, position)

    def _find_claim(self, trial: PlannedTrial) -> str | None:
        """A folder that this trial needs and a running trial has claimed; None if the trial may run."""
        for stage in trial.stages:
            if (folder := stage.folder) in self._claims and stage.address not in self._published:
                return folder
        return None
