"""Ctrl-C and SIGTERM, while something runs that can end cleanly."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def stop_on_signal(stop: Callable[[], None]) -> Iterator[None]:
    """Within: `stop` is called on Ctrl-C and on SIGTERM, which batch schedulers send; a second Ctrl-C ends the process immediately.

    Only the main thread of a process gets signals; in any other this does nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def handle(number: int, frame: Any) -> None:
        stop()
        signal.signal(signal.SIGINT, before[signal.SIGINT])

    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    for number in before:
        signal.signal(number, handle)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
