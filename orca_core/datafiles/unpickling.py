"""Pickles of published data sets, read by an allow-list: numpy arrays and plain containers, nothing else.

A pickle is a program: it names functions and calls them. Here names are looked up in a small table of harmless functions, and any
other name is refused before anything is called. So a file cannot run code. Nor can a few bytes make it allocate much: what it unpacks to
is counted, containers are built from what it holds and never from a size, and the interpreter is the one in Python, whose memo is a
dict (that in C allocates as many entries as the largest number in the file).
"""

from __future__ import annotations

import gzip
import importlib
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from orca_core.datafiles.npz import read_npy_header
from orca_core.datafiles.reading import reading
from orca_core.datafiles.room import require_memory
from orca_core.errors import DataError

if TYPE_CHECKING:
    import numpy as np

READ = "Only numpy arrays, numbers, texts, lists, tuples, dicts and sets are read."

STEP_BYTES = 1 << 24
"""How much is unpacked before the free memory is looked at again."""


def read_pickle(path: Path, encoding: str = "latin1") -> Any:
    """What a pickle holds, plain or gzipped.

    Args:
        path: The file; gzip is recognised by its first bytes.
        encoding: How byte strings of Python 2 are read; latin1 also serves arrays of that time.

    Raises:
        DataError: If the file is missing, truncated or not a pickle, does not fit into memory, or names anything but numpy arrays and
            plain containers.
    """
    with reading(path, "a complete pickle"), path.open("rb") as file:
        zipped = file.read(2) == b"\x1f\x8b"
        file.seek(0)
        return unpickle(gzip.GzipFile(fileobj=file) if zipped else file, path, encoding)


def read_object_npy(path: Path, encoding: str = "latin1") -> np.ndarray:
    """The array of an .npy file that may hold Python objects.

    Raises:
        DataError: As `read_pickle`, or if it is not an .npy file.
    """
    import numpy as np
    from numpy.lib import format as npy

    with reading(path, "a complete .npy file"), path.open("rb") as stream:
        header, _ = read_npy_header(stream)
        if header.dtype.hasobject:
            array = unpickle(stream, path, encoding)
            if not isinstance(array, np.ndarray) or array.shape != header.shape:
                raise DataError(f"{path}: must hold an array of shape {header.shape}, as its header says. Get the file again.")
            return array
        if (size := path.stat().st_size) < (expected := stream.tell() + header.num_bytes):
            raise ValueError(f"it is truncated: {size} of {expected} bytes")
        require_memory(path, "", header.num_bytes)
        stream.seek(0)
        return np.asarray(npy.read_array(stream, allow_pickle=False))


def unpickle(stream: IO[bytes] | gzip.GzipFile, path: Path, encoding: str = "latin1") -> Any:
    """One pickled object from the current position of a stream.

    Raises:
        DataError: If it names anything that is not allowed, is truncated, or is not a pickle.
    """
    with reading(path, "a complete pickle of arrays"):
        return _Unpickler(_Counted(stream, path), path, encoding).load()


class _Counted:
    """A stream that is held against the free memory while it is read: a small compressed file may unpack to any size."""

    def __init__(self, stream: IO[bytes] | gzip.GzipFile, path: Path) -> None:
        self.stream, self.path = stream, path
        self.unpacked = self.looked_at = 0

    def read(self, size: int = -1) -> bytes:
        if size < 0:
            raise ValueError(f"it claims {size} bytes")
        if size > STEP_BYTES:
            require_memory(self.path, "", size)
        content = self.stream.read(size)
        if len(content) < size:
            raise EOFError("it is truncated")
        return self._count(content)

    def readline(self) -> bytes:
        return self._count(self.stream.readline())

    def _count(self, content: bytes) -> bytes:
        self.unpacked += len(content)
        if self.unpacked - self.looked_at > STEP_BYTES:
            # What was unpacked is in memory by now: what must fit is as much again, for the arrays that are made of it.
            require_memory(self.path, "", self.unpacked)
            self.looked_at = self.unpacked
        return content


class _Unpickler(pickle._Unpickler):
    def __init__(self, stream: _Counted, path: Path, encoding: str) -> None:
        super().__init__(stream, encoding=encoding)
        self.path, self.allowed = path, _allowed()

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self.allowed:
            raise DataError(f"{self.path}: names {module}.{name}, which is refused and was not run. {READ}")
        return self.allowed[module, name]


class _ArrayType:
    """Stands for `numpy.ndarray`, which a pickle names to say what to reconstruct, and must not call: it allocates any size."""


def _allowed() -> dict[tuple[str, str], Callable[..., Any]]:
    """What a pickle may name: what numpy writes for arrays, under its old and new module paths."""
    import numpy as np

    core = importlib.import_module("numpy._core.multiarray" if np.__version__ >= "2" else "numpy.core.multiarray")

    def encode(text: str, encoding: str) -> bytes:
        """How Python 3 writes bytes for Python 2; in full, `_codecs.encode` would look up codecs by any name."""
        if encoding not in ("latin1", "latin-1"):
            raise ValueError(f"bytes in {encoding!r}")
        return text.encode("latin1")

    def from_buffer(buffer: bytes, dtype: np.dtype, shape: tuple[int, ...], order: Any) -> np.ndarray:
        return np.frombuffer(buffer, dtype).reshape(shape, order=order)

    def reconstruct(kind: type, shape: tuple[int, ...], code: bytes) -> np.ndarray:
        """An array without values, whose state follows; numpy always writes the shape (0,)."""
        if kind is not _ArrayType or shape != (0,):
            raise ValueError(f"an array of shape {shape} without values")
        empty: np.ndarray = core._reconstruct(np.ndarray, (0,), code)
        return empty

    def make_bytearray(content: bytes | str = b"", encoding: str = "latin1") -> bytearray:
        if not isinstance(content, (bytes, bytearray, str)):
            raise ValueError(f"a bytearray of {type(content).__name__}")
        return bytearray(encode(content, encoding) if isinstance(content, str) else content)

    allowed: dict[tuple[str, str], Callable[..., Any]] = {
        ("numpy", "ndarray"): _ArrayType,
        ("numpy", "dtype"): np.dtype,
        ("_codecs", "encode"): encode,
    }
    for builtins in ("builtins", "__builtin__"):
        allowed |= {(builtins, container.__name__): container for container in (set, frozenset)}
        allowed[builtins, "bytearray"] = make_bytearray
    for package in ("numpy.core", "numpy._core"):
        allowed[f"{package}.multiarray", "_reconstruct"] = reconstruct
        allowed[f"{package}.multiarray", "scalar"] = core.scalar
        allowed[f"{package}.numeric", "_frombuffer"] = from_buffer
    return allowed
