"""What planned seeds can show, from the spread in earlier results."""

from __future__ import annotations

import numpy as np
import pytest
from statsmodels.stats.power import TTestPower

from sweeper.analysis.detectable import Spread, spreads
from sweeper.planning.planner import make_plan
from sweeper.show.plan_seeds import seed_lines
from sweeper.space.reading import parse_space

SPACE = {
    "name": "earlier",
    "base": {"task": "digits", "align.epochs": 0},
    "space": {"freezing": {"grid": ["full", "bias", "layernorm"]}, "body.weights": {"grid": ["random", "pretrained"]}},
    "seeds": 5,
}


def test_the_spread_is_that_of_an_analysis_of_variance_without_arms_and_seeds(workspace, simulate):
    """Six arms on five seeds: sqrt(2 SS / (5 x 4)), with the sum of squares by statsmodels."""
    import pandas as pd
    from statsmodels.formula.api import ols

    rng, errors = np.random.default_rng(2), {}

    def error(cells):
        key = (f"{cells['freezing']} {cells['body_weights']}", cells["seed"])
        errors[key] = 0.1 * (cells["freezing"] == "full") + 0.05 * cells["seed"] + 0.01 * rng.normal()
        return errors[key]

    simulate(SPACE, error)
    frame = pd.DataFrame([{"arm": arm, "seed": f"s{seed}", "y": value} for (arm, seed), value in errors.items()])
    fitted = ols("y ~ C(arm) + C(seed)", frame).fit()
    spread = spreads(workspace.results, [("digits", "mini-swin"), ("digits", "mini-roberta")])[("digits", "mini-swin")]
    assert (spread.sd, spread.arms, spread.df) == (pytest.approx(np.sqrt(2 * fitted.ssr / fitted.df_resid)), 6, 20)
    assert ("digits", "mini-roberta") not in spreads(workspace.results, [("digits", "mini-roberta")])


def test_the_least_difference_and_the_seeds_for_another_have_the_stated_power():
    """The issue's own example: with a spread of 0.015, differences of 0.013 take about 13 seeds."""
    spread = Spread(0.015, 10, 20)
    assert TTestPower().power(spread.detectable(5) / 0.015, 5, 0.05) == pytest.approx(0.8, abs=1e-6)
    assert spread.seeds_for(0.013) == int(np.ceil(TTestPower().solve_power(0.013 / 0.015, power=0.8, alpha=0.05)))
    assert spread.seeds_for(1e-6) is None


def test_a_plan_says_which_differences_its_seeds_can_show(workspace, simulate):
    plan = make_plan(parse_space(SPACE))
    assert list(seed_lines(plan, workspace.results)) == [
        "5 seeds; the least difference that they show is unknown on digits: no earlier results of this task and body"
    ]
    rng = np.random.default_rng(0)
    simulate(SPACE, lambda cells: 0.3 + 0.01 * rng.normal())
    (line,) = seed_lines(plan, workspace.results)
    assert line.startswith("5 seeds show differences of test error from 0.018 ")
    assert "on digits with mini-swin (one verdict with 80 % power; 6 earlier arms); half of that takes 14" in line
    single = make_plan(parse_space(SPACE | {"seeds": 1}))
    assert list(seed_lines(single, workspace.results)) == ["one seed: no difference between arms can be told from chance"]
