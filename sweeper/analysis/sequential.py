"""Verdicts at looks: is what the seeds so far show enough, although one has looked before and will look again?

A contrast is a level of a factor against the baseline, given as paired differences, one per seed. Each is tested at fixed numbers of seeds,
its looks. Looking several times at the level of a single test finds too much: of contrasts without any difference 16 % would be called
different after five looks at 5 %. So all looks of a contrast use one lower level, at which the probability of passing at *any* look is the
intended one (Pocock 1977; levels for Student's t by simulation, see `pass_rates`). Over a family of contrasts the levels are Holm's: valid
for sequential tests, too, as the levels grow with what is intended (Maurer & Bretz 2013). `benchmarks/sequential.py` measures the rates,
and compares this with anytime-valid tests.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sweeper.analysis import paired
from sweeper.analysis.paired import HELPS, HURTS, NO_DIFFERENCE, UNDECIDED, Floats

K = TypeVar("K", bound=Hashable)

HOPELESS = 0.1
"""A contrast that is decided by its last look with a smaller probability than this is given up."""

PATHS = 200_000
"""Number of simulated contrasts from which levels are computed."""

_CHUNK = 20_000


@dataclass(frozen=True)
class Look:
    """What there is to see of a contrast at a look.

    Args:
        differences: The difference to the baseline for each seed so far, without missing pairs.
        margin: Differences smaller than it are none.
        resolution: As in `paired.paired_t`.
    """

    differences: Sequence[float]
    margin: float
    resolution: float = 0.0


@dataclass(frozen=True)
class Decision:
    """The state of a contrast.

    Args:
        verdict: As in `paired`.
        seeds: Number of seeds at the last look at it; 0 before the first.
        is_open: Whether a further look follows.
        p: Probability that a contrast without a difference looks as clear as this at any of its looks; None before the first look, and if
            all differences are 0.
        p_adjusted: The same for any of the family's contrasts.
        power: Probability that the contrast is decided at the last look, if mean and deviation are as they seem; None once it is decided.
        mean, deviation: Of the differences at the last look.
        margin: The margin at the last look.
        levels: Levels of each look, of the two-sided test of a difference and of the one-sided tests of equivalence.
    """

    verdict: str = UNDECIDED
    seeds: int = 0
    is_open: bool = True
    p: float | None = None
    p_adjusted: float | None = None
    power: float | None = None
    mean: float = 0.0
    deviation: float = math.nan
    margin: float = 0.0
    levels: tuple[float, float] = (0.05, 0.05)

    @property
    def seeds_needed(self) -> int | None:
        """Number of seeds with which a contrast like this one is decided with a probability of 80 %; None if none can be stated."""
        return paired.seeds_needed(self.mean, self.deviation, self.margin, *self.levels)


def decide(family: Mapping[K, Sequence[Look]], looks: Sequence[int], alpha: float = 0.05) -> dict[K, Decision]:
    """Look at a family of contrasts as often as the seeds so far allow.

    A look takes place when every open contrast has the seeds for it, and sees all of them at once: what it decides depends on nothing that
    comes later. A contrast that is decided, or given up as hopeless, stays as it is from then on.

    Args:
        family: All contrasts that were planned, with what is known of each: its looks so far, at least while it is open.
        looks: The numbers of seeds at which looks take place, ascending.
        alpha: Probability that any of the contrasts without a difference is called different; and that any whose difference is no smaller
            than its margin is called the same.

    Returns:
        The state of each contrast after the last look.
    """
    found = {key: Decision() for key in family}
    rates = pass_rates(tuple(looks))
    for number, seeds in enumerate(looks):
        current = [key for key, state in found.items() if state.is_open]
        if not current or any(len(family[key]) <= number for key in current):
            break
        tests = {key: _test(family[key][number], rates) for key in current}
        # The family was fixed when it was planned: what is given up, or decided as the same, still counts among those that might have been
        # called different, and the other way round.
        not_different = [key for key, state in found.items() if state.verdict not in (HELPS, HURTS)]
        not_same = [key for key, state in found.items() if state.verdict != NO_DIFFERENCE]
        different = _adjust({key: test.different for key, test in tests.items()}, not_different)
        same = _adjust({key: test.same for key, test in tests.items()}, not_same)
        levels = alpha / len(not_different), alpha / len(not_same)
        nominal = rates.two_sided_level(levels[0]), rates.one_sided_level(levels[1])
        for key, test in tests.items():
            verdict = paired.decide(test.mean, different[key], same[key], test.is_zero, alpha)
            power = _power_of(test, looks[-1], nominal) if verdict == UNDECIDED else None
            found[key] = Decision(
                verdict,
                seeds,
                is_open=power is not None and seeds < looks[-1] and power >= HOPELESS,
                p=None if test.is_zero else test.different,
                p_adjusted=None if test.is_zero else different[key],
                power=power,
                mean=test.mean,
                deviation=test.deviation,
                margin=test.margin,
                levels=nominal,
            )
    return found


def _adjust(p_values: Mapping[K, float], places: Sequence[K]) -> dict[K, float]:
    """Holm's adjusted p-values of the contrasts that are tested now, among all in `places`."""
    adjusted, _ = paired.holm([p_values.get(key, 1.0) for key in places])
    return {key: float(p) for key, p in zip(places, adjusted, strict=True)}


@dataclass(frozen=True)
class _Test:
    """A contrast at a look: mean and deviation of its pairs, their number, its margin, and its p-values over all looks."""

    mean: float
    deviation: float
    pairs: int
    margin: float
    different: float
    same: float
    is_zero: bool = False


def _test(look: Look, rates: PassRates) -> _Test:
    """Student's t at a look: against no difference, and against differences as large as the margin."""
    number = len(look.differences)
    if number < 2:
        return _Test(0.0, math.nan, number, look.margin, 1.0, 1.0)
    t = paired.paired_t(look.differences, resolution=look.resolution)
    is_zero = bool(t.is_zero)
    different = 1.0 if is_zero else rates.of_two_sided(float(t.p))
    same = float(paired.equivalence(look.differences, look.margin, look.resolution)) if look.margin > 0 else 1.0
    return _Test(float(t.mean), float(t.sd), number, look.margin, different, rates.of_one_sided(same), is_zero)


def _power_of(test: _Test, last: int, levels: tuple[float, float]) -> float:
    if test.pairs >= last:
        return 0.0
    return float(conditional_power(test.mean, test.deviation, test.pairs, test.margin, last, levels)) if test.pairs > 1 else 1.0


def conditional_power(mean: ArrayLike, deviation: ArrayLike, pairs: int, margin: float, last: int, levels: tuple[float, float]) -> Floats:
    """Probability that contrasts are decided with more seeds, either way, if mean and deviation are what they seem.

    Args:
        mean, deviation: Of the differences so far, of each contrast.
        pairs: Number of differences so far, at least 1.
        margin: The margin.
        last: Number of seeds with which they are tested next, more than `pairs`.
        levels: Of the two-sided test of a difference, and of the one-sided tests of equivalence.
    """
    from scipy.special import ndtr, stdtrit

    centre, spread = np.asarray(mean, dtype=np.float64), np.asarray(deviation, dtype=np.float64)
    error = spread / math.sqrt(last)
    needed = float(stdtrit(last - 1, 1 - levels[0] / 2)) * error
    allowed = np.maximum(margin - float(stdtrit(last - 1, 1 - levels[1])) * error, 0.0)
    with np.errstate(invalid="ignore", divide="ignore"):
        of_mean = spread * math.sqrt(last - pairs) / last  # of the mean with `last` seeds, given those so far
        inside = ndtr((allowed - centre) / of_mean) - ndtr((-allowed - centre) / of_mean)
        outside = ndtr((centre - needed) / of_mean) + ndtr((-needed - centre) / of_mean)
    return np.where(spread > 0, np.minimum(inside + outside, 1.0), 1.0)  # 1: nothing is known of the deviation


def judge_alone(
    differences: ArrayLike, margin: float, looks: Sequence[int], level: float = 0.05
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """What `decide` says of many contrasts, each in a family of its own.

    Args:
        differences: (contrasts, seeds) differences, with all seeds to the last look.
        margin: Of all contrasts.
        looks: Numbers of seeds at which each is looked at.
        level: alpha.

    Returns:
        Verdicts: -1 for a level that helps, 1 for one that hurts, 0 for no difference, 2 if it is undecided; and numbers of seeds.
    """
    values, rates = np.asarray(differences, dtype=np.float64), pass_rates(tuple(looks))
    nominal = rates.two_sided_level(level), rates.one_sided_level(level)
    verdicts, ends = np.full(len(values), 2), np.full(len(values), looks[-1])
    is_open = np.ones(len(values), dtype=bool)
    for seeds in looks:
        t = paired.paired_t(values[:, :seeds])
        different, same = t.p <= nominal[0], t.is_zero | (paired.equivalence(values[:, :seeds], margin) <= nominal[1])
        verdict = np.where(different, np.sign(t.mean).astype(int), np.where(same, 0, 2))
        is_over = verdict != 2
        if seeds < looks[-1]:
            is_over |= conditional_power(t.mean, t.sd, seeds, margin, looks[-1], nominal) < HOPELESS
        verdicts, ends = np.where(is_open, verdict, verdicts), np.where(is_open & is_over, seeds, ends)
        is_open &= ~is_over
    return verdicts, ends


def simulate_seeds(effect: float, margin: float, looks: Sequence[int], level: float = 0.05, paths: int = 1000) -> NDArray[np.int64]:
    """With how many seeds a contrast ends, in simulated sweeps.

    Args:
        effect, margin: True mean difference and margin, in standard deviations of the differences.
        looks: Numbers of seeds at which it is looked at.
        level: alpha, as the correction for the family leaves it.
        paths: Number of simulated sweeps. They are the same for every contrast, but for the effect.
    """
    noise = np.random.RandomState(1).standard_normal((paths, looks[-1]))
    return judge_alone(noise + effect, margin, looks, level)[1]


# ---------------------------------------------------------------------------------------------------------------------- levels


@dataclass(frozen=True)
class PassRates:
    """How probable it is that any look has a p-value this small, if there is nothing to find.

    Args:
        two_sided, one_sided: The smallest p-values of simulated contrasts over all looks, ascending.
        num_looks: Number of looks.
    """

    two_sided: Floats
    one_sided: Floats
    num_looks: int

    def of_two_sided(self, p: float) -> float:
        """The rate for a two-sided p-value of one look."""
        return self._rate(self.two_sided, p)

    def of_one_sided(self, p: float) -> float:
        """The rate for a one-sided p-value of one look."""
        return self._rate(self.one_sided, p)

    def two_sided_level(self, rate: float) -> float:
        """The level of each look at which the rate is as given."""
        return self._level(self.two_sided, rate)

    def one_sided_level(self, rate: float) -> float:
        """The same for one-sided tests."""
        return self._level(self.one_sided, rate)

    def _rate(self, minima: Floats, p: float) -> float:
        bound = min(1.0, self.num_looks * p)  # Bonferroni's, which always holds
        count = int(minima.searchsorted(p, side="right"))
        return bound if count < _ENOUGH else min(bound, count / len(minima))

    def _level(self, minima: Floats, rate: float) -> float:
        count = int(rate * len(minima))
        return max(rate / self.num_looks, float(minima[count - 1]) if count >= _ENOUGH else 0.0)


_ENOUGH = 100
"""Number of simulated contrasts from which a rate is read; smaller rates are bounded instead."""


@lru_cache(maxsize=8)
def pass_rates(looks: tuple[int, ...]) -> PassRates:
    """The rates for looks after these numbers of seeds, from `PATHS` simulated contrasts of normal differences.

    The simulated numbers are the same on every machine and with every version of numpy, whose `RandomState` is frozen for that purpose: so
    what a sweep runs next is, too.
    """
    from scipy.special import stdtr

    draws, two_sided, one_sided = np.random.RandomState(20231103), [], []
    for _ in range(PATHS // _CHUNK):
        smallest, smallest_one = np.ones(_CHUNK), np.ones(_CHUNK)
        total, squares, before = np.zeros(_CHUNK), np.zeros(_CHUNK), 0
        for seeds in looks:
            values = draws.standard_normal((seeds - before, _CHUNK))
            total, squares, before = total + values.sum(0), squares + (values**2).sum(0), seeds
            t = total / np.sqrt(seeds * (squares - total**2 / seeds) / (seeds - 1))
            smallest = np.minimum(smallest, 2 * stdtr(seeds - 1, -np.abs(t)))
            smallest_one = np.minimum(smallest_one, stdtr(seeds - 1, -t))
        two_sided.append(smallest)
        one_sided.append(smallest_one)
    return PassRates(np.sort(np.concatenate(two_sided)), np.sort(np.concatenate(one_sided)), len(looks))
