"""Early stopping of whole candidates: what is stopped depends on the rows alone, in whatever order they come."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable
from functools import partial
from random import Random
from typing import Any

import pytest
from simulated_sweep import SimulatedSweep

from orca_core.rows import EpochRow
from sweeper.planning.planner import make_plan
from sweeper.planning.trials import PlannedTrial
from sweeper.results import Workspace
from sweeper.running.outcome import Outcome
from sweeper.running.reconcile import reconcile
from sweeper.running.recorder import Recorder
from sweeper.running.simulated_workers import simulate_error
from sweeper.running.simulation import Chances, Simulation
from sweeper.running.takeover import take_over
from sweeper.space.reading import parse_space
from sweeper.space.space import SearchSpace

ErrorOf = Callable[[PlannedTrial, int], float | None]

Ends = dict[tuple[str, int, int], tuple[str, int | None]]
"""(arm, candidate, seed) -> (status, epoch of its scores)."""

BASE = {"task": "digits", "body.weights": "random", "finetune": {"epochs": 10, "warmup_epochs": 0, "decay_epochs": None}}


def space_of(**keys: Any) -> SearchSpace:
    """Two arms, tuned alike: 8 candidates each, with two seeds."""
    space = {"freezing": {"grid": ["full", "layernorm"]}, "finetune.lr": {"loguniform": [1e-5, 1e-2]}}
    search = {"algorithm": "random", "trials": 8}
    return parse_space({"name": "s", "base": BASE, "space": space, "search": search, "seeds": 2, "scheduler": "asha"} | keys)


class Sweep(SimulatedSweep):
    """A sweep whose trials have these errors."""

    def __init__(self, space: SearchSpace, error_of: ErrorOf = simulate_error) -> None:
        super().__init__(space)
        self.error_of = error_of

    def run(self, slots: int = 2, seed: int = 0, **options: Any) -> Outcome:
        return super().run(Random(seed), slots=slots, error_of=self.error_of, **options)

    def ends(self) -> Ends:
        """How each trial ended."""
        rows = self.planned_rows().values()
        return {(row["arm"], row["candidate"], row["seed"]): (row["status"], row.get("best_epoch")) for row in rows}

    def values(self) -> set[tuple]:
        """What was tried: the values of the tuned knob by arm and candidate."""
        return {(row["arm"], row["candidate"], row["finetune_lr"]) for row in self.planned_rows().values()}

    def complete(self) -> dict[str, set[int]]:
        """`freezing` -> the candidates that are COMPLETE, with all their seeds."""
        found = defaultdict(set)
        for row in self.tables.live_trials():
            if row["status"] == "COMPLETE":
                found[row["freezing"]].add(row["candidate"])
        assert all(len(ends) == 1 for ends in by_candidate(self.ends()).values()), "a candidate is complete or stopped as a whole"
        return dict(found)


def by_candidate(ends: Ends) -> dict[tuple[str, int], set[tuple[str, int | None]]]:
    """(arm, candidate) -> the ways in which its seeds ended."""
    found = defaultdict(set)
    for (arm, candidate, _), end in ends.items():
        found[arm, candidate].add(end)
    return dict(found)


def finished(space: SearchSpace, error_of: ErrorOf = simulate_error, **options: Any) -> Sweep:
    """A sweep that ran to its end at once."""
    sweep = Sweep(space, error_of)
    assert sweep.run(**options) is Outcome.FINISHED
    return sweep


TPE = {"algorithm": "tpe", "trials": 8, "lag": 3}
LONG_TPE = TPE | {"trials": 14}
"""Optuna's first ten proposals do not depend on scores; these do."""

SPACES = {
    "asha, random": {},
    "asha, tpe": {"search": LONG_TPE},
    "asha, tpe, cohorts of 1": {"search": TPE, "scheduler": {"name": "asha", "cohort": 1}},
    "asha, tpe, all arms": {"search": TPE, "scheduler": {"name": "asha", "among": "task", "grace_period": 2}},
    "asha, one cohort": {"scheduler": {"name": "asha", "cohort": 8, "reduction_factor": 2}},
    "asha, tpe, trials of several candidates and arms": {
        "search": TPE,
        "space": {
            "proxy": {"grid": ["photos", "noise"]},
            "align.epochs": {"choice": [0, 1]},
            "finetune.lr": {"choice": [1e-4, 1e-3, 1e-2]},
        },
        "scheduler": {"name": "asha", "reduction_factor": 2},
    },
    "median, tpe": {"search": LONG_TPE, "scheduler": {"name": "median", "min_trials": 1}},
    "hyperband, tpe": {"search": LONG_TPE, "scheduler": {"name": "hyperband", "brackets": 2}},
    "hyperband, all arms": {"scheduler": {"name": "hyperband", "among": "task", "cohort": 2, "brackets": 3}},
    "median, all arms": {"scheduler": {"name": "median", "among": "task"}},
}


def lucky_error(trial: PlannedTrial, epoch: int) -> float:
    """An error whose order among candidates changes between epochs, and which ties: it has three values."""
    return Random(f"{trial.id} {epoch}").randrange(3) / 2


# ------------------------------------------------------------------------------------------------- a pure function of rows


@pytest.mark.parametrize("keys", SPACES.values(), ids=SPACES)
def test_what_is_stopped_does_not_depend_on_slots_or_order(keys):
    space = space_of(**keys)
    first = finished(space, lucky_error, slots=1)
    assert {status for status, _ in first.ends().values()} == {"COMPLETE", "PRUNED"}
    for slots, seed in ((4, 1), (4, 2), (40, 3)):
        other = finished(space, lucky_error, slots=slots, seed=seed)
        assert other.ends() == first.ends()
        assert other.values() == first.values()
        assert set(other.workspace.shared.computed.values()) == {1}, "a pause costs no epoch"


class KilledError(Exception):
    """The driver is killed."""


@pytest.mark.parametrize("keys", [SPACES["asha, tpe"], SPACES["median, tpe"]], ids=["asha", "median"])
def test_a_sweep_that_is_killed_at_any_point_continues_to_the_same_ends(keys):
    finetune = {"epochs": 4, "warmup_epochs": 0, "decay_epochs": None}
    one_arm = {"finetune.lr": {"loguniform": [1e-5, 1e-2]}}
    space = space_of(**keys | {"base": BASE | {"finetune": finetune}, "space": one_arm})
    whole, points = Sweep(space, lucky_error), 0

    def count(simulation: Simulation) -> None:
        nonlocal points
        points += 1

    assert whole.run(watch=count) is Outcome.FINISHED
    for point in range(1, points, points // 12):
        left = point

        def kill(simulation: Simulation) -> None:
            nonlocal left
            left -= 1
            if left == 0:
                raise KilledError  # rows that were not written are lost, and trials that ran have no end

        sweep = Sweep(space, lucky_error)
        with pytest.raises(KilledError):
            sweep.run(watch=kill)
        assert sweep.run(slots=3, seed=point) is Outcome.FINISHED
        assert sweep.ends() == whole.ends(), f"killed at point {point}"
        assert sweep.values() == whole.values()


@pytest.mark.parametrize("seed", range(3))
def test_a_sweep_that_is_stopped_and_loses_machines_continues_to_the_same_ends(seed):
    space = space_of(search=LONG_TPE)
    whole, sweep = finished(space, lucky_error), Sweep(space, lucky_error)
    for _ in range(3):
        sweep.run(seed=seed, slots=3, chances=Chances(lost=0.02, stop=0.02))
    assert sweep.run(seed=seed) is Outcome.FINISHED
    assert sweep.ends() == whole.ends()
    assert sweep.values() == whole.values()


def test_a_finished_sweep_is_done_and_a_second_run_has_nothing_to_run():
    sweep = finished(space_of(search=TPE))
    found = reconcile(sweep.space, sweep.tables)
    assert (found.todo, found.planner.proposed_later) == ((), 0)
    assert found.done == set(found.plan.by_id)


def test_hyperband_compares_within_brackets_which_cohorts_take_in_turn():
    """Cohorts of 2: numbers 0, 1, 4, 5 may stop after epoch 1; the second bracket, 2, 3, 6, 7, first after epoch 3."""
    scheduler = {"name": "hyperband", "cohort": 2, "brackets": 2, "reduction_factor": 3}
    sweep = finished(space_of(scheduler=scheduler), lambda trial, epoch: trial.candidate / 10)
    stopped = {candidate: {epoch for _, epoch in ends} for (_, candidate), ends in by_candidate(sweep.ends()).items()}
    assert stopped == {0: {10}, 1: {1}, 2: {10}, 3: {3}, 4: {1}, 5: {1}, 6: {3}, 7: {3}}


# ------------------------------------------------------------------------------------------------------- what is compared


def by_number(trial: PlannedTrial, epoch: int, *, worse: str = "") -> float:
    """Candidate 5 is best by far, the others worse and worse; all of the arm `worse` are worse than any other."""
    error = 0.1 if trial.candidate == 5 else 0.3 + trial.candidate / 100
    return error + (0.5 if trial.knobs()["freezing"] == worse else 0.0)


def test_arms_do_not_stop_each_other_unless_the_file_says_so():
    """The candidates of an arm that learns more slowly are compared with each other, so it is tuned as well as the other one."""
    apart = finished(space_of(), partial(by_number, worse="layernorm"))
    assert apart.complete() == {"full": {0, 5}, "layernorm": {0, 5}}
    together = finished(space_of(scheduler={"name": "asha", "among": "task"}), partial(by_number, worse="layernorm"))
    assert together.complete() == {"full": {0, 5}}


def test_tasks_are_never_compared_with_each_other():
    def error_of(trial: PlannedTrial, epoch: int) -> float:
        return by_number(trial, epoch) + (0.5 if trial.config.task == "openml/187" else 0.0)

    tuned = {"finetune.lr": {"loguniform": [1e-5, 1e-2]}}
    space = space_of(space={"task": {"grid": ["digits", "openml/187"]}} | tuned, scheduler={"name": "asha", "among": "task"})
    sweep = finished(space, error_of)
    complete = {(row["task"], row["candidate"]) for row in sweep.tables.live_trials() if row["status"] == "COMPLETE"}
    assert complete == {("digits", 0), ("digits", 5), ("openml/187", 0), ("openml/187", 5)}


def test_a_sweep_that_tunes_nothing_may_compare_its_arms():
    grid = {"finetune.lr": {"grid": [1e-5, 1e-4, 1e-3, 1e-2]}}
    space = space_of(space=grid, search="grid", scheduler={"name": "asha", "among": "task"})
    sweep = finished(space, lambda trial, epoch: -trial.config.finetune.lr)
    complete = {row["finetune_lr"]: row["status"] for row in sweep.tables.live_trials()}
    assert complete == {1e-5: "PRUNED", 1e-4: "PRUNED", 1e-3: "PRUNED", 1e-2: "COMPLETE"}


def test_a_lucky_seed_does_not_save_a_candidate_nor_does_an_unlucky_one_cost_it():
    """Candidate 5 is better on average, but each other candidate has one seed that is best of all."""

    def error_of(trial: PlannedTrial, epoch: int) -> float:
        if trial.candidate == 5:
            return 0.2
        return 0.0 if trial.config.seed == trial.candidate % 2 else 0.6

    sweep = finished(space_of(), error_of)
    assert all(5 in candidates for candidates in sweep.complete().values())
    means = defaultdict(list)
    for row in sweep.tables.live_trials():
        if row["status"] == "COMPLETE":
            means[row["arm"], row["candidate"]].append(row["valid_error"])
    assert {len(errors) for errors in means.values()} == {2}
    assert {min(errors)[1] for errors in [[(sum(of) / 2, key[1]) for key, of in means.items() if key[0] == arm] for arm, _ in means]} == {5}


def test_early_stopping_keeps_the_better_arm_and_candidate_of_a_tuned_sweep():
    """Arm `full` is better by 0.1, and a learning rate is the better the nearer it is to 1e-3; seeds differ by up to 0.02."""

    def error_of(trial: PlannedTrial, epoch: int) -> float:
        noise = Random(f"{trial.config.seed} {trial.candidate} {epoch}").uniform(-0.02, 0.02)
        distance = abs(math.log10(trial.config.finetune.lr) + 3)
        return 0.2 + 0.1 * (trial.knobs()["freezing"] == "layernorm") + 0.15 * distance + noise + math.exp(-epoch)

    keys = {"search": LONG_TPE, "seeds": 3}
    sweep = finished(space_of(**keys), error_of, slots=4)
    everything = finished(space_of(**keys, scheduler="fifo"), error_of, slots=4)
    assert len(sweep.complete()) == 2
    epochs = [sum(run.workspace.shared.computed.values()) for run in (sweep, everything)]
    assert epochs[0] < 0.6 * epochs[1], "early stopping saves work"
    best = {}
    for run in (sweep, everything):
        scores = defaultdict(list)
        for row in run.tables.live_trials():
            if row["status"] == "COMPLETE":
                scores[row["freezing"], row["finetune_lr"]].append(row["valid_error"])
        ranked = sorted((sum(of) / len(of), key) for key, of in scores.items() if len(of) == 3)
        best[run] = ranked[0][1]
        arms = [arm for _, (arm, _) in ranked]
        assert arms[0] == "full"
        gap = min(score for score, (arm, _) in ranked if arm == "layernorm") - ranked[0][0]
        assert gap == pytest.approx(0.1, abs=0.06), "the contrast of the arms is that of their best candidates"
    assert abs(math.log10(best[sweep][1]) + 3) < 0.3


# ------------------------------------------------------------------------------------------------------------ failed seeds


@pytest.mark.parametrize("slots", [1, 4])
@pytest.mark.parametrize(("fails_at", "stopped_at"), [(1, 1), (2, 3), (3, 3), (4, 9)])
def test_a_candidate_with_a_failed_seed_is_stopped_at_the_next_rung_and_nobody_waits_for_it(slots, fails_at, stopped_at):
    """Candidate 5 would be the best one."""

    def error_of(trial: PlannedTrial, epoch: int) -> float | None:
        fails = (trial.candidate, trial.config.seed) == (5, 0) and epoch == fails_at
        return None if fails else by_number(trial, epoch)

    sweep = finished(space_of(), error_of, slots=slots, seed=slots)
    for arm in {arm for arm, _, _ in sweep.ends()}:
        assert sweep.ends()[arm, 5, 0] == ("FAIL", None)
        assert sweep.ends()[arm, 5, 1] == ("PRUNED", stopped_at)
        assert sweep.ends()[arm, 0, 0] == sweep.ends()[arm, 0, 1] == ("COMPLETE", 10)


def test_a_seed_that_fails_after_the_last_rung_stops_nothing():
    def error_of(trial: PlannedTrial, epoch: int) -> float | None:
        return None if (trial.candidate, trial.config.seed, epoch) == (5, 0, 10) else by_number(trial, epoch)

    ends = finished(space_of(), error_of).ends()
    assert {ends[key] for key in ends if key[1:] == (5, 1)} == {("COMPLETE", 10)}


def test_where_every_trial_fails_the_sweep_ends():
    sweep = finished(space_of(search=TPE), lambda trial, epoch: None)
    assert set(sweep.ends().values()) == {("FAIL", None)}
    assert len(sweep.ends()) == 2 * 8 * 2


def test_a_metric_that_is_not_a_number_counts_as_the_worst():
    def error_of(trial: PlannedTrial, epoch: int) -> float:
        return math.nan if trial.candidate == 5 else by_number(trial, epoch)

    for complete in finished(space_of(), error_of).complete().values():
        assert 5 not in complete


def test_where_all_candidates_tie_none_is_stopped():
    sweep = finished(space_of(search=TPE), lambda trial, epoch: 0.5)
    assert set(sweep.ends().values()) == {("COMPLETE", 10)}


# ----------------------------------------------------------------------------------------------------------- edited sweeps


def test_a_seed_added_later_is_judged_with_those_that_ended():
    """With seeds 2 and 3, candidate 5 is the worst one and candidate 1 the best one."""

    def error_of(trial: PlannedTrial, epoch: int) -> float:
        if trial.config.seed < 2:
            return by_number(trial, epoch)
        return {5: 2.0, 1: -2.0}.get(trial.candidate, 0.5)

    few = finished(space_of(), error_of)
    assert all(candidates == {0, 5} for candidates in few.complete().values())
    few.space = space_of(seeds=4)
    assert few.run() is Outcome.FINISHED
    # What is complete stays complete, and so the other seeds complete, too. Candidate 1 was stopped, and goes on after all.
    assert all(candidates == {0, 1, 5} for candidates in few.complete().values())
    anew = finished(space_of(seeds=4), error_of)
    assert all(candidates == {1} for candidates in anew.complete().values())
    assert all(len(of) == 4 * 2 for of in [[key for key in few.ends() if key[1] == number] for number in range(8)])


def test_a_sweep_whose_seeds_were_stopped_one_by_one_is_made_whole():
    """As version 0.1 left it: seed 0 of each candidate is COMPLETE, seed 1 is PRUNED."""
    sweep = finished(space_of(scheduler="fifo"))
    for row in [row for row in sweep.tables.live_trials() if row["seed"] == 1]:
        sweep.tables.append("trials", "s", [row | {"status": "PRUNED", "sequence": row["sequence"] + 1}])
    metrics = sweep.tables.rows["metrics"]
    pruned = {row["trial"] for row in sweep.tables.live_trials() if row["seed"] == 1}
    sweep.tables.rows["metrics"] = [row for row in metrics if row["trial"] not in pruned or row["epoch"] == 1]
    sweep.space = space_of()
    assert sweep.run() is Outcome.FINISHED
    assert set(sweep.ends().values()) == {("COMPLETE", 10)}
    assert sweep.simulation.handed_out, "those that were stopped went on"


@pytest.mark.parametrize("number", [0, 5])
def test_a_failed_seed_that_is_repeated_with_success_reopens_its_candidate(number):
    """What tpe proposed after the failure is dropped; it proposes again from the scores of the whole candidate."""
    broken = True

    def error_of(trial: PlannedTrial, epoch: int) -> float | None:
        fails = broken and (trial.candidate, trial.config.seed, epoch) == (number, 0, 1)
        return None if fails else by_number(trial, epoch) + math.exp(-epoch)

    space = space_of(search=LONG_TPE)
    sweep = finished(space, error_of)
    rows = sweep.tables.rows["trials"]
    sweep.tables.rows["trials"] = [dict(row) | ({"cause": "out-of-memory"} if row["status"] == "FAIL" else {}) for row in rows]
    broken = False
    assert sweep.run() is Outcome.FINISHED
    assert all({0, 5} <= candidates for candidates in sweep.complete().values())
    found = reconcile(space, sweep.tables)
    assert (found.todo, found.planner.proposed_later) == ((), 0), "a run and its tables lead to the same proposals"
    assert {(trial.arm, trial.candidate, trial.config.finetune.lr) for trial in found.plan.trials} == sweep.values()


def test_a_candidate_with_a_seed_from_another_sweep_is_compared_but_not_stopped(tmp_path):
    """The seed is complete, and so the other one completes, too, although its candidate is the worst of its cohort."""
    workspace = Workspace(tmp_path / "results")
    other = Recorder(workspace.results, "other", "valid_error")
    planned = make_plan(space_of(scheduler="fifo", seeds=1)).trials
    for trial in [trial for trial in planned if trial.candidate == 3]:
        other.start(trial, device="cpu")
        other.add_rows(trial.id, [EpochRow(stage="finetune", epoch=epoch, valid_error=0.9) for epoch in range(1, 11)])
        other.end(trial.id, {"status": "COMPLETE", "valid_error": 0.9})
    other.flush()
    found, recorder = reconcile(space_of(), workspace.results), Recorder(workspace.results, "s", "valid_error")
    taken = take_over(workspace, recorder, found.todo)
    recorder.flush()
    found.recall(workspace.results, taken)
    assert len(taken) == 2
    stopping = found.stopping
    first = [trial for trial in found.todo if trial.candidate < 4 and trial.id not in taken]
    assert stopping.settle() == []
    for trial in first:
        stopping.observe(trial.id, 1, trial.candidate / 10)
    assert len(stopping.settle()) == 2 * 4
    assert {trial.candidate: stopping.limit(trial.id) for trial in first} == {0: 3, 1: 1, 2: 1, 3: 3}
    assert {trial.candidate for trial in first if stopping.is_stopped(trial.id)} == {1, 2}
