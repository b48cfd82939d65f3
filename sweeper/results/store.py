"""Result tables as Parquet files, on a local disk, NFS, S3 or GCS.

    <uri>/trials/sweep=<name>/<time>-<random>.parquet       likewise metrics/, stages/ and probes/; each file also has the column `sweep`
    <uri>/trials/sweep=<name>/<time>-<random>.merged.parquet
    <uri>/floors/<time>-<random>.parquet                    floors belong to tasks, not to sweeps
    <uri>/sweeps/<name>/<plan hash>.json, <run>.claim, <run>.stop, clock

`table_files` says how they are read and merged.
"""

from __future__ import annotations

import hashlib
import shlex
from collections.abc import Collection, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from orca_core.config.spellings import in_present_spelling
from orca_core.errors import MissingBucketError, StoreAccessError, StoreError, StoreUnavailableError
from orca_core.floors.rows import FloorRow
from sweeper.results.notes import OLD_HEARTBEAT
from sweeper.results.records import FLOOR_IDENTITY, FLOOR_KEY, IDENTITY, TABLES, schema
from sweeper.results.table_files import READING_ORDER, TableFiles, row_groups
from sweeper.results.views import (
    OF_AN_ATTEMPT,
    current_rows,
    distinct_rows,
    drop_earlier_attempts,
    drop_superseded,
    find_superseded,
    last_rows_of_runs,
    latest_floors,
)

if TYPE_CHECKING:
    import pyarrow.dataset as ds  # imported where it is used: it loads pandas, 0.3 s

_OUT_OF_ORDER = (StoreUnavailableError, StoreAccessError, MissingBucketError)
"""Errors of the store as a whole, which say nothing about a file."""


def results_option(uri: str) -> str:
    """The option by which a command reads these results, with a space before it; empty for the folder that commands read anyway."""
    return "" if uri == "results" else f" --results {shlex.quote(uri)}"


class ResultStore(TableFiles):
    """The result tables and the notes about sweeps under one folder.

    Arguments and errors as for `SweepNotes`.
    """

    def exists(self) -> bool:
        """Whether there are any results."""
        return any(self._files.infos(folder) for folder in (*TABLES, "floors", "sweeps"))

    # ---------------------------------------------------------------------------------------------------------------- rows

    def append(self, table: str, sweep: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """Add rows as one new file, none if there are no rows. Columns that a row lacks are null.

        Raises:
            ValueError: If a row has a column that the table lacks.
            StoreError: If the file cannot be written.
        """
        if not rows:
            return
        columns = schema(table)
        if unknown := {name for row in rows for name in row}.difference(columns.names):
            raise ValueError(f"{table} has no column {', '.join(sorted(unknown))}")
        added = pa.Table.from_pylist([{**row, "sweep": sweep} for row in rows], schema=columns)
        self._write_rows([added], columns, f"{table}/sweep={sweep}")

    def append_floors(self, rows: Sequence[FloorRow]) -> None:
        """Add floors as one new file, none if there are no rows.

        Raises:
            StoreError: If the file cannot be written.
        """
        if rows:
            now, columns = datetime.now(UTC), schema("floors")
            table = pa.Table.from_pylist([{**row.cells(), "computed_at": now} for row in rows], schema=columns)
            self._write_rows([table], columns, "floors")

    def floors(self, by: Sequence[str] = FLOOR_IDENTITY) -> list[dict[str, Any]]:
        """The latest row of each model on each task and split.

        Args:
            by: Columns of which each combination of values has a row; `FLOOR_KEY` for the rows of other data and versions, too.

        Raises:
            StoreError: If a file is damaged.
        """
        found: list[dict[str, Any]] = latest_floors(self.read(["floors"], lambda data: data["floors"].to_table()), by).to_pylist()
        return found

    def live_trials(self, sweep: str | None = None, columns: Collection[str] | None = None) -> list[dict[str, Any]]:
        """The current row of each trial of each sweep, in the order in which they were written.

        Args:
            sweep: Only this sweep; None = all.
            columns: Only these columns; None = all.

        Raises:
            StoreError: If a file is damaged.
        """
        if not self.has_files("trials", sweep):
            return []
        wanted = schema("trials").names if columns is None else list(columns)
        needed = list(dict.fromkeys(["sweep", "trial", "attempt", "run", "sequence", *wanted]))
        rows = self.read(["trials"], lambda data: data["trials"].to_table(columns=needed), sweep)
        return [in_present_spelling(row) for row in current_rows(rows).select(wanted).to_pylist()]

    def attempts(self, sweep: str) -> dict[str, int]:
        """Trial -> its largest attempt in any table. All tables are read: a trial's own rows may have been lost with a damaged file.

        Raises:
            StoreError: If a file is damaged.
        """

        def largest(data: dict[str, ds.FileSystemDataset]) -> dict[str, int]:
            found: dict[str, int] = {}
            for rows in data.values():
                known = rows.to_table(columns=["trial", "attempt"]).unify_dictionaries()  # each file has its own dictionary
                by_trial = known.group_by("trial").aggregate([("attempt", "max")])
                for trial, attempt in zip(by_trial["trial"].to_pylist(), by_trial["attempt_max"].to_pylist(), strict=True):
                    found[trial] = max(found.get(trial, 0), attempt)
            return found

        return self.read(TABLES, largest, sweep)

    def curves(self, sweep: str, metric: str) -> dict[str, dict[int, float | None]]:
        """Trial -> epoch of fine-tuning -> a metric after it, in the last attempt of each trial.

        Raises:
            StoreError: If a file is damaged.
        """
        import pyarrow.dataset as ds

        def select(data: dict[str, ds.FileSystemDataset]) -> pa.Table:
            current = drop_superseded(data["metrics"], find_superseded(data["trials"]))
            return current.to_table(columns=["trial", "epoch", metric], filter=ds.field("stage") == "finetune")

        found: dict[str, dict[int, float | None]] = {}
        rows = self.read(["trials", "metrics"], select, sweep)
        for trial, epoch, value in zip(rows["trial"].to_pylist(), rows["epoch"].to_pylist(), rows[metric].to_pylist(), strict=True):
            found.setdefault(trial, {})[epoch] = value
        return found

    def compact(self, sweep: str, *, repair: bool = False) -> None:
        """Merge the files of each table of a sweep into one, without superseded rows. Safe while others read and write.

        Args:
            sweep: Name of the sweep.
            repair: Also leave out rows that were written twice; this takes longer.

        Raises:
            StoreError: If a file is damaged or cannot be written.
        """
        for table in sorted(TABLES, key=READING_ORDER.index):  # trials last: the others need them to know which attempts are superseded

            def merge(data: dict[str, ds.FileSystemDataset], table: str = table) -> None:
                self._merge(table, sweep, data, repair)

            self.read({table, "trials"}, merge, sweep)
            for path in self._files.attempt(partial(self._sort_files, table, sweep), f"{table} cannot be listed").dead:
                self._files.delete(self._relative(path))

    def compact_floors(self) -> None:
        """Merge the files of floors into one, without rows of which there is a later one. Safe while others read and write.

        Raises:
            StoreError: If a file is damaged or cannot be written.
        """

        def merge(data: dict[str, ds.FileSystemDataset]) -> None:
            paths = data["floors"].files
            if len(paths) > 1:
                rows = latest_floors(self._with_later_columns(paths, "floors").to_table(), FLOOR_KEY)
                self._write_merged([rows], rows.schema, paths, "floors")

        self.read(["floors"], merge)
        for path in self._files.attempt(partial(self._sort_files, "floors", None), "floors cannot be listed").dead:
            self._files.delete(self._relative(path))

    def _merge(self, table: str, sweep: str, data: dict[str, ds.FileSystemDataset], repair: bool) -> None:
        paths = data[table].files
        if len(paths) < (1 if repair else 2):
            return
        everything = self._with_later_columns(paths, table)
        superseded = find_superseded(data["trials"])
        keep: pa.ChunkedArray | None = None
        if table == "trials":
            rows = drop_earlier_attempts(everything, superseded)
            keep = last_rows_of_runs(rows.to_table(columns=list(OF_AN_ATTEMPT)))
        else:
            rows = drop_superseded(everything, superseded)
            if repair:
                keep = distinct_rows(rows.to_table(columns=list(IDENTITY[table])), IDENTITY[table])
        without = superseded.within(sweep).digest() if table != "trials" else ""
        self._write_merged(row_groups(rows, keep), rows.schema, paths, f"{table}/sweep={sweep}", without)

    # -------------------------------------------------------------------------------------------------------------- sweeps

    def fingerprint(self, name: str) -> str:
        """What the tables of a sweep, its plans and all floors are known by: it changes when one of their files does.

        Raises:
            StoreError: If they cannot be listed.
        """
        folders = [*(f"{table}/sweep={name}" for table in TABLES), "floors", f"sweeps/{name}"]
        files = [info for folder in folders for info in self._files.infos(folder) if info.extension in ("parquet", "json")]
        listed = sorted(f"{self._relative(info.path)} {info.size}" for info in files)
        return hashlib.sha256("\n".join(listed).encode()).hexdigest()[:16]

    def find_damaged(self) -> Iterator[tuple[str, str]]:
        """Read all files of rows and plans completely; yields (path, error) of each that is damaged."""
        for table in (*TABLES, "floors"):
            for path in self._list(table, None):
                try:
                    self._files.attempt(partial(self._verify, path), f"{path} cannot be read")
                except _OUT_OF_ORDER:
                    raise
                except StoreError as error:
                    yield path, str(error)
        for info in self._files.infos("sweeps", recursive=True):
            if info.extension == "json" and info.base_name != OLD_HEARTBEAT:
                try:
                    self._read_json(self._relative(info.path))
                except _OUT_OF_ORDER:
                    raise
                except StoreError as error:
                    yield info.path, str(error)

    def set_aside(self, path: str) -> str:
        """Rename a damaged file so that nothing reads it; returns the new path.

        Raises:
            StoreError: If it cannot be renamed.
        """
        aside = f"{path}.damaged"
        self._files.rename(self._relative(path), self._relative(aside))
        return aside

    def remove(self, name: str) -> None:
        """Delete the rows, plans and notes of a sweep, and its event files.

        Raises:
            StoreError: If something cannot be deleted.
        """
        for folder in (*(f"{table}/sweep={name}" for table in TABLES), f"sweeps/{name}", f"tensorboard/sweep={name}"):
            self._files.delete_folder(folder)
