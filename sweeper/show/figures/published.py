"""Our arms beside published values of the same task and score."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sweeper.analysis.factors import Row
from sweeper.analysis.published import CAUTION, COPY, Published, beside
from sweeper.analysis.representatives import is_usable
from sweeper.show.figures.learning import name_arms
from sweeper.show.figures.series import Point, count_seeds_of, mean_over_seeds
from sweeper.show.figures.style import finish, label_panel, look, panels
from sweeper.show.figures.tables import FigureTables, NotInTablesError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MAX_ARMS = 5
"""Number of arms of a task that are shown, the best first."""

MAX_VALUES = 8
"""Number of published values of a task that are shown, the lowest first."""


@dataclass(frozen=True)
class Task:
    """One panel.

    Args:
        task: The task.
        unit: Label of the error.
        arms: (What tells an arm from the others, its error over seeds), the best first.
        values: Published values of the same score, the lowest first.
    """

    task: str
    unit: str
    arms: tuple[tuple[str, Point], ...]
    values: tuple[Published, ...]


@dataclass(frozen=True)
class Comparison:
    """What the figure shows.

    Args:
        title: Its title.
        tasks: A panel for each task that has published values of its score.
        caption: What is shown, and what is left out.
    """

    title: str
    tasks: tuple[Task, ...]
    caption: str


def read(tables: FigureTables) -> Comparison:
    """The best complete arms of each task, and the published values that may stand beside them.

    Raises:
        NotInTablesError: If the metric is not the test error, or no task has published values of the score that its trials are measured
            by.
    """
    if tables.metric != "test_error":
        raise NotInTablesError("published values are test errors")
    arms: dict[str, dict[Any, list[Row]]] = defaultdict(lambda: defaultdict(list))
    for row in tables.evidence.arms:
        arms[str(row.get("task"))][row.get("arm")].append(row)
    found, notes = [], []
    for task, of_task in sorted(arms.items()):
        complete = [rows for rows in of_task.values() if all(is_usable(row, tables.metric) for row in rows)]
        known = beside(task, [row.get("score") for rows in complete for row in rows])
        if not complete or not known.comparable:
            continue
        points = [mean_over_seeds(0, [float(row[tables.metric]) for row in rows]) for rows in complete]
        labels = name_arms([rows[0] for rows in complete], tables)
        ranked = sorted(zip(labels, points, strict=True), key=lambda arm: (arm[1].mean, arm[0]))
        found.append(Task(task, tables.unit(task), tuple(ranked[:MAX_ARMS]), known.comparable[:MAX_VALUES]))
        notes += [f" On {task}: {note}" for note in known.notes()]
    if not found:
        raise NotInTablesError("no task has published values of the score that its complete trials are measured by")
    counted = count_seeds_of([point for task in found for _, point in task.arms])
    caption = (
        f"{tables.name}: the best arms (dots, mean over {counted}) and published values of the same score (open: read in the source;"
        f" crosses: third-party copies). {CAUTION}{''.join(notes)}"
    )
    return Comparison("Our arms beside published values", tuple(found), caption)


def draw(data: Comparison) -> Figure:
    """A panel for each task: arms from the top, below them published values."""
    rows = max(len(task.arms) + len(task.values) for task in data.tasks)
    figure, axes = panels([task.task for task in data.tasks], data.title, columns=1, width=6.6, height=0.9 + 0.24 * rows)
    for task, one in zip(data.tasks, axes, strict=True):
        _draw_task(one, task)
    return finish(figure, [], data.caption)


def _draw_task(axes: Axes, task: Task) -> None:
    ours, theirs = look(0), look(1)
    for place, (_, point) in enumerate(task.arms):
        if point.low is not None and point.high is not None:
            axes.plot([point.low, point.high], [place, place], color=ours.color, linewidth=1.2)
        axes.plot([point.mean], [place], marker=ours.marker, color=ours.color)
    first = len(task.arms)
    for place, value in enumerate(task.values, first):
        is_copy = value.certainty == COPY
        axes.plot([value.value], [place], marker="x" if is_copy else theirs.marker, color=theirs.color, fillstyle="none")
    axes.axhline(first - 0.5, color="0.6", linewidth=0.6)
    names = [label for label, _ in task.arms] + [f"{value.method} (published)" for value in task.values]
    axes.set_yticks(range(len(names)), [name if len(name) <= 48 else f"{name[:47]}…" for name in names])
    axes.set_ylim(len(names) - 0.4, -0.6)
    label_panel(axes, task.task, task.unit)
    axes.grid(axis="x")
