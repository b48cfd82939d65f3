"""Interactions, trends, rank correlations and descriptions over tasks, by hand and by other libraries."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from made_rows import cross
from scipy import stats
from statsmodels.stats.anova import AnovaRM

from sweeper.analysis.associations import distance_against_error, final_distances, find_trends, rank_association
from sweeper.analysis.contrasts import paired_differences
from sweeper.analysis.description import interquartile_means, performance_profile, rank_levels
from sweeper.analysis.interaction import find_interaction, repeated_measures
from sweeper.analysis.over_tasks import summarise_tasks
from sweeper.analysis.skewness import pooled_skewness

RNG = np.random.default_rng(11)


# ------------------------------------------------------------------------------------------------------------------ interaction


def test_two_contexts_are_compared_by_the_paired_t_test():
    table = RNG.normal(size=(6, 2))
    assert repeated_measures(table) == pytest.approx(stats.ttest_rel(table[:, 0], table[:, 1]).pvalue)


def test_without_correction_the_test_is_that_of_statsmodels():
    """Greenhouse and Geisser's estimate is 1 where all columns of a table covary alike; here their F is compared, and p follows from it."""
    table = RNG.normal(size=(5, 3))
    frame = pd.DataFrame([{"seed": s, "context": c, "y": table[s, c]} for s in range(5) for c in range(3)])
    f = AnovaRM(frame, "y", "seed", within=["context"]).fit().anova_table["F Value"].iloc[0]
    covariance = np.cov(table.T)
    centred = covariance - covariance.mean(0) - covariance.mean(1)[:, None] + covariance.mean()
    eigenvalues = np.linalg.eigvalsh(centred)
    epsilon = eigenvalues.sum() ** 2 / (2 * np.sum(eigenvalues**2))
    assert repeated_measures(table) == pytest.approx(stats.f.sf(f, 2 * epsilon, 8 * epsilon))


def test_equal_contexts_have_no_p_and_contexts_that_differ_without_noise_have_p_zero():
    assert math.isnan(repeated_measures([[1.0, 1.0], [2.0, 2.0], [4.0, 4.0]]))
    assert repeated_measures([[1.0, 1.5], [2.0, 2.5], [4.0, 4.5]]) == 0


@pytest.mark.parametrize(
    ("planted", "where"),
    [
        ({("full", "random"), ("full", "pretrained")}, [{"freezing": "full"}]),
        ({("bias", "random")}, [{"freezing": "bias", "body.weights": "random"}]),
    ],
)
def test_the_context_in_which_an_effect_differs_is_named(planted, where):
    def error(cells):
        return 0.5 + 1e-3 * RNG.normal() - 0.1 * bool(cells["align_epochs"]) * ((cells["freezing"], cells["body_weights"]) in planted)

    knobs = {"seed": range(4), "align_epochs": [0, 5], "freezing": ["full", "bias", "layernorm"], "body_weights": ["random", "pretrained"]}
    (contrast,) = paired_differences(cross(knobs, error), "align.epochs", 0)
    found = find_interaction(contrast)
    assert found.p < 1e-4
    assert found.where in where
    assert (found.there, found.elsewhere, found.n) == (pytest.approx(-0.1, abs=3e-3), pytest.approx(0, abs=3e-3), 4)


def test_too_few_seeds_or_contexts_tell_nothing_of_interaction():
    rows = cross({"seed": range(2), "align_epochs": [0, 5], "freezing": ["full", "bias"]}, lambda cells: RNG.normal())
    (contrast,) = paired_differences(rows, "align.epochs", 0)
    assert find_interaction(contrast) is None
    rows = cross({"seed": range(5), "align_epochs": [0, 5]}, lambda cells: RNG.normal())
    (contrast,) = paired_differences(rows, "align.epochs", 0)
    assert find_interaction(contrast) is None


# ------------------------------------------------------------------------------------------------------------------------ trend


def test_a_trend_by_hand():
    """Three levels in the same order in each of two seeds: Page's L is 2 (1 + 4 + 9) = 28, which one of 36 arrangements reaches."""
    rows = cross({"seed": [0, 1], "align_epochs": [0, 10, 60]}, lambda c: 0.5 - 0.001 * c["align_epochs"] + 0.01 * c["seed"])
    (trend,) = find_trends(paired_differences(rows, "align.epochs", 10))
    assert trend.levels == [0, 10, 60]
    assert (trend.p_falling, trend.n) == (pytest.approx(1 / 36), 2)
    assert trend.p_rising == pytest.approx(1)
    assert [(step.lower, step.higher) for step in trend.steps] == [(0, 10), (10, 60)]
    assert [step.difference for step in trend.steps] == pytest.approx([-0.01, -0.05])


def test_more_is_not_better_once_a_step_rises():
    errors = {0: 0.5, 5: 0.3, 20: 0.4}
    rows = cross({"seed": range(6), "align_epochs": list(errors)}, lambda c: errors[c["align_epochs"]] + 0.01 * RNG.normal())
    (trend,) = find_trends(paired_differences(rows, "align.epochs", 0))
    assert [np.sign(step.difference) for step in trend.steps] == [-1, 1]
    assert all(step.p_adjusted < 0.01 for step in trend.steps)


def test_texts_and_two_levels_have_no_trend():
    rows = cross({"seed": range(3), "freezing": ["full", "bias", "layernorm"]}, lambda cells: RNG.normal())
    assert find_trends(paired_differences(rows, "freezing", "full")) == []
    rows = cross({"seed": range(3), "align_epochs": [0, 5]}, lambda cells: RNG.normal())
    assert find_trends(paired_differences(rows, "align.epochs", 0)) == []


# ------------------------------------------------------------------------------------------------------------ distance and error


def test_correlations_are_pooled_by_fishers_z_over_seeds():
    points = {(seed,): [[(x, x + 3 * RNG.normal()) for x in range(8)]] for seed in range(5)}
    z = [math.atanh(stats.spearmanr(*zip(*groups[0], strict=True)).statistic) for groups in points.values()]
    found, test = rank_association(points), stats.ttest_1samp(z, 0)
    assert (found.correlation, found.p) == (pytest.approx(math.tanh(np.mean(z))), pytest.approx(test.pvalue))
    assert (found.low, found.high) == pytest.approx(tuple(map(math.tanh, test.confidence_interval())))
    assert (found.n, found.arms) == (5, 8)


def test_a_correlation_within_seeds_is_not_that_of_pooled_rows():
    """Simpson: in each seed the error falls with the distance. Over all rows it rises, as seeds of larger distances have larger errors."""
    rows = [
        {"trial": f"{seed}-{arm}", "task": "digits", "seed": seed, "status": "COMPLETE", "test_error": 10 * seed - arm + 0.1 * (arm == 2)}
        for seed in range(4)
        for arm in range(5)
    ]
    distances = {f"{seed}-{arm}": 10.0 * seed + arm for seed in range(4) for arm in range(5)}
    assert stats.spearmanr([distances[row["trial"]] for row in rows], [row["test_error"] for row in rows]).statistic > 0.8
    found = distance_against_error(rows, distances)["digits"]
    assert found.correlation == pytest.approx(-0.9), "a perfect order of five arms counts as 1 - 1 / 10"


def test_groups_that_are_kept_apart_are_not_mixed():
    """Freezing moves all errors: within each of its values the error rises with the distance."""
    rows = [
        {"trial": f"{seed}-{arm}-{freezing}", "task": "digits", "seed": seed, "status": "COMPLETE", "freezing": freezing}
        | {"test_error": arm + (100 if freezing == "full" else 0)}
        for seed in range(3)
        for arm in range(4)
        for freezing in ("full", "bias")
    ]
    distances = {row["trial"]: float(row["test_error"] % 100) - (50 if row["freezing"] == "full" else 0) for row in rows}
    assert distance_against_error(rows, distances, apart=["freezing"])["digits"].correlation == pytest.approx(1 - 1 / 8)
    assert distance_against_error(rows, distances)["digits"].correlation < 0


def test_few_arms_have_no_correlation():
    assert rank_association({(0,): [[(1.0, 2.0), (2.0, 3.0), (3.0, 4.0)]]}) is None
    assert rank_association({(0,): [[(1.0, 2.0)] * 5]}) is None


def test_final_distances_are_those_of_the_last_epoch(workspace):
    rows = [
        {"trial": "a", "attempt": 1, "stage": stage, "epoch": epoch, "distance": distance}
        for stage, epoch, distance in [("align", 1, 5.0), ("align", 3, 2.0), ("align", 2, 3.0), ("finetune", 9, 1.0)]
    ]
    workspace.results.append("metrics", "s", rows)
    workspace.results.append("trials", "s", [{"trial": "a", "attempt": 1, "sequence": 0, "status": "COMPLETE", "in_plan": True}])
    assert final_distances(workspace.results, "s") == {"a": 2.0}


# -------------------------------------------------------------------------------------------------------------------- over tasks


def test_over_tasks_by_hand():
    """Relative differences -0.1, 0 and 0.1: mean 0, sd 0.1; the interval of a new task is 4.3027 x 0.1 x sqrt(4 / 3) to each side."""
    found = summarise_tasks({"a": -0.1, "b": 0.0, "c": 0.1})
    assert (float(found.t.mean), float(found.t.sd)) == pytest.approx((0, 0.1), abs=1e-12)
    assert found.prediction_high == pytest.approx(4.302652729911275 * 0.1 * math.sqrt(4 / 3))
    assert (found.lower, found.higher) == (1, 1)


ERRORS = {"a": {"x": [0.1, 0.2], "y": [0.3, 0.4]}, "b": {"x": [0.5, 0.5], "y": [0.6, 0.6]}, "c": {"x": [0.2, 0.2], "y": [0.1, 0.1]}}


def test_descriptions_by_hand():
    ranks = rank_levels(ERRORS)
    assert ranks.mean_rank == pytest.approx({"x": 4 / 3, "y": 5 / 3})
    assert ranks.critical_difference == pytest.approx(1.959964 * math.sqrt(2 * 3 / 18), rel=1e-3), "for two levels q is the normal quantile"
    means = interquartile_means(ERRORS, "x")
    assert means["x"] == pytest.approx(1)  # of 2/3, 1, 1, 1, 1, 4/3 the middle four
    assert means["y"] == pytest.approx((0.5 + 1.2 + 1.2 + 2) / 4)  # of 0.5, 0.5, 1.2, 1.2, 2, 8/3
    profile = performance_profile(ERRORS, [1.0, 1.5, 3.0])
    assert profile["x"] == pytest.approx([(0.5 + 1 + 0) / 3, (1 + 1 + 0) / 3, 1])
    assert profile["y"] == pytest.approx([(0 + 0 + 1) / 3, (0 + 1 + 1) / 3, 1])


def test_ranks_are_tested_by_friedman():
    errors = {f"t{n}": {level: list(RNG.normal(shift, 1, 3)) for level, shift in (("x", 0), ("y", 1), ("z", 5))} for n in range(6)}
    means = [[np.mean(of_task[level]) for of_task in errors.values()] for level in "xyz"]
    assert rank_levels(errors).p == pytest.approx(stats.friedmanchisquare(*means).pvalue)


@pytest.mark.parametrize("number", [2, 3, 5, 12])
def test_ranks_and_their_critical_difference_are_those_of_scipy_with_ties_too(number):
    means = RNG.integers(0, 4, size=(6, number)) / 4
    found = rank_levels({task: {level: [mean] for level, mean in enumerate(of_task)} for task, of_task in enumerate(means)})
    assert list(found.mean_rank.values()) == pytest.approx(stats.rankdata(means, axis=1).mean(axis=0))
    q = stats.studentized_range.ppf(0.95, number, math.inf)
    assert found.critical_difference == pytest.approx(q / math.sqrt(2) * math.sqrt(number * (number + 1) / (6 * 6)), rel=1e-9)
    assert found.p == (None if number == 2 else pytest.approx(stats.friedmanchisquare(*means.T).pvalue))


def test_levels_that_tie_on_every_task_have_no_p():
    assert rank_levels({task: {level: [0.5] for level in "xyz"} for task in "abc"}).p is None


def test_interquartile_means_are_those_of_scipy():
    for number in (1, 3, 4, 9):
        values = RNG.uniform(0.1, 1, size=number).tolist()
        found = interquartile_means({"a": {"x": [1.0], "y": values}}, "x")
        assert found["y"] == stats.trim_mean(values, 0.25)


def test_pooled_skewness_is_that_of_scipy_in_standard_errors():
    sample = RNG.exponential(size=7)
    error = math.sqrt(6 * 5 / (8 * 10))
    assert pooled_skewness([sample.tolist()]) == pytest.approx(stats.skew(sample) / error)
    two = [RNG.exponential(size=5).tolist(), RNG.exponential(size=5).tolist()]
    assert pooled_skewness(two) == pytest.approx(sum(stats.skew(x) for x in two) / math.sqrt(2 * 6 * 3 / (6 * 8)))
    assert pooled_skewness([[1.0, 1.0, 1.0], [1.0, 2.0]]) == 0
