"""Read-only SQL over the result tables: `Results("results").sql("select ...")` returns Arrow, pandas or polars."""

from __future__ import annotations

import html
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from orca_core.errors import OrcaError, StoreError, nearest
from sweeper.results.connection import connect, connection
from sweeper.results.notes import no_results
from sweeper.results.records import TABLES, schema
from sweeper.results.store import ResultStore
from sweeper.results.views import VIEWS, column_names

if TYPE_CHECKING:
    import duckdb  # imported where it is used: commands without a query start faster
    import pandas as pd
    import polars as pl
    import pyarrow.dataset as ds


MAX_BYTES = 4 * 2**30
"""Maximum size of an answer, which is held in memory."""


class QueryError(OrcaError, ValueError):
    """A query that cannot be answered; the message is one line."""


class Results:
    """The tables of all sweeps: `trials`, `metrics`, `stages`, `probes`, further views of the trials, and `floors`; see `docs/results.md`.

    Nothing is read until the first query, and every query sees the rows written by then.

    Args:
        uri: Folder or URI (`s3://bucket/results`) of the results, or an open store.
    """

    def __init__(self, uri: str | Path | ResultStore = "results") -> None:
        self._store = uri if isinstance(uri, ResultStore) else ResultStore(uri)

    def sql(self, query: str) -> Answer:
        """Answer one SELECT, in DuckDB's dialect.

        Raises:
            QueryError: If it is not a single valid SELECT; the message suggests the nearest known name.
            StoreError: If there are no results, or a file of them is damaged.

        Example:
            >>> Results("results").sql("select seed, test_error from trials where sweep = 'paper'").df()  # doctest: +SKIP
        """
        import duckdb

        if not self._store.exists():
            raise StoreError(no_results(self._store.uri).text())
        try:
            # DuckDB wraps pyarrow's errors about a file in an InvalidInputException.
            answer = self._store.read((*TABLES, "floors"), lambda data: _ask(query, data), failures=(duckdb.InvalidInputException,))
        except duckdb.Error as error:
            raise QueryError(_explain(error, query)) from None
        return Answer(answer)


class Answer:
    """The rows that a query returned, in memory."""

    def __init__(self, table: pa.Table) -> None:
        self._table = table

    def arrow(self) -> pa.Table:
        """The rows as an Arrow table."""
        return self._table

    def df(self) -> pd.DataFrame:
        """The rows as a pandas frame.

        Raises:
            ImportError: If pandas is not installed.
        """
        try:
            import pandas  # noqa: F401  (pyarrow needs it)
        except ImportError:
            raise _missing_package("df", "pandas") from None
        frame: pd.DataFrame = self._table.to_pandas()
        return frame

    def pl(self) -> pl.DataFrame:
        """The rows as a polars frame.

        Raises:
            ImportError: If polars is not installed.
        """
        try:
            import polars
        except ImportError:
            raise _missing_package("pl", "polars") from None
        return polars.DataFrame(self._table)

    def rows(self) -> list[dict[str, Any]]:
        """The rows as dicts."""
        found: list[dict[str, Any]] = self._table.to_pylist()
        return found

    def __len__(self) -> int:
        return int(self._table.num_rows)

    def __repr__(self) -> str:
        lines = [self._table.column_names, *self._format_rows()]
        widths = [max(map(len, cells)) for cells in zip(*lines, strict=True)]
        padded = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines]
        return "\n".join([*padded, self._size()])

    def _repr_html_(self) -> str:
        head, *body = [
            "".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in line)
            for tag, line in [("th", self._table.column_names), *(("td", line) for line in self._format_rows())]
        ]
        return f"<table><tr>{head}</tr>{''.join(f'<tr>{line}</tr>' for line in body)}</table><p>{self._size()}</p>"

    def _format_rows(self, limit: int = 20) -> list[list[str]]:
        """The first rows as text."""
        rows = self._table.slice(0, limit)
        columns = [column.to_pylist() for column in rows.columns]
        return [[_format_cell(value) for value in values] for values in zip(*columns, strict=True)]

    def _size(self) -> str:
        return f"[{self._table.num_rows} rows x {self._table.num_columns} columns]"


def _format_cell(value: Any) -> str:
    if value is None:
        return ""
    shown = f"{value:.6g}" if isinstance(value, float) else str(value)
    return shown if len(shown) <= 60 else shown[:57] + "..."


def _missing_package(method: str, package: str) -> ImportError:
    return ImportError(f"Answer.{method}() needs {package}: pip install 'orca-sweeper[frames]'")


# ---------------------------------------------------------------------------------------------------------------------- DuckDB


def select_rows(rows: Sequence[Mapping[str, Any]], condition: str) -> list[Mapping[str, Any]]:
    """Those of some rows of `trials` that meet a condition.

    Args:
        rows: The rows, as dicts. A column that none of them has is null.
        condition: What would stand after `where` in a query.

    Raises:
        QueryError: If the condition is not valid SQL, or names a column that `trials` does not have.
    """
    import duckdb

    named = [column for column in schema("trials") if column.name in condition]  # the others are not needed; there may be many
    cells = {column.name: pa.array([row.get(column.name) for row in rows], column.type) for column in named}
    table = pa.table({"position": pa.array(range(len(rows)), pa.int64())} | cells)
    query = f"select position from trials where ({condition}\n) order by position"
    with connect() as alone:
        alone.register("trials", table)
        try:
            _refuse_all_but_select(query, alone)
            return [rows[position] for (position,) in alone.sql(query).fetchall()]
        except duckdb.Error as error:
            raise QueryError(_explain(error, query)) from None


def _ask(query: str, data: dict[str, ds.FileSystemDataset]) -> pa.Table:
    """The answer to a query over the tables.

    Raises:
        QueryError: If it is not a single SELECT.
        duckdb.Error: If DuckDB cannot answer it, or a file cannot be read.
    """
    with connection() as tables:
        _refuse_all_but_select(query, tables.duckdb)
        return _read_bounded(tables.select(query, data))


def _read_bounded(batches: pa.RecordBatchReader) -> pa.Table:
    """Read an answer batch by batch; refuse it before it fills the memory."""
    rows, size = [], 0
    for batch in batches:
        rows.append(batch)
        size += batch.nbytes
        if size > MAX_BYTES:
            raise QueryError(f"the answer is larger than {MAX_BYTES / 2**30:g} GiB. Aggregate it, or add a LIMIT.")
    return pa.Table.from_batches(rows, schema=batches.schema)


def _refuse_all_but_select(query: str, connection: duckdb.DuckDBPyConnection) -> None:
    """Refuse other statements with a clear message. The settings already prevent any harm, but DuckDB's errors do not say why."""
    import duckdb

    # MULTI is a PIVOT, which DuckDB expands into several statements.
    allowed = (duckdb.StatementType.SELECT, duckdb.StatementType.EXPLAIN, duckdb.StatementType.MULTI)
    kinds = [statement.type for statement in connection.extract_statements(query)]
    if len(kinds) != 1:
        raise QueryError(f"give one SELECT, but got {len(kinds)} statements")
    if kinds[0] not in allowed:
        raise QueryError(f"results are read-only: give a SELECT, but got {kinds[0].name}")


_UNKNOWN_COLUMN = re.compile(r'column "(?P<name>[^"]+)" not found|does not have a column named "(?P<named>[^"]+)"', re.IGNORECASE)
_UNKNOWN_TABLE = re.compile(r'Table with name (?P<name>\S+) does not exist|Referenced table "(?P<named>[^"]+)" not found')


def _explain(error: duckdb.Error, query: str) -> str:
    """DuckDB's message in one line, with the nearest known name where one is unknown."""
    import duckdb

    message = str(error).partition("\n")[0].rstrip("!.")
    if isinstance(error, duckdb.PermissionException):
        return f"{message}. SQL reads only {', '.join(VIEWS)}."
    if match := _UNKNOWN_TABLE.search(message):
        name = match["name"] or match["named"]
        return f"{message}. {_quote_hint(query, name) or _knob_hint(query, name) or nearest(name, VIEWS)}"
    if match := _UNKNOWN_COLUMN.search(message):
        name = match["name"] or match["named"]
        hint = nearest(name, column_names()).partition("Known:")[0].strip()  # not all hundred columns
        return f"{message}. {_quote_hint(query, name) or hint or 'DESCRIBE trials lists what there is.'}"
    return f"{message}."


def _knob_hint(query: str, table: str) -> str:
    """A sentence about columns if an unknown table is a section of knobs, as in `select finetune.lr`; else empty."""
    knob = re.search(rf"\b{re.escape(table)}(?:\.\w+)+", query)
    column = knob[0].replace(".", "_") if knob else ""
    return f"The column of {knob[0]} is {column}." if knob and column in column_names() else ""


def _quote_hint(query: str, name: str) -> str:
    """A sentence about quotes if an unknown name is compared with, as in `where task = digits`; else empty."""
    compared = re.search(rf"""(?:[=<>]|\blike|\bin\s*\()\s*(?P<value>"?{re.escape(name)}[\w./:+-]*)""", query, re.IGNORECASE)
    return f"If {name} is a text, put it in single quotes: '{compared['value'].strip(chr(34))}'." if compared else ""
