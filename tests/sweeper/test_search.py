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


# Other algorithms of Optuna

NUMBERS = (LR, EPOCHS, DROPOUT)


def search_to_the_end(axes: Sequence[Axis], score, **search) -> list[dict]:
    """A search in which each candidate's score is known as soon as it is proposed."""
    scores: list = []
    config = SearchConfig(**search)
    while len(found := list_candidates(axes, config, scores)) > len(scores):
        scores += [score(values) for values in found[len(scores) :]]
    return found


@pytest.mark.parametrize(
    ("algorithm", "axes", "trials"), [("gp", (LR, BODY), 13), ("cmaes", NUMBERS, 14), ("nsga2", ALL, 20), ("tpe", ALL, 13)]
)
def test_what_learns_proposes_from_results_alone(algorithm, axes, trials):
    """The same history, the same proposals, however it came about; another history, others."""
    search = {"algorithm": algorithm, "trials": trials, "lag": 2}
    if algorithm == "nsga2":
        search["population"] = 4
    good = search_to_the_end(axes, lambda values: math.log10(values["finetune.lr"]), **search)
    scores = [math.log10(values["finetune.lr"]) for values in good]
    assert list_candidates(axes, SearchConfig(**search), scores) == good, "all at once, as after a restart"
    assert list_candidates(axes, SearchConfig(**search), scores, good[: trials - 3]) == good
    assert len(list_candidates(axes, SearchConfig(**search), scores[:5])) == 5 + 2
    other = search_to_the_end(axes, lambda values: -math.log10(values["finetune.lr"]), **search)
    assert other[:2] == good[:2]
    assert other != good
    assert {len(values) for values in good} == {len(axes)}
    assert all(1e-5 <= values["finetune.lr"] <= 1e-1 for values in good)


def test_cmaes_homes_in_on_what_was_good():
    def score(values) -> float:
        return abs(math.log10(values["finetune.lr"]) + 2) + abs(values["finetune.dropout"] - 0.4)

    found = search_to_the_end((LR, DROPOUT), score, algorithm="cmaes", trials=60, lag=2)
    early, late = ([score(values) for values in part] for part in (found[:8], found[-8:]))
    assert sum(late) < sum(early) / 2


def test_quasi_random_candidates_are_known_at_once_and_fill_the_range_more_evenly():
    config = SearchConfig(algorithm="qmc", trials=33)
    found = list_candidates(ALL, config, [])
    assert found == list_candidates(ALL, config, [0.5] * 10, found[:7])
    assert found != list_candidates(ALL, config.model_copy(update={"seed": 1}), [])
    shares = sorted((math.log10(values["finetune.lr"]) + 5) / 4 for values in found[1:])  # the first one is drawn
    assert all(sum(n / 8 <= share < (n + 1) / 8 for share in shares) == 4 for n in range(8)), "four of 32 in each eighth"


def test_two_metrics_are_minimised_together():
    def score(values) -> tuple[float, float]:
        return math.log10(values["finetune.lr"]), values["finetune.dropout"]

    found = search_to_the_end((LR, DROPOUT), score, algorithm="nsga2", trials=36, lag=2, population=4)
    for value in (lambda values: values["finetune.lr"], lambda values: values["finetune.dropout"]):
        early, late = (sorted(map(value, part))[: len(part) // 2] for part in (found[:12], found[-12:]))
        assert sum(late) <= sum(early)


# Points and earlier sweeps


@pytest.mark.parametrize("algorithm", ["random", "qmc", "tpe", "cmaes", "nsga2"])
def test_the_first_candidates_may_be_given(algorithm):
    points = [{"finetune.lr": 1e-3, "finetune.dropout": 0.2, "finetune.epochs": 6}, {"finetune.lr": 1e-2}]
    found = list_candidates(NUMBERS, SearchConfig(algorithm=algorithm, trials=4, points=points), [0.5] * 4)
    assert len(found) == 4
    assert found[0] == points[0]
    assert found[1]["finetune.lr"] == 1e-2
    assert {len(values) for values in found} == {3}


def test_points_are_checked(faults_in):
    found = faults_in("""
    base: {task: digits}
    space: {finetune.lr: {loguniform: [1e-5, 1e-1]}, finetune.epochs: {int: [3, 9], step: 3}, proxy: {choice: [photos, noise]}}
    search:
      algorithm: random
      trials: 2
      points: [{finetune.lr: 1.0, proxy: text}, {finetune.epochs: 4, finetune.lrr: 1e-3}, {}]
    """)
    assert found == [
        "search.points: must be at most search.trials = 2, but got 3.",
        "search.points.0.finetune.lr: must be a number from 1e-05 to 0.1, but got 1.0.",
        "search.points.0.proxy: must be one of photos, noise, but got 'text'.",
        "search.points.1.finetune.epochs: must be a whole number on the steps of its range, but got 4.",
        "search.points.1.finetune.lrr: must be a tuned knob. Did you mean 'finetune.lr'? Known: finetune.epochs, finetune.lr, proxy.",
    ]


def test_earlier_candidates_change_proposals_and_are_no_candidates_themselves():
    config = SearchConfig(algorithm="tpe", trials=3, lag=1)
    earlier = [({"finetune.lr": 10 ** -(1 + n / 5), "finetune.dropout": 0.2}, abs(n - 10) / 10) for n in range(20)]
    plain, warm = (list_candidates((LR, DROPOUT), config, [0.5, 0.4, 0.3], (), known) for known in ((), earlier))
    assert len(plain) == len(warm) == 3
    assert plain != warm


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ("search: {algorithm: cmaes}", "search.algorithm: must tune at least two ranges"),
        ("search: {algorithm: random, warm_start: [a]}", "search.warm_start: must be used with tpe or gp"),
        ("search: tpe\nmetric: [valid_error, valid_loss]", "metric: must be one metric, or under nsga2 a list of two"),
        ("search: nsga2\nmetric: [valid_error, valid_eror]", "metric: must be a metric that tasks report"),
        ("search: random\nscheduler: {name: hyperband, brackets: 5}", "scheduler.brackets: must be at most the number of cohorts, 4"),
    ],
)
def test_what_an_algorithm_cannot_do_is_said(faults_in, keys, said):
    text = f"base: {{task: digits}}\nspace: {{finetune.lr: {{loguniform: [1e-5, 1e-1]}}}}\n{keys}"
    assert any(line.startswith(said) for line in faults_in(text)), faults_in(text)
