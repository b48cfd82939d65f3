"""Error against cost: which arms are not beaten by another one that is both better and cheaper."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sweeper.analysis.factors import Row
from sweeper.analysis.representatives import is_usable
from sweeper.show.figures.learning import name_arms
from sweeper.show.figures.series import Point, count_seeds_of, mean_over_seeds
from sweeper.show.figures.style import INK, add_floor, finish, fit_errors, label_panel, look, panels
from sweeper.show.figures.tables import FigureTables, NotInTablesError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SECONDS, PARAMETERS = "computing time of a trial (s)", "trained parameters"
"""The two costs."""

MAX_NAMED = 4
"""Number of arms of a front that are named."""


@dataclass(frozen=True)
class Arm:
    """An arm.

    Args:
        label: What tells it from the other arms of the task.
        error: Its error over seeds; `x` is its cost.
        is_best: Whether no other arm has both a lower error and a lower cost, or one of them lower and the other equal.
    """

    label: str
    error: Point
    is_best: bool


@dataclass(frozen=True)
class Front:
    """The arms of one task by one cost.

    Args:
        task: The task.
        unit: Label of the error.
        cost: Which cost.
        arms: The arms, the cheapest first.
        floor: Name and error of the best model without a transformer; None if it is not known.
    """

    task: str
    unit: str
    cost: str
    arms: tuple[Arm, ...]
    floor: tuple[str, float] | None


@dataclass(frozen=True)
class Fronts:
    """What the figure shows.

    Args:
        title: Its title.
        fronts: A panel for each task and cost.
        caption: What is shown, with the number of seeds and what bars are.
    """

    title: str
    fronts: tuple[Front, ...]
    caption: str


def read(tables: FigureTables) -> Fronts:
    """Each complete arm of each task, by what its trials would take if nothing were reused, and by what they train.

    Raises:
        NotInTablesError: If no task has two complete arms that differ in a cost.
    """
    seconds = compute_seconds(tables)
    trained = {row["trial"]: float(max(row["params_trained"])) for row in tables.attempts if row.get("params_trained")}
    arms: dict[str, dict[Any, list[Row]]] = defaultdict(lambda: defaultdict(list))
    for row in tables.evidence.arms:
        arms[str(row.get("task"))][row.get("arm")].append(row)
    fronts = []
    for task, of_task in sorted(arms.items()):
        complete = [rows for rows in of_task.values() if all(is_usable(row, tables.metric) for row in rows)]
        labels = name_arms([rows[0] for rows in complete], tables)
        floor = tables.floor([row for rows in complete for row in rows])
        for cost, known in ((SECONDS, seconds), (PARAMETERS, trained)):
            points = [
                (label, mean_over_seeds(sum(known[row["trial"]] for row in rows) / len(rows), [float(row[tables.metric]) for row in rows]))
                for label, rows in zip(labels, complete, strict=True)
                if all(row["trial"] in known for row in rows)
            ]
            if len({point.x for _, point in points}) > 1:
                fronts.append(Front(task, tables.unit(task), cost, mark_best(points), floor))
    if not fronts:
        raise NotInTablesError("no task has two complete arms that differ in computing time or trained parameters")
    counted = count_seeds_of([arm.error for front in fronts for arm in front.arms])
    caption = (
        f"{tables.name}: {tables.metric.replace('_', ' ')} against cost, a point for each complete arm. Dots that are joined: no other arm"
        " is both better and cheaper; some are named. Time: of all stages, as if none had been reused; trained parameters: of the phase"
        f" that trains the most. Mean over {counted}."
    )
    return Fronts("Error against cost", tuple(fronts), caption)


def compute_seconds(tables: FigureTables) -> dict[str, float]:
    """Trial -> seconds of its stages, those that it reused included."""
    found: dict[str, float] = defaultdict(float)
    for row in tables.stages:
        found[row["trial"]] += (row.get("seconds") or 0.0) + (row.get("saved_s") or 0.0)
    return {trial: seconds for trial, seconds in found.items() if seconds > 0}


def mark_best(points: Sequence[tuple[str, Point]]) -> tuple[Arm, ...]:
    """The arms by cost, with those marked that no other one beats in both."""
    found: list[Arm] = []
    lowest = float("inf")
    for label, point in sorted(points, key=lambda entry: (entry[1].x, entry[1].mean)):
        found.append(Arm(label, point, point.mean < lowest))
        lowest = min(lowest, point.mean)
    return tuple(found)


def draw(data: Fronts) -> Figure:
    """A row of two panels for each task."""
    figure, axes = panels([front.task for front in data.fronts], data.title, width=4.4, height=2.7)
    for front, one in zip(data.fronts, axes, strict=True):
        _draw_front(one, front)
    return finish(figure, axes, data.caption, are_letters=True)


def _draw_front(axes: Axes, front: Front) -> None:
    best, others = [arm for arm in front.arms if arm.is_best], [arm for arm in front.arms if not arm.is_best]
    style, faint = look(0), look(1)
    for arm in front.arms:
        if arm.error.low is not None and arm.error.high is not None:
            color = style.color if arm.is_best else faint.color
            axes.plot([arm.error.x] * 2, [arm.error.low, arm.error.high], color=color, linewidth=0.8, alpha=0.6)
    axes.plot([arm.error.x for arm in others], [arm.error.mean for arm in others], "x", color=faint.color, markersize=5)
    steps = [(arm.error.x, arm.error.mean) for arm in best]
    steps.append((front.arms[-1].error.x, best[-1].error.mean))
    axes.plot(*zip(*steps, strict=True), drawstyle="steps-post", color=style.color, marker="o", markevery=list(range(len(best))))
    fit_errors(axes, [arm.error.mean for arm in front.arms], [end for arm in front.arms for end in (arm.error.low, arm.error.high) if end])
    costs = [arm.error.x for arm in front.arms]
    label_panel(axes, front.task, front.cost, front.unit)
    _scale(axes, costs)
    add_floor(axes, front.floor)
    _name(axes, best)


def _scale(axes: Axes, costs: Sequence[float]) -> None:
    """The axis of costs: logarithmic where they span more than a factor of 30, with numbers like 10k."""
    from matplotlib.ticker import EngFormatter, LogLocator, NullFormatter

    if min(costs) > 0 and max(costs) / min(costs) > 30:
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1.0,) if max(costs) / min(costs) > 1000 else (1.0, 3.0)))
        axes.xaxis.set_minor_formatter(NullFormatter())
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))


def _name(axes: Axes, best: Sequence[Arm]) -> None:
    """Letters beside the first and the last arms of the front, and what they mean above the points."""
    named = list(best) if len(best) <= MAX_NAMED else [*best[: MAX_NAMED - 1], best[-1]]
    for letter, arm in zip("abcdefgh", named, strict=False):
        place = (arm.error.x, arm.error.mean)
        axes.annotate(letter, place, xytext=(4, 4), textcoords="offset points", fontsize=8, color=INK)
        axes.plot([], [], linestyle="none", label=f"{letter}: {arm.label}")
