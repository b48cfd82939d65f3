"""Result tables as Parquet files, on a local disk, NFS, S3 or GCS.

    <uri>/trials/sweep=<name>/<time>-<random>.parquet       likewise metrics/ and stages/; each file also has the column `sweep`
    <uri>/trials/sweep=<name>/<time>-<random>.merged.parquet
    <uri>/sweeps/<name>/<plan hash>.json, <run>.claim, <run>.stop, clock

A file is complete or absent, and never changes. A merged file lists, in its Parquet metadata, every file whose rows it contains. Readers
skip the files that are listed, and compaction deletes them only after the merged file is published. So a compaction that dies at any moment
neither loses nor duplicates a row, and readers need no lock: one that finds a file deleted lists the folder again.
"""

from __future__ import annotations

import json
import shlex
import time
import uuid
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import pyarrow as pa

from orca_core.errors import MissingBucketError, StoreAccessError, StoreError, StoreUnavailableError
from orca_core.filesystem import explain
from orca_core.patience import Patience
from sweeper.results.notes import OLD_HEARTBEAT, SweepNotes
from sweeper.results.records import IDENTITY, TABLES, schema
from sweeper.results.views import (
    OF_AN_ATTEMPT,
    current_rows,
    distinct_rows,
    drop_earlier_attempts,
    drop_superseded,
    find_superseded,
    last_rows_of_runs,
)

if TYPE_CHECKING:
    import pyarrow.dataset as ds  # imported where it is used: it loads pandas, 0.3 s

T = TypeVar("T")

READING_ORDER = ("metrics", "stages", "trials")
"""Trials last. The first row of an attempt is written before its metrics and stages, so whoever reads those then also finds the attempt."""

_MERGED = ".merged.parquet"
_REPLACES = b"replaces"
_CODED = ("trial", "run", "stage")
"""Columns of `metrics` and `stages` that are read dictionary-encoded: grouping 10 M rows by them takes a third of the time."""

_OUT_OF_ORDER = (StoreUnavailableError, StoreAccessError, MissingBucketError)
"""Errors of the store as a whole, which say nothing about a file."""

_GROUP_BYTES = 32 * 2**20
"""Size in memory of a row group of a merged file."""

_BATCH_ROWS = 4096
"""Rows that are read at once when files are merged."""

_TRIES = 20
"""How often a read starts again because a compaction removed a file, before it is given up."""


@dataclass(frozen=True)
class _Files:
    """Paths of a table's files: those to read, and those replaced by a merged file. Oldest first within a sweep."""

    live: Sequence[str]
    dead: Sequence[str]


def results_option(uri: str) -> str:
    """The option by which a command reads these results, with a space before it; empty for the folder that commands read anyway."""
    return "" if uri == "results" else f" --results {shlex.quote(uri)}"


class ResultStore(SweepNotes):
    """The result tables and the notes about sweeps under one folder.

    Args:
        uri: A folder or a URI that `pyarrow.fs` knows. It need not exist, but its bucket must.
        patience: How long it is waited for while it is out of reach; None = not at all.

    Raises:
        StoreError: From every method: if it cannot be opened, read or written; see `Files`.
    """

    def __init__(self, uri: str | Path, patience: Patience | None = None) -> None:
        super().__init__(uri, patience)
        self._sizes: dict[str, int] = {}  # of listed files, which never change; an object store is asked once less for each

    def exists(self) -> bool:
        """Whether there are any results."""
        return any(self._files.infos(folder) for folder in (*TABLES, "sweeps"))

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
        self._write_rows([pa.Table.from_pylist([{**row, "sweep": sweep} for row in rows], schema=columns)], columns, table, sweep)

    def live_trials(self, sweep: str | None = None, columns: Collection[str] | None = None) -> list[dict[str, Any]]:
        """The current row of each trial of each sweep, in the order in which they were written.

        Args:
            sweep: Only this sweep; None = all.
            columns: Only these columns; None = all.

        Raises:
            StoreError: If a file is damaged.
        """
        wanted = schema("trials").names if columns is None else list(columns)
        needed = list(dict.fromkeys(["sweep", "trial", "attempt", "run", "sequence", *wanted]))
        rows = self.read(["trials"], lambda data: data["trials"].to_table(columns=needed), sweep)
        found: list[dict[str, Any]] = current_rows(rows).select(wanted).to_pylist()
        return found

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

    def read(
        self,
        tables: Collection[str],
        use: Callable[[dict[str, ds.FileSystemDataset]], T],
        sweep: str | None = None,
        failures: tuple[type[Exception], ...] = (),
    ) -> T:
        """Call `use` with the tables as data sets of all rows, including superseded ones, and return its result.

        Args:
            tables: Names of the tables.
            use: Called again with new data sets if a compaction removed a file before it was read.
            sweep: Only the rows of this sweep; None = all sweeps.
            failures: Exceptions, in addition to pyarrow's, that `use` raises when a file cannot be read.

        Raises:
            StoreError: If a file is damaged; the message names it.
        """
        return self._files.attempt(lambda: self._read(tables, use, sweep, failures), "the tables cannot be read")

    def _read(
        self,
        tables: Collection[str],
        use: Callable[[dict[str, ds.FileSystemDataset]], T],
        sweep: str | None,
        failures: tuple[type[Exception], ...],
    ) -> T:
        for _ in range(_TRIES):
            try:
                files = {table: self._sort_files(table, sweep).live for table in sorted(tables, key=READING_ORDER.index)}
            except FileNotFoundError:
                continue
            try:
                return use({table: self._dataset(paths, _reading_schema(table)) for table, paths in files.items()})
            except (OSError, pa.ArrowInvalid, *failures) as error:
                if (trouble := explain(self.uri, error)) is not None:
                    raise trouble from error
                # Find out which file it was: damaged raises here, removed starts again, and if all are fine it was the query.
                if not all(self._verify(path) for paths in files.values() for path in paths):
                    continue
                if isinstance(error, failures):
                    raise
                raise StoreError(f"{self.uri}: cannot be read ({error})") from error
        raise StoreError(f"{self.uri}: files kept being removed while they were read. Try again when no compaction is running.")

    def compact(self, sweep: str, *, repair: bool = False) -> None:
        """Merge the files of each table of a sweep into one, without superseded rows. Safe while others read and write.

        Args:
            sweep: Name of the sweep.
            repair: Also leave out rows that were written twice; this takes longer.

        Raises:
            StoreError: If a file is damaged or cannot be written.
        """
        for table in READING_ORDER:  # trials last: the other tables need them to know which attempts are superseded

            def merge(data: dict[str, ds.FileSystemDataset], table: str = table) -> None:
                self._merge(table, sweep, data, repair)

            self.read({table, "trials"}, merge, sweep)
            for path in self._files.attempt(partial(self._sort_files, table, sweep), f"{table} cannot be listed").dead:
                self._files.delete(self._relative(path))

    def _merge(self, table: str, sweep: str, data: dict[str, ds.FileSystemDataset], repair: bool) -> None:
        import pyarrow.parquet as pq

        paths = data[table].files
        if len(paths) < (1 if repair else 2):
            return
        # Keep columns that only a later version of this code knows.
        stored = [pq.read_schema(path, filesystem=self._files.fs).remove_metadata() for path in paths]
        everything = self._dataset(paths, pa.unify_schemas([schema(table), *stored]))
        superseded = find_superseded(data["trials"])
        keep: pa.ChunkedArray | None = None
        if table == "trials":
            rows = drop_earlier_attempts(everything, superseded)
            keep = last_rows_of_runs(rows.to_table(columns=list(OF_AN_ATTEMPT)))
        else:
            rows = drop_superseded(everything, superseded)
            if repair:
                keep = distinct_rows(rows.to_table(columns=list(IDENTITY[table])), IDENTITY[table])
        # List the files that earlier merges replaced, too: a compaction that was suspended may still publish a file made from them.
        replaced = {_name(path) for path in paths}.union(*(self._read_replaced(path) for path in paths if path.endswith(_MERGED)))
        columns = rows.schema.with_metadata({_REPLACES: json.dumps(sorted(replaced))})
        self._write_rows(_row_groups(rows, keep), columns, table, sweep, _MERGED)

    # --------------------------------------------------------------------------------------------------------------- files

    def _sort_files(self, table: str, sweep: str | None) -> _Files:
        """The files of a table, separated by what the merged ones list.

        Raises:
            FileNotFoundError: If a merged file was removed after it was listed.
        """
        paths = self._list(table, sweep)
        # A listing is not atomic: it may miss both a new merged file and the deleted file it replaces. List until two agree.
        while (again := self._list(table, sweep)) != paths:
            paths = again
        merged = {path: self._read_replaced(path) for path in paths if path.endswith(_MERGED)}
        replaced = frozenset[str]().union(*merged.values())
        # Of two simultaneous compactions, the file that replaces more wins; of equal ones, the later.
        rivals = [(names, path) for path, names in merged.items()]
        replaced |= {_name(path) for names, path in rivals if any(names < more or (names == more and path < by) for more, by in rivals)}
        return _Files([path for path in paths if _name(path) not in replaced], [path for path in paths if _name(path) in replaced])

    def _list(self, table: str, sweep: str | None) -> list[str]:
        infos = self._files.infos(table if sweep is None else f"{table}/sweep={sweep}", recursive=True)
        self._sizes.update({info.path: info.size for info in infos})
        return sorted(info.path for info in infos if info.path.endswith(".parquet"))

    def _read_replaced(self, path: str) -> frozenset[str]:
        """Names of the files that a merged file replaces."""
        import pyarrow.parquet as pq

        try:
            metadata = pq.read_metadata(path, filesystem=self._files.fs).metadata
        except FileNotFoundError:
            raise
        except (OSError, pa.ArrowInvalid) as error:
            raise explain(self.uri, error) or _damage_error(path, error) from None
        return frozenset(json.loads(metadata[_REPLACES]))

    def _dataset(self, paths: Sequence[str], columns: pa.Schema) -> ds.FileSystemDataset:
        import pyarrow.dataset as ds

        coded = [field.name for field in columns if pa.types.is_dictionary(field.type)]
        parquet = ds.ParquetFileFormat(
            read_options=ds.ParquetReadOptions(dictionary_columns=coded),
            default_fragment_scan_options=ds.ParquetFragmentScanOptions(page_checksum_verification=True),
        )
        # The folder of a file tells its sweep: so a filter on the sweep skips files without opening them, and the column is never decoded.
        fragments = [
            parquet.make_fragment(path, self._files.fs, ds.field("sweep") == _sweep_of(path), file_size=self._sizes.get(path))
            for path in paths
        ]
        return ds.FileSystemDataset(fragments, columns, parquet, self._files.fs)

    def _verify(self, path: str) -> bool:
        """Read a file completely to verify it. Returns False if it does not exist, else True.

        Raises:
            StoreError: If it is damaged.
        """
        import pyarrow.parquet as pq

        try:
            with self._files.fs.open_input_file(path) as file:
                for _ in pq.ParquetFile(file, page_checksum_verification=True).iter_batches():
                    pass
        except FileNotFoundError:
            return False
        except (OSError, pa.ArrowInvalid) as error:
            raise explain(self.uri, error) or _damage_error(path, error) from None
        return True

    def _write_rows(self, groups: Iterable[pa.Table], columns: pa.Schema, table: str, sweep: str, ending: str = ".parquet") -> None:
        import pyarrow.parquet as pq

        content = pa.BufferOutputStream()
        with pq.ParquetWriter(content, columns, write_page_checksum=True) as writer:
            for group in groups:
                writer.write_table(group.replace_schema_metadata(columns.metadata))
        name = f"{time.time_ns():020d}-{uuid.uuid4().hex[:12]}{ending}"
        self._files.write(f"{table}/sweep={sweep}/{name}", content.getvalue().to_pybytes())

    # -------------------------------------------------------------------------------------------------------------- sweeps

    def find_damaged(self) -> Iterator[tuple[str, str]]:
        """Read all files of rows and plans completely; yields (path, error) of each that is damaged."""
        for table in TABLES:
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
        """Delete the rows, plans and notes of a sweep.

        Raises:
            StoreError: If something cannot be deleted.
        """
        for folder in (*(f"{table}/sweep={name}" for table in TABLES), f"sweeps/{name}"):
            self._files.delete_folder(folder)


def _row_groups(rows: ds.Dataset, keep: pa.ChunkedArray | None) -> Iterator[pa.Table]:
    """The rows at the positions `keep`, or all, in tables of about `_GROUP_BYTES`: rows of a large sweep take gigabytes in memory."""
    kept = np.zeros(rows.count_rows() if keep is not None else 0, dtype=bool)
    if keep is not None:
        kept[keep.to_numpy()] = True
    group: list[pa.RecordBatch] = []
    position = 0
    for batch in rows.to_batches(batch_size=_BATCH_ROWS, batch_readahead=1, fragment_readahead=1):
        group.append(batch if keep is None else batch.filter(pa.array(kept[position : position + len(batch)])))
        position += len(batch)
        if sum(of_group.nbytes for of_group in group) >= _GROUP_BYTES:
            yield pa.Table.from_batches(group)
            group = []
    yield pa.Table.from_batches(group, rows.schema)


def _reading_schema(table: str) -> pa.Schema:
    """The schema with which a table is read."""
    columns = schema(table)
    if table == "trials":
        return columns
    coded = pa.dictionary(pa.int32(), pa.string())
    return pa.schema([field.with_type(coded) if field.name in _CODED else field for field in columns])


def _name(path: str) -> str:
    return path.rpartition("/")[2]


def _sweep_of(path: str) -> str:
    return path.split("/")[-2].removeprefix("sweep=")


def _damage_error(path: str, error: Exception) -> StoreError:
    reason = " ".join(str(error).split())
    remedy = "Restore the file, or set it aside with `sweeper doctor --repair` and run its sweep again."
    return StoreError(f"{path}: is damaged ({reason}). {remedy}")
