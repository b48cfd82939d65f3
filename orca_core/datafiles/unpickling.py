"""Pickles of published data sets, read by an allow-list: numpy arrays and plain containers, nothing else.

A pickle is a program: it names functions and calls them. Here names are looked up in a small table of harmless functions, and any
other name is refused before anything is called. So a file cannot run code.
"""

from __future__ import annotations

import gzip
import importlib
import pickle
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, cast

from orca_core.errors import DataError

if TYPE_CHECKING:
    import numpy as np

READ = "Only numpy arrays, numbers, texts, lists, tuples, dicts and sets are read."


def read_pickle(path: Path, encoding: str = "latin1") -> Any:
    """What a pickle holds, plain or gzipped.

    Args:
        path: The file; gzip is recognised by its first bytes.
        encoding: How byte strings of Python 2 are read; latin1 also serves arrays of that time.

    Raises:
        DataError: If the file is missing, truncated or not a pickle, or names anything but numpy arrays and plain containers.
    """
    try:
        with path.open("rb") as file:
            zipped = file.read(2) == b"\x1f\x8b"
            file.seek(0)
            return unpickle(cast(IO[bytes], gzip.GzipFile(fileobj=file)) if zipped else file, path, encoding)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: must be a complete pickle, but cannot be read ({error}). Get it again.") from None


def read_object_npy(path: Path, encoding: str = "latin1") -> np.ndarray:
    """The array of an .npy file that may hold Python objects.

    Raises:
        DataError: As `read_pickle`, or if it is not an .npy file.
    """
    import numpy as np
    from numpy.lib import format as npy

    try:
        with path.open("rb") as stream:
            shape, _, dtype = read_npy_header(stream)
            if dtype.hasobject:
                array = unpickle(stream, path, encoding)
                if not isinstance(array, np.ndarray) or array.shape != shape:
                    raise DataError(f"{path}: must hold an array of shape {shape}, as its header says. Get the file again.")
                return array
            stream.seek(0)
            return np.asarray(npy.read_array(stream, allow_pickle=False))
    except (OSError, EOFError, ValueError) as error:
        raise DataError(f"{path}: must be a complete .npy file, but cannot be read ({error}). Get it again.") from None


def read_npy_header(stream: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype]:
    """Shape, whether the order is Fortran's, and dtype; leaves the stream at the values.

    Raises:
        ValueError: If it is not an .npy header.
    """
    from numpy.lib import format as npy

    readers = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}
    version = npy.read_magic(stream)
    if version not in readers:
        raise ValueError(f"its header has the unknown version {version}")
    shape, fortran, dtype = readers[version](stream)
    return shape, fortran, dtype


def unpickle(stream: IO[bytes], path: Path, encoding: str = "latin1") -> Any:
    """One pickled object from the current position of a stream.

    Raises:
        DataError: If it names anything that is not allowed, is truncated, or is not a pickle. OSError and EOFError of the stream pass.
    """
    try:
        return _Unpickler(stream, path, encoding).load()
    except (DataError, OSError, EOFError):
        raise
    except Exception as error:  # a damaged pickle may fail in any way
        raise DataError(f"{path}: must be a complete pickle of arrays, but cannot be read ({type(error).__name__}: {error}).") from None


class _Unpickler(pickle.Unpickler):
    def __init__(self, stream: IO[bytes], path: Path, encoding: str) -> None:
        super().__init__(stream, encoding=encoding)
        self.path, self.allowed = path, _allowed()

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self.allowed:
            raise DataError(f"{self.path}: names {module}.{name}, which is refused and was not run. {READ}")
        return self.allowed[module, name]


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

    allowed: dict[tuple[str, str], Callable[..., Any]] = {
        ("numpy", "ndarray"): np.ndarray,
        ("numpy", "dtype"): np.dtype,
        ("_codecs", "encode"): encode,
    }
    for builtins in ("builtins", "__builtin__"):
        allowed |= {(builtins, container.__name__): container for container in (set, frozenset, bytearray)}
    for package in ("numpy.core", "numpy._core"):
        allowed[f"{package}.multiarray", "_reconstruct"] = core._reconstruct
        allowed[f"{package}.multiarray", "scalar"] = core.scalar
        allowed[f"{package}.numeric", "_frombuffer"] = from_buffer
    return allowed
