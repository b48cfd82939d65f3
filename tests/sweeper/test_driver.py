"""The process that runs a sweep: one at a time, on any store and with any clocks; seen by others, stopped by others."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
from object_store import ObjectStore
from pyarrow import fs

from orca_core.errors import ConfigError, StoreError
from sweeper.results import ResultStore
from sweeper.running import claim as claims
from sweeper.running.claim import SweepClaim, claim_sweep, new_run
from sweeper.running.driver import (
    HEARTBEAT_EVERY_S,
    STALE_AFTER_S,
    Process,
    clock_skew,
    driver_of,
    find_drivers,
    stop_sweep,
)

PLAN = {"metric": "valid_error", "trials": {}, "proposed_later": 0}
RUN = "20260101T000000-a"


@pytest.fixture
def store(tmp_path) -> ResultStore:
    store = ResultStore(tmp_path / "results")
    store.save_plan("s", "p", PLAN)
    return store


class World:
    """An object store, machines and their clocks; time passes only when someone sleeps.

    Attributes:
        now: Seconds that have passed.
    """

    def __init__(self) -> None:
        self.now = 0.0
        self.is_out = False
        self.objects = ObjectStore(lambda: 1.7e9 + self.now, self._turn)

    def _turn(self) -> None:
        if self.is_out:
            raise OSError("503 Slow Down")

    def clock(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds

    def results(self) -> ResultStore:
        store = ResultStore("bucket")
        store._files.fs, store._files.root = fs.PyFileSystem(self.objects), "bucket"
        return store

    def claim(self, host: str, wait_minutes: float = 15.0, **options):
        options = {"clock": self.clock, "sleep": self.sleep, "say": lambda text: None} | options
        return claim_sweep(self.results(), "s", wait_minutes=wait_minutes, process=machine(host), **options)

    def driver(self):
        return driver_of(self.results(), "s")


@pytest.fixture
def world() -> World:
    world = World()
    world.results().save_plan("s", "p", PLAN)
    return world


def machine(host: str) -> Process:
    """A process on another machine."""
    return Process(host, 7, kernel=f"kernel of {host}")


# ------------------------------------------------------------------------------------------------------------ seen from outside


def write(store: ResultStore, process: Process, *, ago: float = 0.0, run: str = RUN) -> None:
    store.write_claim("s", run, {"beats": 1, "holds": True} | process.cells())
    file = Path(store.uri, "sweeps", "s", f"{run}.claim")
    os.utime(file, (time.time() - ago,) * 2)


@pytest.mark.parametrize(
    ("process", "ago", "driver"),
    [
        (Process("elsewhere", 7), 0, "process 7 on elsewhere"),
        (Process("elsewhere", 7), STALE_AFTER_S + 1, None),
        (Process.current(), 0, f"process {os.getpid()} on this machine"),
        (Process.current(), STALE_AFTER_S + 1, None),
        (replace(Process.current(), pid=2**22 + 1), 0, None),
        (replace(Process.current(), born="1"), 0, None),
        (replace(Process.current(), pid=2**22 + 1, namespace="pid:[1]"), 0, f"process {2**22 + 1} on {Process.current().host}"),
    ],
    ids=["another machine", "stale", "this process", "suspended", "a process that is gone", "its number used again", "in a container"],
)
def test_a_driver_is_seen_while_it_lives(store, process, ago, driver):
    write(store, process, ago=ago)
    found = driver_of(store, "s")
    assert (None if found is None else str(found)) == driver


def test_a_damaged_claim_counts_until_it_is_old(store):
    file = Path(store.uri, "sweeps", "s", f"{RUN}.claim")
    file.write_text("{")
    assert str(driver_of(store, "s")) == "process 0 on an unknown machine"
    os.utime(file, (1, 1))
    assert driver_of(store, "s") is None


@pytest.mark.parametrize("ahead", [-3600.0, 3600.0])
def test_the_clocks_of_machines_do_not_matter(world, monkeypatch, ahead):
    with world.claim("elsewhere"):
        monkeypatch.setattr(time, "time", lambda: 1.7e9 + world.now + ahead)
        assert str(world.driver()) == "process 7 on elsewhere"
        assert "was asked to stop" in stop_sweep(world.results(), "s")
        with pytest.raises(ConfigError, match="already being run by"), world.claim("third", wait_minutes=0.0):
            pass
        world.now += STALE_AFTER_S + 1
        assert world.driver() is None
    assert clock_skew(world.results(), "s", time.time) == pytest.approx(ahead, abs=1)


def test_clocks_that_agree_show_no_skew(store):
    assert abs(clock_skew(store, "s")) < 1


@pytest.mark.parametrize("beats", [True, False])
def test_without_a_clock_of_the_store_a_claim_is_watched(world, monkeypatch, beats):
    """As for results that a process may only read."""
    results = world.results()
    monkeypatch.setattr(results, "store_time", lambda name: None)
    with world.claim("elsewhere") as claim:

        def sleep(seconds: float) -> None:
            world.now += seconds
            if beats and world.now % HEARTBEAT_EVERY_S == 0:
                claim.beat()

        found = find_drivers(results, "s", clock=world.clock, sleep=sleep)
        assert [driver.run for driver in found] == ([claim.run] if beats else [])
        assert world.now <= 2 * HEARTBEAT_EVERY_S


# ------------------------------------------------------------------------------------------------------------ one at a time


def test_a_second_driver_is_refused_and_the_next_one_is_not(store):
    with claim_sweep(store, "s"), pytest.raises(ConfigError, match="whose last heartbeat was 0 s ago"), claim_sweep(store, "s"):
        pass
    with claim_sweep(store, "s"), claim_sweep(store, "another"):
        pass
    assert store.claims("s") == {}
    assert driver_of(store, "s") is None


def test_a_file_system_without_locks_is_claimed_all_the_same(store, monkeypatch):
    def flock(file: object, operation: int) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr("fcntl.flock", flock)
    with claim_sweep(store, "s"), pytest.raises(ConfigError, match=r"run by process .* on this machine"), claim_sweep(store, "s"):
        pass


def test_a_killed_driver_of_this_machine_makes_nobody_wait(store):
    code = (
        "import os, sys; from sweeper.results import ResultStore; from sweeper.running.claim import claim_sweep\n"
        "with claim_sweep(ResultStore(sys.argv[1]), 's'): os.kill(os.getpid(), 9)"
    )
    subprocess.run([sys.executable, "-c", code, store.uri], check=False, timeout=60)
    (dead,) = store.claims("s")
    assert driver_of(store, "s") is None
    with claim_sweep(store, "s") as claim:
        assert list(store.claims("s")) == [claim.run]
        assert claim.run > dead


def test_a_driver_in_another_container_of_this_machine_is_dead_if_its_lock_is_free(store):
    write(store, replace(Process.current(), host="container", namespace="pid:[1]"))
    with claim_sweep(store, "s", say=pytest.fail):
        pass


def test_a_start_waits_for_the_claim_of_a_dead_driver_to_expire(world):
    said: list[str] = []
    world.results().write_claim("s", RUN, {"beats": 3, "holds": True} | machine("dead").cells())
    world.now += 12
    with world.claim("new", say=said.append) as claim:
        assert STALE_AFTER_S <= world.now <= STALE_AFTER_S + 3
        assert list(world.results().claims("s")) == [claim.run]
    assert len(said) == 1
    assert "process 7 on dead" in said[0]
    assert "its last heartbeat is 12 s old" in said[0]
    assert "expires in 18 s" in said[0]


@pytest.mark.parametrize(("minutes", "waited"), [(0.0, 0.0), (0.1, 6.0)])
def test_wait_bounds_the_wait(world, minutes, waited):
    world.results().write_claim("s", RUN, {"beats": 3, "holds": True} | machine("dead").cells())
    with pytest.raises(ConfigError, match=r"If it is dead, its claim expires in .* s; --wait MINUTES waits for that"):  # noqa: SIM117
        with world.claim("new", wait_minutes=minutes):
            pass
    assert world.now == pytest.approx(waited, abs=1)


def test_a_driver_that_beats_is_refused_within_a_heartbeat(world):
    with world.claim("first") as claim:

        def sleep(seconds: float) -> None:
            world.now += seconds
            if world.now >= 4:
                claim.beat()

        with pytest.raises(ConfigError, match="run by process 7 on first,") as caught, world.claim("second", sleep=sleep):
            pass
        assert world.now <= HEARTBEAT_EVERY_S
        assert "--wait" not in str(caught.value), "it lives"


class Turns:
    """Lets threads go on one at a time, in a random order, and time pass when all of them sleep."""

    def __init__(self, seed: int, num_threads: int) -> None:
        self.now, self._random, self._condition = 0.0, random.Random(seed), threading.Condition()
        self._waiting: dict[int, float] = {}
        self._chosen = 0
        self._alive = num_threads

    def wait(self, seconds: float = 0.0) -> None:
        me = threading.get_ident()
        with self._condition:
            self._waiting[me] = self.now + seconds
            self._choose()
            self._condition.wait_for(lambda: self._chosen == me)
            self._chosen = 0

    def end(self) -> None:
        with self._condition:
            self._alive -= 1
            self._choose()

    def _choose(self) -> None:
        if self._waiting and len(self._waiting) == self._alive and not self._chosen:
            self.now = max(self.now, min(self._waiting.values()))
            self._chosen = self._random.choice([thread for thread, at in self._waiting.items() if at <= self.now])
            del self._waiting[self._chosen]
            self._condition.notify_all()


def start_at_once(seed: int, hosts: list[str], offsets: float, monkeypatch: pytest.MonkeyPatch) -> tuple[int, int]:
    """Let machines start one sweep and hold it for 30 s, in an order by the seed; the greatest number at once, and the number in all."""
    turns, world = Turns(seed, len(hosts)), World()
    world.objects = ObjectStore(lambda: turns.now, turns.wait)
    delays = [turns._random.uniform(0, offsets) for _ in hosts]
    inside, most, total = 0, 0, 0
    monkeypatch.setattr(claims, "new_run", lambda dead: f"20260101T000000-{turns._random.randrange(10**8)}")

    def drive(host: str, delay: float) -> None:
        nonlocal inside, most, total
        turns.wait(delay)
        with suppress(ConfigError), world.claim(host, clock=lambda: turns.now, sleep=turns.wait) as claim:
            inside, total = inside + 1, total + 1
            most = max(most, inside)
            for _ in range(10):
                turns.wait(3.0)
                claim.beat()
                assert not claim.is_lost
            inside -= 1

    def thread(host: str, delay: float) -> None:
        try:
            drive(host, delay)
        finally:
            turns.end()

    threads = [threading.Thread(target=thread, args=(host, delay)) for host, delay in zip(hosts, delays, strict=True)]
    for one in threads:
        one.start()
    for one in threads:
        one.join(30)
        assert not one.is_alive()
    return most, total


@pytest.mark.parametrize("offsets", [0.0, 0.5, 10.0])
def test_of_several_starts_on_an_object_store_one_gets_in(monkeypatch, offsets):
    for seed in range(100):
        most, total = start_at_once(seed, ["a", "b", "c"][: 2 + seed % 2], offsets, monkeypatch)
        assert (most, total) == (1, 1), seed


@pytest.fixture(scope="module")
def bucket() -> Iterator[str]:
    """The URI of a bucket on an S3 server of this machine."""
    server = pytest.importorskip("moto.server").ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ACCESS_KEY_ID", "test")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "test")
        options = f"endpoint_override={host}:{port}&scheme=http&allow_bucket_creation=true"
        fs.FileSystem.from_uri(f"s3://bucket?{options}")[0].create_dir("bucket")
        yield f"s3://bucket/results?{options}"
    server.stop()


def test_of_two_starts_on_s3_one_gets_in(bucket, monkeypatch):
    monkeypatch.setattr(claims, "LOOK_EVERY_S", 0.05)
    monkeypatch.setattr("sweeper.running.driver.HEARTBEAT_EVERY_S", 0.3)
    for number, offset in enumerate((0.0, 0.0, 0.01, 0.02, 0.05, 0.1)):
        inside: list[str] = []
        refused: list[str] = []
        is_over = threading.Event()

        def drive(host: str, sweep: str = f"s{number}", inside=inside, refused=refused, is_over=is_over) -> None:
            try:
                with claim_sweep(ResultStore(bucket), sweep, wait_minutes=1.0, say=lambda text: None, process=machine(host)):
                    inside.append(host)
                    is_over.wait(20)
            except ConfigError as error:
                refused.append(str(error))
                is_over.set()

        threads = [threading.Thread(target=drive, args=(host,)) for host in ("first", "second")]
        for thread in threads:
            thread.start()
            time.sleep(offset)
        for thread in threads:
            thread.join(30)
        assert (len(inside), len(refused)) == (1, 1), offset
        assert f"run by process 7 on {inside[0]}," in refused[0]
        assert ResultStore(bucket).claims(f"s{number}") == {}


def test_a_driver_on_s3_is_seen_and_stopped_by_the_clock_of_the_bucket(bucket, monkeypatch):
    results, stopped = ResultStore(bucket), threading.Event()
    results.save_plan("seen", "p", PLAN)
    with claim_sweep(results, "seen", process=machine("elsewhere")) as claim, claim.connect(stopped.set):
        skew = clock_skew(results, "seen", lambda: time.time() + 3600)
        assert str(driver_of(results, "seen")) == "process 7 on elsewhere"
        assert "was asked to stop" in stop_sweep(results, "seen")
        claim.beat()
        assert stopped.is_set()
    assert skew == pytest.approx(3600, abs=2)
    assert driver_of(results, "seen") is None


# ------------------------------------------------------------------------------------------------------------ while it runs


def test_a_driver_that_was_suspended_finds_its_sweep_taken_over_and_stops(world):
    stopped = threading.Event()
    with world.claim("laptop") as suspended, suspended.connect(stopped.set):
        world.now += 3600
        with world.claim("new") as claim:
            assert claim.run > suspended.run
            suspended.beat()
            assert suspended.is_lost
            assert str(suspended.lost_to) == "process 7 on new"
            assert stopped.is_set()
            claim.beat()
            assert not claim.is_lost
    assert world.results().claims("s") == {}


def test_a_driver_that_was_suspended_while_another_ran_and_ended_stops(world):
    with world.claim("laptop") as suspended:
        world.now += 3600
        with world.claim("new"):
            pass
        suspended.beat()
        assert suspended.is_lost
        assert suspended.lost_to is None


def test_a_driver_that_was_suspended_while_it_took_hold_stops(world, monkeypatch):
    """The last moment before it holds the sweep: it has seen itself alone."""
    write_claim, others = SweepClaim.write, []

    def write(claim: SweepClaim, *, holds: bool = False) -> None:
        if holds and not others:
            others.append(world.claim("new"))
            world.now += 3600
            others[0].__enter__()
        write_claim(claim, holds=holds)

    monkeypatch.setattr(SweepClaim, "write", write)
    with pytest.raises(ConfigError, match="run by process 7 on new,"), world.claim("laptop", wait_minutes=0.0):
        pass
    others[0].__exit__(None, None, None)


def test_an_outage_of_the_store_ends_no_run(world, monkeypatch):
    monkeypatch.setattr("sweeper.running.driver.HEARTBEAT_EVERY_S", 0.02)
    with world.claim("here") as claim, claim.connect(lambda: pytest.fail("stopped")):
        world.is_out = True
        with pytest.raises(StoreError):
            claim.beat()
        time.sleep(0.1)
        world.is_out = False
        before = world.results().claims("s")[claim.run].data["beats"]
        wait_for(lambda: world.results().claims("s")[claim.run].data["beats"] > before)
        assert not claim.is_lost


def test_others_see_what_a_driver_tells_of_its_trials(store):
    with claim_sweep(store, "s") as claim, claim.connect(lambda: None, lambda: {"running": 3, "paused": 1}):
        claim.beat()
        assert driver_of(store, "s").facts == {"running": 3, "paused": 1}


def test_stop_reaches_the_driver(store, monkeypatch):
    monkeypatch.setattr("sweeper.running.driver.HEARTBEAT_EVERY_S", 0.05)
    stopped = threading.Event()
    with claim_sweep(store, "s") as claim, claim.connect(stopped.set):
        assert "was asked to stop" in stop_sweep(store, "s")
        assert stopped.wait(10)


def test_a_stop_that_comes_before_the_trials_is_kept_for_them(store):
    stopped = threading.Event()
    with claim_sweep(store, "s") as claim:
        stop_sweep(store, "s")
        claim.beat()
        with claim.connect(stopped.set):
            assert stopped.is_set()


def test_an_old_request_to_stop_does_not_end_the_next_run(store):
    with claim_sweep(store, "s") as claim:
        stop_sweep(store, "s")
    store.ask_to_stop("s", claim.run)  # it comes too late
    with claim_sweep(store, "s") as after, after.connect(lambda: pytest.fail("stopped")):
        after.beat()


def test_stopping_what_does_not_run_says_so(store):
    write(store, machine("elsewhere"), ago=STALE_AFTER_S + 1)
    assert "nothing to stop" in stop_sweep(store, "s")
    with pytest.raises(ConfigError, match="must be the name of a sweep"):
        stop_sweep(store, "t")


def test_runs_are_ordered_by_their_start_whatever_the_clocks():
    assert new_run() < new_run(["29990101T000000-zz"])
    assert new_run(["29990101T000000-zz"]).startswith("29990101T000001-")
    assert new_run(["damaged"])


def wait_for(holds: Callable[[], bool]) -> None:
    for _ in range(200):
        if holds():
            return
        time.sleep(0.05)
    raise AssertionError("it did not come to hold within ten seconds")
