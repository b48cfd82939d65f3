"""What counts among the stored rows: which attempt of a trial is the current one, which status is shown, and the views that SQL sees.

    all_trials        every row of every attempt that has not been compacted away
    trial_status      the latest row of every trial in each sweep, whatever its status
    trials            of these the ones that are in the plan and COMPLETE: one row per sweep and trial
    distinct_trials   of these one per result key: a trial that several sweeps share counts once
    metrics, stages   the rows of the current attempts
    probes            of these what was recorded last, for each trial, probe and moment
    floors            the latest row of each model on each task and split

An attempt is known by its number and by the run that made it. There is one driver at a time, so one run makes it. If two got in all the
same, and both made the same attempt, the later run counts, and nothing of the other is shown.

A stop at the user's request is stored as FAIL with the cause `stopped`, and is shown as INTERRUPTED: nothing is wrong with such a trial.
An attempt whose process or machine was lost is stored as INTERRUPTED, as long as the trial is to be started again.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

from orca_core.config.spellings import BEFORE
from sweeper.results.records import FLOOR_IDENTITY, FLOORS, TABLES
from sweeper.results.table_files import parts_by_sweep, split_by_left_out

if TYPE_CHECKING:
    import pyarrow.dataset as ds

INTERRUPTED = "INTERRUPTED"
"""Status of a trial that was cut short, by a stop or with its machine: the same run or the next one continues it."""

STATUSES = ("COMPLETE", "PRUNED", "FAIL", INTERRUPTED, "RUNNING")
"""Every status that is shown."""

VIEWS = dict.fromkeys(("trials", "distinct_trials", "trial_status", "all_trials"), "trials") | {
    table: table for table in ("metrics", "stages", "probes", "floors")
}
"""What a query can read, and the table of which each view shows rows."""


def stored_name(table: str, part: int = 0) -> str:
    """The name under which a connection knows the rows of a part of a table."""
    return f"stored_{table}_{part}"


_IN_PRESENT_SPELLING = ", ".join(
    f"CASE {column} " + " ".join(f"WHEN '{old}' THEN '{new}'" for old, new in spellings.items()) + f" ELSE {column} END AS {column}"
    for column, spellings in BEFORE.items()
)
"""Values in the spellings of today, of columns in which files of earlier versions have others."""

_SHOWN_TRIALS = f"""
    SELECT * REPLACE (
        CASE WHEN status = 'FAIL' AND cause = 'stopped' THEN '{INTERRUPTED}' ELSE status END AS status, {_IN_PRESENT_SPELLING}
    ) FROM {stored_name("trials")}
"""
_IS_LATEST = "row_number() OVER (PARTITION BY sweep, trial ORDER BY attempt DESC, run DESC NULLS LAST, sequence DESC) = 1"

_VIEWS_OF = {
    "trials": f"""
        CREATE OR REPLACE VIEW all_trials AS {_SHOWN_TRIALS};
        CREATE OR REPLACE VIEW trial_status AS {_SHOWN_TRIALS} QUALIFY {_IS_LATEST};
        CREATE OR REPLACE VIEW trials AS {_SHOWN_TRIALS} QUALIFY {_IS_LATEST} AND status = 'COMPLETE' AND in_plan;
        CREATE OR REPLACE VIEW distinct_trials AS
        FROM trials QUALIFY row_number() OVER (
            PARTITION BY coalesce(result_key, trial) ORDER BY reused_from IS NOT NULL, ended_at, sweep, trial
        ) = 1;
    """,
    "floors": f"""
        CREATE OR REPLACE VIEW floors AS
        FROM {stored_name("floors")} QUALIFY row_number() OVER (
            PARTITION BY {", ".join(FLOOR_IDENTITY)} ORDER BY task_digest IS NULL, computed_at DESC
        ) = 1;
    """,
    "probes": f"""
        CREATE OR REPLACE VIEW probes AS
        FROM {stored_name("probes")}
        QUALIFY recorded_at IS NOT DISTINCT FROM max(recorded_at) OVER (PARTITION BY sweep, trial, probe, moment);
    """,
}
"""The views of trials are not made from each other: for each view on the way DuckDB takes 2 ms for the two hundred columns, twice a query.

Windows are over trials and probes, of which there are few. `metrics` has millions of rows and is filtered by `drop_superseded`.
"""


def shown_status(row: Mapping[str, Any]) -> str:
    """The status that is shown for a stored row, by its columns `status` and `cause`."""
    return INTERRUPTED if row["status"] == "FAIL" and row.get("cause") == "stopped" else str(row["status"])


def column_names() -> set[str]:
    """The names of all columns of all tables."""
    return {column.name for columns in (*TABLES.values(), FLOORS) for column in columns}


def current_rows(trials: pa.Table) -> pa.Table:
    """For each trial in each sweep, the row with the largest (attempt, run, sequence), in the order of the table."""
    return trials.take(_last_rows(trials, ["sweep", "trial"]))


OF_AN_ATTEMPT = ("sweep", "trial", "attempt", "run", "sequence")
"""Columns of `trials` that say which rows count."""


def last_rows_of_runs(trials: pa.Table) -> pa.ChunkedArray:
    """Positions of the current row of each trial, and of the last row of every other run that made the same attempt at once, ascending.

    What remains of `trials` after superseded attempts are dropped: the rows of the other runs must stay, as `find_superseded` has to know
    about those runs for as long as they may still write rows of epochs.

    Args:
        trials: Rows of `trials` with at least the columns `OF_AN_ATTEMPT`.
    """
    return _last_rows(trials, ["sweep", "trial", "run"])


def latest_floors(rows: pa.Table, by: Sequence[str] = FLOOR_IDENTITY) -> pa.Table:
    """Of rows of `floors` that agree in some columns the latest, in the order of the table. One without data counts only if all are."""
    keys = rows.select(list(by)).append_column("row", pa.array(range(len(rows)), pa.int64()))
    keys = keys.append_column("has_data", pc.is_valid(rows["task_digest"])).append_column("time", rows["computed_at"])
    ordered = keys.sort_by([(name, "ascending") for name in ("has_data", "time", "row")])
    last = ordered.group_by(list(by), use_threads=False).aggregate([("row", "last")])
    return rows.take(last.sort_by("row_last")["row_last"])


def distinct_rows(rows: pa.Table, identity: Sequence[str]) -> pa.ChunkedArray:
    """Positions of the rows that differ in the columns `identity`, ascending: of rows that agree, the first."""
    keys = rows.select(list(identity)).append_column("row", pa.array(range(len(rows)), pa.int64()))
    first = keys.group_by(list(identity), use_threads=False).aggregate([("row", "first")])
    return first.sort_by("row_first")["row_first"]


def _last_rows(trials: pa.Table, by: Sequence[str]) -> pa.ChunkedArray:
    keys = _named_runs(trials.select(OF_AN_ATTEMPT))
    keys = keys.append_column("row", pa.array(range(len(trials)), pa.int64()))
    ascending = keys.sort_by([(name, "ascending") for name in ("attempt", "run", "sequence", "row")])
    last = ascending.group_by(list(by), use_threads=False).aggregate([("row", "last")])
    return last.sort_by("row_last")["row_last"]


def _named_runs(rows: pa.Table) -> pa.Table:
    """The rows with an empty text for the run of rows of version 0.1, which is null: it comes before every other."""
    runs = rows["run"].cast(pa.string()).fill_null("")
    return rows.set_column(rows.column_names.index("run"), "run", runs)


@dataclass(frozen=True)
class Superseded:
    """The rows of `metrics` and `stages` that do not count, as few conditions.

    Args:
        attempts: The attempts that supersede earlier ones: for each `sweep` and each `attempt` above 1, the `trials` whose last attempt
            it is.
        runs: Attempts that several runs made at once: for each `sweep`, `attempt` and `run` whose rows count, the `trials`.
    """

    attempts: Sequence[Mapping[str, Any]]
    runs: Sequence[Mapping[str, Any]]

    def within(self, sweep: str) -> Superseded:
        """Of the rows of one sweep alone, which have no column `sweep`."""

        def of_sweep(groups: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
            return [{key: value for key, value in group.items() if key != "sweep"} for group in groups if group["sweep"] == sweep]

        return Superseded(of_sweep(self.attempts), of_sweep(self.runs))

    def digest(self) -> str:
        """A text that is equal for the same rows, and empty for none."""
        groups = [dict(group) | {"trials": sorted(group["trials"])} for group in (*self.attempts, *self.runs)]
        texts = sorted(json.dumps(group, sort_keys=True) for group in groups)
        return hashlib.sha256("\n".join(texts).encode()).hexdigest()[:16] if texts else ""


def find_superseded(trials: ds.Dataset) -> Superseded:
    """What the rows of `trials` say about which rows of the other tables do not count.

    The order of attempts and runs never depends on how an attempt ended: what is superseded once stays so, whatever is written later, and
    compaction may delete it.
    """
    known = _named_runs(trials.to_table(columns=["sweep", "trial", "attempt", "run"]))
    runs = [("run", "max"), ("run", "count_distinct")]
    attempts = known.group_by(["sweep", "trial", "attempt"], use_threads=False).aggregate(runs)
    last = attempts.group_by(["sweep", "trial"], use_threads=False).aggregate([("attempt", "max")])
    return Superseded(
        attempts=_list_trials(last.filter(pc.greater(last["attempt_max"], 1)), {"sweep": "sweep", "attempt_max": "attempt"}),
        runs=_list_trials(
            attempts.filter(pc.greater(attempts["run_count_distinct"], 1)), {"sweep": "sweep", "attempt": "attempt", "run_max": "run"}
        ),
    )


def _list_trials(rows: pa.Table, names: Mapping[str, str]) -> list[dict[str, Any]]:
    """For each combination of values of some columns, renamed, the `trials`."""
    if not len(rows):
        return []  # as in most sweeps: nothing was started twice
    lists = rows.group_by(list(names), use_threads=False).aggregate([("trial", "list")])
    found: list[dict[str, Any]] = lists.rename_columns(dict(names) | {"trial_list": "trials"}).to_pylist()
    return found


SIZE_HINTS = "size_hints"
"""The schema in which a connection has the tables of `size_hints`."""


def size_hints() -> dict[str, pa.Table]:
    """Tables of which the view of `metrics` has a part without rows, so that DuckDB takes it for a table of a hundred million.

    DuckDB cannot ask a data set how many rows it has, and assumes one. Of `metrics` it would build the hash table of a join, which takes
    three times as long as building that of `trials`. All values are null, so no row meets the condition `is_row`; it estimates that a
    fifth does. The columns are there so that other conditions tell it no better.
    """
    columns = {column.name: pa.nulls(4_000, column.type) for column in TABLES["metrics"]}
    return {"metrics": pa.table(columns), "size": pa.table({"is_row": pa.nulls(100_000, pa.bool_())})}


MOST_PARTS = 32
"""Number of sweeps up to which each is a part of `metrics` and `stages` by itself: a query is planned for every part."""


def current_parts(table: str, rows: ds.FileSystemDataset, superseded: Superseded) -> list[tuple[str | None, ds.Dataset]]:
    """The rows that the views of a table are made of, in parts; those of `metrics`, `stages` and `probes` without superseded ones.

    `metrics` and `stages` have a part for each sweep: its name, and its rows without that column. With the name as a constant, joining with
    `trials` compares one text in each row instead of two, in half the time. Of more than `MOST_PARTS` sweeps there is one part with all
    rows, of name None; as there is of other tables, and where there are no rows.
    """
    if table in ("trials", "floors"):
        return [(None, rows)]
    parts = parts_by_sweep(rows) if table != "probes" else {}
    if not 0 < len(parts) <= MOST_PARTS:
        return [(None, drop_superseded(rows, superseded))]
    return [(sweep, current) for sweep, part in parts.items() for current in _current_files(part, superseded.within(sweep))]


def _current_files(rows: ds.FileSystemDataset, superseded: Superseded) -> list[ds.Dataset]:
    """Rows of one sweep without those that do not count. Files from which compaction has left these out are not filtered once more."""
    if not (without := superseded.digest()):
        return [rows]
    filtered, others = split_by_left_out(rows, without)
    found = [filtered] if filtered.files else []
    return [*found, drop_superseded(others, superseded)] if others.files else found


def create_views(table: str, sweeps: Sequence[str | None]) -> str:
    """SQL that makes the views of a table of the parts that are registered by `stored_name`.

    Args:
        table: Name of the table.
        sweeps: For each part, the name of the sweep, or None if it has a column of names.
    """
    if table in _VIEWS_OF:
        return _VIEWS_OF[table]
    columns = ", ".join(f'"{column.name}"' for column in TABLES[table] if column.name != "sweep")

    def select(sweep: str | None) -> str:
        named = "sweep" if sweep is None else "'" + sweep.replace("'", "''") + "' AS sweep"
        return f"SELECT {named}, {columns}"

    parts = [f"{select(sweep)} FROM {stored_name(table, number)}" for number, sweep in enumerate(sweeps)]
    if table == "metrics":
        parts.append(f"{select(None)} FROM {SIZE_HINTS}.metrics, {SIZE_HINTS}.size WHERE is_row")
    return f"CREATE OR REPLACE VIEW {table} AS {' UNION ALL '.join(parts)}"


def drop_superseded(rows: ds.Dataset, superseded: Superseded) -> ds.Dataset:
    """Rows of `metrics` or `stages` without those that do not count.

    The filter is per sweep and is applied while files are read, so a sweep without superseded rows is read at full speed. A join over all
    rows takes twice as long, a window function twenty times.
    """
    import pyarrow.dataset as ds

    rows = drop_earlier_attempts(rows, superseded)
    for group in superseded.runs:
        of_these = _of_trials(group) & (ds.field("attempt") == group["attempt"])
        rows = rows.filter(~(of_these & (ds.field("run").is_null() | (ds.field("run") != group["run"]))))
    return rows


def drop_earlier_attempts(rows: ds.Dataset, superseded: Superseded) -> ds.Dataset:
    """Rows of any table without those of earlier attempts."""
    import pyarrow.dataset as ds

    for group in superseded.attempts:
        rows = rows.filter(~(_of_trials(group) & (ds.field("attempt") < group["attempt"])))
    return rows


def _of_trials(group: Mapping[str, Any]) -> pc.Expression:
    """The rows of the trials of a group, of its sweep if it names one."""
    of_these = pc.field("trial").isin(group["trials"])
    return of_these & (pc.field("sweep") == group["sweep"]) if "sweep" in group else of_these
