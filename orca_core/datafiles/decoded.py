"""Published files decoded once per node, into plain .npy arrays that are memory-mapped on reading.

A decoded data set is a folder `<cache root>/decoded/<digest>/`, the digest being the task's: content of its files, loader,
version; processes of portable bits have their own, `<digest>-portable/`. It is written beside its place and renamed when whole, so
readers see all of it or nothing. A lock lets one process of a node decode while the others wait; it is the operating system's, so it
ends with a process that is killed.
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

from orca_core.datafiles.expected import cache_root, refuse
from orca_core.errors import DataError, Fault
from orca_core.numerics import is_pinned

if TYPE_CHECKING:
    import numpy as np

BLOCK_BYTES = 1 << 26
"""Most bytes of an array that are looked at at once."""


class Digested(Protocol):
    """A task or a proxy."""

    def digest(self) -> str:
        """What its data is known by."""


class Decoding:
    """What a decoder writes into: arrays by name, and facts that are no arrays."""

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
        for rows in blocks(array):
            target[rows] = array[rows]


def decoded(spec: Digested, decode: Callable[[Decoding], None]) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """The decoded arrays of a task and its facts; `decode` is called if they are not in the cache yet.

    Arrays are mapped copy-on-write: nothing that is done to them reaches the disk.

    Raises:
        DataError: If a file is not as expected, or the cache cannot be written.
    """
    import numpy as np

    suffix = "-portable" if is_pinned() else ""  # decoding computes: means, spectrograms
    place = cache_root() / "decoded" / f"{spec.digest()[:32]}{suffix}"
    if not (place / "facts.json").is_file():
        _decode(place, decode)
    arrays = {path.stem: np.load(path, mmap_mode="c") for path in sorted(place.glob("*.npy"))}
    return {name: array.view(np.ndarray) for name, array in arrays.items()}, json.loads((place / "facts.json").read_text())


def _decode(place: Path, decode: Callable[[Decoding], None]) -> None:
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        lock = (place.parent / f"{place.name}.lock").open("w")
    except OSError as error:
        raise DataError(f"{place.parent}: must be a folder that can be written ({error.strerror}). Set SWEEPER_CACHE to another.") from None
    with lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if (place / "facts.json").is_file():
            return  # another process was first
        for left in place.parent.glob(f"{place.name}.part*"):  # by a process that was killed
            shutil.rmtree(left, ignore_errors=True)
        folder = Path(tempfile.mkdtemp(prefix=f"{place.name}.part", dir=place.parent))
        try:
            decoding = Decoding(folder)
            decode(decoding)
            (folder / "facts.json").write_text(json.dumps(decoding.facts))
            os.replace(folder, place)
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def blocks(array: np.ndarray) -> Iterator[slice]:
    """Rows of an array in parts of bounded size."""
    row_bytes = max(1, array.nbytes // max(1, len(array)))
    step = max(1, BLOCK_BYTES // row_bytes)
    for start in range(0, len(array), step):
        yield slice(start, start + step)


def refuse_not_finite(place: Path, key: str, array: np.ndarray) -> None:
    """That no value of an array is NaN or infinite.

    Raises:
        DataError: With their number.
    """
    import numpy as np

    bad = sum(int((~np.isfinite(array[rows])).sum()) for rows in blocks(array)) if array.dtype.kind == "f" else 0
    if bad:
        refuse([Fault(key, "must have no NaN and no infinite value", bad, "Get the file again.").text(str(place))])


def labels(place: Path, key: str, array: np.ndarray, classes: range | None = None, first: int = 0) -> np.ndarray:
    """Class ids (n,) int64 from 0, of whole numbers of any dtype.

    Args:
        place, key: Where they were read.
        array: (n,) numbers.
        classes: Ids there are; None = as many as are found.
        first: Number of the first class in the file.

    Raises:
        DataError: If some are not whole, or of no class.
    """
    import numpy as np

    refuse_not_finite(place, key, array)
    ids = array.astype(np.int64) - first
    wrong = (array != ids + first) | (ids < 0) | (ids >= (len(classes) if classes is not None else ids.max() + 1))
    if wrong.any():
        rule = f"must be whole numbers from {first} on" if classes is None else f"must be {first} to {first + len(classes) - 1} as in train"
        refuse([Fault(key, rule, np.unique(array[wrong])[:5].tolist(), "Is it another version of the data?").text(str(place))])
    return ids
