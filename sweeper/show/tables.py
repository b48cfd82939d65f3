"""Formats tables for people and programs: aligned text, CSV, JSON, markdown, LaTeX."""

from __future__ import annotations

import csv
import io
import itertools
import json
import math
import shutil
import sys
import textwrap
from collections.abc import Iterable, Sequence
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orca_core.errors import ConfigError, Fault

if TYPE_CHECKING:
    import pyarrow as pa

FORMATS = ("table", "csv", "json", "markdown", "latex")

FORMAT_OF = {".csv": "csv", ".json": "json", ".md": "markdown", ".tex": "latex", ".parquet": "parquet"}
"""Suffix of a file -> the format that is written to it if no other is asked for."""

MIN_DIGITS = 4
"""Significant digits of a number in a table for people. Settings get more where two of them would look the same."""


def check_format(format: str) -> None:
    """Check that a format is one of `FORMATS`.

    Raises:
        ConfigError: If not.
    """
    if format not in FORMATS:
        raise ConfigError([Fault("--format", f"must be one of {', '.join(FORMATS)}", format)])


def choose_format(format: str | None, output: Path | None) -> str:
    """The format that is asked for or, if none is, that of the file by its suffix, else `table`.

    Raises:
        ConfigError: If it is unknown.
    """
    if format is None:
        return "table" if output is None else FORMAT_OF.get(output.suffix.lower(), "table")
    check_format(format)
    return format


def write_table(table: pa.Table, format: str, output: Path | None = None) -> None:
    """Write an Arrow table to a file or to standard output. On a terminal that is too narrow for it, each row becomes a block of lines.

    Args:
        table: What to write.
        format: One of `FORMATS`; for a file, `parquet`, too.
        output: The file.

    Raises:
        ConfigError: If the format is unknown or the file cannot be written.
    """
    if output is not None:
        try:
            _write_file(table, format, output)
        except OSError as error:
            raise ConfigError([Fault("--output", f"must be writable ({error.strerror})", str(output))]) from None
        return
    check_format(format)
    text = render(table, format)
    if format == "table" and sys.stdout.isatty() and widest_line(text) > terminal_width():
        text = vertical(_make_unique(table.column_names), _rows_of(table), terminal_width())
    sys.stdout.write(text)
    sys.stdout.flush()


def _write_file(table: pa.Table, format: str, output: Path) -> None:
    if format != "parquet":
        output.write_text(render(table, format), encoding="utf-8")
        return
    import pyarrow.parquet as pq

    with output.open("wb") as file:
        pq.write_table(table.rename_columns(_make_unique(table.column_names)), file)


def render(table: pa.Table, format: str) -> str:
    """Format an Arrow table as text."""
    columns = _make_unique(table.column_names)
    rows = _rows_of(table)
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
        head, *body = [[cell.replace("|", "\\|") for cell in row] for row in (columns, *_format_rows(columns, rows))]
        return "".join(f"| {' | '.join(line)} |\n" for line in (head, ["---"] * len(columns), *body))
    if format == "latex":
        return _latex(columns, rows)
    return text_table(columns, rows)


def _rows_of(table: pa.Table) -> list[list[Any]]:
    """The rows of a table. By column, not as dicts: the result of a join may have two columns of the same name."""
    return [list(row) for row in zip(*([_convert_decimal(value) for value in column.to_pylist()] for column in table.columns), strict=True)]


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


def terminal_width() -> int:
    """Width of the terminal in characters; 80 if there is none, or what $COLUMNS says."""
    return shutil.get_terminal_size((80, 24)).columns


def widest_line(text: str) -> int:
    """Length of the longest line."""
    return max(map(len, text.splitlines()), default=0)


def text_table(columns: Sequence[str], rows: Iterable[Sequence[Any]], width: int | None = None, wrapped: int = -1) -> str:
    """Format rows in columns aligned with spaces: numbers to the right, text to the left.

    Args:
        columns: Their names. Numbers of columns that are named like a knob have as many digits as are needed to tell them apart.
        rows: The cells.
        width: Maximum length of a line: the text of one column is wrapped to keep to it. None = lines may have any length.
        wrapped: Index of that column.
    """
    body = [list(row) for row in rows]
    cells = _format_rows(columns, body)
    numeric = [all(isinstance(row[i], int | float | None) for row in body) for i in range(len(columns))]
    widths = [max([len(column), *(len(row[i]) for row in cells)]) for i, column in enumerate(columns)]
    if width is not None:
        others = sum(widths) - widths[wrapped] + 2 * (len(columns) - 1)
        widths[wrapped] = max(min(widths[wrapped], width - others), min(len(columns[wrapped]), 8))

    def lines(row: Sequence[str]) -> str:
        texts = [[cell] for cell in row]
        if width is not None:
            texts[wrapped] = wrap(row[wrapped], widths[wrapped])
        found = ""
        for parts in itertools.zip_longest(*texts, fillvalue=""):
            padded = [part.rjust(size) if right else part.ljust(size) for part, size, right in zip(parts, widths, numeric, strict=True)]
            found += "  ".join(padded).rstrip() + "\n"
        return found

    return lines(columns) + "".join(lines(row) for row in cells)


def wrap(text: str, width: int) -> list[str]:
    """Break a text into lines at spaces, and words that are too long anywhere; at least one line."""
    return textwrap.wrap(text, width, break_on_hyphens=False) or [""]


def fill(text: str, indent: str = "") -> str:
    """A text as lines that fit the terminal, each ended. Commands in it are pasted: neither they nor paths are broken within a word.

    Args:
        text: The text.
        indent: Before each line but the first.
    """
    return textwrap.fill(text, terminal_width(), subsequent_indent=indent, break_on_hyphens=False, break_long_words=False) + "\n"


def vertical(columns: Sequence[str], rows: Sequence[Sequence[Any]], width: int) -> str:
    """Format each row as a block with a line per column, for tables that are wider than the terminal. What all rows share comes first."""
    cells = _format_rows(columns, rows)
    shared = [i for i in range(len(columns)) if len(rows) > 1 and len({row[i] for row in cells}) == 1]
    size = min(max(map(len, columns), default=0), width // 2)

    def block(title: str, row: Sequence[str], kept: Iterable[int]) -> str:
        found = f"{title}\n"
        for i in kept:
            first, *more = wrap(row[i], width - size - 4)
            found += f"  {columns[i][:size]:<{size}}  {first}".rstrip() + "\n"
            found += "".join(f"  {'':<{size}}  {line}\n" for line in more)
        return found

    parts = [block(f"in all {len(rows)} rows", cells[0], shared)] if shared else []
    others = [i for i in range(len(columns)) if i not in shared]
    parts += [block(f"row {number}", row, others) for number, row in enumerate(cells, 1)]
    return "\n".join(parts)


def _latex(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """Format rows as a tabular environment of LaTeX, with the rules of the package booktabs."""
    cells = [[escape_latex(cell) for cell in row] for row in (columns, *_format_rows(columns, rows))]
    numeric = [all(isinstance(row[i], int | float | None) for row in rows) for i in range(len(columns))]
    head, *body = [" & ".join(row) + r" \\" for row in cells]
    kinds = "".join("r" if right else "l" for right in numeric)
    lines = ["% needs \\usepackage{booktabs}", rf"\begin{{tabular}}{{{kinds}}}", r"\toprule", head, r"\midrule", *body]
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}"]) + "\n"


def escape_latex(text: str) -> str:
    special = {
        "\\": r"\textbackslash{}",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        "<": r"\textless{}",
        ">": r"\textgreater{}",
    }
    return "".join(special.get(letter, f"\\{letter}" if letter in "&%$#_{}" else letter) for letter in text)


def _format_rows(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> list[list[str]]:
    """All cells as text."""
    from sweeper.results.records import config_columns

    settings = {column.name for column in config_columns()}
    by_column = [
        format_settings(values) if name in settings else [_format_cell(value) for value in values]
        for name, values in zip(columns, zip(*rows, strict=True), strict=False)
    ]
    return [list(row) for row in zip(*by_column, strict=True)]


def format_settings(values: Sequence[Any]) -> list[str]:
    """Values of a setting as text: different numbers never look the same."""
    numbers = {value for value in values if isinstance(value, float)}
    digits = next((n for n in range(MIN_DIGITS, 17) if len({f"{number:.{n}g}" for number in numbers}) == len(numbers)), 17)
    return [f"{value:.{digits}g}" if isinstance(value, float) else _format_cell(value) for value in values]


def _format_cell(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.{MIN_DIGITS}g}"
    return " ".join(str(_plain(value)).split())


def _plain(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.isoformat(sep=" ", timespec="seconds")
    return json.dumps(value, default=str) if isinstance(value, list | dict) else value if isinstance(value, int | float) else str(value)
