"""Forest of effects: the difference of each level to its baseline, with interval, margin and verdict, as `sweeper compare` has them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from orca_core.errors import ConfigError
from sweeper.analysis.comparison import Comparison
from sweeper.analysis.effect import Effect
from sweeper.analysis.factors import KNOB_OF, VARIANT, find_factor, list_levels, spell_value
from sweeper.show.comparison import compare_as_asked
from sweeper.show.figures.levels import default_baseline
from sweeper.show.figures.series import say_seeds
from sweeper.show.figures.style import FAINT, INK, finish, look, panels
from sweeper.show.figures.tables import FigureTables, NotInTablesError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MAX_ROWS = 60
"""Number of rows above which those of single tasks are left out, if there are rows over tasks."""

VERDICTS = {"helps": 2, "hurts": 1, "no-difference": 0, "undecided": 4, None: 6}
"""Verdict -> number of its look (`style.look`)."""


@dataclass(frozen=True)
class EffectRow:
    """One effect.

    Args:
        task: The task; None over tasks.
        label: Factor and level.
        relative: Difference over the baseline's mean error; None where that is near 0.
        low, high: Its 95 % interval; None for one seed.
        margin: Margin of equivalence, relative; None if there is none.
        n: Number of seeds; over tasks, of tasks.
        verdict: The verdict; None if the comparison is not fair.
        text: The numbers in words.
    """

    task: str | None
    label: str
    relative: float | None
    low: float | None
    high: float | None
    margin: float | None
    n: int
    verdict: str | None
    text: str


@dataclass(frozen=True)
class Forest:
    """What the figure shows.

    Args:
        title: Its title.
        rows: The effects, in the order of the comparison.
        caption: What is shown, with the number of seeds and what bars are.
    """

    title: str
    rows: tuple[EffectRow, ...]
    caption: str


def read(tables: FigureTables) -> Forest:
    """The effects of the sweep's question; without one, of every knob that the sweep varies, each against its usual baseline.

    Raises:
        NotInTablesError: If no level can be compared with a baseline.
    """
    comparisons = list(_comparisons(tables))
    rows = [row for comparison in comparisons for row in _rows(comparison, len(comparisons) > 1)]
    if not any(row.n for row in rows):
        raise NotInTablesError("no level has trials that pair with those of a baseline")
    overall = [row for row in rows if row.task is None]
    left_out = ""
    if len(rows) > MAX_ROWS and overall:
        left_out = f" The {len(rows) - len(overall)} effects on single tasks are left out here."
        rows = overall
    against = [f"{c.factor.name} {c.factor.spell(c.baseline)}" for c in comparisons]
    seeds = say_seeds(row.n for row in rows if row.task is not None and row.n)
    caption = (
        f"{tables.name}: {tables.metric.replace('_', ' ')} against {', '.join(against)}, as a share of the baseline's; left of 0 is better."
        f" Paired by seed, {seeds}; over tasks n is the number of tasks. Bars: 95\u00a0% interval of the mean difference (Student's t),"
        f" not corrected for their number. Grey: margin within which a difference counts as none. Verdicts are corrected by Holm.{left_out}"
    )
    return Forest(f"Effects of {against[0].replace(' ', ', against ', 1)}" if len(against) == 1 else "Effects", tuple(rows), caption)


def _comparisons(tables: FigureTables) -> Iterator[Comparison]:
    sweep = tables.sweep
    if sweep.question.get("factor"):
        asked = [{"metric": tables.metric}]
    else:
        asked = []
        names = [VARIANT] if any(row.get("variant") for row in sweep.rows) else tables.evidence.varied
        for name in names:
            if name in ("task", *sweep.pair_by):
                continue
            try:
                factor = find_factor(name, tables.evidence.arms)
            except ConfigError:
                continue  # it varies between tasks alone
            baseline = default_baseline(factor, list_levels(factor, tables.evidence.arms), {})
            asked.append({"metric": tables.metric, "factor": KNOB_OF.get(name, name), "baseline": factor.spell(baseline)})
    for options in asked:
        try:
            yield compare_as_asked(sweep, options)
        except ConfigError:
            continue  # no task has both levels complete


def _rows(comparison: Comparison, is_named: bool) -> Iterator[EffectRow]:
    for effect in comparison.effects:
        label = _spell(effect.level)
        if is_named:
            label = f"{comparison.factor.name} {label}"
        if effect.within:
            label += f" ({', '.join(f'{knob} {_spell(value)}' for knob, value in effect.within.items())})"
        low, high, margin = (_relative(effect, value) for value in (effect.low, effect.high, effect.margin))
        yield EffectRow(effect.task, label, effect.relative, low, high, margin, effect.n, effect.verdict, _describe(effect, low, high))


def _spell(level: object) -> str:
    if isinstance(level, dict):
        return ", ".join(f"{key} {_spell(value)}" for key, value in level.items())
    return spell_value(tuple(level) if isinstance(level, list) else level)


def _relative(effect: Effect, value: float | None) -> float | None:
    """A number in the unit of the difference as a share of the baseline's error; over tasks it is one already."""
    if value is None or effect.task is None:
        return value
    return value / effect.baseline_mean if effect.relative is not None and effect.baseline_mean else None


def _describe(effect: Effect, low: float | None, high: float | None) -> str:
    if effect.n == 0:
        return "no pairs yet"
    verdict = effect.verdict or "unfair"
    if effect.relative is None:
        known = "no difference" if effect.difference is None else f"{effect.difference:+.3g}, baseline near 0"
        return f"{known}, n {effect.n}: {verdict}"
    interval = "" if low is None or high is None else f" [{100 * low:+.1f}, {100 * high:+.1f}]"
    return f"{100 * effect.relative:+.1f} %{interval}, n {effect.n}: {verdict}"


# ------------------------------------------------------------------------------------------------------------------------ drawing


def draw(data: Forest) -> Figure:
    """One line for each effect, by task; effects over tasks are diamonds at the end."""
    lines = list(_lines(data.rows))
    longest = max((len(row.label) for row in data.rows), default=10)
    figure, (axes,) = panels([""], data.title, width=5.2 + 0.055 * longest, height=0.4 + 0.2 * len(lines))
    for position, row in enumerate(lines):
        if isinstance(row, EffectRow):
            _draw_row(axes, position, row)
    axes.axvline(0, color=INK, linewidth=0.8)
    axes.set_ylim(len(lines) - 0.3, -0.7)
    axes.set_yticks(range(len(lines)), [row.label if isinstance(row, EffectRow) else row for row in lines])
    for tick, row in zip(axes.get_yticklabels(), lines, strict=True):
        tick.set_fontsize(8.5 if isinstance(row, EffectRow) else 9.5)
    axes.tick_params(axis="y", length=0)
    texts = axes.twinx()
    texts.set_ylim(axes.get_ylim())
    texts.set_yticks(range(len(lines)), [row.text if isinstance(row, EffectRow) else "" for row in lines], fontsize=7.5)
    texts.tick_params(axis="y", length=0)
    texts.spines["left"].set_visible(False)
    axes.spines["left"].set_visible(False)
    axes.locator_params(axis="x", nbins=4)
    axes.xaxis.set_major_formatter(lambda value, _: f"{100 * value:+.4g} %" if value else "0")
    axes.set_xlabel("difference to the baseline, as a share of its error (lower is better)")
    axes.grid(axis="x")
    return finish(figure, [], data.caption)


def _lines(rows: Sequence[EffectRow]) -> Iterator[EffectRow | str]:
    """The rows with a heading before those of each task."""
    task: str | None = ""
    for row in rows:
        if row.task != task:
            yield row.task or "over tasks"
            task = row.task
        yield row


def _draw_row(axes: Axes, position: int, row: EffectRow) -> None:
    style = look(VERDICTS[row.verdict])
    if row.relative is not None:
        if row.margin:
            axes.barh(position, 2 * row.margin, left=-row.margin, height=1.0, color=FAINT, alpha=0.25, linewidth=0)
        if row.low is not None and row.high is not None:
            axes.plot([row.low, row.high], [position, position], color=style.color, linewidth=1.8, solid_capstyle="butt")
        marker = "D" if row.task is None else style.marker
        axes.plot([row.relative], [position], color=style.color, marker=marker, markersize=6 if row.task is None else 5.5)
