"""A run of a sweep in simulated time.

Planner, queue, session, recorder and keeper are the real ones; only the workers, the stage store and the tables are simulated. Workers
report what real ones would, from a store in memory, and are lost or fail at random. So the driver can be tested over
thousands of histories, and its own cost can be measured for sweeps far too large to run.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import count
from random import Random
from typing import Any

from orca_core.addresses import Address
from orca_core.errors import StoreError
from orca_core.rows import EpochRow, Row, StageRow
from sweeper.planning.planner import Planner
from sweeper.planning.stopping import EarlyStopping
from sweeper.planning.trials import PlannedTrial
from sweeper.running.job import PAUSED
from sweeper.running.keeping import StateKeeper
from sweeper.running.losses import Loss
from sweeper.running.outcome import Outcome
from sweeper.running.recorder import Recorder
from sweeper.running.session import Session
from sweeper.running.simulated_cluster import NodeChances, SimulatedCluster
from sweeper.running.simulated_gpus import SimulatedGpus
from sweeper.running.simulated_store import SimulatedTables, SimulatedWorkspace
from sweeper.running.simulated_workers import GroupWork, SimulatedWorkers, simulate_error


@dataclass(frozen=True)
class Chances:
    """What can go wrong, as probabilities per report of a worker.

    Args:
        lost: The worker's process or machine is lost.
        fails: The trial ends with an error of its own, or runs out of memory.
        fills_disk: The trial finds the disk full.
        stop: The user stops the run.
        no_machines: The last machine is lost.
        held_back: A batch of rows cannot be written at the first try.
        nodes: What happens to machines; None = the slots stay as they are.
    """

    lost: float = 0.0
    fails: float = 0.0
    fills_disk: float = 0.0
    stop: float = 0.0
    no_machines: float = 0.0
    held_back: float = 0.0
    nodes: NodeChances | None = None


class Simulation:
    """One run of a sweep.

    Args:
        planner: The sweep's planner.
        todo: Trials to run.
        tables: Where rows are written.
        workspace: Where stages are kept.
        slots: Maximum number of trials at once.
        ended: Trial id -> row, of trials that ended for good in earlier runs.
        stopping: As for `Session`.
        share: Whether trials share stages.
        chances: What can go wrong.
        random: Source of all randomness: failures, and how long an epoch takes.
        gpus: The GPUs that trials share; None = trials hold none.
        error_of: The error of a trial after an epoch of fine-tuning; None = the trial fails there.
        watch: Called with the simulation after each time trials were handed out.

    Attributes:
        now: Simulated seconds.
        session: The real session under test.
        running: Id -> trial, of trials that were handed out and have not ended.
        workers: What works on them.
        groups: Name of a group -> its members that have not ended, of the groups that run; most groups are one trial.
        handed_out: Ids of all trials that were handed out, in order.
        preparing: Ids of the running trials that compute what comes before their fine-tuning, and then pause.
        prepared: Ids of those that have done so and wait for their group.
        num_prepared: Id -> how often a trial has done so.
        reported: Addresses of the stages and states that workers reported as stored.
        begun_on: (trial, machine), in the order in which trials began there.
        failed_on_sick: Trials that failed on a machine that cannot do the work, and whether any had come to its end by then.
        num_lost: Id -> how often the process or machine of a trial was lost.
    """

    def __init__(
        self,
        planner: Planner,
        todo: Iterable[PlannedTrial],
        tables: SimulatedTables,
        workspace: SimulatedWorkspace,
        *,
        slots: int,
        ended: Mapping[str, Mapping[str, Any]] = {},
        stopping: EarlyStopping | None = None,
        share: bool = True,
        chances: Chances = Chances(),
        random: Random | None = None,
        gpus: SimulatedGpus | None = None,
        error_of: Callable[[PlannedTrial, int], float | None] | None = None,
        watch: Callable[[Simulation], None] = lambda simulation: None,
    ) -> None:
        self.now = 0.0
        self.running: dict[str, PlannedTrial] = {}
        self.handed_out: list[str] = []
        self.preparing: set[str] = set()
        self.prepared: set[str] = set()
        self.num_prepared: Counter[str] = Counter()
        self.reported: set[Address] = set()
        self._planner, self._watch = planner, watch
        self._chances, self._random = chances, random or Random(0)
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._number, self._numbers = 0, count()
        self._unplaced: list[list[PlannedTrial]] = []
        self._works: dict[str, GroupWork] = {}
        self.groups: dict[str, list[PlannedTrial]] = {}
        self.begun_on: list[tuple[str, str]] = []
        self.failed_on_sick: list[tuple[str, bool]] = []
        self.num_lost: Counter[str] = Counter()
        self._cluster: SimulatedCluster | None = None
        self._gpus = gpus
        todo = list(todo)
        self.recorder = Recorder(tables, planner.space.name, planner.space.metric, self._clock, reads=planner.space.columns_read)
        keeper = StateKeeper(workspace.shared, planner, todo) if share else None
        self.session = Session(
            planner,
            todo,
            self.recorder,
            workspace,
            slots=slots,
            ended=ended,
            stopping=stopping,
            share=share,
            keeper=keeper,
            clock=self._clock,
        )
        self.workers = SimulatedWorkers(
            self.session.job,
            lambda trial: workspace.shared if share else workspace.private[trial.id],
            error_of or simulate_error,
            self._random,
        )
        if (nodes := self._chances.nodes) is not None:
            self._cluster = SimulatedCluster(self._random, nodes, self._schedule, self._see, self._lose)
            for _ in range(2):
                self._cluster.join()

    def run(self) -> Outcome:
        """Run to the end as a driver does: hand out the trials that can run, then process the next event."""
        session, is_exhausted = self.session, False
        while not session.is_ending:
            is_exhausted |= session.is_exhausted  # Tune does not ask again
            if self._gpus is not None:
                session.see([self._gpus.node(session.packing.smallest)])
            while not is_exhausted and (trial := session.next()) is not None:
                group = [trial, *session.beside(trial)]
                self.handed_out += [one.id for one in group]
                self.prepared -= set(self.handed_out[-len(group) :])
                if session.job(trial).limit == 0:
                    self.preparing.add(trial.id)
                self.running |= {one.id: one for one in group}
                self._unplaced.append(group)
            self._place()
            self._watch(self)
            if not self._events:
                break
            self.now, _, happen = heapq.heappop(self._events)
            happen()
            if self._cluster is not None and not session.is_ending:
                self._cluster.happen()
            session.ending.check_deadline()
        session.close()
        while True:
            try:
                self.recorder.flush()
                break
            except StoreError:
                continue
        session.drop_unneeded()
        return session.outcome

    def _schedule(self, seconds: float, happen: Callable[[], None]) -> None:
        self._number += 1
        heapq.heappush(self._events, (self.now + seconds, self._number, happen))

    def _clock(self) -> float:
        return self.now

    def _happens(self, chance: float) -> bool:
        return chance > 0 and self._random.random() < chance

    def _place(self) -> None:
        """Begin the groups for which there is a slot, on machines that may run them."""
        waiting, self._unplaced = self._unplaced, []
        for group in waiting:
            node, name = None, f"group-{next(self._numbers)}"
            if self._cluster is not None:
                avoided = frozenset[str]().union(*(self.session.nodes.avoided(trial.id) for trial in group))
                if (node := self._cluster.find_place(avoided)) is None:
                    self._unplaced.append(group)
                    continue
                self._cluster.placed[name] = node
                self.begun_on += [(trial.id, node) for trial in group]
            if self._gpus is not None and not self._gpus.place(group[0], self.session.packing.share(group[0])):
                self._unplaced.append(group)
                continue
            for trial in group:
                self.session.start(trial.id, node)
            self.groups[name] = group
            self._works[name] = self.workers.work(group)
            self._advance(name, self._works[name])

    def _see(self) -> None:
        if self._cluster is not None:
            self.session.see(self._cluster.nodes())

    def _advance(self, name: str, work: GroupWork) -> None:
        for seconds, trial, step in work:
            if not isinstance(step, dict):
                self._schedule(seconds, partial(self._report, name, work, trial, step))
                return
            self._end(name, trial, step)
        if self._works.get(name) is work:
            self._remove(name)

    def _report(self, name: str, work: GroupWork, trial: PlannedTrial, row: Row | None) -> None:
        session, chances = self.session, self._chances
        if self._works.get(name) is not work:
            return  # it was lost with its machine meanwhile
        if self._cluster is not None and self._cluster.placed[name] in self._cluster.sick:
            has_any_completed = any(ended.status in ("COMPLETE", "PRUNED") for ended in self.recorder.ended.values())
            self.failed_on_sick.append((trial.id, has_any_completed))
            self._end(name, trial, {"status": "FAIL", "cause": "data", "error": "simulated: no data", "traceback": ""})
        elif self._happens(chances.lost):
            self._lose(name)
            return
        elif self._gpus is not None and row is not None and row.seconds > 0 and self._gpus.runs_out(trial):
            self._end(name, trial, {"status": "FAIL", "cause": "out-of-memory", "error": "simulated: CUDA out of memory", "traceback": ""})
        elif (cause := self._draw_failure(row)) is not None:
            self._end(name, trial, {"status": "FAIL", "cause": cause, "error": "simulated", "traceback": ""})
        elif row is not None:
            session.report(trial.id, [row], "simulated", 1, self._gpus.worker(trial) if self._gpus is not None else {})
            self._note_stored(trial, row)
            if any(session.wants_stop(member.id) for member in self.groups[name]):
                for member in self._remove(name):
                    session.cut(member.id)
                return
        self._advance(name, work)

    def _draw_failure(self, row: Row | None) -> str | None:
        """The cause with which a trial fails at a report; None if it goes on. The run may be asked to end instead."""
        chances = self._chances
        for chance, cause in ((chances.fails, self._random.choice(("user-error", "out-of-memory"))), (chances.fills_disk, "disk")):
            if self._happens(chance):
                return cause
        if self._happens(chances.stop):
            self.session.ending.stop()
        if self._happens(chances.no_machines):
            self.session.ending.lose_machines()
        is_failure = isinstance(row, EpochRow) and row.stage == "finetune" and row.valid_error is None
        return "user-error" if is_failure else None

    def _end(self, name: str, trial: PlannedTrial, result: Mapping[str, Any]) -> None:
        self.groups[name].remove(trial)
        del self.running[trial.id]
        if trial.id in self.preparing and result["status"] == PAUSED:
            self.prepared.add(trial.id)
            self.num_prepared[trial.id] += 1
        self.preparing.discard(trial.id)
        self.workers.computing.pop(trial.id, None)
        self._leave_gpu(trial)
        self.session.end_member(trial.id, result)

    def _remove(self, name: str) -> list[PlannedTrial]:
        """End the process of a group; returns the members that had not ended."""
        members = self.groups.pop(name)
        del self._works[name]
        if self._cluster is not None:
            del self._cluster.placed[name]
        for trial in members:
            del self.running[trial.id]
            self.preparing.discard(trial.id)
            self.workers.computing.pop(trial.id, None)
            self._leave_gpu(trial)
        return members

    def _leave_gpu(self, trial: PlannedTrial) -> None:
        if self._gpus is not None:
            self._gpus.leave(trial.id)

    def _note_stored(self, trial: PlannedTrial, row: Row) -> None:
        for stage in trial.stages:
            if stage.reports(row):
                if isinstance(row, StageRow):
                    self.reported.add(stage.address)
                elif isinstance(row, EpochRow) and row.epoch < stage.end and row.epoch in self._planner.ends_of(stage.folder):
                    self.reported.add(stage.address_at(row.epoch))

    def _lose(self, name: str, node: str | None = None) -> None:
        node = node or (self._cluster.placed[name] if self._cluster is not None else None)
        for number, trial in enumerate(self._remove(name)):
            self.num_lost[trial.id] += 1
            self.session.lose(trial.id, Loss(node=node), is_first=number == 0)
