"""Where data lies, where decoded data is kept, and what a process keeps loaded between trials.

One object is passed to what runs trials. Specs are found by name deep inside validators, which have no argument for it, so an entry point
makes its workbench current for a block, and everything below asks for the current one.
"""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Callable, Generator, Hashable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import lru_cache, wraps
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")
Y = TypeVar("Y")

GIB = 2**30

CACHE_ROOT = "~/.cache/orca-sweeper"

ARTIFACT_CACHE_GIB = 10.0
"""Size of the copies of artifacts on a machine's own disk, unless it is set."""


class Workbench:
    """The folders that trials read and write beside their store, and small caches of what they load.

    Args:
        data_root: Folder that the paths of published data start from.
        cache_root: Folder for decoded data and digests of large files. It need not exist, and may be deleted at any time.
        max_data_gib: Largest size of an array that a file declares, > 0; None = what memory and disk have room for. It decides whether
            data is read, never what is read.
        artifact_cache_gib: Most that copies of artifacts of object stores may take in the cache root, in GiB, >= 0; 0 = no copies.

    Attributes:
        copies: Path of the user's own data, as names have it -> its copy on this machine, for data that came from another one.

    Relative paths are relative to the working folder at the time; `~` is the user's home folder.

    Example:
        >>> bench = Workbench(data_root="/data")
        >>> with bench.use():
        ...     Workbench.current() is bench
        True
    """

    def __init__(
        self,
        data_root: str | Path = "data",
        cache_root: str | Path = CACHE_ROOT,
        max_data_gib: float | None = None,
        artifact_cache_gib: float = ARTIFACT_CACHE_GIB,
    ) -> None:
        if max_data_gib is not None and not max_data_gib > 0:
            raise ValueError(f"max_data_gib must be greater than 0, but is {max_data_gib}")
        if not 0 <= artifact_cache_gib < float("inf"):
            raise ValueError(f"artifact_cache_gib must be a number from 0, but is {artifact_cache_gib}")
        self.data_root = Path(os.path.abspath(Path(data_root).expanduser()))
        self.cache_root = Path(os.path.abspath(Path(cache_root).expanduser()))
        self.max_data_gib = max_data_gib
        self.artifact_cache_gib = artifact_cache_gib
        self.copies: dict[str, Path] = {}
        self._caches: dict[Hashable, OrderedDict[Hashable, Any]] = {}

    def __repr__(self) -> str:
        return f"Workbench({str(self.data_root)!r}, {str(self.cache_root)!r})"

    @staticmethod
    def current() -> Workbench:
        """The innermost workbench in use, else the process's own one, which has the default folders."""
        return _in_use.get() or _own_workbench()

    @staticmethod
    def in_use() -> Workbench | None:
        """The innermost workbench in use, if there is one."""
        return _in_use.get()

    @contextmanager
    def use(self) -> Iterator[Workbench]:
        """Within: this workbench is the current one, in this thread."""
        token = _in_use.set(self)
        try:
            yield self
        finally:
            _in_use.reset(token)

    def drive(self, steps: Generator[Y, None, T]) -> Generator[Y, None, T]:
        """Run each step of a generator with this workbench in use; between the steps, the caller's stays the current one."""
        try:
            while True:
                with self.use():
                    try:
                        value = next(steps)
                    except StopIteration as stop:
                        result: T = stop.value
                        return result
                yield value
        finally:
            with self.use():
                steps.close()

    def recall(self, cache: Hashable, key: Hashable, make: Callable[[], T], maxsize: int) -> T:
        """An entry of one of the caches, made if it is not there; the least recently used entries beyond `maxsize` are dropped.

        Args:
            cache: Name of the cache.
            key: Of the entry.
            make: Makes the entry.
            maxsize: Largest number of entries in the cache.
        """
        entries = self._caches.setdefault(cache, OrderedDict())
        if key not in entries:
            entries[key] = make()
            while len(entries) > maxsize:
                entries.popitem(last=False)
        entries.move_to_end(key)
        entry: T = entries[key]
        return entry

    def locate(self, path: str) -> Path:
        """Where a file or folder of the user's own data is that the name of a task or proxy gives: its copy, if there is one."""
        return self.copies.get(path) or Path(path).expanduser()

    def clear(self) -> None:
        """Drop everything that is kept loaded: bodies, tasks, digests, lists of files. What is needed again is loaded again."""
        self._caches.clear()


def memoize(maxsize: int) -> Callable[[Callable[P, T]], Callable[P, T]]:
    """Keep a function's latest results in the current workbench, by its arguments, which must be hashable.

    Args:
        maxsize: Largest number of results kept.
    """

    def decorate(function: Callable[P, T]) -> Callable[P, T]:
        @wraps(function)
        def call(*args: P.args, **kwargs: P.kwargs) -> T:
            key = (args, tuple(sorted(kwargs.items())))
            return Workbench.current().recall(call, key, lambda: function(*args, **kwargs), maxsize)

        return call

    return decorate


_in_use: ContextVar[Workbench | None] = ContextVar("workbench", default=None)


@lru_cache(maxsize=1)
def _own_workbench() -> Workbench:
    return Workbench()
