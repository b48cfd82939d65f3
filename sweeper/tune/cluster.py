"""Starts or joins a Ray cluster, and tells which machines it has now."""

from __future__ import annotations

import logging
import os
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import ray
from ray.job_config import JobConfig

from orca_core.errors import ConfigError, Fault
from orca_core.numerics import PORTABLE
from sweeper.running.nodes import Node
from sweeper.running.obstacles import AutoscalerState
from sweeper.space.file import Bits, Resources
from sweeper.tune.address import check_address
from sweeper.tune.autoscaler import read_autoscaler
from sweeper.tune.environment import runtime_environment, worker_settings
from sweeper.tune.ray_log import FORMAT

OBJECT_STORE_BYTES = 256 * 2**20
"""Size of Ray's shared memory on this machine. The default is 30 % of all memory, but only rows pass through it."""

RAY_ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",  # relative paths of tasks and bodies refer to the folder in which the sweep was started
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # five files per trial that nothing reads
    "TUNE_GLOBAL_CHECKPOINT_S": "1000000",  # snapshots of a state that is never restored
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # ours also handles SIGTERM
    "TUNE_FORCE_TRIAL_CLEANUP_S": "5",
    "TUNE_WARN_THRESHOLD_S": "10",
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",  # a lost process is said in the rows and in the progress
    "RAY_AIR_NEW_OUTPUT": "0",  # its banner cannot be switched off
    "RAY_TRAIN_ENABLE_V2_MIGRATION_WARNINGS": "0",
    "RAY_OVERRIDE_JOB_RUNTIME_ENV": "1",  # within a submitted job our environment is added to the job's, and wins
}


PRELOADED = {"RAY_preload_python_modules": "torch,transformers.modeling_utils", "OMP_NUM_THREADS": "1"}
"""With these, Ray's processes import what takes longest while the driver still starts Ray, not in their first trials. They are to use as
many threads as Ray tells a process with one CPU, which it does too late for what is loaded already. This package is not among it: Ray's
processes are told later where the driver's own is."""

HEAD_GONE_S = 3
"""Seconds for which nothing listens at the address of Ray's head before it counts as gone."""


@contextmanager
def ray_environment() -> Iterator[None]:
    """Set Ray's environment variables as a sweep needs them, except those that the user has set; restore them at the end."""
    logging.getLogger("ray.tune").setLevel(logging.ERROR)  # it warns about files that it was configured not to write
    with set_variables({name: value for name, value in RAY_ENVIRONMENT.items() if name not in os.environ}):
        yield


@contextmanager
def set_variables(variables: Mapping[str, str]) -> Iterator[None]:
    """Within: these environment variables are set."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, old in before.items():
            os.environ.pop(name, None)
            if old is not None:
                os.environ[name] = old


@contextmanager
def open_cluster(
    address: str | None, resources: Resources, bits: Bits = "native", *, name: str = "", num_trials: int = 0
) -> Iterator[Cluster]:
    """Start Ray or join a cluster. A Ray that was started here is shut down at the end.

    Args:
        address: Address of a running cluster; None starts Ray on this machine, unless this process has joined a cluster already.
        resources: What one trial holds while it runs.
        bits: The sweep's `bits`; worker processes are started accordingly.
        name: Name of the sweep, which Ray's dashboard shows with the job.
        num_trials: How many trials can run at once, if there is room for them.

    Raises:
        ConfigError: If the cluster cannot be joined.
    """
    if address is not None:
        check_address(address)  # also in a process that has joined a cluster, as a notebook may have: a wrong one would go unnoticed
    is_joined = ray.is_initialized()
    if is_joined and bits == "portable":
        _check_session_is_pinned()
    if not is_joined:
        job = JobConfig(metadata={"sweep": name} if name else None)
        if address is None:
            # Processes of this machine inherit it. Ray would prepare one that it is given, and start each process twice for it.
            variables = worker_settings(RAY_ENVIRONMENT, bits)
            if resources.cpu == 1 and not resources.gpu and num_trials >= (os.cpu_count() or 1):  # each of Ray's processes gets a trial
                variables |= {variable: value for variable, value in PRELOADED.items() if variable not in os.environ}
            with set_variables(variables):
                _init(address, {}, job)
        else:
            with runtime_environment(RAY_ENVIRONMENT, bits) as environment:
                _init(address, environment, job)
    try:
        yield Cluster(resources)
    finally:
        if not is_joined:
            ray.shutdown()


def _init(address: str | None, environment: dict[str, Any], job: JobConfig) -> None:
    try:
        ray.init(
            address=address or "local",
            include_dashboard=False if address is None else None,
            object_store_memory=OBJECT_STORE_BYTES if address is None else None,
            logging_level=logging.getLogger("ray").getEffectiveLevel(),  # as it is: `RayLog` has set up Ray's loggers
            logging_format=FORMAT,
            log_to_driver=False,
            runtime_env=environment,
            job_config=job,
        )
    except (ConnectionError, RuntimeError, ImportError) as error:
        if address is None:
            raise
        lines = str(error).strip().splitlines() or [type(error).__name__]
        remedy = "Look at `ray status` on its head; `pip install 'ray[default]'` if it says that a package is missing."
        raise ConfigError([Fault("--address", f"must be a cluster that can be joined ({lines[0][:300]})", address, remedy)]) from None


class Cluster:
    """The machines that Ray has now.

    Args:
        resources: What one trial holds while it runs.
    """

    def __init__(self, resources: Resources) -> None:
        self._resources = resources

    def nodes(self, gpu: float | None = None) -> list[Node]:
        """The live nodes on which a trial fits. Takes about a millisecond.

        Args:
            gpu: Share of a GPU that it asks for; None = what `resources` say.
        """
        resources = self._resources if gpu is None else self._resources.with_gpu(gpu)
        draining = ray._private.state.state.get_draining_nodes()
        found = []
        for node in ray.nodes():
            if node["Alive"] and (slots := resources.count_on(node["Resources"], node["Labels"])) > 0:
                found.append(Node(node["NodeID"], node["NodeManagerHostname"], slots, node["NodeID"] in draining))
        return found

    def unfit(self) -> list[str]:
        """The live nodes that have CPUs and on which no trial fits, with what they have."""
        found = []
        for node in ray.nodes():
            has = node["Resources"]
            if node["Alive"] and has.get("CPU", 0) > 0 and self._resources.count_on(has, node["Labels"]) <= 0:
                gpus = f", {has['GPU']:g} GPUs" if has.get("GPU") else ""
                found.append(f"{node['NodeManagerHostname']} ({has['CPU']:g} CPUs{gpus}, {has.get('memory', 0) / 2**30:.0f} GiB)")
        return sorted(found)

    def autoscaler(self) -> AutoscalerState | None:
        """The state of the autoscaler; None if there is none."""
        return read_autoscaler()

    @property
    def address(self) -> str:
        """The address at which further nodes join."""
        return str(ray.get_runtime_context().gcs_address)

    def check_fit(self) -> None:
        """Check that a trial fits on a node, or may fit on one to come: there is an autoscaler, or no node for trials has joined yet.

        Raises:
            ConfigError: If not.
        """
        alive = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        most = {name: max((has.get(name, 0) for has in alive), default=0) for name in ("CPU", "GPU")}
        if self.nodes() or self.autoscaler() is not None or most["CPU"] == 0:
            return
        if self._resources.is_auto and most["GPU"] == 0:
            rule, remedy = "must be 0 where no node has a GPU", "Leave it out to run on CPUs, or give --address of a cluster with GPUs."
            raise ConfigError([Fault("resources.gpu", rule, self._resources.gpu, remedy)])
        rule = f"must fit on one node; the largest have {most['CPU']:g} CPUs and {most['GPU']:g} GPUs"
        raise ConfigError([Fault("resources", rule, self._resources.model_dump(), "Ask for less, or give --address of a larger cluster.")])


class RayGoneError(Exception):
    """Ray's head is gone. Ray's own calls would wait for it for a minute, and then end this process."""


def check_head() -> None:
    """Check that Ray's head is there.

    Raises:
        RayGoneError: If nothing listens at its address for some seconds.
    """
    host, _, port = ray.get_runtime_context().gcs_address.rpartition(":")
    for seconds_left in reversed(range(HEAD_GONE_S)):
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()
            return
        except OSError as error:
            if seconds_left == 0:
                raise RayGoneError(f"Ray's head does not answer ({error})") from error
            time.sleep(1)


def has_nodes() -> bool:
    """Whether any node of the cluster is alive."""
    return any(node["Alive"] for node in ray.nodes())


def _check_session_is_pinned() -> None:
    """Check that a Ray session joined before starts its workers with the environment for portable bits."""
    given = ray.get_runtime_context().runtime_env.get("env_vars", {})
    if any(given.get(name) != value for name, value in PORTABLE.items()):
        rule = "must be native in a Ray session that was started without the environment for portable bits"
        remedy = "Call ray.shutdown() first, or ray.init with runtime_env={'env_vars': orca_core.numerics.PORTABLE}."
        raise ConfigError([Fault("bits", rule, "portable", remedy)])
