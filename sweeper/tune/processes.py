"""The processes in which trials run, as `SweepController` needs them: Tune's own ways with them, changed."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from typing import Any

import ray
from ray.air.execution._internal import RayActorManager
from ray.exceptions import RayActorError, RayTaskError
from ray.tune.utils.object_cache import _ObjectCache

EVENTS_S = 0.2
"""Longest time for which events are handled in a turn of the loop, in seconds."""


class ProcessLostError(RayActorError):
    """Any error of Ray's out of a process, in the form in which Tune takes the loss of a process."""

    def __init__(self, cause: BaseException) -> None:
        super().__init__()
        self.__cause__ = cause


class Processes(RayActorManager):
    """Tells of every error as the loss of the process, and names the tasks of processes after their trials.

    Attributes:
        title_of: The name of what a process does; empty if it does nothing.
        on_failure: Called with a process that has failed, before it is forgotten.
    """

    title_of: Callable[[Any], str] = staticmethod(lambda tracked_actor: "")
    on_failure: Callable[[Any], None] = staticmethod(lambda tracked_actor: None)

    def next(self, timeout: float | None = None) -> bool:
        """Handle all events that are there, and wait for one if there is none. Returns whether there was one.

        Tune handles one at a time, and for each awaits the futures of all trials anew: with a thousand trials it falls behind.
        """
        is_killed = self._try_kill_actor()
        self._try_start_actors()
        if is_killed:
            return True
        resources = self._resource_manager.get_resource_futures()
        futures = [*resources, *self._actor_state_events.get_futures(), *self._actor_task_events.get_futures()]
        if not futures or not ray.wait(futures, num_returns=1, timeout=timeout)[0]:
            return False
        ready, _ = ray.wait(futures, num_returns=len(futures), timeout=0)
        if not set(resources).isdisjoint(ready):
            self._resource_manager.update_state()
            self._try_start_actors()
        events: Any
        until = time.monotonic() + EVENTS_S
        for events in (self._actor_state_events, self._actor_task_events):
            for future in ready:
                if future in events._tracked_futures and time.monotonic() < until:  # an event before may have discarded it
                    events.resolve_future(future)
        self._try_start_actors()
        return True

    def _actor_start_failed(self, tracked_actor: Any, exception: Exception) -> None:
        self.on_failure(tracked_actor)
        super()._actor_start_failed(tracked_actor, exception)

    def _actor_task_failed(self, tracked_actor_task: Any, exception: Exception) -> None:
        """Take what is neither an error of the process nor of the task, such as Ray's own end of a process for its memory, as a loss."""
        self.on_failure(tracked_actor_task._tracked_actor)
        if not isinstance(exception, RayActorError | RayTaskError):
            exception = ProcessLostError(exception)
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


class IdleProcesses(_ObjectCache):
    """Processes without a trial, kept loaded for the next ones. A process is kept when what the next trials ask for changes.

    Args:
        num_wanted: How many trials may still need one.
        is_fit: Whether a process may get another trial.
        may_run: Whether a request is met by a process.
    """

    def __init__(self, num_wanted: Callable[[], int], is_fit: Callable[[Any], bool], may_run: Callable[[Any, Any], bool]) -> None:
        super().__init__(may_keep_one=False)
        self._num_wanted, self._is_fit, self._may_run = num_wanted, is_fit, may_run
        self._idle: list[Any] = []

    def cache_object(self, key: Any, obj: Any) -> bool:
        """Keep a process, if there may be a trial for it."""
        if not self._is_fit(obj) or len(self._idle) >= self._num_wanted():
            return False
        self._idle.append(obj)
        self._num_cached_objects = len(self._idle)
        return True

    def has_cached_object(self, key: Any) -> bool:
        """Whether a request is met by an idle process."""
        return any(self._may_run(key, process) for process in self._idle)

    def pop_cached_object(self, key: Any) -> Any:
        """Take the first process that meets a request; None if none does."""
        found = next((process for process in self._idle if self._may_run(key, process)), None)
        if found is not None:
            self._drop(found)
        return found

    def flush_cached_objects(self, force_all: bool = False) -> Generator[Any, None, None]:
        """Give up the processes that no trial will need, or that must get none."""
        if not self._idle:
            return
        num_wanted = self._num_wanted()
        for process in list(self._idle):
            if force_all or not self._is_fit(process) or len(self._idle) > num_wanted:
                self._drop(process)
                yield process

    def _drop(self, process: Any) -> None:
        self._idle.remove(process)
        self._num_cached_objects = len(self._idle)


class ProcessClasses:
    """Makes the classes of processes known to Ray, each once.

    Tune gives them an environment of their own. Then Ray prepares it and starts new processes, though it has some that are idle; and Tune
    copies the driver's AWS keys into it, which Ray logs.
    """

    def __init__(self) -> None:
        self._known: dict[type, Any] = {}

    def get(self, trainable: type) -> Any:
        """What starts processes of a class."""
        if trainable not in self._known:
            self._known[trainable] = ray.remote(trainable)
        return self._known[trainable]
