"""What counts among the stored rows: which attempt of a trial is the current one, which status is shown, and the views that SQL sees.

    all_trials        every row of every attempt that has not been compacted away
    trial_status      the latest row of every trial in each sweep, whatever its status
    trials            of these the ones that are in the plan and COMPLETE: one row per sweep and trial
    distinct_trials   of these one per result key: a trial that several sweeps share counts once
    metrics, stages   the rows of the current attempts

A stop at the user's request is stored as FAIL with the cause `stopped`, and is shown as INTERRUPTED: nothing is wrong with such a trial.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from sweeper.results.records import TABLES

if TYPE_CHECKING:
    import pyarrow.dataset as ds

INTERRUPTED = "INTERRUPTED"
"""Status of a trial that a stop cut short; the next run of its sweep continues it."""

STATUSES = ("COMPLETE", "PRUNED", "FAIL", INTERRUPTED, "RUNNING")
"""Every status that is shown."""

VIEWS = ("trials", "distinct_trials", "trial_status", "all_trials", "metrics", "stages")
"""What a query can read."""

STORED_TRIALS = "stored_trials"
"""Name under which the rows of the table `trials` are registered, as they are stored."""

CREATE_VIEWS = f"""
    CREATE VIEW all_trials AS
    SELECT * REPLACE (CASE WHEN status = 'FAIL' AND cause = 'stopped' THEN '{INTERRUPTED}' ELSE status END AS status) FROM {STORED_TRIALS};

    CREATE VIEW trial_status AS
    FROM all_trials QUALIFY row_number() OVER (PARTITION BY sweep, trial ORDER BY attempt DESC, sequence DESC) = 1;

    CREATE VIEW trials AS
    FROM trial_status WHERE status = 'COMPLETE' AND in_plan;

    CREATE VIEW distinct_trials AS
    FROM trials QUALIFY row_number() OVER (
        PARTITION BY coalesce(result_key, trial) ORDER BY reused_from IS NOT NULL, ended_at, sweep, trial
    ) = 1;
"""
"""Windows are over trials only, of which there are few. `metrics` has millions of rows and is filtered by `drop_superseded` instead."""


def shown_status(row: Mapping[str, Any]) -> str:
    """The status that is shown for a stored row, by its columns `status` and `cause`."""
    return INTERRUPTED if row["status"] == "FAIL" and row.get("cause") == "stopped" else str(row["status"])


def column_names() -> set[str]:
    """The names of all columns of all tables."""
    return {column.name for columns in TABLES.values() for column in columns}


def current_rows(trials: pa.Table) -> pa.Table:
    """For each trial in each sweep, the row with the largest (attempt, sequence), in the order of the table."""
    keys = trials.select(["sweep", "trial", "attempt", "sequence"]).append_column("row", pa.array(range(len(trials)), pa.int64()))
    ascending = keys.sort_by([("attempt", "ascending"), ("sequence", "ascending"), ("row", "ascending")])
    last = ascending.group_by(["sweep", "trial"], use_threads=False).aggregate([("row", "last")])
    return trials.take(last.sort_by("row_last")["row_last"])


def find_later_attempts(trials: ds.Dataset) -> list[dict[str, Any]]:
    """The attempts that supersede earlier ones: for each `sweep` and each `attempt` above 1, the `trials` whose last attempt it is."""
    import pyarrow.dataset as ds

    later = trials.to_table(columns=["sweep", "trial", "attempt"], filter=ds.field("attempt") > 1)
    last = later.group_by(["sweep", "trial"]).aggregate([("attempt", "max")])
    groups = last.group_by(["sweep", "attempt_max"]).aggregate([("trial", "list")])
    found: list[dict[str, Any]] = groups.rename_columns({"attempt_max": "attempt", "trial_list": "trials"}).to_pylist()
    return found


def drop_superseded(rows: ds.Dataset, later: Sequence[Mapping[str, Any]]) -> ds.Dataset:
    """Rows of `metrics` or `stages` without those that the attempts of `find_later_attempts` supersede.

    The filter is per sweep and is applied while files are read, so a sweep without superseded rows is read at full speed. A join over all
    rows takes twice as long, a window function twenty times.
    """
    import pyarrow.dataset as ds

    for group in later:
        of_these = (ds.field("sweep") == group["sweep"]) & ds.field("trial").isin(group["trials"])
        rows = rows.filter(~(of_these & (ds.field("attempt") < group["attempt"])))
    return rows
