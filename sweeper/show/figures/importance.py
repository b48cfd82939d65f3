"""Importance: which share of the variance each factor and each pair of factors accounts for, as `sweeper importance` has it."""

from __future__ import annotations

import warnings
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from orca_core.errors import ConfigError
from sweeper.analysis.variance_shares import FANOVA, REST, SEED, Share, shares_of_variance
from sweeper.show.figures.series import say_seeds
from sweeper.show.figures.style import INK, finish, label_panel, look, panels
from sweeper.show.figures.tables import FigureTables, NotInTablesError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MAX_BARS = 10
"""Number of bars of a task; smaller shares are added up in one more."""

SINGLE, PAIR, TUNED, REMAINDER = "a factor", "a pair of factors (interaction)", "a tuned knob (functional ANOVA)", "seed and rest"
"""The kinds of bars."""

_KINDS = (SINGLE, PAIR, TUNED, REMAINDER)


@dataclass(frozen=True)
class Bar:
    """A share of the variance.

    Args:
        label: Factor, or two; `seed`, `rest`, or how many smaller ones it is the sum of.
        kind: What it is a share of.
        share: The share, in [0, 1].
        low, high: Its 95 % interval over seeds; None with fewer than three seeds.
    """

    label: str
    kind: str
    share: float
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Importance:
    """What the figure shows.

    Args:
        title: Its title.
        bars: Task -> its bars: factors and pairs from the largest to the smallest share, then seed and rest, then tuned knobs.
        caption: What is shown, with the number of seeds and what the lines are.
    """

    title: str
    bars: dict[str, tuple[Bar, ...]]
    caption: str


def read_shares(tables: FigureTables) -> Sequence[Share]:
    """The shares of all tasks; computed once for the same tables.

    Raises:
        NotInTablesError: If no two complete trials of a task differ in a knob.
    """
    if "shares" not in tables.read:
        tables.read["shares"] = _compute_shares(tables)
    if not tables.read["shares"]:
        raise NotInTablesError("no complete trials of a task differ in a knob, and are more than its levels")
    found: Sequence[Share] = tables.read["shares"]
    return found


def _compute_shares(tables: FigureTables) -> Sequence[Share]:
    from statsmodels.tools.sm_exceptions import SingularMatrixWarning

    sweep = tables.sweep
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SingularMatrixWarning)  # such shares are marked as not balanced, and the caption says so
            return shares_of_variance(
                sweep.rows, metric=tables.metric, pair_by=sweep.pair_by, varied=sweep.varied, objective=sweep.objective
            )
    except ConfigError:
        return ()


def read(tables: FigureTables) -> Importance:
    """The shares of each task.

    Raises:
        NotInTablesError: As `read_shares`.
    """
    shares = read_shares(tables)
    by_task: dict[str, list[Share]] = defaultdict(list)
    for share in shares:
        by_task[str(share.task)].append(share)
    seeds = {share.seeds for share in shares}
    lines = "Lines: 95\u00a0% interval over seeds (jackknife)." if max(seeds) > 2 else "Fewer than three seeds: no intervals."
    unequal = sorted(task for task, of_task in by_task.items() if not all(share.balanced for share in of_task))
    note = f" Not balanced, so that terms may share what they explain, and need not add up to 1: {', '.join(unequal)}." if unequal else ""
    if any(share.method == FANOVA for share in shares):
        objective = tables.sweep.objective.replace("_", " ")
        note += f" Tuned knobs are apart: shares of the {objective} among the candidates of an arm, as means over arms."
    caption = (
        f"{tables.name}: share of the variance of {tables.metric.replace('_', ' ')} that each factor accounts for, at the levels that the"
        f" sweep has (analysis of variance, type 2); description, no test. {say_seeds(seeds)}. {lines}{note}"
    )
    return Importance("Which factors matter?", {task: _bars(of_task) for task, of_task in sorted(by_task.items())}, caption)


def _bars(shares: Sequence[Share]) -> tuple[Bar, ...]:
    bars = [Bar(" x ".join(share.factors), _kind(share), share.share, share.low, share.high) for share in shares]
    ranked = [bar for bar in bars if bar.kind in (SINGLE, PAIR)]
    small = ranked[MAX_BARS:]
    if len(small) > 1:
        rest = Bar(f"{len(small)} smaller ones", PAIR, sum(bar.share for bar in small), None, None)
        ranked = [*ranked[:MAX_BARS], rest]
    return (*ranked, *(bar for bar in bars if bar.kind == REMAINDER), *(bar for bar in bars if bar.kind == TUNED))


def _kind(share: Share) -> str:
    if share.method == FANOVA:
        return TUNED
    return REMAINDER if share.factors[0] in (SEED, REST) else PAIR if len(share.factors) > 1 else SINGLE


def draw(data: Importance) -> Figure:
    """A panel for each task, a bar for each share."""
    most = max(map(len, data.bars.values()))
    longest = max(len(bar.label) for bars in data.bars.values() for bar in bars)
    figure, axes = panels([""] * len(data.bars), data.title, width=2.2 + 0.068 * longest, height=0.6 + 0.2 * most)
    for (task, bars), one in zip(data.bars.items(), axes, strict=True):
        for place, bar in enumerate(bars):
            style = look(_KINDS.index(bar.kind))
            label = bar.kind if bar.kind not in {other.kind for other in bars[:place]} else None
            one.barh(place, 100 * bar.share, height=0.7, facecolor=style.color, edgecolor=INK, alpha=0.75, hatch=style.hatch, label=label)
            if bar.low is not None and bar.high is not None:
                one.plot([100 * bar.low, 100 * bar.high], [place, place], color=INK, linewidth=1.2)
            end = max(bar.share, bar.high or 0.0)
            one.annotate(f"{100 * bar.share:.1f}", (100 * end, place), xytext=(3, 0), textcoords="offset points", va="center", fontsize=7.5)
        one.set_yticks(range(len(bars)), [bar.label for bar in bars])
        one.set_ylim(len(bars) - 0.4, -0.6)
        one.set_xlim(0, 112)
        label_panel(one, task, "share of the variance (%)")
        one.grid(visible=False)
        one.grid(axis="x")
    return finish(figure, axes, data.caption)
