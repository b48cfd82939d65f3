"""Which trials stand for a level of a factor, beside those of its other levels.

They differ from those of the other levels in the factor alone, as `sweeper compare` pairs them: where a sweep varies other knobs, too, a
level is the mean over the settings of these (*contexts*) that all levels have. So two lines never differ because one of them has other
settings among what it averages. A trial that does not read a knob stands in every context of it: the one that is not aligned, for every
proxy.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from orca_core.errors import ConfigError
from sweeper.analysis.contrasts import Contrast, paired_differences
from sweeper.analysis.factors import KNOB_OF, VARIANT, Factor, Row, find_factor, find_level, order_of, varying_columns
from sweeper.analysis.matching import Key, Setting, deciding_columns
from sweeper.analysis.representatives import is_usable, key_of
from sweeper.show.figures.series import Point, Series, mean_over_seeds
from sweeper.show.figures.tables import FigureTables, NotInTablesError

Value = Callable[[Row], float | None]
"""What a trial reached; None if that is not known."""

_BASELINES = {"freezing": "full", "body.weights": "random", "adapter": "none"}
"""Baselines of factors whose question the sweep does not ask; of others the first level: null, or the smallest."""


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
        left_out: Task -> levels that share no such setting with the others, as texts.
    """

    factor: Factor
    by_task: Mapping[str, Sequence[Level]]
    contexts: Mapping[str, int]
    left_out: Mapping[str, Sequence[str]]

    def note(self) -> str:
        """What is averaged and left out, as sentences with a space before each; empty if there is nothing to say."""
        return describe_contexts(self.contexts, self.left_out)


@dataclass(frozen=True)
class Grid:
    """The levels of a factor for each level of another, task by task.

    Args:
        factor: The factor that points stand along.
        by_task: Task -> level of the other factor -> levels in order. The other one has the only level None if the sweep does not vary it.
        contexts, left_out: As in `Levels`.
    """

    factor: Factor
    by_task: Mapping[str, Mapping[Any, Sequence[Level]]]
    contexts: Mapping[str, int]
    left_out: Mapping[str, Sequence[str]]

    def note(self) -> str:
        """What is averaged and left out, as sentences with a space before each; empty if there is nothing to say."""
        return describe_contexts(self.contexts, self.left_out)


def describe_contexts(contexts: Mapping[str, int], left_out: Mapping[str, Sequence[str]]) -> str:
    """What is averaged and left out, as sentences with a space before each."""
    counts = sorted(set(contexts.values()))
    text = ""
    if counts and counts[-1] > 1:
        several = f"{counts[0]} to {counts[-1]}" if len(counts) > 1 else str(counts[0])
        text = f" Each point is the mean over {several} settings of the other knobs, the same for all points of a panel."
    for task, levels in left_out.items():
        if levels:
            text += f" Left out on {task}, as no setting of the other knobs is common to all: {'; '.join(levels)}."
    return text


def find_levels(tables: FigureTables, name: str) -> Levels:
    """The trials of each level of a factor.

    Raises:
        NotInTablesError: If the trials do not vary the factor, or none of them is complete.
    """
    factor = _find_factor(name, tables.evidence.arms)
    found, counts, left_out = _pair(tables, factor, lambda row: True)
    by_task = {task: [Level(level, rows) for level, rows in of_task.items()] for task, of_task in found.items()}
    return Levels(factor, by_task, counts, left_out)


def find_grid(tables: FigureTables, lines: str, along: str, where: Callable[[Row], bool] = lambda row: True) -> Grid:
    """The trials of each level of a factor, for each level of another.

    Args:
        tables: The tables.
        lines: The column of the other factor; trials that do not read it are left out if the others vary it.
        along: The factor.
        where: Which trials to look at.

    Raises:
        NotInTablesError: If the trials do not vary the factor, or none of them is complete.
    """
    arms = [row for row in tables.evidence.arms if where(row)]
    factor = _find_factor(along, arms)
    other = [lines] if varying_columns(arms, [lines]) and lines not in factor.columns else []
    is_read = bool(other) and len({row.get(lines) for row in arms} - {None}) > 1

    def is_used(row: Row) -> bool:
        return where(row) and (not is_read or row.get(lines) is not None)

    used = [row for row in arms if is_used(row)]
    deciding = {column for name in (factor.columns, other) if len(name) == 1 for column in find_deciding(name[0], used)}
    columns = tuple(dict.fromkeys([*other, *factor.columns, *sorted(deciding)]))
    cells = Factor(f"{along} and {lines}" if other else factor.name, columns)
    found, counts, left_out = _pair(tables, cells, is_used)
    by_task: dict[str, dict[Any, list[Level]]] = defaultdict(lambda: defaultdict(list))
    for task, of_task in found.items():
        for cell, rows in of_task.items():
            values = dict(zip(columns, cell if len(columns) > 1 else (cell,), strict=True))
            level = tuple(values[column] for column in factor.columns)
            by_task[task][values[lines] if other else None].append(Level(level if len(level) > 1 else level[0], rows))
    return Grid(factor, by_task, counts, left_out)


def find_deciding(column: str, rows: Sequence[Row]) -> frozenset[str]:
    """The columns that decide whether a knob is read; see `deciding_columns`."""
    return deciding_columns(Factor(KNOB_OF[column], (column,)), rows) if column in KNOB_OF else frozenset()


def _find_factor(name: str, rows: Sequence[Row]) -> Factor:
    try:
        return find_factor(name, rows)
    except ConfigError:
        raise NotInTablesError(f"the sweep does not vary {KNOB_OF.get(name, name)}") from None


def default_baseline(factor: Factor, levels: Sequence[Any], question: Mapping[str, Any]) -> Any:
    """The level that others are compared with: the question's, or a usual one, or the first."""
    if KNOB_OF.get(question.get("factor", ""), question.get("factor")) == factor.name:
        try:
            return find_level(factor, levels, question.get("baseline"))
        except ConfigError:
            pass  # the plan was edited since
    usual = _BASELINES.get(factor.name)
    return usual if usual in levels else levels[0]


_Cells = dict[Any, Mapping[Key, Sequence[Row]]]
"""Level -> seed -> its trials."""


def _pair(
    tables: FigureTables, factor: Factor, where: Callable[[Row], bool]
) -> tuple[dict[str, _Cells], dict[str, int], dict[str, list[str]]]:
    """Task -> the trials of each level in the contexts that all levels share; the number of these; and the levels that share none."""
    arms = [row for row in tables.evidence.arms if where(row)]
    candidates = [row for row in tables.sweep.rows if where(row)]  # all of them: what is tuned is no setting
    found: dict[str, _Cells] = {}
    counts: dict[str, int] = {}
    left_out: dict[str, list[str]] = {}
    for task in sorted({str(row.get("task")) for row in arms}):
        of_task = [row for row in arms if str(row.get("task")) == task]
        contrasts = _contrasts(tables, factor, of_task, [row for row in candidates if str(row.get("task")) == task])
        if contrasts:
            arms_of, others = _share_contexts(contrasts)
            index = {(row.get("arm"), key_of(row, tables.sweep.pair_by)): row for row in of_task}
            keys = sorted({key for _, key in index})
            counts[task] = len(arms_of[contrasts[0].baseline]) if arms_of else 0
            left_out[task] = [factor.spell(level) if factor.name != VARIANT else str(level) for level in others]
            found[task] = {level: _whole_seeds(arms_of[level], keys, index, tables.metric) for level in sorted(arms_of, key=order_of)}
    if not any(rows for cells in found.values() for rows in cells.values()):
        raise NotInTablesError("no level has complete trials that differ from those of another level in nothing else")
    return found, counts, left_out


def _contrasts(tables: FigureTables, factor: Factor, arms: Sequence[Row], candidates: Sequence[Row]) -> list[Contrast]:
    """All levels on one task, paired with the one that has the most arms: that reads the most knobs, and so has a context wherever another
    level has one."""
    counted: dict[Any, set[Any]] = defaultdict(set)
    for row in arms:
        for level in factor.levels_of(row):
            counted[level].add(row.get("arm"))
    if len(counted) < 2:
        return []
    baseline = max(sorted(counted, key=order_of), key=lambda level: len(counted[level]))
    sweep = tables.sweep
    try:
        return paired_differences(
            candidates,
            factor,
            baseline,
            sweep.pair_by,
            metric=tables.metric,
            varied=sweep.varied,
            lists_plan=sweep.lists_plan,
            objective=sweep.objective,
        )
    except ConfigError as error:
        raise NotInTablesError(error.faults[0].text().rstrip(".")) from None


def _share_contexts(contrasts: Sequence[Contrast]) -> tuple[dict[Any, list[Any]], list[Any]]:
    """Level -> its arms, one for each context that all levels share; and the levels that share none with the others."""
    shared: set[Setting] | None = None
    used: list[Contrast] = []
    for contrast in sorted(contrasts, key=lambda contrast: -len(contrast.contexts)):
        common = set(contrast.contexts) if shared is None else shared & set(contrast.contexts)
        if common:
            shared = common
            used.append(contrast)
    others = [contrast.level for contrast in contrasts if contrast not in used]
    if shared is None:
        return {}, others
    contexts = [context for context in used[0].contexts if context in shared]
    arms = {contrast.level: [contrast.arms[context][0] for context in contexts] for contrast in used}
    return arms | {contrasts[0].baseline: [used[0].arms[context][1] for context in contexts]}, others


def _whole_seeds(arms: Sequence[Any], keys: Sequence[Key], index: Mapping[Any, Row], metric: str) -> Mapping[Key, Sequence[Row]]:
    """Seed -> the trials of some arms, for the seeds in which all of them are complete."""
    found = {}
    for key in keys:
        rows = [row for arm in arms if (row := index.get((arm, key))) is not None and is_usable(row, metric)]
        if len(rows) == len(arms):
            found[key] = rows
    return found


# ----------------------------------------------------------------------------------------------------------------------- lines


def name_alignment(epochs: Any) -> str:
    """A length of alignment as the name of a line."""
    return "all trials" if epochs is None else "naive (not aligned)" if epochs == 0 else f"aligned, {epochs} epochs"


def make_series(label: str, levels: Sequence[Level], metric: str) -> Series:
    """A line along levels."""
    points = [level.point(level.level, lambda row: row.get(metric)) for level in levels]
    return Series(label, tuple(point for point in points if point is not None))
