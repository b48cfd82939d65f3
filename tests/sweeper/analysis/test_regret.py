"""Regret@k by hand, against enumeration, and as findings of recorded sweeps."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from made_rows import cross
from scipy import stats

from sweeper.analysis.answers import answer, read_evidence
from sweeper.analysis.regret import expected_least, find_regrets, least_of_first, regret_of_seed

ERRORS = {"photos": 0.10, "fractals": 0.20, "noise": 0.40, "pydoc": 0.15}
DISTANCES = {"photos": 3.0, "fractals": 1.0, "noise": 9.0, "pydoc": 2.0}


def made(error=lambda c: ERRORS[c["proxy"]], distance=lambda c: DISTANCES[c["proxy"]], **knobs):
    rows = cross({"seed": [0], "proxy": list(ERRORS), **knobs}, error)
    return [row | {"proxy_distance": distance(row)} for row in rows]


def test_the_least_of_a_few_is_the_mean_over_all_ways_to_draw_them():
    errors = [0.3, 0.1, 0.4, 0.1, 0.5]
    for k in range(1, 6):
        drawn = [min(few) for few in itertools.combinations(errors, k)]
        assert expected_least(errors, k) == pytest.approx(np.mean(drawn))


def test_regret_by_hand():
    """Ranked fractals (0.20), pydoc (0.15), photos (0.10), noise (0.40): 0.10 after the first, 0.05 after two, then 0. One at random has
    (0.1 + 0.2 + 0.4 + 0.15) / 4 - 0.1 = 0.1125; two have (3 x 0.10 + 2 x 0.15 + 0.20) / 6 - 0.1 = 0.2 / 6."""
    for k, regret, at_random in ((1, 0.10, 0.1125), (2, 0.05, 0.2 / 6), (3, 0.0, 0.0125)):
        found = find_regrets(made(), "proxy_distance", k)["digits"]
        assert (found.regret.mean, found.at_random, found.n, found.proxies) == (pytest.approx(regret), pytest.approx(at_random), 1, 4)
        assert (found.regret.low, found.p) == (None, None)
    assert find_regrets(made(), "proxy_distance", 4) == {}, "all proxies are tried"


def test_ties_are_broken_at_random():
    """Two proxies share the first place: 0.10 or 0.20, each half of the time; with a third first, the tie is for the second place."""
    assert least_of_first([(1, 0.10), (1, 0.20), (2, 0.05)], 1) == pytest.approx(0.15)
    assert least_of_first([(0, 0.15), (1, 0.10), (1, 0.20)], 2) == pytest.approx((0.10 + 0.15) / 2)
    assert regret_of_seed([(1, 0.1), (1, 0.2), (1, 0.6)], 1).regret == regret_of_seed([(1, 0.1), (1, 0.2), (1, 0.6)], 1).at_random


def test_scores_rank_the_other_way_round():
    rows = [row | {"proxy_logme": -row["proxy_distance"]} for row in made()]
    assert find_regrets(rows, "proxy_logme", 1)["digits"] == find_regrets(rows, "proxy_distance", 1)["digits"]


def test_the_interval_is_that_of_the_t_test_over_seeds_and_settings_are_averaged_within():
    rng = np.random.default_rng(0)
    errors: dict[tuple, float] = {}

    def error(cells):
        return errors.setdefault((cells["seed"], cells["proxy"], cells["freezing"]), float(rng.uniform(0.1, 0.5)))

    rows = made(error, seed=range(6), freezing=["full", "bias"])
    found = find_regrets(rows, "proxy_distance", 1, apart=["freezing"])["digits"]
    of_seed, gains = [], []
    for seed in range(6):
        settings = [[errors[seed, proxy, freezing] for proxy in ERRORS] for freezing in ("full", "bias")]
        first = [held[list(ERRORS).index("fractals")] for held in settings]
        of_seed.append(np.mean([error - min(held) for error, held in zip(first, settings, strict=True)]))
        gains.append(of_seed[-1] - np.mean([np.mean(held) - min(held) for held in settings]))
    interval = stats.ttest_1samp(of_seed, 0).confidence_interval()
    assert found.regret == pytest.approx((np.mean(of_seed), interval.low, interval.high))
    assert (found.p, found.n) == (pytest.approx(stats.ttest_1samp(gains, 0).pvalue), 6)


def test_over_tasks_regrets_are_shares_of_the_range():
    rows = made() + [row | {"task": "other", "test_error": 100 * row["test_error"]} for row in made()]
    found = find_regrets(rows, "proxy_distance", 1)
    assert found["other"].regret.mean == pytest.approx(10)
    assert (found[None].regret.mean, found[None].n) == (pytest.approx(0.1 / 0.3), 2)
    assert found[None].regret.low == pytest.approx(0.1 / 0.3)


def test_two_proxies_failed_trials_and_unranked_ones_do_not_count():
    rows = made()
    assert find_regrets(rows[:2], "proxy_distance", 1) == {}
    broken = [*rows[:3], rows[3] | {"status": "FAIL", "test_error": 0.0}, rows[3] | {"proxy_distance": None, "test_error": 0.0}]
    assert find_regrets(broken, "proxy_distance", 1)["digits"].proxies == 3


def test_findings_say_which_rankings_pick_a_proxy_that_is_nearly_the_best(workspace, simulate):
    proxies = ["photos", "fractals", "noise-matched:photos", "photos+shuffled"]
    space = {"name": "ranks", "base": {"task": "digits", "align.epochs": 1}, "space": {"proxy": {"grid": proxies}}, "seeds": 5}

    def outcome(cells):
        at = proxies.index(cells["proxy"])
        error = 0.1 + 0.1 * at + 0.001 * cells["seed"] * (-1) ** at
        return {"status": "COMPLETE", "test_error": error, "valid_error": error, "proxy_distance": float(at), "proxy_logme": -float(3 - at)}

    simulate(space, outcome)
    found = {finding.name: finding for finding in answer(read_evidence(workspace.results, "ranks"))}
    good, bad = found["regret-proxy-distance"], found["regret-proxy-logme"]
    assert (good.verdict, bad.verdict) == ("yes", "no")
    assert good.statements[0].text.startswith("regret@1 0 [")
    assert bad.statements[0].numbers[0]["regret"]["mean"] == pytest.approx(0.3, abs=0.01)
    assert "regret-proxy-h-score" not in found, "no trial has it"
    assert math.isclose(good.statements[0].numbers[0]["at_random"], 0.15, abs_tol=0.01)
