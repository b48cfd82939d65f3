"""Low-data curves: the error against the number of training samples, with and without an aligned embedder.

Reference:
    Shen et al. 2023, the study with fewer training data.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from sweeper.show.figures.levels import Level, find_grid, make_series, name_alignment
from sweeper.show.figures.lines import draw_along
from sweeper.show.figures.series import Panel, Panels, count_seeds
from sweeper.show.figures.tables import FigureTables, NotInTablesError

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def read(tables: FigureTables) -> Panels:
    """The error for each number of training samples, apart for each length of alignment; the floor of each number.

    Raises:
        NotInTablesError: If the sweep does not vary the number of training samples.
    """
    grid = find_grid(tables, "align_epochs", "train_samples")
    made = []
    for task, lines in sorted(grid.by_task.items()):
        series = tuple(make_series(name_alignment(epochs), _all_last(levels), tables.metric) for epochs, levels in lines.items())
        if max(len(one.points) for one in series) > 1:
            made.append(Panel(task, tables.unit(task), series, floors=_floors(tables, lines.values())))
    if not made:
        raise NotInTablesError("no task has two numbers of training samples")
    floor = " Dotted: the best model without a transformer with as many samples." if any(panel.floors for panel in made) else ""
    metric = tables.metric.replace("_", " ")
    caption = f"{tables.name}: {metric} by number of training samples. Mean over {count_seeds(made)}.{floor}{grid.note()}"
    return Panels("Does alignment help more with less data?", "training samples", tuple(made), caption, none="all")


def draw(data: Panels) -> Figure:
    """Lines along the numbers of samples."""
    return draw_along(data)


def _all_last(levels: Sequence[Level]) -> list[Level]:
    """The levels with null, which stands for all samples, at the end."""
    return sorted(levels, key=lambda level: (level.level is None, level.level or 0))


def _floors(tables: FigureTables, lines: Any) -> tuple[tuple[Any, float], ...]:
    """(Samples, error) of the best floor with as many samples, where it is known."""
    by_level: dict[Any, list[Any]] = {}
    for levels in lines:
        for level in _all_last(levels):
            by_level.setdefault(level.level, []).extend(level.all_rows())
    known = {level: tables.floor(rows) for level, rows in by_level.items()}
    return tuple((level, floor[1]) for level, floor in known.items() if floor is not None)
