"""The process that runs a sweep: one at a time, seen by others, stopped by others."""

from __future__ import annotations

import os
import socket
import threading
import time

import pytest

from orca_core.errors import ConfigError
from sweeper.results import ResultStore
from sweeper.running.driver import STALE_AFTER_S, claim_sweep, driver_of, heartbeat, stop_sweep


@pytest.fixture
def store(tmp_path) -> ResultStore:
    store = ResultStore(tmp_path / "results")
    store.save_plan("s", "p", {"metric": "valid_error", "trials": {}, "proposed_later": 0})
    return store


def beat(store: ResultStore, *, host: str = "elsewhere", pid: int = 1, ago: float = 0.0) -> None:
    store.beat("s", {"host": host, "pid": pid, "time": time.time() - ago})


@pytest.mark.parametrize(
    ("said", "driver"),
    [
        ({"host": "elsewhere", "pid": 7}, "process 7 on elsewhere"),
        ({"host": "elsewhere", "pid": 7, "ago": STALE_AFTER_S + 1}, None),
        ({"host": socket.gethostname(), "pid": os.getpid()}, f"process {os.getpid()} on this machine"),
        ({"host": socket.gethostname(), "pid": 2**22 + 1}, None),
    ],
    ids=["another machine", "stale", "this process", "a process that is gone"],
)
def test_a_driver_is_seen_while_it_lives(store, said, driver):
    beat(store, **said)
    assert driver_of(store, "s") == driver


def test_a_second_driver_is_refused_and_the_next_one_is_not(store):
    with claim_sweep(store, "s"), pytest.raises(ConfigError, match="sweep s must have one driver at a time"), claim_sweep(store, "s"):
        pass
    with claim_sweep(store, "s"), claim_sweep(store, "another"):
        pass


def test_a_heartbeat_ends_with_its_sweep(store):
    with heartbeat(store, "s", stop=lambda: None):
        wait_for(lambda: driver_of(store, "s") is not None)
    assert driver_of(store, "s") is None


def test_stop_reaches_the_driver(store, monkeypatch):
    monkeypatch.setattr("sweeper.running.driver.HEARTBEAT_EVERY_S", 0.05)
    stopped = threading.Event()
    with heartbeat(store, "s", stopped.set):
        wait_for(lambda: driver_of(store, "s") is not None)
        assert "was asked to stop" in stop_sweep(store, "s")
        assert stopped.wait(10)


def test_an_old_request_to_stop_does_not_end_the_next_run(store, monkeypatch):
    monkeypatch.setattr("sweeper.running.driver.HEARTBEAT_EVERY_S", 0.05)
    store.ask_to_stop("s")
    stopped = threading.Event()
    with heartbeat(store, "s", stopped.set):
        assert not stopped.wait(0.5)


def test_stopping_what_does_not_run_says_so(store):
    beat(store, ago=STALE_AFTER_S + 1)
    assert "nothing to stop" in stop_sweep(store, "s")
    with pytest.raises(ConfigError, match="must be the name of a sweep"):
        stop_sweep(store, "t")


def wait_for(holds) -> None:
    for _ in range(200):
        if holds():
            return
        time.sleep(0.05)
    raise AssertionError("it did not come to hold within ten seconds")
