"""Ray Tune's controller, as a sweep on a cluster that changes needs it. All use of Tune's private parts is in this module.

Tune's own controller ends the experiment at any error of Ray's that it does not expect, asks for the same resources whatever has become of
the machines, keeps a record of every trial that has ended, and gives a trial that was lost back to the process that is free next, on
whichever machine. Here instead

- every error out of a trial's process is the loss of that process, and the session decides whether the trial is started again,
- trials are kept away from machines that are about to be taken away, or on which they failed,
- a process that hangs is ended at the time limit of its trial,
- processes without a trial are kept for the trials to come, but no longer than there are any,
- trials that have ended are forgotten.

Tests hold each of these against the installed version of Ray.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import ray
import ray.tune.tune
from ray.air.execution._internal import RayActorManager
from ray.exceptions import OutOfMemoryError, RayActorError, RayTaskError
from ray.tune import PlacementGroupFactory, TuneError
from ray.tune.execution.tune_controller import TuneController
from ray.tune.experiment import Trial
from ray.tune.utils.object_cache import _ObjectCache

from sweeper.running.losses import Loss
from sweeper.space.file import Resources

PENDING_GROUPS = 200
"""Most resource requests that Ray is given at once; more of them slow its scheduler down."""

IDLE_S = 0.1
"""Seconds to wait in a turn of the loop in which nothing runs."""


class Board(Protocol):
    """What the controller asks about a run."""

    def avoided(self, tune_id: str) -> frozenset[str]:
        """Ids of the nodes on which a trial must not start."""

    def started(self, tune_id: str, node: str | None) -> None:
        """A process on a node begins a trial."""

    def lost(self, tune_id: str, loss: Loss) -> None:
        """The process of a trial was lost."""

    def hung(self) -> list[str]:
        """The trials whose processes have to be ended, as they are beyond their time limit and do not report."""

    def timed_out(self, tune_id: str) -> None:
        """The process of such a trial is being ended."""

    def title(self, tune_id: str) -> str:
        """The name of a trial in Ray's dashboard."""

    @property
    def unusable(self) -> frozenset[str]:
        """Ids of the nodes that should get no more trials."""

    @property
    def version(self) -> int:
        """A number that changes with the answers of `avoided` and `unusable`."""

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


@contextmanager
def controlled(board: Board, resources: Resources) -> Iterator[None]:
    """Within: `Tuner.fit` uses `SweepController`."""

    def make(**arguments: Any) -> TuneController:
        return SweepController(board, resources, **arguments)

    module: Any = ray.tune.tune
    before, module.TuneController = module.TuneController, make
    try:
        yield
    finally:
        module.TuneController = before


class SweepController(TuneController):
    """Runs trials in processes on the machines of a cluster.

    Args:
        board: Knows the session.
        resources: What a trial holds while it runs.
        arguments: As for `TuneController`.
    """

    def __init__(self, board: Board, resources: Resources, **arguments: Any) -> None:
        super().__init__(**arguments)
        self._board, self._resources = board, resources
        self._nodes_of_actors: dict[Any, str] = {}
        self._version = board.version
        self._requests: dict[frozenset[str], PlacementGroupFactory] = {}
        self._actor_manager = _ActorManager(self._actor_manager._resource_manager)
        self._actor_manager.title_of = self._title_of
        self._actor_cache = _IdleProcesses(lambda: board.num_waiting + len(self._pending_trials), self._is_fit, self._is_asked_for)

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

    def _maybe_update_trial_queue(self) -> None:
        """Take trials from the searcher, without waiting for one as Tune does: the loop has other things to do meanwhile."""
        while not self._search_alg.is_finished() and len(self._pending_trials) < PENDING_GROUPS:
            if not self._update_trial_queue():
                break

    def add_trial(self, trial: Trial) -> None:
        """Add a trial, with a request that keeps it away from the nodes that it has to avoid."""
        super().add_trial(trial)
        request = self._request(self._board.avoided(trial.trial_id))
        self._change_request(trial, request)

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
            self._resetting_trials.discard(trial)
        for request in [request for request, trials in self._resources_to_pending_trials.items() if not trials]:
            del self._resources_to_pending_trials[request]

    # ------------------------------------------------------------------------------------------------------- processes

    def _maybe_add_actors(self) -> None:
        """Give idle processes to the trials that wait, in their order, and ask for a process for each of the others.

        Tune gives an idle process to any of them, and ends the process that may just be starting for it. While trials are shorter than the
        start of a process, no machine that joins would ever come to work then. Here such a trial is left to its own process, unless no
        other waits.
        """
        waiting = [trial for trial in self._pending_trials_list if trial in self._pending_trials and trial not in self._resetting_trials]
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

    def _actor_started(self, tracked_actor: Any, log: str = "STARTED") -> None:
        node = self._nodes_of_actors.setdefault(tracked_actor, self._find_node(tracked_actor))
        self._board.started(self._actor_to_trial[tracked_actor].trial_id, node or None)
        super()._actor_started(tracked_actor, log)

    def _actor_stopped(self, tracked_actor: Any) -> None:
        super()._actor_stopped(tracked_actor)
        self._nodes_of_actors.pop(tracked_actor, None)

    def _find_node(self, tracked_actor: Any) -> str:
        """Id of the node on which a process runs or ran; empty if it is unknown."""
        live = self._actor_manager._live_actors_to_ray_actors_resources.get(tracked_actor)
        if live is None:
            return ""
        table = ray._private.state.state.actor_table(live[0]._actor_id.hex()) or {}
        return str(table.get("Address", {}).get("NodeID", "") or table.get("node_id", ""))

    def _is_fit(self, tracked_actor: Any) -> bool:
        """Whether a process may get another trial."""
        return self._nodes_of_actors.get(tracked_actor, "") not in self._board.unusable

    def _is_asked_for(self, request: Any) -> bool:
        """Whether trials to come will have this request; if not, a process that holds its resources would keep others from them."""
        return request == self._request(self._board.unusable) or bool(self._resources_to_pending_trials.get(request))

    def _title_of(self, tracked_actor: Any) -> str:
        trial = self._actor_to_trial.get(tracked_actor)
        return self._board.title(trial.trial_id) if trial is not None else ""

    def _ask_anew(self) -> None:
        """Ask for other nodes for the waiting trials whose request no longer fits the nodes that they have to avoid."""
        for trial in list(self._pending_trials):
            request = self._request(self._board.avoided(trial.trial_id))
            if request == trial.placement_group_factory or trial in self._resetting_trials:
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

    def _request(self, avoided: frozenset[str]) -> PlacementGroupFactory:
        """`request_for` a trial that avoids nodes; kept, since Ray's takes long to make."""
        if avoided not in self._requests:
            self._requests[avoided] = request_for(self._resources, avoided)
        return self._requests[avoided]

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
            self._board.lost(trial.trial_id, self._describe_loss(trial, exception))
        self._process_trial_failure(trial, exception)

    def _end_hung(self) -> None:
        """End the processes that are beyond the time limit of their trial and do not report; Tune kills those that do not end then."""
        for tune_id in self._board.hung():
            self._board.timed_out(tune_id)
            if (trial := self.get_trial(tune_id)) is not None:
                self._process_trial_failure(trial, TuneError("beyond its time limit"))

    def _describe_loss(self, trial: Trial, exception: Exception) -> Loss:
        actor = self._trial_to_actor.get(trial)
        node = self._nodes_of_actors.get(actor) or (self._find_node(actor) if actor is not None else "")
        cause = exception.__cause__ if isinstance(exception, _ProcessLostError) else exception
        if isinstance(cause, OutOfMemoryError):
            return Loss("out-of-memory", "Ray ended the worker's process because the machine was running out of memory", node or None)
        is_announced = bool(getattr(cause, "preempted", False))
        if actor not in self._started_actors and isinstance(cause, RayActorError) and not is_announced and not _is_node_gone(cause):
            return Loss("process-start", f"the worker's process could not be started ({_last_line(cause)})", node or None)
        if isinstance(cause, RayTaskError):
            return Loss("infrastructure", f"the worker failed ({_last_line(cause)})", node or None)
        return Loss("infrastructure", "the worker's process or machine was lost", node or None, is_announced)


_NODE_IS_GONE = ("node has died", "node was terminated", "node is dead", "died because its node", "preempted")


def _is_node_gone(error: BaseException) -> bool:
    """Whether a process did not come up because its machine was lost."""
    return any(
        words in str(error) for words in ("node has died", "node was terminated", "node is dead", "died because its node", "preempted")
    )


def _last_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[-1].strip()


class _ProcessLostError(RayActorError):
    """Any error of Ray's out of a process, in the form in which Tune takes the loss of a process."""

    def __init__(self, cause: BaseException) -> None:
        super().__init__()
        self.__cause__ = cause


class _ActorManager(RayActorManager):
    """Tells of every error as the loss of the process, and names the tasks of processes after their trials.

    Attributes:
        title_of: The name of what a process does; empty if it does nothing.
    """

    title_of: Callable[[Any], str] = staticmethod(lambda tracked_actor: "")

    def _actor_task_failed(self, tracked_actor_task: Any, exception: Exception) -> None:
        """Take what is neither an error of the process nor of the task, such as Ray's own end of a process for its memory, as a loss."""
        if not isinstance(exception, RayActorError | RayTaskError):
            exception = _ProcessLostError(exception)
        super()._actor_task_failed(tracked_actor_task, exception)

    def _schedule_tracked_actor_task(self, tracked_actor_task: Any, method_name: str, **arguments: Any) -> Any:
        """Name the task after the trial: the process has many trials, one after the other."""
        tracked = tracked_actor_task._tracked_actor
        actor, resources = self._live_actors_to_ray_actors_resources[tracked]
        if title := self.title_of(tracked):
            titled: Any = _Titled(actor, title)
            self._live_actors_to_ray_actors_resources[tracked] = (titled, resources)
        try:
            return super()._schedule_tracked_actor_task(tracked_actor_task, method_name, **arguments)
        finally:
            self._live_actors_to_ray_actors_resources[tracked] = (actor, resources)


class _Titled:
    """An actor whose tasks have a title."""

    def __init__(self, actor: Any, title: str) -> None:
        self._actor, self._title = actor, title

    def __getattr__(self, method_name: str) -> Any:
        return getattr(self._actor, method_name).options(name=f"{method_name} {self._title}")


class _IdleProcesses(_ObjectCache):
    """Processes without a trial, kept loaded for the next ones.

    Args:
        num_wanted: How many trials may still need one.
        is_fit: Whether a process may get another trial.
        is_asked_for: Whether trials to come will have a request.
    """

    def __init__(self, num_wanted: Callable[[], int], is_fit: Callable[[Any], bool], is_asked_for: Callable[[Any], bool]) -> None:
        super().__init__(may_keep_one=False)
        self._num_wanted, self._is_fit, self._is_asked_for = num_wanted, is_fit, is_asked_for

    def cache_object(self, key: Any, obj: Any) -> bool:
        """Keep a process, if there may be a trial for it."""
        if not self._is_fit(obj) or self._num_cached_objects >= self._num_wanted():
            return False
        self._cached_objects[key].append(obj)
        self._num_cached_objects += 1
        return True

    def flush_cached_objects(self, force_all: bool = False) -> Generator[Any, None, None]:
        """Give up the processes that no trial will need, or that must get none."""
        for key in list(self._cached_objects):
            force_all_of_key = force_all or (bool(self._cached_objects[key]) and not self._is_asked_for(key))
            for process in list(self._cached_objects[key]):
                if force_all_of_key or not self._is_fit(process) or self._num_cached_objects > self._num_wanted():
                    self._cached_objects[key].remove(process)
                    self._num_cached_objects -= 1
                    yield process
            if not self._cached_objects[key]:
                del self._cached_objects[key]
