"""The driver of a sweep, the process that runs it, as others see it: `status`, `stop`, `clean`, and a second `run`.

Each run writes a claim beside its results, `sweeps/<name>/<run>.claim`, again every few seconds, with a counter that goes up. The age of a
claim is never a difference between the clocks of two machines. It is the modification time of a file that is written now minus that of the
claim, both by the clock of the store. Or, for whoever goes on watching, it is how long the counter has stood still, by the watcher's clock.
"""

from __future__ import annotations

import math
import os
import shlex
import socket
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sweeper.results.store import ResultStore, results_option

HEARTBEAT_EVERY_S = 5.0
STALE_AFTER_S = 30.0
"""Seconds without a heartbeat after which a driver counts as dead."""

MAX_SKEW_S = 5.0
"""Largest difference between the clock of this machine and that of the store, in seconds, that is nothing to tell."""


@dataclass(frozen=True)
class Process:
    """A process, so that another one can find out whether it still exists.

    Args:
        host, pid: For people.
        kernel: Id of the boot of its machine, empty if the system has none.
        namespace: In which `pid` counts; containers have their own.
        born: When it started, so that another process with the same number is not taken for it.
    """

    host: str
    pid: int
    kernel: str = ""
    namespace: str = ""
    born: str = ""

    @classmethod
    def current(cls) -> Process:
        """This process."""
        try:
            namespace = os.readlink("/proc/self/ns/pid")
        except OSError:
            namespace = ""
        return cls(socket.gethostname(), os.getpid(), _read("/proc/sys/kernel/random/boot_id").strip(), namespace, _born(os.getpid()))

    @classmethod
    def parse(cls, data: Mapping[str, Any]) -> Process:
        """A process from the data of a claim, which may be damaged."""
        texts = {name: str(data.get(name, "")) for name in ("kernel", "namespace", "born")}
        pid = data.get("pid")
        return cls(str(data.get("host", "an unknown machine")), pid if isinstance(pid, int) else 0, **texts)

    def cells(self) -> dict[str, Any]:
        """The process as JSON data."""
        return asdict(self)

    def is_next_to(self, other: Process) -> bool:
        """Whether both run on one machine and can see each other."""
        return (self.host, self.kernel, self.namespace) == (other.host, other.kernel, other.namespace)

    def exists(self) -> bool:
        """Whether it exists. Only for a process of this machine."""
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return False
        except PermissionError:
            pass
        return not self.born or _born(self.pid) == self.born


def _read(path: str) -> str:
    try:
        return Path(path).read_text()
    except OSError:  # not on Linux, or no such process
        return ""


def _born(pid: int) -> str:
    """When a process started, in ticks since boot; empty if that is unknown."""
    _, _, after_name = _read(f"/proc/{pid}/stat").rpartition(")")
    fields = after_name.split()
    return fields[19] if len(fields) > 19 else ""


@dataclass(frozen=True)
class Driver:
    """A run that drives a sweep, or wants to, by its claim.

    Args:
        run: Id of the run; later runs have larger ones.
        process: The process.
        age: Seconds since its last heartbeat.
        is_dead: Whether the process has ended without removing its claim, or no longer beats.
        is_sure: Whether it certainly lives: its process is on this machine, or its counter went up while it was watched.
        holds: Whether it drives the sweep. If not, it is about to find out whether it may.
        replaces: Runs that it took for dead.
        began: When it began, in seconds since the epoch by the clock of the store; minus infinity if that is unknown.
        facts: What it last told about the sweep: `running` and `paused`, numbers of trials.
    """

    run: str
    process: Process
    age: float
    is_dead: bool
    is_sure: bool
    holds: bool
    replaces: frozenset[str]
    began: float
    facts: Mapping[str, Any]

    def __str__(self) -> str:
        return f"process {self.process.pid} on {'this machine' if self.process.is_next_to(Process.current()) else self.process.host}"


@dataclass(frozen=True)
class _Beat:
    """A heartbeat and when it was first seen, by the watcher's clock; `age` was its age then, `is_timed` whether that was known."""

    mark: tuple[Any, ...]
    seen_at: float
    age: float
    is_timed: bool
    is_first: bool


class Watch:
    """Watches the claims to a sweep.

    Args:
        results: Where they are.
        sweep: Name of the sweep.
        has_lock: Whether this process holds the lock of the sweep, so that no other driver lives on this machine.
        clock: Monotonic clock of the watcher, in seconds.
        process: Who watches.

    Attributes:
        results: As given.
    """

    def __init__(
        self,
        results: ResultStore,
        sweep: str,
        *,
        has_lock: bool = False,
        clock: Callable[[], float] = time.monotonic,
        process: Process | None = None,
    ) -> None:
        self.results, self._sweep, self._has_lock, self._clock = results, sweep, has_lock, clock
        self._process = process or Process.current()
        self._beats: dict[str, _Beat] = {}

    @property
    def is_timed(self) -> bool:
        """Whether the age of every claim is known. If not, because the store has no clock, it is at least the time it was watched."""
        return all(beat.is_timed for beat in self._beats.values())

    def look(self, own: str = "") -> list[Driver]:
        """Every run that has a claim, dead ones included, the earliest first.

        Args:
            own: Run of the watcher itself, whose age it need not know.

        Raises:
            StoreError: If the claims cannot be read.
        """
        claims = self.results.claims(self._sweep)
        marks = {run: (claim.data.get("beats"), claim.written_at) for run, claim in claims.items()}
        before, self._beats = self._beats, {run: beat for run, beat in self._beats.items() if marks.get(run) == beat.mark}
        fresh = [run for run in claims if run not in self._beats]
        store_time = self.results.store_time(self._sweep) if set(fresh) - {own} else None
        for run in fresh:
            written_at, is_first = claims[run].written_at, run not in before
            is_timed = store_time is not None and written_at is not None
            age = max(0.0, store_time - written_at) if store_time is not None and written_at is not None else 0.0
            self._beats[run] = _Beat(marks[run], self._clock(), age, is_timed, is_first)
        replaced = {run for claim in claims.values() for run in claim.data.get("replaces", ())}
        return [self._driver(run, claims[run].data, run in replaced) for run in sorted(claims)]

    def _driver(self, run: str, data: Mapping[str, Any], is_replaced: bool) -> Driver:
        process, beat = Process.parse(data), self._beats[run]
        age = beat.age + self._clock() - beat.seen_at
        is_here = process.is_next_to(self._process)
        # The kernel gives the lock of a sweep to one process at a time, whichever container it is in.
        is_ended = (is_here and not process.exists()) or (self._has_lock and process.kernel == self._process.kernel != "")
        is_dead = is_replaced or is_ended or age > STALE_AFTER_S
        began, facts = data.get("began"), data.get("facts")
        return Driver(
            run=run,
            process=process,
            age=age,
            is_dead=is_dead,
            is_sure=not is_dead and (is_here or not beat.is_first),
            holds=bool(data.get("holds")),
            replaces=frozenset(data.get("replaces", ())),
            began=float(began) if isinstance(began, int | float) else -math.inf,
            facts=facts if isinstance(facts, dict) else {},
        )


def find_drivers(
    results: ResultStore,
    sweep: str,
    *,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> list[Driver]:
    """The runs that drive a sweep, or are about to; at most one, unless the store is not consistent.

    The answer comes at once, except where a claim exists and the age of it is unknown, as for results that this process may only read:
    then it is watched for two heartbeats.

    Raises:
        StoreError: If the claims cannot be read.
    """
    watch = Watch(results, sweep, clock=clock)
    found = _living(watch)
    if found and not watch.is_timed:
        give_up_at = clock() + 2 * HEARTBEAT_EVERY_S
        while not any(driver.is_sure for driver in found) and clock() < give_up_at:
            sleep(0.5)
            found = _living(watch)
        found = [driver for driver in found if driver.is_sure]
    return found


def _living(watch: Watch) -> list[Driver]:
    return [driver for driver in watch.look() if not driver.is_dead]


def driver_of(results: ResultStore, sweep: str) -> Driver | None:
    """The run that drives a sweep; None if there is none that lives. As text it is the process and its host.

    Raises:
        StoreError: If the claims cannot be read.
    """
    return max(find_drivers(results, sweep), key=lambda driver: (driver.holds, driver.run), default=None)


def stop_command(results: ResultStore, sweep: str) -> str:
    """The command that ends a sweep, to be pasted into a shell."""
    return f"sweeper stop {shlex.quote(sweep)}{results_option(results.uri)}"


def stop_sweep(results: ResultStore, sweep: str) -> str:
    """Ask the driver of a sweep, on whichever machine, to end it cleanly.

    Returns:
        A sentence that reports what was done.

    Raises:
        ConfigError: If the sweep is unknown.
        StoreError: If the driver cannot be found out or asked.
    """
    results.check_sweep(sweep)
    drivers = find_drivers(results, sweep)
    if not drivers:
        return f"{sweep}: is not running, nothing to stop.\n"
    for driver in drivers:
        results.ask_to_stop(sweep, driver.run)
    asked = " and ".join(map(str, drivers))
    if len(drivers) == 1:
        return f"{sweep}: {asked} was asked to stop; it ends within seconds and keeps all finished work.\n"
    return f"{sweep}: {asked} were asked to stop; they end within seconds and keep all finished work.\n"


def clock_skew(results: ResultStore, sweep: str, clock: Callable[[], float] = time.time) -> float | None:
    """By how many seconds the clock of this machine is ahead of the store's; negative if it is behind, None if it cannot be measured.

    Object stores give whole seconds, so half a second either way is nothing, as is the time that the measurement itself took.
    """
    before = clock()
    store_time = results.store_time(sweep)
    after = clock()
    if store_time is None:
        return None
    return before - store_time if before > store_time else min(0.0, after - store_time)
