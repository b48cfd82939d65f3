"""The connection to DuckDB through which queries see the tables: it can read them and nothing else.

Connecting and making the views takes longer than most queries, so a process keeps a connection for its next query. It holds no rows in
between: every query lists the files anew.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

import pyarrow as pa

from sweeper.results.records import schema
from sweeper.results.views import SIZE_HINTS, VIEWS, Superseded, create_views, current_parts, find_superseded, size_hints, stored_name

if TYPE_CHECKING:
    import duckdb  # imported where it is used: commands without a query start faster
    import pyarrow.dataset as ds

_SETTINGS = """
    SET TimeZone = 'UTC';
    SET python_enable_replacements = false;     -- no Python variable is a table
    SET autoinstall_known_extensions = false;
    SET autoload_known_extensions = false;
    SET enable_external_access = false;         -- no file, no network; only what is registered
    SET lock_configuration = true;
"""


def connect() -> duckdb.DuckDBPyConnection:
    """A connection that reads what is registered with it, and nothing else."""
    import duckdb

    made = duckdb.connect(":memory:")
    # Where Python runs no file, as under `python -c`, DuckDB draws a bar on standard output. In a notebook it has a place of its own, and
    # the setting is refused.
    with suppress(duckdb.InvalidInputException):
        made.execute("SET enable_progress_bar = false")
    made.execute(_SETTINGS)
    return made


class Connection:
    """A connection with the views of all tables, which have rows while a query is answered.

    Attributes:
        duckdb: DuckDB's connection.
    """

    def __init__(self) -> None:
        self.duckdb = connect()
        self._sweeps: dict[str, Sequence[str | None]] = {}
        self._registered: set[str] = set()
        self._size_hints = size_hints()  # the views of them do not hold them
        self.duckdb.execute(f"CREATE SCHEMA {SIZE_HINTS}; USE {SIZE_HINTS}")  # so that `show tables` does not list them
        for name, rows in self._size_hints.items():
            self.duckdb.from_arrow(rows).create_view(name)
        self.duckdb.execute("USE main")
        for table in dict.fromkeys(VIEWS.values()):
            self._show(table, [(None, schema(table).empty_table())])
        self.clear()

    def select(self, query: str, data: dict[str, ds.FileSystemDataset]) -> pa.RecordBatchReader:
        """The answer to a query over the tables, batch by batch. Call `clear` when it is read.

        Raises:
            duckdb.Error: If DuckDB cannot answer it, or a file cannot be read. The connection must then be closed.
        """
        import duckdb

        # Of the tables that are not named none is registered: it takes a millisecond each.
        self._fill(data, {table for view, table in VIEWS.items() if view in query.lower()})
        try:
            found = self.duckdb.sql(query)
        except duckdb.Error:  # the query may make up the name of a view: `from query_table('tri' || 'als')`
            self._fill(data, VIEWS.values())
            found = self.duckdb.sql(query)
        return found.to_arrow_reader()

    def clear(self) -> None:
        """Forget the rows."""
        while self._registered:
            self.duckdb.unregister(self._registered.pop())

    def close(self) -> None:
        self.duckdb.close()

    def _fill(self, data: dict[str, ds.FileSystemDataset], tables: Collection[str]) -> None:
        superseded = Superseded([], []) if {"trials", "floors"}.issuperset(tables) else find_superseded(data["trials"])
        for table in set(tables):
            self._show(table, current_parts(table, data[table], superseded))

    def _show(self, table: str, parts: Sequence[tuple[str | None, ds.Dataset | pa.Table]]) -> None:
        for number, (_, rows) in enumerate(parts):
            name = stored_name(table, number)
            self.duckdb.register(name, rows)
            self._registered.add(name)
        sweeps = [sweep for sweep, _ in parts]
        if self._sweeps.get(table) != sweeps:
            self.duckdb.execute(create_views(table, sweeps))
            self._sweeps[table] = sweeps


_KEPT: list[Connection] = []
"""The connection for the next query. One thread takes it at a time; meanwhile another one makes its own."""


@contextmanager
def connection() -> Iterator[Connection]:
    """A connection for one query, kept for the next one if all goes well."""
    try:
        taken = _KEPT.pop()
    except IndexError:
        taken = Connection()
    try:
        yield taken
        taken.clear()
    except BaseException:
        taken.close()
        raise
    _KEPT[:] = [taken]


def _close_kept() -> None:
    while _KEPT:
        _KEPT.pop().close()


os.register_at_fork(before=_close_kept)  # a forked process would have a connection without its threads, and wait for them when it ends
