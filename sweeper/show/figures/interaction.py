"""Interaction: the error at each level of one factor, a line for each level of another; lines that are not parallel interact."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import TYPE_CHECKING

from sweeper.analysis.factors import KNOB_OF, cell, order_of, spell_value
from sweeper.analysis.variance_shares import Share
from sweeper.show.figures.importance import read_shares
from sweeper.show.figures.levels import find_deciding, find_grid, make_series
from sweeper.show.figures.lines import draw_dots
from sweeper.show.figures.series import Panel, Panels, Series, count_seeds
from sweeper.show.figures.style import MAX_LINES
from sweeper.show.figures.tables import FigureTables, NotInTablesError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_COLUMN_OF = {knob: column for column, knob in KNOB_OF.items()}


def read(tables: FigureTables) -> Panels:
    """The error for each pair of levels of the two factors whose interaction accounts for the most variance; of a sweep with a question,
    one of them is its factor, if that interacts at all.

    Raises:
        NotInTablesError: If the sweep does not cross two factors.
    """
    shares = [share for share in read_shares(tables) if len(share.factors) == 2]
    if not shares:
        raise NotInTablesError("the sweep does not cross two factors with seeds enough to tell their interaction apart")
    pair = _choose_pair(shares, tables)
    lines_by, along = sorted(pair, key=lambda knob: (_count(tables, knob), knob))
    grid = find_grid(tables, _COLUMN_OF[lines_by], along)
    panels = []
    for task, lines in sorted(grid.by_task.items()):
        made = [make_series(f"{lines_by} {spell_value(value)}", levels, tables.metric) for value, levels in lines.items()]
        series = tuple(one for one in made if one.points)[:MAX_LINES]
        if len(series) > 1:
            rows = [row for levels in lines.values() for level in levels for row in level.all_rows()]
            panels.append(Panel(task, tables.unit(task), _sort(series), tables.floor(rows)))
    if not panels:
        raise NotInTablesError(f"on no task are {along} and {lines_by} crossed")
    explained = {str(share.task): share.share for share in shares if set(share.factors) == set(pair)}
    known = ", ".join(f"{100 * explained[panel.task]:.1f}\u00a0% on {panel.task}" for panel in panels if panel.task in explained)
    metric = tables.metric.replace("_", " ")
    caption = (
        f"{tables.name}: {metric} by {along}, a line for each {lines_by}. Were there no interaction, lines would be parallel;"
        f" it accounts for this share of the variance: {known}. Mean over {count_seeds(panels)}.{grid.note()}"
    )
    return Panels(f"Interaction of {along} and {lines_by}", along, tuple(panels), caption)


def draw(data: Panels) -> Figure:
    """Levels of one factor below each other, a joined line for each level of the other one."""
    return draw_dots(data)


def _choose_pair(shares: Sequence[Share], tables: FigureTables) -> tuple[str, ...]:
    totals: dict[tuple[str, ...], float] = defaultdict(float)
    for share in shares:
        if all(knob in _COLUMN_OF for knob in share.factors) and not _is_decided(share.factors, tables):
            totals[tuple(sorted(share.factors))] += share.share
    if not totals:
        raise NotInTablesError("the sweep crosses no two knobs")
    asked = KNOB_OF.get(str(tables.sweep.question.get("factor")), tables.sweep.question.get("factor"))
    of_question = {pair: total for pair, total in totals.items() if asked in pair}
    chosen = of_question or totals
    return max(chosen, key=lambda pair: (chosen[pair], pair))


def _is_decided(pair: Sequence[str], tables: FigureTables) -> bool:
    """Whether one knob is read only at some levels of the other, as the proxy is only with alignment: then they are not crossed."""
    one, other = (_COLUMN_OF[knob] for knob in pair)
    return other in find_deciding(one, tables.evidence.arms) or one in find_deciding(other, tables.evidence.arms)


def _count(tables: FigureTables, knob: str) -> int:
    return len({cell(row, _COLUMN_OF[knob]) for row in tables.evidence.arms})


def _sort(series: Sequence[Series]) -> tuple[Series, ...]:
    """The points of all lines in the order of the first line that has them."""
    order = {x: place for place, x in enumerate(sorted({point.x for one in series for point in one.points}, key=order_of))}
    return tuple(Series(one.label, tuple(sorted(one.points, key=lambda point: order[point.x]))) for one in series)
