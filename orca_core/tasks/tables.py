"""Tables out of CSV, ARFF and Parquet files, and the form in which they go to the model.

The reference lays a table out in one of two ways (`data_loaders.py:965`). A table of numbers alone is (n, F, 1): each of the F columns is
a channel of one point. With categories it is (n, m, F): each column is a point with m channels, where m is the largest number of
categories of any column; a category is one-hot, a number is in the first channel.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from orca_core.datafiles.expected import refuse
from orca_core.errors import DataError, Fault

if TYPE_CHECKING:
    import numpy as np

SUFFIXES = (".csv", ".arff", ".parquet", ".pq")

MISSING = frozenset(("", "?", "NA", "NaN", "nan"))
"""Texts that stand for a missing entry."""


@dataclass(frozen=True)
class Column:
    """One column.

    Args:
        name: In the file.
        values: (n,) float64, NaN where missing; or (n,) texts, None where missing.
        whole: Whether all numbers are whole and written so.
    """

    name: str
    values: np.ndarray
    whole: bool = False

    @property
    def is_text(self) -> bool:
        """Whether it holds categories."""
        return self.values.dtype.kind == "O"

    @property
    def missing(self) -> np.ndarray:
        """(n,) where entries are missing."""
        import numpy as np

        return np.array([value is None for value in self.values]) if self.is_text else np.isnan(self.values)


class Design(NamedTuple):
    """Columns as arrays.

    Args:
        x: (n, F, m) float64; a number is the first of its column's m entries, a category is one-hot.
        numeric: Which of the F columns are numbers.
    """

    x: np.ndarray
    numeric: list[int]


def read_table(path: Path) -> list[Column]:
    """The columns of a table; all have the same number of rows, at least one.

    Args:
        path: A .csv with a header, an .arff, or a .parquet (.pq) file.

    Raises:
        DataError: If it cannot be read as such a file, has no rows, or has two columns of one name.
    """
    readers = {".csv": _read_csv, ".arff": _read_arff, ".parquet": _read_parquet, ".pq": _read_parquet}
    if path.suffix not in readers:
        refuse([Fault("", f"must be one of {', '.join(SUFFIXES)}", path.suffix).text(str(path))])
    try:
        columns = readers[path.suffix](path)
    except (OSError, ValueError, csv.Error) as error:
        raise DataError(f"{path}: must be a complete {path.suffix} table, but cannot be read ({error}).") from None
    names = [column.name for column in columns]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        refuse([Fault("", "must have columns with different names", twice).text(str(path))])
    if not columns or not len(columns[0].values):
        refuse([Fault("", "must have rows", 0).text(str(path))])
    return columns


def split_target(columns: Sequence[Column], targets: Iterable[str]) -> tuple[list[Column], Column]:
    """The input columns and the target: the column with the first of these names that exists, in any case, else the last column."""
    lower = [column.name.lower() for column in columns]
    number = next((lower.index(name) for name in targets if name in lower), len(columns) - 1)
    return [column for at, column in enumerate(columns) if at != number], columns[number]


def encode_columns(path: Path, columns: Sequence[Column], known: np.ndarray) -> Design:
    """Columns without missing entries as arrays, categories before numbers, as in the reference.

    Args:
        path: The file they come from.
        columns: Of the inputs.
        known: (n,) bool, which rows are used.

    Raises:
        DataError: If every column has missing entries, or a number is infinite.
    """
    import numpy as np

    if not columns:
        rule, remedy = "must have a column beside the target", "Entries of a .csv are separated by commas."
        refuse([Fault("", rule, Fault.ABSENT, remedy).text(str(path))])
    whole = [column for column in columns if not column.missing[known].any()]
    if not whole:
        refuse([Fault("", "must have an input column without missing entries", [column.name for column in columns]).text(str(path))])
    refuse(
        Fault(column.name, "must have finite numbers", "inf").text(str(path))
        for column in whole
        if not column.is_text and np.isinf(column.values[known]).any()
    )
    texts, numbers = [column for column in whole if column.is_text], [column for column in whole if not column.is_text]
    coded = [np.unique(column.values[known].astype(str), return_inverse=True) for column in texts]
    most = max((len(categories) for categories, _ in coded), default=1)
    x = np.zeros((int(known.sum()), len(whole), most))
    for at, (_, codes) in enumerate(coded):
        x[np.arange(len(x)), at, codes] = 1
    for at, column in enumerate(numbers, start=len(coded)):
        x[:, at, 0] = column.values[known]
    return Design(x, list(range(len(coded), len(whole))))


def number_classes(path: Path, key: str, values: np.ndarray) -> tuple[np.ndarray, list[str]]:
    """(n,) int64 ids of class labels in sorted order, and the labels.

    Raises:
        DataError: If there are fewer than two.
    """
    import numpy as np

    names, ids = np.unique(values.astype(str) if values.dtype.kind == "O" else values, return_inverse=True)
    if len(names) < 2:
        refuse([Fault(key, "must have at least two classes", names.tolist(), "Is it the target column?").text(str(path))])
    return ids.astype(np.int64), [str(name) for name in names]


def scale_columns(x: np.ndarray, numeric: Sequence[int], fitted: np.ndarray) -> np.ndarray:
    """The rows as inputs of the model, with each numeric column at mean 0 and deviation 1 over the fitted rows.

    Args:
        x: (n, F, m).
        numeric: Which of the F columns are scaled; a constant column is only centred.
        fitted: Row numbers.

    Returns:
        (n, F, 1) float32 of numbers alone, else (n, m, F).
    """
    import numpy as np

    x = x.copy()
    numbers = x[:, numeric, 0]
    deviation = numbers[fitted].std(0)
    x[:, numeric, 0] = (numbers - numbers[fitted].mean(0)) / np.where(deviation == 0, 1.0, deviation)
    return np.ascontiguousarray(x if x.shape[2] == 1 else x.transpose(0, 2, 1), dtype=np.float32)


def _make_column(name: str, texts: Sequence[str], text: bool = False) -> Column:
    """A column of numbers if all entries are, else of categories."""
    import numpy as np

    known = [None if entry in MISSING else entry for entry in texts]
    if not text:
        try:
            values = np.array([np.nan if entry is None else float(entry) for entry in known])
            return Column(name, values, all(entry is None or re.fullmatch(r"[+-]?\d+", entry) for entry in known))
        except ValueError:
            pass
    categories = np.empty(len(known), dtype=object)
    categories[:] = known
    return Column(name, categories)


def _read_csv(path: Path) -> list[Column]:
    with path.open(newline="", encoding="utf-8-sig") as file:
        rows = csv.reader(file, skipinitialspace=True, strict=True)
        header = [name.strip() for name in next(rows, [])]
        body = _read_rows(rows, len(header))
    if any(re.fullmatch(r"[+-]?[\d.]+(e[+-]?\d+)?", name) for name in header):
        raise ValueError(f"its first line must be column names, but is {header[:5]}")
    return [_make_column(name, [row[at] for row in body]) for at, name in enumerate(header)]


def _read_rows(rows: Iterable[list[str]], width: int) -> list[list[str]]:
    body = []
    for number, row in enumerate(rows, start=1):
        if not row:
            continue
        if len(row) != width:
            raise ValueError(f"row {number} has {len(row)} entries, and there are {width} columns")
        body.append([entry.strip() for entry in row])
    return body


_ATTRIBUTE = re.compile(r"@attribute\s+('(?:[^'\\]|\\.)*'|\"[^\"]*\"|\S+)\s+(.*)", re.IGNORECASE)


def _read_arff(path: Path) -> list[Column]:
    kinds: list[tuple[str, bool]] = []
    with path.open(encoding="utf-8") as file:
        for line in file:
            text = line.strip()
            if text.lower().startswith("@data"):
                break
            if text.lower().startswith("@attribute"):
                if not (found := _ATTRIBUTE.match(text)):
                    raise ValueError(f"{text!r} does not declare an attribute")
                kinds.append((found[1].strip("'\""), found[2].lower().split()[0] not in ("numeric", "real", "integer")))
        else:
            raise ValueError("it has no @data line")
        lines = [line.strip().replace('"', "'") for line in file if line.strip() and not line.startswith("%")]
    if any(line.startswith("{") for line in lines[:1]):
        raise ValueError("its rows are sparse, which is not read; write it as CSV")
    rows = csv.reader(lines, quotechar="'", escapechar="\\", skipinitialspace=True, strict=True)
    body = _read_rows(rows, len(kinds))
    columns = [_make_column(name, [row[at] for row in body], text) for at, (name, text) in enumerate(kinds)]
    if wrong := [column.name for column, (_, text) in zip(columns, kinds, strict=True) if column.is_text != text]:
        raise ValueError(f"numeric attributes {wrong} hold texts")
    return columns


def _read_parquet(path: Path) -> list[Column]:
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns = []
    table = pq.read_table(path)
    for name in table.column_names:
        if re.fullmatch(r"__index_level_\d+__", name):
            continue  # row labels of pandas, which it puts behind the last column
        array = table[name].combine_chunks()
        if pa.types.is_dictionary(array.type):
            array = array.dictionary_decode()
        if pa.types.is_floating(array.type) or pa.types.is_integer(array.type):
            values = np.array([np.nan if value is None else float(value) for value in array.to_pylist()])
            columns.append(Column(name, values, pa.types.is_integer(array.type)))
        else:
            columns.append(_make_column(name, ["" if value is None else str(value) for value in array.to_pylist()], text=True))
    return columns
