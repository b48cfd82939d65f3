"""Effects and verdicts, from rows whose answer is known by hand or by another library."""

from __future__ import annotations

import math

import numpy as np
import pyarrow as pa
import pytest
from made_rows import cross
from scipy import stats
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.power import TTestPower
from statsmodels.stats.weightstats import ttost_paired

from orca_core.errors import ConfigError
from sweeper.analysis import effects
from sweeper.analysis.comparison import compare, compare_variances
from sweeper.analysis.contrasts import paired_differences
from sweeper.analysis.margins import find_step, parse_margin
from sweeper.show.report.effects import verdict_of

RNG = np.random.default_rng(3)
TASKS, LEVELS, SEEDS, FREEZINGS = ["digits", "mnist1d", "openml/187"], [0, 5, 10], list(range(6)), ["full", "bias"]
ERRORS = {
    (task, level, seed, freezing): 0.3 + 0.1 * n + 0.02 * RNG.normal() - 0.03 * (level == 10)
    for n, task in enumerate(TASKS)
    for level in LEVELS
    for seed in SEEDS
    for freezing in FREEZINGS
}
ROWS = cross(
    {"task": TASKS, "align_epochs": LEVELS, "seed": SEEDS, "freezing": FREEZINGS},
    lambda cells: ERRORS[cells["task"], cells["align_epochs"], cells["seed"], cells["freezing"]],
)


def means(task, level):
    """The errors of a level by seed, as means over freezings."""
    return np.array([np.mean([ERRORS[task, level, seed, freezing] for freezing in FREEZINGS]) for seed in SEEDS])


def test_effects_are_those_of_scipy_and_statsmodels():
    found = {(effect.task, effect.level): effect for effect in compare(ROWS, "align.epochs", 0).effects}
    assert list(found) == [(task, level) for task in [*TASKS, None] for level in (5, 10)]
    p, p_equivalence = {}, {}
    for task in TASKS:
        for level in (5, 10):
            one, other, effect = means(task, level), means(task, 0), found[task, level]
            test = stats.ttest_rel(one, other)
            interval = test.confidence_interval()
            assert (effect.difference, effect.low, effect.high) == pytest.approx((np.mean(one - other), interval.low, interval.high))
            assert effect.relative == pytest.approx(np.mean(one - other) / np.mean(other))
            assert effect.margin == pytest.approx(0.05 * np.mean(other))
            assert effect.effect_size == pytest.approx(np.mean(one - other) / np.std(one - other, ddof=1))
            assert (effect.n, effect.contexts) == (6, 2)
            assert effect.p_variance == pytest.approx(stats.pearsonr(one + other, one - other).pvalue)
            p[task, level] = test.pvalue
            p_equivalence[task, level] = ttost_paired(one, other, -effect.margin, effect.margin)[0]
    for level in (5, 10):
        relative = np.array([np.mean(means(task, level) - means(task, 0)) / np.mean(means(task, 0)) for task in TASKS])
        test, effect = stats.ttest_1samp(relative, 0), found[None, level]
        interval = test.confidence_interval()
        assert (effect.relative, effect.low, effect.high) == pytest.approx((relative.mean(), interval.low, interval.high))
        half = stats.t.ppf(0.975, 2) * relative.std(ddof=1) * math.sqrt(1 + 1 / 3)
        assert (effect.prediction_low, effect.prediction_high) == pytest.approx((relative.mean() - half, relative.mean() + half))
        assert (effect.difference, effect.n, effect.tasks_lower, effect.tasks_higher) == (None, 3, sum(relative < 0), sum(relative > 0))
        assert effect.margin == pytest.approx(0.05)
        p[None, level] = test.pvalue
        p_equivalence[None, level] = ttost_paired(relative, np.zeros(3), -0.05, 0.05)[0]
    for name, expected in (("p", p), ("p_equivalence", p_equivalence)):
        adjusted = dict(zip(expected, multipletests(list(expected.values()), method="holm")[1], strict=True))
        for key, effect in found.items():
            assert getattr(effect, name) == pytest.approx(expected[key])
            assert getattr(effect, f"{name}_adjusted") == pytest.approx(adjusted[key])


def test_one_verdict_needs_no_correction_and_says_how_many_seeds_would_decide():
    rows = [row for row in ROWS if row["task"] == "digits" and row["align_epochs"] < 10]
    (effect,) = compare(rows, "align.epochs", 0, margin=1e-4).effects
    assert effect.p_adjusted == effect.p > 0.05
    assert effect.verdict == "undecided"
    needed = TTestPower().solve_power(abs(effect.difference) / effect.sd, power=0.8, alpha=0.05)
    assert effect.seeds_needed == math.ceil(needed)


def table(level, baseline, **shared):
    """The rows of two arms with these errors by seed."""
    errors = {5: level, 0: baseline}
    knobs = {"align_epochs": [0, 5], "seed": list(range(max(len(level), len(baseline))))}
    return cross(knobs, lambda cells: dict(enumerate(errors[cells["align_epochs"]])).get(cells["seed"]), **shared)


def one(rows, **options):
    (effect,) = compare(rows, "align.epochs", 0, **options).effects
    return effect


def test_a_seed_that_lacks_a_context_is_named_and_nothing_is_said_about_variances():
    """With full bodies the level is better by about 0.1, with frozen ones not at all; seed 2 has no trial with a full body."""
    noise = [0.001, -0.002, 0.0015, 0.0005, -0.001, 0.002]

    def error(cells):
        if cells["freezing"] == "full" and cells["seed"] == 2:
            return None
        return 0.5 - 0.1 * (cells["align_epochs"] == 5 and cells["freezing"] == "full") + noise[cells["seed"] - cells["align_epochs"]]

    grid = {"align_epochs": [0, 5], "freezing": ["full", "frozen-body"], "seed": list(range(6))}
    uneven, even = one(cross(grid, error)), one(cross(grid | {"seed": [0, 1, 3, 4, 5]}, error))
    assert even.p_variance is not None
    assert (uneven.n, uneven.sd_ratio, uneven.p_variance) == (6, None, None)
    assert any(note.startswith("seed 2: averaged over fewer contexts") for note in uneven.notes)
    assert not any("fewer contexts" in note for note in even.notes)


def test_verdicts_by_hand():
    """Differences -0.1, -0.11, -0.12: mean -0.11, sd 0.01, t = -19.05 with two degrees of freedom, p = 1 - 19.05 / sqrt(2 + 19.05^2)."""
    better = one(table([0.4, 0.39, 0.38], [0.5, 0.5, 0.5]))
    t = 0.11 * math.sqrt(3) / 0.01
    assert (better.verdict, better.p) == ("helps", pytest.approx(1 - t / math.sqrt(2 + t**2)))
    assert one(table([0.5, 0.5, 0.5], [0.4, 0.39, 0.38])).verdict == "hurts"
    close = one(table([0.501, 0.499, 0.5], [0.5, 0.5, 0.5]))
    assert (close.verdict, close.seeds_needed) == ("no-difference", None)
    assert one(table([0.6, 0.4, 0.55], [0.5, 0.5, 0.5])).verdict == "undecided"


def test_differences_that_are_all_zero_are_none():
    effect = one(table([0.3, 0.4], [0.3, 0.4]))
    assert (effect.verdict, effect.p, effect.p_adjusted, effect.difference, effect.low, effect.high) == (
        "no-difference",
        None,
        None,
        0,
        0,
        0,
    )
    rounded = one(table([0.1 + 0.2, 0.4], [0.3, 0.4]))
    assert (rounded.verdict, rounded.p) == ("no-difference", None)


def test_one_seed_decides_nothing():
    effect = one(table([0.3], [0.5]))
    assert (effect.verdict, effect.p, effect.low, effect.seeds_needed, effect.n) == ("undecided", None, None, None, 1)
    assert one(table([0.5], [0.5])).verdict == "undecided"


def test_equal_differences_of_counted_errors_are_no_certainty():
    """Twice one of 100 samples: t = sqrt(6) sqrt(2) with one degree of freedom, p = 1 - 2 atan(t) / pi."""
    counted = one(table([0.49, 0.39], [0.5, 0.4], score="1-accuracy", test_samples=100))
    assert counted.p == pytest.approx(1 - 2 * math.atan(math.sqrt(12)) / math.pi)
    assert one(table([0.4, 0.3], [0.5, 0.4], score="nrmse")).verdict == "helps"


def test_the_margin_is_at_least_one_sample_and_absolute_ones_are_taken_as_they_are():
    rows = table([0.05, 0.06, 0.04], [0.05, 0.05, 0.05], score="1-accuracy", test_samples=100)
    assert one(rows).margin == pytest.approx(0.01)
    assert one(rows, margin="40%").margin == pytest.approx(0.02)
    assert one(rows, margin="0.003").margin == pytest.approx(0.003)
    assert one([row | {"score": "1-auroc"} for row in rows]).margin == pytest.approx(0.0025)


def test_one_sample_is_known_from_the_errors_where_the_score_has_no_name():
    assert find_step([{"test_error": 0.03, "test_samples": 100}], "test_error") == 0.01
    assert find_step([{"test_error": 0.033, "test_samples": 100}], "test_error") == 0
    assert find_step([{"test_error": 0.03}], "test_error") == 0
    assert find_step([{"test_error": 0.03, "test_samples": 100, "score": "1-accuracy", "valid_error": 0.1}], "valid_error") == 0


@pytest.mark.parametrize("given", ["0", "-5%", "much", "nan", True])
def test_a_margin_must_be_a_positive_number_or_share(given):
    with pytest.raises(ConfigError, match="--margin: must be greater than 0"):
        parse_margin(given)


def test_relative_differences_are_null_where_the_baseline_is_near_zero():
    rows = table([0.1, 0.2], [0.0, 0.002], score="1-accuracy", test_samples=500)
    assert one(rows).relative is None
    assert one(table([0.1, 0.2], [0.4, 0.6])).relative == pytest.approx(-0.7)
    tasks = [*rows, *(row | {"task": task, "trial": f"{task}{row['trial']}"} for task in "ab" for row in table([0.1, 0.2], [0.4, 0.6]))]
    (overall,) = compare(tasks, "align.epochs", 0, by="all").effects
    assert (overall.n, overall.relative) == (2, pytest.approx(-0.7))
    assert any("On digits the baseline's error is near 0" in note for note in overall.notes)


def test_over_tasks_pairs_are_not_pooled():
    """Two tasks that disagree: each of 10 seeds alone is clear, over tasks nothing is."""
    rows = []
    for task, shift in (("a", -0.1), ("b", 0.08)):
        noise = RNG.normal(0, 0.001, 10)
        rows += [row | {"task": task, "trial": f"{task}{row['trial']}"} for row in table(list(0.5 + shift + noise), [0.5] * 10)]
    first, second, overall = compare(rows, "align.epochs", 0).effects
    assert (first.verdict, second.verdict, overall.verdict) == ("helps", "hurts", "undecided")
    assert (overall.seeds_needed, overall.tasks_needed) == (None, None)
    assert verdict_of(overall.to_data()) == "undecided: more than 10 tasks would decide"


def test_a_planted_interaction_is_found_and_its_context_named():
    """Alignment helps by 0.1 with frozen bodies alone; by hand the mean over both contexts is -0.05."""

    def error(cells):
        return 0.5 + 0.001 * RNG.normal() - 0.1 * (cells["align_epochs"] == 5 and cells["freezing"] == "frozen-body")

    rows = cross(
        {"align_epochs": [0, 5], "seed": SEEDS, "freezing": ["full", "frozen-body"], "body_weights": ["random", "pretrained"]}, error
    )
    effect = one(rows)
    assert effect.difference == pytest.approx(-0.05, abs=0.002)
    assert effect.interaction["where"] == {"freezing": "frozen-body"}, "not the other half, where it does nothing"
    assert (effect.interaction["difference"], effect.interaction["elsewhere"]) == pytest.approx((-0.1, 0), abs=0.002)
    assert effect.interaction["p_adjusted"] < 1e-6
    assert any("The effect depends on the context: with freezing frozen-body it is -0.1" in note for note in effect.notes)
    same = one([row | {"test_error": row["test_error"] if row["freezing"] == "full" else 0.5 + 0.001 * RNG.normal()} for row in rows])
    assert same.interaction is None


def test_a_level_that_is_a_mean_over_more_trials_does_not_seem_to_vary_less():
    """Naive trials do not read the proxy, so each is the baseline of five aligned ones; all vary alike. 100 draws: binomial bound 10."""
    rng = np.random.default_rng(5)
    knobs = {"align_epochs": [0, 10], "proxy": list("abcde"), "seed": list(range(10))}
    rows = cross(knobs, lambda cells: 0.0)
    false = 0
    for _ in range(100):
        drawn = [row | {"test_error": 0.3 + 0.02 * rng.normal()} for row in rows]
        (contrast,) = paired_differences(drawn, "align.epochs", 0)
        ratio, p = compare_variances(contrast)
        false += p < 0.05
    assert false <= 10
    by_proxy = {proxy: [row["test_error"] for row in drawn if row["proxy"] == proxy] for proxy in [None, *"abcde"]}
    expected = np.sqrt(np.mean([np.var(by_proxy[proxy]) for proxy in "abcde"]) / np.var(by_proxy[None]))
    assert ratio == pytest.approx(expected), "pooled over proxies"
    naive = np.array(by_proxy[None])
    least = min(stats.pearsonr(by_proxy[proxy] + naive, by_proxy[proxy] - naive).pvalue for proxy in "abcde")
    assert p == pytest.approx(min(1, 5 * least))


def test_a_smaller_spread_over_seeds_is_told():
    quiet, loud = 0.5 + 0.001 * RNG.normal(size=12), 0.5 + 0.05 * RNG.normal(size=12)
    effect = one(table(list(quiet), list(loud)))
    assert effect.sd_ratio == pytest.approx(quiet.std(ddof=1) / loud.std(ddof=1))
    assert effect.p_variance_adjusted < 0.001
    assert any(note.startswith("Its standard deviation over seeds is ") for note in effect.notes)


def test_skewed_differences_of_few_seeds_are_flagged_and_judged_all_the_same():
    rng = np.random.default_rng(0)
    knobs = {"align_epochs": [0, 5], "seed": list(range(5)), "freezing": [f"top-layers:{n}" for n in range(1, 9)]}
    skewed = one(cross(knobs, lambda cells: 0.5 + (0.1 * rng.exponential() ** 2 if cells["align_epochs"] else 0.0)))
    assert skewed.flags == ("skewed-differences",)
    assert skewed.verdict is not None
    normal = one(cross(knobs, lambda cells: 0.5 + 0.01 * rng.normal()))
    assert normal.flags == ()


def test_what_an_interval_covers_is_said():
    assert "one split of the data" in one(table([0.3, 0.4], [0.3, 0.5])).covers
    rows = [row | {"split_seed": row["seed"]} for row in table([0.3, 0.4], [0.3, 0.5])]
    assert "redrawn by seed" in one(rows, pair_by=("seed", "split_seed")).covers


def test_all_faults_are_told_at_once():
    with pytest.raises(ConfigError) as caught:
        compare(ROWS, "align.epochs", 7, by="seed", margin="no", alpha=1, metric="err")
    assert {fault.path for fault in caught.value.faults} == {"--by", "--margin", "--alpha", "--metric", "--baseline"}


def test_over_tasks_alone_takes_two_tasks():
    with pytest.raises(ConfigError, match="--by: must be task"):
        compare([row for row in ROWS if row["task"] == "digits"], "align.epochs", 0, by="all")


def test_effects_of_an_arrow_table_are_those_of_its_rows():
    found = effects(pa.Table.from_pylist(ROWS), "align.epochs", 0).to_pylist()
    compared = compare(ROWS, "align.epochs", 0).effects
    assert [(row["task"], row["level"], row["difference"], row["verdict"], row["p_adjusted"]) for row in found] == [
        (effect.task, effect.level, effect.difference, effect.verdict, effect.p_adjusted) for effect in compared
    ]
    assert found[0]["flags"] == []
    with pytest.raises(ConfigError, match="must be rows of one sweep"):
        effects(pa.Table.from_pylist([row | {"sweep": row["task"]} for row in ROWS]), "align.epochs", 0)


def test_levels_of_different_types_are_one_column_of_text():
    rows = cross({"seed": SEEDS, "finetune_clip": [1.0, 2.0, None]}, lambda cells: 0.5 + 0.01 * RNG.normal())
    assert effects(pa.Table.from_pylist(rows), "finetune.clip", None)["level"].to_pylist() == [1.0, 2.0]
    assert effects(pa.Table.from_pylist(rows), "finetune.clip", 1.0)["level"].to_pylist() == [None, 2.0]
