"""Seeds until a question is decided: which trials a sweep runs depends on the scores alone, whatever happens on the way."""

from __future__ import annotations

import math
from collections import defaultdict
from functools import partial
from random import Random

import pytest
from simulated_sweep import SimulatedSweep

from orca_core.errors import ConfigError
from sweeper.analysis.comparison import compare
from sweeper.planning.planner import Planner, make_plan
from sweeper.planning.trials import PlannedTrial
from sweeper.running.outcome import Outcome
from sweeper.running.recorder import scores_of
from sweeper.running.simulation import Chances
from sweeper.space.reading import parse_space
from sweeper.space.space import SearchSpace

BASE = {"task": "digits", "finetune": {"epochs": 2, "warmup_epochs": 0, "decay_epochs": None}, "pretrain.epochs": 1}
GRID = {"align.epochs": {"grid": [0, 1, 2]}, "freezing": {"grid": ["full", "layernorm"]}}
QUESTION = {"factor": "align.epochs", "baseline": 0, "margin": 0.02}


def space_of(**keys) -> SearchSpace:
    """Two levels against a baseline, in two contexts: three trials of a seed and context."""
    seeds = {"until": "decided", "from": 3, "to": 12}
    return parse_space({"name": "s", "base": BASE, "space": GRID, "seeds": seeds, "question": QUESTION} | keys)


def noise(trial: PlannedTrial, sd: float = 0.01) -> float:
    """A normal number that depends only on the trial's id."""
    return Random(trial.id).gauss(0, sd)


def error_of(trial: PlannedTrial, epoch: int, effects=(0.0, 0.0, -0.03), sd: float = 0.01) -> float:
    """The error of a trial: what its level adds, and noise."""
    return 0.3 + effects[trial.config.align.epochs] + noise(trial, sd)


def scores(trial: PlannedTrial, **noise_of) -> dict[str, float]:
    return {"valid_error": 0.5, "test_error": error_of(trial, 2, **noise_of), "test_samples": 10_000}


def run_planner(space: SearchSpace, score=scores, order: Random | None = None) -> Planner:
    """Tell a planner of trials until there are no more, in an order of chance."""
    random = order or Random(0)
    planner = Planner(space)
    waiting = list(planner.plan.trials)
    while waiting:
        trial = waiting.pop(random.randrange(len(waiting)))
        waiting += planner.tell(trial.id, score(trial))
    return planner


def seeds_by_level(planner: Planner) -> dict[int, set[int]]:
    found = defaultdict(set)
    for trial in planner.plan.trials:
        found[trial.config.align.epochs].add(trial.config.seed)
    return dict(found)


# --------------------------------------------------------------------------------------------------------------- what is run


def test_a_sweep_begins_with_the_first_seeds_and_says_how_many_trials_may_follow():
    plan = make_plan(space_of())
    assert (len(plan.trials), plan.proposed_later, plan.combinations) == (18, 6 * 9, 72)
    assert {trial.config.seed for trial in plan.trials} == {0, 1, 2}


def test_clear_levels_stop_early_and_open_ones_go_on():
    planner = run_planner(space_of())
    of_level = {name.level: decision for name, decision in planner.deciding.decisions.items()}
    assert of_level[2].verdict == "helps"
    assert of_level[1].verdict == "no-difference"
    seeds = seeds_by_level(planner)
    assert {level: len(seeds[level]) for level in (1, 2)} == {level: of_level[level].seeds for level in (1, 2)}
    assert len(seeds[0]) == max(len(seeds[1]), len(seeds[2])) < 12, "the baseline has the seeds of the level that has most"
    assert planner.proposed_later == 0


def test_what_cannot_be_decided_is_given_up_with_the_number_of_seeds_it_would_take():
    effects = {"effects": (0.0, 0.005, 0.005), "sd": 0.05}
    question = QUESTION | {"margin": 0.001}
    planner = run_planner(space_of(question=question), partial(scores, **effects))
    decisions = planner.deciding.decisions.values()
    assert {decision.verdict for decision in decisions} == {"undecided"}
    assert all(decision.seeds_needed is None or decision.seeds_needed > 12 for decision in decisions)
    assert min(decision.seeds for decision in decisions) < 12


@pytest.mark.parametrize("number", range(4))
def test_the_order_in_which_trials_end_does_not_matter(number):
    space = space_of()
    planner, other = run_planner(space), run_planner(space, order=Random(number))
    assert planner.plan == other.plan
    assert planner.deciding.decisions == other.deciding.decisions
    told = {trial.id: scores(trial) for trial in planner.plan.trials}
    assert make_plan(space, scores=told) == planner.plan, "a plan made anew from the scores is the same"


def test_a_look_waits_for_all_seeds_of_open_contrasts():
    planner = Planner(space_of())
    *first, last = planner.plan.trials
    assert [planner.tell(trial.id, scores(trial)) for trial in first] == [[]] * len(first)
    assert planner.tell(last.id, scores(last)), "the fourth seed"


def test_a_failed_trial_counts_as_a_missing_pair():
    def score(trial: PlannedTrial) -> dict[str, float]:
        if trial.config.seed == 1 and trial.config.align.epochs == 2:
            return dict.fromkeys(("valid_error", "test_error", "test_samples"), math.inf)
        return scores(trial)

    planner = run_planner(space_of(), score)
    assert planner.proposed_later == 0
    assert all(decision.seeds > 0 for decision in planner.deciding.decisions.values())


def test_the_question_has_contrasts_within_the_levels_of_another_knob():
    planner = Planner(space_of(question=QUESTION | {"within": "freezing"}))
    names = {(name.level, name.within) for name in planner.deciding.contrasts}
    assert names == {(level, freezing) for level in (1, 2) for freezing in ("full", "layernorm")}
    assert all(len(arms) == 2 for arms in planner.deciding.contrasts.values())


# --------------------------------------------------------------------------------------------------------------- simulated runs


def run_to_the_end(seed: int, space: SearchSpace) -> tuple[dict[str, dict], int]:
    """A sweep that is stopped, killed and continued at random, with lost and failed trials. Its planned rows, and its number of runs."""
    random, sweep = Random(seed), SimulatedSweep(space)
    slots, runs, outcome = random.choice((1, 4, 40)), 0, None
    error = partial(error_of, effects=random.choice([(0, 0, -0.03), (0, 0.003, 0.01), (0, 0, 0)]), sd=0.01)
    while outcome is not Outcome.FINISHED:
        runs += 1
        chances = Chances(lost=0.03, fails=0.01, stop=0.01, no_machines=0.005) if runs < 4 and seed % 4 else Chances()
        outcome = sweep.run(random, slots=slots, chances=chances, error_of=error)
    return sweep.planned_rows(), runs


@pytest.mark.parametrize("part", range(4))
def test_whatever_happens_the_trials_are_those_that_the_rows_call_for(part):
    runs = 0
    for seed in range(part, 24, 4):
        space = space_of()
        rows, number = run_to_the_end(seed, space)
        runs += number
        told = {trial: scores_of(row, space.columns_read) for trial, row in rows.items()}
        planner = Planner(space, told)
        assert {trial.id for trial in planner.plan.trials} == rows.keys(), f"history {seed}"
        assert planner.proposed_later == 0
    assert part == 0 or runs > 6, "no history was interrupted"


@pytest.mark.parametrize("seed", range(0, 12, 4))
def test_numbers_of_slots_and_interruptions_do_not_change_the_trials(seed):
    """Nothing fails here, so every history has the same scores, and must run the same trials."""
    space, effects = space_of(), (0.0, 0.003, -0.03)
    found = []
    for slots, stop in ((1, 0.0), (4, 0.0), (40, 0.0), (4, 0.02), (40, 0.02)):
        random, sweep, outcome, runs = Random(seed + slots), SimulatedSweep(space), None, 0
        while outcome is not Outcome.FINISHED:
            runs += 1
            chances = Chances(stop=stop, lost=stop) if runs < 6 else Chances()
            outcome = sweep.run(random, slots=slots, chances=chances, error_of=partial(error_of, effects=effects))
        assert runs > 1 or not stop
        found.append({trial for trial, row in sweep.planned_rows().items() if row["status"] == "COMPLETE"})
    assert found == [found[0]] * len(found)


@pytest.mark.parametrize("seed", range(0, 24, 4))
def test_compare_says_what_the_sweep_decided(seed):
    space = space_of()
    planned, _ = run_to_the_end(seed, space)
    rows = list(planned.values())
    found = compare(rows, "align.epochs", 0, margin=0.02, lists_plan=True, varied=["align_epochs", "freezing"], looks=space.looks)
    planner = Planner(space, {row["trial"]: scores_of(row, space.columns_read) for row in rows})
    decisions = {name.level: decision for name, decision in planner.deciding.decisions.items()}
    assert {effect.level: effect.verdict for effect in found.effects} == {level: of.verdict for level, of in decisions.items()}
    assert {effect.level: effect.n for effect in found.effects} == {level: of.seeds for level, of in decisions.items()}


# --------------------------------------------------------------------------------------------------------------- what may be asked


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"question": None}, "seeds.until: must be used with a question"),
        ({"question": QUESTION | {"factor": "align.epoch"}}, "question.factor: must be a knob that the space varies, besides the task"),
        ({"question": QUESTION | {"baseline": 7}}, "question.baseline: must be a level of align.epochs"),
        ({"question": QUESTION | {"within": "align.epochs"}}, "question.within: must not be the factor itself"),
        ({"question": QUESTION | {"metric": "test_eror"}}, "question.metric: must be a metric that tasks report"),
        ({"question": QUESTION | {"margin": "five"}}, "question.margin: must be a share such as 5%, or a number"),
        ({"question": QUESTION | {"alpha": 1}}, "question.alpha: must be less than 0.5"),
        ({"question": {"factor": "align.epochs"}}, "question.baseline: must be given"),
        ({"question": QUESTION | {"basline": 1}}, "question.basline: must be a known key. Did you mean 'baseline'?"),
        ({"seeds": {"until": "decided", "from": 9, "to": 4}}, "seeds.from: must be at most seeds.to = 4"),
        ({"seeds": {"count": 3, "to": 4}}, "seeds.to: must be used with until: decided"),
        ({"seeds": {"count": 3, "list": [1, 2]}}, "seeds: must have one of count, list and until"),
        ({"seeds": {"until": "descided"}}, "seeds.until: must be one of decided, but got 'descided'. Did you mean"),
        ({"seeds": {"count": 3, "vary": ["split_seed"]}}, "seeds.vary: must be [seed] or [seed, split_seed]"),
        ({"scheduler": {"name": "asha", "among": "task"}}, "scheduler.name: must be fifo with seeds.until"),
        (
            {"space": GRID | {"finetune.lr": {"uniform": [0.1, 0.2]}}, "search": "random"},
            "search.algorithm: must be grid with seeds.until",
        ),
        (
            {
                "space": {"finetune.lr": {"uniform": [0.1, 0.2]}},
                "search": "random",
                "seeds": 2,
                "question": {"factor": "finetune.lr", "baseline": 0.1},
            },
            "question.factor: must be a knob that varies as a grid or in variants",
        ),
        ({"budget": {"trials": 71}}, "budget.trials: must allow the 72 trials of the plan"),
    ],
)
def test_what_cannot_be_asked_is_said(keys, said):
    with pytest.raises(ConfigError) as caught:
        make_plan(space_of(**keys))
    assert said in str(caught.value), str(caught.value)


def test_a_question_needs_no_adaptive_seeds():
    assert len(make_plan(space_of(seeds=2)).trials) == 12


# ------------------------------------------------------------------------------------------------------------------ what seeds vary


def test_seeds_can_redraw_the_split_too_and_then_it_is_no_part_of_the_arm():
    plain, varied = (make_plan(space_of(seeds=seeds)) for seeds in (3, {"count": 3, "vary": ["seed", "split_seed"]}))
    assert {(trial.config.seed, trial.config.split_seed) for trial in varied.trials} == {(0, 0), (1, 1), (2, 2)}
    assert len({trial.arm for trial in varied.trials}) == len({trial.arm for trial in plain.trials}) == 6
    assert {trial.id for trial in varied.trials if trial.config.seed == 0} == {trial.id for trial in plain.trials if trial.config.seed == 0}


def test_the_split_is_set_in_one_place():
    seeds = {"count": 2, "vary": ["seed", "split_seed"]}
    with pytest.raises(ConfigError, match=r"base\.split_seed: must not be set here: seeds\.vary has it"):
        space_of(seeds=seeds, base=BASE | {"split_seed": 1})
    with pytest.raises(ConfigError, match=r"space\.split_seed: must not vary in `space`"):
        space_of(seeds=seeds, space=GRID | {"split_seed": {"grid": [0, 1]}})


def test_a_varied_split_goes_with_adaptive_seeds():
    planner = run_planner(space_of(seeds={"until": "decided", "from": 3, "to": 6, "vary": ["seed", "split_seed"]}))
    assert planner.proposed_later == 0
    assert all(trial.config.seed == trial.config.split_seed for trial in planner.plan.trials)
