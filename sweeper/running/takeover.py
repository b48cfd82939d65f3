"""Takes over finished trials of other sweeps: same result key, same rows, nothing to run."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import replace

from orca_core.rows import EpochRow, ProbeRow, Row, StageRow
from sweeper.planning.trials import PlannedTrial
from sweeper.results.workspace import Workspace
from sweeper.running.recorder import Recorder

_BATCH_SIZE = 500
"""Number of trials whose rows are read by one query."""

_SWEEP_COLUMNS = frozenset(
    {
        "sweep",
        "attempt",
        "run",
        "sequence",
        "in_plan",
        "role",
        "arm",
        "candidate",
        "variant",
        "reused_from",
        "started_at",
        "ended_at",
        "saved_s",
    }
) | {f"seconds{of}" for of in ("", "_pretrain", "_source", "_align", "_adapt", "_finetune")}
"""Columns about a trial's history in one sweep. The others are results of the trial itself and are copied unchanged."""


def find_elsewhere(workspace: Workspace, sweep: str, todo: Iterable[PlannedTrial]) -> dict[str, tuple[str, str]]:
    """Which trials are COMPLETE in another sweep of the same results.

    Args:
        workspace: Where the results are.
        sweep: Name of the sweep that wants them.
        todo: Trials that it would otherwise run.

    Returns:
        Trial id -> (the other sweep, the id of the trial there).
    """
    wanted = {trial.result_key: trial for trial in todo}
    columns = ["sweep", "trial", "status", "result_key", "numpy_version"]
    finished = [row for row in workspace.results.live_trials(columns=columns) if row["status"] == "COMPLETE"]
    finished = [row for row in finished if row["sweep"] != sweep and row["result_key"] in wanted]
    accepted = [(wanted[row["result_key"]], row) for row in finished if wanted[row["result_key"]].accepts(row)]
    return {trial.id: (row["sweep"], row["trial"]) for trial, row in accepted}


def take_over(workspace: Workspace, recorder: Recorder, todo: Iterable[PlannedTrial]) -> set[str]:
    """Copy trials that are COMPLETE in another sweep of the same results into the recorder's sweep.

    Args:
        workspace: Where the results are.
        recorder: Of the sweep that takes trials over.
        todo: Trials that it would otherwise run.

    Returns:
        Ids of the trials that need not run.
    """
    todo = list(todo)
    found = find_elsewhere(workspace, recorder.sweep, todo)
    by_sweep = defaultdict(list)
    for sweep, trial in found.values():
        by_sweep[sweep].append(trial)
    wanted = {trial.result_key: trial for trial in todo if trial.id in found}
    for sweep, trials in by_sweep.items():
        for first in range(0, len(trials), _BATCH_SIZE):
            _copy(workspace, recorder, sweep, trials[first : first + _BATCH_SIZE], wanted)
    return set(found)


def _copy(workspace: Workspace, recorder: Recorder, sweep: str, trials: list[str], wanted: dict[str, PlannedTrial]) -> None:
    where = f"where sweep = '{sweep}' and trial in ({', '.join(repr(trial) for trial in trials)})"
    rows: defaultdict[str, list[Row]] = defaultdict(list)
    for cells in workspace.sql(f"select * from stages {where}").rows():
        stage = StageRow.from_cells(cells)
        reused = replace(stage, reused_epochs=stage.epochs, seconds=0.0, saved_s=stage.seconds + stage.saved_s)
        rows[cells["trial"]].append(reused)
    for cells in workspace.sql(f"select * from metrics {where}").rows():
        rows[cells["trial"]].append(EpochRow.from_cells(cells))
    for cells in workspace.sql(f"select * from probes {where}").rows():
        rows[cells["trial"]].append(ProbeRow.from_cells(cells))
    for row in workspace.sql(f"select * from trial_status {where}").rows():
        trial = wanted[row["result_key"]]
        recorder.start(trial, device=row["device"])
        recorder.add_rows(trial.id, rows[trial.id])
        recorder.end(trial.id, {key: value for key, value in row.items() if key not in _SWEEP_COLUMNS} | {"reused_from": sweep})
