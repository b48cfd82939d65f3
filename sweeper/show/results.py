"""What `best` prints: a table for programs, and the same as text that fits the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from orca_core.errors import ConfigError, Fault, nearest
from orca_core.floors.rows import FloorCase
from sweeper.analysis.arms import RankedArm, Ranking, rank_arms
from sweeper.analysis.candidates import Arm, Sweep
from sweeper.analysis.floors import Compared, Floors, describe_floors
from sweeper.analysis.numbers import floor_number, score_number
from sweeper.analysis.resolution import describe_resolution
from sweeper.results.workspace import Workspace
from sweeper.show.published import cells_beside, describe_beside
from sweeper.show.status import describe_settings, lines_as_table, name_arm
from sweeper.show.tables import fill, terminal_width, text_table

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
    return lines_as_table(lines)


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
    settings = describe_settings([arm.candidate.cells for arm in arms], sweep.varied)
    rows = [
        [
            arm.line["rank"],
            *(_format_mean(arm.line, metric) for metric in metrics),
            "; ".join([name_arm(arm.arm, text), *_warnings(arm), _progress(sweep, arm.arm)]),
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


def _warnings(arm: RankedArm) -> list[str]:
    return ["no better than a constant answer"] if arm.line["at_majority"] else []


def _progress(sweep: Sweep, arm: Arm) -> str:
    counts = arm.counts()
    tuned = f"{counts['completed']} of {counts['candidates']} candidates completed, {counts['pruned']} pruned, "
    return f"{tuned if sweep.is_tuned else ''}{counts['trial_seconds']:.4g} s"
