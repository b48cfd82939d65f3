"""A sweep as MLflow runs, in an experiment for each task, in a SQLite file."""

from __future__ import annotations

import json
import logging
import math
from pathlib import Path
from typing import Any

from sweeper.interchange.sweep import EndedTrial, ExportedSweep

_BATCH = 1000
"""Maximum number of metrics that MLflow takes at once."""

_LONGEST = 5000
"""Number of characters of a tag that MLflow keeps."""

_STATES = {"COMPLETE": "FINISHED", "PRUNED": "KILLED", "FAIL": "FAILED"}


def write(sweep: ExportedSweep, path: Path) -> str:
    """Write the experiments `<sweep>/<task>`, with a run for each trial.

    Parameters are the knobs that something in the trial reads, metrics its scores and, by epoch, the numbers of its stages, tags what it is
    and where it ran. MLflow draws the ids of runs at random, and writes when it made the experiments, so no two files are the same.

    Returns:
        What was written.
    """
    from mlflow import MlflowClient
    from sqlalchemy.engine import URL

    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.WARNING)  # else it tells each table that it makes
    uri = URL.create("sqlite", database=str(path)).render_as_string()
    client = MlflowClient(tracking_uri=uri)
    for task, trials in sweep.tasks.items():
        # Runs have no files; but MLflow would otherwise make a folder for them where the command was started.
        experiment = client.create_experiment(f"{sweep.name}/{task}", artifact_location=f"{path.parent.as_uri()}/mlartifacts")
        client.set_experiment_tag(experiment, "sweep", sweep.name)
        for trial in trials:
            _add_run(client, experiment, sweep, trial)
    _close(uri)
    return f"{len(sweep.trials)} runs in the experiments {', '.join(f'{sweep.name}/{task}' for task in sweep.tasks)}"


def _add_run(client: Any, experiment: str, sweep: ExportedSweep, trial: EndedTrial) -> None:
    from mlflow.entities import Metric, Param

    row = trial.row
    start, end = (round(row[column].timestamp() * 1000) for column in ("started_at", "ended_at"))
    tags = {name: str(value)[:_LONGEST] for name, value in trial.facts.items()} | {"mlflow.user": "sweeper"}
    run = client.create_run(experiment, start_time=start, tags=tags, run_name=row["trial"]).info.run_id
    params = [Param(knob, json.dumps(value) if isinstance(value, list) else str(value)) for knob, value in trial.knobs.items()]
    metrics = [Metric(name, float(value), end, 0) for name, value in trial.scores.items() if math.isfinite(value)]
    metrics += [Metric(name, value, round(at * 1000), epoch) for name, epoch, value, at in trial.points() if math.isfinite(value)]
    client.log_batch(run, params=params)
    for first in range(0, len(metrics), _BATCH):
        client.log_batch(run, metrics=metrics[first : first + _BATCH])
    client.set_terminated(run, _STATES[row["status"]], end_time=end)


def _close(uri: str) -> None:
    """Let go of the database, which MLflow keeps open."""
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    engine = getattr(SqlAlchemyStore, "_engine_map", {}).pop(uri, None)
    if engine is not None:
        engine.dispose()
