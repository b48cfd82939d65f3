"""Arrays in MATLAB files, v4, v5 and v7.3, which is HDF5. Axes are in MATLAB's order."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path
from typing import IO, TYPE_CHECKING

from orca_core.datafiles.hdf5 import find_array, list_arrays, open_hdf5
from orca_core.datafiles.npz import Header
from orca_core.datafiles.reading import reading
from orca_core.datafiles.room import require_memory

if TYPE_CHECKING:
    import numpy as np

_KINDS = {"single": "f4", "double": "f8", "logical": "b1"}
_HEAD_BYTES, _COMPRESSED = 128, 15


def is_hdf5(path: Path) -> bool:
    """Whether a MATLAB file is v7.3, which is HDF5 after a 512-byte header, or plain HDF5."""
    mark = b"\x89HDF\r\n\x1a\n"
    with path.open("rb") as stream:
        start = stream.read(520)
    return mark in (start[:8], start[512:520])


def scan_mat(path: Path) -> dict[str, Header]:
    """The headers of all arrays.

    Raises:
        DataError, ValueError, and errors of scipy: If it is truncated, or not a MATLAB file.
    """
    import numpy as np

    if is_hdf5(path):
        with open_hdf5(path, "a complete mat file") as file:
            return {key: Header(header.shape[::-1], header.dtype) for key, header in list_arrays(file).items()}
    from scipy.io import whosmat

    _measure_elements(path)
    headers = {}
    for key, shape, kind in whosmat(path):
        name = _KINDS.get(kind, kind)
        headers[key] = Header(tuple(shape), np.dtype(name if name.strip("u").startswith(("int", "f", "b")) else "O"))
    return headers


def read_mat(path: Path, key: str, max_samples: int, stride: int) -> np.ndarray:
    """The first samples of an array (n, height, width), at each `stride`-th point. Of v5 files the whole array is read.

    Raises:
        DataError: If it is damaged, or too large for the memory.
    """
    import numpy as np

    with reading(path, f"a complete mat file with the array {key}"):
        if is_hdf5(path):
            with open_hdf5(path, "a complete mat file") as file:
                array = find_array(file, key)
                width, height, number = array.shape
                samples = min(number, max_samples)
                require_memory(path, key, -(-width // stride) * -(-height // stride) * samples * array.dtype.itemsize)
                return np.ascontiguousarray(array[::stride, ::stride, :max_samples].T)
        from scipy.io import loadmat

        require_memory(path, key, max(scan_mat(path)[key].num_bytes, _measure_elements(path)))
        return np.ascontiguousarray(loadmat(path, variable_names=[key])[key][:max_samples, ::stride, ::stride])


def _measure_elements(path: Path) -> int:
    """Bytes of the largest element of a v5 file once it is decompressed; 0 for a v4 file.

    Raises:
        ValueError: If the file is shorter than its elements say; the reader of headers skips arrays that are missing.
    """
    at, size, largest = _HEAD_BYTES, path.stat().st_size, 0
    with path.open("rb") as stream:
        order = {b"IM": "<", b"MI": ">"}.get(stream.read(at)[126:])
        while order and at < size:
            stream.seek(at)
            kind, length = _read_tag(stream.read(8), order) or (0, 0)
            largest = max(largest, length, _inner_length(stream, order) if kind == _COMPRESSED else 0)
            at += 8 + length
    if order and at > size:
        raise ValueError(f"it is truncated: {size} of at least {at} bytes")
    return largest


def _read_tag(tag: bytes, order: str) -> tuple[int, int] | None:
    if len(tag) < 8:
        return None
    kind, length = struct.unpack(f"{order}2I", tag)
    return kind, length


def _inner_length(stream: IO[bytes], order: str) -> int:
    """Length of a compressed element, from the tag that its first bytes decompress to."""
    start = zlib.decompressobj().decompress(stream.read(64), 8)
    return (_read_tag(start, order) or (0, 0))[1]
