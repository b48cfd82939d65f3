"""Tuning, then replicating: the best candidate of each arm runs on fresh seeds, which the scores alone decide."""

from __future__ import annotations

import math
from collections import defaultdict
from random import Random

import pytest
from simulated_sweep import SimulatedSweep

from orca_core.errors import ConfigError
from sweeper.planning.planner import Planner, make_plan
from sweeper.planning.trials import PlannedTrial
from sweeper.running.outcome import Outcome
from sweeper.running.recorder import scores_of
from sweeper.running.simulated_workers import simulate_error
from sweeper.running.simulation import Chances
from sweeper.space.reading import parse_space
from sweeper.space.space import SearchSpace

BASE = {"task": "digits", "body.weights": "random", "finetune": {"epochs": 4, "warmup_epochs": 0, "decay_epochs": None}}


def space_of(**keys) -> SearchSpace:
    """Two arms with six candidates each, of two seeds, and three replicates."""
    space = {"freezing": {"grid": ["full", "layernorm"]}, "finetune.lr": {"loguniform": [1e-5, 1e-2]}}
    search = {"algorithm": "tpe", "trials": 6, "lag": 2, "replicate": 3}
    return parse_space({"name": "s", "base": BASE, "space": space, "search": search, "seeds": 2} | keys)


def by_role(trials) -> dict[str, list[PlannedTrial]]:
    found = defaultdict(list)
    for trial in trials:
        found[trial.role].append(trial)
    return dict(found)


def run_planner(space: SearchSpace, score=lambda trial: simulate_error(trial, 4), seed: int = 0) -> Planner:
    planner, random = Planner(space), Random(seed)
    waiting = list(planner.plan.trials)
    while waiting:
        trial = waiting.pop(random.randrange(len(waiting)))
        waiting += planner.tell(trial.id, score(trial))
    return planner


@pytest.mark.parametrize("algorithm", ["tpe", "random"])
def test_the_best_candidate_of_each_arm_runs_on_the_seeds_after_those_of_tuning(algorithm):
    space = space_of(search={"algorithm": algorithm, "trials": 6, "lag": 2, "replicate": 3})
    assert make_plan(space).proposed_later + len(make_plan(space).trials) == 2 * (6 * 2 + 3)
    plan = run_planner(space).plan
    roles = by_role(plan.trials)
    assert {role: len(trials) for role, trials in roles.items()} == {"tuning": 24, "replicate": 6}
    assert {trial.config.seed for trial in roles["tuning"]} == {0, 1}
    assert {trial.config.seed for trial in roles["replicate"]} == {2, 3, 4}
    for arm in {trial.arm for trial in plan.trials}:
        means = defaultdict(list)
        for trial in roles["tuning"]:
            if trial.arm == arm:
                means[trial.candidate].append(simulate_error(trial, 4))
        best = min(means, key=lambda number: sum(means[number]))
        replicates = [trial for trial in roles["replicate"] if trial.arm == arm]
        assert {trial.candidate for trial in replicates} == {best}
        lr = next(trial.config.finetune.lr for trial in roles["tuning"] if (trial.arm, trial.candidate) == (arm, best))
        assert {trial.config.finetune.lr for trial in replicates} == {lr}


def test_the_order_in_which_trials_end_does_not_matter():
    first = run_planner(space_of())
    assert all(run_planner(space_of(), seed=seed).plan == first.plan for seed in range(1, 4))
    told = {trial.id: simulate_error(trial, 4) for trial in first.plan.trials}
    assert make_plan(space_of(), scores=told) == first.plan


def test_the_seeds_of_tuning_may_be_a_list():
    space = space_of(seeds=[7, 3])
    assert space.fresh_seeds == (8, 9, 10)


def test_failed_candidates_are_not_repeated_and_an_arm_of_failures_has_no_replicates():
    def score(trial: PlannedTrial) -> float:
        return math.inf if trial.knobs()["freezing"] != "full" or trial.candidate < 5 else 0.5

    planner = run_planner(space_of(), score)
    assert {(trial.candidate, trial.arm) for trial in by_role(planner.plan.trials)["replicate"]} == {
        (5, next(trial.arm for trial in planner.plan.trials if trial.knobs()["freezing"] == "full"))
    }
    assert planner.proposed_later == 0


def test_an_arm_with_nothing_to_tune_runs_on_the_seeds_of_the_replicates_at_once():
    space = {"freezing": {"grid": ["full", "frozen-both"]}, "finetune.lr": {"loguniform": [1e-5, 1e-2], "when": {"freezing": "full"}}}
    plan = make_plan(space_of(space=space))
    untuned = [trial for trial in plan.trials if trial.role == "replicate"]
    assert {trial.config.seed for trial in untuned} == {2, 3, 4}
    assert len({trial.arm for trial in untuned}) == 1
    done = run_planner(space_of(space=space)).plan
    assert {role: len(trials) for role, trials in by_role(done.trials).items()} == {"tuning": 12, "replicate": 6}


def run_to_the_end(space: SearchSpace, seed: int, **chances) -> tuple[dict[str, dict], int]:
    random, sweep, outcome, runs = Random(seed), SimulatedSweep(space), None, 0
    while outcome is not Outcome.FINISHED:
        runs += 1
        outcome = sweep.run(random, slots=random.choice((1, 4, 40)), chances=Chances(**chances) if runs < 5 else Chances())
    return sweep.planned_rows(), runs


SPACES = {
    "tpe": {},
    "random, asha": {"search": {"algorithm": "random", "trials": 8, "replicate": 2}, "scheduler": {"name": "asha", "cohort": 4}},
    "tpe, hyperband": {
        "search": {"algorithm": "tpe", "trials": 8, "lag": 2, "replicate": 2},
        "scheduler": {"name": "hyperband", "brackets": 2},
    },
}


@pytest.mark.parametrize("name", SPACES)
def test_whatever_happens_the_trials_are_the_same(name):
    space, found = space_of(**SPACES[name]), []
    for seed in range(5):
        rows, runs = run_to_the_end(space, seed, **({"stop": 0.02, "lost": 0.03} if seed else {}))
        found.append({trial: (row["role"], row["status"], row["seed"]) for trial, row in rows.items()})
        assert runs > 1 or not seed
    assert found == [found[0]] * 5
    replicates = [ends for ends in found[0].values() if ends[0] == "replicate"]
    assert len(replicates) == 2 * space.search.replicate
    assert {status for _, status, _ in replicates} == {"COMPLETE"}, "what is chosen is not stopped early"


def test_a_candidate_that_was_stopped_early_is_not_repeated():
    planned, _ = run_to_the_end(space_of(**SPACES["random, asha"]), 0)
    rows = planned.values()
    pruned = {(row["arm"], row["candidate"]) for row in rows if row["status"] == "PRUNED"}
    assert pruned
    assert not pruned & {(row["arm"], row["candidate"]) for row in rows if row["role"] == "replicate"}


def test_rows_of_a_sweep_that_is_edited_to_replicate_get_their_role():
    """The candidates of a finished search are tuning runs from then on."""
    plain, edited = (
        space_of(search={"algorithm": "random", "trials": 3}),
        space_of(search={"algorithm": "random", "trials": 3, "replicate": 2}),
    )
    sweep = SimulatedSweep(plain)
    assert sweep.run(Random(0), slots=4) is Outcome.FINISHED
    sweep.space = edited
    assert sweep.run(Random(0), slots=4) is Outcome.FINISHED
    roles = defaultdict(int)
    for row in sweep.tables.live_trials():
        roles[row["role"]] += 1
    assert roles == {"tuning": 12, "replicate": 4}
    told = {row["trial"]: scores_of(row, edited.columns_read) for row in sweep.tables.live_trials()}
    assert {trial.id for trial in make_plan(edited, scores=told).trials} == told.keys()


def test_what_cannot_be_replicated_is_said():
    with pytest.raises(ConfigError, match=r"search\.replicate: must be used with an algorithm that tunes"):
        space_of(space={"freezing": {"grid": ["full", "layernorm"]}}, search={"algorithm": "grid", "replicate": 2})
