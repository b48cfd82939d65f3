"""How every figure looks: colours, markers, dashes and hatches that are told apart in grey, fonts, panels, floors, captions.

Only `matplotlib.figure.Figure` is used, never `pyplot`, which keeps figures in global state. matplotlib is imported when something is
drawn.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping, Sequence
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
_HATCHES = ("", "////", "\\\\\\\\", "xxxx", "----", "||||", "++++", "//")  # no dots: as curves they take 250 kB in an SVG

MAX_LINES = len(_COLOURS)
"""How many lines of one panel can be told apart."""

FONTS = ("DejaVu Sans", "Verdana", "Arial", "Helvetica")
"""The first is measured, comes with matplotlib, and is in PDF files; the others are what an SVG falls back to before any sans-serif font,
none of them wider."""

PANEL_WIDTH, PANEL_HEIGHT = 3.3, 2.4
"""Size of a panel, in inches."""

MAX_WIDTH = 10.2
"""Maximum width of a figure of several panels, in inches."""

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
    "figure.titlesize": 11,
    "legend.frameon": False,
    "legend.handlelength": 3.0,
    "legend.fontsize": 8,
    "lines.linewidth": 1.5,
    "lines.markersize": 4.5,
    "hatch.linewidth": 0.6,
    "patch.linewidth": 0.8,
    "text.hinting": "none",  # else text is measured for the pixels of one resolution, and is wider at others
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


def number_looks(labels: Sequence[Sequence[str]]) -> list[dict[str, int]]:
    """For each panel, label -> number of its look: the same in all panels, unless together they have too many lines."""
    together = {label: number for number, label in enumerate(dict.fromkeys(label for of_panel in labels for label in of_panel))}
    if len(together) <= MAX_LINES:
        return [together] * len(labels)
    return [{label: number for number, label in enumerate(of_panel)} for of_panel in labels]


def look(number: int) -> Look:
    """The look of the n-th line or bar, from 0; they repeat after `MAX_LINES`."""
    n = number % MAX_LINES
    return Look(_COLOURS[n], _DASHES[n], _MARKERS[n], _HATCHES[n])


def panels(
    groups: Sequence[str],
    title: str,
    *,
    columns: int = 3,
    width: float = PANEL_WIDTH,
    height: float = PANEL_HEIGHT,
    ratios: Sequence[float] | None = None,
) -> tuple[Figure, list[Axes]]:
    """A figure with some panels, row by row.

    Args:
        groups: For each panel its group; a group begins on a row of its own.
        title: Title of the figure.
        columns: Maximum number of panels in a row.
        width, height: Size of a panel, in inches.
        ratios: Heights of the rows relative to each other; None = all alike.
    """
    from matplotlib.figure import Figure

    columns = max(1, min(columns, int(MAX_WIDTH / width)))
    across = min(columns, max(groups.count(group) for group in groups))
    places, place = [], 0
    for number, group in enumerate(groups):
        if number and group != groups[number - 1]:
            place = -(-place // across) * across
        places.append(place)
        place += 1
    down = -(-place // across)
    figure = Figure(figsize=(max(across * width, 4.8), down * height + 0.3), layout="constrained")
    grid = figure.add_gridspec(down, across, height_ratios=ratios)
    made = [figure.add_subplot(grid[place // across, place % across]) for place in places]
    figure.suptitle(textwrap.fill(title, int(figure.get_figwidth() * 12)), x=0.01, horizontalalignment="left")
    return figure, made


def label_panel(axes: Axes, title: str, x: str = "", y: str = "") -> None:
    """Title, labels and grid of a panel."""
    axes.set_title(title, fontsize=9)
    axes.set_xlabel(textwrap.fill(x, 36))
    axes.set_ylabel(y)
    axes.grid(axis="y")


def finish(figure: Figure, axes: Sequence[Axes], caption: str, *, are_letters: bool = False) -> Figure:
    """Add legends and caption below the panels, and make room for them.

    There is one legend for all panels if all lines can be told apart; else one below each panel.

    Args:
        figure: The figure.
        axes: The panels with a legend.
        caption: What is shown, in words.
        are_letters: Whether legends explain letters in the panel, so that each panel has its own.
    """
    entries = [dict(zip(*reversed(one.get_legend_handles_labels()), strict=True)) for one in axes]
    together: dict[str, Any] = {label: handle for of_panel in entries for label, handle in of_panel.items()}
    text = textwrap.fill(caption, int(figure.get_figwidth() * 16), break_on_hyphens=False)
    below = caption_height = 0.13 * (text.count("\n") + 1) + 0.08
    if len(entries) == 1 or len(together) > MAX_LINES + 1 or are_letters:
        rows = -(-len(axes) // _columns_of(axes[0]))
        added = rows * max(_add_legend(figure, one, of_panel, are_letters) for one, of_panel in zip(axes, entries, strict=True))
    else:
        added = _add_shared_legend(figure, together)
        below += added
    figure.set_figheight(figure.get_figheight() + caption_height + added)
    share = 1 / figure.get_figheight()
    figure.text(0.01, 0.04 * share, text, va="bottom", fontsize=7.5)
    for legend in figure.legends:
        legend.set_bbox_to_anchor((0, caption_height * share))
    engine: Any = figure.get_layout_engine()
    engine.set(rect=(0.005, below * share, 0.985, 1 - below * share))  # what stands out at the sides is not cut
    return figure


def _add_legend(figure: Figure, axes: Axes, entries: Mapping[str, Any], are_letters: bool) -> float:
    """Add a legend below a panel, and return its height in inches."""
    from matplotlib.transforms import ScaledTranslation

    width = int(figure.get_figwidth() / _columns_of(axes) * LEGEND_LETTERS)
    labels = [textwrap.fill(label, width, break_on_hyphens=False) for label in entries]
    if not labels:
        return 0.0
    spacing = {"handlelength": 0.0, "handletextpad": 0.0} if are_letters else {}
    shift = -22 - 12 * (axes.get_xlabel().count("\n") + 1) if axes.get_xlabel() else -20
    anchor = axes.transAxes + ScaledTranslation(0, shift / 72, figure.dpi_scale_trans)
    axes.legend(entries.values(), labels, loc="upper left", bbox_to_anchor=(0, 0), bbox_transform=anchor, borderaxespad=0.0, **spacing)
    return LEGEND_LINE * sum(label.count("\n") + 1 for label in labels) + 0.1


def _add_shared_legend(figure: Figure, entries: Mapping[str, Any]) -> float:
    """Add a legend below all panels, and return its height in inches."""
    if not entries:
        return 0.0
    columns = max(1, min(len(entries), int(figure.get_figwidth() * 12 / (max(map(len, entries)) + 7))))
    figure.legend(entries.values(), entries.keys(), loc="lower left", ncols=columns).set_in_layout(False)
    return LEGEND_LINE * -(-len(entries) // columns) + 0.1


LEGEND_LINE = 0.165
"""Height of a line of a legend, in inches."""

LEGEND_LETTERS = 10
"""Letters in an inch of the legend below a panel, with room for what is drawn beside them."""


SUBTITLE_LETTERS = 17
"""Letters in an inch of the line above a panel."""


def _columns_of(axes: Axes) -> int:
    """Number of panels in a row."""
    spec = axes.get_subplotspec()
    return int(spec.get_gridspec().ncols) if spec is not None else 1


def count_along(axes: Axes) -> None:
    """Only whole numbers on the horizontal axis."""
    from matplotlib.ticker import MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(nbins="auto", integer=True))


def fit_errors(axes: Axes, means: Sequence[float], bounds: Sequence[float] = (), *, upright: bool = True) -> None:
    """Limits of an axis of errors: all means, and intervals as far as they do not dwarf these; nothing below 0 if no mean is.

    Args:
        axes: The panel.
        means: The means that are drawn.
        bounds: The ends of their intervals.
        upright: Whether errors are on the vertical axis.
    """
    if not means:
        return
    low, high = min(means), max(means)
    span = (high - low) or abs(high) or 1.0
    low_end, high_end = min((*means, *bounds)), max((*means, *bounds))
    bottom, top = max(low_end, low - 0.6 * span), min(high_end, high + 0.6 * span)
    pad = 0.06 * (top - bottom) or 0.06 * span
    limits = (max(bottom - pad, -0.03 * high) if low >= 0 else bottom - pad, top + pad)
    (axes.set_ylim if upright else axes.set_xlim)(limits)


def add_floor(axes: Axes, floor: tuple[str, float] | None, *, upright: bool = True, also: str = "") -> None:
    """A dotted line at the error of the best model without a transformer, named above the panel; where it is far from all that is shown,
    the name says on which side it is. To be called when the limits of the panel are set.

    Args:
        axes: The panel.
        floor: Name and error of the model; None = no line.
        upright: Whether errors are on the vertical axis.
        also: What else to say above the panel.
    """
    if floor is None:
        _add_subtitle(axes, also)
        return
    model, error = floor
    low, high = axes.get_ylim() if upright else axes.get_xlim()
    span = high - low
    text = f"floor (dotted): {model} {error:.3g}"
    if low - 1.2 * span <= error <= high + 1.2 * span:
        (axes.axhline if upright else axes.axvline)(error, color=INK, linewidth=1.1, linestyle=(0, (1, 1.5)), zorder=1.5)
        (axes.set_ylim if upright else axes.set_xlim)(min(low, error - 0.06 * span), max(high, error + 0.06 * span))
    else:
        text = f"floor: {model} {error:.3g}, {'below' if error < low else 'above'} this panel"
    _add_subtitle(axes, "; ".join(filter(None, [also, text])))


def _add_subtitle(axes: Axes, text: str) -> None:
    if text:
        figure = axes.get_figure(root=True)
        width = figure.get_figwidth() / _columns_of(axes) if figure is not None else PANEL_WIDTH
        text = textwrap.fill(text, int((width - 0.6) * SUBTITLE_LETTERS), break_on_hyphens=False)
        axes.set_title(axes.get_title(loc="left"), fontsize=9, pad=5 + 10 * (text.count("\n") + 1))
        axes.annotate(text, (0, 1), xycoords="axes fraction", xytext=(0, 4), textcoords="offset points", va="bottom", fontsize=7.5)
