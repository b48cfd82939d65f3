"""Folders of Parquet and Arrow files as the package `datasets` and the Hugging Face hub have them, read with pyarrow alone.

Which split a file belongs to is in its name or folder, for each of the layouts that occur:

    SPLIT/data-00000-of-00002.arrow, data-00000-of-00001.arrow     `save_to_disk` of a DatasetDict, and of a Dataset (its split is train)
    data/SPLIT-00000-of-00002.parquet, SPLIT.parquet               a repository of the hub
    CONFIG/SPLIT-00000-of-00002.parquet                            one with several configs
    CONFIG/SPLIT/0000.parquet                                      the hub's own conversion to Parquet
    NAME-SPLIT.arrow, NAME-SPLIT-00000-of-00002.arrow              the cache of the package `datasets`

What columns hold (classes with their names, pictures) is in the schema of the files, where `datasets` writes it. No code of a data set is
ever run: scripts are not looked at. The package itself is not needed.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from orca_core.datafiles.expected import refuse
from orca_core.datafiles.reading import reading, require_utf8
from orca_core.datafiles.room import require_memory
from orca_core.errors import DataError, Fault
from orca_core.workbench import memoize

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

Form = Literal["picture", "text", "number", "array", "class", "other"]

KNOWN_SPLITS = ("train", "training", "validation", "valid", "val", "dev", "test", "testing", "eval")
"""Ends of names of files that name a split."""

_SHARD = re.compile(r"-\d{5}-of-\d{5}(?:-[0-9a-f]+)?$")
_LEFT_OUT = re.compile(r"cache-|tmp")
"""Files that `datasets` keeps beside the data: results of `map`."""


@dataclass(frozen=True)
class Feature:
    """What a column holds.

    Args:
        name: Of the column.
        form: What its entries are; `class` for whole numbers, texts and truth values that name classes by their declaration.
        type: As Arrow spells it, for messages.
        names: Names of declared classes, by number; empty for others.
        axes: Of an array: how many.
    """

    name: str
    form: Form
    type: str
    names: tuple[str, ...] = ()
    axes: int = 0


def find_splits(folder: Path) -> dict[str, dict[str, tuple[Path, ...]]]:
    """Config -> split -> its files in order; the config is empty for a folder that has none. Parquet files come before Arrow files.

    Raises:
        DataError: If there are no such files.
    """
    example = "Expected Parquet files with the split in their names, data/train-00000-of-00001.parquet, or what save_to_disk writes."
    if not folder.is_dir():
        refuse([Fault("", "must be an existing folder of Parquet or Arrow files", Fault.ABSENT, example).text(str(folder))])
    for suffix in (".parquet", ".arrow"):
        files = sorted(file for file in folder.rglob(f"*{suffix}") if not _LEFT_OUT.match(file.name))
        found: dict[str, dict[str, list[Path]]] = {}
        for file in files:
            relative = file.relative_to(folder)
            if any(part.startswith(".") for part in relative.parts):
                continue
            require_utf8(str(relative))
            config, split = locate_split(relative)
            found.setdefault(config, {}).setdefault(split, []).append(file)
        if found:
            return {config: {split: tuple(held) for split, held in splits.items()} for config, splits in found.items()}
    refuse([Fault("", "must have Parquet or Arrow files", Fault.ABSENT, example).text(str(folder))])
    raise AssertionError


def locate_split(path: Path) -> tuple[str, str]:
    """Config and split of a file, by its path below the folder.

    >>> locate_split(Path("data/train-00000-of-00002.parquet")), locate_split(Path("mrpc/validation/0000.parquet"))
    (('', 'train'), ('mrpc', 'validation'))
    >>> locate_split(Path("test/data-00000-of-00001.arrow")), locate_split(Path("imdb-unsupervised.arrow"))
    (('', 'test'), ('', 'imdb-unsupervised'))
    """
    stem, folders = _SHARD.sub("", path.stem), [part for part in path.parts[:-1] if part != "data"]
    if stem == "data" or stem.isdigit():
        split = folders.pop() if folders else "train"
    else:
        last = re.split(r"[-._]", stem)[-1]
        split = last if last in KNOWN_SPLITS else stem
    return "/".join(folders), split


def read_features(file: Path) -> tuple[Feature, ...]:
    """The columns of a Parquet or Arrow file, by its schema.

    Raises:
        DataError: If it is not such a file.
    """
    with reading(file, f"a complete {file.suffix} file"):
        stat = file.stat()
        return _read_features(file, stat.st_size, stat.st_mtime_ns)


@memoize(maxsize=64)  # a plan names the same data in every trial
def _read_features(file: Path, size: int, mtime_ns: int) -> tuple[Feature, ...]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    if file.suffix == ".parquet":
        schema = pq.read_schema(file)
    else:
        with pa.memory_map(str(file)) as source:
            schema = _open_arrow(source).schema
    written = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
    declared = written.get("info", {}).get("features", {})
    return tuple(_feature(field, declared.get(field.name) or {}) for field in schema)


def _open_arrow(source: pa.MemoryMappedFile) -> Any:
    """A reader of a stream, which `datasets` writes, or of a file."""
    import pyarrow as pa

    try:
        return pa.ipc.open_stream(source)
    except pa.ArrowInvalid:
        source.seek(0)
        return pa.ipc.open_file(source)


def _feature(field: pa.Field, declared: Mapping[str, Any]) -> Feature:
    import pyarrow as pa

    kind = field.type.storage_type if isinstance(field.type, pa.BaseExtensionType) else field.type
    form: Form = "other"
    axes = 0
    if declared.get("_type") == "Image" or (pa.types.is_struct(kind) and {one.name for one in kind} == {"bytes", "path"}):
        form = "picture"
    elif declared.get("_type") == "ClassLabel":
        return Feature(field.name, "class", str(kind), tuple(map(str, declared.get("names") or ())))
    elif pa.types.is_string(kind) or pa.types.is_large_string(kind):
        form = "text"
    elif pa.types.is_boolean(kind):
        form = "class"
    elif pa.types.is_integer(kind) or pa.types.is_floating(kind):
        form = "number"
    else:
        inner = kind
        while _is_list(inner):
            inner, axes = inner.value_type, axes + 1
        if axes and (pa.types.is_integer(inner) or pa.types.is_floating(inner)):
            form = "array"
    return Feature(field.name, form, str(kind), axes=axes)


def _is_list(kind: pa.DataType) -> bool:
    import pyarrow as pa

    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind))


def read_split(files: Sequence[Path], columns: Sequence[str]) -> dict[str, pa.Array]:
    """Some columns of a split, each in one piece.

    Raises:
        DataError: If a file is damaged, or the files do not have the same columns.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    tables = []
    for file in files:
        with reading(file, f"a complete {file.suffix} file"):
            require_memory(file, "", file.stat().st_size)
            if file.suffix == ".parquet":
                table = pq.ParquetFile(file).read(columns=list(columns))
            else:
                with pa.memory_map(str(file)) as source:
                    table = _open_arrow(source).read_all().select(list(columns))
            tables.append(table.replace_schema_metadata())
    with reading(files[-1], f"a file with the columns of {files[0].name}"):
        whole = pa.concat_tables(tables)
    arrays = {name: whole[name].combine_chunks() for name in columns}
    return {name: array.storage if isinstance(array, pa.ExtensionArray) else array for name, array in arrays.items()}


def to_array(where: str, name: str, array: pa.Array) -> np.ndarray:
    """A column of numbers, or of equally long nested lists of them, as (n, ...) float64.

    Raises:
        DataError: If entries are missing, or lists have several lengths.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    shape = [len(array)]
    while True:
        if array.null_count:
            refuse([Fault(name, "must have no missing entries", int(array.null_count)).text(where)])
        if not _is_list(array.type):
            break
        lengths = pc.min_max(pc.list_value_length(array)).as_py()
        if lengths["min"] != lengths["max"]:
            remedy = "Cut or pad the sequences to one length before they are saved."
            refuse([Fault(name, "must have arrays of one shape", f"lengths from {lengths['min']} to {lengths['max']}", remedy).text(where)])
        shape.append(lengths["max"] or 0)
        array = array.flatten()
    values: np.ndarray = array.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False)
    return values.reshape(shape)


def to_labels(where: str, feature: Feature, array: pa.Array) -> list[str]:
    """The classes of a column by their names.

    Raises:
        DataError: If labels are missing: null, or -1 of a declared class, which the hub writes where labels are held back.
    """
    values = array.to_pylist()
    hidden = sum(value is None or (bool(feature.names) and value == -1) for value in values)
    if hidden:
        remedy = "Labels of test splits are often held back: name another split, as in ?test=validation."
        refuse([Fault(feature.name, f"must have a label in each of the {len(values)} rows", f"{hidden} without", remedy).text(where)])
    if feature.names:
        if wrong := sorted({value for value in values if not 0 <= value < len(feature.names)}):
            refuse([Fault(feature.name, f"must be numbers of the {len(feature.names)} declared classes", wrong[:5]).text(where)])
        return [feature.names[value] for value in values]
    return [f"{value:.15g}" if isinstance(value, float) else str(value) for value in values]


def to_pictures(where: str, name: str, array: pa.Array) -> Iterable[bytes]:
    """The files of a column of pictures.

    Raises:
        DataError: If one is not held in the data itself: a path leads to a file that need not be the same tomorrow.
    """
    for number, value in enumerate(array.to_pylist(), start=1):
        content = value.get("bytes") if isinstance(value, dict) else value
        if not isinstance(content, bytes):
            remedy = "It is a path: save the data set with the pictures in it, as to_parquet and push_to_hub do."
            raise DataError(Fault(name, "must hold its pictures", f"none in row {number}", remedy).text(where))
        yield content
