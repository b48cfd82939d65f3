"""Published files decoded once per node, into plain .npy arrays that are memory-mapped on reading.

A decoded data set is a folder `<cache root>/decoded/<digest>/`, where the digest is the task's: content of its files, loader,
version; processes of portable bits have their own, `<digest>-portable/`. It is written to a folder beside it and renamed when complete,
so readers see all of it or nothing. A lock lets one process of a node decode while the others wait; the operating system releases it
when a process is killed.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from orca_core.datafiles.expected import refuse
from orca_core.errors import DataError, Fault
from orca_core.numerics import is_pinned
from orca_core.workbench import Workbench

if TYPE_CHECKING:
    import numpy as np

BLOCK_BYTES = 1 << 26
"""Largest part of an array that is processed at once."""


class Digested(Protocol):
    """A task or a proxy."""

    def digest(self) -> str:
        """Identifies its data."""


class Decoding:
    """What a decoder writes into: arrays by name, and facts that are not arrays."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.facts: dict[str, Any] = {}

    def empty(self, name: str, shape: tuple[int, ...], dtype: str = "float32") -> np.ndarray:
        """A new array on disk, to be filled."""
        import numpy as np

        return np.lib.format.open_memmap(self.folder / f"{name}.npy", mode="w+", dtype=np.dtype(dtype), shape=shape)

    def save(self, name: str, array: np.ndarray, dtype: str = "float32") -> None:
        """A whole array, converted block by block."""
        target = self.empty(name, array.shape, dtype)
        for rows in iterate_blocks(array):
            target[rows] = array[rows]


def decode_once(spec: Digested, decode: Callable[[Decoding], None], edition: int = 1) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """The decoded arrays of a task or proxy, and its facts. `decode` is called if they are not in the cache yet.

    Args:
        spec: The task or proxy.
        decode: Writes arrays and facts.
        edition: Of what `decode` writes beside the arrays: raised when it keeps more facts, so that a cache without them is not read.

    Arrays are mapped copy-on-write: changes never reach the disk.

    Raises:
        DataError: If a file is not as expected, or the cache cannot be written.
    """
    import numpy as np

    suffix = "-portable" if is_pinned() else ""  # decoding computes: means, spectrograms
    suffix += f"-{edition}" if edition > 1 else ""
    path = Workbench.current().cache_root / "decoded" / f"{spec.digest()[:32]}{suffix}"
    if not (path / "facts.json").is_file():
        _decode(path, decode)
    arrays = {file.stem: np.load(file, mmap_mode="c") for file in sorted(path.glob("*.npy"))}
    return {name: array.view(np.ndarray) for name, array in arrays.items()}, json.loads((path / "facts.json").read_text())


def _decode(path: Path, decode: Callable[[Decoding], None]) -> None:
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
            decoding = Decoding(folder)
            decode(decoding)
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


def refuse_not_finite(path: Path, key: str, array: np.ndarray) -> None:
    """Refuse NaN and infinite values.

    Raises:
        DataError: With the number of such values, if there are any.
    """
    import numpy as np

    bad = sum(int((~np.isfinite(array[rows])).sum()) for rows in iterate_blocks(array)) if array.dtype.kind == "f" else 0
    if bad:
        refuse([Fault(key, "must have no NaN and no infinite value", bad, "Get the file again.").text(str(path))])


def to_class_ids(path: Path, key: str, array: np.ndarray, classes: range | None = None, first: int = 0) -> np.ndarray:
    """Class ids (n,) int64 from 0, of whole numbers of any dtype.

    Args:
        path, key: Where they were read.
        array: (n,) numbers.
        classes: The known ids; None = all that are found.
        first: Number of the first class in the file.

    Raises:
        DataError: If some are not whole numbers, or not ids of a known class.
    """
    import numpy as np

    refuse_not_finite(path, key, array)
    ids = array.astype(np.int64) - first
    wrong = (array != ids + first) | (ids < 0) | (ids >= (len(classes) if classes is not None else ids.max() + 1))
    if wrong.any():
        rule = f"must be whole numbers from {first} on" if classes is None else f"must be {first} to {first + len(classes) - 1} as in train"
        refuse([Fault(key, rule, np.unique(array[wrong])[:5].tolist(), "Is it another version of the data?").text(str(path))])
    return ids
