"""Where published data sets are, which files are expected there, and whether they are complete.

The data root is that of the current `Workbench`. What is cheap to check (existence, size, the names, shapes and dtypes in headers) is
checked when a plan first uses the task; values are checked when it is decoded, see `orca_core.datafiles.decoding`.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from orca_core.datafiles.hdf5 import find_array, list_arrays, list_groups, open_hdf5
from orca_core.datafiles.matlab import scan_mat
from orca_core.datafiles.npz import Header, read_npy_header, scan_npy, scan_npz
from orca_core.datafiles.reading import reading
from orca_core.errors import DataError, Fault
from orca_core.workbench import Workbench

Format = Literal[
    "npy", "npy of objects", "npz", "mat", "hdf5", "hdf5 groups", "pickle", "gzipped pickle", "csv", "json", "list", "table", "folder"
]


@dataclass(frozen=True)
class ArrayForm:
    """What is expected of one array in a file.

    Args:
        key: Its name; empty for the one array of an .npy file.
        axes: Names of its axes, or numbers where a size is fixed: `n 3 h w`. Within a file, axes of one name have one size.
        kinds: Allowed kinds of numpy dtypes: `b` booleans, `iu` whole numbers, `f` real numbers, `O` Python objects.
        about: What it holds, with its usual dtype: `uint8`.
        published: Sizes of its last axes as published. An array with the same sizes in another order is refused; other sizes are not.
    """

    key: str
    axes: str
    kinds: str = "fiub"
    about: str = ""
    published: tuple[int, ...] = ()

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
        if self.form == "folder":
            return []
        try:
            with reading(path, f"a complete {self.form} file", f"{expected} Get it again."):
                headers = read_headers(path, self.form, [array.key for array in self.arrays])
        except DataError as error:
            return str(error).splitlines()
        if headers is None:
            return []
        return [fault.text(str(path)) for fault in form_faults(self.arrays, headers)]


def form_faults(forms: Iterable[ArrayForm], found: Mapping[str, Header]) -> list[Fault]:
    """What is wrong with the names, shapes and dtypes of a file's arrays; unexpected keys are ignored.

    Where axes of one name differ, those are wrong that differ from most.
    """
    forms = tuple(forms)
    faults, sizes = [], _common_sizes(forms, found)
    for form in forms:
        if form.key not in found:
            faults.append(Fault(form.key, "must be in the file", sorted(found), f"Expected {form.text}."))
            continue
        shape, dtype = found[form.key]
        expected = form.text.removeprefix(f"{form.key} ")
        axes = form.axes.split()
        last = shape[len(shape) - len(form.published) :]
        if dtype.kind not in form.kinds:
            faults.append(Fault(form.key, f"must be {expected}", str(dtype), "Is it another version of the data?"))
        elif len(shape) != len(axes) or any(
            size != (int(axis) if axis.isdigit() else sizes[axis]) or size == 0 for axis, size in zip(axes, shape, strict=True)
        ):
            known = ", ".join(f"{axis} = {size}" for axis, size in sizes.items() if axis in axes)
            faults.append(Fault(form.key, f"must be {expected}{' with ' + known if known else ''}", shape, "Is it another version?"))
        elif last != form.published and sorted(last) == sorted(form.published):
            faults.append(Fault(form.key, f"must be {expected}, of {form.published}", shape, "Are its axes in another order?"))
    return faults


def _common_sizes(forms: Iterable[ArrayForm], found: Mapping[str, Header]) -> dict[str, int]:
    """The most frequent size of each named axis; of equally frequent ones, the first."""
    counts: dict[str, Counter[int]] = {}
    for form in forms:
        shape, axes = found[form.key].shape if form.key in found else (), form.axes.split()
        for axis, size in zip(axes, shape, strict=False) if len(axes) == len(shape) else ():
            if not axis.isdigit():
                counts.setdefault(axis, Counter())[size] += 1
    return {axis: sizes.most_common(1)[0][0] for axis, sizes in counts.items()}


def read_headers(path: Path, form: Format, keys: Iterable[str] = ()) -> dict[str, Header] | None:
    """Names, shapes and dtypes of a file's arrays; None for formats whose headers do not tell.

    Args:
        path, form: The file and its format.
        keys: Arrays of an HDF5 file that must have been written, if they are there.

    Raises:
        DataError, ValueError, OSError and errors of the readers: If the file is incomplete, as far as headers tell.
    """
    match form:
        case "npy":
            return {"": scan_npy(path)}
        case "npz":
            return scan_npz(path)
        case "mat":
            return scan_mat(path)
        case "hdf5" | "hdf5 groups":
            return _hdf5_headers(path, form == "hdf5 groups", keys)
        case "npy of objects":
            with path.open("rb") as stream:
                if read_npy_header(stream)[0].dtype.hasobject:
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


def _hdf5_headers(path: Path, grouped: bool, keys: Iterable[str]) -> dict[str, Header]:
    """The headers of the arrays at the top of an HDF5 file, or of those in its first group if every sample has a group."""
    with open_hdf5(path) as file:
        first = next((file[name] for name in list_groups(file) if len(file[name])), None) if grouped else file
        if first is None:
            raise ValueError("it has no group of arrays")
        headers = list_arrays(first)
        for key in headers.keys() & set(keys):
            find_array(first, key)
        return headers


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
