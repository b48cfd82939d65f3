"""Ray itself: started here or joined, its slots counted, its nodes checked."""

from __future__ import annotations

import logging
import os
import socket
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import ray

from orca_core.errors import ConfigError, Fault
from orca_core.numerics import PORTABLE
from sweeper.space.file import Bits, Resources

OBJECT_STORE_BYTES = 256 * 2**20
"""Ray's shared memory on this machine; by default it would be 30 % of all, and rows are all that passes through it."""

RAY_ENVIRONMENT = {
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

PENDING_TRIALS = "TUNE_MAX_PENDING_TRIALS_PG"
"""Trials that Tune asks for at once."""


@contextmanager
def ray_environment() -> Iterator[None]:
    """Within: Ray's variables are set as a sweep wants them, unless the user has set them."""
    logging.getLogger("ray.tune").setLevel(logging.ERROR)  # it warns of files that it was told not to write
    before = {name: os.environ.get(name) for name in (*RAY_ENVIRONMENT, PENDING_TRIALS)}
    for name, value in RAY_ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    try:
        yield
    finally:
        for name, old in before.items():
            os.environ.pop(name, None)
            if old is not None:
                os.environ[name] = old


@contextmanager
def open_cluster(address: str | None, resources: Resources, store_uri: str, bits: Bits = "native") -> Iterator[int]:
    """Within: Ray runs, started here or joined. Yields the number of trials that fit at once.

    Args:
        address: Of a running cluster; None starts Ray on this machine, unless this process has joined one already.
        resources: What one trial holds.
        store_uri: Of the stage store.
        bits: Of the sweep; the workers' processes are started accordingly.

    Raises:
        ConfigError: If nothing answers at the address, a trial fits on no node, or a node cannot see the store.
    """
    environment = _worker_environment(bits)
    is_joined = ray.is_initialized()
    if is_joined and bits == "portable":
        _check_session_is_pinned()
    if not is_joined:
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
        yield count_slots(resources)
    finally:
        if not is_joined:
            ray.shutdown()


def has_nodes() -> bool:
    """Whether Ray has a node that is alive."""
    return any(node["Alive"] for node in ray.nodes())


def count_slots(resources: Resources) -> int:
    """Trials that fit at once on the nodes there are.

    Raises:
        ConfigError: If there are none.
    """
    total = 0
    for node in ray.nodes():
        if node["Alive"]:
            has = node["Resources"]
            by_cpu = int(has.get("CPU", 0) / resources.cpu + 1e-9)
            # A share is of one GPU: what is left of two does not make a third.
            by_gpu = int(has.get("GPU", 0)) * int(1 / resources.gpu + 1e-9) if resources.gpu else by_cpu
            total += min(by_cpu, by_gpu)
    if total == 0:
        max_cpu = max((node["Resources"].get("CPU", 0) for node in ray.nodes()), default=0)
        max_gpu = max((node["Resources"].get("GPU", 0) for node in ray.nodes()), default=0)
        rule = f"must fit on one node; the largest have {max_cpu:g} CPUs and {max_gpu:g} GPUs"
        raise ConfigError([Fault("resources", rule, resources.model_dump(), "Ask for less, or give --address of a larger cluster.")])
    return total


def _check_session_is_pinned() -> None:
    """That a Ray session which was there before starts its workers with the environment of portable bits."""
    given = ray.get_runtime_context().runtime_env.get("env_vars", {})
    if any(given.get(name) != value for name, value in PORTABLE.items()):
        rule = "must be native in a session of Ray that this process joined before, without the environment of portable bits"
        remedy = "Call ray.shutdown() first, or ray.init with runtime_env={'env_vars': orca_core.numerics.PORTABLE}."
        raise ConfigError([Fault("bits", rule, "portable", remedy)])


def _worker_environment(bits: Bits) -> dict[str, str]:
    environment = {name: value for name, value in os.environ.items() if name in RAY_ENVIRONMENT or name.startswith("HF_")}
    if bits == "portable":
        environment |= PORTABLE  # Ray starts the workers' interpreters with it: libraries see it when they are loaded
    return environment


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


def _path_exists(path: str) -> bool:
    return Path(path).exists()


def _check_nodes(store_uri: str) -> None:
    """Every node must see the stage store; a folder of this machine alone would be another one on each node."""
    nodes = [node for node in ray.nodes() if node["Alive"]]
    if len(nodes) < 2 or "://" in store_uri:
        return
    token = Path(store_uri).expanduser().resolve() / f".probe-{uuid.uuid4().hex}"
    token.parent.mkdir(parents=True, exist_ok=True)
    token.touch()
    try:
        exists = ray.remote(num_cpus=0)(_path_exists)
        affinity = ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy
        probes = [exists.options(scheduling_strategy=affinity(node["NodeID"], soft=False)).remote(str(token)) for node in nodes]
        blind = [node["NodeManagerHostname"] for node, sees in zip(nodes, ray.get(probes, timeout=120), strict=True) if not sees]
    finally:
        token.unlink(missing_ok=True)
    if blind:
        rule = f"must be a folder that all {len(nodes)} nodes see; {', '.join(sorted(set(blind)))} does not"
        raise ConfigError([Fault("--store", rule, store_uri, "Give a shared folder, or s3:// or gs://.")])
