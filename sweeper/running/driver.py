"""The driver, the process that runs a sweep: there is one at a time, and other processes can see and stop it."""

from __future__ import annotations

import fcntl
import math
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from orca_core.errors import ConfigError, Fault, StoreError
from sweeper.results.store import ResultStore

HEARTBEAT_EVERY_S = 5.0
STALE_AFTER_S = 30.0
"""Seconds without a heartbeat after which a sweep counts as not running."""


def driver_of(results: ResultStore, sweep: str) -> str | None:
    """The process and host that run a sweep, as text; None if the heartbeat is stale, or names a dead process of this machine."""
    beat = results.heartbeat(sweep)
    if beat is None or time.time() - beat["time"] > STALE_AFTER_S:
        return None
    is_local = beat["host"] == socket.gethostname()
    if is_local and not _is_alive(beat["pid"]):
        return None
    return f"process {beat['pid']} on {'this machine' if is_local else beat['host']}"


def driver_start_time(results: ResultStore, sweep: str) -> float:
    """When the driver of a sweep started, in seconds since the epoch; infinite if its heartbeat has no start time."""
    return float((results.heartbeat(sweep) or {}).get("started", math.inf))


@contextmanager
def claim_sweep(results: ResultStore, sweep: str) -> Iterator[None]:
    """Make this process the only driver of a sweep, until the end of the context.

    On a file system this is a file lock, which the kernel releases however the process dies. In an object store the heartbeat serves,
    and two drivers that start within a few seconds may both get in. That costs double work but corrupts nothing: rows are identified by
    attempt, and stages by key.

    Raises:
        ConfigError: If another process drives it.
    """
    folder = results.local_folder
    driver = driver_of(results, sweep)
    refusal = ConfigError(
        [
            Fault(
                "",
                f"sweep {sweep} must have one driver at a time, but {driver or 'another process'} is running it",
                Fault.ABSENT,
                f"Wait for it, end it with `sweeper stop {sweep}`, or give this run another --name.",
            )
        ]
    )
    if folder is None:
        if driver is not None:
            raise refusal
        yield
        return
    lock = Path(folder) / "sweeps" / sweep / "lock"
    lock.parent.mkdir(parents=True, exist_ok=True)
    with lock.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise refusal from None
        yield


@contextmanager
def heartbeat(results: ResultStore, sweep: str, stop: Callable[[], None]) -> Iterator[None]:
    """Record every few seconds that this process drives the sweep, and call `stop` when `sweeper stop` requests it."""
    ended, started = threading.Event(), time.time()

    def beat() -> None:
        while True:
            with suppress(StoreError):  # a full disk must not end the sweep here; the recorder reports it
                results.beat(sweep, {"host": socket.gethostname(), "pid": os.getpid(), "time": time.time(), "started": started})
            if ended.wait(HEARTBEAT_EVERY_S):
                return
            if results.read_stop_request(sweep) > started:
                stop()

    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        with suppress(StoreError):
            results.beat(sweep, {"host": socket.gethostname(), "pid": os.getpid(), "time": 0.0})


def stop_sweep(results: ResultStore, sweep: str) -> str:
    """Ask the driver of a sweep, on whichever machine, to end it cleanly.

    Returns:
        A sentence that reports what was done.

    Raises:
        ConfigError: If the sweep is unknown.
    """
    results.check_sweep(sweep)
    driver = driver_of(results, sweep)
    if driver is None:
        return f"{sweep}: is not running, nothing to stop.\n"
    results.ask_to_stop(sweep)
    return f"{sweep}: {driver} was asked to stop; it ends within seconds and keeps all finished work.\n"


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
