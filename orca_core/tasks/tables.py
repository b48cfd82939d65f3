"""Tables out of CSV, ARFF and Parquet files, as columns. What their entries mean is decided in `entries.py`; `encoding.py` has the form in
which they go to the model.
"""

from __future__ import annotations

import csv
import re
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orca_core.datafiles.expected import refuse
from orca_core.datafiles.reading import decode_utf8, reading
from orca_core.datafiles.room import require_memory
from orca_core.errors import Fault
from orca_core.tasks.entries import TEXT, Column, interpret, object_array

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

SUFFIXES = (".csv", ".arff", ".parquet", ".pq", ".tsv")
"""Ends of the names of tables, in upper or lower case."""

PARQUET = (".parquet", ".pq")
"""Those that are compressed, and declare their number of rows and columns."""

NUMBER_BYTES = 8
"""Size of an entry in memory."""


def read_table(path: Path) -> list[Column]:
    """The columns of a table; all have the same number of rows, at least one.

    Args:
        path: A .csv or .tsv with a header, an .arff, or a .parquet (.pq) file. Entries of a .csv are separated by commas, semicolons or
            tabs, whichever its header has most of.

    Raises:
        DataError: If it cannot be read as such a file, does not fit into memory, has no rows, or has two columns of one name.
    """
    readers = {".csv": _read_csv, ".tsv": _read_csv, ".arff": _read_arff, ".parquet": _read_parquet, ".pq": _read_parquet}
    suffix = path.suffix.lower()
    if suffix not in readers:
        refuse([Fault("", f"must be one of {', '.join(SUFFIXES)}", path.suffix).text(str(path))])
    with reading(path, f"a complete {suffix} table", remedy=""):
        if suffix not in PARQUET:
            require_memory(path, "", path.stat().st_size)
        try:
            columns = readers[suffix](path)
        except UnicodeDecodeError:
            decode_utf8(path)  # raises, and names the line
            raise
    names = [column.name for column in columns]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        refuse([Fault("", "must have columns with different names", twice).text(str(path))])
    if not columns or not len(columns[0].values):
        refuse([Fault("", "must have rows", 0).text(str(path))])
    return columns


def read_columns(path: Path) -> dict[str, Column]:
    """The columns of a table by name, for `TableEncoding.encode`. Raises as `read_table`."""
    return {column.name: column for column in read_table(path)}


def split_target(columns: Sequence[Column], targets: Iterable[str]) -> tuple[list[Column], Column]:
    """The input columns and the target: the column with the first of these names that exists, in any case, else the last column."""
    lower = [column.name.lower() for column in columns]
    number = next((lower.index(name) for name in targets if name in lower), len(columns) - 1)
    return [column for at, column in enumerate(columns) if at != number], columns[number]


def number_classes(path: Path, key: str, values: np.ndarray) -> tuple[np.ndarray, tuple[str, ...]]:
    """(n,) int64 ids of class labels in sorted order, and the labels.

    Raises:
        DataError: If there are fewer than two.
    """
    import numpy as np

    found: list[Any] = sorted(set(values.tolist()))
    if len(found) < 2:
        refuse([Fault(key, "must have at least two classes", found, "Is it the target column?").text(str(path))])
    id_of = {label: number for number, label in enumerate(found)}
    ids = np.array([id_of[label] for label in values.tolist()], dtype=np.int64)
    return ids, tuple(label if isinstance(label, str) else f"{label:.15g}" for label in found)


def _is_data(header: Sequence[str]) -> bool:
    """Whether a first line holds numbers instead of names. Years may be names."""
    numbers = [name for name in header if re.fullmatch(r"[+-]?[\d.]+(e[+-]?\d+)?", name)]
    return any(not re.fullmatch(r"(19|20)\d\d|2100", name) for name in numbers)


def _choose_delimiter(path: Path, header: str) -> str:
    if path.suffix.lower() == ".tsv":
        return "\t"
    outside = re.sub(r'"[^"]*"', "", header)
    return max(",;\t", key=outside.count)  # of equals the first


def _read_csv(path: Path) -> list[Column]:
    with path.open(newline="", encoding="utf-8-sig") as file:
        delimiter = _choose_delimiter(path, next((line for line in file if line.strip()), ""))
        file.seek(0)
        rows = csv.reader(file, delimiter=delimiter, skipinitialspace=delimiter != "\t", strict=True)
        limit = csv.field_size_limit(sys.maxsize)  # the limit is the module's
        try:
            header = [name.strip() or f"Unnamed: {at}" for at, name in enumerate(next(filter(None, rows), []))]  # as pandas
            body = _read_rows(rows, len(header))
        finally:
            csv.field_size_limit(limit)
    if _is_data(header):
        raise ValueError(f"its first line must be column names, but is {header[:5]}")
    return [interpret(name, [row[at] for row in body], commas=delimiter == ";") for at, name in enumerate(header)]


def _read_rows(rows: Iterable[list[str]], width: int) -> list[list[str]]:
    body = []
    for number, row in enumerate(rows, start=1):
        if not row:
            continue
        if len(row) != width:
            raise ValueError(f"row {number} has {len(row)} entries, but there {'is 1 column' if width == 1 else f'are {width} columns'}")
        body.append([entry.strip() for entry in row])
    return body


_ATTRIBUTE = re.compile(r"@attribute\s+('(?:[^'\\]|\\.)*'|\"[^\"]*\"|\S+)\s+(.*)", re.IGNORECASE)

_ENTRY = re.compile(
    r"""\s*(?:'((?:[^'\\]|\\.|'')*)'\s*(?=,|$)|"((?:[^"\\]|\\.|"")*)"\s*(?=,|$)|([^,]*))(,|$)""",
    re.DOTALL,
)
"""An entry of an ARFF row, in single or double quotes or in none, and what ends it."""


def _read_arff(path: Path) -> list[Column]:
    kinds: list[tuple[str, str]] = []
    with path.open(encoding="utf-8-sig") as file:
        for line in file:
            text = line.strip()
            if text.lower().startswith("@data"):
                break
            if text.lower().startswith("@attribute"):
                if not (found := _ATTRIBUTE.match(text)):
                    raise ValueError(f"{text!r} does not declare an attribute")
                kinds.append((_unquote(found[1]), found[2].lower().split()[0]))
        else:
            raise ValueError("it has no @data line")
        lines = [line.strip() for line in file if line.strip() and not line.startswith("%")]
    if any(line.startswith("{") for line in lines[:1]):
        raise ValueError("its rows are sparse, which is not read; write it as CSV")
    body = _read_rows(map(_split_arff, lines), len(kinds))
    columns = []
    for at, (name, kind) in enumerate(kinds):
        columns.append(interpret(name, [row[at] for row in body], text=kind not in ("numeric", "real", "integer", "date")))
    if wrong := [column.name for column, (_, kind) in zip(columns, kinds, strict=True) if column.is_text and kind in _ARFF_NUMBERS]:
        raise ValueError(f"numeric attributes {wrong} hold texts")
    return columns


_ARFF_NUMBERS = ("numeric", "real", "integer")


def _unquote(text: str) -> str:
    """An ARFF name or entry without its quotes and escapes."""
    text = text.strip()
    if len(text) < 2 or text[0] not in "'\"" or text[-1] != text[0]:
        return text
    return re.sub(r"\\(.)", r"\1", text[1:-1].replace(text[0] * 2, text[0]), flags=re.DOTALL)


def _split_arff(line: str) -> list[str]:
    if "'" not in line and '"' not in line:
        return line.split(",")
    entries, at = [], 0
    while True:
        found = _ENTRY.match(line, at)
        assert found is not None  # the pattern matches anything
        entry = found[0].removesuffix(",") if found[4] else found[0]
        if entry.strip()[:1] in ("'", '"') and found[3] is not None:
            raise ValueError(f"the quotes of {line[:60]!r} are not closed")
        entries.append(_unquote(entry))
        at = found.end()
        if not found[4]:
            return entries


def _read_parquet(path: Path) -> list[Column]:
    import pyarrow.parquet as pq

    with pq.ParquetFile(path) as file:
        require_memory(path, "", NUMBER_BYTES * file.metadata.num_rows * file.metadata.num_columns)
        table = file.read()
    # pandas puts its row labels behind the last column
    names = [name for name in table.column_names if not re.fullmatch(r"__index_level_\d+__", name)]
    return [_convert_arrow(name, table[name].combine_chunks()) for name in names]


def _convert_arrow(name: str, array: pa.Array) -> Column:
    """A column of Parquet: numbers, decimals, dates and texts as their type says."""
    import numpy as np
    import pyarrow as pa

    if pa.types.is_dictionary(array.type):
        array = array.dictionary_decode()
    kind = array.type
    if pa.types.is_floating(kind) or pa.types.is_integer(kind) or pa.types.is_decimal(kind):
        values = np.array([np.nan if value is None else float(value) for value in array.to_pylist()])
        return Column(name, values, pa.types.is_integer(kind) or (pa.types.is_decimal(kind) and kind.scale == 0))
    if pa.types.is_date(kind) or pa.types.is_timestamp(kind):
        texts = object_array(array.cast(pa.string()).to_pylist())
        days = array.cast(pa.timestamp("us", kind.tz if pa.types.is_timestamp(kind) else None), safe=False).cast(pa.int64()).to_pylist()
        return Column(name, np.array([np.nan if value is None else value / 86400e6 for value in days]), form="date", texts=texts)
    if pa.types.is_null(kind):
        return Column(name, np.full(len(array), np.nan))
    if not (pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind) or pa.types.is_boolean(kind)):
        doubt = f"its type is {kind}, and only numbers, texts and dates are read"
        texts = object_array(None if value is None else str(value) for value in array.to_pylist())
        return Column(name, texts, form=TEXT, texts=texts, doubt=doubt)
    return interpret(name, ["" if value is None else str(value).strip() for value in array.to_pylist()], text=True)
