"""The process that runs a sweep: one at a time, seen by others, stopped by others."""

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
    """Where a driver is at work on a sweep; None if its heartbeat is stale, or its process is gone from this machine."""
    beat = results.heartbeat(sweep)
    if beat is None or time.time() - beat["time"] > STALE_AFTER_S:
        return None
    here = beat["host"] == socket.gethostname()
    if here and not _alive(beat["pid"]):
        return None
    return f"process {beat['pid']} on {'this machine' if here else beat['host']}"


def driver_began(results: ResultStore, sweep: str) -> float:
    """When the driver of a sweep began, in seconds since the epoch; infinite if its heartbeat does not say so."""
    return float((results.heartbeat(sweep) or {}).get("started", math.inf))


@contextmanager
def only_driver(results: ResultStore, sweep: str) -> Iterator[None]:
    """Within: this process drives the sweep.

    A file lock where the results lie on a file system, which ends with the process however it dies; elsewhere the heartbeat
    tells. Two drivers that both got in would do no harm but double work: rows are known by attempt, and stages by key.

    Raises:
        ConfigError: If another process drives it.
    """
    folder = results.local_folder
    driver = driver_of(results, sweep)
    refusal = ConfigError(
        [
            Fault(
                "",
                f"sweep {sweep} must not be run twice at once: {driver or 'another process'} runs it",
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
    """Within: say every few seconds that this process drives the sweep, and call `stop` when `sweeper stop` asks for it."""
    ended, started = threading.Event(), time.time()

    def beat() -> None:
        while True:
            with suppress(StoreError):  # a full disk must not end the sweep here; the rows tell of it
                results.beat(sweep, {"host": socket.gethostname(), "pid": os.getpid(), "time": time.time(), "started": started})
            if ended.wait(HEARTBEAT_EVERY_S):
                return
            if results.stop_asked(sweep) > started:
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
    """Ask the driver of a sweep, wherever it is, to end it cleanly.

    Returns:
        What was done, as a sentence.

    Raises:
        ConfigError: If there is no such sweep.
    """
    results.check_sweep(sweep)
    driver = driver_of(results, sweep)
    if driver is None:
        return f"{sweep}: no driver is at work, nothing to stop.\n"
    results.ask_to_stop(sweep)
    return f"{sweep}: {driver} was asked to stop; it ends within seconds, with everything kept.\n"


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
