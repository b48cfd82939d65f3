"""What `best` and `status` print: tables for programs, and the same as text that fits the terminal."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from orca_core.errors import ConfigError, Fault, nearest
from orca_core.floors.rows import FloorCase
from sweeper.analysis.arms import RankedArm, Ranking, rank_arms
from sweeper.analysis.candidates import Arm, Sweep, read_arms
from sweeper.analysis.floors import Compared, Floors, describe_floors
from sweeper.analysis.numbers import floor_number, score_number
from sweeper.analysis.resolution import describe_resolution
from sweeper.results.notes import no_results
from sweeper.results.store import ResultStore
from sweeper.results.views import shown_status
from sweeper.results.workspace import Workspace
from sweeper.running.driver import driver_of
from sweeper.show.published import cells_beside, describe_beside
from sweeper.show.tables import fill, format_settings, terminal_width, text_table

if TYPE_CHECKING:
    import pyarrow as pa


def best_arms(workspace: Workspace, name: str, top: int, task: str | None = None, *, with_published: bool = False) -> pa.Table:
    """The best arms of each task, ranked by `rank_arms`, with the knobs that the sweep varies, and the ids of the numbers.

    Args:
        workspace: Where the results are.
        name: Name of the sweep.
        top: Maximum number of arms per task.
        task: Only this task; None = all tasks.
        with_published: Whether to add the lowest published value of the task and the score.

    Raises:
        ConfigError: If the sweep is unknown or does not have the task, or none of its candidates is complete.
    """
    ranking, floors = rank_arms(workspace.results, name), Floors.read(workspace.results)
    lines = []
    for of_task in _tasks(ranking, task):
        more = cells_beside(of_task, ranking.arms[of_task]) if with_published else {}
        lines += [_line(ranking, arm, floors) | more for arm in ranking.arms[of_task][:top]]
    return _to_table(lines)


def _line(ranking: Ranking, arm: RankedArm, floors: Floors) -> dict[str, Any]:
    """The line of an arm with the ids of its numbers: of `test_error`, of the sweep's metric, of the floor."""
    metrics = dict.fromkeys(("test_error", ranking.metric))
    ids = {"number" if metric == "test_error" else f"{metric}_number": score_number(ranking, arm, metric).id for metric in metrics}
    floor = floor_number(floors, map(FloorCase.of_row, arm.rows), arm.floor.model) if arm.floor is not None else None
    return {**arm.line, **ids, "best_floor_number": floor.id if floor is not None else None}


def describe_best(workspace: Workspace, name: str, top: int, task: str | None = None, *, with_published: bool = False) -> str:
    """The same as text: for each task a table whose last column has the settings of an arm, and whether arms beat the best floor.

    Raises:
        ConfigError: As `best_arms`.
    """
    ranking = rank_arms(workspace.results, name)
    parts = []
    for of_task in _tasks(ranking, task):
        text = _describe_task(ranking, of_task, ranking.arms[of_task][:top], workspace.uri)
        parts.append(text + (describe_beside(of_task, ranking.arms[of_task]) if with_published else ""))
    return "\n".join(parts)


def _tasks(ranking: Ranking, task: str | None) -> list[str]:
    if task is not None and task not in ranking.arms:
        known = nearest(task, ranking.arms)
        raise ConfigError([Fault("--task", f"must be a task of {ranking.sweep.name} with ranked arms", task, known)])
    return list(ranking.arms) if task is None else [task]


def _describe_task(ranking: Ranking, task: str, arms: Sequence[RankedArm], uri: str) -> str:
    sweep, metrics = ranking.sweep, list(dict.fromkeys((ranking.metric, "test_error")))
    numbers = sorted({len(arm.candidate.seeds) for arm in arms})
    seeds = str(numbers[0]) if len(numbers) == 1 else f"{numbers[0]} to {numbers[-1]}"
    over = f"mean and 95 % interval over {seeds} seeds" if numbers[-1] > 1 else "one seed"
    settings = _settings([arm.candidate.cells for arm in arms], sweep.varied)
    rows = [
        [
            arm.line["rank"],
            *(_format_mean(arm.line, metric) for metric in metrics),
            "; ".join([_name(arm.arm, text), *_warnings(arm), _progress(sweep, arm.arm)]),
        ]
        for arm, text in zip(arms, settings, strict=True)
    ]
    text = f"{task}, by {ranking.metric}: {over}\n" + text_table(["rank", *metrics, "arm"], rows, terminal_width())
    ranked = len(ranking.arms[task])
    if len(arms) < ranked:
        text += f"{len(arms)} of {ranked} arms are shown; --top N shows more.\n"
    if unranked := ranking.unranked(task):
        arms_are, they_have = ("arm is", "it has") if unranked == 1 else ("arms are", "they have")
        text += f"{unranked} {arms_are} not ranked: {they_have} no candidate of which all seeds are complete.\n"
    notes = describe_resolution(ranking.metric, [arm.rows for arm in ranking.arms[task]])
    compared = [Compared(arm.rows, arm.line["test_error"], arm.line["test_error_ci95"], arm.floor) for arm in ranking.arms[task]]
    notes += describe_floors(task, compared, uri)
    return text + "".join(map(fill, notes))


def _format_mean(line: Mapping[str, Any], metric: str) -> str:
    half = line[f"{metric}_ci95"]
    return f"{line[metric]:.4g}" + ("" if half is None else f" +- {half:.2g}")


def _settings(cells: Sequence[Mapping[str, Any]], knobs: Iterable[str]) -> list[str]:
    """The settings of several arms as text, without knobs that nothing reads."""
    columns = {knob: format_settings([of_arm.get(knob) for of_arm in cells]) for knob in knobs}
    return [
        ", ".join(f"{knob} {texts[i]}" for knob, texts in columns.items() if of_arm.get(knob) is not None) for i, of_arm in enumerate(cells)
    ]


def _name(arm: Arm, settings: str) -> str:
    """The name of an arm's variant, and its settings."""
    return ": ".join(part for part in (arm.variant, settings) if part) or "the only arm"


def _warnings(arm: RankedArm) -> list[str]:
    return ["no better than a constant answer"] if arm.line["at_majority"] else []


def _progress(sweep: Sweep, arm: Arm) -> str:
    counts = arm.counts()
    tuned = f"{counts['completed']} of {counts['candidates']} candidates completed, {counts['pruned']} pruned, "
    return f"{tuned if sweep.is_tuned else ''}{counts['trial_seconds']:.4g} s"


def sweep_status(workspace: Workspace, name: str | None) -> pa.Table:
    """One line per sweep: planned trials by status, and which process runs the sweep.

    Raises:
        ConfigError: If the sweep is unknown, or there is none at all.
    """
    return _to_table(_status_lines(workspace, name)[0])


def arms_status(workspace: Workspace, name: str | None) -> pa.Table:
    """One line per arm: candidates by state, and the seconds of its trials.

    Raises:
        ConfigError: As `sweep_status`.
    """
    lines = []
    for sweep in _sweeps(workspace, name):
        known = read_arms(workspace.results, sweep)
        for arm in known.arms:
            lines.append({"sweep": sweep, "task": arm.task, "arm": arm.id, "variant": arm.variant} | arm.fixed(known.varied) | arm.counts())
    return _to_table(lines)


def describe_status(workspace: Workspace, name: str | None) -> str:
    """The status of sweeps as text; of a single sweep with its arms.

    Raises:
        ConfigError: As `sweep_status`.
    """
    lines, told = _status_lines(workspace, name)
    rare = {column for column in ("pruned", "paused", "interrupted") if not any(line[column] for line in lines)}  # room for long names
    columns = [column for column in lines[0] if column not in {"driver", *rare}]
    text = text_table(columns, ([line[column] for column in columns] for line in lines), terminal_width(), wrapped=0)
    text += "".join(f"{line['sweep']} is run by {line['driver']}.\n" for line in lines if line["driver"] != "none")
    text += "".join(f"{line['sweep']}: {reason}\n" for line, reasons in zip(lines, told, strict=True) for reason in reasons)
    if name is not None:
        known = read_arms(workspace.results, name)
        settings = _settings([arm.fixed(known.varied) for arm in known.arms], known.varied)
        rows = []
        for arm, settings_text in zip(known.arms, settings, strict=True):
            rows.append([f"{arm.task}: {_name(arm, settings_text)}", *arm.counts().values()])
        head = ["arm", "candidates", "completed", "pruned", "failed", "seconds"]
        text += "\n" + text_table(head, rows, terminal_width(), wrapped=0)
    return text


def _sweeps(workspace: Workspace, name: str | None) -> list[str]:
    """The sweep of a name, or all sweeps."""
    if name is not None:
        workspace.results.check_sweep(name)
        return [name]
    sweeps = workspace.results.sweeps()
    if not sweeps:
        raise ConfigError([no_results(workspace.uri)])
    return sweeps


def _status_lines(workspace: Workspace, name: str | None) -> tuple[list[dict[str, Any]], list[list[str]]]:
    """A line for each sweep, and for each what keeps it from going on now, as its driver says."""
    results, lines, told = workspace.results, [], []
    for sweep in _sweeps(workspace, name):
        rows = [row for row in results.live_trials(sweep, ["status", "cause", "in_plan"]) if row["in_plan"]]
        shown = [shown_status(row) for row in rows]
        counts = {status: shown.count(status) for status in ("COMPLETE", "PRUNED", "FAIL")}
        driver, begun, interrupted = driver_of(results, sweep), shown.count("RUNNING"), shown.count("INTERRUPTED")
        paused = min(driver.facts.get("paused", 0), begun) if driver else 0  # rows say RUNNING; only the driver knows
        planned = _count_planned(results, sweep)
        pending = None if planned is None else max(0, planned - len(rows))
        if driver and pending is not None:  # the driver starts again what was cut short, in an earlier run or with its machine
            pending, interrupted = pending + interrupted, 0
        told.append(describe_reasons(driver.facts) if driver else [])
        lines.append(
            {"sweep": sweep, "planned": planned, "pending": pending}
            | {status.lower(): count for status, count in counts.items()}
            | {"running": begun - paused if driver else 0, "paused": paused}
            | {"interrupted": interrupted + (0 if driver else begun), "driver": str(driver) if driver else "none"}
        )
    return lines, told


def describe_reasons(facts: Mapping[str, Any]) -> list[str]:
    """The reasons among the facts of a driver, which may be of another version."""
    reasons = facts.get("reasons")
    given = [reason for reason in reasons if isinstance(reason, dict)] if isinstance(reasons, list) else []
    return [f"{reason.get('text', '')} {reason.get('remedy', '')} (for {reason.get('for_s', 0)} s)" for reason in given]


def _count_planned(results: ResultStore, sweep: str) -> int | None:
    plan = results.latest_plan(sweep)
    return len(plan["trials"]) + plan["proposed_later"] if plan else None


def _to_table(lines: Sequence[Mapping[str, Any]]) -> pa.Table:
    """Lines as a table with the columns of all of them."""
    import pyarrow as pa

    columns = list(dict.fromkeys(column for line in lines for column in line))
    return pa.Table.from_pylist([{column: line.get(column) for column in columns} for line in lines])
