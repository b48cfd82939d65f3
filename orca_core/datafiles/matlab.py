"""Arrays in MATLAB files, v4, v5 and v7.3, which is HDF5. Axes are in MATLAB's order."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path
from typing import TYPE_CHECKING

from orca_core.datafiles.hdf5 import find_array, list_arrays, open_hdf5
from orca_core.datafiles.npz import Header
from orca_core.datafiles.reading import reading
from orca_core.datafiles.room import require_memory

if TYPE_CHECKING:
    import numpy as np

_KINDS = {"single": "f4", "double": "f8", "logical": "b1"}
_HEAD_BYTES, _START_BYTES = 128, 1 << 12
_MATRIX, _COMPRESSED = 14, 15
_NUMERIC_CLASSES, _NUMERIC_TYPES, _IS_COMPLEX = range(6, 16), (1, 2, 3, 4, 5, 6, 7, 9, 12, 13), 0x800
"""Numbers of the format, as in MathWorks' document "MAT-File Format", version 5."""


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
        ValueError: If the file is shorter than its elements say, as the reader of headers skips arrays that are missing; or if the values
            of an array have a type that MATLAB does not know, with which scipy ends the process.
    """
    at, size, largest = _HEAD_BYTES, path.stat().st_size, 0
    with path.open("rb") as stream:
        order = {b"IM": "<", b"MI": ">"}.get(stream.read(at)[126:])
        while order and at < size:
            stream.seek(at)
            kind, length = _read_tag(stream.read(8), order) or (0, 0)
            start = stream.read(min(length, _START_BYTES))
            inner = length
            if kind == _COMPRESSED:
                start = zlib.decompressobj().decompress(start, _START_BYTES)
                kind, inner = _read_tag(start[:8], order) or (0, 0)
                start = start[8:]
            if kind == _MATRIX:
                _check_values(start, order)
            largest = max(largest, length, inner)
            at += 8 + length
    if order and at > size:
        raise ValueError(f"it is truncated: {size} of at least {at} bytes")
    return largest


def _read_tag(tag: bytes, order: str) -> tuple[int, int] | None:
    if len(tag) < 8:
        return None
    kind, length = struct.unpack(f"{order}2I", tag)
    return kind, length


def _check_values(content: bytes, order: str) -> None:
    """Check the types of the values of an array of numbers, by the first bytes of its element: flags, shape, name, values.

    Raises:
        ValueError: If one is not a type of numbers.
    """
    flags, at = 0, 0
    for part in ("flags", "shape", "name", "values", "imaginary values"):
        if (tag := _read_tag(content[at : at + 8], order)) is None:
            if flags & 0xFF in _NUMERIC_CLASSES:
                raise ValueError(f"an array ends before its {part}, or has a name of thousands of letters")
            return
        kind, length = tag
        is_small = kind >> 16 != 0  # then the tag itself holds the value
        kind = kind & 0xFFFF if is_small else kind
        if part == "flags" and not is_small and len(content) >= at + 12:
            (flags,) = struct.unpack(f"{order}I", content[at + 8 : at + 12])
        if "values" in part and flags & 0xFF in _NUMERIC_CLASSES and kind not in _NUMERIC_TYPES:
            raise ValueError(f"an array has {part} of the unknown type {kind}")
        if part == "values" and not flags & _IS_COMPLEX:
            return
        at += 8 if is_small else 8 + length + -length % 8
