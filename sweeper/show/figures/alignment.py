"""Figure 3 of the ablation paper: the distance to the proxy, and the error, against the epochs of alignment.

Reference:
    García-de-Herreros et al. 2024, figure 3.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from sweeper.show.figures.levels import find_levels, make_series
from sweeper.show.figures.lines import draw_levels
from sweeper.show.figures.series import Panel, Panels, Series, count_seeds
from sweeper.show.figures.style import add_floor, finish, label_panel, panels
from sweeper.show.figures.tables import FigureTables, NotInTablesError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLUMNS = 3
"""Number of tasks side by side."""


@dataclass(frozen=True)
class Alignment:
    """What the figure shows.

    Args:
        title: Its title.
        distances: A panel for each task: the distance after the last epoch of alignment, by number of epochs; none of 0 epochs.
        errors: A panel for each task: the error, by number of epochs.
        caption: What is shown, with the number of seeds and what bars are.
    """

    title: str
    distances: Panels
    errors: Panels
    caption: str


def read(tables: FigureTables) -> Alignment:
    """Distances and errors for each length of alignment.

    Raises:
        NotInTablesError: If the sweep has not two lengths of alignment with distances.
    """
    levels = find_levels(tables, "align.epochs")
    distance = tables.evidence.distances
    distances, errors = [], []
    for task, of_task in levels.by_task.items():
        points = [level.point(level.level, lambda row: distance.get(row["trial"])) for level in of_task if level.level]
        known = tuple(point for point in points if point is not None)
        series = make_series(tables.metric.replace("_", " "), of_task, tables.metric)
        if len(known) > 1 and len(series.points) > 1:
            rows = [row for level in of_task for row in level.all_rows()]
            objectives = sorted({str(row["align_objective"]) for row in rows if row.get("align_objective")})
            distances.append(Panel(task, f"distance{f' ({objectives[0]})' if len(objectives) == 1 else ''}", (Series("distance", known),)))
            errors.append(Panel(task, tables.unit(task), (series,), tables.floor(rows)))
    if not errors:
        raise NotInTablesError("no task has distances after two lengths of alignment or more")
    metric = tables.metric.replace("_", " ")
    caption = (
        f"{tables.name}: distance of the embedder's features to the proxy's after alignment, in the unit of the objective that is"
        f" minimised, and {metric}, by epochs of alignment (0: none). Lower is better for both."
        f" Mean over {count_seeds(errors)}.{levels.note()}"
    )
    x = "epochs of alignment"
    title = "Does a lower distance mean a lower error?"
    return Alignment(title, Panels(title, x, tuple(distances), caption), Panels(title, x, tuple(errors), caption), caption)


def draw(data: Alignment) -> Figure:
    """For each task the distance, and the error below it on the same axis."""
    tasks = [panel.task for panel in data.errors.panels]
    blocks = [tasks[start : start + COLUMNS] for start in range(0, len(tasks), COLUMNS)]
    groups = [f"{kind}{number}" for number, block in enumerate(blocks) for kind in ("distance", "error") for _ in block]
    figure, axes = panels(groups, data.title, columns=COLUMNS, height=1.9)
    places = iter(axes)
    for block in blocks:
        above = {task: next(places) for task in block}
        below = {task: next(places) for task in block}
        for task in block:
            limits = []
            for one, of_kind in ((above[task], data.distances), (below[task], data.errors)):
                panel = next(panel for panel in of_kind.panels if panel.task == task)
                draw_levels(one, of_kind, task)
                label_panel(one, task if of_kind is data.distances else "", of_kind.x if of_kind is data.errors else "", panel.unit)
                add_floor(one, panel.floor)
                limits.append(one.get_xlim())
            for one in (above[task], below[task]):
                one.set_xlim(min(low for low, _ in limits), max(high for _, high in limits))
    return finish(figure, [], data.caption)
