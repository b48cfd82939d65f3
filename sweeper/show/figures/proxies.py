"""Figure 2 of the ablation paper: the error after each epoch of fine-tuning, a line for each proxy and one without alignment.

Reference:
    García-de-Herreros et al. 2024, figure 2: 2D tasks in the upper row, 1D tasks in the lower one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from sweeper.show.figures.levels import Level, find_levels
from sweeper.show.figures.lines import draw_curves
from sweeper.show.figures.series import Panel, Panels, Point, Series, count_seeds, spell_level
from sweeper.show.figures.tables import FigureTables, NotInTablesError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NAIVE = "naive (not aligned)"


def read(tables: FigureTables) -> Panels:
    """The curves of each proxy, 2D tasks first.

    Raises:
        NotInTablesError: If the sweep does not vary the proxy, or epochs do not have the metric.
    """
    curves = tables.curves()
    levels = find_levels(tables, "proxy")
    found = []
    for task, of_task in levels.by_task.items():
        series = [Series(spell_level(level.level, NAIVE), curve_of(level, curves)) for level in of_task]
        shown = tuple(one for one in series if one.points)
        if len(shown) > 1:
            rows = [row for level in of_task for row in level.all_rows()]
            found.append(Panel(task, tables.unit(task), shown, tables.floor(rows), group=tables.group(task)))
    if not found:
        raise NotInTablesError(f"no task has two proxies, or one and no alignment, with {tables.metric} of their epochs")
    found.sort(key=lambda panel: (panel.group != "2D", panel.group != "1D", panel.task))
    metric = tables.metric.replace("_", " ")
    caption = f"{tables.name}: {metric} after each epoch of fine-tuning, by proxy data set. Mean over {count_seeds(found)}.{levels.note()}"
    return Panels("Does the proxy matter?", "epoch of fine-tuning", tuple(found), caption)


def draw(data: Panels) -> Figure:
    """A panel for each task, 2D tasks in rows above those of 1D tasks."""
    return draw_curves(data)


def curve_of(level: Level, curves: Mapping[str, Mapping[int, float]]) -> tuple[Point, ...]:
    """The mean curve of a level, at the epochs that all its trials have."""
    of_trials = [curves.get(row["trial"], {}) for row in level.all_rows()]
    epochs = sorted(set.intersection(*map(set, of_trials))) if of_trials else []
    points = [level.point(epoch, lambda row, epoch=epoch: curves[row["trial"]][epoch]) for epoch in epochs]  # type: ignore[misc]
    return tuple(point for point in points if point is not None)
