"""Chooses the workbench: the folders of data and caches, and how large data may be.

Only this module reads $SWEEPER_DATA, $SWEEPER_CACHE, $SWEEPER_MAX_DATA_GIB, $SWEEPER_ARTIFACT_CACHE_GIB and $SWEEPER_SEND_DATA_MIB.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from functools import lru_cache, wraps
from pathlib import Path
from typing import ParamSpec, TypeVar

from orca_core.errors import ConfigError, Fault
from orca_core.workbench import ARTIFACT_CACHE_GIB, CACHE_ROOT, Workbench

P = ParamSpec("P")
T = TypeVar("T")


def choose_workbench(data: Path | None = None) -> Workbench:
    """The workbench that the caller uses already, else one made from the environment variables.

    Args:
        data: The option `--data`: data root to use instead.

    Raises:
        ConfigError: If `data` is not an existing folder, or $SWEEPER_MAX_DATA_GIB not a number greater than 0, or
            $SWEEPER_ARTIFACT_CACHE_GIB not a number from 0.
    """
    chosen = Workbench.in_use() or _open_from_environment()
    if data is None:
        return chosen
    if not data.expanduser().is_dir():
        raise ConfigError([Fault("--data", "must be an existing folder", str(data))])
    return open_workbench(data, chosen.cache_root, chosen.max_data_gib, chosen.artifact_cache_gib)


def _open_from_environment() -> Workbench:
    most = os.environ.get("SWEEPER_MAX_DATA_GIB") or None
    copies = os.environ.get("SWEEPER_ARTIFACT_CACHE_GIB") or None
    faults = []
    if most is not None and not _as_number(most) > 0:
        faults.append(Fault("$SWEEPER_MAX_DATA_GIB", "must be a number of GiB greater than 0", most))
    if copies is not None and not 0 <= _as_number(copies) < math.inf:
        faults.append(Fault("$SWEEPER_ARTIFACT_CACHE_GIB", "must be a number of GiB from 0", copies))
    if faults:
        raise ConfigError(faults)
    folders = os.environ.get("SWEEPER_DATA") or "data", os.environ.get("SWEEPER_CACHE") or ""
    return open_workbench(*folders, None if most is None else float(most), ARTIFACT_CACHE_GIB if copies is None else float(copies))


def _as_number(text: str) -> float:
    """The number that a text spells; NaN if it spells none."""
    try:
        return float(text)
    except ValueError:
        return math.nan


def open_workbench(
    data_root: str | Path, cache_root: str | Path = "", max_data_gib: float | None = None, artifact_cache_gib: float = ARTIFACT_CACHE_GIB
) -> Workbench:
    """The process's workbench with these folders. What it has loaded stays loaded until one with other folders is opened.

    Args:
        data_root, cache_root, max_data_gib, artifact_cache_gib: As for `Workbench`; an empty `cache_root` means the default.
    """
    wanted = Workbench(data_root, cache_root or CACHE_ROOT)
    return _reuse(wanted.data_root, wanted.cache_root, max_data_gib, artifact_cache_gib)


def open_on_worker(
    data_root: str, cache_root: str, max_data_gib: float | None = None, artifact_cache_gib: float = ARTIFACT_CACHE_GIB
) -> Workbench:
    """The workbench of a trial that was planned elsewhere: with the folders of that machine where they exist here, else with this one's.

    Args:
        data_root, cache_root: Folders of the machine on which the sweep was started; $SWEEPER_DATA and $SWEEPER_CACHE of this machine
            count where they do not exist.
        max_data_gib, artifact_cache_gib: As for `Workbench`.
    """

    def choose(folder: str, variable: str) -> str:
        return folder if Path(folder).expanduser().is_dir() else os.environ.get(variable) or folder

    folders = choose(data_root, "SWEEPER_DATA"), choose(cache_root, "SWEEPER_CACHE")
    return open_workbench(*folders, max_data_gib, artifact_cache_gib)


DEFAULT_SENT_MIB = 64.0


def sent_mib() -> float:
    """Largest size of a file or folder of the user's own that is sent to the nodes of a cluster, in MiB; 0 = none is.

    Raises:
        ConfigError: If $SWEEPER_SEND_DATA_MIB is not a number of at least 0.
    """
    given = os.environ.get("SWEEPER_SEND_DATA_MIB") or str(DEFAULT_SENT_MIB)
    try:
        if (most := float(given)) >= 0:
            return most
    except ValueError:
        pass
    raise ConfigError([Fault("$SWEEPER_SEND_DATA_MIB", "must be a number of MiB of at least 0", given)])


@lru_cache(maxsize=1)
def _reuse(data_root: Path, cache_root: Path, max_data_gib: float | None, artifact_cache_gib: float) -> Workbench:
    return Workbench(data_root, cache_root, max_data_gib, artifact_cache_gib)


def on_workbench(function: Callable[P, T]) -> Callable[P, T]:
    """Run a function of the Python API on the workbench that `choose_workbench` chooses."""

    @wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> T:
        with choose_workbench().use():
            return function(*args, **kwargs)

    return call


def shorten_home(folder: Path) -> str:
    """Write a folder in the user's home as `~/...`, so that another machine resolves it in its own home; others are unchanged."""
    home = Path.home()
    return f"~/{folder.relative_to(home)}" if folder.is_relative_to(home) else str(folder)
