"""Shares of variance, by hand and by statsmodels."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from made_rows import cross
from statsmodels.formula.api import ols
from statsmodels.stats.anova import anova_lm

from orca_core.errors import ConfigError
from sweeper.analysis import importance
from sweeper.analysis.variance_shares import shares_of_variance

RNG = np.random.default_rng(5)


def shares(rows, **options):
    return {tuple(share.factors): share for share in shares_of_variance(rows, **options)}


def test_shares_by_hand():
    """Errors 0, 1, 2, 3 for two factors without noise: sums of squares 4 and 1 for each of two equal seeds, of 5 in all."""
    errors = {("full", "random"): 0.0, ("full", "pretrained"): 1.0, ("bias", "random"): 2.0, ("bias", "pretrained"): 3.0}
    knobs = {"seed": [0, 1, 2], "freezing": ["full", "bias"], "body_weights": ["random", "pretrained"]}
    found = shares(cross(knobs, lambda cells: errors[cells["freezing"], cells["body_weights"]]))
    assert found["freezing",].share == pytest.approx(0.8)
    assert found["body.weights",].share == pytest.approx(0.2)
    assert sum(share.share for share in found.values()) == pytest.approx(1)
    assert all(share.balanced for share in found.values())
    assert (found["freezing",].low, found["freezing",].high) == pytest.approx((0.8, 0.8)), "all seeds agree"


def test_shares_are_those_of_statsmodels():
    knobs = {"seed": range(4), "freezing": ["full", "bias", "layernorm"], "body_weights": ["random", "pretrained"]}
    rows = cross(knobs, lambda c: 0.3 * (c["freezing"] == "full") * (c["body_weights"] == "random") + 0.1 * RNG.normal())
    frame = pd.DataFrame(rows).astype({"seed": str})
    table = anova_lm(ols("test_error ~ C(seed) + C(freezing) * C(body_weights)", frame).fit(), typ=2)
    squares, df = table["sum_sq"], table["df"]
    found = shares(rows)
    names = {("freezing",): "C(freezing)", ("body.weights",): "C(body_weights)", ("seed",): "C(seed)", ("rest",): "Residual"}
    names[tuple(sorted(("freezing", "body.weights")))] = "C(freezing):C(body_weights)"
    noise = squares["Residual"] / df["Residual"]
    for factors, name in names.items():
        share = next(share for key, share in found.items() if tuple(sorted(key)) == tuple(sorted(factors)))
        assert share.share == pytest.approx(squares[name] / squares.sum())
        if factors != ("rest",):
            assert share.corrected == pytest.approx(max(0, (squares[name] - df[name] * noise) / (squares.sum() + noise)))


def test_the_interval_is_the_jackknife_over_seeds():
    rows = cross({"seed": range(5), "freezing": ["full", "bias"]}, lambda c: 0.3 * (c["freezing"] == "full") + 0.1 * RNG.normal())
    whole = shares(rows)["freezing",]
    parts = [shares([row for row in rows if row["seed"] != seed])["freezing",].share for seed in range(5)]
    pseudo = [5 * whole.share - 4 * part for part in parts]
    half = 2.7764451051977987 * np.std(pseudo, ddof=1) / math.sqrt(5)
    assert (whole.low, whole.high) == pytest.approx((max(0, np.mean(pseudo) - half), min(1, np.mean(pseudo) + half)))


def test_a_trial_that_does_not_read_a_knob_stands_for_all_of_its_values():
    knobs = {"seed": [0, 1, 2], "align_epochs": [0, 10], "proxy": ["photos", "noise"]}
    found = shares(cross(knobs, lambda c: 0.5 - 0.1 * (c["proxy"] == "photos") + 0.001 * RNG.normal()))
    assert all(share.balanced for share in found.values())
    proxy, epochs = found["proxy",].share, found["align.epochs",].share
    both = next(share.share for factors, share in found.items() if set(factors) == {"proxy", "align.epochs"})
    assert (proxy, epochs, both) == pytest.approx((1 / 3, 1 / 3, 1 / 3), abs=0.02)  # one of four cells differs


def test_what_is_not_crossed_is_told():
    rows = cross({"seed": [0, 1, 2], "freezing": ["full", "bias"], "body_weights": ["random", "pretrained"]}, lambda c: RNG.normal())
    rows = [row for row in rows if (row["freezing"], row["body_weights"]) != ("full", "random")]
    found = shares(rows)
    assert not any(share.balanced for share in found.values())
    assert all(len(factors) == 1 for factors in found), "no interaction without all four combinations"


def test_tuned_knobs_are_looked_at_by_functional_anova():
    """The validation error depends on the rate alone. A forest over 40 candidates finds most of that."""
    draws = [(10 ** np.random.default_rng(n).uniform(-5, -2), float(np.random.default_rng(n + 100).uniform(0, 0.5))) for n in range(40)]
    rows = [
        {"trial": f"{seed}-{n}", "task": "digits", "arm": "a", "seed": seed, "candidate": n, "status": "COMPLETE"}
        | {"finetune_lr": lr, "finetune_dropout": dropout, "test_error": 0.5}
        | {"valid_error": (math.log10(lr) + 3) ** 2 + 0.01 * RNG.normal()}
        for seed in range(3)
        for n, (lr, dropout) in enumerate(draws)
    ]
    found = shares(rows)
    assert found["finetune.lr",].method == "fanova"
    assert found["finetune.lr",].share > 0.8
    assert found["finetune.lr",].share + found["finetune.dropout",].share == pytest.approx(1)
    assert found["finetune.lr",].low <= found["finetune.lr",].share <= found["finetune.lr",].high


def test_one_seed_and_equal_errors_have_shares_too():
    one = shares(cross({"seed": [0], "freezing": ["full", "bias"]}, lambda c: 0.5 * (c["freezing"] == "full")))
    assert (one["freezing",].share, one["freezing",].low, one["freezing",].corrected) == (pytest.approx(1), None, None)
    assert shares(cross({"seed": [0, 1], "freezing": ["full", "bias"]}, lambda c: 0.5))["freezing",].share == 0


def test_the_order_of_rows_changes_no_bit():
    rng = np.random.default_rng(7)
    rows = cross({"align_epochs": [0, 5, 10], "freezing": ["full", "bias"], "seed": [0, 1, 2]}, lambda cells: rng.normal())
    expected = [(share.factors, share.share, share.low, share.high) for share in shares_of_variance(rows)]
    for _ in range(5):
        shuffled = [rows[number] for number in rng.permutation(len(rows))]
        assert [(share.factors, share.share, share.low, share.high) for share in shares_of_variance(shuffled)] == expected


def test_where_nothing_varies_there_are_no_shares():
    with pytest.raises(ConfigError, match="that differ in knobs, and more of them"):
        shares_of_variance(cross({"seed": [0, 1]}, lambda c: 0.5))
    with pytest.raises(ConfigError, match="--metric"):
        shares_of_variance(cross({"seed": [0, 1], "freezing": ["full", "bias"]}, lambda c: 0.5), metric="err")


def test_importance_of_an_arrow_table():
    rows = cross({"seed": [0, 1], "freezing": ["full", "bias"]}, lambda c: 0.5 * (c["freezing"] == "full") + 0.1 * RNG.normal())
    table = importance(pa.Table.from_pylist(rows)).to_pylist()
    assert table[0]["factors"] == ["freezing"]
    assert sum(row["share"] for row in table) == pytest.approx(1)


def test_knobs_that_only_say_that_something_reads_them_are_no_factors():
    """Where nothing is aligned, no knob of alignment is read; a table without a plan has them as columns that vary."""
    knobs = {"align_epochs": [0, 10], "freezing": ["full", "bias"], "train_samples": [None, 100], "seed": [0, 1, 2]}
    rng = np.random.default_rng(3)
    rows = cross(knobs, lambda cells: 0.3 + 0.05 * (cells["freezing"] == "bias") + 0.01 * rng.normal())
    rows = [row | ({"align_lr": 0.1, "align_objective": "mmd"} if row["align_epochs"] else {}) for row in rows]
    named = shares_of_variance(rows, varied=["align_epochs", "freezing", "train_samples"])
    assert shares_of_variance(rows) == named
    assert {factor for share in named for factor in share.factors} >= {"align.epochs", "freezing", "train_samples"}
