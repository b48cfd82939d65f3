"""Associations that findings speak of: a trend over the levels of a factor, and distances against errors."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sweeper.analysis.contrasts import Contrast
from sweeper.analysis.factors import Row
from sweeper.analysis.matching import Key
from sweeper.analysis.paired import as_number, holm, paired_t
from sweeper.analysis.representatives import is_usable, key_of
from sweeper.results.query import Results
from sweeper.results.store import ResultStore

MIN_LEVELS = 3
"""Minimum number of levels of a trend."""

MIN_ARMS = 4
"""Minimum number of arms for a rank correlation within a seed."""


@dataclass(frozen=True)
class Step:
    """Two neighbouring levels of a factor.

    Args:
        lower, higher: The two levels.
        difference, low, high: Error at the higher one minus error at the lower one, with its 95 % interval over seeds.
        p, p_adjusted: Two-sided p, and corrected for the steps of the trend by Holm.
    """

    lower: Any
    higher: Any
    difference: float
    low: float | None
    high: float | None
    p: float | None
    p_adjusted: float | None


@dataclass(frozen=True)
class Trend:
    """How the error goes with the ordered levels of a factor, on one task.

    Args:
        task: The task.
        within: As in `Contrast`.
        levels: The levels in order, the baseline among them.
        n: Number of seeds that have all of them.
        p_falling, p_rising: One-sided p of Page's test that the error falls, or rises, from level to level.
        steps: The contrasts of neighbours: a trend that stops shows there.
    """

    task: Any
    within: tuple[str, Any] | None
    levels: Sequence[Any]
    n: int
    p_falling: float
    p_rising: float
    steps: Sequence[Step]


def find_trends(contrasts: Sequence[Contrast]) -> list[Trend]:
    """The trend on each task, of factors whose levels are numbers and of which two seeds or more have at least three levels.

    Reference:
        Page 1963; `scipy.stats.page_trend_test`. It ranks the levels within each seed.
    """
    groups: dict[Any, list[Contrast]] = defaultdict(list)
    for contrast in contrasts:
        if all(isinstance(level, int | float) and not isinstance(level, bool) for level in (contrast.level, contrast.baseline)):
            groups[contrast.task, contrast.within].append(contrast)
    return [trend for (task, within), of_group in groups.items() if (trend := _trend(task, within, of_group)) is not None]


def _trend(task: Any, within: tuple[str, Any] | None, contrasts: Sequence[Contrast]) -> Trend | None:
    from scipy.stats import page_trend_test

    by_level: dict[Any, Mapping[Key, float]] = {c.level: dict(zip(c.keys, c.differences, strict=True)) for c in contrasts if c.keys}
    keys = sorted(set.intersection(*(set(of_level) for of_level in by_level.values()))) if by_level else []
    if len(by_level) + 1 < MIN_LEVELS or len(keys) < 2:
        return None
    by_level[contrasts[0].baseline] = dict.fromkeys(keys, 0.0)
    levels = sorted(by_level)
    table = [[by_level[level][key] for level in levels] for key in keys]
    falling, rising = (float(page_trend_test([row[::sign] for row in table]).pvalue) for sign in (-1, 1))
    tests = [paired_t([row[n + 1] - row[n] for row in table]) for n in range(len(levels) - 1)]
    adjusted, _ = holm([float(t.p) for t in tests])
    steps = [
        Step(levels[n], levels[n + 1], float(t.mean), as_number(t.low), as_number(t.high), as_number(t.p), as_number(adjusted[n]))
        for n, t in enumerate(tests)
    ]
    return Trend(task, within, levels, len(keys), falling, rising, steps)


@dataclass(frozen=True)
class RankAssociation:
    """A rank correlation within seeds, pooled over seeds.

    Args:
        correlation: Mean of Spearman's correlation over seeds, by Fisher's z.
        low, high: Its 95 % interval over seeds; None for one seed.
        p: Two-sided p that it is 0; None for one seed.
        n: Number of seeds.
        arms: Least number of arms that a correlation is of.
    """

    correlation: float
    low: float | None
    high: float | None
    p: float | None
    n: int
    arms: int


def rank_association(points: Mapping[Key, Sequence[Sequence[tuple[float, float]]]]) -> RankAssociation | None:
    """Rank correlation of two quantities over arms, within seeds; never over pooled rows, where tasks and seeds make or hide it.

    Args:
        points: For each seed, groups of (x, y), one point for each arm. Correlations of groups are averaged within a seed, so that arms are
            compared with arms of the same group alone. Groups of fewer than four arms, or without variation, do not count.

    Returns:
        None if no seed has a correlation. A perfect one of m arms enters as 1 - 1 / (2 m), since Fisher's z of 1 is infinite.
    """
    from scipy.stats import spearmanr

    z, sizes = [], []
    for groups in points.values():
        of_seed = []
        for group in groups:
            x, y = zip(*group, strict=True) if group else ((), ())
            if len(group) >= MIN_ARMS and len(set(x)) > 1 and len(set(y)) > 1:
                bound = 1 - 1 / (2 * len(group))
                of_seed.append(math.atanh(max(-bound, min(bound, float(spearmanr(x, y).statistic)))))
                sizes.append(len(group))
        if of_seed:
            z.append(math.fsum(of_seed) / len(of_seed))
    if not z:
        return None
    t = paired_t(z)
    low, high = as_number(math.tanh(t.low)), as_number(math.tanh(t.high))
    return RankAssociation(math.tanh(float(t.mean)), low, high, as_number(t.p), len(z), min(sizes))


def distance_against_error(
    rows: Sequence[Row],
    distances: Mapping[str, float],
    *,
    metric: str = "test_error",
    pair_by: Sequence[str] = ("seed",),
    apart: Sequence[str] = (),
) -> dict[Any, RankAssociation]:
    """Task -> rank correlation of the distance between proxy and target with the error, within task and seed.

    Args:
        rows: Rows of `trials`, those that stand for their arms.
        distances: Trial -> distance; trials without one do not count. `final_distances` has those after alignment.
        metric: The error.
        pair_by: The columns that the seeds vary.
        apart: Columns whose values are never mixed in one correlation, such as `freezing`, which moves errors and not distances.
    """
    points: dict[Any, dict[Key, dict[Any, list[tuple[float, float]]]]] = defaultdict(lambda: defaultdict(lambda: defaultdict(list)))
    for row in rows:
        if is_usable(row, metric) and (distance := distances.get(row["trial"])) is not None:
            group = tuple(str(row.get(column)) for column in apart)
            points[row.get("task")][key_of(row, pair_by)][group].append((distance, float(row[metric])))
    found = {task: rank_association({key: list(groups.values()) for key, groups in of_task.items()}) for task, of_task in points.items()}
    return {task: association for task, association in found.items() if association is not None}


def final_distances(results: ResultStore, sweep: str) -> dict[str, float]:
    """Trial -> distance of its embedder's features to the proxy's after the last epoch of alignment, by the trial's own objective."""
    name = sweep.replace("'", "''")
    rows = Results(results).sql(
        "select trial, arg_max(distance, epoch) as distance from metrics "
        f"where sweep = '{name}' and stage = 'align' and fold is null and distance is not null group by trial"
    )
    return {row["trial"]: row["distance"] for row in rows.rows()}
