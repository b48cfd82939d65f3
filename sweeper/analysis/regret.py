"""Regret@k of a ranking of proxies: how much worse than the best proxy is the best of the k that are ranked first?

A ranking is useful if trying the few proxies that it puts first costs little. For one task and seed, with the errors e of all proxies in
one setting of the other knobs,

    regret@k = min of e over the k ranked first - min of e over all

in units of the error; 0 is a ranking whose first k hold the best. Beside it stands what k proxies drawn at random would have, in
expectation: sum_i e_(i) C(m - i, k - 1) / C(m, k) - e_(1) over the sorted errors. Proxies that the ranking does not tell apart count as
drawn at random among themselves. Over tasks, whose errors have different units, regrets are shares of the range of errors.

Reference:
    Renggli et al. 2022, Which model to transfer? Finding the needle in the growing haystack (arXiv 2010.06402): regret of strategies that
    choose a pretrained model before any training. Here it is in units of the error, so that its interval is that of a difference.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from sweeper.analysis.factors import Row
from sweeper.analysis.matching import Key
from sweeper.analysis.paired import as_number, paired_t
from sweeper.analysis.representatives import is_usable, key_of

MIN_PROXIES = 3
"""Minimum number of proxies of a setting: of two, one is chosen by a coin."""

RANKINGS: Mapping[str, int] = {"proxy_distance": 1, "proxy_distance_unlabelled": 1, "proxy_logme": -1, "proxy_h_score": -1}
"""Column that ranks proxies -> 1 if the lowest comes first, -1 if the highest does."""


class Interval(NamedTuple):
    """A mean over seeds, or over tasks, with its 95 % interval; None where there is one of them only."""

    mean: float
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Regret:
    """Regret@k of one ranking.

    Args:
        k: How many of those ranked first are tried.
        regret: In units of the error over seeds; over tasks a share of the range of errors.
        at_random: Mean of the same for k proxies drawn at random.
        p: Two-sided p that the ranking does as well as drawing at random; None for a single seed or task.
        n: Number of seeds, or of tasks.
        proxies: Least number of proxies that were ranked.
    """

    k: int
    regret: Interval
    at_random: float
    p: float | None
    n: int
    proxies: int


class _OfSeed(NamedTuple):
    regret: float
    at_random: float
    regret_share: float
    at_random_share: float
    proxies: int


def expected_least(errors: Sequence[float], k: int) -> float:
    """Expected least of k errors drawn without replacement.

    >>> expected_least([0.1, 0.2, 0.4], 1), expected_least([0.1, 0.2, 0.4], 3)
    (0.23333333333333334, 0.1)
    """
    m = len(errors)
    return math.fsum(error * math.comb(m - i, k - 1) for i, error in enumerate(sorted(errors), 1)) / math.comb(m, k)


def least_of_first(ranked: Sequence[tuple[float, float]], k: int) -> float:
    """Expected least error of the k that are ranked first: of (rank value, error), the lowest values first, ties in random order."""
    bound = sorted(value for value, _ in ranked)[k - 1]
    ahead = [error for value, error in ranked if value < bound]
    tied = [error for value, error in ranked if value == bound]
    least = min(ahead, default=math.inf)
    return expected_least([min(error, least) for error in tied], k - len(ahead))


def regret_of_seed(ranked: Sequence[tuple[float, float]], k: int) -> _OfSeed:
    """Regret@k of one setting, beside that of drawing at random."""
    errors = [error for _, error in ranked]
    best, width = min(errors), max(errors) - min(errors)
    regret, at_random = least_of_first(ranked, k) - best, expected_least(errors, k) - best
    scale = width or 1.0  # if all errors are equal, both are 0
    return _OfSeed(regret, at_random, regret / scale, at_random / scale, len(ranked))


def find_regrets(
    rows: Sequence[Row],
    ranking: str,
    k: int,
    *,
    metric: str = "test_error",
    pair_by: Sequence[str] = ("seed",),
    apart: Sequence[str] = (),
) -> dict[Any, Regret]:
    """Task -> regret@k of a ranking; under None that over tasks, if there are two or more.

    Args:
        rows: Rows of `trials`, those that stand for their arms.
        ranking: One of `RANKINGS`.
        k: How many of those ranked first are tried, >= 1; settings with no more proxies than that do not count.
        metric: The error.
        pair_by: The columns that the seeds vary.
        apart: Columns whose values make settings of their own. Settings are averaged within a seed.
    """
    sign = RANKINGS[ranking]
    settings: dict[Any, dict[Key, dict[Any, list[tuple[float, float]]]]] = defaultdict(lambda: defaultdict(lambda: defaultdict(list)))
    for row in rows:
        if is_usable(row, metric) and row.get(ranking) is not None and row.get("proxy") is not None:
            group = tuple(str(row.get(column)) for column in apart)
            settings[row.get("task")][key_of(row, pair_by)][group].append((sign * row[ranking], float(row[metric])))
    found: dict[Any, Regret] = {}
    shares = []
    for task, of_task in settings.items():
        seeds = []
        for groups in of_task.values():
            of_seed = [regret_of_seed(ranked, k) for ranked in groups.values() if len(ranked) >= max(MIN_PROXIES, k + 1)]
            if of_seed:
                seeds.append(_mean_of(of_seed))
        if seeds:
            found[task] = _pool(k, [(one.regret, one.at_random) for one in seeds], min(one.proxies for one in seeds))
            of_task_mean = _mean_of(seeds)
            shares.append((of_task_mean.regret_share, of_task_mean.at_random_share))
    if len(found) > 1:
        found[None] = _pool(k, shares, min(one.proxies for one in found.values()))
    return found


def _mean_of(several: Sequence[_OfSeed]) -> _OfSeed:
    """The means, and the least number of proxies."""

    def mean(values: Iterable[float]) -> float:
        return math.fsum(values) / len(several)

    return _OfSeed(
        mean(one.regret for one in several),
        mean(one.at_random for one in several),
        mean(one.regret_share for one in several),
        mean(one.at_random_share for one in several),
        min(one.proxies for one in several),
    )


def _pool(k: int, pairs: Sequence[tuple[float, float]], proxies: int) -> Regret:
    regret, gain = paired_t([one for one, _ in pairs]), paired_t([one - other for one, other in pairs])
    interval = Interval(float(regret.mean), as_number(regret.low), as_number(regret.high))
    return Regret(k, interval, math.fsum(other for _, other in pairs) / len(pairs), as_number(gain.p), len(pairs), proxies)
