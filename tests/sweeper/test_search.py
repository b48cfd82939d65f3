"""Candidates of an arm: random draws that all arms share, and TPE as a pure function of results."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sweeper.planning.planner import make_plan
from sweeper.planning.search import draw, list_candidates, mean_score
from sweeper.space.axes import Axis
from sweeper.space.search import SearchConfig

LR = Axis("finetune.lr", "loguniform", (1e-5, 1e-1), log=True)
EPOCHS = Axis("finetune.epochs", "int", (3, 10), step=3)
STEPS = Axis("align.class_samples", "int", (1, 1000), log=True)
DROPOUT = Axis("finetune.dropout", "uniform", (0.1, 0.5))
BODY = Axis("body", "choice", ("mini-swin", {"name": "mini-swin", "weights": "random"}))
ALL = (LR, EPOCHS, STEPS, DROPOUT, BODY)


def propose(axes: Sequence[Axis], scores: Sequence[float | None], **search) -> list[dict]:
    return list_candidates(axes, SearchConfig(algorithm="tpe", **search), scores)


def run_to_the_end(score, **search) -> tuple[list[dict], list[float | None]]:
    """A search in which each candidate's score is known as soon as it is proposed."""
    scores: list[float | None] = []
    while len(found := propose(ALL, scores, **search)) > len(scores):
        scores += [score(values) for values in found[len(scores) :]]
    return found, scores


# Random


@given(seed=st.integers(0, 2**32 - 1), number=st.integers(0, 10_000))
def test_draws_stay_in_their_range_and_on_their_step(seed, number):
    drawn = {axis.path: draw(axis, seed, number) for axis in ALL}
    assert 1e-5 <= drawn["finetune.lr"] <= 1e-1
    assert drawn["finetune.epochs"] in (3, 6, 9)
    assert 1 <= drawn["align.class_samples"] <= 1000
    assert isinstance(drawn["align.class_samples"], int)
    assert 0.1 <= drawn["finetune.dropout"] <= 0.5
    assert drawn["body"] in BODY.values


def test_draws_fill_their_range_on_their_scale():
    drawn = [draw(LR, 0, number) for number in range(400)]
    assert 0.4 < sum(value < 1e-3 for value in drawn) / 400 < 0.6
    assert {draw(EPOCHS, 0, number) for number in range(50)} == {3, 6, 9}
    assert {type(draw(BODY, 0, number)) for number in range(50)} == {str, dict}


def test_all_arms_of_a_random_search_see_the_same_draws(load):
    space = load("""
    base: {task: digits}
    space: {freezing: {grid: [full, layernorm]}, finetune.lr: {loguniform: [1e-5, 1e-1]}, finetune.dropout: {uniform: [0, 0.5]}}
    search: {algorithm: random, trials: 5}
    """)
    by_arm: dict[str, list] = {}
    for trial in make_plan(space).trials:
        by_arm.setdefault(trial.arm, []).append((trial.candidate, trial.config.finetune.lr, trial.config.finetune.dropout))
    first, second = by_arm.values()
    assert first == second
    assert len({lr for _, lr, _ in first}) == 5


def test_another_search_seed_draws_other_values():
    assert draw(LR, 0, 0) != draw(LR, 1, 0)


# TPE


@settings(max_examples=10, deadline=None)
@given(scores=st.lists(st.floats(0, 1), min_size=12, max_size=12), changed=st.integers(0, 11), lag=st.integers(1, 5))
def test_a_proposal_depends_only_on_results_at_least_lag_before_it(scores, changed, lag):
    other = [*scores[:changed], 2.0, *scores[changed + 1 :]]
    before, after = (propose([LR, BODY], known, trials=13, lag=lag) for known in (scores, other))
    assert len(before) == len(after) == 13
    assert before[: changed + lag] == after[: changed + lag]


def test_the_same_history_gives_the_same_proposals_and_another_history_others():
    first, scores = run_to_the_end(lambda values: values["finetune.dropout"], trials=16, lag=2)
    again, _ = run_to_the_end(lambda values: values["finetune.dropout"], trials=16, lag=2)
    assert first == again
    assert len(scores) == 16
    assert run_to_the_end(lambda values: -values["finetune.dropout"], trials=16, lag=2)[0] != first


@pytest.mark.parametrize("lag", [1, 3])
def test_as_many_candidates_are_open_at_once_as_the_lag(lag):
    assert len(propose(ALL, [], trials=8, lag=lag)) == lag
    assert len(propose(ALL, [0.1], trials=8, lag=lag)) == lag + 1
    assert len(propose(ALL, [0.1, None, 0.3], trials=8, lag=lag)) == lag + 1
    assert len(propose(ALL, [0.1] * 7, trials=8, lag=lag)) == 8


def test_proposals_home_in_on_what_was_good():
    found, _ = run_to_the_end(lambda values: abs(math.log10(values["finetune.lr"]) + 2), trials=40, lag=1)
    early, late = ([abs(math.log10(values["finetune.lr"]) + 2) for values in part] for part in (found[:10], found[-10:]))
    assert sum(late) < sum(early) / 2


def test_a_failed_candidate_counts_as_seen_and_teaches_nothing():
    scores = [math.inf if number % 2 else 0.1 * number for number in range(12)]
    assert len(propose(ALL, scores, trials=13, lag=1)) == 13
    assert len(propose(ALL, [math.inf] * 12, trials=13, lag=1)) == 13


@pytest.mark.parametrize(
    ("values", "mean"),
    [({0: 0.1, 1: 0.3}, 0.2), ({0: 0.1, 1: None}, None), ({0: 0.1, 1: math.inf}, math.inf), ({0: None, 1: math.inf}, None)],
)
def test_a_candidate_scores_the_mean_over_its_seeds(values, mean):
    assert mean_score(values) == mean
