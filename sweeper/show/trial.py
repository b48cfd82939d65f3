"""The output of `show`: one trial, in every sweep that has it."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from orca_core.errors import ConfigError, Fault, nearest
from sweeper.results.workspace import Workspace


def describe_trial(workspace: Workspace, trial: str, format: str = "text") -> str:
    """Describe one trial, in every sweep that has it.

    Args:
        workspace: Where the results are.
        trial: The start of its id.
        format: `text`, or `json`: a list with an object per sweep.

    Raises:
        ConfigError: If the id of no trial, or of several, starts like this, or the format is unknown.
    """
    if format not in ("text", "json"):
        raise ConfigError([Fault("--format", "must be text or json", format)])
    found = [_read(workspace, row) for row in _find(workspace, trial)]
    if format == "json":
        return json.dumps([_finite(of_sweep) for of_sweep in found], indent=1, default=str) + "\n"
    return "\n".join(_format_text(of_sweep) for of_sweep in found) + "\n"


def _find(workspace: Workspace, trial: str) -> list[dict[str, Any]]:
    """The rows of a trial, one per sweep that has it."""
    if not trial.isalnum():
        raise ConfigError([Fault("TRIAL", "must be the start of a trial's id: letters and digits", trial)])
    rows = workspace.sql(f"select * from trial_status where starts_with(trial, '{trial}') order by started_at").rows()
    ids = sorted({row["trial"] for row in rows})
    if len(ids) != 1:
        known = [row["trial"] for row in workspace.sql("select distinct trial from trial_status").rows()]
        remedy = f"It could be {', '.join(ids[:5])}." if ids else nearest(trial, known) if len(known) < 10 else "See `sweeper query`."
        raise ConfigError([Fault("TRIAL", "must be the start of one trial's id", trial, remedy)])
    return rows


_OF_THE_TRIAL = ("sweep", "trial", "attempt", "run")
"""Columns of stages and epochs that repeat what is said of the trial."""


def _read(workspace: Workspace, row: Mapping[str, Any]) -> dict[str, Any]:
    """A trial in one sweep: what identifies it, its config, its results, its stages and its epochs."""
    from sweeper.results.records import config_columns

    configs = {column.name for column in config_columns()}
    where = f"where trial = '{row['trial']}' and sweep = '{row['sweep']}'"
    order = (
        "order by stage not in ('pretrain', 'source'), fold nulls last, "
        "list_position(['pretrain', 'source', 'align', 'adapt', 'finetune'], stage)"
    )
    found: dict[str, Any] = {key: row[key] for key in ("trial", "sweep", "status")}
    found["config"] = {key: value for key, value in row.items() if key in configs and value is not None}
    others = row.keys() - configs - {*found, "traceback"}
    found["result"] = {key: value for key, value in row.items() if key in others and value is not None}
    for table, by in (("stages", "phase"), ("metrics", "epoch")):
        rows = workspace.sql(f"select * exclude ({', '.join(_OF_THE_TRIAL)}) from {table} {where} {order}, {by}").rows()
        found["epochs" if table == "metrics" else table] = rows
    place = "list_position(['start', 'aligned', 'fine-tuned'], moment)"
    probes = f"select * exclude ({', '.join(_OF_THE_TRIAL)}) from probes {where}"
    found["probes"] = workspace.sql(f"{probes} order by probe, {place}, layer nulls first, param_group, split, setting").rows()
    return found | {"traceback": row["traceback"]}


def _finite(value: Any) -> Any:
    """A value for JSON, which has no NaN: null instead."""
    if isinstance(value, Mapping):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


_IN_RESULT = (
    *("label_distances", "proxy_distance", "proxy_distance_unlabelled"),
    *("proxy_logme", "proxy_h_score", "target_logme", "target_h_score"),
)
"""Columns of epochs that are shown elsewhere."""


def _format_text(found: Mapping[str, Any]) -> str:
    text = [f"trial {found['trial']} of sweep {found['sweep']}: {found['status']}"]
    text += ["\nconfig", *(f"  {key:<28} {value}" for key, value in found["config"].items())]
    text += ["\nresult", *(f"  {key:<28} {_format_value(value)}" for key, value in found["result"].items())]
    text += ["\nstages", _table(found["stages"], ("memory_bytes", "stored_bytes", "mixed_numerics"))]
    text += ["\nepochs", _table(found["epochs"], _IN_RESULT)]
    with_labels = [row for row in found["epochs"] if row["label_distances"] is not None and row["fold"] is None]
    text += _format_label_distances(with_labels[:1] + with_labels[1:][-1:])
    if found["probes"]:
        text += ["\nprobes", _table(found["probes"], ("key", "seconds", "recorded_at"))]
    if found["traceback"]:
        text += ["\ntraceback", found["traceback"].rstrip()]
    return "\n".join([*text, ""])


def _table(rows: Sequence[Mapping[str, Any]], excluded: Sequence[str]) -> str:
    """Rows as a table, without columns that are empty in all of them."""
    from sweeper.show.tables import text_table

    columns = [column for column in (rows[0] if rows else ()) if column not in excluded]
    columns = [column for column in columns if any(row[column] is not None for row in rows)]
    return text_table(columns, ([row[column] for column in columns] for row in rows)).rstrip()


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
