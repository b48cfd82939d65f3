"""Ray Tune's controller, as a sweep on a cluster that changes needs it. All use of Tune's private parts is in this module.

Tune's own controller ends the experiment at any error of Ray's that it does not expect, asks for the same resources whatever has become of
the machines, keeps a record of every trial that has ended, and gives a trial that was lost back to the process that is free next, on
whichever machine. Here instead

- every error out of a trial's process is the loss of that process, and the session decides whether the trial is started again,
- trials are kept away from machines that are about to be taken away, or on which they failed,
- a process that hangs is ended at the time limit of its trial,
- processes without a trial are kept for the trials to come, but no longer than there are any, and not while a trial that needs another
  share of a GPU waits for room,
- trials that have ended are forgotten.

Tests hold each of these against the installed version of Ray.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import ray
import ray.tune.tune
from ray.exceptions import OutOfMemoryError, RayTaskError
from ray.tune import PlacementGroupFactory, TuneError
from ray.tune.execution.tune_controller import TuneController
from ray.tune.experiment import Trial
from ray.tune.progress_reporter import TrialProgressCallback

from sweeper.running.losses import Loss
from sweeper.space.file import Resources
from sweeper.tune.cluster import RayGoneError, check_head
from sweeper.tune.processes import IdleProcesses, ProcessClasses, Processes, ProcessLostError
from sweeper.tune.trainable import REPORT_EVERY_S

PENDING_GROUPS = 200
"""Most resource requests that Ray is given at once; more of them slow its scheduler down."""

MAX_REPORTS = 100
"""Most reports a second, of all running trials together; each takes the driver about a millisecond."""

IDLE_S = 0.1
"""Seconds to wait in a turn of the loop in which nothing runs."""


class Board(Protocol):
    """What the controller asks about a run."""

    def avoided(self, tune_id: str) -> frozenset[str]:
        """Ids of the nodes on which a trial must not start."""

    def gpu(self, tune_id: str) -> float:
        """The share of a GPU that a trial asks for under `gpu: auto`."""

    def started(self, tune_id: str, node: str | None, gpu: float | None) -> None:
        """A process on a node begins a trial; under `gpu: auto` with the share of a GPU that it holds."""

    def lost(self, tune_id: str, loss: Loss) -> None:
        """The process of a trial was lost."""

    def hung(self) -> list[str]:
        """The trials whose processes have to be ended, as they are beyond their time limit and do not report."""

    def timed_out(self, tune_id: str) -> None:
        """The process of such a trial is being ended."""

    def title(self, tune_id: str) -> str:
        """The name of a trial in Ray's dashboard."""

    def is_fit(self, node_id: str) -> bool:
        """Whether a process on a node may get another trial."""

    @property
    def version(self) -> int:
        """A number that changes with the answers of `avoided` and `gpu`."""

    @property
    def num_waiting(self) -> int:
        """How many trials may still be handed out."""


def request_for(resources: Resources, avoided: frozenset[str] = frozenset()) -> PlacementGroupFactory:
    """What Ray is asked for to run one trial.

    Args:
        resources: What a trial holds while it runs.
        avoided: Ids of nodes on which it must not start.
    """
    selector = dict(resources.label_selector())
    if avoided:
        selector.setdefault("ray.io/node-id", f"!in({','.join(sorted(avoided))})")
    return PlacementGroupFactory([resources.bundle()], bundle_label_selector=[selector] if selector else None)


@dataclass(frozen=True, slots=True)
class _Need:
    """What a request of a trial is made of.

    Args:
        avoided: Ids of nodes on which it must not start.
        gpu: Share of a GPU; None = that of the sweep's `resources`.
    """

    avoided: frozenset[str]
    gpu: float | None


@contextmanager
def controlled(board: Board, resources: Resources) -> Iterator[None]:
    """Within: `Tuner.fit` uses `SweepController`."""

    def make(**arguments: Any) -> TuneController:
        return SweepController(board, resources, **arguments)

    module: Any = ray.tune.tune
    before = module.TuneController, module.air_usage.tag_callbacks
    # Tune notes which callbacks are in use, and for that imports MLflow and others where they are installed: a second or more.
    module.TuneController, module.air_usage.tag_callbacks = make, lambda callbacks: False
    try:
        yield
    finally:
        module.TuneController, module.air_usage.tag_callbacks = before


class SweepController(TuneController):
    """Runs trials in processes on the machines of a cluster.

    Args:
        board: Knows the session.
        resources: What a trial holds while it runs.
        arguments: As for `TuneController`.
    """

    def __init__(self, board: Board, resources: Resources, **arguments: Any) -> None:
        # Tune adds one that prints nothing here, but keeps every trial that has ended.
        callbacks = [callback for callback in arguments.pop("callbacks", None) or () if not isinstance(callback, TrialProgressCallback)]
        super().__init__(**arguments, callbacks=callbacks)
        self._board, self._resources = board, resources
        self._nodes_of_actors: dict[Any, str] = {}
        self._failed_process: tuple[str | None, bool] = (None, False)  # the last one that failed: its node, and whether it had started
        self._version = board.version
        self._unsent: set[Trial] = set()  # which their process begins with its next call of `train`
        self._requests: dict[_Need, PlacementGroupFactory] = {}
        self._need_of: dict[Any, _Need] = {}
        self._class_cache: Any = ProcessClasses()
        self._actor_manager = Processes(self._actor_manager._resource_manager)
        self._actor_manager.title_of = self._title_of
        self._actor_manager.on_failure = self._note_failure
        self._actor_cache = IdleProcesses(lambda: board.num_waiting + len(self._pending_trials), self._may_stay, self._may_run)

    # -------------------------------------------------------------------------------------------------------- the loop

    def step(self) -> None:
        """One turn of the loop."""
        if self._board.version != self._version:
            self._version = self._board.version
            self._ask_anew()
        self._end_hung()
        super().step()
        if not self._actor_manager.num_total_actors and not self.is_finished():
            time.sleep(IDLE_S)
        self._forget_ended()

    def cleanup(self) -> None:
        """End all processes; if Ray's head is gone, only forget them."""
        try:
            check_head()
        except RayGoneError:
            manager: Any = self._actor_manager._resource_manager
            type(manager).__init__(manager, manager.update_interval_s)  # or its end would ask the head to give resources back
            return
        super().cleanup()

    def _maybe_update_trial_queue(self) -> None:
        """Take trials from the searcher, without waiting for one as Tune does: the loop has other things to do meanwhile."""
        while not self._search_alg.is_finished() and len(self._pending_trials) < PENDING_GROUPS:
            if not self._update_trial_queue():
                break

    def add_trial(self, trial: Trial) -> None:
        """Add a trial, with a request that keeps it away from the nodes that it has to avoid."""
        super().add_trial(trial)
        self._change_request(trial, self._request(trial))

    def checkpoint(self, force: bool = False, wait: bool = False) -> None:
        """Write Tune's snapshot only at the end, where `fit` reads it: a sweep is continued from its results and its stage store."""
        if force:
            super().checkpoint(force=force, wait=wait)

    def __getstate__(self) -> dict[str, Any]:
        return {}  # of what Tune writes, `fit` reads the trials alone

    def _mark_trial_to_checkpoint(self, trial: Trial) -> None:
        """Do nothing, as `checkpoint`."""

    def _forget_ended(self) -> None:
        """Drop the trials that have ended, of which Tune keeps some kilobytes each."""
        ended = self._stopped_trials | self._failed_trials
        if not ended:
            return
        self._stopped_trials.clear()
        self._failed_trials.clear()
        self._live_trials -= ended
        self._trials = [trial for trial in self._trials if trial not in ended]
        for trial in ended:
            self._queued_trial_decisions.pop(trial.trial_id, None)
            self._cached_trial_decisions.pop(trial.trial_id, None)
            self._unsent.discard(trial)
        for request in [request for request, trials in self._resources_to_pending_trials.items() if not trials]:
            del self._resources_to_pending_trials[request]

    # ------------------------------------------------------------------------------------------------------- processes

    def _maybe_add_actors(self) -> None:
        """Give idle processes to the trials that wait, in their order, and ask for a process for each of the others.

        Tune gives an idle process to any of them, and ends the process that may just be starting for it. While trials are shorter than the
        start of a process, no machine that joins would ever come to work then. Here such a trial is left to its own process, unless no
        other waits.
        """
        waiting = [trial for trial in self._pending_trials_list if trial in self._pending_trials]
        self._pending_trials_list = waiting
        if self._actor_cache.num_cached_objects:
            starting = [trial for trial in waiting if self._has_process(trial)]
            for trial in [trial for trial in waiting if not self._has_process(trial)] or starting:
                if self._actor_cache.has_cached_object(trial.placement_group_factory):
                    self._stage(trial)
                    self._maybe_reuse_cached_actor(trial)
        for trial in waiting:
            if trial not in self._trial_to_actor and self._actor_manager.num_pending_actors < PENDING_GROUPS:
                self._stage(trial)
                self._schedule_trial_actor(trial)

    def _stage(self, trial: Trial) -> None:
        if trial not in self._staged_trials:
            trial.init_local_path()
            self._staged_trials.add(trial)
            self._actor_cache.increase_max(trial.placement_group_factory)

    def _has_process(self, trial: Trial) -> bool:
        """Whether a process is starting for a trial; if not, it waits for room on a machine."""
        actor = self._trial_to_actor.get(trial)
        return actor is not None and self._actor_manager.is_actor_started(actor)

    def _schedule_trial_reset(self, trial: Trial, new_config: Any, new_experiment_tag: str) -> None:
        """Let a process that has run other trials begin this one, with its next call of `train`; Tune would make a call before that."""
        self._unsent.add(trial)
        self._actor_started(self._trial_to_actor[trial], log="REUSED")

    def _schedule_trial_train(self, trial: Trial) -> None:
        """Let a trial begin, or go on, until its next report, which is the later the more trials run."""
        report_every_s = max(REPORT_EVERY_S, len(self._running_trials) / MAX_REPORTS)
        events: Any = {"on_result": self._on_training_result, "on_error": self._trial_task_failure}
        message = trial.config["trial"] if trial in self._unsent else None
        self._unsent.discard(trial)
        self._schedule_trial_task(trial, "train", args=(report_every_s, message), **events)

    def _actor_started(self, tracked_actor: Any, log: str = "STARTED") -> None:
        self._locate(tracked_actor)
        trial_id, node = self._actor_to_trial[tracked_actor].trial_id, self._nodes_of_actors.get(tracked_actor)
        self._board.started(trial_id, node, self._gpu_of(tracked_actor))
        super()._actor_started(tracked_actor, log)

    def _actor_stopped(self, tracked_actor: Any) -> None:
        super()._actor_stopped(tracked_actor)
        self._nodes_of_actors.pop(tracked_actor, None)

    def _remove_actor(self, tracked_actor: Any) -> None:
        super()._remove_actor(tracked_actor)
        self._nodes_of_actors.pop(tracked_actor, None)  # of a process without a trial Tune does not hear that it has stopped
        self._started_actors.discard(tracked_actor)

    def _note_failure(self, tracked_actor: Any) -> None:
        """Note what is known of a process that has failed, before Tune forgets it and then calls `_trial_task_failure`."""
        self._locate(tracked_actor)
        self._failed_process = self._nodes_of_actors.get(tracked_actor), tracked_actor in self._started_actors

    def _locate(self, tracked_actor: Any) -> None:
        """Find out on which node a process runs."""
        if tracked_actor in self._nodes_of_actors:
            return
        live = self._actor_manager._live_actors_to_ray_actors_resources.get(tracked_actor)
        table = ray._private.state.state.actor_table(live[0]._actor_id.hex()) if live is not None else None
        if node := (table or {}).get("Address", {}).get("NodeID"):
            self._nodes_of_actors[tracked_actor] = str(node)

    def _gpu_of(self, tracked_actor: Any) -> float | None:
        """The share of a GPU that a process holds for as long as it lives; None unless shares differ, as under `gpu: auto`."""
        live = self._actor_manager._live_actors_to_ray_actors_resources.get(tracked_actor) if self._resources.is_auto else None
        return self._need_of[live[1].resource_request].gpu if live is not None else None

    def _may_stay(self, tracked_actor: Any) -> bool:
        """Whether a process may wait for another trial. It must not if it holds room that the trials which wait need, and can run none."""
        if not self._board.is_fit(self._nodes_of_actors.get(tracked_actor, "")):
            return False
        if not self._resources.is_auto:
            return True
        waiting: set[Any] = {trial.placement_group_factory for trial in self._pending_trials if not self._has_process(trial)}
        gpu = self._gpu_of(tracked_actor)
        return any(self._may_run(request, tracked_actor) for request in waiting) or all(
            self._need_of[request].gpu == gpu for request in waiting
        )

    def _may_run(self, request: PlacementGroupFactory, tracked_actor: Any) -> bool:
        """Whether a process serves a request: they differ in the nodes that they avoid and, under `gpu: auto`, in the share of a GPU."""
        need = self._need_of[request]
        return self._nodes_of_actors.get(tracked_actor, "") not in need.avoided and need.gpu == self._gpu_of(tracked_actor)

    def _title_of(self, tracked_actor: Any) -> str:
        trial = self._actor_to_trial.get(tracked_actor)
        return self._board.title(trial.trial_id) if trial is not None else ""

    def _ask_anew(self) -> None:
        """Ask anew for the waiting trials that have to avoid other nodes by now, or need another share of a GPU."""
        for trial in list(self._pending_trials):
            request = self._request(trial)
            if request == trial.placement_group_factory:
                continue
            if (actor := self._trial_to_actor.get(trial)) is not None:
                if self._has_process(trial):
                    continue  # it is starting: a loss, if it comes to that
                del self._trial_to_actor[trial], self._actor_to_trial[actor]
                self._remove_actor(actor)
            if trial in self._staged_trials:
                self._staged_trials.remove(trial)
                self._actor_cache.decrease_max(trial.placement_group_factory)
            self._change_request(trial, request)
            if trial not in self._pending_trials_list:
                self._pending_trials_list.append(trial)

    def _request(self, trial: Trial) -> PlacementGroupFactory:
        """`request_for` a trial as it stands now; kept, since Ray's takes long to make."""
        gpu = self._board.gpu(trial.trial_id) if self._resources.is_auto else None
        need = _Need(self._board.avoided(trial.trial_id), gpu)
        if need not in self._requests:
            resources = self._resources if gpu is None else self._resources.with_gpu(gpu)
            self._requests[need] = request_for(resources, need.avoided)
            self._need_of[self._requests[need]] = need
        return self._requests[need]

    def _change_request(self, trial: Trial, request: PlacementGroupFactory) -> None:
        waiting: Any = self._resources_to_pending_trials
        waiting[trial.placement_group_factory].discard(trial)
        trial.update_resources(request)
        waiting[request].add(trial)

    def _unstage_trial_with_resources(self, trial: Trial) -> None:
        """Unstage a trial, or another with the same request. There may be none: the request of the other may have changed meanwhile."""
        request = trial.placement_group_factory
        staged = (
            trial
            if trial in self._staged_trials
            else next((other for other in self._staged_trials if other.placement_group_factory == request), None)
        )
        if staged is not None:
            self._staged_trials.remove(staged)
            self._actor_cache.decrease_max(request)

    # ---------------------------------------------------------------------------------------------------------- losses

    def _trial_task_failure(self, trial: Trial, exception: Any) -> None:
        """Tell the session of a lost process, and drop the trial; the session may hand it out again."""
        if trial.status in (Trial.RUNNING, Trial.PENDING):
            self._board.lost(trial.trial_id, _describe_loss(exception, *self._failed_process))
        if getattr(exception, "preempted", False):  # then Tune would run the trial once more by itself, beside the session
            exception = ProcessLostError(exception)
        self._process_trial_failure(trial, exception)

    def _end_hung(self) -> None:
        """End the processes that are beyond the time limit of their trial and do not report; Tune kills those that do not end then."""
        for tune_id in self._board.hung():
            self._board.timed_out(tune_id)
            if (trial := self.get_trial(tune_id)) is not None:
                self._process_trial_failure(trial, TuneError("beyond its time limit"))


def _describe_loss(exception: Exception, node: str | None, had_started: bool) -> Loss:
    """What the loss of a process was.

    Args:
        exception: What came out of it.
        node: Its node; None if it is unknown.
        had_started: Whether it had come up, so that it can have worked on a trial.
    """
    cause = exception.__cause__ if isinstance(exception, ProcessLostError) else exception
    is_announced = bool(getattr(cause, "preempted", False))
    if isinstance(cause, OutOfMemoryError):
        error = "Ray ended the worker's process because the machine was running out of memory"
        return Loss("out-of-memory" if had_started else "process-start", error, node)  # not yet started, it did not take the memory
    if not had_started and not is_announced and not _is_node_gone(cause):
        return Loss("process-start", f"the worker's process could not be started ({_what_happened(cause)})", node)
    if isinstance(cause, RayTaskError):
        return Loss("infrastructure", f"the worker failed ({_what_happened(cause)})", node)
    return Loss("infrastructure", "the worker's process or machine was lost", node, is_announced)


_NODE_IS_GONE = ("node has died", "node was terminated", "node is dead", "died because its node", "preempted")


def _is_node_gone(error: BaseException | None) -> bool:
    """Whether a process did not come up because its machine was lost."""
    return any(words in str(error) for words in _NODE_IS_GONE)


_NEVER_RAN = "The actor never ran - it was cancelled before it started running."
"""What Ray says last of a process that ended while it was starting, too."""


def _what_happened(error: BaseException | None) -> str:
    """The line of an error of Ray's that says what happened: the last one, in which a traceback ends."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip() not in ("", _NEVER_RAN)]
    return lines[-1] if lines else type(error).__name__
