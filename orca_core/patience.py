"""How long a store is waited for while it is out of reach, and what others can see of such a wait."""

from __future__ import annotations

import math
import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

from orca_core.errors import StoreUnavailableError

T = TypeVar("T")

FIRST_PAUSE_S, LONGEST_PAUSE_S = 1.0, 30.0
"""Seconds between tries: twice as many after each one that fails, give or take a quarter, so that a thousand workers do not try as one."""


@dataclass(frozen=True)
class Trouble:
    """A store that is being waited for.

    Args:
        store: Its URI, without credentials.
        error: What it answered last, or why it did not.
        since: When it was first out of reach, in seconds since the epoch.
        until: When the wait ends, in seconds since the epoch.
    """

    store: str
    error: str
    since: float
    until: float

    def line(self) -> str:
        """The wait in one line."""
        since, until = (time.strftime("%H:%M:%S", time.localtime(moment)) for moment in (self.since, self.until))
        return f"waiting for storage since {since}, until {until} at most: {self.error}"


class Patience:
    """Repeats what fails because a store is out of reach, for a while. May be used by several threads, and shared by several stores.

    Args:
        minutes: How long a store is waited for, >= 0; 0 = not at all. It may be changed while nothing is waiting.
        tell: Called with the trouble when a wait begins, and with None when the store has answered and nothing waits any more, in the
            thread that waits. A wait that is given up ends with an error, and nothing is told.
        pause_s: Seconds before the second try.

    Attributes:
        given_up: The error of the first wait that ended in vain; empty if there was none.

    Example:
        >>> Patience(minutes=30).wait_for("s3://bucket/results", lambda: "answer")
        'answer'
    """

    def __init__(self, minutes: float = 0.0, tell: Callable[[Trouble | None], None] | None = None, pause_s: float = FIRST_PAUSE_S) -> None:
        self.minutes, self.tell, self.given_up = minutes, tell, ""
        self._pause_s = pause_s
        self._waits: dict[object, Trouble] = {}
        self._lock = threading.Lock()
        self._ends_at = math.inf

    @property
    def trouble(self) -> Trouble | None:
        """The longest of the waits that go on now; None if nothing is waiting."""
        with self._lock:
            return min(self._waits.values(), key=lambda wait: wait.since, default=None)

    def stop(self, after_s: float = 0.0) -> None:
        """End the waits that go on, and all later ones, in so many seconds. May be called from any thread, and from a signal handler."""
        self._ends_at = min(self._ends_at, time.monotonic() + after_s)  # no lock: the thread that the signal interrupts may hold it

    @contextmanager
    def lasting(self, minutes: float, tell: Callable[[Trouble | None], None] | None = None) -> Iterator[Patience]:
        """Within: as patient as this, and not stopped yet."""
        before = self.minutes, self.tell
        self.minutes, self.tell = minutes, tell
        self._ends_at, self.given_up = math.inf, ""
        try:
            yield self
        finally:
            self.minutes, self.tell = before
            self._waits.clear()

    def wait_for(self, store: str, attempt: Callable[[], T]) -> T:
        """What `attempt` returns. It is called again as long as it raises `StoreUnavailableError` and there is patience left.

        Args:
            store: What is shown as the store's name.
            attempt: Must do no harm if it is called again after it has been carried out.

        Raises:
            StoreUnavailableError: If the store was out of reach all the time.
        """
        wait, began, pause_s = object(), 0.0, self._pause_s
        since = until = 0.0
        has_answered = False
        try:
            while True:
                try:
                    answer = attempt()
                    has_answered = True
                    return answer
                except StoreUnavailableError as error:
                    now = time.monotonic()
                    if not since:
                        began, since = now, time.time()
                        until = since + self.minutes * 60
                    if error.waited or now >= min(began + self.minutes * 60, self._ends_at):
                        raise self._give_up(error, now - began) from None
                    self._note(wait, Trouble(store, str(error), since, until))
                self._sleep(min(now + pause_s * random.uniform(0.75, 1.25), began + self.minutes * 60))
                pause_s = min(2 * pause_s, LONGEST_PAUSE_S)
        finally:
            self._note(wait, None, is_told=has_answered)

    @contextmanager
    def watching(self, store: str) -> Iterator[None]:
        """Within: an attempt that is not repeated, since another one follows in seconds.

        A store that it finds out of reach counts as waited for until an attempt succeeds. So that is noticed, too, while nothing else is
        written or read.
        """
        wait = ("watched", store)
        try:
            yield
        except StoreUnavailableError as error:
            if self.minutes > 0:
                since = self._waits[wait].since if wait in self._waits else time.time()
                self._note(wait, Trouble(store, str(error), since, since + self.minutes * 60))
                if time.time() >= since + self.minutes * 60:
                    self.given_up = self.given_up or str(error)
            raise
        else:
            self._note(wait, None)

    def _sleep(self, until: float) -> None:
        while (left_s := min(until, self._ends_at) - time.monotonic()) > 0:
            time.sleep(min(left_s, 0.25))  # the wait may be ended meanwhile

    def _give_up(self, error: StoreUnavailableError, waited_s: float) -> StoreUnavailableError:
        if error.waited or self.minutes <= 0:
            return error
        found = StoreUnavailableError(f"{error} It did not answer for {describe_seconds(waited_s)}." if waited_s >= 1 else str(error))
        found.waited = True
        if time.monotonic() < self._ends_at:
            self.given_up = self.given_up or str(found)
        return found

    def _note(self, wait: object, trouble: Trouble | None, is_told: bool = True) -> None:
        with self._lock:
            before = bool(self._waits)
            if trouble is None:
                self._waits.pop(wait, None)
            else:
                self._waits[wait] = trouble
            after = bool(self._waits)
        if self.tell is not None and before != after and is_told:
            self.tell(trouble)


def describe_seconds(seconds: float) -> str:
    """A span of time for people: `45 s`, `14 min`, `2 h 5 min`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min" if minutes else f"{rest} s"
