"""A run of a sweep in simulated time.

Planner, queue, session, recorder and keeper are the real ones; only the workers, the stage store and the tables are simulated. Workers
report what real ones would, from a store in memory, and are lost or fail at random. So the driver can be tested over
thousands of histories, and its own cost can be measured for sweeps far too large to run.
"""

from __future__ import annotations

import heapq
import math
from collections import Counter, defaultdict
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import count
from random import Random
from typing import Any

from orca_core.addresses import Address
from orca_core.errors import StoreError
from orca_core.rows import EpochRow, Row, StageRow
from orca_core.stages import Stage
from sweeper.planning.planner import Planner
from sweeper.planning.stopping import EarlyStopping
from sweeper.planning.trials import PlannedTrial
from sweeper.results.workspace import Workspace
from sweeper.running.job import PAUSED
from sweeper.running.keeping import StateKeeper
from sweeper.running.losses import Loss
from sweeper.running.outcome import Outcome
from sweeper.running.recorder import Recorder
from sweeper.running.session import Session
from sweeper.running.simulated_cluster import NodeChances, SimulatedCluster
from sweeper.running.simulated_gpus import SimulatedGpus

EPOCH_S = {"pretrain": 3.0, "source": 2.0, "align": 1.0, "adapt": 2.0, "finetune": 4.0}
"""Mean seconds per epoch of a stage; for `source`, of the complete stage."""

_Work = Generator[tuple[float, "Row | _Due | None"], None, None]
"""What a worker does for a trial: seconds until its next report, and the row reported."""


_GroupWork = Generator[tuple[float, PlannedTrial, "Row | dict[str, Any] | None"], None, None]
"""What it does for a group: also whose report it is, and of each trial at last how it ends."""


@dataclass(frozen=True)
class _Due:
    """A member of a group waits for the others before an epoch of fine-tuning."""

    epoch: int


STORED_AFTER_S = 0.2
"""Seconds from the row of a stage's last epoch until its state is stored."""


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


class SimulatedTables:
    """Result tables in memory.

    Args:
        is_held_back: Called before a batch is written; if it returns true, the batch is refused.
    """

    def __init__(self, is_held_back: Callable[[], bool] = lambda: False) -> None:
        self.rows: dict[str, list[Mapping[str, Any]]] = {"trials": [], "metrics": [], "stages": [], "probes": []}
        self._is_held_back = is_held_back

    def append(self, table: str, sweep: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """Add rows, all or none."""
        if rows and self._is_held_back():
            raise StoreError(f"{table}: simulated full disk")
        self.rows[table] += rows

    def attempts(self, sweep: str) -> dict[str, int]:
        """Trial -> its last attempt."""
        found: dict[str, int] = {}
        for row in (row for rows in self.rows.values() for row in rows):
            found[row["trial"]] = max(found.get(row["trial"], 0), row["attempt"])
        return found

    def compact(self, sweep: str) -> None:
        """Do nothing: there are no files."""

    def curves(self, sweep: str, metric: str) -> dict[str, dict[int, float | None]]:
        """Trial -> epoch of fine-tuning -> a metric after it, in the last attempt of each trial."""
        last = self.attempts(sweep)
        found: defaultdict[str, dict[int, float | None]] = defaultdict(dict)
        for row in self.rows["metrics"]:
            if row["stage"] == "finetune" and row["attempt"] == last[row["trial"]]:
                found[row["trial"]][row["epoch"]] = row.get(metric)
        return dict(found)

    def live_trials(self, sweep: str | None = None) -> list[Mapping[str, Any]]:
        """The current row of each trial."""
        current: dict[str, Mapping[str, Any]] = {}
        for row in sorted(self.rows["trials"], key=lambda row: (row["attempt"], row["sequence"])):
            current[row["trial"]] = row
        return list(current.values())


@dataclass
class SimulatedStages:
    """A stage store in memory.

    Args:
        states: Folder -> address -> whether it has tensors; if not, it has only rows.
        computed: (folder, epoch) -> how often it was computed; epoch 0 is a stage without epochs.
    """

    states: defaultdict[str, dict[Address, bool]] = field(default_factory=lambda: defaultdict(dict))
    computed: Counter[tuple[str, int]] = field(default_factory=Counter)

    def strip(self, folder: str) -> None:
        """Remove the tensors of a trajectory's states."""
        self.states[folder] = dict.fromkeys(self.states[folder], False)

    def drop_folder(self, folder: str) -> None:
        """Remove all artifacts of a key."""
        self.states.pop(folder, None)


class SimulatedWorkspace(Workspace):
    """A workspace in memory: one shared store, and a private one for each trial that does not share.

    Attributes:
        shared: The shared store.
        private: Trial -> its private store.
    """

    def __init__(self) -> None:
        super().__init__("simulated")
        self.shared = SimulatedStages()
        self.private: defaultdict[str, SimulatedStages] = defaultdict(SimulatedStages)

    def drop_private(self, sweep: str, trial: str = "") -> None:
        self.private.pop(trial, None)


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
        computing: Id -> folder of the stage that the trial's worker is computing now.
        groups: Name of a group -> its members that have not ended, of the groups that run; most groups are one trial.
        handed_out: Ids of all trials that were handed out, in order.
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
        self.computing: dict[str, str] = {}
        self.handed_out: list[str] = []
        self.reported: set[Address] = set()
        self._planner, self._workspace, self._share, self._watch = planner, workspace, share, watch
        self._chances, self._random = chances, random or Random(0)
        self._error_of = error_of or simulate_error
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._number, self._numbers = 0, count()
        self._unplaced: list[list[PlannedTrial]] = []
        self._works: dict[str, _GroupWork] = {}
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
            self._works[name] = self._work_together(name)
            self._advance(name, self._works[name])

    def _see(self) -> None:
        if self._cluster is not None:
            self.session.see(self._cluster.nodes())

    def _advance(self, name: str, work: _GroupWork) -> None:
        for seconds, trial, step in work:
            if not isinstance(step, dict):
                self._schedule(seconds, partial(self._report, name, work, trial, step))
                return
            self._end(name, trial, step)
        if self._works.get(name) is work:
            self._remove(name)

    def _report(self, name: str, work: _GroupWork, trial: PlannedTrial, row: Row | None) -> None:
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
        self.computing.pop(trial.id, None)
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
            self.computing.pop(trial.id, None)
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

    def _work_together(self, name: str) -> _GroupWork:
        """The work of a worker for a group, as (seconds until its next report, whose it is, the row reported or how the trial ends)."""
        works = {trial.id: (self._work(trial), self.session.job(trial).limit) for trial in self.groups[name]}
        while group := self.groups[name]:
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
        job = self.session.job(trial)
        store = self._workspace.shared if self._share else self._workspace.private[trial.id]
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
