"""The Parquet files of result tables: listing, reading, merging.

A file is complete or absent, and never changes. A merged file lists, in its Parquet metadata, every file whose rows it contains. Readers
skip the files that are listed, and compaction deletes them only after the merged file is published. So a compaction that dies at any moment
neither loses nor duplicates a row, and readers need no lock: one that finds a file deleted lists the folder again.
"""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import pyarrow as pa

from orca_core.errors import StoreError
from orca_core.filesystem import explain
from orca_core.patience import Patience
from sweeper.results.notes import SweepNotes
from sweeper.results.records import schema

if TYPE_CHECKING:
    import pyarrow.dataset as ds  # imported where it is used: it loads pandas, 0.3 s

T = TypeVar("T")

READING_ORDER = ("floors", "metrics", "probes", "stages", "trials")
"""Trials last. The first row of an attempt is written before its metrics and stages, so whoever reads those then also finds the attempt."""

_MERGED = ".merged.parquet"
_REPLACES, _WITHOUT = b"replaces", b"without"
_CODED = ("trial", "run", "stage")
"""Columns of `metrics` and `stages` that are read dictionary-encoded: grouping 10 M rows by them takes a third of the time."""

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


class TableFiles(SweepNotes):
    """The files of the result tables, and the notes about sweeps, under one folder.

    Arguments and errors as for `SweepNotes`.
    """

    def __init__(self, uri: str | Path, patience: Patience | None = None) -> None:
        super().__init__(uri, patience)
        self._sizes: dict[str, int] = {}  # of listed files, which never change; an object store is asked once less for each

    def has_files(self, table: str, sweep: str | None = None) -> bool:
        """Whether there is any file of a table, of one sweep or of all. What reads files loads pandas, which a first plan does without."""
        return bool(self._files.attempt(lambda: self._list(table, sweep), "the tables cannot be read"))

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

    def _with_later_columns(self, paths: Sequence[str], table: str) -> ds.FileSystemDataset:
        """The rows of files of a table, with columns that only a later version of this code knows."""
        import pyarrow.parquet as pq

        known = schema(table)
        stored = [pq.read_schema(path, filesystem=self._files.fs).remove_metadata() for path in paths]
        later = [pa.schema([field for field in columns if field.name not in known.names]) for columns in stored]
        return self._dataset(paths, pa.unify_schemas([known, *later]))

    def _write_merged(self, groups: Iterable[pa.Table], columns: pa.Schema, paths: Sequence[str], folder: str, without: str = "") -> None:
        """Write a file that replaces others, and that says which rows of theirs were left out; see `split_by_left_out`."""
        # List the files that earlier merges replaced, too: a compaction that was suspended may still publish a file made from them.
        replaced = {_name(path) for path in paths}.union(*(self._read_replaced(path) for path in paths if path.endswith(_MERGED)))
        notes = {_REPLACES: json.dumps(sorted(replaced)), _WITHOUT: without}
        self._write_rows(groups, columns.with_metadata(notes), folder, _MERGED)

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
        has_sweeps = "sweep" in columns.names
        fragments = [
            parquet.make_fragment(
                path, self._files.fs, ds.field("sweep") == _sweep_of(path) if has_sweeps else None, file_size=self._sizes.get(path)
            )
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

    def _write_rows(self, groups: Iterable[pa.Table], columns: pa.Schema, folder: str, ending: str = ".parquet") -> None:
        import pyarrow.parquet as pq

        content = pa.BufferOutputStream()
        # Measured values hardly repeat: with a dictionary they take more space, and up to twice the time to write and to read.
        repeating = [field.name for field in columns if not pa.types.is_floating(field.type)]
        with pq.ParquetWriter(content, columns, use_dictionary=repeating, write_page_checksum=True) as writer:
            for group in groups:
                writer.write_table(group.replace_schema_metadata(columns.metadata))
        name = f"{time.time_ns():020d}-{uuid.uuid4().hex[:12]}{ending}"
        self._files.write(f"{folder}/{name}", content.getvalue().to_pybytes())


def parts_by_sweep(rows: ds.FileSystemDataset) -> dict[str, ds.FileSystemDataset]:
    """The rows of each sweep, without the column `sweep`, in the order of the files."""
    import pyarrow.dataset as ds

    paths: dict[str, list[ds.FileFragment]] = {}
    for fragment in rows.get_fragments():
        paths.setdefault(_sweep_of(fragment.path), []).append(fragment)
    columns = pa.schema([field for field in rows.schema if field.name != "sweep"])
    return {sweep: ds.FileSystemDataset(fragments, columns, rows.format, rows.filesystem) for sweep, fragments in paths.items()}


def split_by_left_out(rows: ds.FileSystemDataset, without: str) -> tuple[ds.FileSystemDataset, ds.FileSystemDataset]:
    """The rows of merged files from which certain rows were left out, by the name that `_write_merged` was given; and all other rows."""
    import pyarrow.dataset as ds

    filtered: list[ds.FileFragment] = []
    others: list[ds.FileFragment] = []
    for fragment in rows.get_fragments():
        notes = fragment.metadata.metadata if fragment.path.endswith(_MERGED) else {}
        (filtered if notes.get(_WITHOUT, b"").decode() == without else others).append(fragment)
    first, second = (ds.FileSystemDataset(found, rows.schema, rows.format, rows.filesystem) for found in (filtered, others))
    return first, second


def row_groups(rows: ds.Dataset, keep: pa.ChunkedArray | None) -> Iterator[pa.Table]:
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
    if table in ("trials", "floors"):
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
