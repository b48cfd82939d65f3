"""Run a plan on Ray Tune: what is missing is added to the results.

Ray's own restore is not used: its state lags behind, forgets the scheduler and unpickles. A sweep is continued by planning again
against the results and the stage store.
"""

from __future__ import annotations

import json
import logging
import math
import os
import shutil
import signal
import socket
import tempfile
import threading
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray import tune
from ray.tune.search import Searcher

from orca_core.datafiles.expected import cache_root, data_root
from orca_core.errors import ConfigError, Fault, OrcaError, StoreError
from orca_core.stages import Stage
from orca_core.store import Store
from sweeper.planning.planner import Planner
from sweeper.planning.queue import TrialQueue
from sweeper.planning.trials import Plan, PlannedTrial
from sweeper.running.driver import heartbeat
from sweeper.running.keeping import StateKeeper
from sweeper.running.progress import Progress
from sweeper.running.recorder import NOT_RETRIED, Recorder, score_of
from sweeper.space.file import Resources
from sweeper.space.space import SearchSpace
from sweeper.tune.schedulers import PerTaskScheduler, past_trials
from sweeper.tune.trainable import TrialRunner

MAX_INFRASTRUCTURE_FAILURES = 3
"""Times a trial is started again after its process or machine was lost. Errors of the trial itself never come here."""

OBJECT_STORE_BYTES = 256 * 2**20
"""Ray's shared memory on this machine; by default it would be 30 % of all, and rows are all that passes through it."""

LOOK_EVERY_S = 5.0
"""Seconds between looks at whether Ray still has nodes."""


LAST_ROWS_S = 30.0
"""Seconds for which the last rows of a run are tried to be written."""


class SweepCutError(OrcaError):
    """A sweep that could not come to its end: Ray is gone, or the disk is full. What it has is kept."""

    exit_code = 1


_ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",  # relative paths of tasks and bodies mean the folder the sweep was started in
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # five files a trial that nobody reads
    "TUNE_GLOBAL_CHECKPOINT_S": "1000000",  # snapshots of a state that is never restored
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # ours also hears SIGTERM
    "TUNE_FORCE_TRIAL_CLEANUP_S": "5",
    "TUNE_WARN_THRESHOLD_S": "10",
    "RAY_AIR_NEW_OUTPUT": "0",  # its banner cannot be switched off
    "RAY_TRAIN_ENABLE_V2_MIGRATION_WARNINGS": "0",
}


@dataclass
class Session:
    """What the searcher, the scheduler and the callback of one run share.

    Args:
        planner: Knows the trials; under tpe it proposes more.
        queue: Which trial is next.
        recorder: Writes rows.
        store_uri: The stage store.
        most: Trials that may run at once.
        handed: Tune's trial id -> planned trial, of those that run.
        deadline: When the budget of time is used up, by the monotonic clock.
        progress: Is shown now and then.
        stopping: Whether the sweep is to end.
        unfinished: Whether a trial was cut short by that.
        lost: Whether Ray has no node left.
        share: Whether trials share stages.
        keeper: Drops what no trial needs any more; None if nothing is shared.
        full: What said that there is no room left on the disk.
    """

    planner: Planner
    queue: TrialQueue
    recorder: Recorder
    store_uri: str
    most: int
    handed: dict[str, PlannedTrial]
    deadline: float = math.inf
    progress: Progress | None = None
    stopping: bool = False
    unfinished: bool = False
    lost: bool = False
    share: bool = True
    keeper: StateKeeper | None = None
    full: str = ""

    def message(self, trial: PlannedTrial) -> str:
        """What a worker is told of a trial."""
        return json.dumps(
            {
                "config": trial.config.model_dump(mode="json", by_alias=True),
                "store": self.store_uri if self.share else self.private_store(trial),
                "folder": os.getcwd(),
                "device": self.space.device,
                "keep_at": {stage.folder: self.keep_at(stage) for stage in trial.stages} if self.share else {},
                "keep": self.space.keep,
                "models": self.store_uri,
                "each_epoch": self.space.scheduler.name != "fifo",
            }
        )

    def private_store(self, trial: PlannedTrial) -> str:
        """Where a trial keeps its stages when nothing is shared, until it ends."""
        return f"{self.store_uri}/unshared/{trial.id}"

    def is_overdue(self, tune_id: str) -> bool:
        """Whether a running trial has used up its time."""
        limit, trial = self.space.budget.trial_minutes, self.handed.get(tune_id)
        return limit is not None and trial is not None and self.recorder.seconds(trial.id) > limit * 60

    def stop(self) -> None:
        """Let the sweep end at the next step."""
        self.stopping = True

    def publish(self, trial: PlannedTrial, row: Mapping[str, Any]) -> None:
        """Let other trials have what a row says is stored: a whole stage, or a state on its way that one of them leaves from."""
        if row["table"] == "stages":
            self.queue.publish(trial.id, row["stage"], row["phase"])
        elif any(
            (stage.kind, stage.phase) == (row["stage"], row["phase"]) and row["epoch"] in self.keep_at(stage) for stage in trial.stages
        ):
            self.queue.publish(trial.id, row["stage"], row["phase"], row["epoch"])

    def keep_at(self, stage: Stage) -> list[int]:
        """Epochs at which trials of the plan leave a stage's trajectory."""
        return self.planner.ends_of(stage.folder)

    def end(self, tune_id: str, outcome: Mapping[str, Any]) -> None:
        """A trial ended: write it, free what it led, and let tpe propose what follows."""
        trial = self.handed.pop(tune_id, None)
        if trial is None:
            return
        self.queue.end(trial.id)
        if outcome.get("cause") == "disk":  # the others would fail likewise
            self.full, self.stopping = outcome["error"], True
        if self.keeper is not None:
            if outcome["status"] != "FAIL" or outcome["cause"] in NOT_RETRIED:
                self.keeper.end(trial, outcome["status"], self.recorder.batches + 1)
            self.keeper.drop(self.recorder.batches)
        self.recorder.end(trial.id, outcome)
        if not self.share and outcome["status"] != "FAIL":
            Store(self.store_uri).drop_folder(f"unshared/{trial.id}")
        if trial.id in self.recorder.ended:
            proposed = self.planner.tell(trial.id, score_of(self.recorder.ended[trial.id], self.space.metric))
            self.queue.add(proposed)
            if self.keeper is not None:
                self.keeper.add(proposed)

    @property
    def space(self) -> SearchSpace:
        """What is run."""
        return self.planner.space


class _NotPickled:
    """Tune pickles its parts into a state that is never restored here; none of ours goes there."""

    def __getstate__(self) -> dict[str, Any]:
        return {}


class PlannedSearcher(_NotPickled, Searcher):
    """Gives Tune the planned trials, leaders of shared stages first."""

    def __init__(self, session: Session) -> None:
        super().__init__()
        self.session = session

    def suggest(self, trial_id: str) -> Any:
        session = self.session
        if session.stopping or (session.queue.is_empty and not (session.planner.proposed_later and session.queue.num_running)):
            return Searcher.FINISHED
        if session.queue.num_running >= session.most:
            return None
        trial = session.queue.next()
        if trial is None:
            return None
        session.handed[trial_id] = trial
        return {"trial": session.message(trial)}

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Nothing: the callback hears of it, with the rows."""

    def save(self, checkpoint_path: str) -> None:
        """Nothing: never restored."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing: never saved."""


class StopWithSession(_NotPickled, tune.Stopper):
    """Ends the run when the session is to stop."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self._looked = time.monotonic()

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return self.session.stopping or self.session.is_overdue(trial_id)

    def stop_all(self) -> bool:
        session, now = self.session, time.monotonic()
        if session.progress is not None:
            session.progress.update()
        session.stopping |= now >= session.deadline
        if not session.stopping and now - self._looked >= LOOK_EVERY_S:
            self._looked = now
            # Without nodes Tune would wait for ever; a cluster that scales up has its head.
            session.lost = not any(node["Alive"] for node in ray.nodes())
            session.stopping |= session.lost
        return session.stopping


class Reporter(_NotPickled, tune.Callback):
    """Takes what trials report to the recorder."""

    def __init__(self, session: Session) -> None:
        self.session = session

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self.session.recorder.start(self.session.handed[trial.trial_id], device=self.session.space.device)

    def on_trial_recover(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        # Its process was lost; Tune starts it again, and the rows come anew under the next attempt.
        self.session.recorder.end(self.session.handed[trial.trial_id].id, {"status": "FAIL", "cause": "infrastructure"})

    def on_trial_result(self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any) -> None:
        session = self.session
        planned = session.handed.get(trial.trial_id)
        if planned is None:
            return
        rows = json.loads(result["rows"])
        session.recorder.locate(planned.id, result.get("hostname"), result.get("pid"))
        session.recorder.add_rows(planned.id, rows)
        for row in rows:
            session.publish(planned, row)
        if "outcome" in result:
            session.end(trial.trial_id, json.loads(result["outcome"]))

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        # One that reported its outcome has ended already: this one was stopped by its scheduler, or with the sweep.
        if self.session.stopping and trial.trial_id in self.session.handed:
            self.session.unfinished = True
            self.session.end(trial.trial_id, {"status": "FAIL", "cause": "stopped", "error": "the sweep was stopped"})
        elif self.session.is_overdue(trial.trial_id):
            error = f"it ran longer than budget.trial_minutes = {self.session.space.budget.trial_minutes:g}"
            self.session.end(trial.trial_id, {"status": "FAIL", "cause": "timeout", "error": error})
        elif trial.trial_id in self.session.handed:
            last = trial.last_result or {}
            epoch = last.get("epoch")
            scores = {name: last[name] for name in ("train_loss", "valid_loss", "valid_error", "test_error") if name in last}
            cause = f"{self.session.space.scheduler.name} after epoch {epoch}"
            self.session.end(trial.trial_id, {"status": "PRUNED", "cause": cause, "best_epoch": epoch} | scores)

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        error = "its process or machine was lost too often"
        self.session.end(trial.trial_id, {"status": "FAIL", "cause": "infrastructure", "error": error})


def launch(
    planner: Planner,
    todo: list[PlannedTrial],
    recorder: Recorder,
    scores: dict[str, float],
    progress: Progress,
    *,
    store_uri: str,
    address: str | None,
    max_concurrent: int | None,
    share: bool = True,
) -> bool:
    """Run trials to their end.

    Args:
        planner: Knows the whole plan.
        todo: The trials of it that are to be run.
        recorder: Writes rows.
        scores: Trial id -> metric of trials done before.
        progress: Shows how far it is.
        store_uri: The stage store.
        address: Of a running Ray cluster; None starts Ray on this machine.
        max_concurrent: Most trials at once; None = as many as the resources allow.
        share: Whether trials share stages; if not, each computes all of its own, to the same rows.

    Returns:
        Whether it came to its end, and was not stopped.

    Raises:
        ConfigError: If the machines do not have what one trial asks for, or cannot see the store.
    """
    plan, space = planner.plan, planner.space
    with _environment(), _ray(address, space.resources, str(store_uri)) as slots:
        most = min(slots, max_concurrent or slots)
        os.environ["TUNE_MAX_PENDING_TRIALS_PG"] = str(most)
        session = Session(
            planner=planner,
            queue=TrialQueue(todo, share=share),
            recorder=recorder,
            store_uri=store_uri,
            most=most,
            handed={},
            deadline=time.monotonic() + _time_budget(plan, most),
            progress=progress,
            share=share,
            keeper=StateKeeper(Store(store_uri), planner, todo) if share else None,
        )
        longest = max(trial.config.finetune.epochs for trial in todo)
        past = past_trials(recorder.store.uri, plan, scores) if space.scheduler.name != "fifo" else {}
        scheduler = PerTaskScheduler(space.scheduler, space.metric, session.handed, most, longest, past)
        scratch = Path(tempfile.mkdtemp(prefix="sweeper-tune-"))
        trainable = tune.with_resources(TrialRunner, {"cpu": space.resources.cpu, "gpu": space.resources.gpu})
        tuner = tune.Tuner(
            trainable,
            tune_config=tune.TuneConfig(
                num_samples=-1,
                search_alg=PlannedSearcher(session),
                scheduler=scheduler,
                reuse_actors=True,
                trial_dirname_creator=lambda trial: trial.trial_id,
            ),
            run_config=tune.RunConfig(
                name="tune",
                storage_path=str(scratch),
                verbose=0,
                stop=StopWithSession(session),
                callbacks=[Reporter(session)],
                failure_config=tune.FailureConfig(max_failures=MAX_INFRASTRUCTURE_FAILURES),
                checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False, checkpoint_frequency=0),
            ),
        )
        try:
            with progress, _stoppable(session), heartbeat(recorder.store, space.name, session.stop):
                tuner.fit()
        finally:
            session.stopping = True
            session.unfinished |= bool(session.handed)
            for tune_id in list(session.handed):
                session.end(tune_id, {"status": "FAIL", "cause": "stopped", "error": "the sweep was stopped"})
            _write_rows(recorder)
            if session.keeper is not None:
                session.keeper.drop(recorder.batches)
            shutil.rmtree(scratch, ignore_errors=True)
        if session.full:
            text = "there is no room left on the disk; the sweep was ended. Make room; the same command continues."
            raise SweepCutError(f"{space.name}: {text} ({session.full})")
        if session.lost:
            raise SweepCutError(f"{space.name}: Ray's processes are gone. Everything until now is kept; the same command continues.")
        return session.queue.is_empty and not session.unfinished


def _write_rows(recorder: Recorder) -> None:
    """Write the last rows; where they cannot be written, try again for a while.

    Raises:
        SweepCutError: If that does not help.
    """
    given_up = time.monotonic() + LAST_ROWS_S
    while True:
        try:
            return recorder.flush()
        except StoreError as error:
            if time.monotonic() > given_up:
                text = "the last rows could not be written. What trials computed is stored; the same command reports it again."
                raise SweepCutError(f"{recorder.sweep}: {text} ({error})") from error
            time.sleep(1.0)


def _time_budget(plan: Plan, slots: int) -> float:
    """Seconds of wall time that the budget allows."""
    budget, gpu = plan.space.budget, plan.space.resources.gpu
    bounds = [budget.hours * 3600] if budget.hours else []
    if budget.gpu_hours and gpu:
        bounds.append(budget.gpu_hours * 3600 / (gpu * slots))
    return min(bounds, default=math.inf)


@contextmanager
def _environment() -> Iterator[None]:
    logging.getLogger("ray.tune").setLevel(logging.ERROR)  # it warns of files that it was told not to write
    before = {name: os.environ.get(name) for name in (*_ENVIRONMENT, "TUNE_MAX_PENDING_TRIALS_PG")}
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    try:
        yield
    finally:
        for name, old in before.items():
            os.environ.pop(name, None) if old is None else os.environ.__setitem__(name, old)


@contextmanager
def _ray(address: str | None, resources: Resources, store_uri: str) -> Iterator[int]:
    """Ray, started here or joined; gives the number of trials that fit at once."""
    joined = ray.is_initialized()
    if not joined:
        environment = {name: value for name, value in os.environ.items() if name in _ENVIRONMENT or name.startswith(("HF_", "SWEEPER_"))}
        environment["SWEEPER_DATA"] = str(data_root())  # workers start in other folders
        if "SWEEPER_CACHE" in environment:
            environment["SWEEPER_CACHE"] = str(cache_root())
        if address is not None:
            _check_address(address)
        ray.init(
            address=address or "local",
            include_dashboard=False if address is None else None,
            object_store_memory=OBJECT_STORE_BYTES if address is None else None,
            log_to_driver=False,
            logging_level=logging.ERROR,
            runtime_env={"env_vars": environment},
        )
    try:
        _check_nodes(store_uri)
        yield _slots(resources)
    finally:
        if not joined:
            ray.shutdown()


def _check_address(address: str) -> None:
    """That something listens where a cluster is said to be: Ray itself would try for minutes."""
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if not colon or not port.isdecimal():
        return  # `auto`, and names that Ray resolves
    try:
        socket.create_connection((host, int(port)), timeout=5).close()
    except OSError as error:
        remedy = "Start it with `ray start --head`, or leave --address out to run on this machine."
        raise ConfigError([Fault("--address", f"must be where a Ray cluster answers ({error})", address, remedy)]) from None


def _slots(resources: Resources) -> int:
    """Trials that fit at once on the nodes there are."""
    total = 0
    for node in ray.nodes():
        if node["Alive"]:
            has = node["Resources"]
            by_cpu = int(has.get("CPU", 0) / resources.cpu + 1e-9)
            # A share is of one GPU: what is left of two is no third.
            by_gpu = int(has.get("GPU", 0)) * int(1 / resources.gpu + 1e-9) if resources.gpu else by_cpu
            total += min(by_cpu, by_gpu)
    if total == 0:
        most_cpu = max((node["Resources"].get("CPU", 0) for node in ray.nodes()), default=0)
        most_gpu = max((node["Resources"].get("GPU", 0) for node in ray.nodes()), default=0)
        rule = f"must fit on one node; the largest have {most_cpu:g} CPUs and {most_gpu:g} GPUs"
        raise ConfigError([Fault("resources", rule, resources.model_dump(), "Ask for less, or give --address of a larger cluster.")])
    return total


def _exists(place: str) -> bool:
    return Path(place).exists()


def _check_nodes(store_uri: str) -> None:
    """Every node must see the stage store; a folder of this machine alone would be another one on each node."""
    nodes = [node for node in ray.nodes() if node["Alive"]]
    if len(nodes) < 2 or "://" in store_uri:
        return
    token = Path(store_uri).expanduser().resolve() / f".probe-{uuid.uuid4().hex}"
    token.parent.mkdir(parents=True, exist_ok=True)
    token.touch()
    try:
        seen = ray.remote(num_cpus=0)(_exists)
        affinity = ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy
        probes = [seen.options(scheduling_strategy=affinity(node["NodeID"], soft=False)).remote(str(token)) for node in nodes]
        blind = [node["NodeManagerHostname"] for node, sees in zip(nodes, ray.get(probes, timeout=120), strict=True) if not sees]
    finally:
        token.unlink(missing_ok=True)
    if blind:
        rule = f"must be a place that all {len(nodes)} nodes see; {', '.join(sorted(set(blind)))} does not"
        raise ConfigError([Fault("--store", rule, store_uri, "Give a shared folder, or s3:// or gs://.")])


@contextmanager
def _stoppable(session: Session) -> Iterator[None]:
    """End the sweep cleanly on Ctrl-C and on SIGTERM, which batch schedulers send; a second Ctrl-C ends it at once."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, frame: Any) -> None:
        session.stopping = True
        signal.signal(signal.SIGINT, before[signal.SIGINT])

    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    for number in before:
        signal.signal(number, stop)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
