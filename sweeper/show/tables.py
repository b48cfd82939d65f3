"""Formats tables for people and programs: aligned text, CSV, JSON, markdown."""

from __future__ import annotations

import csv
import io
import itertools
import json
import math
import sys
from collections.abc import Iterable, Sequence
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orca_core.config.paths import KNOBS
from orca_core.errors import ConfigError, Fault

if TYPE_CHECKING:
    import pyarrow as pa

FORMATS = ("table", "csv", "json", "markdown")

DIGITS = 4
"""Significant digits of a number in a table for people."""

_KNOBS = frozenset(path.replace(".", "_") for path in KNOBS)
"""Names of the columns that hold settings."""


def check_format(format: str) -> None:
    """Check that a format is one of `FORMATS`.

    Raises:
        ConfigError: If not.
    """
    if format not in FORMATS:
        raise ConfigError([Fault("--format", f"must be one of {', '.join(FORMATS)}", format)])


def write_table(table: pa.Table, format: str, output: Path | None = None) -> None:
    """Write an Arrow table to a file or to standard output.

    Raises:
        ConfigError: If the format is unknown or the file cannot be written.
    """
    check_format(format)
    text = render(table, format)
    if output is None:
        sys.stdout.write(text)
        sys.stdout.flush()
        return
    try:
        output.write_text(text, encoding="utf-8")
    except OSError as error:
        raise ConfigError([Fault("--output", f"must be writable ({error.strerror})", str(output))]) from None


def render(table: pa.Table, format: str) -> str:
    """Format an Arrow table as text."""
    columns = _make_unique(table.column_names)
    # By column, not as dicts: the result of a join may have two columns of the same name.
    rows = [list(row) for row in zip(*([_convert_decimal(value) for value in column.to_pylist()] for column in table.columns), strict=True)]
    if format == "json":
        finite = [[None if isinstance(value, float) and not math.isfinite(value) else value for value in row] for row in rows]
        return json.dumps([dict(zip(columns, row, strict=True)) for row in finite], indent=1, default=_plain) + "\n"
    if format == "csv":
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows([["" if value is None else _plain(value) for value in row] for row in rows])
        return text.getvalue()
    if format == "markdown":
        head, *body = [[cell.replace("|", "\\|") for cell in line] for line in (columns, *_format_rows(columns, rows))]
        return "".join(f"| {' | '.join(line)} |\n" for line in (head, ["---"] * len(columns), *body))
    return text_table(columns, rows)


def _make_unique(names: Sequence[str]) -> list[str]:
    """Make names unique by appending `_1`, `_2` to repeated ones, as DuckDB does in subqueries."""
    found: list[str] = []
    for name in names:
        candidates = itertools.chain([name], (f"{name}_{number}" for number in itertools.count(1)))
        found.append(next(candidate for candidate in candidates if candidate not in found))
    return found


def _convert_decimal(value: Any) -> Any:
    """Convert a decimal, the type of SQL sums of integers, to int or float."""
    if not isinstance(value, Decimal):
        return value
    return int(value) if value == value.to_integral_value() else float(value)


def text_table(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """Format rows in columns aligned with spaces: numbers to the right, text to the left."""
    body = [list(row) for row in rows]
    cells = _format_rows(columns, body)
    numeric = [all(isinstance(row[i], int | float | None) for row in body) for i in range(len(columns))]
    widths = [max(len(column), *(len(row[i]) for row in cells), 0) if cells else len(column) for i, column in enumerate(columns)]

    def line(row: Sequence[str]) -> str:
        parts = [cell.rjust(width) if right else cell.ljust(width) for cell, width, right in zip(row, widths, numeric, strict=True)]
        return "  ".join(parts).rstrip() + "\n"

    return line(columns) + "".join(line(row) for row in cells)


def _format_rows(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> list[list[str]]:
    """Every cell as text. Of the settings of trials, those that differ are shown with as many digits as tell them apart."""
    digits = [_digits([row[i] for row in rows]) if column in _KNOBS else DIGITS for i, column in enumerate(columns)]
    return [[_format_cell(value, number) for value, number in zip(row, digits, strict=True)] for row in rows]


def _digits(values: Sequence[Any]) -> int:
    """The number of significant digits, 4 or more, with which different numbers have different texts."""
    numbers = {value for value in values if isinstance(value, float) and not math.isnan(value)}
    return next(digits for digits in range(DIGITS, 18) if len({f"{value:.{digits}g}" for value in numbers}) == len(numbers))


def _format_cell(value: Any, digits: int = DIGITS) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.{digits}g}"
    return " ".join(str(_plain(value)).split())


def _plain(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.isoformat(sep=" ", timespec="seconds")
    return json.dumps(value, default=str) if isinstance(value, list | dict) else value if isinstance(value, int | float) else str(value)
