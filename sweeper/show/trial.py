"""The output of `show`: one trial, in every sweep that has it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from orca_core.errors import ConfigError, Fault, nearest
from sweeper.results.workspace import Workspace


def describe_trial(workspace: Workspace, trial: str) -> str:
    """Describe one trial, in every sweep that has it.

    Raises:
        ConfigError: If the id of no trial, or of several, starts like this.
    """
    from sweeper.results.records import config_columns
    from sweeper.show.tables import render

    if not trial.isalnum():
        raise ConfigError([Fault("TRIAL", "must be the start of a trial's id: letters and digits", trial)])
    rows = workspace.sql(f"select * from trials where starts_with(trial, '{trial}') order by started_at").rows()
    ids = sorted({row["trial"] for row in rows})
    if len(ids) != 1:
        known = [row["trial"] for row in workspace.sql("select distinct trial from trials").rows()]
        remedy = f"It could be {', '.join(ids[:5])}." if ids else nearest(trial, known) if len(known) < 10 else "See `sweeper query`."
        raise ConfigError([Fault("TRIAL", "must be the start of one trial's id", trial, remedy)])
    configs = {column.name for column in config_columns()}
    text = []
    for row in rows:
        text.append(f"trial {row['trial']} of sweep {row['sweep']}: {row['status']}")
        for title, keys in (("config", configs), ("result", set(row) - configs - {"trial", "sweep", "status", "traceback"})):
            text.append(f"\n{title}")
            text += [f"  {key:<28} {_format_value(value)}" for key, value in row.items() if key in keys and value is not None]
        where = f"where trial = '{row['trial']}' and sweep = '{row['sweep']}'"
        in_folds = row.get("validation_folds") is not None and row.get("validation_fold") is None
        fold = "fold, " if in_folds else ""
        stages = workspace.sql(f"select {fold}stage, phase, key, epochs, reused_epochs, seconds, saved_s from stages {where}").arrow()
        text += ["\nstages", render(stages, "table").rstrip()]
        order = "order by fold nulls last, list_position(['pretrain', 'align', 'finetune'], stage), epoch"
        excluded = "sweep, trial, attempt, label_distances, proxy_distance, proxy_distance_unlabelled" + ("" if in_folds else ", fold")
        metrics = workspace.sql(f"select * exclude ({excluded}) from metrics {where} {order}").arrow()
        text += ["\nepochs", render(metrics, "table").rstrip()]
        distances = workspace.sql(
            f"select epoch, label_distances from metrics {where} and fold is null and label_distances is not null order by epoch"
        ).rows()
        text += _format_label_distances(distances[:1] + distances[1:][-1:])
        if row["traceback"]:
            text += ["\ntraceback", row["traceback"].rstrip()]
        text.append("")
    return "\n".join(text) + "\n"


MAX_CLASSES = 20
"""Maximum number of classes, of target and proxy, for which `show` prints label distances."""


def _format_label_distances(epochs: Sequence[Mapping[str, Any]]) -> list[str]:
    """Format the label distances of some epochs: a line per target class, a column per proxy class."""
    from sweeper.show.tables import text_table

    text = []
    for row in epochs:
        matrix = row["label_distances"]
        width = max(len(line or ()) for line in matrix)
        text.append(f"\nlabel distances of alignment epoch {row['epoch']}: target classes x proxy classes")
        if max(width, len(matrix)) > MAX_CLASSES:
            text.append(f"  {len(matrix)} x {width}: query label_distances of the table metrics")
        else:
            body = [[number, *(line or [None] * width)] for number, line in enumerate(matrix)]
            text.append(text_table(["", *map(str, range(width))], body).rstrip())
    return text


def _format_value(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)
