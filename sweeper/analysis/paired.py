"""Statistics of paired differences: Student's t, equivalence, Holm's correction, power, and whether one of two paired samples varies less.

Every function takes one sample, or an array of samples whose last axis runs over the pairs; NaN stands for a missing pair. So the
simulations of `benchmarks/statistics.py` call the functions that `sweeper compare` calls.

Student's t rather than a bootstrap: at 3, 5 and 10 pairs the percentile bootstrap covers .76, .83 and .90 where it claims 95 %, and signed
ranks cannot reach 5 % with fewer than 6 pairs. `docs/statistics.md` has the rates that were measured here.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]

HELPS, HURTS, NO_DIFFERENCE, UNDECIDED = "helps", "hurts", "no-difference", "undecided"
"""The verdicts. A level helps if its error is lower than the baseline's."""

POWER = 0.8
"""Power for which numbers of seeds are stated."""

MAX_SEEDS = 1000
"""Numbers of seeds above this are not stated."""

MAX_TASKS = 10
"""Numbers of tasks above this are not stated: there are hardly so many that a sweep could take as a sample of one kind."""

_ROUNDING = 1e-12
"""Means and spreads of differences that are rounding, as a share of the largest difference."""


@dataclass(frozen=True)
class PairedT:
    """Student's t of paired differences; every field has the shape of the samples without their last axis.

    Args:
        n: Number of pairs.
        mean, sd: Mean and standard deviation of the differences; sd is NaN for one pair.
        low, high: The interval of the mean; NaN for one pair.
        p: Two-sided p; NaN for one pair, and where all differences are 0.
    """

    n: NDArray[np.int64]
    mean: Floats
    sd: Floats
    low: Floats
    high: Floats
    p: Floats

    @property
    def is_zero(self) -> NDArray[np.bool_]:
        """Whether all differences are 0, and there are at least two."""
        return (self.n > 1) & (self.mean == 0) & (self.sd == 0)


def paired_t(differences: ArrayLike, confidence: float = 0.95, resolution: float = 0.0) -> PairedT:
    """Mean, interval and two-sided test of paired differences.

    Args:
        differences: (..., n) differences.
        confidence: Confidence of the interval.
        resolution: Of what is counted, the smallest step of a value, such as 1 / test samples. Where all differences are the same, their
            spread is taken to be that of rounding to such steps, step / sqrt(6), rather than 0: three equal differences of one sample are
            no certainty.
    """
    from scipy.special import stdtr, stdtrit  # of scipy.stats, too, which takes a second to import

    d = np.asarray(differences, dtype=np.float64)
    n = np.sum(~np.isnan(d), axis=-1)
    total = np.nansum(d, axis=-1)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = total / n
        sd = np.sqrt(np.nansum((d - mean[..., None]) ** 2, axis=-1) / (n - 1))
        largest = np.max(np.abs(np.nan_to_num(d)), axis=-1, initial=0.0)
        mean = np.where(np.abs(mean) <= _ROUNDING * largest, 0.0, mean)
        sd = np.where(sd <= _ROUNDING * largest, 0.0, sd)
        used = np.where((sd == 0) & (mean != 0), resolution / math.sqrt(6), sd)
        error = used / np.sqrt(n)
        half = stdtrit(np.maximum(n - 1, 1), 0.5 + confidence / 2) * error
        p = 2 * stdtr(np.maximum(n - 1, 1), -np.abs(mean / error))
    is_known = n > 1
    return PairedT(
        n,
        mean,
        np.where(is_known, sd, np.nan),
        np.where(is_known, mean - half, np.nan),
        np.where(is_known, mean + half, np.nan),
        np.where(is_known & (largest > 0), p, np.nan),
    )


def equivalence(differences: ArrayLike, margin: ArrayLike, resolution: float = 0.0) -> Floats:
    """p of two one-sided t tests: small where the mean difference is shown to lie between -margin and margin.

    Args:
        differences: (..., n) differences.
        margin: The margin, greater than 0, of each sample or of all.
        resolution: As in `paired_t`.

    Returns:
        The larger of the two p; NaN for one pair.

    Reference:
        Schuirmann 1987. The same as `statsmodels.stats.weightstats.ttost_paired`.
    """
    from scipy.special import stdtr

    t, bound = paired_t(differences, resolution=resolution), np.asarray(margin, dtype=np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):
        error = np.where((t.sd == 0) & (t.mean != 0), resolution / math.sqrt(6), t.sd) / np.sqrt(t.n)
        distance = (bound - np.abs(t.mean)) / error
    distance = np.where((error == 0) & (np.abs(t.mean) == bound), 0.0, distance)
    return np.where(t.n > 1, stdtr(np.maximum(t.n - 1, 1), -distance), np.nan)


def holm(p: ArrayLike) -> tuple[Floats, NDArray[np.int64]]:
    """Holm's correction of families of tests.

    Args:
        p: (..., tests) p of the tests of each family; NaN for those that were not made, which do not count.

    Returns:
        The adjusted p, at most 1; and the factor that the correction applies to each p, from the number of tests down to 1 by ascending p.
    """
    values = np.asarray(p, dtype=np.float64)
    order = np.argsort(values, axis=-1, kind="stable")  # NaN last
    ordered = np.take_along_axis(values, order, axis=-1)
    tests = np.sum(~np.isnan(values), axis=-1, keepdims=True)
    factors = np.maximum(tests - np.arange(values.shape[-1]), 1)
    stepped = np.minimum(np.maximum.accumulate(np.where(np.isnan(ordered), 0.0, ordered * factors), axis=-1), 1.0)
    adjusted, applied = np.empty_like(values), np.empty(values.shape, dtype=np.int64)
    np.put_along_axis(adjusted, order, np.where(np.isnan(ordered), np.nan, stepped), axis=-1)
    np.put_along_axis(applied, order, np.broadcast_to(factors, values.shape), axis=-1)
    return adjusted, applied


def decide(mean: float, p_adjusted: float | None, p_equivalence: float | None, is_zero: bool = False, alpha: float = 0.05) -> str:
    """The verdict on one difference.

    The test of a difference comes first: a difference that is shown to be there, and shown to be smaller than the margin, helps or hurts.

    Args:
        mean: Mean difference; negative where the level has the lower error.
        p_adjusted: p of the difference, corrected for the family; None if it was not tested.
        p_equivalence: p of equivalence, corrected for the family; None if it was not tested.
        is_zero: Whether all differences are 0.
        alpha: Level of both tests.
    """
    if is_zero:
        return NO_DIFFERENCE
    if p_adjusted is not None and p_adjusted <= alpha:
        return HELPS if mean < 0 else HURTS
    return NO_DIFFERENCE if p_equivalence is not None and p_equivalence <= alpha else UNDECIDED


def judge_mean(
    mean: float | None,
    sd: float | None,
    n: int,
    margin: float | None,
    p_adjusted: float | None,
    p_equivalence: float | None,
    alpha: float,
    alphas: tuple[float, float],
    *,
    is_over_tasks: bool,
) -> tuple[str, int | None]:
    """The verdict on a mean difference; and where it is undecided, how many seeds or tasks would probably decide it.

    Args:
        mean, sd, n: Of the differences, over seeds or over tasks.
        margin: Margin of equivalence.
        p_adjusted, p_equivalence: p that it is 0, and that it is beyond the margin, both corrected for the family.
        alpha: Error rate of the family.
        alphas: The level of each of the two tests by itself, after the correction.
        is_over_tasks: Whether the differences are those of tasks, not of seeds.
    """
    if mean is None:
        return UNDECIDED, None
    verdict = decide(mean, p_adjusted, p_equivalence, n > 1 and mean == 0 and sd == 0, alpha)
    if verdict != UNDECIDED or not sd or not margin:
        return verdict, None
    return verdict, (tasks_needed if is_over_tasks else seeds_needed)(mean, sd, margin, *alphas)


def pitman_morgan(one: ArrayLike, other: ArrayLike) -> tuple[Floats, Floats]:
    """Whether one of two paired samples varies more: the ratio of their standard deviations, and p that they are equal.

    Sum and difference of two values are uncorrelated if and only if the two have the same variance.

    Args:
        one, other: (..., n) values of the two, in the order of the pairs.

    Returns:
        sd(one) / sd(other), and the two-sided p; NaN for fewer than three pairs, and where the samples do not vary.

    Reference:
        Pitman 1939, Morgan 1939.
    """
    from scipy.special import stdtr

    a, b = np.broadcast_arrays(np.asarray(one, dtype=np.float64), np.asarray(other, dtype=np.float64))
    is_pair = ~(np.isnan(a) | np.isnan(b))
    a, b = np.where(is_pair, a, np.nan), np.where(is_pair, b, np.nan)
    n = np.sum(is_pair, axis=-1)

    def centred(values: Floats) -> Floats:
        return np.nan_to_num(values - (np.nansum(values, axis=-1) / np.maximum(n, 1))[..., None])

    a, b = centred(a), centred(b)
    with np.errstate(invalid="ignore", divide="ignore"):
        ratio = np.sqrt(np.sum(a**2, axis=-1) / np.sum(b**2, axis=-1))
        total, difference = a + b, a - b
        r = np.sum(total * difference, axis=-1) / np.sqrt(np.sum(total**2, axis=-1) * np.sum(difference**2, axis=-1))
        t = np.abs(r) * np.sqrt((n - 2) / np.maximum(1 - r**2, 0))
    return np.where(n > 1, ratio, np.nan), np.where(n > 2, 2 * stdtr(np.maximum(n - 2, 1), -t), np.nan)


# ----------------------------------------------------------------------------------------------------------------------- power


def difference_power(effect: ArrayLike, n: ArrayLike, alpha: ArrayLike = 0.05) -> Floats:
    """Power of the two-sided paired t test.

    Args:
        effect: True mean difference in standard deviations of the differences.
        n: Number of pairs, at least 2.
        alpha: Level of the test.
    """
    from scipy.special import stdtrit

    pairs, size = np.asarray(n, dtype=np.float64), np.abs(np.asarray(effect, dtype=np.float64))
    critical, shift = stdtrit(pairs - 1, 1 - np.asarray(alpha) / 2), size * np.sqrt(pairs)
    return 1 - _noncentral_t(pairs - 1, shift, critical) + _noncentral_t(pairs - 1, shift, -critical)


def equivalence_power(effect: ArrayLike, margin: ArrayLike, n: ArrayLike, alpha: ArrayLike = 0.05) -> Floats:
    """Power of two one-sided paired t tests; by the usual approximation, which leaves out that both share one standard deviation.

    Args:
        effect, margin: True mean difference and margin, in standard deviations of the differences.
        n, alpha: As in `difference_power`.

    Reference:
        Phillips 1990; Julious 2004, eq. 37.
    """
    from scipy.special import stdtrit

    pairs, size, bound = np.asarray(n, dtype=np.float64), np.abs(np.asarray(effect, dtype=np.float64)), np.asarray(margin)
    critical, root = stdtrit(pairs - 1, 1 - np.asarray(alpha)), np.sqrt(pairs)
    upper = _noncentral_t(pairs - 1, (size - bound) * root, -critical)
    lower = _noncentral_t(pairs - 1, (size + bound) * root, critical)
    return np.maximum(upper - lower, 0.0)


def _noncentral_t(df: Floats, shift: Floats, t: Floats) -> Floats:
    """The distribution function of Student's noncentral t. Where scipy gives up, far from the shift, it is 0 or 1."""
    from scipy.special import nctdtr

    found = nctdtr(df, shift, t)
    return np.where(np.isnan(found), np.where(np.asarray(shift) < t, 1.0, 0.0), found)


def seeds_needed(mean: float, sd: float, margin: float, alpha: float = 0.05, alpha_equivalence: float = 0.05) -> int | None:
    """The number of seeds in total with which a difference like the observed one is decided with a probability of 80 %.

    The smaller of two numbers: for showing the difference, and for showing that it is within the margin.

    Args:
        mean, sd: Mean and standard deviation of the observed differences, taken for the true ones.
        margin: Margin of equivalence.
        alpha, alpha_equivalence: Levels of the two tests, as the correction for the family leaves them.

    Returns:
        None if it is above `MAX_SEEDS`, or the standard deviation is unknown or 0.
    """
    if not sd > 0:
        return None
    n = np.arange(2, MAX_SEEDS + 1)
    enough = (difference_power(mean / sd, n, alpha) >= POWER) | (equivalence_power(mean / sd, margin / sd, n, alpha_equivalence) >= POWER)
    return int(n[np.argmax(enough)]) if enough.any() else None


def tasks_needed(mean: float, sd: float, margin: float, alpha: float = 0.05, alpha_equivalence: float = 0.05) -> int | None:
    """As `seeds_needed`, of tasks, for means and deviations over tasks; None if it is above `MAX_TASKS`."""
    needed = seeds_needed(mean, sd, margin, alpha, alpha_equivalence)
    return needed if needed is not None and needed <= MAX_TASKS else None


def least_detectable(n: int, alpha: float = 0.05) -> float:
    """The least mean difference that `n` seeds show with a probability of 80 %, in standard deviations of the differences; infinite for one
    seed."""
    if n < 2:
        return math.inf
    low, high = 0.0, 1e4
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (low, middle) if float(difference_power(middle, n, alpha)) >= POWER else (middle, high)
    return high


def as_number(value: Any) -> float | None:
    """A number as Python's; None for NaN."""
    return None if math.isnan(value) else float(value)
