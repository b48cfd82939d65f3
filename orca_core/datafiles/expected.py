"""Where published data sets are, which files are expected there, and whether they are complete.

The data root is that of the current `Workbench`. What is cheap to check (existence, size, the names, shapes and dtypes in headers) is
checked when a plan first uses the task; values are checked when it is decoded, see `orca_core.datafiles.decoding`.
"""

from __future__ import annotations

import math
import os
import struct
import zipfile
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

from orca_core.datafiles.unpickling import read_npy_header
from orca_core.errors import DataError, Fault
from orca_core.workbench import Workbench

if TYPE_CHECKING:
    import numpy as np

Format = Literal[
    "npy", "npy of objects", "npz", "mat", "hdf5", "hdf5 groups", "pickle", "gzipped pickle", "csv", "json", "list", "table", "folder"
]


class Header(NamedTuple):
    """What a file says about an array without its values."""

    shape: tuple[int, ...]
    dtype: np.dtype


@dataclass(frozen=True)
class ArrayForm:
    """What is expected of one array in a file.

    Args:
        key: Its name; empty for the one array of an .npy file.
        axes: Names of its axes, or numbers where a size is fixed: `n 3 h w`. Within a file, axes of one name have one size.
        kinds: Allowed kinds of numpy dtypes: `b` booleans, `iu` whole numbers, `f` real numbers, `O` Python objects.
        about: What it holds, with its usual dtype: `uint8`.
    """

    key: str
    axes: str
    kinds: str = "fiub"
    about: str = ""

    @property
    def text(self) -> str:
        """`images (n, 3, h, w) uint8`."""
        axes = self.axes.split()
        shape = f"({axes[0]},)" if len(axes) == 1 else f"({', '.join(axes)})"
        return " ".join(part for part in (self.key, shape, self.about) if part)


@dataclass(frozen=True)
class ExpectedFile:
    """One file of a published data set, as it is published.

    Args:
        path: Below the data root.
        form: Its format.
        arrays: Its keys, shapes and dtypes, for formats that have them.
        about: Anything else to know about its content.
        size: As published, `150 MB`.
        where: Where it is published.
        instead: Other paths below the data root, or patterns like `openml/31/*.arff`; the first that exists is used.
    """

    path: str
    form: Format
    arrays: tuple[ArrayForm, ...] = ()
    about: str = ""
    size: str = ""
    where: str = ""
    instead: tuple[str, ...] = ()

    def find(self) -> Path:
        """The first of its paths that exists below the data root; if none does, the one where it is expected."""
        root = Workbench.current().data_root
        patterns = (self.path, *self.instead)
        paths = (path for pattern in patterns for path in ([root / pattern] if "*" not in pattern else sorted(root.glob(pattern))))
        return next((path for path in paths if path.exists()), root / self.path)

    @property
    def text(self) -> str:
        """Format, keys, shapes and dtypes in one line."""
        arrays = "; ".join(array.text for array in self.arrays)
        return ", ".join(part for part in (f"{self.form}{': ' + arrays if arrays else ''}", self.about) if part)

    def faults(self) -> list[str]:
        """What is wrong with the file as far as its headers tell, a line per fault; empty if nothing is."""
        expected = f"Expected {self.text}{', ' + self.size if self.size else ''}{'; source: ' + self.where if self.where else ''}."
        path = self.find()
        also = f" It may also be {' or '.join(self.instead)}." if self.instead else ""
        if not (path.is_dir() if self.form == "folder" else path.is_file()):
            kind = "folder" if self.form == "folder" else "file"
            remedy = f"{expected} The data root is {Workbench.current().data_root}.{also}"
            return [Fault("", f"must be an existing {kind}", Fault.ABSENT, remedy).text(str(path))]
        try:
            headers = read_headers(path, self.form)
        except (OSError, ValueError, KeyError, EOFError, NotImplementedError, TypeError, zipfile.BadZipFile, zlib.error) as error:
            rule = f"must be a complete {self.form} file, but cannot be read ({error})"
            return [Fault("", rule, Fault.ABSENT, f"{expected} Get it again.").text(str(path))]
        if headers is None:
            return []
        return [fault.text(str(path)) for fault in form_faults(self.arrays, headers)]


def form_faults(forms: Iterable[ArrayForm], found: Mapping[str, Header]) -> list[Fault]:
    """What is wrong with the names, shapes and dtypes of a file's arrays; unexpected keys are ignored."""
    faults, sizes = [], dict[str, int]()
    for form in forms:
        if form.key not in found:
            faults.append(Fault(form.key, "must be in the file", sorted(found), f"Expected {form.text}."))
            continue
        shape, dtype = found[form.key]
        expected = form.text.removeprefix(f"{form.key} ")
        axes = form.axes.split()
        if dtype.kind not in form.kinds:
            faults.append(Fault(form.key, f"must be {expected}", str(dtype), "Is it another version of the data?"))
        elif len(shape) != len(axes) or any(
            size != (int(axis) if axis.isdigit() else sizes.setdefault(axis, size)) or size == 0
            for axis, size in zip(axes, shape, strict=True)
        ):
            known = ", ".join(f"{axis} = {size}" for axis, size in sizes.items() if axis in axes)
            faults.append(Fault(form.key, f"must be {expected}{' with ' + known if known else ''}", shape, "Is it another version?"))
    return faults


def read_headers(path: Path, form: Format) -> dict[str, Header] | None:
    """Names, shapes and dtypes of a file's arrays; None for formats whose headers do not tell.

    Raises:
        ValueError, OSError and errors of the readers: If the file is incomplete, as far as headers tell.
    """
    match form:
        case "npy":
            return {"": _npy_header(path)}
        case "npz":
            return _npz_headers(path)
        case "mat":
            return _mat_headers(path)
        case "hdf5" | "hdf5 groups":
            return _hdf5_headers(path, grouped=form == "hdf5 groups")
        case "npy of objects":
            with path.open("rb") as stream:
                if read_npy_header(stream)[2].hasobject:
                    _refuse_cut_pickle(path)
        case "gzipped pickle":
            with path.open("rb") as stream:
                if stream.read(2) != b"\x1f\x8b":
                    raise ValueError("it does not start like a gzip file")
        case "pickle" | "csv" | "json" | "list" | "table":
            if path.stat().st_size == 0:
                raise ValueError("it is empty")
            if form == "pickle":
                _refuse_cut_pickle(path)
    return None


def _refuse_cut_pickle(path: Path) -> None:
    """Refuse a pickle that does not end like one, unless it is gzipped.

    Raises:
        ValueError: If it is truncated.
    """
    with path.open("rb") as stream:
        start = stream.read(2)
        stream.seek(-1, os.SEEK_END)
        if start != b"\x1f\x8b" and stream.read(1) != b".":
            raise ValueError("it is truncated: it does not end like a pickle")


def _npy_header(path: Path) -> Header:
    with path.open("rb") as stream:
        shape, _, dtype = read_npy_header(stream)
        if not dtype.hasobject:
            expected = stream.tell() + dtype.itemsize * math.prod(shape)
            if (size := path.stat().st_size) < expected:
                raise ValueError(f"it is truncated: {size} of {expected} bytes")
    return Header(shape, dtype)


def _npz_headers(path: Path) -> dict[str, Header]:
    headers = {}
    with zipfile.ZipFile(path) as archive:
        for member in archive.namelist():
            with archive.open(member) as stream:
                shape, _, dtype = read_npy_header(stream)
            headers[member.removesuffix(".npy")] = Header(shape, dtype)
    return headers


_MAT_KINDS = {"single": "f4", "double": "f8", "logical": "b1"}


def _mat_headers(path: Path) -> dict[str, Header]:
    """The headers of a MATLAB file, v5 or v7.3; axes in MATLAB's order."""
    import numpy as np

    if is_hdf5(path):
        import h5py

        with h5py.File(path) as file:
            return {key: Header(item.shape[::-1], item.dtype) for key, item in file.items() if isinstance(item, h5py.Dataset)}
    from scipy.io import whosmat

    _refuse_cut_mat(path)
    headers = {}
    for key, shape, kind in whosmat(path):
        name = _MAT_KINDS.get(kind, kind)
        headers[key] = Header(tuple(shape), np.dtype(name if name.strip("u").startswith(("int", "f", "b")) else "O"))
    return headers


def _refuse_cut_mat(path: Path) -> None:
    """Refuse a v5 file shorter than its array tags say; the reader of headers skips arrays that are missing.

    Raises:
        ValueError: If it is truncated.
    """
    at, size = 128, path.stat().st_size
    with path.open("rb") as stream:
        order = {b"IM": "<", b"MI": ">"}.get(stream.read(at)[126:])
        while order and at < size:
            stream.seek(at)
            tag = stream.read(8)
            at += 8 + (struct.unpack(f"{order}2I", tag)[1] if len(tag) == 8 else 0)
    if order and at > size:
        raise ValueError(f"it is truncated: {size} of at least {at} bytes")


def _hdf5_headers(path: Path, grouped: bool) -> dict[str, Header]:
    """The headers of the arrays at the top of an HDF5 file, or of those in its first group if every sample has a group."""
    import h5py

    with h5py.File(path) as file:
        first = next((item for item in file.values() if isinstance(item, h5py.Group) and len(item)), None) if grouped else file
        if first is None:
            raise ValueError("it has no group of arrays")
        return {key: Header(item.shape, item.dtype) for key, item in first.items() if isinstance(item, h5py.Dataset)}


def is_hdf5(path: Path) -> bool:
    """Whether a MATLAB file is v7.3, which is HDF5 after a 512-byte header, or plain HDF5."""
    mark = b"\x89HDF\r\n\x1a\n"
    with path.open("rb") as stream:
        start = stream.read(520)
    return mark in (start[:8], start[512:520])


def find_paths(files: Iterable[ExpectedFile]) -> tuple[Path, ...]:
    """Find each of some files, see `ExpectedFile.find`."""
    return tuple(file.find() for file in files)


def refuse(lines: Iterable[str]) -> None:
    """Raise one error for all faults, if there are any.

    Raises:
        DataError: With one fault per line.
    """
    if text := "\n".join(lines):
        raise DataError(text)
