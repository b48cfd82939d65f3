"""Sizes that files declare are held against memory and disk before anything is allocated.

A header of a few bytes can declare terabytes. What is to be held in memory must fit into half of the memory that is free, so that there
is room for a converted copy; what is to be decoded onto the disk must fit into what is free there. `Workbench.max_data_gib` replaces
both bounds. It decides whether data is read, never what is read, so it is part of no key.
"""

from __future__ import annotations

import os
import resource
import shutil
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from orca_core.errors import DataError
from orca_core.workbench import Workbench

MEMORY_SHARE = 0.5
"""Share of the free memory that one array may take."""

GIB = 1 << 30

TOO_SMALL_TO_ASK = 1 << 20
"""Bytes up to which the free memory is not looked at: that takes longer than to read them, and data sets have a million such files."""

CONTROL_GROUP = Path("/sys/fs/cgroup")
_CONTROL_GROUPS = (
    ("memory.max", "memory.current", "memory.stat"),
    ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "memory/memory.stat"),
)
"""Files of version 2 and 1: the limit of a group, what it uses, and how much of that are cached files, which give way."""

BLOCK_BYTES = 512
"""Unit of `st_blocks`."""


def require_memory(path: Path | str, key: str, num_bytes: int) -> None:
    """Check that an array may be read into memory.

    Args:
        path: The file that declares it.
        key: Its name in the file, or empty.
        num_bytes: Its size as declared.

    Raises:
        DataError: If it is larger than half of the free memory, or than the workbench's `max_data_gib`; with both numbers.
    """
    allowed = Workbench.current().max_data_gib
    if allowed is None and num_bytes <= TOO_SMALL_TO_ASK:
        return
    if num_bytes <= (limit := MEMORY_SHARE * free_memory() if allowed is None else allowed * GIB):
        return
    bound = "half of the memory that is free" if allowed is None else "the limit that was set"
    _refuse(path, key, num_bytes, limit, bound)


def require_disk(path: Path | str, folder: Path, num_bytes: int) -> None:
    """Check that decoded data may be written into a folder.

    Args:
        path: What it is decoded from.
        folder: An existing folder, which may have a part of the data already.
        num_bytes: Size of the decoded data, that part included.

    Raises:
        DataError: If it is larger than the free space, or than the workbench's `max_data_gib`; with both numbers.
    """
    allowed = Workbench.current().max_data_gib
    written = sum(file.stat().st_blocks * BLOCK_BYTES for file in folder.iterdir())
    if num_bytes <= (limit := shutil.disk_usage(folder).free + written if allowed is None else allowed * GIB):
        return
    bound = f"what is free on the disk of {folder.parent}" if allowed is None else "the limit that was set"
    _refuse(path, "", num_bytes, limit, bound)


def _refuse(path: Path | str, key: str, num_bytes: int, limit: float, bound: str) -> None:
    where = f"{path}: {key}: " if key else f"{path}: "
    remedy = 'Is the file damaged? If it is right, raise the limit, see "Sizes" in docs/tasks.md.'
    raise DataError(f"{where}must take at most {show_bytes(limit)}, {bound}, but declares {show_bytes(num_bytes)}. {remedy}")


def show_bytes(number: float) -> str:
    """A number of bytes in a unit that fits.

    >>> show_bytes(3 * 2**30), show_bytes(40)
    ('3.0 GiB', '40 bytes')
    """
    for unit, size in (("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)):
        if number >= size:
            return f"{number / size:.1f} {unit}"
    return f"{number:.0f} bytes"


def free_memory() -> int:
    """Bytes that this process can still take: of the machine, of its control group, and under its own limit, whichever is least."""
    return min(_free_memory())


def _free_memory() -> Iterator[int]:
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        yield next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration):  # not Linux
        yield os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    for most, used, statistics in _CONTROL_GROUPS:
        with suppress(OSError, ValueError):  # no control group, or none that limits memory: "max"
            limit, held = (int((CONTROL_GROUP / name).read_text(encoding="ascii")) for name in (most, used))
            lines = (CONTROL_GROUP / statistics).read_text(encoding="ascii").splitlines()
            cached = sum(int(line.split()[1]) for line in lines if line.startswith(("inactive_file ", "active_file ")))
            yield max(0, limit - held + cached)
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    if limit != resource.RLIM_INFINITY:
        with suppress(OSError, ValueError):
            pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
            yield max(0, limit - pages * os.sysconf("SC_PAGE_SIZE"))
