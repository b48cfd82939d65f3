"""The order in which trials start: the longest path of computation that hangs on a trial comes first."""

from __future__ import annotations

from collections.abc import Iterable
from random import Random

import pytest

from orca_core.config.resolve import resolve_config
from orca_core.stages import Stage
from sweeper.planning.cost import CostModel, Measured
from sweeper.planning.forecast import forecast
from sweeper.planning.order import estimated_once, longest_path_first
from sweeper.planning.planner import Planner
from sweeper.planning.trials import PlannedTrial
from sweeper.running.simulated_store import SimulatedTables, SimulatedWorkspace
from sweeper.running.simulated_workers import EPOCH_S
from sweeper.running.simulation import Simulation
from sweeper.space.reading import load_space

CONFIG = resolve_config({"task": "digits"})


def trial(name: str, align: str, epochs: int, own: int) -> PlannedTrial:
    """A trial with an alignment that others may share, none if `epochs` is 0, and fine-tuning of its own; an epoch takes a second."""
    shared = (Stage("align", align, end=epochs),) if epochs else ()
    return PlannedTrial(name, CONFIG, name[0], 0, "", (*shared, Stage("finetune", name, end=own)), name)


def seconds(trial: PlannedTrial, stage: Stage) -> float:
    return float(stage.end - stage.start)


class Mean(Random):
    """Draws the middle of every range."""

    def uniform(self, a: float, b: float) -> float:
        return (a + b) / 2


def costs_of_the_simulation(trials: Iterable[PlannedTrial]) -> CostModel:
    bodies = {(trial.config.task, trial.config.body.name) for trial in trials}
    return CostModel(Measured(seconds={(kind, *body): each for kind, each in EPOCH_S.items() for body in bodies}))


def order(trials: list[PlannedTrial], **options) -> str:
    return " ".join(one.id for one in longest_path_first(trials, seconds, **options))


def test_a_leader_counts_with_the_longest_trial_that_waits_for_it_and_a_follower_with_what_is_left_of_it():
    # The path through alignment a is 6 + 4; once it is there, 4, 2 and 1 seconds are left of its trials, g1 being the leader.
    group = [trial("g3", "a", 6, 1), trial("g2", "a", 6, 2), trial("g1", "a", 6, 4)]
    assert order([trial("s1", "", 0, 9), trial("s2", "", 0, 3), *group]) == "g1 s1 s2 g2 g3"
    assert order([trial("s1", "", 0, 11), *group]) == "s1 g1 g2 g3"


def test_what_does_not_share_counts_with_its_own_duration():
    assert order([trial("g3", "a", 6, 1), trial("s", "", 0, 8), trial("g1", "a", 6, 4)], share=False) == "g1 s g3"


def test_one_that_leaves_a_trajectory_later_counts_with_the_rest_of_the_way():
    # `near` leaves at 3 and takes 12 seconds in all; `far` goes on alone from there: 6 more epochs and 1 of its own.
    assert order([trial("far", "a", 9, 1), trial("near", "a", 3, 9), trial("s", "", 0, 8), trial("t", "", 0, 6)]) == "near s far t"


def test_a_trial_of_a_group_counts_with_the_time_of_its_group():
    config = resolve_config({"task": "digits", "finetune.fused": 4})
    fused = PlannedTrial("g", config, "g", 0, "", (Stage("finetune", "g", end=2),), "g")
    assert order([trial("s1", "", 0, 7), fused, trial("s2", "", 0, 9)]) == "s2 g s1", "its share is 2 of 8 seconds"


def test_equal_paths_keep_the_order_of_the_plan():
    assert order([trial(name, "", 0, 5) for name in "cab"]) == "c a b"


def test_earlier_cohorts_come_first_and_have_leaders_of_their_own():
    cohort = {"g2": 0, "s": 0, "g1": 1}
    trials = [trial("g1", "a", 6, 4), trial("s", "", 0, 9), trial("g2", "a", 6, 1)]
    assert order(trials, cohort_of=lambda one: cohort[one.id]) == "g2 s g1", "g2 leads, so the path of g1 hangs on it"


@pytest.mark.parametrize(("name", "slots"), [("freezing-laptop", 1), ("embedder-epochs-laptop", 8), ("pretraining-ladder-laptop", 64)])
def test_the_forecast_is_what_a_run_takes(name, slots):
    """But for the moments in which states are stored, and chance, which the simulated workers have and the forecast has not."""
    plan = Planner(space := load_space(name)).plan
    costs = costs_of_the_simulation(plan.trials)
    todo = longest_path_first(plan.trials, costs.seconds)
    simulation = Simulation(Planner(space), todo, SimulatedTables(), SimulatedWorkspace(), slots=slots, random=Mean())
    simulation.run()
    expected = forecast(todo, costs.seconds, slots, plan.keep_at)
    assert expected <= simulation.now <= 1.03 * expected
    assert expected >= max(costs.totals(todo)[1] / slots, *map(costs.trial_seconds, todo)) - 1e-6


@pytest.mark.parametrize("name", ["freezing-laptop", "pretraining-ladder-laptop"])
def test_sweeps_end_sooner_than_in_the_order_of_durations_and_not_far_from_the_bound(name):
    trials = Planner(space := load_space(name)).plan.trials
    costs = costs_of_the_simulation(trials)

    def simulate(todo: list[PlannedTrial]) -> float:
        simulation = Simulation(Planner(space), todo, SimulatedTables(), SimulatedWorkspace(), slots=8)
        simulation.run()
        return simulation.now

    bound = max(costs.totals(trials)[1] / 8, *map(costs.trial_seconds, trials))
    by_path = simulate(longest_path_first(trials, costs.seconds))
    assert by_path < simulate(sorted(trials, key=costs.trial_seconds, reverse=True))
    assert by_path < 1.4 * bound


def test_each_stage_is_estimated_once_for_order_totals_and_forecast():
    trials = Planner(load_space("freezing-laptop")).plan.trials
    costs, asked = CostModel(), list[tuple[str, Stage]]()

    def counted(trial: PlannedTrial, stage: Stage) -> float:
        asked.append((trial.id, stage))
        return costs.seconds(trial, stage)

    once = estimated_once(counted)
    ordered = longest_path_first(trials, once)
    assert ordered == longest_path_first(trials, costs.seconds)
    assert costs.totals(trials, once) == costs.totals(trials)
    assert forecast(ordered, once, 2) == forecast(ordered, costs.seconds, 2)
    assert len(asked) == len(set(asked)) == sum(len(trial.stages) for trial in trials)


def test_the_forecast_of_ten_thousand_trials_is_no_less_than_their_stages_over_slots():
    trials = [trial(f"{number}", f"{number % 1000}", 1 + number % 7, 1 + number % 11) for number in range(10_000)]
    costs = CostModel()
    todo = longest_path_first(trials, costs.seconds)
    assert forecast(todo, costs.seconds, 100) >= costs.totals(todo)[1] / 100
