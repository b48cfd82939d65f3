"""Event files for TensorBoard: what they say about a trial. Needs the package tensorboard.

<root>/<task>/<settings and id of a trial>/events.out.tfevents.<attempt>
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

from sweeper.analysis.factors import KNOB_OF

Row = Mapping[str, Any]

CURVES = ("train_loss", "valid_loss", "valid_error", "test_error", "distance", "proxy_distance", "lr")
"""Columns of an epoch that are drawn."""

_LONGEST = 120
"""Characters of the settings in the name of a run; file systems bear about 250."""


def run_folder(row: Row, shown: Collection[str]) -> str:
    """The folder of a trial: its task, its settings and the start of its id.

    Args:
        row: Of the trial.
        shown: Columns of the knobs that its name has, as far as the trial reads them.
    """
    settings = ",".join(f"{KNOB_OF[column]}={row[column]}" for column in shown if row.get(column) is not None)
    return f"{_slug(str(row['task']))}/{_slug(settings)[:_LONGEST].rstrip(',')}{'-' if settings else ''}{row['trial'][:8]}"


def _slug(text: str) -> str:
    return re.sub(r"[^\w.,=+-]+", "-", text)


def event_file(folder: Path, attempt: int) -> Path:
    """The file of an attempt in the folder of its trial."""
    return folder / f"events.out.tfevents.{attempt:04}"


def append_events(path: Path, events: Iterable[Any]) -> None:
    """Append events to a file, which is made if it is not there.

    Raises:
        OSError: If it cannot be written.
    """
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.summary.writer.record_writer import RecordWriter

    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab") as file:
        writer = RecordWriter(file)
        for number, event in enumerate(events):
            if number == 0 and file.tell() == 0:
                writer.write(Event(wall_time=event.wall_time, file_version="brain.Event:2").SerializeToString())
            writer.write(event.SerializeToString())


def scalar(tag: str, value: float, step: int, at: float) -> Any:
    """A number.

    Args:
        tag: Its name, as `finetune/valid_error`.
        value, step: The number and its epoch.
        at: When it was known, in seconds since 1970.
    """
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.compat.proto.summary_pb2 import Summary

    return Event(wall_time=at, step=step, summary=Summary(value=[Summary.Value(tag=tag, simple_value=value)]))


def epoch_scalars(row: Row, at: float) -> list[Any]:
    """The numbers of a row of `metrics`."""
    return [scalar(name, value, row["epoch"], at) for name, value in numbers_of(row)]


def numbers_of(row: Row) -> list[tuple[str, float]]:
    """The numbers of a row of `metrics` that are drawn, each named `<stage>/<column>`, or `<stage>-fold<number>/<column>`."""
    stage = row["stage"] if row.get("fold") is None else f"{row['stage']}-fold{row['fold']}"
    return [(f"{stage}/{name}", row[name]) for name in CURVES if row.get(name) is not None]


def settings_of(row: Row, shown: Collection[str]) -> Any:
    """What the tab of hyperparameters shows of a trial; the trials of an arm are one group, of which it shows the mean."""
    from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData, SessionStartInfo

    start = SessionStartInfo(group_name=row["arm"] or row["trial"], start_time_secs=row["started_at"].timestamp())
    for column in ("task", *shown):
        value = row.get(column)
        if isinstance(value, bool):
            start.hparams[KNOB_OF[column]].bool_value = value
        elif isinstance(value, int | float):
            start.hparams[KNOB_OF[column]].number_value = value
        elif value is not None:
            start.hparams[KNOB_OF[column]].string_value = str(value)
    return _of_session("session_start_info", HParamsPluginData(session_start_info=start), row["started_at"].timestamp())


def end_of(row: Row) -> list[Any]:
    """How a trial ended: its scores, and whether it came to its end."""
    from tensorboard.plugins.hparams.api_pb2 import STATUS_FAILURE, STATUS_SUCCESS
    from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData, SessionEndInfo

    at = row["ended_at"].timestamp()
    scores = [scalar(f"trial/{name}", row[name], 0, at) for name in ("valid_error", "test_error", "seconds") if row.get(name) is not None]
    end = SessionEndInfo(status=STATUS_FAILURE if row["status"] == "FAIL" else STATUS_SUCCESS, end_time_secs=at)
    return [*scores, _of_session("session_end_info", HParamsPluginData(session_end_info=end), at)]


def _of_session(name: str, content: Any, at: float) -> Any:
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.compat.proto.summary_pb2 import Summary
    from tensorboard.plugins.hparams.metadata import create_summary_metadata

    value = Summary.Value(tag=f"_hparams_/{name}", metadata=create_summary_metadata(content))
    return Event(wall_time=at, summary=Summary(value=[value]))
