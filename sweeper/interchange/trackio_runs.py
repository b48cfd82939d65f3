"""A sweep as Trackio projects, one for each task, in a folder of SQLite files."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from sweeper.interchange.sweep import EndedTrial, ExportedSweep


def write(sweep: ExportedSweep, path: Path) -> str:
    """Write the projects `<sweep>-<task>`, with a run for each trial, in the group of its arm.

    A run's config has the knobs that something in the trial reads, and what it is and where it ran; its metrics are the numbers of each
    epoch and, at the last one, the scores.

    Returns:
        What was written.
    """
    path.mkdir()
    projects = {task: re.sub(r"[^\w.-]+", "-", f"{sweep.name}-{task}") for task in sweep.tasks}
    with _writing_to(path):
        for task, trials in sweep.tasks.items():
            for trial in trials:
                _add_run(projects[task], trial)
    return f"{len(sweep.trials)} runs in the projects {', '.join(projects.values())}"


def _add_run(project: str, trial: EndedTrial) -> None:
    from trackio.sqlite_storage import SQLiteStorage

    row = trial.row
    logs: dict[tuple[int, float], dict[str, float]] = {}
    for name, epoch, value, at in trial.points():
        logs.setdefault((epoch, at), {})[name] = value
    last = max((epoch for epoch, _ in logs), default=0)
    logs.setdefault((last, row["ended_at"].timestamp()), {}).update(trial.scores)
    SQLiteStorage.bulk_log(
        project,
        row["trial"],
        list(logs.values()),
        steps=[epoch for epoch, _ in logs],
        timestamps=[datetime.fromtimestamp(at, UTC).isoformat() for _, at in logs],
        config=trial.knobs | trial.facts | {"_Group": row["arm"], "_Username": "sweeper", "_Created": row["started_at"].isoformat()},
    )


@contextmanager
def _writing_to(path: Path) -> Iterator[None]:
    """Within: Trackio's files are in a folder. It has no argument for that, but a variable that it reads once, when it is imported."""
    from trackio import sqlite_storage

    before, sqlite_storage.TRACKIO_DIR = sqlite_storage.TRACKIO_DIR, path
    try:
        yield
    finally:
        sqlite_storage._close_all_persistent_connections()
        sqlite_storage.TRACKIO_DIR = before
