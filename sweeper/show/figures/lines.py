"""How lines over seeds are drawn: along epochs, along numbers, along levels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from sweeper.show.figures.series import Panels, Point
from sweeper.show.figures.style import add_caption, add_floor, add_legend, fit_errors, label_panel, look, panels

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def draw_curves(data: Panels) -> Figure:
    """Lines along epochs, with a band each."""
    figure, axes = panels(len(data.panels), data.title)
    for panel, one in zip(data.panels, axes, strict=True):
        for number, series in enumerate(panel.series):
            style = look(number)
            x = [point.x for point in series.points]
            one.plot(x, [point.mean for point in series.points], label=series.label, markevery=max(1, len(x) // 8), **style.line())
            add_band(one, series.points, style.color)
        label_panel(one, panel.task, data.x, panel.unit)
        one.xaxis.get_major_locator().set_params(integer=True)
        fit_points(one, [point for series in panel.series for point in series.points])
        add_floor(one, panel.floor)
    add_legend(figure, axes)
    add_caption(figure, data.caption)
    return figure


def add_band(axes: Axes, points: Sequence[Point], color: str) -> None:
    """The band of a line, where there are intervals."""
    known = [(point.x, point.low, point.high) for point in points if point.low is not None and point.high is not None]
    if known:
        x, low, high = zip(*known, strict=True)
        axes.fill_between(x, low, high, color=color, alpha=0.15, linewidth=0)


def fit_points(axes: Axes, points: Sequence[Point]) -> None:
    """Limits of the axis of errors for some points and their intervals."""
    fit_errors(axes, [point.mean for point in points], [end for point in points for end in (point.low, point.high) if end is not None])
