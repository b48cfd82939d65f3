"""The time that a sweep still takes: estimates worked out by hand, and promises that hold in simulated histories."""

from __future__ import annotations

from itertools import pairwise
from random import Random

import pytest

from orca_core.rows import EpochRow, StageRow
from sweeper.planning.planner import Planner, make_plan
from sweeper.running.progress import Progress
from sweeper.running.simulated_cluster import NodeChances
from sweeper.running.simulated_store import SimulatedTables, SimulatedWorkspace
from sweeper.running.simulation import Chances, Simulation
from sweeper.running.standing import describe_left
from sweeper.running.time_left import Promise, WorkLeft
from sweeper.space.reading import parse_space

BASE = {"task": "digits", "body": "mini-swin", "body.weights": "random", "align.epochs": 0}
TUNED = {"warmup_epochs": 0, "decay_epochs": None}


def plan_of(lengths: list[int]):
    """Trials of fine-tuning alone, of so many epochs, which share nothing."""
    variants = {f"v{n}": {"finetune.epochs": epochs, "finetune.lr": 1e-4 * (n + 1)} for n, epochs in enumerate(lengths)}
    space = {"name": "s", "base": BASE | {f"finetune.{k}": v for k, v in TUNED.items()}, "variants": variants, "seeds": 1}
    return make_plan(parse_space(space)).trials


def epochs_of(work: WorkLeft, trial, numbers, seconds: float) -> None:
    for epoch in numbers:
        work.advance(trial.id, EpochRow(stage="finetune", epoch=epoch, seconds=seconds))


def test_the_estimate_is_the_bound_of_list_scheduling():
    trials = plan_of([10, 10, 10, 4])
    work = WorkLeft()
    work.expect(trials)
    assert work.estimate(2) is None, "nothing was measured"
    work.start(trials[0].id)
    work.start(trials[1].id)
    epochs_of(work, trials[0], range(1, 7), 10.0)
    epochs_of(work, trials[1], range(1, 4), 10.0)
    # Left are 40 and 70 s of those that run, 100 and 40 s of those that wait: 250 / 2 + 100 / 2.
    assert work.estimate(2) == pytest.approx(175.0)
    assert work.estimate(4) == pytest.approx(100.0), "all at once: the longest"
    epochs_of(work, trials[0], range(7, 11), 10.0)
    work.end(trials[0].id, seconds=110.0, computing_s=100.0)
    # Another 10 s for each trial, as for the first: 240 / 2 + 110 / 2.
    assert work.estimate(2) == pytest.approx(175.0)
    assert work.estimate(2, later=2) == pytest.approx((240 + 2 * 110) / 2 + 55)


def test_a_shared_stage_counts_once_and_is_part_of_each_chain():
    space = {
        "name": "s",
        "base": {"task": "digits", "body": "mini-swin", "pretrain.epochs": 6, "align.epochs": 0, "finetune": {"epochs": 2} | TUNED},
        "space": {"finetune.lr": {"grid": [1e-4, 1e-3, 1e-2]}},
        "seeds": 1,
    }
    trials = make_plan(parse_space(space)).trials
    work = WorkLeft()
    work.expect(trials)
    work.start(trials[0].id)
    for epoch in (1, 2, 3):
        work.advance(trials[0].id, EpochRow(stage="pretrain", epoch=epoch, seconds=20.0))
    # 3 epochs of 20 s are left of the pretraining. Those of fine-tuning, taken for a second each, are 20 times as long as well.
    assert work.estimate(1) == pytest.approx(3 * 20 + 3 * 40)
    assert work.estimate(2) == pytest.approx((60 + 120) / 2 + 100 / 2)
    work.advance(trials[0].id, StageRow(stage="pretrain", key="k", epochs=6, reused_epochs=0, seconds=120.0, saved_s=0.0))
    assert work.estimate(2) == pytest.approx(120 / 2 + 40 / 2)


def test_a_lost_trial_computes_again_what_it_had_not_stored():
    (trial,) = plan_of([20])
    work = WorkLeft()
    work.expect([trial])
    work.start(trial.id)
    epochs_of(work, trial, range(1, 11), 30.0)
    assert work.estimate(1) == pytest.approx(300.0)
    work.lose(trial.id)
    assert work.estimate(1) == pytest.approx(300.0 + 3 * 30.0), "a minute, and the epoch that was under way"
    assert "lost" in work.take_reason()
    assert work.take_reason() == "", "said once"
    work.start(trial.id)
    epochs_of(work, trial, range(1, 10), 30.0)
    assert work.estimate(1) == pytest.approx(330.0), "nine epochs were in the store after all"


def test_a_promise_counts_down_waits_and_goes_up_for_a_reason_only():
    promise = Promise()
    promise.see(100.0, 0.0)
    promise.see(90.0, 10.0)
    assert promise.left == pytest.approx(90.0)
    promise.see(60.0, 1.0)
    assert 60.0 < promise.left < 89.0, "what is earlier is approached gradually"
    left = promise.left
    promise.see(left + 20.0, 5.0)
    assert promise.left == left, "what is later makes the number stand still"
    assert promise.why == ""
    promise.see(left + 20.0, 5.0, "a trial was lost")
    assert (promise.left, promise.why) == (left + 20.0, "a trial was lost")
    promise.see(left - 1.0, 1000.0)
    promise.see(left - 2.0, 1.0)
    assert promise.why == "", "the reason is forgotten when the number is what it was before"
    promise.see(3 * left + 100.0, 1.0)
    assert promise.why == "epochs take longer than was estimated"


def test_words_for_the_time_left_never_grow_when_it_shrinks():
    assert [describe_left(s) for s in (3, 41, 61, 3600, 7300, 90000, 200000)] == [
        "a few seconds",
        "about 50 s",
        "about 2 min",
        "about 60 min",
        "about 2 h",
        "about 25 h",
        "about 2 d 7 h",
    ]


SWEEP = {
    "name": "s",
    "base": {"task": "digits", "body": "mini-swin"},
    "space": {
        "align.epochs": {"grid": [0, 5, 20]},
        "finetune.epochs": {"grid": [4, 12]},
        "finetune.warmup_epochs": {"grid": [0]},
        "finetune.decay_epochs": {"grid": [None]},
        "freezing": {"grid": ["full", "frozen-body"]},
    },
    "seeds": 4,
}
ASHA = SWEEP | {"scheduler": {"name": "asha", "grace_period": 2, "among": "task"}}
NOTHING, LOSSES = Chances(), Chances(lost=0.003)


def watch_left(source, chances: Chances, seed: int, slots: int = 3) -> tuple[list[tuple[float, float, str]], float]:
    """(when, seconds left, why) of a simulated run as its progress says it, each simulated second at most, and when it ended."""
    planner, seen = Planner(parse_space(source)), []
    made: list[Progress] = []

    def watch(simulation: Simulation) -> None:
        if not made:
            made.append(Progress(simulation.recorder, planner.most_trials, clock=lambda: simulation.now))
        (progress,) = made
        progress._look(simulation.session)
        if simulation.session.nodes.slots == 0 and chances.nodes is None:
            progress.slots = slots
        progress._measure()
        standing = progress.standing()
        if standing.left_s is not None:
            seen.append((simulation.now, standing.left_s, standing.why))

    simulation = Simulation(
        planner,
        planner.plan.trials,
        SimulatedTables(),
        SimulatedWorkspace(),
        slots=slots,
        chances=chances,
        random=Random(seed),
        watch=watch,
    )
    simulation.run()
    tally = simulation.recorder.tally
    assert (tally.running, tally.paused) == (0, 0)
    return seen, simulation.now


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("source", [SWEEP, ASHA], ids=["fifo", "asha"])
def test_without_losses_the_time_left_never_grows_and_the_end_is_as_promised(source, seed):
    seen, end = watch_left(source, NOTHING, seed)
    lefts = [left for _, left, _ in seen]
    assert all(later <= earlier for earlier, later in pairwise(lefts))
    assert lefts[-1] < 10.0
    if source is SWEEP:  # early stopping ends a sweep sooner than its plan says
        for share in (0.3, 0.5, 0.8):
            now, left, _ = next(entry for entry in seen if entry[0] >= share * end)
            assert now + left == pytest.approx(end, abs=0.15 * end), f"the end as promised after {share:.0%}"


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("chances", [LOSSES, Chances(nodes=NodeChances(joins=0.02, drains=0.02, dies=0.01))], ids=["lost", "machines"])
def test_where_trials_or_machines_are_lost_the_time_left_grows_only_with_a_reason(chances, seed):
    seen, _ = watch_left(SWEEP, chances, seed)
    grown = [entry for before, entry in pairwise(seen) if entry[1] > before[1]]
    assert all(why for _, _, why in grown)
    assert len(grown) < len(seen) / 20
