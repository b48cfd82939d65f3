"""The tables of a sweep as a folder of CSV or Parquet files."""

from __future__ import annotations

from pathlib import Path

from orca_core.floors.rows import FloorCase
from sweeper.interchange.sweep import ExportedSweep
from sweeper.show.tables import write_table


def write(sweep: ExportedSweep, path: Path, to: str) -> str:
    """Write `trials`, `metrics`, `stages` and `floors`.

    `trials` has the latest row of every trial, whatever its status, and also of derived and of no longer planned ones: the view
    `trial_status`. `floors` has those of the tasks and splits of these trials.

    Args:
        sweep: The sweep.
        path: The folder.
        to: `csv` or `pandas`.

    Returns:
        What was written.
    """
    import pyarrow.parquet as pq

    path.mkdir()
    name, case = sweep.name.replace("'", "''"), ", ".join(FloorCase("").cells())
    of_sweep = f"where sweep = '{name}'"
    queries = {
        "trials": f"select * from trial_status {of_sweep} order by started_at, trial",
        "metrics": f"select * from metrics {of_sweep} order by trial, stage, phase, fold, epoch",
        "stages": f"select * from stages {of_sweep} order by trial, stage, phase, fold",
        "probes": f"select * from probes {of_sweep} order by trial, probe, moment, layer, param_group, setting, split",
        "floors": f"select floors.* from floors semi join (select task from trial_status {of_sweep}) using (task) order by {case}, model",
    }
    counts = []
    for table, query in queries.items():
        found = sweep.workspace.sql(query).arrow()
        if to == "csv":
            write_table(found, "csv", path / f"{table}.csv")
        else:
            pq.write_table(found, path / f"{table}.parquet")
        counts.append(f"{table} ({len(found)} rows)")
    return f"the tables {', '.join(counts)}"
