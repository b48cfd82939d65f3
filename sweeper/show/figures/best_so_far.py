"""Best so far: how the best candidate of each task improved while trials finished."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from sweeper.analysis.factors import Row
from sweeper.analysis.representatives import TRIAL, TUNING, is_usable, key_of, role_of
from sweeper.show.figures.series import say_seeds
from sweeper.show.figures.style import add_floor, count_along, finish, fit_errors, label_panel, look, panels
from sweeper.show.figures.tables import FigureTables, NotInTablesError

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Step:
    """A candidate that was the best when its last seed finished.

    Args:
        trials: Number of trials of the task that had finished by then.
        objective: Mean of the sweep's metric over its seeds.
        error: Mean of the error that is shown over its seeds; None if it is not known.
    """

    trials: int
    objective: float
    error: float | None


@dataclass(frozen=True)
class Progress:
    """One task.

    Args:
        task: The task.
        unit: Label of the error.
        steps: The candidates that were the best, in the order of time.
        trials: Number of trials that finished in all.
        floor: Name and error of the best model without a transformer; None if it is not known.
    """

    task: str
    unit: str
    steps: tuple[Step, ...]
    trials: int
    floor: tuple[str, float] | None


@dataclass(frozen=True)
class BestSoFar:
    """What the figure shows.

    Args:
        title: Its title.
        objective: Name of the metric that decides.
        metric: Name of the error that is shown beside it.
        tasks: A panel for each task.
        caption: What is shown.
    """

    title: str
    objective: str
    metric: str
    tasks: tuple[Progress, ...]
    caption: str


def read(tables: FigureTables) -> BestSoFar:
    """The candidates of each task in the order in which their last seeds finished.

    A candidate counts once all of its planned seeds are complete. Replicates do not count: they repeat a candidate.

    Raises:
        NotInTablesError: If no candidate is complete.
    """
    ended: dict[str, datetime] = {row["trial"]: row["ended_at"] for row in tables.attempts if row.get("ended_at") is not None}
    rows = [row for row in tables.sweep.rows if role_of(row) in (TRIAL, TUNING)]
    found = []
    for task in sorted({str(row.get("task")) for row in rows}):
        of_task = [row for row in rows if str(row.get("task")) == task]
        times = sorted(
            ended[row["trial"]] for row in of_task if row["trial"] in ended and row.get("status") in ("COMPLETE", "PRUNED", "FAIL")
        )
        steps = _steps(of_task, ended, times, tables)
        if steps:
            best = [row for row in of_task if is_usable(row, tables.metric)]
            found.append(Progress(task, tables.unit(task), steps, len(times), tables.floor(best)))
    if not found:
        raise NotInTablesError("no candidate is complete with all of its seeds")
    seeds = len({key_of(row, tables.sweep.pair_by) for row in rows})
    objective, metric = (name.replace("_", " ") for name in (tables.sweep.objective, tables.metric))
    shown = f", and the {metric} of the same candidate" if metric != objective else ""
    caption = (
        f"{tables.name}: lowest mean {objective} of any candidate whose seeds had all finished{shown}, by number of finished trials of the"
        f" task. {say_seeds([seeds])} for each candidate. The best of many is lower than what it reaches on fresh seeds."
    )
    return BestSoFar("Best so far", objective, metric, tuple(found), caption)


def _steps(rows: list[Row], ended: dict[str, datetime], times: list[datetime], tables: FigureTables) -> tuple[Step, ...]:
    candidates: dict[Any, list[Row]] = defaultdict(list)
    for row in rows:
        candidates[row.get("arm"), row.get("candidate") or 0].append(row)
    whole = []
    for of_candidate in candidates.values():
        if all(is_usable(row, tables.sweep.objective) and row["trial"] in ended for row in of_candidate):
            at = max(ended[row["trial"]] for row in of_candidate)
            has_error = all(is_usable(row, tables.metric) for row in of_candidate)
            whole.append((at, _mean(of_candidate, tables.sweep.objective), _mean(of_candidate, tables.metric) if has_error else None))
    steps: list[Step] = []
    for at, objective, error in sorted(whole, key=lambda entry: entry[:2]):
        if not steps or objective < steps[-1].objective:
            steps.append(Step(sum(time <= at for time in times), objective, error))
    return tuple(steps)


def _mean(rows: list[Row], column: str) -> float:
    return sum(float(row[column]) for row in rows) / len(rows)


def draw(data: BestSoFar) -> Figure:
    """A panel for each task: the objective as a line of steps, the error of the same candidates as another."""
    figure, axes = panels([""] * len(data.tasks), data.title)
    for progress, one in zip(data.tasks, axes, strict=True):
        x = [*(step.trials for step in progress.steps), progress.trials]
        lines = {f"best {data.objective}": [step.objective for step in progress.steps]}
        if data.metric != data.objective and all(step.error is not None for step in progress.steps):
            lines[f"its {data.metric}"] = [step.error for step in progress.steps if step.error is not None]
        for number, (label, values) in enumerate(lines.items()):
            style = look(number)
            marks = list(range(len(values)))
            one.plot(x, [*values, values[-1]], drawstyle="steps-post", label=label, markevery=marks, **style.line())
        fit_errors(one, [value for values in lines.values() for value in values])
        label_panel(one, progress.task, "finished trials of the task", progress.unit if len(lines) > 1 else data.objective)
        one.set_xlim(0, max(1, progress.trials) * 1.03)
        count_along(one)
        add_floor(one, progress.floor)
    return finish(figure, axes, data.caption)
