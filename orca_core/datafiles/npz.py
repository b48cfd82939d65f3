"""Arrays in .npy files and .npz archives, whose headers are held against the file and the free memory before anything is allocated."""

from __future__ import annotations

import math
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING, NamedTuple

from orca_core.datafiles.reading import reading
from orca_core.datafiles.room import require_memory
from orca_core.errors import DataError

if TYPE_CHECKING:
    import numpy as np

BLOCK_BYTES = 1 << 26
"""Largest part of an array that is read at once where rows are read in blocks."""


class Header(NamedTuple):
    """What a file says about an array without its values."""

    shape: tuple[int, ...]
    dtype: np.dtype

    @property
    def num_bytes(self) -> int:
        """Size of the array in memory."""
        return int(self.dtype.itemsize) * math.prod(self.shape)


def read_npy_header(stream: IO[bytes]) -> tuple[Header, bool]:
    """Shape and dtype, and whether the order is Fortran's; leaves the stream at the values.

    Raises:
        ValueError, and other errors of numpy: If it is not an .npy header.
    """
    from numpy.lib import format as npy

    readers = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}
    version = npy.read_magic(stream)
    if version not in readers:
        raise ValueError(f"its header has the unknown version {version}")
    shape, fortran, dtype = readers[version](stream)
    if any(isinstance(size, bool) or size < 0 for size in shape):
        raise ValueError(f"its header declares the shape {shape}")
    return Header(shape, dtype), fortran


def scan_npy(path: Path) -> Header:
    """The header of an .npy file, which must be as long as the header says unless it holds Python objects.

    Raises:
        ValueError, and other errors of numpy: If it is not.
    """
    with path.open("rb") as stream:
        header, _ = read_npy_header(stream)
        expected = stream.tell() + header.num_bytes
    if not header.dtype.hasobject and (size := path.stat().st_size) < expected:
        raise ValueError(f"it is truncated: {size} of {expected} bytes")
    return header


def scan_npz(path: Path) -> dict[str, Header]:
    """The headers of all arrays of an archive, each as long as its header says unless it holds Python objects.

    Raises:
        ValueError, and errors of zip and numpy: If they are not.
    """
    headers = {}
    with zipfile.ZipFile(path) as archive:
        for member in archive.infolist():
            key = member.filename.removesuffix(".npy")
            with archive.open(member) as stream:
                header, _ = read_npy_header(stream)
                _require_length(key, member, header, stream)
            headers[key] = header
    return headers


def _require_length(key: str, member: zipfile.ZipInfo, header: Header, stream: IO[bytes]) -> None:
    expected = stream.tell() + header.num_bytes
    if not header.dtype.hasobject and member.file_size != expected:
        raise ValueError(f"{key} must have {expected} bytes as its header says, but has {member.file_size}")


def read_npz(path: Path, form: str = "a complete .npz file", remedy: str = "Get it again.") -> dict[str, np.ndarray]:
    """All arrays of an archive, which must fit into memory together.

    Raises:
        DataError: If the archive is damaged, too large, or holds Python objects.
    """
    import numpy as np

    with reading(path, form, remedy):
        headers = scan_npz(path)
        require_memory(path, "", sum(header.num_bytes for header in headers.values()))
        arrays = {}
        with zipfile.ZipFile(path) as archive:
            for member in archive.infolist():
                key = member.filename.removesuffix(".npy")
                with archive.open(member) as stream:
                    header, fortran = read_npy_header(stream)
                    if header != headers[key] or header.dtype.hasobject:
                        raise ValueError(f"{key} holds Python objects, or its name is there twice")
                    content = np.empty(header.num_bytes, np.uint8)
                    _fill(stream, content.data)
                flat = content.view(header.dtype) if header.dtype.itemsize else np.empty(0, header.dtype)
                arrays[key] = flat.reshape(header.shape, order="F" if fortran else "C")
        return arrays


def _fill(stream: IO[bytes], buffer: memoryview) -> None:
    """Fill a buffer from a stream that must end there; reading to the end has zip compare its checksum.

    Raises:
        EOFError, ValueError: If the stream is shorter or longer.
    """
    done, step = 0, BLOCK_BYTES
    while done < len(buffer):
        number = stream.readinto(buffer[done : done + step])  # type: ignore[attr-defined]
        if not number:
            raise EOFError(f"it ends after {done} of {len(buffer)} bytes of an array")
        done += number
    if stream.read(1):
        raise ValueError("an array is longer than its header says")


def read_npz_rows(path: Path, key: str) -> Iterator[np.ndarray]:
    """The rows of one array of an .npz in blocks, without loading all of it.

    Raises:
        DataError: If the archive is damaged, or the array is in Fortran order.
    """
    import numpy as np

    with reading(path, "a complete .npz file"), zipfile.ZipFile(path) as archive, archive.open(f"{key}.npy") as stream:
        header, fortran = read_npy_header(stream)
        _require_length(key, archive.getinfo(f"{key}.npy"), header, stream)
        if fortran:
            raise DataError(f"{path}: {key}: must be in C order, not Fortran order. Save it as numpy.ascontiguousarray(array).")
        row_bytes = header.dtype.itemsize * math.prod(header.shape[1:])
        require_memory(path, key, row_bytes)
        left = header.shape[0]
        while left:
            rows = min(left, max(1, BLOCK_BYTES // max(1, row_bytes)))
            content = stream.read(rows * row_bytes)
            if len(content) != rows * row_bytes:
                raise EOFError(f"{key} ends early")
            yield np.frombuffer(content, header.dtype).reshape(rows, *header.shape[1:])
            left -= rows
