"""Lines over seeds: which trials stand for a level of a factor, and mean and interval of what they reached.

A level is shown by trials that differ from those of the other levels in the factor alone, as `sweeper compare` pairs them: where a sweep
varies other knobs, too, by the mean over the settings of these (*contexts*) that all levels have.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from orca_core.errors import ConfigError
from sweeper.analysis.contrasts import Contrast, paired_differences
from sweeper.analysis.factors import (
    KNOB_OF,
    NULL,
    Factor,
    Row,
    cell,
    find_factor,
    find_level,
    list_levels,
    order_of,
    spell_value,
    varying_columns,
)
from sweeper.analysis.matching import Key, Setting
from sweeper.analysis.paired import as_number, paired_t
from sweeper.analysis.representatives import is_usable, key_of
from sweeper.show.figures.tables import FigureTables, NotInTablesError

Value = Callable[[Row], float | None]
"""What a trial reached; None if that is not known."""

BAND = "95\u00a0% interval of the mean over seeds (Student's t)"
"""What bands and bars of an error are, everywhere."""

MANY_SEEDS = 4
"""Number of seeds from which an interval over seeds is no wider than what there is to see."""

_BASELINES = {"freezing": "full", "body.weights": "random", "adapter": "none"}
"""Baselines of factors whose question the sweep does not ask; of others the first level: null, or the smallest."""


@dataclass(frozen=True)
class Point:
    """A mean over seeds.

    Args:
        x: Where it stands: an epoch, a number, or a level.
        mean: The mean.
        low, high: Its 95 % interval; None for one seed.
        n: Number of seeds.
    """

    x: Any
    mean: float
    low: float | None
    high: float | None
    n: int


@dataclass(frozen=True)
class Series:
    """A line.

    Args:
        label: What it is.
        points: Its points, from left to right.
    """

    label: str
    points: tuple[Point, ...]


@dataclass(frozen=True)
class Panel:
    """Lines on one task.

    Args:
        task: The task.
        unit: Label of the error.
        series: The lines.
        floor: Name and error of the best model without a transformer; None if it is not known, or differs along the panel.
        floors: (Level, error) of the best such model, where it differs from level to level.
        group: `2D`, `1D` or empty; panels of a group are side by side.
    """

    task: str
    unit: str
    series: tuple[Series, ...]
    floor: tuple[str, float] | None = None
    floors: tuple[tuple[Any, float], ...] = ()
    group: str = ""

    @property
    def title(self) -> str:
        """Its title."""
        return f"{self.task} ({self.group})" if self.group else self.task


@dataclass(frozen=True)
class Panels:
    """What a figure of lines shows.

    Args:
        title: Its title.
        x: Label of the axis that points stand along.
        panels: A panel for each task.
        caption: What is shown, with the number of seeds and what bands are.
        none: How the level null is written.
        joined: Whether the points of a line are joined.
    """

    title: str
    x: str
    panels: tuple[Panel, ...]
    caption: str
    none: str = NULL
    joined: bool = True


def mean_over_seeds(x: Any, values: Sequence[float]) -> Point:
    """The point of some seeds, one value each."""
    t = paired_t(values)
    return Point(x, float(t.mean), as_number(t.low), as_number(t.high), int(t.n))


def spell_level(level: Any, none: str = NULL) -> str:
    """A level as it is written in figures."""
    if isinstance(level, int) and not isinstance(level, bool) and level >= 10**6:
        return f"{level / 10**9:g}B" if level >= 10**9 else f"{level / 10**6:g}M"
    return none if level is None else spell_value(level)


def count_seeds(panels: Sequence[Panel]) -> str:
    """How many seeds the points of panels have, and what bands are."""
    return count_seeds_of([point for panel in panels for series in panel.series for point in series.points])


def count_seeds_of(points: Sequence[Point]) -> str:
    """How many seeds points have, and what bands are: `5 seeds; bands and bars: ...`."""
    seeds = sorted({point.n for point in points})
    if not seeds:
        return "no seeds"
    text = f"{seeds[0]} to {seeds[-1]} seeds" if len(seeds) > 1 else f"{seeds[0]} seed{'s' if seeds[0] > 1 else ''}"
    if seeds[-1] == 1:
        return f"{text}, so there are no intervals"
    return f"{text}; bands and bars: {BAND}{', cut at the frame where they are wide' if seeds[0] < MANY_SEEDS else ''}"


# --------------------------------------------------------------------------------------------------------------- levels


@dataclass(frozen=True)
class Level:
    """The trials of one level of a factor on a task.

    Args:
        level: The level.
        rows: Seed -> the trials that stand for the level there, one for each shared context; only seeds that have all of them.
    """

    level: Any
    rows: Mapping[Key, Sequence[Row]]

    def all_rows(self) -> list[Row]:
        """The trials of all seeds."""
        return [row for of_key in self.rows.values() for row in of_key]

    def point(self, x: Any, value: Value) -> Point | None:
        """The mean over the seeds in which every trial has a value; None if there is none."""
        means = []
        for of_key in self.rows.values():
            values = [value(row) for row in of_key]
            known = [one for one in values if one is not None]
            if known and len(known) == len(values):
                means.append(sum(known) / len(known))
        return mean_over_seeds(x, means) if means else None


@dataclass(frozen=True)
class Levels:
    """The levels of a factor, task by task.

    Args:
        factor: The factor.
        by_task: Task -> its levels in order.
        contexts: Task -> number of settings of the other knobs that are averaged.
        left_out: Task -> levels that share no such setting with the others.
    """

    factor: Factor
    by_task: Mapping[str, Sequence[Level]]
    contexts: Mapping[str, int]
    left_out: Mapping[str, Sequence[Any]]

    def note(self) -> str:
        """What is averaged and left out, as sentences with a space before each; empty if there is nothing to say."""
        most = max(self.contexts.values(), default=1)
        text = f" Averaged over {most} settings of the other knobs, the same for all lines." if most > 1 else ""
        for task, levels in self.left_out.items():
            if levels:
                text += f" On {task}, {', '.join(map(self.factor.spell, levels))} shares no setting with the others and is left out."
        return text


def find_levels(
    tables: FigureTables, name: str, *, rows: Sequence[Row] | None = None, baseline: Any = None, has_baseline: bool = False
) -> Levels:
    """The trials of each level of a factor.

    Args:
        tables: The tables.
        name: The factor, as in `find_factor`.
        rows: The trials to look at; None = all.
        baseline: The level that the others are paired with, if `has_baseline`; else that of the sweep's question, or a usual one.
        has_baseline: Whether `baseline` is given: None is a level, too.

    Raises:
        NotInTablesError: If the trials do not vary the factor, or none of them is complete.
    """
    chosen = tables.evidence.arms if rows is None else list(rows)
    sweep = tables.sweep
    try:
        factor = find_factor(name, chosen)
    except ConfigError:
        raise NotInTablesError(f"the sweep does not vary {name}") from None
    levels = list_levels(factor, chosen)
    against = baseline if has_baseline else default_baseline(factor, levels, sweep.question)
    try:
        contrasts = paired_differences(
            chosen,
            factor,
            against,
            sweep.pair_by,
            metric=tables.metric,
            varied=sweep.varied,
            lists_plan=sweep.lists_plan,
            objective=sweep.objective,
        )
    except ConfigError as error:
        raise NotInTablesError(error.faults[0].rule) from None
    by_task: dict[str, list[Contrast]] = defaultdict(list)
    for contrast in contrasts:
        by_task[str(contrast.task)].append(contrast)
    index = {(row.get("arm"), key_of(row, sweep.pair_by)): row for row in chosen}
    found, counts, left_out = {}, {}, {}
    for task, of_task in by_task.items():
        found[task], counts[task], left_out[task] = _levels_of_task(of_task, index, tables.metric)
    if not any(level.rows for of_task in found.values() for level in of_task):
        raise NotInTablesError("no level has complete trials")
    return Levels(factor, found, counts, left_out)


def default_baseline(factor: Factor, levels: Sequence[Any], question: Mapping[str, Any]) -> Any:
    """The level that others are compared with: the question's, or a usual one, or the first."""
    if KNOB_OF.get(question.get("factor", ""), question.get("factor")) == factor.name:
        try:
            return find_level(factor, levels, question.get("baseline"))
        except ConfigError:
            pass  # the plan was edited since
    usual = _BASELINES.get(factor.name)
    return usual if usual in levels else levels[0]


def _levels_of_task(contrasts: Sequence[Contrast], index: Mapping[Any, Row], metric: str) -> tuple[list[Level], int, list[Any]]:
    """The levels of one task, the number of contexts that they share, and the levels that share none."""
    shared: set[Setting] | None = None
    used: list[Contrast] = []
    for contrast in sorted(contrasts, key=lambda contrast: -len(contrast.contexts)):
        common = set(contrast.contexts) if shared is None else shared & set(contrast.contexts)
        if common:
            shared = common
            used.append(contrast)
    if shared is None:
        return [], 0, [contrast.level for contrast in contrasts]
    contexts = [context for context in used[0].contexts if context in shared]
    arms = {contrast.level: [contrast.arms[context][0] for context in contexts] for contrast in used}
    arms[contrasts[0].baseline] = [used[0].arms[context][1] for context in contexts]
    keys = sorted({key for _, key in index})
    found = []
    for level in sorted(arms, key=order_of):
        rows = {key: [index.get((arm, key)) for arm in arms[level]] for key in keys}
        whole = {key: tuple(row for row in of_key if row is not None and is_usable(row, metric)) for key, of_key in rows.items()}
        found.append(Level(level, {key: of_key for key, of_key in whole.items() if len(of_key) == len(contexts)}))
    return found, len(contexts), [contrast.level for contrast in contrasts if contrast not in used]


def split_by(tables: FigureTables, column: str, where: Callable[[Row], bool] | None = None) -> list[tuple[Any, list[Row]]]:
    """The trials for each value of a knob, in order, without those that do not read it; all trials under None if it does not vary on any
    task."""
    rows = tables.evidence.arms if where is None else [row for row in tables.evidence.arms if where(row)]
    if not varying_columns(rows, [column]):
        return [(None, rows)]
    values = sorted({cell(row, column) for row in rows} - {None}, key=order_of)
    return [(value, [row for row in rows if cell(row, column) == value]) for value in values]


def levels_by_alignment(
    tables: FigureTables, name: str, where: Callable[[Row], bool] | None = None
) -> tuple[dict[str, dict[str, Sequence[Level]]], list[Levels]]:
    """The levels of a factor, apart for each length of alignment if the sweep varies it.

    Returns:
        Task -> name of the line -> levels; and what was found for each line.

    Raises:
        NotInTablesError: If no line has the factor.
    """
    found: dict[str, dict[str, Sequence[Level]]] = defaultdict(dict)
    all_levels, reason = [], f"the sweep does not vary {name}"
    for epochs, rows in split_by(tables, "align_epochs", where):
        try:
            levels = find_levels(tables, name, rows=rows)
        except NotInTablesError as error:
            reason = str(error)
            continue
        all_levels.append(levels)
        for task, of_task in levels.by_task.items():
            found[task][name_alignment(epochs)] = of_task
    if not found:
        raise NotInTablesError(reason)
    return found, all_levels


def name_alignment(epochs: Any) -> str:
    """A length of alignment as the name of a line."""
    return "all trials" if epochs is None else "naive (not aligned)" if epochs == 0 else f"aligned, {epochs} epochs"


def make_series(label: str, levels: Sequence[Level], metric: str) -> Series:
    """A line along levels."""
    points = [level.point(level.level, lambda row: row.get(metric)) for level in levels]
    return Series(label, tuple(point for point in points if point is not None))
