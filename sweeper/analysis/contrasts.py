"""Paired differences: each level of a factor against a baseline at equal everything else, seed by seed.

Two trials form a pair if they have the same seed and differ in the factor alone. The setting of the other knobs is the *context* of a pair.
Within a seed, differences are averaged over contexts: trials of a seed share split and initial draws, so the seed is the unit of every
interval and test.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from orca_core.errors import ConfigError, Fault, nearest
from sweeper.analysis.factors import KNOB_OF, VARIANT, Factor, Row, cell, find_factor, find_level, list_levels, order_of, varying_columns
from sweeper.analysis.matching import Arms, Key, Matching, Setting, deciding_columns, match_arms
from sweeper.analysis.representatives import is_usable, key_of, represent_arms, tuned_columns
from sweeper.results.views import shown_status

NOT_COMPARED = ("task", "recipe", "reference_behaviour", "method")
"""Knobs that are no settings of their own: the last three say where others come from."""


SELECTION = "selection"
"""A knob that, where it goes with the level, does not keep trials from being paired: it makes the comparison unfair (`fairness`)."""


@dataclass(frozen=True)
class Pair:
    """Two trials of one seed and context: rows of `trials`."""

    level: Row
    baseline: Row


@dataclass(frozen=True)
class Missing:
    """A pair that should be there and is not complete.

    Args:
        key: Its key.
        context: Its context.
        side: Which trial is missing: `level`, `baseline` or `both`.
        why: Status and cause of the missing trial, or that there is none.
    """

    key: Key
    context: Setting
    side: str
    why: str


@dataclass(frozen=True)
class Contrast:
    """One level of a factor against the baseline, on one task.

    Args:
        task: The task.
        factor: The factor.
        level, baseline: The two levels.
        metric: The column that is compared.
        pair_by: The columns that make up a key.
        columns: The compared columns, whose values make up a context.
        contexts: The contexts in which both levels have an arm.
        arms: Context -> the ids of its two arms, in the column `arm`; null where rows do not have it.
        pairs: Key -> context -> pair, for all pairs that are complete.
        missing: The pairs that are not.
        left_out: The settings of arms of either level that have no counterpart at the other one; they count on neither side.
        also_differs: If there are no contexts: the knobs in which the closest arms of the two levels differ beside the factor.
        along: Knobs that are no settings and yet differ between the trials of some pair: a recipe gives them, depending on the level.
        within: (Knob, value) that all contexts share; None = all contexts.
    """

    task: Any
    factor: Factor
    level: Any
    baseline: Any
    metric: str
    pair_by: tuple[str, ...]
    columns: tuple[str, ...]
    contexts: tuple[Setting, ...]
    arms: Mapping[Setting, tuple[Any, Any]]
    pairs: Mapping[Key, Mapping[Setting, Pair]]
    missing: tuple[Missing, ...] = ()
    left_out: tuple[Setting, ...] = ()
    also_differs: tuple[str, ...] = ()
    along: tuple[str, ...] = ()
    within: tuple[str, Any] | None = None

    @cached_property
    def keys(self) -> tuple[Key, ...]:
        """The keys that have at least one pair, ascending."""
        return tuple(sorted(self.pairs))

    @cached_property
    def level_values(self) -> tuple[float, ...]:
        """The metric of the level by key, as the mean over contexts."""
        return tuple(_mean(pair.level[self.metric] for pair in self.pairs[key].values()) for key in self.keys)

    @cached_property
    def baseline_values(self) -> tuple[float, ...]:
        """The metric of the baseline by key, as the mean over the same contexts."""
        return tuple(_mean(pair.baseline[self.metric] for pair in self.pairs[key].values()) for key in self.keys)

    @cached_property
    def differences(self) -> tuple[float, ...]:
        """Level minus baseline by key, as the mean over contexts; negative where the level has the lower error."""
        return tuple(_mean(map(self._difference, self.pairs[key].values())) for key in self.keys)

    @cached_property
    def uneven_keys(self) -> tuple[Key, ...]:
        """The keys that lack some of the contexts that other keys have: their means are over other contexts than those of the others."""
        most = {context for of_key in self.pairs.values() for context in of_key}
        return tuple(key for key in self.keys if len(self.pairs[key]) < len(most))

    def slices(self) -> list[list[Setting]]:
        """The contexts in groups, in each of which no trial occurs twice.

        A trial that does not read a knob, as a naive one does not read the proxy, is the baseline in all contexts that differ in that knob.
        """
        groups: list[tuple[list[Setting], set[int]]] = []
        for context, pair in self.pairs[self.keys[0]].items() if self.keys else ():
            trials = {id(pair.level), id(pair.baseline)}
            for contexts, used in groups:
                if not used & trials:
                    contexts.append(context)
                    used |= trials
                    break
            else:
                groups.append(([context], trials))
        return [contexts for contexts, _ in groups]

    def by_context(self) -> dict[Setting, dict[Key, float]]:
        """Context -> key -> difference."""
        found: dict[Setting, dict[Key, float]] = {context: {} for context in self.contexts}
        for key in self.keys:
            for context, pair in self.pairs[key].items():
                found[context][key] = self._difference(pair)
        return found

    def all_pairs(self) -> Iterator[Pair]:
        """The pairs of all keys and contexts."""
        for key in self.keys:
            yield from self.pairs[key].values()

    def name_key(self, key: Key) -> dict[str, Any]:
        """A key as column -> value."""
        return dict(zip(self.pair_by, key, strict=True))

    def name_context(self, context: Setting) -> dict[str, Any]:
        """A context as knob -> value, without the knobs in which no two contexts differ."""
        varying = [n for n in range(len(self.columns)) if len({other[n] for other in self.contexts}) > 1]
        return {KNOB_OF[self.columns[n]]: context[n] for n in varying}

    def _difference(self, pair: Pair) -> float:
        one, other = float(pair.level[self.metric]), float(pair.baseline[self.metric])
        return 0.0 if math.isclose(one, other, rel_tol=1e-12, abs_tol=1e-15) else one - other  # means over folds are rounded


def _mean(values: Iterable[float]) -> float:
    known = list(values)
    return math.fsum(known) / len(known)


def paired_differences(
    rows: Sequence[Row],
    factor: str | Factor,
    baseline: Any,
    pair_by: Sequence[str] = ("seed",),
    *,
    metric: str = "test_error",
    varied: Collection[str] | None = None,
    within: str | None = None,
    lists_plan: bool = False,
    objective: str = "valid_error",
) -> list[Contrast]:
    """Pair the trials of each level with those of the baseline.

    Args:
        rows: Rows of `trials` of one sweep, as dicts. Columns that are not needed may be absent, `status` too if all are complete.
        factor: The factor, or its name as in `find_factor`.
        baseline: The level that the others are compared with, or how it is written, as in `find_level`.
        pair_by: The columns that the seeds vary.
        metric: The column that is compared; lower is better.
        varied: Columns of the knobs that the sweep varies. Others that differ follow from these, through a recipe. None, or if these do not
            tell trials apart: every knob in which trials of a task differ is a setting of its own.
        within: A knob: its values are looked at one by one.
        lists_plan: Whether every planned trial has a row, also one that has not started, with any status but COMPLETE. Then a trial without
            a row is not expected; otherwise every arm of a task is expected to have every seed of the task.
        objective: The column by which a tuned arm's candidate is chosen.

    Returns:
        A contrast for each task, level and value of `within`: tasks by name, levels by size, null first. A task without the baseline, or
        without any other level, has none.

    Raises:
        ConfigError: If factor, baseline, metric, `within` or `pair_by` are unknown, with all faults; or if rows cannot be told apart.
    """
    tuned = tuned_columns(rows, pair_by)
    chosen = represent_arms(rows, pair_by, objective)
    faults, known = [], {name for row in rows for name in row}
    if absent := [column for column in pair_by if column not in known]:
        faults.append(Fault("", f"trials must have the column {', '.join(absent)}, by which they are paired", Fault.ABSENT))
    if metric not in known:
        faults.append(Fault("--metric", "must be a column of numbers of `trials`", metric, nearest(metric, known)))
    try:
        found = find_factor(factor, chosen) if isinstance(factor, str) else factor
        if fixed := [column for column in found.columns if column in {*pair_by, *tuned}]:
            remedy = "An arm is compared at its best candidate; see `sweeper importance`." if fixed[0] in tuned else ""
            rule = f"must not be {'tuned within the arms' if fixed[0] in tuned else 'varied by the seeds'}"
            raise ConfigError([Fault("--factor", rule, found.name, remedy)])
        against = find_level(found, list_levels(found, chosen), baseline)
    except ConfigError as error:
        raise ConfigError([*faults, *error.faults]) from None
    inner = None
    if within is not None:
        try:
            inner = find_factor(within, chosen, "--within")
        except ConfigError as error:
            faults += error.faults
    left_out = {*NOT_COMPARED, *found.columns, *pair_by, *tuned}
    if inner is not None and (len(inner.columns) > 1 or inner.columns[0] in {*left_out, VARIANT}):
        faults.append(Fault("--within", "must be a single knob other than the factor, not tuned", within))
    if faults:
        raise ConfigError(faults)
    differing = varying_columns(chosen, [column for column in KNOB_OF if column not in left_out])
    columns = [column for column in differing if varied is None or column in varied]
    if not are_told_apart(chosen, [*found.columns, *columns], pair_by):
        columns = differing  # rows that the plan does not know
    if found.name == VARIANT:
        columns = crossed_with_variants(chosen, columns)
    elif SELECTION in columns and not _is_crossed(SELECTION, found, chosen):
        columns.remove(SELECTION)
    deciding = deciding_columns(found, chosen)
    options = _Options(found, against, tuple(pair_by), metric, lists_plan, deciding, inner.columns[0] if inner is not None else None)
    contrasts: list[Contrast] = []
    for task in sorted({row.get("task") for row in chosen}, key=str):
        of_task = [row for row in chosen if row.get("task") == task]
        others = [column for column in KNOB_OF if column not in {*left_out, *columns, SELECTION} and found.name != VARIANT]
        along = varying_columns(of_task, others)
        contrasts += _contrasts_of_task(task, of_task, tuple(varying_columns(of_task, columns)), along, options)
    return contrasts


@dataclass(frozen=True)
class _Options:
    """What holds for all contrasts of a call; the fields are those of `Contrast` and the arguments of `paired_differences`."""

    factor: Factor
    baseline: Any
    pair_by: tuple[str, ...]
    metric: str
    lists_plan: bool
    deciding: frozenset[str]
    within: str | None


def are_told_apart(rows: Iterable[Row], columns: Sequence[str], pair_by: Sequence[str]) -> bool:
    """Whether no two trials of a task agree in some columns and in what the seeds vary."""
    seen: dict[Any, Any] = {}
    for row in rows:
        key = (row.get("task"), key_of(row, pair_by), *(cell(row, column) for column in columns))
        if seen.setdefault(key, row.get("trial")) != row.get("trial"):
            return False
    return True


def _is_crossed(column: str, factor: Factor, rows: Iterable[Row]) -> bool:
    """Whether a column has several values at some level of the factor on one task."""
    seen: dict[Any, set[Any]] = defaultdict(set)
    for row in rows:
        for level in factor.levels_of(row):
            seen[row.get("task"), level].add(cell(row, column))
    return any(len(values) > 1 for values in seen.values())


def crossed_with_variants(rows: Sequence[Row], columns: Sequence[str]) -> list[str]:
    """The columns that take several values within a variant on one task: what variants are crossed with, not what they set."""
    seen: dict[tuple[Any, str, str], set[Any]] = defaultdict(set)
    for row in rows:
        for name in (row.get(VARIANT) or "").split(","):
            for column in columns:
                seen[row.get("task"), name, column].add(cell(row, column))
    return [column for column in columns if any(len(values) > 1 for (_, _, of), values in seen.items() if of == column)]


def _contrasts_of_task(
    task: Any, rows: Sequence[Row], columns: tuple[str, ...], along: Sequence[str], options: _Options
) -> Iterator[Contrast]:
    arms: dict[Any, dict[Setting, dict[Key, Row]]] = defaultdict(lambda: defaultdict(dict))
    for row in rows:
        key = key_of(row, options.pair_by)
        for level in options.factor.levels_of(row):
            of_arm = arms[level][tuple(cell(row, column) for column in columns)]
            if key in of_arm and (row.get("trial") is None or of_arm[key].get("trial") != row["trial"]):
                raise ConfigError([_not_told_apart(row, options)])
            of_arm.setdefault(key, row)
    keys = {key_of(row, options.pair_by) for row in rows}
    for level in list_levels(options.factor, rows):
        if options.baseline in arms and level != options.baseline:
            free = options.deciding if (level is None) != (options.baseline is None) else ()
            matching = match_arms(arms[level], arms[options.baseline], columns, free, level is None)
            whole = _contrast(task, level, columns, arms[level], arms[options.baseline], matching, keys, along, options)
            yield from [whole] if options.within is None else _split(whole, options.within)


def _not_told_apart(row: Row, options: _Options) -> Fault:
    which = ", ".join(f"{name} {value}" for name, value in zip(options.pair_by, key_of(row, options.pair_by), strict=True))
    rule = f"trials of {row.get('task')} with {which} and the same settings must be one trial, but there are several"
    remedy = "Name every knob that the sweep varies and all that its seeds vary, or select the rows of one sweep."
    return Fault("", rule, Fault.ABSENT, remedy)


def _contrast(
    task: Any,
    level: Any,
    columns: tuple[str, ...],
    arms: Arms,
    baselines: Arms,
    matching: Matching,
    keys: Collection[Key],
    along: Sequence[str],
    options: _Options,
) -> Contrast:
    pairs: dict[Key, dict[Setting, Pair]] = defaultdict(dict)
    missing: list[Missing] = []
    for context, (one, other) in matching.settings.items():
        of_level, of_baseline = arms[one], baselines[other]
        for key in sorted(of_level.keys() & of_baseline.keys() if options.lists_plan else keys):
            sides = {"level": of_level.get(key), "baseline": of_baseline.get(key)}
            lacking = [side for side, row in sides.items() if row is None or not is_usable(row, options.metric)]
            if lacking:
                why = dict.fromkeys(_explain(sides[side], options.metric) for side in lacking)
                missing.append(Missing(key, context, "both" if len(lacking) == 2 else lacking[0], "; ".join(why)))
            else:
                pairs[key][context] = Pair(of_level[key], of_baseline[key])
    matched = [set(of_side) for of_side in zip(*matching.settings.values(), strict=True)] or [set(), set()]
    return Contrast(
        task=task,
        factor=options.factor,
        level=level,
        baseline=options.baseline,
        metric=options.metric,
        pair_by=options.pair_by,
        columns=columns,
        contexts=tuple(matching.settings),
        arms={context: (_arm_of(arms[one]), _arm_of(baselines[other])) for context, (one, other) in matching.settings.items()},
        pairs=pairs,
        missing=tuple(missing),
        left_out=tuple(setting for side, of_side in enumerate((arms, baselines)) for setting in of_side if setting not in matched[side]),
        also_differs=tuple(KNOB_OF[column] for column in matching.closest),
        along=tuple(KNOB_OF[column] for column in along if _differs_in(column, pairs)),
    )


def _arm_of(rows: Mapping[Key, Row]) -> Any:
    return next((row.get("arm") for row in rows.values()), None)


def _differs_in(column: str, pairs: Mapping[Key, Mapping[Setting, Pair]]) -> bool:
    """Whether a knob has a value on both sides of some pair, and not the same one."""
    sides = ((cell(pair.level, column), cell(pair.baseline, column)) for contexts in pairs.values() for pair in contexts.values())
    return any(one is not None and other is not None and one != other for one, other in sides)


def _split(whole: Contrast, column: str) -> Iterator[Contrast]:
    """A contrast for each value that a column has in the contexts of another contrast."""
    if column not in whole.columns or not whole.contexts:
        yield whole
        return
    number, knob = whole.columns.index(column), KNOB_OF[column]
    for value in sorted({context[number] for context in whole.contexts}, key=order_of):
        pairs = {
            key: {context: pair for context, pair in of_key.items() if context[number] == value} for key, of_key in whole.pairs.items()
        }
        yield replace(
            whole,
            contexts=tuple(context for context in whole.contexts if context[number] == value),
            pairs={key: of_key for key, of_key in pairs.items() if of_key},
            missing=tuple(missing for missing in whole.missing if missing.context[number] == value),
            left_out=tuple(setting for setting in whole.left_out if setting[number] == value),
            within=(knob, value),
        )


def _explain(row: Row | None, metric: str) -> str:
    """Why a trial does not count."""
    if row is None:
        return "no such trial"
    if row.get("status", "COMPLETE") != "COMPLETE":
        return " ".join(filter(None, [shown_status(row), row.get("cause")])) if row.get("status") else "not started"
    return f"{metric} is not a number"
