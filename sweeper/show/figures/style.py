"""How every figure looks: colours, markers, dashes and hatches that are told apart in grey, fonts, panels, floors, captions.

Only `matplotlib.figure.Figure` is used, never `pyplot`, which keeps figures in global state. matplotlib is imported when something is drawn.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from threading import Lock
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK = "#1c1c1c"
"""Colour of text, axes and floors. In an SVG it becomes `currentColor`, so that a page decides."""

FAINT = "#8a8a8a"
"""Grey of grids and margins, which can be seen on white and on black."""

_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#b0529a", "#8a6d00", "#4f5bd5", "#a3333d", "#5b7f2b")
"""After Okabe and Ito, whose yellow, orange and sky blue are too light on white, and whose black is none on black. Each has a contrast of
at least 3 with both."""

_DASHES: tuple[Any, ...] = (
    *("-", (0, (5, 1.5)), (0, (1.2, 1.2)), (0, (6, 1.5, 1.2, 1.5))),
    *((0, (3, 3)), (0, (8, 2)), (0, (2, 1)), (0, (5, 1, 1, 1, 1, 1))),
)
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
_HATCHES = ("", "////", "....", "xxxx", "\\\\\\\\", "++++", "oooo", "----")

MAX_LINES = len(_COLOURS)
"""How many lines of one panel can be told apart."""

FONTS = ("DejaVu Sans", "Verdana", "Arial", "Helvetica")
"""The first is measured, comes with matplotlib, and is in PDF files; the others are what an SVG falls back to before any sans-serif font,
none of them wider."""

PANEL_WIDTH, PANEL_HEIGHT = 3.3, 2.4
"""Size of a panel, in inches."""

_STYLE = {
    "font.family": "sans-serif",
    "font.sans-serif": [FONTS[0]],
    "font.size": 8.5,
    "text.color": INK,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "axes.titlesize": 9,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.8,
    "axes.axisbelow": True,
    "axes.formatter.useoffset": False,
    "xtick.color": INK,
    "ytick.color": INK,
    "grid.color": FAINT,
    "grid.alpha": 0.35,
    "grid.linewidth": 0.6,
    "figure.titlesize": 10,
    "figure.titleweight": "bold",
    "legend.frameon": False,
    "legend.handlelength": 3.0,
    "legend.fontsize": 8,
    "lines.linewidth": 1.5,
    "lines.markersize": 4.5,
    "hatch.linewidth": 0.6,
    "patch.linewidth": 0.8,
    "svg.fonttype": "none",
    "pdf.fonttype": 42,
}

_LOCK = Lock()
"""matplotlib's settings are global, also while they are changed for one figure."""


@contextmanager
def styled(**more: Any) -> Iterator[None]:
    """Draw and save in this style, whatever settings of matplotlib the user has."""
    from matplotlib import style

    with _LOCK, style.context(["default", _STYLE | more]):
        yield


@dataclass(frozen=True)
class Look:
    """What tells one of several lines or bars from the others."""

    color: str
    linestyle: Any
    marker: str
    hatch: str

    def line(self) -> dict[str, Any]:
        """Options of `Axes.plot`."""
        return {"color": self.color, "linestyle": self.linestyle, "marker": self.marker}


def look(number: int) -> Look:
    """The look of the n-th line or bar, from 0; they repeat after `MAX_LINES`."""
    n = number % MAX_LINES
    return Look(_COLOURS[n], _DASHES[n], _MARKERS[n], _HATCHES[n])


def panels(
    count: int, title: str, *, columns: int = 3, width: float = PANEL_WIDTH, height: float = PANEL_HEIGHT
) -> tuple[Figure, list[Axes]]:
    """A figure with some panels, row by row.

    Args:
        count: Number of panels.
        title: Title of the figure.
        columns: Maximum number of panels in a row.
        width, height: Size of a panel, in inches.
    """
    from matplotlib.figure import Figure

    across = min(columns, count)
    down = -(-count // across)
    figure = Figure(figsize=(max(across * width, 4.8), down * height + 0.3), layout="constrained")
    made = [figure.add_subplot(down, across, number + 1) for number in range(count)]
    figure.suptitle(textwrap.fill(title, int(figure.get_figwidth() * 12)), x=0.01, horizontalalignment="left")
    return figure, made


def add_caption(figure: Figure, caption: str) -> None:
    """Put the caption below the panels, and make room for it."""
    text = textwrap.fill(caption, int(figure.get_figwidth() * 16))
    figure.supxlabel(text, x=0.01, horizontalalignment="left", fontsize=7.5)
    figure.set_figheight(figure.get_figheight() + 0.15 * (text.count("\n") + 2))


def label_panel(axes: Axes, title: str, x: str = "", y: str = "") -> None:
    """Title, labels and grid of a panel."""
    axes.set_title(title, fontsize=9)
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.grid(axis="y")


def add_legend(figure: Figure, axes: Sequence[Axes]) -> None:
    """One legend below all panels if they share their lines, else one below each panel; and room for it."""
    entries = [dict(zip(*reversed(one.get_legend_handles_labels()), strict=True)) for one in axes]
    together: dict[str, Any] = {}
    for of_panel in entries:
        together |= of_panel
    if not together:
        return
    if len(entries) > 1 and len(together) <= MAX_LINES and len(together) < sum(map(len, entries)):
        columns = max(1, min(len(together), int(figure.get_figwidth() * 12 / (max(map(len, together)) + 7))))
        figure.legend(together.values(), together.keys(), loc="outside lower left", ncols=columns)
        lines = -(-len(together) // columns)
    else:
        down = -(-len(axes) // _columns_of(axes))
        lines = 0
        for one, of_panel in zip(axes, entries, strict=True):
            labels = [textwrap.fill(label, LEGEND_WIDTH) for label in of_panel]
            if labels:
                anchor = one.transAxes + _points(figure, 0, -34 if one.get_xlabel() else -20)
                one.legend(of_panel.values(), labels, loc="upper left", bbox_to_anchor=(0, 0), bbox_transform=anchor, borderaxespad=0.0)
            lines = max(lines, sum(label.count("\n") + 1 for label in labels))
        lines *= down
    figure.set_figheight(figure.get_figheight() + 0.165 * lines + 0.1)


LEGEND_WIDTH = 34
"""Letters in a line of the legend below a panel."""


def _columns_of(axes: Sequence[Axes]) -> int:
    """Number of panels in a row."""
    spec = axes[0].get_subplotspec()
    return int(spec.get_gridspec().ncols) if spec is not None else 1


def _points(figure: Figure, x: float, y: float) -> Any:
    """A shift by some points."""
    from matplotlib.transforms import ScaledTranslation

    return ScaledTranslation(x / 72, y / 72, figure.dpi_scale_trans)


def fit_errors(axes: Axes, means: Sequence[float], bounds: Sequence[float] = ()) -> None:
    """Limits of an axis of errors: all means, and intervals as far as they do not dwarf these; nothing below 0 if no mean is.

    Args:
        axes: The panel.
        means: The means that are drawn.
        bounds: The ends of their intervals.
    """
    if not means:
        return
    low, high = min(means), max(means)
    span = (high - low) or abs(high) or 1.0
    low_end, high_end = min((*means, *bounds)), max((*means, *bounds))
    bottom, top = max(low_end, low - 0.6 * span), min(high_end, high + 0.6 * span)
    pad = 0.06 * (top - bottom) or 0.06 * span
    axes.set_ylim(max(bottom - pad, -0.03 * high) if low >= 0 else bottom - pad, top + pad)


def add_floor(axes: Axes, floor: tuple[str, float] | None) -> None:
    """A dotted line at the error of the best model without a transformer, named above the panel; where it is far from all that is shown,
    the name says on which side it is. To be called when the limits of the panel are set.
    """
    if floor is None:
        return
    model, error = floor
    low, high = axes.get_ylim()
    span = high - low
    text = f"floor (dotted): {model} {error:.3g}"
    if low - 1.2 * span <= error <= high + 1.2 * span:
        axes.axhline(error, color=INK, linewidth=1.1, linestyle=(0, (1, 1.5)), zorder=1.5)
        axes.set_ylim(min(low, error - 0.06 * span), max(high, error + 0.06 * span))
    else:
        text = f"floor: {model} {error:.3g}, {'below' if error < low else 'above'} this panel"
    axes.set_title(axes.get_title(loc="left"), fontsize=9, pad=15)
    axes.annotate(text, (0, 1), xycoords="axes fraction", xytext=(0, 4), textcoords="offset points", va="bottom", fontsize=7.5)
