"""Figure 4 of the ablation paper: the error by what is frozen, with and without an aligned embedder.

Reference:
    García-de-Herreros et al. 2024, figure 4.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from sweeper.show.figures.levels import Level, find_grid, make_series, name_alignment
from sweeper.show.figures.lines import draw_dots
from sweeper.show.figures.series import Panel, Panels, count_seeds
from sweeper.show.figures.tables import FigureTables, NotInTablesError

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def read(tables: FigureTables) -> Panels:
    """The error of each freezing schedule, apart for each length of alignment.

    Raises:
        NotInTablesError: If the sweep does not vary what is frozen.
    """
    grid = find_grid(tables, "align_epochs", "freezing")
    made = []
    for task, lines in sorted(grid.by_task.items()):
        series = tuple(make_series(name_alignment(epochs), _full_first(levels), tables.metric) for epochs, levels in lines.items())
        rows = [row for levels in lines.values() for level in levels for row in level.all_rows()]
        if max(len(one.points) for one in series) > 1:
            made.append(Panel(task, tables.unit(task), series, tables.floor(rows)))
    if not made:
        raise NotInTablesError("no task has two values of freezing with complete trials")
    metric = tables.metric.replace("_", " ")
    caption = f"{tables.name}: {metric} by what is frozen, and until which epoch. Mean over {count_seeds(made)}.{grid.note()}"
    return Panels("What has to be trained?", "", tuple(made), caption, joined=False)


def draw(data: Panels) -> Figure:
    """Dots beside the names of the schedules."""
    return draw_dots(data)


def _full_first(levels: Sequence[Level]) -> list[Level]:
    """The levels with `full` before all others."""
    return sorted(levels, key=lambda level: level.level != "full")
