"""Statistics of paired differences, against scipy, statsmodels and numbers worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.power import TTestPower
from statsmodels.stats.weightstats import ttost_paired

from sweeper.analysis.paired import (
    decide,
    difference_power,
    equivalence,
    equivalence_power,
    holm,
    least_detectable,
    paired_t,
    pitman_morgan,
    seeds_needed,
)

RNG = np.random.default_rng(7)
SAMPLES = [RNG.normal(0.3, 1, size) for size in (2, 3, 5, 12)] + [RNG.exponential(1, 6) * 1e-5]


@pytest.mark.parametrize("sample", SAMPLES)
def test_t_is_that_of_scipy(sample):
    found, expected = paired_t(sample), stats.ttest_1samp(sample, 0)
    interval = expected.confidence_interval(0.95)
    assert (found.p, found.low, found.high) == pytest.approx((expected.pvalue, interval.low, interval.high), rel=1e-9)


def test_t_by_hand():
    """Differences 1, 2, 3: mean 2, sd 1, t = 2 sqrt(3) with 2 degrees of freedom, whose distribution has a closed form."""
    found = paired_t([1.0, 2.0, 3.0])
    t = 2 * math.sqrt(3)
    assert (found.n, found.mean, found.sd) == (3, 2.0, 1.0)
    assert found.p == pytest.approx(1 - t / math.sqrt(2 + t**2))
    assert found.high - found.mean == pytest.approx(4.302652729911275 / math.sqrt(3))


def test_samples_of_an_array_are_tested_one_by_one_and_missing_pairs_do_not_count():
    table = np.array([[0.1, 0.4, math.nan, 0.2], [0.5, 0.1, 0.3, -0.2], [math.nan, math.nan, math.nan, 0.2]])
    found = paired_t(table)
    assert list(found.n) == [3, 4, 1]
    alone = [paired_t(row[~np.isnan(row)]) for row in table]
    for name in ("mean", "sd", "low", "high", "p"):
        np.testing.assert_allclose(getattr(found, name), [getattr(one, name) for one in alone])
    np.testing.assert_allclose(equivalence(table, 0.3)[:2], [float(equivalence(row[~np.isnan(row)], 0.3)) for row in table[:2]])


def test_one_pair_and_no_pair_have_neither_interval_nor_p():
    for sample in ([0.5], []):
        found = paired_t(sample)
        assert np.isnan([found.sd, found.low, found.high, found.p, equivalence(sample, 0.1)]).all()


def test_differences_that_are_all_zero_have_no_p():
    found = paired_t([0.0, 0.0, 0.0])
    assert found.is_zero
    assert np.isnan(found.p)
    assert (found.low, found.high) == (0, 0)
    assert not paired_t([0.0]).is_zero, "one pair shows nothing"


def test_equal_differences_are_certain_only_where_they_are_not_counted():
    """Three differences of one of 100 samples each: rounding alone has a standard deviation of 0.01 / sqrt(6), so t = sqrt(18)."""
    assert paired_t([-0.1, -0.1, -0.1]).p == 0
    t = math.sqrt(18)
    assert paired_t([-0.01, -0.01, -0.01], resolution=0.01).p == pytest.approx(1 - t / math.sqrt(2 + t**2))
    spread = [-0.01, -0.02, -0.01]
    assert paired_t(spread, resolution=0.01).p == paired_t(spread).p


def test_a_mean_of_rounding_is_zero():
    differences = [0.1, 0.2, -0.3]
    assert sum(differences) != 0
    found = paired_t(differences)
    assert (found.mean, bool(found.is_zero)) == (0, False)


def test_rounding_is_no_spread():
    same = [0.3 - 0.1, 0.2, 0.4 - 0.2]
    assert len(set(same)) > 1
    assert paired_t(same).sd == 0


@pytest.mark.parametrize("sample", SAMPLES[1:])
@pytest.mark.parametrize("share", [0.5, 2.0, 10.0])
def test_equivalence_is_that_of_statsmodels(sample, share):
    margin = share * sample.std()
    expected = ttost_paired(sample, np.zeros_like(sample), -margin, margin)[0]
    assert float(equivalence(sample, margin)) == pytest.approx(expected, rel=1e-9, abs=1e-15)


def test_differences_without_spread_are_equivalent_inside_of_the_margin_alone():
    assert [float(equivalence([0.5, 0.5], margin)) for margin in (0.4, 0.5, 0.6)] == [1.0, 0.5, 0.0]


def test_holm_is_that_of_statsmodels_and_leaves_out_what_was_not_tested():
    for size in (1, 2, 7):
        p = RNG.uniform(0, 0.1, size)
        np.testing.assert_allclose(holm(p)[0], multipletests(p, method="holm")[1])
    adjusted, factors = holm([0.01, math.nan, 0.04, 0.03])
    np.testing.assert_allclose(adjusted, [0.03, math.nan, 0.06, 0.06])  # 3 x 0.01, then 2 x 0.03, then at least as much
    assert [factors[n] for n in (0, 3, 2)] == [3, 2, 1]


def test_holm_corrects_each_family_of_an_array_by_itself():
    table = np.array([[0.01, 0.2, 0.03], [0.5, 0.001, 0.9]])
    np.testing.assert_allclose(holm(table)[0], [multipletests(row, method="holm")[1] for row in table])


@pytest.mark.parametrize(
    ("mean", "p", "p_equivalence", "is_zero", "verdict"),
    [
        (-0.1, 0.01, 0.9, False, "helps"),
        (0.1, 0.05, 0.9, False, "hurts"),
        (-0.1, 0.01, 0.01, False, "helps"),  # there, though small
        (0.1, 0.4, 0.05, False, "no-difference"),
        (0.1, 0.06, 0.06, False, "undecided"),
        (0.0, None, None, True, "no-difference"),
        (0.1, None, None, False, "undecided"),
    ],
)
def test_verdicts(mean, p, p_equivalence, is_zero, verdict):
    assert decide(mean, p, p_equivalence, is_zero) == verdict


def test_pitman_morgan_is_the_correlation_of_sum_and_difference():
    one, other = RNG.normal(0, 2, 9), RNG.normal(0, 1, 9)
    ratio, p = pitman_morgan(one, other)
    assert float(ratio) == pytest.approx(one.std(ddof=1) / other.std(ddof=1))
    assert float(p) == pytest.approx(stats.pearsonr(one + other, one - other).pvalue)
    assert float(pitman_morgan(other, one)[1]) == pytest.approx(float(p))


def test_pitman_morgan_without_three_pairs_or_without_variation_tells_nothing():
    assert np.isnan(pitman_morgan([1.0, 2.0], [1.0, 3.0])[1])
    assert np.isnan(pitman_morgan([1.0, 1.0, 1.0], [2.0, 2.0, 2.0])[1])


@pytest.mark.parametrize(("n", "effect"), [(3, 0.0), (3, 1.5), (5, 0.4), (5, 1.5), (12, 0.4), (12, 1.0), (60, 0.3)])
def test_power_is_that_of_statsmodels(n, effect):
    expected = TTestPower().power(effect, n, 0.03)
    assert float(difference_power(effect, n, 0.03)) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(("effect", "margin", "n"), [(0.0, 1.2, 8), (0.0, 1.0, 12), (0.4, 1.5, 9), (0.8, 1.0, 30)])
def test_power_of_equivalence_is_what_simulation_finds(effect, margin, n):
    samples = np.random.default_rng(1).normal(effect, 1, (20_000, n))
    found = float(np.mean(equivalence(samples, margin) <= 0.05))
    assert float(equivalence_power(effect, margin, n)) == pytest.approx(found, abs=0.015)


def test_seeds_needed_is_the_smaller_number():
    """A mean of 0.8 sd takes 15 pairs (the table of Cohen 1988); with a margin of 5 sd equivalence takes fewer."""
    solved = math.ceil(TTestPower().solve_power(0.8, power=0.8, alpha=0.05))
    assert solved == 15
    assert seeds_needed(0.8, 1.0, 0.5) == solved
    assert seeds_needed(0.8, 1.0, 5.0) < solved
    assert seeds_needed(0.0, 1.0, 1e-6) is None
    assert seeds_needed(0.1, math.nan, 1.0) is None


def test_power_is_one_where_scipy_gives_no_number():
    assert (float(difference_power(1.5, 60)), float(equivalence_power(0.0, 50.0, 10))) == (1.0, 1.0)


def test_a_stricter_level_needs_more_seeds():
    assert seeds_needed(0.8, 1.0, 0.1, alpha=0.05 / 6) == math.ceil(TTestPower().solve_power(0.8, power=0.8, alpha=0.05 / 6))


@pytest.mark.parametrize("n", [2, 3, 5, 12])
def test_the_least_detectable_difference_has_the_stated_power(n):
    assert TTestPower().power(least_detectable(n), n, 0.05) == pytest.approx(0.8, abs=1e-6)


def test_one_seed_detects_nothing():
    assert least_detectable(1) == math.inf
