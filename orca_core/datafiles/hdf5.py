"""HDF5 files: what they declare is held against what they store, and nothing outside of the file is read."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from orca_core.datafiles.npz import Header
from orca_core.datafiles.reading import reading
from orca_core.datafiles.room import require_memory
from orca_core.errors import DataError

if TYPE_CHECKING:
    import h5py


@contextmanager
def open_hdf5(path: Path, form: str = "a complete hdf5 file") -> Iterator[h5py.File]:
    """An open file; whatever HDF5 raises while it is read becomes an error that names it.

    Raises:
        DataError: If it is not a regular file, or is damaged.
    """
    import h5py

    with reading(path, form), h5py.File(path, "r") as file:
        yield file


def list_groups(parent: h5py.Group) -> list[str]:
    """The names of the groups in a group, in the order of the names.

    Raises:
        DataError: If an entry is a link into another file.
    """
    import h5py

    _refuse_external_links(parent)
    return [name for name in sorted(parent) if parent.get(name, getclass=True) is h5py.Group]


def list_arrays(parent: h5py.Group) -> dict[str, Header]:
    """The headers of the arrays in a group.

    Raises:
        DataError: If an entry is a link into another file.
    """
    import h5py

    _refuse_external_links(parent)
    return {name: Header(item.shape or (), item.dtype) for name, item in parent.items() if isinstance(item, h5py.Dataset)}


def _refuse_external_links(parent: h5py.Group, names: Iterable[str] | None = None) -> None:
    import h5py

    for name in parent if names is None else names:
        if isinstance(parent.get(name, getlink=True), h5py.ExternalLink):
            raise DataError(f"{parent.file.filename}: {name}: must be in the file itself, but is a link into another file.")


def find_array(parent: h5py.Group, key: str) -> h5py.Dataset:
    """An array whose values are all in the file, by its name in a group.

    Raises:
        DataError: If its values are in other files, were never written, or come in chunks larger than memory.
        KeyError: If there is none of that name.
    """
    import h5py

    path = Path(parent.file.filename)
    if parent.get(key, getlink=True) is None:
        raise KeyError(key)
    _refuse_external_links(parent, [key])
    array = parent[key]
    if not isinstance(array, h5py.Dataset):
        raise ValueError(f"{key} is not an array")
    where = f"{path}: {array.name}: "
    if array.file.filename != parent.file.filename or array.external or array.is_virtual:
        raise DataError(f"{where}must have its values in the file itself, but they are in others.")
    if not array.size:
        return array
    stored, declared = array.id.get_storage_size(), Header(array.shape, array.dtype).num_bytes
    if array.chunks is not None:
        expected = math.prod(-(-size // chunk) for size, chunk in zip(array.shape, array.chunks, strict=True))
        require_memory(path, array.name, array.dtype.itemsize * math.prod(array.chunks))
        if (written := array.id.get_num_chunks()) < expected:
            rule = f"must be written, but only {written} of the {expected} blocks that its shape {array.shape} needs were."
            raise DataError(f"{where}{rule} Get the file again.")
    elif stored < declared:
        raise DataError(f"{where}must be written, but {declared} bytes are declared and {stored} are stored. Get the file again.")
    return array
