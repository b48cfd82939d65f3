"""One verdict of a comparison, with its numbers: what `sweeper compare --format json` prints an object for."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import pyarrow as pa


@dataclass(frozen=True)
class Effect:
    """One verdict: a level against the baseline, on one task or over tasks.

    Args:
        task: The task; None for the row over tasks.
        factor: The factor: a knob, a section or `variant`.
        level, baseline: The two levels, as JSON data.
        metric: The column that is compared.
        within: Knob -> the value that the row is limited to; None without `within`.
        level_mean, baseline_mean: Mean error of both, over the seeds of the pairs; None over tasks.
        difference: Level minus baseline, as the mean over seeds; None over tasks.
        relative: The difference over the baseline's mean error; over tasks the mean of the tasks'. None where the baseline is near 0.
        low, high: 95 % interval of the difference; over tasks, of the relative difference.
        sd: Standard deviation of the differences; over tasks, of the relative ones.
        effect_size: Difference over `sd`.
        p, p_adjusted: Two-sided p of the difference, and corrected for the family. None if it could not be tested, or all are 0.
        margin: Margin of equivalence, in the unit of the difference; over tasks relative.
        p_equivalence, p_equivalence_adjusted: p that the difference is not within the margin, and corrected for the family.
        n: Number of seeds with a pair; over tasks, of tasks.
        contexts: Number of settings of the other knobs over which differences are averaged.
        contexts_left_out: Number of arms without a counterpart at the other level.
        pairs_missing: The pairs that should be there: columns of the seed, `context`, `side` and `why`.
        verdict: `helps`, `hurts`, `no-difference`, `undecided`; None if the comparison is not fair.
        seeds_needed: If undecided: seeds in total with which a difference like this one is decided with 80 %; None if that is unknown or
            above 1000. Over tasks, `tasks_needed` says the same of tasks; None above 10.
        flags: Names of what makes the comparison unfair, and `skewed-differences`; empty if there is nothing.
        notes: The flags as sentences, and what else is to know.
        covers: What the interval covers.
        interaction: If the difference depends on the context: `where` it is another one, `difference` there and `elsewhere`, and
            `p_adjusted`, corrected for all tests of interaction. None if it is not shown to.
        sd_ratio, p_variance, p_variance_adjusted: Standard deviation of the level over seeds over that of the baseline, and the p of
            Pitman and Morgan that they are equal.
        prediction_low, prediction_high: Over tasks: 95 % interval of the relative difference of a new task.
        tasks_lower, tasks_higher: Over tasks: number of tasks on which the level's mean error is lower, and higher.
        floor: Name (`model`) and `test_error` of the best model without a transformer on the same samples; None if it is not known, and for
            metrics other than test errors.
    """

    task: str | None
    factor: str
    level: Any
    baseline: Any
    metric: str
    within: Mapping[str, Any] | None = None
    level_mean: float | None = None
    baseline_mean: float | None = None
    difference: float | None = None
    relative: float | None = None
    low: float | None = None
    high: float | None = None
    sd: float | None = None
    effect_size: float | None = None
    p: float | None = None
    p_adjusted: float | None = None
    margin: float | None = None
    p_equivalence: float | None = None
    p_equivalence_adjusted: float | None = None
    n: int = 0
    contexts: int = 0
    contexts_left_out: int = 0
    pairs_missing: Sequence[Mapping[str, Any]] = ()
    verdict: str | None = None
    seeds_needed: int | None = None
    tasks_needed: int | None = None
    flags: Sequence[str] = ()
    notes: Sequence[str] = ()
    covers: str = ""
    interaction: Mapping[str, Any] | None = None
    sd_ratio: float | None = None
    p_variance: float | None = None
    p_variance_adjusted: float | None = None
    prediction_low: float | None = None
    prediction_high: float | None = None
    tasks_lower: int | None = None
    tasks_higher: int | None = None
    floor: Mapping[str, Any] | None = None

    def to_data(self) -> dict[str, Any]:
        """The effect as JSON data."""
        values = {column.name: getattr(self, column.name) for column in fields(self)}
        return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}


def to_table(effects: Sequence[Effect]) -> pa.Table:
    """Effects as an Arrow table, one row each. Mappings are JSON text; levels too, unless all of them are of one plain type."""
    rows = []
    types = {type(value) for effect in effects for value in (effect.level, effect.baseline) if value is not None}
    is_plain = len(types) == 1 and not types & {list, dict}
    for effect in effects:
        row = effect.to_data()
        for name in ("pairs_missing", "interaction", "within", "floor"):
            row[name] = None if row[name] is None else json.dumps(row[name])
        if not is_plain:
            row |= {name: None if row[name] is None else json.dumps(row[name]) for name in ("level", "baseline")}
        rows.append(row)
    texts = pa.list_(pa.string())
    return pa.table({name: pa.array([row[name] for row in rows], texts if name in ("flags", "notes") else None) for name in rows[0]})
