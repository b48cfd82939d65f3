"""What is in a task's files: shapes, counts, classes, columns; which tasks have their files here."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from orca_core.errors import DataError
from orca_core.proxies import ProxySpec
from orca_core.tasks import TaskSpec, find_task
from orca_core.tasks.ucr import list_ucr

if TYPE_CHECKING:
    import numpy as np

    from orca_core.tasks.encoding import TableEncoding

MAX_LOADED_BYTES = 1 << 28
"""Largest size of a task's files that are read to show what is in them."""

MAX_LISTED = 20
"""Maximum number of classes or columns that are listed."""


def is_ready(spec: TaskSpec) -> bool:
    """Whether a task can run here: its files exist, or it has none of its own."""
    return spec.has_files()


def found_ucr() -> list[TaskSpec]:
    """The data sets of the UCR and UEA archives that are below the data root."""
    return [find_task(f"ucr/{name}") for name in list_ucr()]


def describe_file_faults(spec: TaskSpec | ProxySpec) -> str:
    """Which files are missing or broken, in one line; empty if none are. Tables are read, of other files the headers."""
    if missing := [file.path for file in spec.expects if not file.find().exists()]:
        return f"missing {len(missing)} of {len(spec.expects)}: {', '.join(missing[:3])}{', ...' if len(missing) > 3 else ''}"
    try:
        spec.check_files()
        if spec.expects and all(file.form == "table" for file in spec.expects) and size_of(spec) <= MAX_LOADED_BYTES:
            spec.load()
    except DataError as error:
        return f"broken: {str(error).splitlines()[0]}"
    except Exception as error:  # whatever a damaged file leads to: the other tasks are still looked at
        return f"broken: {type(error).__name__}: {' '.join(str(error).split())}"
    return ""


def size_of(spec: TaskSpec | ProxySpec) -> int:
    """Size of the files of a task or proxy, in bytes."""
    return sum(path.stat().st_size for path in spec.files())


def list_files(files: Iterable[Path], most: int = 5) -> str:
    """Some files that a user named: each, or how many there are."""
    paths = [str(path) for path in files]
    if len(paths) <= most:
        return ", ".join(f"{path} ({'present' if os.path.isfile(path) else 'missing'})" for path in paths)
    return f"{len(paths)} files, the first of them {paths[0]}"


def describe_data(spec: TaskSpec) -> dict[str, object]:
    """Shapes, counts and classes of a task's data, and the columns of its table.

    Raises:
        DataError: If the files are not of the documented form.
    """
    import numpy as np

    if spec.files() and (size := size_of(spec)) > MAX_LOADED_BYTES:
        return {"data": f"not read here, as the files have {size / 2**30:.1f} GiB"}
    data = spec.load()
    shown: dict[str, object] = {"input": f"{_format_shape(data.input_shape)}, channels first", "output": _format_shape(data.output_shape)}
    if data.num_classes is not None:
        counts = np.bincount(np.concatenate([part.y for part in (data.train, data.valid, data.test)]), minlength=data.num_classes)
        names = data.preparation.answers.names if data.preparation is not None else range(data.num_classes)
        shown["classes"] = _format_classes(counts, names)
    return shown | (_describe_columns(data.encoding) if data.encoding is not None else {})


def _format_shape(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape))


def _format_classes(counts: np.ndarray, names: Iterable[object]) -> str:
    """`3: setosa 50, versicolor 50, virginica 50`."""
    cells = [f"{name} {number}" for name, number in zip(names, counts.tolist(), strict=True)]
    return f"{len(cells)}: {_list(cells)}"


def _list(items: Sequence[str], separator: str = ", ") -> str:
    """The first `MAX_LISTED` items, and how many more there are."""
    more = f"{separator}and {len(items) - MAX_LISTED} more" if len(items) > MAX_LISTED else ""
    return separator.join(items[:MAX_LISTED]) + more


def _describe_columns(encoding: TableEncoding) -> dict[str, object]:
    """What becomes of the columns of a table."""
    numbers = [column for column in encoding.columns if not column.is_text]
    texts = [column for column in encoding.columns if column.is_text]
    target = encoding.target
    shown: dict[str, object] = {"target": target.name + (f" ({target.unit})" if target.unit else "")}
    names = [column.name + (f" ({column.unit or column.form})" if column.form != "number" else "") for column in numbers]
    shown["numbers"] = _list(names)
    shown["categories"] = _list([f"{column.name} ({len(column.levels)})" for column in texts])
    shown["left out"] = _list([f"{name} ({reason})" for name, reason in encoding.left_out], "; ")
    return shown
