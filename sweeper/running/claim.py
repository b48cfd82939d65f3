"""The claim by which a run becomes the only driver of its sweep, and keeps being it.

On a file system the kernel's lock decides, which it releases however a process dies. Other machines may not see that lock, and object
stores have none, so a claim is written as well:

1. Whoever finds the claim of a living run does not start.
2. It writes its own claim, then lists all of them. Listings are consistent, and a claim stays until its run ends. So of two runs at least
   one sees the other, and only a run that sees itself alone holds the sweep.
3. Of several that see each other, the earliest waits until the others have withdrawn, and all others withdraw.

A run that was suspended for so long that it counted as dead may find, when it wakes, that another has taken its place. Then it ends.
"""

from __future__ import annotations

import fcntl
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from orca_core.errors import ConfigError, Fault, StoreError
from sweeper.results.store import ResultStore
from sweeper.running import driver as drivers
from sweeper.running.driver import STALE_AFTER_S, Driver, Process, Watch, stop_command

LOOK_EVERY_S = 1.0
"""Seconds between two looks at the claims of others, while a run waits for its own."""

_STAMP = "%Y%m%dT%H%M%S"


def new_run(after: Iterable[str] = (), now: datetime | None = None) -> str:
    """An id for a run: when it began and a random part. It sorts behind those of the runs `after`, whatever the clocks."""
    stamps = [run.partition("-")[0] for run in after]
    stamp = (now or datetime.now(UTC)).strftime(_STAMP)
    if stamps and stamp <= (last := max(stamps)):
        with suppress(ValueError):
            stamp = (datetime.strptime(last, _STAMP) + timedelta(seconds=1)).strftime(_STAMP)
    return f"{stamp}-{uuid.uuid4().hex[:8]}"


class SweepClaim:
    """The claim of this process to a sweep; `claim_sweep` makes it.

    Attributes:
        run: Id of the run.
        is_lost: Whether another run has taken the sweep over.
        lost_to: That run; None if it has ended again.
    """

    def __init__(self, results: ResultStore, sweep: str, run: str, replaces: frozenset[str], watch: Watch, process: Process) -> None:
        self.run = run
        self.is_lost = False
        self.lost_to: Driver | None = None
        self._results, self._sweep, self._replaces, self._watch, self._process = results, sweep, replaces, watch, process
        self._holds, self._is_asked, self._beats = False, False, 0
        self._began: float | None = None
        self._stop: Callable[[], None] = lambda: None
        self._facts: Callable[[], Mapping[str, Any]] = dict
        self._writing, self._ended = threading.Lock(), threading.Event()
        self._thread = threading.Thread(target=self._keep, daemon=True, name="heartbeat")

    @contextmanager
    def connect(self, stop: Callable[[], None], facts: Callable[[], Mapping[str, Any]] = dict) -> Iterator[None]:
        """Call `stop` if the run must end: `sweeper stop` asks for it, or the claim is lost. Others see `facts()`, JSON data."""
        self._stop, self._facts = stop, facts
        if self.is_lost or self._is_asked:
            stop()
        try:
            yield
        finally:
            self._stop, self._facts = (lambda: None), dict

    def write(self, *, holds: bool = False) -> None:
        """Write the claim, or its next heartbeat.

        Raises:
            StoreError: If it cannot be written.
        """
        with self._writing:
            self._holds = self._holds or holds
            self._beats += 1
            data = {"beats": self._beats, "holds": self._holds, "replaces": sorted(self._replaces), "began": self._began}
            self._results.write_claim(self._sweep, self.run, data | {"facts": dict(self._facts())} | self._process.cells())

    def try_to_hold(self, sleep: Callable[[float], None]) -> bool:
        """Find out whether this run may drive the sweep; the claim is written. False if another one is before it.

        Raises:
            StoreError: If the claims cannot be read or written.
        """
        self._thread.start()
        while True:
            found = {driver.run: driver for driver in self._watch.look(self.run)}
            others = [driver for driver in found.values() if driver.run != self.run and not driver.is_dead]
            if self.run not in found or any(driver.holds or driver.run < self.run for driver in others):
                return False
            if not others:
                break
            sleep(LOOK_EVERY_S / 5)
        self._began = self._results.claims(self._sweep)[self.run].written_at
        self.write(holds=True)
        for run in self._replaces:
            with suppress(StoreError):  # it counts as dead all the same
                self._results.drop_claim(self._sweep, run)
        self._check()  # had this run been suspended just before it took hold, it would have lost the claim by now
        return not self.is_lost

    def close(self) -> None:
        """Withdraw the claim."""
        self._ended.set()
        if self._thread.is_alive():
            self._thread.join()
        with suppress(StoreError):  # it expires
            self._results.drop_claim(self._sweep, self.run)

    def _keep(self) -> None:
        while not self._ended.wait(drivers.HEARTBEAT_EVERY_S):
            with suppress(StoreError):  # a full disk or a store out of reach must not end the sweep here; the recorder reports it
                self.beat()
            if self.is_lost:
                return

    def beat(self) -> None:
        """Find out whether the claim still stands and the run may go on, and write the next heartbeat.

        Raises:
            StoreError: If claims cannot be read or written.
        """
        if self._holds:
            self._check()
        if not self.is_lost:
            self.write()

    def _check(self) -> None:
        found = {driver.run: driver for driver in self._watch.look(self.run)}
        others = [driver for driver in found.values() if driver.run != self.run]
        # Of the second kind there is none, unless a listing was not consistent. Then the later run stays, as its rows are those that count.
        successors = [driver for driver in others if self.run in driver.replaces]
        successors += [driver for driver in others if driver.holds and not driver.is_dead and driver.run > self.run]
        if successors or self.run not in found:
            self.lost_to = successors[0] if successors else None
            self.is_lost = True
            self._stop()
        elif not self._is_asked and self._results.is_asked_to_stop(self._sweep, self.run):
            self._is_asked = True
            self._stop()


@contextmanager
def claim_sweep(
    results: ResultStore,
    sweep: str,
    *,
    wait_minutes: float = 0.0,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
    say: Callable[[str], object] | None = None,
    process: Process | None = None,
) -> Iterator[SweepClaim]:
    """Make this process the only driver of a sweep, until the end of the context.

    Args:
        results: Where the claim is written.
        sweep: Name of the sweep.
        wait_minutes: How long to wait for the claim of a driver that seems to be dead to expire. One that lives is never waited for.
        clock, sleep: Monotonic clock, in seconds, and what waits by it.
        say: Writes why it waits, once; None = to stderr.
        process: The process of the driver; None = this one.

    Raises:
        ConfigError: If another process drives it.
        StoreError: If the claim cannot be written.
    """
    process = process or Process.current()
    with _lock(results, sweep, process) as has_lock:
        watch = Watch(results, sweep, has_lock=has_lock, clock=clock, process=process)
        give_up_at = clock() + wait_minutes * 60
        while True:
            dead = _wait_for_silence(watch, sweep, give_up_at, clock, sleep, say or sys.stderr.write)
            claim = SweepClaim(results, sweep, new_run(dead), frozenset(dead), watch, process)
            try:
                claim.write()
                if claim.try_to_hold(sleep):
                    yield claim
                    return
            finally:
                claim.close()
            sleep(LOOK_EVERY_S)


@contextmanager
def _lock(results: ResultStore, sweep: str, process: Process) -> Iterator[bool]:
    """Hold the kernel's lock of a sweep. False where there is none: in an object store, and on a network file system without locks."""
    if results.local_folder is None:
        yield False
        return
    path = Path(results.local_folder) / "sweeps" / sweep / "lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        is_locked = True
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            known = [driver for driver in Watch(results, sweep, process=process).look() if driver.holds]
            raise _refusal(results, sweep, known[-1] if known else None) from None
        except OSError:
            is_locked = False
        yield is_locked


def _wait_for_silence(
    watch: Watch,
    sweep: str,
    give_up_at: float,
    clock: Callable[[], float],
    sleep: Callable[[float], None],
    say: Callable[[str], object],
) -> list[str]:
    """Wait until no run that might live has a claim. Returns the runs that are dead.

    Raises:
        ConfigError: If one certainly lives, or it takes too long.
    """
    has_said = False
    while True:
        found = watch.look()
        living = [driver for driver in found if not driver.is_dead]
        if not living:
            return [driver.run for driver in found]
        sure = [driver for driver in living if driver.is_sure]
        if sure or clock() >= give_up_at:
            raise _refusal(watch.results, sweep, (sure or living)[0])
        if not has_said:
            has_said, rest = True, max(0.0, STALE_AFTER_S - living[0].age)
            say(
                f"{sweep}: {living[0]} drives this sweep or died a short time ago: its last heartbeat is {living[0].age:.0f} s old. "
                f"Without another one its claim expires in {rest:.0f} s, and this run starts.\n"
            )
        sleep(LOOK_EVERY_S)


def _refusal(results: ResultStore, sweep: str, driver: Driver | None) -> ConfigError:
    by = "another process" if driver is None else f"{driver}, whose last heartbeat was {driver.age:.0f} s ago"
    remedy = f"Wait for it, end it with `{stop_command(results, sweep)}`, or give this run another --name."
    if driver is not None and not driver.is_sure and driver.age <= STALE_AFTER_S:
        rest = STALE_AFTER_S - driver.age
        remedy += f" If it is dead, its claim expires in {rest:.0f} s; --wait MINUTES waits for that."
    return ConfigError([Fault("", f"sweep {sweep} is already being run by {by}", Fault.ABSENT, remedy)])
