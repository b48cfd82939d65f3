"""The rules of early stopping: when candidates are compared, and which of them are stopped. Expected values are worked out by hand."""

from __future__ import annotations

import math

import pytest

from sweeper.planning.rungs import find_stopped, list_rungs, mean_curve
from sweeper.space.file import SchedulerConfig

ASHA = SchedulerConfig(name="asha")


def at(rung: int, **values: float) -> dict[str, dict[int, float]]:
    """Candidates with the same value after every epoch up to the rung."""
    return {name: dict.fromkeys(range(1, rung + 1), value) for name, value in values.items()}


@pytest.mark.parametrize(
    ("keys", "epochs", "rungs"),
    [
        ({"name": "asha"}, 30, (1, 3, 9, 27)),
        ({"name": "asha"}, 27, (1, 3, 9)),  # stopping after the last epoch would not be early
        ({"name": "asha", "grace_period": 5, "reduction_factor": 2}, 30, (5, 10, 20)),
        ({"name": "asha", "reduction_factor": 1.5}, 10, (1, 2, 3, 4, 6, 9)),
        ({"name": "asha", "reduction_factor": 1.000001}, 5, (1, 2, 3, 4)),
        ({"name": "median", "grace_period": 3}, 30, (3, 6, 12, 24)),
        ({"name": "asha", "grace_period": 30}, 30, ()),
        ({"name": "fifo"}, 30, ()),
    ],
)
def test_rungs_are_spaced_geometrically_and_end_before_the_last_epoch(keys, epochs, rungs):
    assert list_rungs(SchedulerConfig(**keys), epochs) == rungs


def test_a_bracket_of_hyperband_leaves_out_the_first_rungs_of_asha():
    config = SchedulerConfig(name="hyperband")
    assert [list_rungs(config, 30, bracket) for bracket in range(5)] == [(1, 3, 9, 27), (3, 9, 27), (9, 27), (27,), ()]


def test_asha_keeps_one_in_so_many_rounded_down_but_at_least_the_best():
    curves = at(1, a=0.1, b=0.2, c=0.3, d=0.4, e=0.5)
    assert find_stopped(ASHA, curves, curves, 1) == {"b", "c", "d", "e"}  # 5 / 3 is 1
    assert find_stopped(SchedulerConfig(name="asha", reduction_factor=2), curves, curves, 1) == {"c", "d", "e"}
    assert find_stopped(ASHA, at(1, a=0.1, b=0.2), ["a", "b"], 1) == {"b"}
    assert find_stopped(ASHA, at(1, a=0.9), ["a"], 1) == set()


def test_asha_compares_with_all_but_stops_only_those_that_are_judged():
    curves = at(1, a=0.1, b=0.2, c=0.3, d=0.4, e=0.5, f=0.6)
    assert find_stopped(ASHA, curves, ["b", "d"], 1) == {"d"}


def test_median_compares_the_best_value_so_far_with_the_median_mean_of_the_others():
    median = SchedulerConfig(name="median", min_trials=2)
    curves = {"a": {1: 0.9, 2: 0.1}, "b": {1: 0.4, 2: 0.4}, "c": {1: 0.8, 2: 0.6}}
    # Means are 0.5, 0.4, 0.7; medians of the others 0.55, 0.6, 0.45; best values 0.1, 0.4, 0.6.
    assert find_stopped(median, curves, curves, 2) == {"c"}
    assert find_stopped(SchedulerConfig(name="median", min_trials=3), curves, curves, 2) == set()
    late = SchedulerConfig(name="median", min_trials=2, grace_period=2)  # means count from the grace period: 0.1, 0.4, 0.6
    assert find_stopped(late, curves, ["b"], 2) == {"b"}  # 0.4 against 0.35


@pytest.mark.parametrize("config", [ASHA, SchedulerConfig(name="median", min_trials=1)], ids=lambda config: config.name)
def test_equal_candidates_all_go_on(config):
    curves = at(1, a=0.5, b=0.5, c=0.5, d=0.5)
    assert find_stopped(config, curves, curves, 1) == set()
    assert find_stopped(config, curves | at(1, e=0.9), [*curves, "e"], 1) == {"e"}


@pytest.mark.parametrize("config", [ASHA, SchedulerConfig(name="median", min_trials=1)], ids=lambda config: config.name)
def test_an_infinite_value_is_worse_than_any_other(config):
    curves = at(1, a=math.inf, b=0.5, c=0.5)
    assert find_stopped(config, curves, curves, 1) == {"a"}
    hopeless = at(1, a=math.inf, b=math.inf)
    assert find_stopped(config, hopeless, hopeless, 1) == set()


def test_a_candidate_is_compared_by_the_mean_over_its_seeds():
    assert mean_curve([{1: 0.2, 2: 0.1, 3: 0.0}, {1: 0.4, 2: 0.5}], 2) == {1: pytest.approx(0.3), 2: pytest.approx(0.3)}
    assert mean_curve([{1: 0.2}, {1: math.inf}], 1) == {1: math.inf}
