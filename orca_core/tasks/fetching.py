"""Tables of OpenML, fetched once with the `openml` package; from then on they are files like any other.

Only the package's data file and description are used, not its reader, which caches tables as pickles.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from orca_core.datafiles.expected import refuse
from orca_core.errors import DataError, Fault
from orca_core.tasks.entries import Column
from orca_core.tasks.tables import read_table
from orca_core.workbench import Workbench

TARGET = "class"
"""Name that the target is written under; `openml/*` takes the column of this name."""


def fetch_openml(number: int) -> Path:
    """Write a table of OpenML to `openml/<number>.parquet` below the data root, its target as the last column, named `class`.

    Columns that OpenML marks as row ids or to be ignored are left out. Tables in the package's cache are not fetched again.

    Raises:
        DataError: If the package is not installed, the table cannot be fetched or read, or it has no single target.
    """
    try:
        import openml
    except ImportError:
        raise DataError("openml must be installed to fetch its tables: pip install openml") from None
    try:
        found = openml.datasets.get_dataset(number, download_data=True, download_qualities=False, download_features_meta_data=False)
    except (OSError, openml.exceptions.PyOpenMLError) as error:  # errors of `requests` are OSErrors
        raise DataError(f"openml.org, data set {number}: cannot be fetched: {' '.join(str(error).split())[:300]}") from None
    columns = read_table(Path(found.parquet_file or found.data_file or ""))
    target = found.default_target_attribute or ""
    names = [column.name for column in columns]
    if target not in names:
        refuse([Fault("target", f"must be one of the columns of data set {number}", target, "Write the table as a CSV file.").text()])
    ignored = {found.row_id_attribute, *_split_names(found.ignore_attribute), target}
    kept = [column for column in columns if column.name not in ignored]
    path = Workbench.current().data_root / f"openml/{number}.parquet"
    _write(path, [*kept, columns[names.index(target)]])
    return path


def _split_names(value: str | Sequence[str] | None) -> Sequence[str]:
    return (value.split(",") if isinstance(value, str) else value) or ()


def _write(path: Path, columns: Sequence[Column]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    *inputs, target = columns
    # No input may have the target's name.
    arrays = {column.name if column.name.lower() != TARGET else f"{column.name} (input)": _to_arrow(column) for column in inputs}
    path.parent.mkdir(parents=True, exist_ok=True)
    written = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        pq.write_table(pa.table(arrays | {TARGET: _to_arrow(target)}), written)
        written.replace(path)
    finally:
        written.unlink(missing_ok=True)


def _to_arrow(column: Column) -> object:
    import pyarrow as pa

    if column.is_text:
        return pa.array(column.values.tolist(), pa.string())
    whole = column.whole and not np.isnan(column.values).any()
    return pa.array(column.values.astype("int64") if whole else column.values)
