"""One run of a sweep as a state machine: which trial is next, how each one ends, and how the run ends.

A trial that was handed out by `next`, or by `beside` with it, is started, reports rows, and ends in one of four ways:

    end       it reported its result, COMPLETE or FAIL
    cut       it was stopped from outside: with the sweep, at its time limit, or because its candidate is stopped early
    lose      the worker's process or machine was lost, too often in a row
    close     it was still running when the run ended

Often the trial goes on: after `lose` as its next attempt; after `end` likewise, if the machine is to blame and another one may do better;
after `cut` if its machine is about to be taken away. `next` hands it out once more, and it goes on from its last stored state. It also
goes on after `cut` where it only has to pause: it has reached a rung at which its candidate is not decided yet. It is handed out when the
candidate goes on; if the candidate is stopped instead, the trial ends without being started again.

Trials that `beside` adds share a process and a slot with the first one: they are a group, which trains as one model. They report, end and
pause one by one; what happens to their process happens to all of them. Before that, trials may be handed out one by one to compute what
comes before their fine-tuning, and pause: see `TrialQueue`.

The session keeps these parts in step, each of which answers one question: `retries.py`, whether a trial is started again; `pauses.py`,
where it pauses and whether it goes on; `processes.py`, which trials are silent or over their time limit; `ending.py`, how the run ends.

The code that runs trials calls these methods: Ray Tune's hooks in a real run, `simulation.py` in tests. Nothing here knows about Ray, so
thousands of histories can be tested in seconds.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

from orca_core.errors import StoreError
from orca_core.rows import EpochRow, Row, StageRow
from orca_core.stages import Stage
from sweeper.planning.planner import Planner
from sweeper.planning.queue import TrialQueue
from sweeper.planning.stopping import EarlyStopping
from sweeper.planning.trials import PlannedTrial
from sweeper.results.views import INTERRUPTED
from sweeper.results.workspace import Workspace
from sweeper.running.dispatch import make_job
from sweeper.running.ending import Ending
from sweeper.running.job import PAUSED, TrialJob, group_to_json
from sweeper.running.keeping import StateKeeper
from sweeper.running.losses import PROCESS_LOST, Loss
from sweeper.running.nodes import NODE_CAUSES, Node, Nodes
from sweeper.running.outcome import Outcome
from sweeper.running.packing import Packing
from sweeper.running.pauses import Pauses
from sweeper.running.processes import Processes
from sweeper.running.recorder import NOT_RETRIED, Recorder, scores_of
from sweeper.running.retries import Retries
from sweeper.space.space import SearchSpace

WAITING_TRIALS = 100
"""How many trials are offered beyond what fits on the machines now, where more machines may be added: an autoscaler adds them for these."""

_STOPPED = {"status": "FAIL", "cause": "stopped", "error": "the sweep was stopped"}


class Session:
    """One run of a sweep.

    Args:
        planner: Holds the plan; under tpe it proposes more trials.
        todo: Trials to run, in order of preference.
        recorder: Writes rows.
        workspace: Where stages and models are kept.
        slots: How many trials fit on the machines at once, until `see` reports other machines.
        max_concurrent: Maximum number of trials at once; None = as many as fit.
        ended: Trial id -> row, of trials that ended for good in earlier runs.
        stopping: Decides which candidates are stopped early; None = one that knows of no earlier runs, if the sweep has a scheduler.
        share: Whether trials share stages; if not, each has a private store, dropped when it ends.
        keeper: Drops states that no trial needs any more; None = all states are kept.
        own_data: Path of the user's own data -> digest of the copy that workers use; empty where they see the same files.
        packing: Chooses the share of a GPU of each trial; None = one that knows of no earlier trials.
        clock: Monotonic clock, in seconds.

    Attributes:
        planner: Holds the plan.
        recorder: Writes rows.
        nodes: The machines, and what became of trials on them.
        processes: The processes of its trials.
        packing: Chooses the share of a GPU of each trial.
        ending: How the run ends.
        slots: Maximum number of trials that are handed out at once.
        had_worker: Whether there was ever a machine that could be used.
    """

    def __init__(
        self,
        planner: Planner,
        todo: Iterable[PlannedTrial],
        recorder: Recorder,
        workspace: Workspace,
        *,
        slots: int,
        max_concurrent: int | None = None,
        ended: Mapping[str, Mapping[str, Any]] = {},
        stopping: EarlyStopping | None = None,
        share: bool = True,
        keeper: StateKeeper | None = None,
        own_data: Mapping[str, str] = {},
        packing: Packing | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.planner, self.recorder, self.share = planner, recorder, share
        self.slots, self._max_concurrent = min(slots, max_concurrent or slots), max_concurrent
        self._workspace, self._keeper = workspace, keeper
        self._own_data, self._ended = own_data, ended
        self.nodes = Nodes()
        self.processes = Processes(planner.space.budget.trial_minutes, recorder.seconds, clock)
        self.packing = packing or Packing(planner.space.resources)
        self._retries = Retries(self.nodes, self.processes, self.packing)
        self.ending = Ending(planner.space, workspace.patience, self.processes.meter, clock)
        self.had_worker = False
        self._pauses = Pauses(planner, ended, stopping)
        todo = self._pauses.in_cohorts(self.packing.measured_first(todo))
        self._queue = TrialQueue(todo, share=share)
        self.packing.expect(todo)
        recorder.tally.work.expect(todo)
        self._running: dict[str, PlannedTrial] = {}
        self._paused: dict[str, PlannedTrial] = {}
        self._is_deciding = False
        self._decide()

    @property
    def space(self) -> SearchSpace:
        """The search space of the sweep."""
        return self.planner.space

    @property
    def is_ending(self) -> bool:
        """Whether the run should end as soon as possible."""
        return self.ending.has_begun

    @property
    def is_exhausted(self) -> bool:
        """Whether no more trials will be handed out."""
        # A running trial may be lost and started again; its score may make tpe propose others, its epochs may let paused trials go on.
        return self.is_ending or (self._queue.is_empty and not self._running)

    @property
    def num_waiting(self) -> int:
        """How many trials may still be handed out, as far as is known."""
        return 0 if self.is_ending else self._queue.num_waiting + self._queue.num_paused + self.planner.proposed_later

    @property
    def num_unplaced(self) -> int:
        """How many trials were handed out and wait for room on a machine, or for their process."""
        return len(self._running) - self.processes.count

    @property
    def width(self) -> int:
        """How many trials run at once on the machines that are there."""
        return min(self.nodes.slots, self._max_concurrent or self.nodes.slots)

    @property
    def in_use(self) -> int:
        """How many of these trials, or groups of trials, run."""
        return min(self._queue.num_groups, self.width)

    @property
    def outcome(self) -> Outcome:
        """The state of the run."""
        return self.ending.outcome(is_work_left=not self._queue.is_empty)

    @property
    def num_interrupted(self) -> int:
        """How many trials were cut short when the run ended; they go on in the next one."""
        return sum(ended.status == INTERRUPTED for ended in self.recorder.ended.values())

    @property
    def ending_note(self) -> str:
        """What is said when the run begins to end, if it would otherwise be silent for a while; empty if it would not."""
        return self.ending.note(self.processes.count + len(self._paused))

    @property
    def storage_trouble(self) -> str:
        """What the driver's own storage is being waited for, in one line; empty if it is not."""
        trouble = self._workspace.patience.trouble
        return trouble.line() if trouble is not None else ""

    # -------------------------------------------------------------------------------------------------------------- trials

    def next(self) -> PlannedTrial | None:
        """Hand out a trial; None if none may start now: no slot is free, all are blocked by leaders, a store is out of reach, or the run is
        ending."""
        if self.is_ending or self._queue.num_groups >= self.slots or self._workspace.patience.trouble is not None:
            return None
        trial = self._queue.next()
        if trial is not None:
            self._hand_out(trial)
        return trial

    def beside(self, trial: PlannedTrial) -> list[PlannedTrial]:
        """Hand out the trials that train as one model with a trial that `next` has handed out just now, on its slot; often none."""
        avoided = self.nodes.avoided(trial.id)

        def most(other: PlannedTrial) -> int:
            may_start_there = other is trial or self.nodes.avoided(other.id) == avoided
            return self.processes.largest_group(other.id, other.config.finetune.fused) if may_start_there else 0

        others = self._queue.beside(trial, most)
        for other in others:
            self._hand_out(other)
        return others

    def _hand_out(self, trial: PlannedTrial) -> None:
        self._running[trial.id] = trial
        self._paused.pop(trial.id, None)

    def job(self, trial: PlannedTrial) -> TrialJob:
        """What a worker is told of a trial."""
        rungs, limit = self._pauses.rungs(trial), self._pauses.limit(trial)
        if self._queue.is_preparing(trial.id):
            limit = 0
        return make_job(trial, self.planner, self._workspace, rungs=rungs, limit=limit, share=self.share, own_data=self._own_data)

    def message(self, trials: Sequence[PlannedTrial]) -> str:
        """The message that starts trials on a worker: one, or those of a group."""
        if trials[0].group is None:
            return self.job(trials[0]).to_json()
        return group_to_json({trial.id: self.job(trial) for trial in trials})

    def see(self, nodes: Iterable[Node], *, may_grow: bool = False) -> None:
        """Take in which machines there are now, and offer as many trials as fit on them.

        Args:
            nodes: The machines on which trials may run.
            may_grow: Whether an autoscaler adds machines for trials that do not fit: then some more trials are offered.
        """
        self.nodes.see(nodes)
        self.had_worker = self.had_worker or self.nodes.slots > 0
        width = self.nodes.slots + (WAITING_TRIALS if may_grow else 0)
        self.slots = min(width, self._max_concurrent or width)

    def start(self, trial_id: str, node: str | None = None, gpu: float | None = None) -> None:
        """Record that a trial starts, goes on after a pause, or restarts after it was lost.

        Args:
            trial_id: The trial.
            node: Id of the node that runs it, if that is known.
            gpu: Share of a GPU that its process holds; None = what the trial asks for now.
        """
        self._pauses.forget(trial_id)
        self.nodes.place(trial_id, node)
        gpu = self.packing.share(self._running[trial_id]) if gpu is None else gpu
        self.processes.start(trial_id, gpu)
        members = self._queue.num_members(trial_id)
        if not self.recorder.resume(trial_id, members):
            self.recorder.start(self._running[trial_id], device=self.space.device, members=members)
        if gpu:
            self.recorder.locate(trial_id, None, None, {"gpu_share": gpu})

    def report(
        self, trial_id: str, rows: Iterable[Row], host: str | None = None, pid: int | None = None, worker: Mapping[str, Any] = {}
    ) -> None:
        """Record rows of a running trial; stages that they report as stored become available. Arguments as for `Recorder.locate`."""
        trial = self._running.get(trial_id)
        if trial is None:
            return
        rows = list(rows)
        self.recorder.locate(trial_id, host, pid, worker)
        self.recorder.add_rows(trial_id, rows)
        self.processes.report(trial_id, len(rows))
        self.packing.see(trial, rows, worker)
        for row in rows:
            if isinstance(row, StageRow):
                self._queue.publish(trial_id, row.stage, row.phase, fold=row.fold)
            elif isinstance(row, EpochRow) and any(self._leaves_state(stage, row) for stage in trial.stages):
                self._queue.publish(trial_id, row.stage, row.phase, row.epoch, row.fold)
            self._pauses.observe(trial, row)
        self._decide()

    def end(self, trial_id: str, result: Mapping[str, Any]) -> None:
        """Record how a trial ended: write its row, release its claims, and let tpe propose further trials.

        A trial that failed for a reason that another attempt may not meet is handed out again instead.
        """
        if (trial := self._running.get(trial_id) or self._paused.get(trial_id)) is None:
            return
        if result.get("cause") == "disk" and "://" not in self._workspace.artifacts_uri:
            self.ending.fail(Outcome.DISK_FULL, result["error"])  # the store's disk: all other trials would fail, too
        elif (attempt := self._retries.after_end(trial, result)) is not None:
            self._start_again(trial_id, attempt)
            return
        elif result.get("cause") in NODE_CAUSES:
            self._end_if_hopeless(result["error"])
        self._finish(trial, result)

    def end_member(self, trial_id: str, result: Mapping[str, Any]) -> None:
        """Record the last that a member of a group reports: how it ended, or that it pauses at its limit."""
        if result["status"] == PAUSED and self._queue.is_preparing(trial_id):
            self._queue.complete_preparing(trial_id)
            self._pause(self._running[trial_id])
        elif result["status"] == PAUSED:
            self.cut(trial_id)
        else:
            self.end(trial_id, result)

    def _finish(self, trial: PlannedTrial, result: Mapping[str, Any]) -> None:
        """Record that a trial has ended for good."""
        trial_id = trial.id
        for waiting_or_running in (self._running, self._paused):
            waiting_or_running.pop(trial_id, None)
        for part in (self._pauses, self.processes, self.nodes):
            part.forget(trial_id)
        self.packing.end(trial)
        self._queue.end(trial_id)
        may_run_again = result["status"] == "FAIL" and result["cause"] not in NOT_RETRIED
        if self._keeper is not None and not may_run_again:
            # The row is recorded below, so it is written with the next batch. States may go only after that.
            self._keeper.end(trial, result["status"], self.recorder.batch)
        ended = self.recorder.end(trial_id, result)
        self.drop_unneeded()
        if not self.share and result["status"] != "FAIL":  # a failed trial may be retried, and then resumes from its stages
            self.recorder.writer.submit(partial(self._drop_private, trial_id))
        if result.get("cause") != "stopped":  # a stopped trial has no score yet: it runs again
            if result["status"] != "PRUNED":
                self._pauses.end(trial_id, result["status"])
            if ended is not None:
                self._add(self.planner.tell(trial_id, ended.scores, is_stopped=result["status"] == "PRUNED"))
            self._decide()

    def cut(self, trial_id: str) -> None:
        """Record that a trial was stopped: because of `wants_stop`, or with its group. It is handed out again if it only pauses, leaves its
        machine, or nothing else was the matter with it."""
        if (trial := self._running.get(trial_id)) is None:
            return
        if self._pauses.must_pause(trial_id):
            self._pause(trial)
            self._go_on_or_end(trial)
            self._decide()
        elif self.is_ending:
            self.ending.cuts_short = True
            self.end(trial_id, _STOPPED)
        elif self.processes.is_overdue(trial_id) and not self.nodes.must_leave(trial_id):
            self.time_out(trial_id)
        else:
            self._pause(trial)
            self._queue.resume(trial_id)

    def _pause(self, trial: PlannedTrial) -> None:
        self._paused[trial.id] = self._running.pop(trial.id)
        self._queue.pause(trial.id)
        self.processes.stop(trial.id)
        self.nodes.complete(trial.id)  # as far as it has come, which shows that the machine can do the work
        self.nodes.leave(trial.id)
        self.recorder.pause(trial.id)

    def lose(self, trial_id: str, loss: Loss = PROCESS_LOST, *, is_first: bool = True) -> None:
        """Record that the process or machine of a trial was lost. It is handed out again, unless it was lost too often in a row.

        Args:
            trial_id: The trial.
            loss: What happened.
            is_first: Whether the loss has not been recorded for another trial of its group: a machine is blamed once.
        """
        if (trial := self._running.get(trial_id)) is None:
            return
        if (attempt := self._retries.after_loss(trial, loss, is_first=is_first)) is not None:
            self._start_again(trial_id, attempt)
            return
        if not self.recorder.has_begun(trial_id):  # also a trial whose process never came up has a row
            self.recorder.start(trial, device=self.space.device)
        self._end_if_hopeless(loss.error)
        self._finish(trial, {"status": "FAIL", "cause": loss.cause, "error": f"{loss.error}, too often in a row"})

    def _start_again(self, trial_id: str, result: Mapping[str, Any]) -> None:
        """Record the end of an attempt, and let the trial wait for its next one.

        Its row is INTERRUPTED: nothing is wrong with the trial, whether its next attempt starts in this run or, if that is killed
        meanwhile, in a later one.
        """
        self.recorder.end(trial_id, dict(result) | {"status": INTERRUPTED}, starts_again=True)
        self._pauses.forget(trial_id)
        self.processes.stop(trial_id)
        del self._running[trial_id]
        self._queue.pause(trial_id)
        self._queue.resume(trial_id)
        self.nodes.leave(trial_id)

    def _end_if_hopeless(self, error: str) -> None:
        """End the run if no machine can run the trials: all others would fail in the same way."""
        if self.nodes.is_hopeless:
            self.ending.fail(Outcome.UNFIT, error)

    def wants_stop(self, trial_id: str) -> bool:
        """Whether a trial that has just reported should be stopped, and its group with it. A member of a group pauses by itself."""
        if self.is_ending or self.processes.is_overdue(trial_id) or self.nodes.must_leave(trial_id):
            return True
        trial = self._running.get(trial_id)
        return trial is not None and trial.group is None and self._pauses.must_pause(trial_id)

    def time_out(self, trial_id: str) -> None:
        """Record that a trial was ended at its time limit."""
        if trial_id in self._running:
            error = f"the trial ran longer than budget.trial_minutes = {self.space.budget.trial_minutes:g}"
            self.end(trial_id, {"status": "FAIL", "cause": "timeout", "error": error})

    # ------------------------------------------------------------------------------------------------------- early stopping

    def _decide(self) -> None:
        """Decide all that can be decided, and act on it: paused trials go on or end."""
        if self._is_deciding:
            return
        self._is_deciding = True
        while decided := self._pauses.settle():
            for trial in decided:
                self._go_on_or_end(trial)
        self._is_deciding = False

    def _go_on_or_end(self, trial: PlannedTrial) -> None:
        """Let a waiting trial go on, or end it, if its candidate is decided."""
        pauses = self._pauses
        if trial.id in self._paused:
            if not pauses.must_pause(trial.id):
                self._queue.resume(trial.id)
            elif pauses.is_stopped(trial):
                self.end(trial.id, pauses.result(trial))
        elif trial.id in pauses.undecided:
            if pauses.may_go_on(trial):
                del pauses.undecided[trial.id]
                self._enqueue([trial])
            elif pauses.is_stopped(trial):
                del pauses.undecided[trial.id]
                scores = scores_of(self._ended[trial.id], self.space.columns_read)
                self._add(self.planner.tell(trial.id, scores, is_stopped=True))

    # ------------------------------------------------------------------------------------------------------------- the run

    def interrupt(self, error: str) -> None:
        """Record that whatever ran the trials has failed. Those that were handed out are handed out again."""
        for trial_id in list(self._running):
            self.lose(trial_id, Loss(error=error, is_announced=True))

    def drop_unneeded(self) -> None:
        """Drop states that no trial needs any more and whose rows are written."""
        if self._keeper is not None:
            self._keeper.drop(self.recorder.batches)

    def _drop_private(self, trial_id: str) -> None:
        with suppress(StoreError):  # what stays is dropped by `sweeper clean --sweep`
            self._workspace.drop_private(self.space.name, trial_id)

    def close(self) -> None:
        """End the run. Trials that are still running or paused are recorded as stopped."""
        if self._running or self._paused:
            self.ending.begin()
        for trial_id in list(self._running):
            self.cut(trial_id)
        for trial_id in list(self._paused):
            self.ending.cuts_short = True
            self.end(trial_id, _STOPPED)
        self.ending.close()

    def _add(self, proposed: Iterable[PlannedTrial]) -> None:
        """Queue trials that are proposed from scores. One that an earlier run finished is marked as planned again instead of being run."""
        proposed, todo = list(proposed), []
        self._pauses.add(proposed)
        for trial in proposed:
            row = self._ended.get(trial.id)
            if row is None or not trial.accepts(row) or (self._pauses.was_pruned(trial) and self._pauses.may_go_on(trial)):
                todo.append(trial)
                continue
            if self._pauses.was_pruned(trial):
                self._pauses.undecided[trial.id] = trial
            self.recorder.plan_again(trial, row, self.planner.arms_with(trial.id))
        self._enqueue(todo)

    def _enqueue(self, trials: Sequence[PlannedTrial]) -> None:
        self._queue.add(trials)
        self.packing.expect(trials)
        self.recorder.tally.work.expect(trials)
        if self._keeper is not None:
            self._keeper.add(trials)

    def _leaves_state(self, stage: Stage, row: EpochRow) -> bool:
        """Whether a row means that a stage has stored an interim state from which other trials go on.

        Not for the last epoch, whose row is reported before its state is stored: the row of the stage announces that one.
        """
        is_interim = stage.reports(row) and row.epoch < stage.end
        return is_interim and row.epoch in self.planner.ends_of(stage.folder)
