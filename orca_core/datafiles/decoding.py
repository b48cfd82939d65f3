"""Published files decoded once per node, into plain .npy arrays that are memory-mapped on reading.

A decoded data set is a folder `<cache root>/decoded/<digest>-<CHECKS>/`, where the digest is the task's: content of its files, loader,
version; processes of portable bits have their own, `<digest>-<CHECKS>-portable/`. It is written to a folder beside it and renamed when
complete, so readers see all of it or nothing. A lock lets one process of a node decode while the others wait; the operating system
releases it when a process is killed.
"""

from __future__ import annotations

import errno
import fcntl
import json
import math
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from orca_core.datafiles.expected import refuse
from orca_core.datafiles.npz import BLOCK_BYTES
from orca_core.datafiles.reading import blaming_latest_file, latest_file
from orca_core.datafiles.room import require_disk
from orca_core.errors import DataError, DiskFullError, Fault
from orca_core.numerics import is_pinned
from orca_core.workbench import Workbench

if TYPE_CHECKING:
    import numpy as np


CHECKS = 2
"""Raised when files are refused that were decoded before: what was decoded under weaker checks is not used again. Part of no key."""


class Digested(Protocol):
    """A task or a proxy."""

    @property
    def name(self) -> str:
        """As written in a config."""

    def digest(self) -> str:
        """Identifies its data."""

    def has_known_digest(self) -> bool:
        """Whether that needs no large file to be read."""


class Decoding:
    """What a decoder writes into: arrays by name, and facts that are not arrays."""

    def __init__(self, folder: Path, source: Path | str = "") -> None:
        self.folder, self.source = folder, source
        self.facts: dict[str, Any] = {}
        self._promised = 0

    def require_room(self, num_bytes: int) -> None:
        """Check that arrays of a size in all may be written; where it is known ahead, before the first of them is.

        Raises:
            DataError: If the disk has no room for them, with both numbers.
        """
        require_disk(latest_file() or self.source, self.folder, num_bytes)

    def empty(self, name: str, shape: tuple[int, ...], dtype: str = "float32") -> np.ndarray:
        """A new array on disk, to be filled.

        Raises:
            DataError: If the disk has no room for it beside those before.
        """
        import numpy as np

        self._promised += math.prod(map(int, shape)) * np.dtype(dtype).itemsize  # a file takes its room only while it is filled
        self.require_room(self._promised)
        return np.lib.format.open_memmap(self.folder / f"{name}.npy", mode="w+", dtype=np.dtype(dtype), shape=shape)

    def save(self, name: str, array: np.ndarray, dtype: str = "float32") -> None:
        """A whole array, converted block by block."""
        target = self.empty(name, array.shape, dtype)
        for rows in iterate_blocks(array):
            target[rows] = array[rows]


def decode_once(spec: Digested, decode: Callable[[Decoding], None]) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """The decoded arrays of a task or proxy, and its facts. `decode` is called if they are not in the cache yet.

    Args:
        spec: The task or proxy.
        decode: Writes arrays and facts.

    Arrays are mapped copy-on-write: changes never reach the disk.

    Raises:
        DataError: If a file is not as expected, or the cache cannot be written.
    """
    import numpy as np

    path = _place(spec)
    if not (path / "facts.json").is_file():
        _decode(path, decode, spec.name)
    arrays = {file.stem: np.load(file, mmap_mode="c") for file in sorted(path.glob("*.npy"))}
    return {name: array.view(np.ndarray) for name, array in arrays.items()}, json.loads((path / "facts.json").read_text())


def is_decoded(spec: Digested) -> bool:
    """Whether the decoded arrays of a task or proxy are known to be in the cache, without reading large files to find out."""
    return spec.has_known_digest() and (_place(spec) / "facts.json").is_file()


def _place(spec: Digested) -> Path:
    suffix = "-portable" if is_pinned() else ""  # decoding computes: means, spectrograms
    return Workbench.current().cache_root / "decoded" / f"{spec.digest()[:32]}-{CHECKS}{suffix}"


def _decode(path: Path, decode: Callable[[Decoding], None], name: str) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = (path.parent / f"{path.name}.lock").open("w")
    except OSError as error:
        raise DataError(f"{path.parent}: must be a folder that can be written ({error.strerror}). Choose another cache root.") from None
    with lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if (path / "facts.json").is_file():
            return  # another process was first
        for left in path.parent.glob(f"{path.name}.part*"):  # by a process that was killed
            shutil.rmtree(left, ignore_errors=True)
        folder = Path(tempfile.mkdtemp(prefix=f"{path.name}.part", dir=path.parent))
        try:
            decoding = Decoding(folder, name)
            with blaming_latest_file(name):
                try:
                    decode(decoding)
                except OSError as error:
                    if error.errno != errno.ENOSPC:
                        raise
                    raise DiskFullError(f"{path.parent}: no space is left on the disk of the decoded data") from error
            (folder / "facts.json").write_text(json.dumps(decoding.facts))
            os.replace(folder, path)
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def iterate_blocks(array: np.ndarray) -> Iterator[slice]:
    """Slices of an array's rows, each at most `BLOCK_BYTES` large."""
    row_bytes = max(1, array.nbytes // max(1, len(array)))
    step = max(1, BLOCK_BYTES // row_bytes)
    for start in range(0, len(array), step):
        yield slice(start, start + step)


def refuse_not_finite(path: Path, key: str, array: np.ndarray, sample: str = "row", first: int = 0) -> None:
    """Refuse NaN and infinite values.

    Args:
        path, key: Where they were read.
        array: (n, ...) numbers.
        sample: What the first axis counts, for the message.
        first: Number of the first of the array's samples in the file.

    Raises:
        DataError: With the number of such values and the place of the first, if there are any.
    """
    import numpy as np

    if array.dtype.kind not in "fc":
        return
    bad, place = 0, ""
    for rows in iterate_blocks(array) if array.ndim else [()]:
        wrong = ~np.isfinite(array[rows])
        if not place and wrong.any():
            row, *rest = np.argwhere(wrong)[0].tolist() if array.ndim else [0]
            start = rows.start if isinstance(rows, slice) else 0
            place = f"in {sample} {first + start + row}, at {rest}" if rest else f"at {sample} {first + start + row}"
        bad += int(wrong.sum())
    if bad:
        rule = f"must have no NaN and no infinite value, but has {bad}: the first {place}"
        refuse([Fault(key, rule, Fault.ABSENT, "Get the file again.").text(str(path))])


def to_class_ids(
    path: Path, key: str, array: np.ndarray, classes: range | None = None, first: int = 0, most: int | None = None
) -> np.ndarray:
    """Class ids (n,) int64 from 0, of whole numbers of any dtype.

    Args:
        path, key: Where they were read.
        array: (n,) numbers.
        classes: The known ids; None = all that are found.
        first: Number of the first class in the file.
        most: Number of classes as published, which is an upper bound; None = as many as there are rows.

    Raises:
        DataError: If some are not whole numbers, or not ids of a known or possible class.
    """
    import numpy as np

    refuse_not_finite(path, key, array)
    bound = len(classes) if classes is not None else most if most is not None else len(array)
    # Compared as they are: what is no whole number, or too large for one, must not be converted.
    wrong = (array < first) | (array >= first + bound) | (array != np.floor(array))
    if wrong.any():
        published = "" if most is None else f" from {first} to {first + most - 1}, as published,"
        rule = f"must be whole numbers{published or f' from {first} on, below the number of rows,'}"
        if classes is not None:
            rule = f"must be {first} to {first + len(classes) - 1} as in train,"
        refuse([Fault(key, rule.rstrip(","), np.unique(array[wrong])[:5].tolist(), "Is it another version of the data?").text(str(path))])
    ids: np.ndarray = array.astype(np.int64) - first
    return ids
