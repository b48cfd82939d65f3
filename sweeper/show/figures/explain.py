"""What explains a gap: a bar for each of its terms, with its interval; the terms add up to the gap."""

from __future__ import annotations

import textwrap
from dataclasses import dataclass
from typing import TYPE_CHECKING

from orca_core.errors import ConfigError
from sweeper.analysis.explanation import Explanation, explain_sweep
from sweeper.analysis.terms import PARTS_QUESTION, Term
from sweeper.show.figures.series import say_seeds
from sweeper.show.figures.style import FAINT, INK, finish, fit_errors, label_panel, look, panels
from sweeper.show.figures.tables import FigureTables, NotInTablesError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MAX_PANELS = 12
"""Number of gaps above which those of single tasks are left out, if there are some over tasks."""


@dataclass(frozen=True)
class Bar:
    """One term of a gap.

    Args:
        label: The term.
        value: What it contributes; over tasks relative to the error where the gap begins.
        low, high: Its 95 % interval; None for one seed.
        is_cause: Whether it is named as a cause.
        is_gap: Whether it is the gap itself.
    """

    label: str
    value: float
    low: float | None
    high: float | None
    is_cause: bool
    is_gap: bool


@dataclass(frozen=True)
class GapPanel:
    """One gap.

    Args:
        title: Task, and the two arms between which the gap is.
        bars: Its terms, then the gap.
        sentence: What is said of its causes.
        is_relative: Whether values are shares of the error where the gap begins.
    """

    title: str
    bars: tuple[Bar, ...]
    sentence: str
    is_relative: bool


@dataclass(frozen=True)
class Explained:
    """What the figure shows.

    Args:
        title: Its title.
        panels: The gaps, by question and task.
        metric: The column that is explained, in words.
        caption: What is shown, with the number of seeds and what bars are.
    """

    title: str
    panels: tuple[GapPanel, ...]
    metric: str
    caption: str


def read(tables: FigureTables) -> Explained:
    """The gaps of the sweep that have terms.

    Raises:
        NotInTablesError: If there are none.
    """
    try:
        explanation = explain_sweep(tables.sweep, metric=tables.metric)
    except ConfigError as error:
        raise NotInTablesError("neither pretrained and random bodies nor aligned and naive embedders are complete") from error
    gaps = _gaps(explanation)
    if not gaps:
        raise NotInTablesError("no gap has arms between its ends: see `sweeper explain`")
    if len(gaps) > MAX_PANELS and any(terms[0].task is None for terms in gaps):
        gaps = [terms for terms in gaps if terms[0].task is None]
    said = {(cause.question, cause.task, cause.subject): cause.sentence for cause in explanation.causes}
    found = tuple(
        GapPanel(
            f"{terms[0].task or 'over tasks'}: {terms[0].subject}",
            tuple(bar for term in terms if (bar := _bar(term)) is not None),
            said.get((terms[0].question, terms[0].task, terms[0].subject), ""),
            terms[0].task is None,
        )
        for terms in gaps[:MAX_PANELS]
    )
    seeds = say_seeds(term.n for terms in gaps for term in terms if term.task is not None and term.n)
    kinds = {terms[0].question for terms in gaps}
    parts = " Parts of a body: Shapley values over all combinations of the parts." if PARTS_QUESTION in kinds else ""
    metric = tables.metric.replace("_", " ")
    sentences = " ".join(f"{panel.title}: {panel.sentence}" for panel in found if panel.sentence)
    caption = (
        f"{tables.name}: what each term contributes to the gap in {metric}; left of 0 is better. The terms add up to the gap.{parts} "
        f"Bars: 95\u00a0% interval of the mean over seeds (Student's t), {seeds}, not corrected for their number. Dark: named as a cause, "
        f"by tests corrected by Holm. {sentences}"
    )
    return Explained(f"What explains the gaps of {tables.name}", found, metric, caption.strip())


def _gaps(explanation: Explanation) -> list[list[Term]]:
    """The terms of each gap that has some, as far as their values are known."""
    groups: dict[tuple[str, str | None, str], list[Term]] = {}
    for term in explanation.terms:
        groups.setdefault((term.question, term.task, term.subject), []).append(term)
    return [terms for terms in groups.values() if any(not term.is_gap and _bar(term) is not None for term in terms)]


def _bar(term: Term) -> Bar | None:
    value = term.relative if term.task is None else term.value
    if value is None:
        return None
    label = "the gap" if term.is_gap else term.term.replace("+", " + ")
    return Bar(label, value, term.low, term.high, term.is_cause, term.is_gap)


# ------------------------------------------------------------------------------------------------------------------------ drawing


def draw(data: Explained) -> Figure:
    """A panel for each gap, a bar for each term."""
    most = max(len(panel.bars) for panel in data.panels)
    figure, axes = panels([""] * len(data.panels), data.title, columns=2, width=4.6, height=1.0 + 0.26 * most)
    for one, panel in zip(axes, data.panels, strict=True):
        _draw_panel(one, panel, data.metric)
    return finish(figure, [], data.caption)


def _draw_panel(axes: Axes, panel: GapPanel, metric: str) -> None:
    for position, bar in enumerate(panel.bars):
        style = look(2 if bar.is_cause else 0)
        axes.barh(
            position,
            bar.value,
            height=0.62,
            color=INK if bar.is_gap else style.color,
            alpha=0.9 if bar.is_cause else 0.35,
            hatch=None if bar.is_cause or bar.is_gap else "////",
            edgecolor=INK if bar.is_gap else style.color,
        )
        if bar.low is not None and bar.high is not None:
            axes.plot([bar.low, bar.high], [position, position], color=INK, linewidth=1.2, solid_capstyle="butt")
    axes.axvline(0, color=INK, linewidth=0.8)
    label_panel(axes, _wrap(panel.title), f"change in {metric}" + (", as a share" if panel.is_relative else ""))
    axes.grid(visible=False)
    axes.grid(axis="x", color=FAINT)
    axes.set_ylim(len(panel.bars) - 0.4, -0.6)
    axes.set_yticks(range(len(panel.bars)), [_wrap(bar.label, 24) for bar in panel.bars])
    axes.tick_params(axis="y", length=0)
    ends = [end for bar in panel.bars for end in (bar.low, bar.high) if end is not None]
    fit_errors(axes, [0.0, *(bar.value for bar in panel.bars)], ends, upright=False)
    axes.locator_params(axis="x", nbins=5)
    if panel.is_relative:
        axes.xaxis.set_major_formatter(lambda value, _: f"{100 * value:+.4g} %" if value else "0")


def _wrap(text: str, width: int = 52) -> str:
    return textwrap.fill(text, width, break_on_hyphens=False)
