"""What `best`, `status` and `show` print, read from the results."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from orca_core.errors import ConfigError, Fault, nearest
from sweeper.results.query import Results
from sweeper.results.store import ResultStore
from sweeper.running.driver import driver_of

if TYPE_CHECKING:
    import pyarrow as pa


def best_arms(results_uri: str, name: str, top: int) -> pa.Table:
    """The best arms of each task, by the mean over seeds of the sweep's metric; of a tuned arm its best candidate.

    Arms with all seeds come first: a mean over fewer is not comparable. The interval is Student's t at 95 % over seeds; none
    for one seed. Of the knobs, those that the sweep varies are shown.

    Raises:
        ConfigError: If there is no such sweep.
    """
    import pyarrow as pa

    arms, _ = ranked_arms(results_uri, name)
    return pa.Table.from_pylist([{"rank": rank} | arm.line for of_task in arms.values() for rank, arm in enumerate(of_task[:top], 1)])


@dataclass(frozen=True)
class RankedArm:
    """An arm of a sweep, at its best candidate.

    Args:
        line: What `best` shows of it.
        rows: Its trials, one for each seed.
    """

    line: dict[str, Any]
    rows: list[dict[str, Any]]


def ranked_arms(results_uri: str, name: str) -> tuple[dict[str, list[RankedArm]], str]:
    """Task -> its arms, the best first, as `best_arms` ranks them; and the metric that it ranks by."""
    from scipy.stats import t as student

    store = ResultStore(results_uri)
    rows = [row for row in _trials(store, name) if row["in_plan"] and row["status"] == "COMPLETE"]
    plan = latest_plan(store, name) or {"metric": "valid_error", "varied": []}
    metric, knobs = plan["metric"], [knob for knob in plan["varied"] if knob != "task"]
    if not rows:
        raise ConfigError([Fault("", f"sweep {name} must have finished trials", Fault.ABSENT, "See `sweeper status`.")])
    groups: dict[tuple[str, str, int], list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        groups[row["task"], row["arm"], row["candidate"]].append(row)
    most = max(len(group) for group in groups.values())
    lines = []
    for (task, arm, _), group in groups.items():
        values = [row[metric] for row in group]
        mean = math.fsum(values) / len(values)
        spread = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1)) if len(values) > 1 else None
        half = None if spread is None else float(student.ppf(0.975, len(values) - 1)) * spread / math.sqrt(len(values))
        tests = [row["test_error"] for row in group]
        line = {"task": task, metric: mean, "95% +-": half, "test_error": math.fsum(tests) / len(tests), "seeds": len(group)}
        lines.append((task, len(group) < most, mean, arm, RankedArm(line | {knob: group[0][knob] for knob in knobs}, group)))
    lines.sort(key=lambda entry: entry[:3])
    ranked: dict[str, dict[str, RankedArm]] = defaultdict(dict)
    for task, _, _, arm, found in lines:
        ranked[task].setdefault(arm, found)  # its other candidates are no better
    return {task: list(arms.values()) for task, arms in ranked.items()}, metric


def sweep_status(results_uri: str, name: str | None) -> pa.Table:
    """One line a sweep: planned trials by status, and whether a driver is at work."""
    import pyarrow as pa

    store = ResultStore(results_uri)
    names = [name] if name else store.sweeps()
    lines = []
    for sweep in names:
        rows = [row for row in _trials(store, sweep) if row["in_plan"]]
        counts = {status: sum(row["status"] == status for row in rows) for status in ("COMPLETE", "PRUNED", "FAIL", "RUNNING")}
        alive = driver_of(store, sweep)
        running = counts.pop("RUNNING")
        lines.append(
            {"sweep": sweep, "planned": _planned(store, sweep)}
            | {status.lower(): count for status, count in counts.items()}
            | {"running": running if alive else 0, "interrupted": 0 if alive else running, "driver": alive or "none"}
        )
    if not lines:
        raise ConfigError([Fault("", f"{results_uri}: must hold results", Fault.ABSENT, "Run a sweep first, or give --results.")])
    return pa.Table.from_pylist(lines)


def _planned(store: ResultStore, sweep: str) -> int | None:
    plan = latest_plan(store, sweep)
    return len(plan["trials"]) + plan["proposed_later"] if plan else None


def latest_plan(store: ResultStore, sweep: str) -> dict[str, Any] | None:
    plans = store.plans(sweep)
    return max(plans.values(), key=lambda plan: plan["made_at"]) if plans else None


def _trials(store: ResultStore, name: str) -> list[dict[str, Any]]:
    known = store.sweeps()
    if name not in known:
        remedy = nearest(name, known) if known else "There are no results yet: run a sweep, or give --results."
        raise ConfigError([Fault("", "must be the name of a sweep in the results", name, remedy)])
    return store.live_trials(name)


def describe_trial(results_uri: str, trial: str) -> str:
    """One trial as text, wherever it ran.

    Raises:
        ConfigError: If no trial's id starts so, or several do.
    """
    from sweeper.results.records import config_columns
    from sweeper.show.tables import render

    results = Results(results_uri)
    if not trial.isalnum():
        raise ConfigError([Fault("TRIAL", "must be the start of a trial's id: digits and letters", trial)])
    rows = results.sql(f"select * from trials where starts_with(trial, '{trial}') order by started_at").rows()
    ids = sorted({row["trial"] for row in rows})
    if len(ids) != 1:
        known = [row["trial"] for row in results.sql("select distinct trial from trials").rows()]
        remedy = f"It could be {', '.join(ids[:5])}." if ids else nearest(trial, known) if len(known) < 10 else "See `sweeper query`."
        raise ConfigError([Fault("TRIAL", "must be the start of one trial's id", trial, remedy)])
    configs = {column.name for column in config_columns()}
    text = []
    for row in rows:
        text.append(f"trial {row['trial']} of sweep {row['sweep']}: {row['status']}")
        for title, keys in (("config", configs), ("result", set(row) - configs - {"trial", "sweep", "status", "traceback"})):
            text.append(f"\n{title}")
            text += [f"  {key:<28} {_value(value)}" for key, value in row.items() if key in keys and value is not None]
        where = f"where trial = '{row['trial']}' and sweep = '{row['sweep']}'"
        stages = results.sql(f"select stage, phase, key, epochs, reused_epochs, seconds, saved_s from stages {where}").arrow()
        text += ["\nstages", render(stages, "table").rstrip()]
        order = "order by list_position(['pretrain', 'align', 'finetune'], stage), epoch"
        not_here = "sweep, trial, attempt, label_distances, proxy_distance, proxy_distance_unlabelled"
        metrics = results.sql(f"select * exclude ({not_here}) from metrics {where} {order}").arrow()
        text += ["\nepochs", render(metrics, "table").rstrip()]
        told = results.sql(f"select epoch, label_distances from metrics {where} and label_distances is not null order by epoch").rows()
        text += _label_distances(told[:1] + told[1:][-1:])
        if row["traceback"]:
            text += ["\ntraceback", row["traceback"].rstrip()]
        text.append("")
    return "\n".join(text) + "\n"


MOST_CLASSES = 20
"""Classes on either side up to which `show` prints their distances."""


def _label_distances(epochs: Sequence[Mapping[str, Any]]) -> list[str]:
    """The label distances of some epochs as text: a line for each class of the target, a column for each of the proxy."""
    from sweeper.show.tables import text_table

    text = []
    for row in epochs:
        matrix = row["label_distances"]
        width = max(len(line or ()) for line in matrix)
        text.append(f"\nlabel distances of alignment epoch {row['epoch']}: target classes x proxy classes")
        if max(width, len(matrix)) > MOST_CLASSES:
            text.append(f"  {len(matrix)} x {width}: query label_distances of the table metrics")
        else:
            body = [[number, *(line or [None] * width)] for number, line in enumerate(matrix)]
            text.append(text_table(["", *map(str, range(width))], body).rstrip())
    return text


def _value(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)
