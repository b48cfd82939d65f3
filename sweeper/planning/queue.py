"""Which trial runs next: leaders of shared stages first. And which trials start with it, as one group (`finetune.fused`).

Two trials that need the same stage, not yet in the store, would both compute it. So the first to start becomes its leader and claims the
stage's folder; the others are blocked until the leader has published what they need or has ended, while trials of other branches fill the
slots. A claim is not a lock: if a leader dies its claims are released, and the next trial in line computes the stage.

A folder holds one stage, or one trajectory: the epochs of a stage that several trials follow and leave at different epochs.

A group is a trial that `next` has handed out, and those that `beside` adds to it. A trial of a group whose stages before fine-tuning are
not there yet is handed out twice: first alone, to compute these and pause (it is *preparing*), so that the stages of a group's members
spread over all slots; then with its group. Claims belong to the group: what is missing even then its members compute one after the other.
Fine-tuning they do side by side, so of trials that follow one trajectory of fine-tuning only one is in a group. When the leader ends, its
claims stay with the members that need the stages.

A group costs what a full one does. So one that is not full waits as long as trials that could join it have to prepare, or are blocked by a
stage that is being computed, and lets others go first. That delays no end: those trials could not end earlier, and now need no group of
their own.
"""

from __future__ import annotations

import heapq
import math
from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable

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
        # Positions in `_trials`, of all trials as a heap, and sorted of those that can share a group: a released trial resumes its position
        # in the order. A position that is handed out by one of them stays in the other, and is passed over there.
        self._waiting: set[int] = set()
        self._order: list[int] = []
        self._alike: defaultdict[str, list[int]] = defaultdict(list)
        self._blocked: defaultdict[str, list[int]] = defaultdict(list)  # claimed folder -> positions of trials that need it
        self._joining: Counter[str] = Counter()  # what can share a group -> trials of it that prepare, or are blocked before they can
        self._preparing: set[str] = set()  # running trials
        self._prepared: set[int] = set()  # positions
        self._published: set[Address] = set()
        self._claims: dict[str, int] = {}  # folder of a stage -> group that leads it
        self._running: dict[str, PlannedTrial] = {}
        self._positions: dict[str, int] = {}  # of the running and the paused trials
        self._group_of: dict[str, int] = {}  # running trial -> its group
        self._groups: dict[int, dict[str, PlannedTrial]] = {}  # the running trials of each group
        self._num_groups = 0
        self.add(trials)

    def add(self, trials: Iterable[PlannedTrial]) -> None:
        """Append more trials."""
        for trial in trials:
            self._trials.append(trial)
            self._wait(len(self._trials) - 1)

    @property
    def is_empty(self) -> bool:
        """Whether no trial is waiting or blocked."""
        return not self._waiting and not self._blocked

    @property
    def num_waiting(self) -> int:
        """Number of trials that wait or are blocked."""
        return len(self._waiting) + sum(len(positions) for positions in self._blocked.values())

    @property
    def num_paused(self) -> int:
        """Number of trials that were paused and neither resumed nor ended."""
        return len(self._positions) - len(self._running)

    @property
    def num_running(self) -> int:
        """Number of trials that were handed out and have not ended."""
        return len(self._running)

    @property
    def num_groups(self) -> int:
        """Number of groups of these: each takes one slot."""
        return len(self._groups)

    def num_members(self, trial_id: str) -> int:
        """Number of running trials in the group of a running trial, itself included."""
        return len(self._groups[self._group_of[trial_id]])

    def is_preparing(self, trial_id: str) -> bool:
        """Whether a running trial was handed out to compute what comes before its fine-tuning, and then to pause."""
        return trial_id in self._preparing

    def next(self) -> PlannedTrial | None:
        """Hand out the first trial that is not blocked by a leader, and whose group need not wait for others; None if there is none."""
        found, held, turns = None, list[int](), dict[str, tuple[float, int]]()
        while self._order and found is None:
            position = heapq.heappop(self._order)
            if position not in self._waiting or self._is_blocked(position):
                continue
            group = self._trials[position].group
            if group is None or self._has_to_prepare(position):
                found = position
                continue
            held.append(position)
            if group not in turns:
                turns[group] = self._turn_of(group)
            turn, first = turns[group]
            if position >= turn:
                found = first
        for position in held:
            heapq.heappush(self._order, position)
        if found is None:
            return None
        self._num_groups += 1
        self._groups[self._num_groups] = {}
        return self._hand_out(found, self._num_groups, prepares=self._has_to_prepare(found))

    def beside(self, trial: PlannedTrial, most: Callable[[PlannedTrial], int]) -> list[PlannedTrial]:
        """Hand out the trials that start together with one that `next` has handed out: the first ones that can share its group.

        Args:
            trial: The first of the group.
            most: How large a group a trial may be a member of, itself included.
        """
        if trial.group is None or trial.id in self._preparing:
            return []
        members, passed, alike = [trial], list[int](), self._alike[trial.group]
        limit, group = most(trial), self._group_of[trial.id]
        for number, position in enumerate(alike):
            if len(members) >= limit:
                passed += alike[number:]
                break
            if position not in self._waiting or self._is_blocked(position, group):
                continue
            allowed = min(limit, most(self._trials[position]))
            if len(members) < allowed and not self._has_to_prepare(position):
                members.append(self._hand_out(position, group))
                limit = allowed
            else:
                passed.append(position)
        self._alike[trial.group] = passed
        return members[1:]

    def publish(self, trial_id: str, kind: str, phase: int = 0, epoch: int | None = None, fold: int | None = None) -> None:
        """Record that a running trial has stored one of its stages or, with `epoch`, an interim state from which other trials go on."""
        trial = self._running.get(trial_id)
        for stage in trial.stages if trial else ():
            if stage.kind != kind or stage.phase != phase or stage.fold != fold:
                continue
            address = stage.address if epoch is None else stage.address_at(epoch)
            # After an interim state the leader goes on computing: it keeps its claim on the rest of the trajectory.
            is_new = address not in self._published
            self._published.add(address)
            is_given_up = epoch is None and self._give_up(stage.folder, self._group_of[trial_id])
            if is_new or is_given_up:  # else nothing has changed for those that are blocked
                self._release(stage.folder)

    def end(self, trial_id: str) -> None:
        """Record that a running or paused trial has ended, however it ended."""
        self.pause(trial_id)
        self._positions.pop(trial_id, None)

    def pause(self, trial_id: str) -> None:
        """Record that a running trial has stopped for now; the stages that its group does not compute any more are free again."""
        if (trial := self._running.pop(trial_id, None)) is None:
            return
        if trial.group is not None and trial_id in self._preparing:
            self._preparing.remove(trial_id)
            self._joining[trial.group] -= 1
        group = self._group_of.pop(trial_id)
        del self._groups[group][trial_id]
        for stage in trial.stages:
            if self._give_up(stage.folder, group):
                self._release(stage.folder)
        if not self._groups[group]:
            del self._groups[group]

    def complete_preparing(self, trial_id: str) -> None:
        """Record that a trial has computed what comes before its fine-tuning. It waits for its group."""
        self._prepared.add(self._positions[trial_id])
        self.pause(trial_id)
        self.resume(trial_id)

    def resume(self, trial_id: str) -> None:
        """Let a paused trial wait again, at its place in the order: before all that have not started. Repeated calls change nothing."""
        if (position := self._positions.pop(trial_id, None)) is not None:
            self._wait(position)

    def _wait(self, position: int) -> None:
        self._waiting.add(position)
        heapq.heappush(self._order, position)
        if (group := self._trials[position].group) is not None:
            alike = self._alike[group]
            place = bisect_left(alike, position)
            if place == len(alike) or alike[place] != position:
                alike.insert(place, position)

    def _hand_out(self, position: int, group: int, prepares: bool = False) -> PlannedTrial:
        trial = self._trials[position]
        self._waiting.remove(position)
        self._running[trial.id], self._positions[trial.id] = trial, position
        self._group_of[trial.id] = group
        self._groups[group][trial.id] = trial
        if prepares and trial.group is not None:
            self._preparing.add(trial.id)
            self._joining[trial.group] += 1
        for stage in trial.stages:
            # Claimed even if no other trial needs it yet: tpe adds trials later. A trajectory keeps its first leader.
            if self._share and stage.address not in self._published and not (prepares and stage.kind == "finetune"):
                self._claims.setdefault(stage.folder, group)
        return trial

    def _give_up(self, folder: str, group: int) -> bool:
        """Drop a group's claim on a folder, unless one of its members has yet to publish something there. Returns whether it is dropped."""
        if self._claims.get(folder) != group:
            return False
        for trial in self._groups[group].values():
            if any(stage.folder == folder and stage.address not in self._published for stage in trial.stages):
                return False
        del self._claims[folder]
        return True

    def _release(self, folder: str) -> None:
        """Let the trials blocked by a folder wait again; `next` blocks those that still need something."""
        for position in self._blocked.pop(folder, ()):
            self._count_joining(position, folder, -1)
            self._wait(position)

    def _count_joining(self, position: int, folder: str, number: int) -> None:
        if (group := self._trials[position].group) is not None and not folder.startswith("finetune/"):
            self._joining[group] += number

    def _has_to_prepare(self, position: int) -> bool:
        """Whether a trial is to compute what comes before its fine-tuning before it joins a group."""
        trial = self._trials[position]
        if trial.group is None or not self._share or position in self._prepared:
            return False
        return any(stage.kind != "finetune" and stage.address not in self._published for stage in trial.stages)

    def _turn_of(self, group: str) -> tuple[float, int]:
        """When a group of the trials that could start now is handed out, as a place in the order, and the first of these trials.

        The place is that of the first follower among them: a leader, which has prepared, stands further ahead for the sake of others. It is
        infinite if the group would not be full, but may be later.
        """
        ready, may_join = list[int](), False
        for position in self._alike[group]:
            if position in self._waiting and not self._is_blocked(position):
                if self._has_to_prepare(position):
                    may_join = True
                else:
                    ready.append(position)
                    if len(ready) >= self._trials[position].config.finetune.fused:
                        break
        else:
            if may_join or self._joining[group] > 0:
                return math.inf, ready[0]
        return next((position for position in ready if position not in self._prepared), ready[0]), ready[0]

    def _is_blocked(self, position: int, group: int = 0) -> bool:
        """Whether a waiting trial may not run, or not in a group, because of a claim: a stage of it is being computed by another group, or
        its fine-tuning by a member of its own. It then waits under that claim, so that no blocked trial is looked at again before its
        release."""
        for stage in self._trials[position].stages:
            claim = self._claims.get(stage.folder)
            waits = claim is not None and (claim != group or stage.kind == "finetune")
            if waits and stage.address not in self._published:
                self._waiting.remove(position)
                self._blocked[stage.folder].append(position)
                self._count_joining(position, stage.folder, 1)
                return True
        return False
