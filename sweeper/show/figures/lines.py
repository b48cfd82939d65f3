"""How means over seeds are drawn: as lines along epochs or numbers, or as dots beside the names of levels."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from sweeper.show.figures.series import Panels, Point, spell_level
from sweeper.show.figures.style import (
    INK,
    Look,
    add_floor,
    count_along,
    finish,
    fit_errors,
    label_panel,
    look,
    number_looks,
    panels,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def draw_curves(data: Panels) -> Figure:
    """Lines along epochs, with a band each. Panels of a group are on rows of their own."""
    figure, axes = panels([panel.group for panel in data.panels], data.title)
    for panel, one, numbers in zip(data.panels, axes, _numbers(data), strict=True):
        for series in panel.series:
            style = look(numbers[series.label])
            x = [point.x for point in series.points]
            one.plot(
                x, [point.mean for point in series.points], label=_name(data, series.label), markevery=max(1, len(x) // 8), **style.line()
            )
            add_band(one, x, series.points, style.color)
        label_panel(one, panel.title, data.x, panel.unit)
        count_along(one)
        fit_points(one, [point for series in panel.series for point in series.points])
        add_floor(one, panel.floor)
    return finish(figure, axes, data.caption)


def draw_along(data: Panels) -> Figure:
    """Lines along the levels of a factor that are numbers, with a bar for each interval."""
    figure, axes = panels([panel.group for panel in data.panels], data.title)
    for panel, one in zip(data.panels, axes, strict=True):
        draw_levels(one, data, panel.task)
        label_panel(one, panel.title, data.x, panel.unit)
        add_floor(one, panel.floor)
    return finish(figure, axes, data.caption)


def draw_levels(axes: Axes, data: Panels, task: str) -> None:
    """The lines of one task along numbers. Floors that differ from level to level are a dotted line."""
    panel, numbers = next(found for found in zip(data.panels, _numbers(data), strict=True) if found[0].task == task)
    where = place_levels([point.x for series in panel.series for point in series.points])
    for number, series in enumerate(panel.series):
        shift = (number - (len(panel.series) - 1) / 2) * 0.012 * (max(where.values()) - min(where.values()))
        draw_bars(
            axes, [where[point.x] + shift for point in series.points], series.points, look(numbers[series.label]), _name(data, series.label)
        )
    means = [point for series in panel.series for point in series.points]
    if panel.floors:
        floors = [(where[x], error) for x, error in panel.floors if x in where]
        axes.plot(*zip(*floors, strict=True), color=INK, linestyle=(0, (1, 1.5)), linewidth=1.1, marker=".", label="best floor")
    fit_points(axes, means, [error for _, error in panel.floors])
    axes.set_xticks(list(where.values()), [spell_level(level, data.none) for level in where])


def draw_dots(data: Panels) -> Figure:
    """Dots beside the names of levels, dodged by line; lines join the dots of a line if the data say so."""
    levels = list(dict.fromkeys(point.x for panel in data.panels for series in panel.series for point in series.points))
    lines = max(len(panel.series) for panel in data.panels)
    longest = max(len(spell_level(level, data.none)) for level in levels)
    height = 0.8 + max(0.3, 0.14 * lines) * len(levels)
    figure, axes = panels([panel.group for panel in data.panels], data.title, width=2.3 + 0.07 * longest, height=height)
    for panel, one, numbers in zip(data.panels, axes, _numbers(data), strict=True):
        present = [level for level in levels if any(point.x == level for series in panel.series for point in series.points)]
        for number, series in enumerate(panel.series):
            shift = (number - (len(panel.series) - 1) / 2) * (0.3 if data.joined else 0.6) / max(1, len(panel.series))
            places = [present.index(point.x) + shift for point in series.points]
            style = look(numbers[series.label])
            draw_bars(one, places, series.points, style, _name(data, series.label), upright=False, joined=data.joined)
        one.set_yticks(range(len(present)), [spell_level(level, data.none) for level in present])
        one.set_ylim(len(present) - 0.4, -0.6)
        label_panel(one, panel.title, panel.unit, data.x)
        one.grid(visible=False)
        one.grid(axis="x")
        fit_points(one, [point for series in panel.series for point in series.points], upright=False)
        add_floor(one, panel.floor, upright=False)
    return finish(figure, axes, data.caption)


def _numbers(data: Panels) -> list[dict[str, int]]:
    """For each panel, label of a line -> number of its look."""
    return number_looks([[series.label for series in panel.series] for panel in data.panels])


def _name(data: Panels, label: str) -> str:
    """The label of a line in the legend; none if it is the only one."""
    return label if len({series.label for panel in data.panels for series in panel.series}) > 1 else "_nolegend_"


def draw_bars(
    axes: Axes, places: Sequence[float], points: Sequence[Point], style: Look, label: str, *, upright: bool = True, joined: bool = True
) -> None:
    """Means with a bar for each interval; `upright` if errors are on the vertical axis."""
    for place, point in zip(places, points, strict=True):
        if point.low is not None and point.high is not None:
            ends = [point.low, point.high]
            axes.plot(*([place, place], ends) if upright else (ends, [place, place]), color=style.color, linewidth=1.0, alpha=0.8)
    options = style.line() if joined else style.line() | {"linestyle": "none"}
    means = [point.mean for point in points]
    axes.plot(*(places, means) if upright else (means, places), label=label, **options)


def add_band(axes: Axes, x: Sequence[float], points: Sequence[Point], color: str) -> None:
    """The band of a line, where there are intervals."""
    known = [(at, point.low, point.high) for at, point in zip(x, points, strict=True) if point.low is not None and point.high is not None]
    if known:
        at, low, high = zip(*known, strict=True)
        axes.fill_between(at, low, high, color=color, alpha=0.15, linewidth=0)


def fit_points(axes: Axes, points: Sequence[Point], more: Sequence[float] = (), *, upright: bool = True) -> None:
    """Limits of the axis of errors for some points, their intervals, and more values."""
    ends = [end for point in points for end in (point.low, point.high) if end is not None]
    fit_errors(axes, [*(point.mean for point in points), *more], ends, upright=upright)


WIDE = 8
"""Numbers that span more than this factor stand on a logarithmic axis."""


def place_levels(levels: Sequence[Any]) -> Mapping[Any, float]:
    """Where levels stand along an axis, from left to right.

    Numbers stand at their value, or at its logarithm if they span more than a factor of 8; 0 then stands one step left of the least other
    one. Null and texts stand to the right of all numbers, one step apart.
    """
    numbers = sorted({level for level in levels if isinstance(level, int | float)})
    others = [level for level in dict.fromkeys(levels) if level not in numbers]
    above = [number for number in numbers if number > 0]
    if len(above) > 1 and above[-1] / above[0] > WIDE and numbers[0] >= 0:
        step = (math.log(above[-1]) - math.log(above[0])) / (len(above) - 1)
        found = {number: math.log(number) if number else math.log(above[0]) - step for number in numbers}
    else:
        found = {number: float(number) for number in numbers}
        step = (numbers[-1] - numbers[0]) / (len(numbers) - 1) if len(numbers) > 1 else 1.0
    last = max(found.values(), default=-step)
    return found | {level: last + step * number for number, level in enumerate(others, 1)}
