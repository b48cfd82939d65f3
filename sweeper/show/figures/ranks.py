"""Critical-difference diagram: mean ranks of the levels of a factor over tasks. Description, no test of a difference.

Reference:
    Demsar 2006: levels whose mean ranks are closer than Nemenyi's critical difference are joined.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sweeper.analysis.description import rank_levels
from sweeper.analysis.factors import KNOB_OF, VARIANT, cell
from sweeper.show.figures.levels import Levels, find_levels
from sweeper.show.figures.series import say_seeds, spell_level
from sweeper.show.figures.style import INK, finish, look, panels
from sweeper.show.figures.tables import FigureTables, NotInTablesError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MIN_TASKS = 2


@dataclass(frozen=True)
class Ranking:
    """What the figure shows.

    Args:
        title: Its title.
        factor: The factor.
        ranks: (Level, mean rank over tasks), the best first; 1 is the lowest error.
        critical_difference: Nemenyi's, at 5 %.
        p: Friedman's p that all levels rank alike; None for two levels, or fewer than three tasks.
        tasks: The tasks.
        groups: Ranges of positions in `ranks`, first and last, whose mean ranks are within the critical difference; none within another.
        caption: What is shown.
    """

    title: str
    factor: str
    ranks: tuple[tuple[str, float], ...]
    critical_difference: float
    p: float | None
    tasks: tuple[str, ...]
    groups: tuple[tuple[int, int], ...]
    caption: str


def read(tables: FigureTables) -> Ranking:
    """The mean ranks of the levels of the question's factor; without a question, of the knob with the most levels.

    Raises:
        NotInTablesError: If no two tasks have the same levels.
    """
    levels = find_levels(tables, _choose_factor(tables))
    errors = {
        task: {level.level: [_mean_error(of_key, tables.metric) for of_key in level.rows.values()] for level in of_task if level.rows}
        for task, of_task in levels.by_task.items()
    }
    common = set.intersection(*map(set, errors.values())) if errors else set()
    if len(errors) < MIN_TASKS or len(common) < 2:
        raise NotInTablesError(f"no two tasks have two levels of {levels.factor.name} in common")
    order = [level.level for level in next(iter(levels.by_task.values())) if level.level in common]
    found = rank_levels({task: {level: of_task[level] for level in order} for task, of_task in errors.items()})
    ranked = sorted(found.mean_rank.items(), key=lambda entry: entry[1])
    seeds = say_seeds(len(values) for of_task in errors.values() for values in of_task.values())
    test = "" if found.p is None else f" Friedman's p that all rank alike: {found.p:.2g}."
    caption = (
        f"{tables.name}: levels of {levels.factor.name} ranked by mean {tables.metric.replace('_', ' ')} ({seeds}) within each of"
        f" {found.tasks} tasks; 1 is the lowest. Bars join levels whose mean ranks are closer than the critical difference of Nemenyi"
        f" ({found.critical_difference:.2f}).{test} Description: verdicts are those of `sweeper compare`."
        f"{_left_out(levels, common)}{levels.note()}"
    )
    names = tuple((spell_level(level) if not isinstance(level, tuple) else levels.factor.spell(level), rank) for level, rank in ranked)
    groups = join_ranks([rank for _, rank in ranked], found.critical_difference)
    return Ranking(
        f"Mean ranks of {levels.factor.name}", levels.factor.name, names, found.critical_difference, found.p, tuple(errors), groups, caption
    )


def _choose_factor(tables: FigureTables) -> str:
    asked = tables.sweep.question.get("factor")
    if asked:
        return str(asked)
    arms = tables.evidence.arms
    if any(row.get(VARIANT) for row in arms):
        return VARIANT
    varied = [column for column in tables.evidence.varied if column in KNOB_OF and column != "task"]
    if not varied:
        raise NotInTablesError("the sweep varies no knob")
    return KNOB_OF[max(varied, key=lambda column: (len({cell(row, column) for row in arms}), column))]


def _mean_error(rows: Sequence[object], metric: str) -> float:
    values = [float(row[metric]) for row in rows]  # type: ignore[index]
    return sum(values) / len(values)


def _left_out(levels: Levels, common: set[object]) -> str:
    others = {level.level for of_task in levels.by_task.values() for level in of_task} - common
    return f" Not on all tasks: {', '.join(sorted(map(levels.factor.spell, others)))}." if others else ""


def join_ranks(ranks: Sequence[float], critical_difference: float) -> tuple[tuple[int, int], ...]:
    """Positions of the first and the last of each group of ascending ranks that are within a difference, without groups in others."""
    found: list[tuple[int, int]] = []
    for first in range(len(ranks)):
        last = max(n for n in range(first, len(ranks)) if ranks[n] - ranks[first] <= critical_difference)
        if last > first and (not found or last > found[-1][1]):
            found.append((first, last))
    return tuple(found)


def draw(data: Ranking) -> Figure:
    """Names to the left of a scale of ranks, bars for groups to the right of the dots."""
    count = len(data.ranks)
    longest = max(len(name) for name, _ in data.ranks)
    figure, (axes,) = panels([""], data.title, width=4.0 + 0.07 * longest, height=0.9 + 0.26 * count)
    style = look(0)
    for place, (_, rank) in enumerate(data.ranks):
        axes.plot([1, rank], [place, place], color=INK, linewidth=0.6, linestyle=(0, (1, 2)))
        axes.plot([rank], [place], marker=style.marker, color=style.color, markersize=6)
        axes.annotate(f"{rank:.2f}", (rank, place), xytext=(6, 0), textcoords="offset points", va="center", fontsize=7.5)
    for number, (first, last) in enumerate(data.groups):
        x = count + 0.35 + 0.12 * number
        axes.plot([x, x], [first - 0.25, last + 0.25], color=look(1).color, linewidth=3.0, solid_capstyle="butt")
    axes.plot([1, 1 + data.critical_difference], [-1.0, -1.0], color=INK, linewidth=1.6, marker="|", markersize=7)
    label = f"critical difference {data.critical_difference:.2f}"
    axes.annotate(label, (1 + data.critical_difference, -1.0), xytext=(5, 0), textcoords="offset points", va="center", fontsize=7.5)
    axes.set_yticks(range(count), [name for name, _ in data.ranks])
    axes.set_ylim(count - 0.4, -1.6)
    axes.set_xticks(range(1, count + 1))
    axes.set_xlim(0.9, max(count + 0.5 + 0.12 * len(data.groups), 1.1 + data.critical_difference + 0.3 * count))
    axes.set_xlabel(f"mean rank over {len(data.tasks)} tasks (1 = lowest error)")
    axes.grid(axis="x")
    return finish(figure, [], data.caption)
