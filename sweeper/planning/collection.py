"""Making a plan without the garbage collector."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def no_collection() -> Iterator[None]:
    """Within: garbage in cycles is not collected. May be nested, and decorates functions.

    The objects of a plan stay and form no cycles. Yet they are many, so Python looks through all of them again and again while they are
    made, which takes a fifth of the time.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
