"""A planner that is told of scores: the plan of version 0.1, whatever the order of telling, and one arm touched each time."""

from __future__ import annotations

import hashlib
import json
import math
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orca_core.identity import trial_id
from orca_core.tasks import find_task
from orca_core.tasks.builtin import laptop_recipe
from sweeper.planning.planner import Planner, make_plan
from sweeper.planning.trials import Plan, PlannedTrial
from sweeper.space.reading import parse_space

PROPOSALS = json.loads((Path(__file__).parents[1] / "fixtures" / "proposals_v01.json").read_text())
"""Plans of version 0.1 by name: after so many scores, the hash of their trials; at the end the trials themselves."""

SPACE = parse_space(PROPOSALS["tpe"]["space"])
OVERLAPPING = parse_space(
    {
        "name": "overlapping",
        "base": {"task": "digits", "align.epochs": 0},
        "variants": {"a": {"freezing": "full"}, "b": {"freezing": "layernorm"}, "c": {"freezing": "full", "proxy": "noise"}},
        "space": {"finetune.dropout": {"choice": [0.0, 0.1]}, "finetune.epochs": {"int": [1, 2]}},
        "search": {"algorithm": "tpe", "trials": 6, "lag": 2},
        "seeds": 2,
    }
)
"""Few values and arms that agree: candidates repeat each other, within an arm and across arms."""


def score(trial_id: str) -> float:
    """A made-up metric of a trial; one in nine fails."""
    number = int(hashlib.sha256(trial_id.encode()).hexdigest()[:8], 16)
    return math.inf if number % 9 == 0 else number / 2**32


def nearly(trial: PlannedTrial) -> set[str]:
    """The ids of a trial and of those whose learning rate differs by rounding: logarithms of some processors differ in the last bit."""
    lr, ids = trial.config.finetune.lr, {trial.id}
    for direction in (0.0, math.inf):
        nudged = lr
        for _ in range(4):
            nudged = math.nextafter(nudged, direction)
            ids.add(trial_id(trial.config.model_copy(update={"finetune": trial.config.finetune.model_copy(update={"lr": nudged})})))
    return ids


def listing(plan: Plan) -> list[list]:
    return [[trial.id, trial.arm, trial.candidate, trial.variant] for trial in plan.trials]


@pytest.mark.parametrize("name", PROPOSALS)
def test_plans_are_those_of_version_01(name, monkeypatch):
    monkeypatch.setitem(find_task("digits").recipes, "laptop", laptop_recipe(2, epochs=6, batch_size=16, lr=3e-3))  # as it was then
    space, steps = parse_space(PROPOSALS[name]["space"]), {step["known"]: step for step in PROPOSALS[name]["steps"]}
    planner, told = Planner(space), set()
    while True:
        plan = planner.plan
        if step := steps.pop(len(told), None):
            assert (plan.combinations, plan.proposed_later) == (step["combinations"], step["proposed_later"])
            whole = isinstance(step["trials"][0], list)
            hashed = [hashlib.sha256(json.dumps(listing(plan)).encode()).hexdigest()[:16]]
            if whole:
                for trial, (id, *others) in zip(plan.trials, step["trials"], strict=True):
                    assert id in nearly(trial)
                    assert [trial.arm, trial.candidate, trial.variant] == others
            else:
                assert hashed == step["trials"]
        new = [trial.id for trial in plan.trials if trial.id not in told]
        for trial in list(reversed(new))[:7]:
            told.add(trial)
            planner.tell(trial, score(trial))
        if not new:
            break
    assert not steps


@pytest.mark.parametrize("space", [SPACE, OVERLAPPING], ids=lambda space: space.name)
@settings(max_examples=8, deadline=None)
@given(data=st.data())
def test_a_told_planner_is_one_made_from_the_same_scores(space, data):
    planner, scores, waiting = Planner(space), {}, []
    waiting = [trial.id for trial in planner.plan.trials]
    for _ in range(data.draw(st.integers(0, 120))):
        if not waiting:
            break
        trial = waiting.pop(data.draw(st.integers(0, len(waiting) - 1)))
        scores[trial] = score(trial)
        before = {known.id for known in planner.plan.trials}
        proposed = [new.id for new in planner.tell(trial, scores[trial])]
        assert {known.id for known in planner.plan.trials} == before | set(proposed)
        assert not before.intersection(proposed)
        waiting += proposed
    fresh = make_plan(space, scores=scores)
    assert planner.plan == fresh
    assert planner.proposed_later == fresh.proposed_later
    places = {stage.folder for trial in fresh.trials for stage in trial.stages}
    assert {place: ends for place in places if (ends := planner.ends_of(place))} == fresh.keep_at


def test_arms_that_share_a_trial_are_all_told_of_it():
    planner = Planner(OVERLAPPING)
    waiting, ran = [trial.id for trial in planner.plan.trials], 0
    while waiting:
        trial = waiting.pop(0)
        ran += 1
        waiting += [new.id for new in planner.tell(trial, score(trial))]
    assert planner.proposed_later == 0
    assert planner.plan.combinations == 3 * 6 * 2 > len(planner.plan.trials) == ran


def test_a_score_is_told_once():
    planner = Planner(SPACE)
    trial = planner.plan.trials[0].id
    planner.tell(trial, 0.5)
    assert planner.tell(trial, 0.5) == []
    with pytest.raises(ValueError, match="must not change, but got"):
        planner.tell(trial, 0.6)


def test_a_combination_is_resolved_once_whatever_the_number_of_seeds(monkeypatch):
    calls = []
    from sweeper.space import space as spaces

    resolve = spaces.resolve_config
    monkeypatch.setattr(spaces, "resolve_config", lambda overrides: calls.append(overrides) or resolve(overrides))
    monkeypatch.setattr("sweeper.planning.planned_arm.resolve_config", lambda overrides: calls.append(overrides) or resolve(overrides))
    space = parse_space({"name": "s", "base": {"task": "digits"}, "space": {"align.epochs": {"grid": [0, 1, 2]}}, "seeds": 5})
    assert len(make_plan(space).trials) == 15
    assert len(calls) == 3
