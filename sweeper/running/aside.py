"""Measurements that may take long, made beside the run."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Generic, TypeVar

from orca_core.errors import StoreError

Value = TypeVar("Value")


class Aside(Generic[Value]):
    """A measurement that is made in a thread, again after a while.

    Args:
        measure: Makes it. If a store is out of reach, the last value stays: that is told elsewhere.
        every_s: Seconds from the beginning of one to the next.
        name: Name of the thread.
        clock: Monotonic clock, in seconds.
    """

    def __init__(self, measure: Callable[[], Value], every_s: float, name: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._measure, self._every_s, self._name, self._clock = measure, every_s, name, clock
        self._value: Value | None = None
        self._next = clock()
        self._is_busy = False

    @property
    def value(self) -> Value | None:
        """What was measured last; None if nothing was yet. Asking for it begins the next measurement if it is time to."""
        if not self._is_busy and self._clock() >= self._next:
            self._is_busy, self._next = True, self._clock() + self._every_s
            threading.Thread(target=self._run, daemon=True, name=self._name).start()
        return self._value

    def _run(self) -> None:
        with suppress(StoreError):
            self._value = self._measure()
        self._is_busy = False
