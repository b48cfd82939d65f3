"""The state machine of a run: how trials end, how the run ends, what a worker is told."""

from __future__ import annotations

import json

import pytest

from orca_core.rows import EpochRow, StageRow
from sweeper.planning.planner import Planner
from sweeper.results import Workspace
from sweeper.running.job import PAUSED, TrialJob
from sweeper.running.losses import Loss
from sweeper.running.nodes import Node
from sweeper.running.outcome import Outcome
from sweeper.running.reconcile import reconcile
from sweeper.running.recorder import Recorder
from sweeper.running.session import Session
from sweeper.space.reading import parse_space

COMPLETE = {"status": "COMPLETE", "valid_error": 0.25}


class Run:
    """A session of two trials, one of which continues the alignment of the other, with a clock that is set by hand."""

    def __init__(self, folder, slots: int = 2, **keys: object) -> None:
        space = {"name": "s", "base": {"task": "digits", "finetune.epochs": 2}, "space": {"align.epochs": {"grid": [2, 4]}}} | keys
        self.now, self.workspace = 0.0, Workspace(folder / "results")
        self.planner = Planner(parse_space(space))
        self.recorder = Recorder(self.workspace.results, "s", "valid_error", clock=lambda: self.now)
        trials = sorted(self.planner.plan.trials, key=lambda trial: -trial.config.align.epochs)
        self.session = Session(self.planner, trials, self.recorder, self.workspace, slots=slots, clock=lambda: self.now)

    def begin(self):
        """Hand out a trial and start it."""
        trial = self.session.next()
        self.session.start(trial.id)
        return trial

    def rows(self, columns: str = "status, cause") -> list[tuple]:
        self.recorder.flush()
        return [tuple(row.values()) for row in self.workspace.sql(f"select {columns} from trial_status order by align_epochs").rows()]


@pytest.fixture
def run(tmp_path) -> Run:
    return Run(tmp_path)


def test_a_run_whose_trials_all_end_is_finished(run):
    far = run.begin()
    assert run.session.next() is None, "the other waits for the alignment"
    run.session.end(far.id, COMPLETE)
    near = run.begin()
    run.session.end(near.id, {"status": "FAIL", "cause": "user-error", "error": "E", "traceback": "T"})
    assert run.session.is_exhausted
    assert run.session.outcome is Outcome.RUNNING
    run.session.close()
    assert run.session.outcome is Outcome.FINISHED
    assert run.rows() == [("FAIL", "user-error"), ("COMPLETE", None)]


def test_a_state_on_the_way_is_published_with_its_row_and_the_last_one_with_the_row_of_its_stage(run):
    """The last state of a stage is stored after the row of its last epoch."""
    far = run.begin()
    align = next(stage for stage in far.stages if stage.kind == "align")
    whole = {"key": "k", "epochs": 0, "reused_epochs": 0, "seconds": 1.0, "saved_s": 0.0}
    run.session.report(far.id, [StageRow(stage=kind, **whole) for kind in ("pretrain", "source")])
    run.session.report(far.id, [EpochRow(stage="align", epoch=1)])
    assert run.session.next() is None
    run.session.report(far.id, [EpochRow(stage="align", epoch=align.end)])
    assert run.session.next() is None
    run.session.report(far.id, [EpochRow(stage="align", epoch=2)])
    near = run.session.next()
    assert near.config.align.epochs == 2


def test_a_stopped_run_cuts_what_runs_and_starts_nothing(run):
    trial = run.begin()
    run.session.ending.stop()
    assert run.session.wants_stop(trial.id)
    assert run.session.next() is None
    run.session.close()
    assert run.session.outcome is Outcome.STOPPED
    assert run.rows() == [("INTERRUPTED", "stopped")]
    (stored,) = run.workspace.results.live_trials("s")
    assert (stored["status"], stored["cause"]) == ("FAIL", "stopped"), "the files stay as they were"
    again = reconcile(run.planner.space, run.workspace.results)
    assert [planned.id for planned in again.todo if planned.id == trial.id] == [trial.id], "the next run takes it up"


def test_a_request_to_stop_that_found_nothing_to_do_changes_nothing(run):
    for _ in range(2):
        run.session.end(run.begin().id, COMPLETE)
    run.session.ending.stop()
    run.session.close()
    assert run.session.outcome is Outcome.FINISHED


def test_a_full_disk_ends_the_run_and_is_no_user_stop(run):
    trial = run.begin()
    run.session.end(trial.id, {"status": "FAIL", "cause": "disk", "error": "DiskFullError: no room", "traceback": ""})
    run.session.ending.stop()
    run.session.close()
    assert (run.session.outcome, run.session.ending.reason) == (Outcome.DISK_FULL, "DiskFullError: no room")


def test_a_run_without_machines_is_lost(run):
    run.begin()
    run.session.ending.lose_machines()
    run.session.close()
    assert run.session.outcome is Outcome.LOST


def test_a_lost_trial_is_another_attempt_and_one_lost_too_often_fails(run):
    trial = run.begin()
    for attempt in range(1, 4):
        run.session.lose(trial.id)
        assert run.rows("status, cause, attempt") == [("INTERRUPTED", "infrastructure", attempt)]
        assert "was lost; the trial is started again" in run.rows("error")[0][0]
        assert run.begin() is trial, "before the trials that wait for what it led"
        assert run.rows("status, cause, attempt") == [("RUNNING", None, attempt + 1)]
    run.session.lose(trial.id)
    assert run.rows("status, cause, attempt") == [("FAIL", "infrastructure", 4)]
    follower = run.session.next()
    assert follower is not None, "what it led is free again"
    assert follower is not trial
    assert not run.session.is_exhausted


def test_losses_do_not_count_once_a_trial_has_come_further(run):
    trial = run.begin()
    for lost in range(8):
        run.session.report(trial.id, [EpochRow(stage="align", epoch=epoch + 1) for epoch in range(lost // 2 + 1)])
        run.session.lose(trial.id)
        assert run.begin() is trial, f"loss {lost}"
    for _ in range(3):
        run.session.report(trial.id, [EpochRow(stage="align", epoch=epoch + 1) for epoch in range(4)])
        run.session.lose(trial.id)
        if run.session.next() is not trial:
            break
        run.session.start(trial.id)
    else:
        pytest.fail("it came no further, and was started again and again")


def test_losses_of_a_machine_that_was_about_to_go_do_not_count(run):
    run.session.see([Node("a", "one", 2)])
    trial = run.session.next()
    for _ in range(8):
        run.session.see([Node("a", "one", 2)])
        run.session.start(trial.id, "a")
        run.session.see([Node("a", "one", 2, is_draining=True)])
        run.session.see([])
        run.session.lose(trial.id, Loss(node="a"))
        run.session.see([Node("a", "one", 2)])
        assert run.session.next() is trial


def test_out_of_memory_is_tried_again_and_then_the_cause_of_the_failure(run):
    trial = run.begin()
    for _ in range(4):
        run.session.lose(trial.id, Loss("out-of-memory", "Ray ended it"))
        if run.session.next() is not trial:
            break
        run.session.start(trial.id)
    assert run.rows("status, cause, attempt, error") == [("FAIL", "out-of-memory", 4, "Ray ended it, too often in a row")]


def test_a_trial_whose_process_never_came_up_has_a_row(run):
    trial = run.session.next()
    for _ in range(4):
        run.session.lose(trial.id, Loss("process-start", "no module named x"))
        if run.session.next() is not trial:
            break
    assert run.rows("trial, status, error") == [(trial.id, "FAIL", "no module named x, too often in a row")]


# ------------------------------------------------------------------------------------------------------------------- machines

APART = {"space": {"align.epochs": {"grid": [0]}}, "base": {"task": "digits", "body.weights": "random"}, "seeds": 8}
"""Trials that share nothing."""

NO_DATA = {"status": "FAIL", "cause": "data", "error": "DataError: no file x.npz", "traceback": "T"}


def begin_on(run, node):
    trial = run.session.next()
    run.session.start(trial.id, node)
    return trial


def test_as_many_trials_are_offered_as_fit_on_the_machines_there_are(tmp_path):
    run = Run(tmp_path, slots=0, **APART)
    assert run.session.next() is None
    run.session.see([Node("a", "one", 1)])
    assert [run.session.next() is not None for _ in range(2)] == [True, False]
    run.session.see([Node("a", "one", 1), Node("b", "two", 2)])
    assert [run.session.next() is not None for _ in range(3)] == [True, True, False]
    assert run.session.nodes.joined == 1
    run.session.see([Node("b", "two", 2)], may_grow=True)
    assert [run.session.next() is not None for _ in range(6)] == [True] * 5 + [False], "an autoscaler sees all that wait"
    assert (run.session.nodes.joined, run.session.nodes.lost) == (1, 1)


def test_a_trial_leaves_a_machine_that_is_about_to_go_and_keeps_its_attempt(tmp_path):
    run = Run(tmp_path, slots=0, **APART)
    run.session.see([Node("a", "one", 1), Node("b", "two", 1)])
    trial = begin_on(run, "a")
    run.session.report(trial.id, [EpochRow(stage="finetune", epoch=1, valid_error=0.5)])
    assert not run.session.wants_stop(trial.id)
    run.session.see([Node("a", "one", 1, is_draining=True), Node("b", "two", 1)])
    assert run.session.wants_stop(trial.id)
    assert run.session.nodes.avoided("any") == {"a"}
    run.session.cut(trial.id)
    assert begin_on(run, "b") is trial
    run.session.report(trial.id, [EpochRow(stage="finetune", epoch=epoch, valid_error=0.5) for epoch in (1, 2)])
    run.session.end(trial.id, COMPLETE)
    assert run.rows("status, attempt, trial")[:1] == [("COMPLETE", 1, trial.id)]
    assert run.workspace.sql("select count(*) as n from metrics").rows() == [{"n": 2}]


def test_a_machine_that_fails_everything_gets_no_more_and_its_trials_run_elsewhere(tmp_path):
    run = Run(tmp_path, slots=0, **APART)
    run.session.see([Node("bad", "one", 1), Node("good", "two", 1)])
    run.session.end(begin_on(run, "good").id, COMPLETE)
    for faults in (1, 2):
        trial = begin_on(run, "bad")
        run.session.end(trial.id, NO_DATA)
        assert ("bad" in run.session.nodes.unusable) == (faults == 2)
        assert run.session.nodes.avoided(trial.id) == {"bad"}
        run.recorder.flush()
        error = run.workspace.sql(f"select error from trial_status where trial = '{trial.id}'").rows()[0]["error"]
        assert error == "one: data: DataError: no file x.npz; the trial is started again on another machine"
        assert begin_on(run, "good") is trial
        run.session.end(trial.id, COMPLETE)
    assert run.session.nodes.excluded == {"one": "DataError: no file x.npz"}
    assert run.session.slots == 1 or (run.session.see([Node("bad", "one", 1), Node("good", "two", 1)]) or run.session.slots == 1)


def test_if_no_machine_can_do_it_the_run_ends_after_a_few_trials(tmp_path):
    run = Run(tmp_path, slots=0, **APART)
    run.session.see([Node("a", "one", 1), Node("b", "two", 1)])
    failures = 0
    while not run.session.is_ending:
        trial = run.session.next()
        avoided = run.session.nodes.avoided(trial.id)
        run.session.start(trial.id, next(node for node in ("a", "b") if node not in avoided))
        run.session.end(trial.id, NO_DATA)
        failures += 1
    run.session.close()
    assert (run.session.outcome, run.session.ending.reason) == (Outcome.UNFIT, NO_DATA["error"])
    assert failures == 6, "three trials, each on both machines"
    run.recorder.flush()
    assert [row["cause"] for row in run.workspace.sql("select cause from trial_status").rows()] == ["data"] * 3
    again = reconcile(run.planner.space, run.workspace.results)
    assert len(again.todo) == 8, "none of these failures is final"


def test_a_trial_that_fails_on_two_machines_that_work_is_to_blame_itself(tmp_path):
    run = Run(tmp_path, slots=0, **APART)
    nodes = [Node(name, name, 1) for name in "abc"]
    run.session.see(nodes)
    for node in "abc":
        run.session.end(begin_on(run, node).id, COMPLETE)
    trial = begin_on(run, "a")
    run.session.end(trial.id, NO_DATA)
    assert begin_on(run, "b") is trial
    run.session.end(trial.id, NO_DATA)
    run.recorder.flush()
    (row,) = run.workspace.sql(f"select status, cause, attempt from trial_status where trial = '{trial.id}'").rows()
    assert row == {"status": "FAIL", "cause": "data", "attempt": 2}
    assert not run.session.nodes.excluded


def test_a_failure_of_what_runs_the_trials_costs_no_trial_anything(run):
    trial = run.begin()
    for _ in range(5):
        run.session.interrupt("Ray Tune failed")
        assert run.begin() is trial
    run.session.end(trial.id, COMPLETE)
    assert run.rows("status, trial") == [("COMPLETE", trial.id)]


# ------------------------------------------------------------------------------------------------------------- early stopping

TUNED = {
    "base": {"task": "digits", "body.weights": "random", "align.epochs": 0, "finetune.epochs": 4},
    "space": {"finetune.lr": {"uniform": [0.1, 0.2]}},
    "search": {"algorithm": "random", "trials": 2},
    "seeds": 2,
    "scheduler": "asha",
}
"""Two candidates with two seeds each, compared after epochs 1 and 3."""


def reach(run: Run, trial, epoch: int, error: float) -> bool:
    """Report fine-tuning up to an epoch, as a worker does; whether the trial was stopped there."""
    rows = [EpochRow(stage="finetune", epoch=number, valid_error=error, valid_loss=2 * error) for number in range(1, epoch + 1)]
    run.session.report(trial.id, rows)
    if stops := run.session.wants_stop(trial.id):
        run.session.cut(trial.id)
    return stops


def candidates_of(run: Run) -> list[list]:
    """The trials by candidate, handed out and started."""
    trials = [run.begin() for _ in range(4)]
    return [[trial for trial in trials if trial.candidate == number] for number in range(2)]


def test_seeds_wait_for_their_candidate_and_their_slots_are_free_meanwhile(tmp_path):
    run = Run(tmp_path, slots=4, **TUNED)
    (good, other), (bad, worse) = candidates_of(run)
    assert run.session.job(good).rungs == [1, 3]
    assert run.session.job(good).keep_at == {good.finetuning[0].folder: [1, 3]}, "where it may pause, its state is stored"
    assert reach(run, bad, 1, 0.9)
    assert (run.recorder.running, run.recorder.paused) == (3, 1)
    assert run.session.next() is None, "the paused one is not offered: its candidate is not decided"
    assert not run.session.is_exhausted
    assert reach(run, worse, 1, 0.9), "its candidate has arrived, but is compared with the whole cohort"
    assert reach(run, other, 1, 0.2)
    run.recorder.flush()
    assert {row["status"] for row in run.workspace.results.live_trials("s")} == {"RUNNING"}, "a pause is no end"
    assert not reach(run, good, 1, 0.1), "the last one to arrive goes on at once"
    ends = "candidate, status, cause, best_epoch, valid_error, valid_loss"
    pruned = ("PRUNED", "asha after epoch 1", 1, 0.9, 1.8)
    assert sorted(run.rows(ends), key=str)[2:] == [(1, *pruned), (1, *pruned)], "stopped as a whole"
    assert run.session.next() is other
    assert run.session.next() is None
    run.session.start(other.id)
    assert not reach(run, other, 1, 0.2), "it reports the epochs before once more"
    assert reach(run, other, 3, 0.2)
    assert not reach(run, good, 3, 0.1)
    assert run.session.next() is other
    run.session.start(other.id)
    for trial in (good, other):
        run.session.end(trial.id, COMPLETE)
    run.session.close()
    assert run.session.outcome is Outcome.FINISHED


def test_a_pause_costs_no_attempt_no_row_and_no_time(tmp_path):
    run = Run(tmp_path, slots=4, **TUNED)
    (good, other), bad = candidates_of(run)
    run.now = 10.0
    reach(run, other, 1, 0.2)
    run.now = 100.0
    for trial in bad:
        reach(run, trial, 1, 0.9)
    reach(run, good, 1, 0.1)
    assert run.session.next() is other
    run.session.start(other.id)
    run.now = 105.0
    reach(run, other, 3, 0.2)
    run.session.lose(good.id)
    run.session.ending.stop()
    run.session.close()
    run.recorder.flush()
    rows = run.workspace.sql("select trial, attempt, status, cause, seconds from trial_status").rows()
    (row,) = [row for row in rows if row["trial"] == other.id]
    assert row == {"trial": other.id, "attempt": 1, "status": "INTERRUPTED", "cause": "stopped", "seconds": 15.0}
    epochs = run.workspace.sql(f"select epoch from metrics where trial = '{other.id}' order by epoch").rows()
    assert [row["epoch"] for row in epochs] == [1, 2, 3]
    assert run.session.outcome is Outcome.STOPPED


def test_a_seed_at_the_end_of_a_phase_pauses_when_the_state_of_the_phase_is_stored(tmp_path):
    run = Run(tmp_path, slots=4, **TUNED | {"base": TUNED["base"] | {"freezing": "frozen-body:1"}})
    trial = run.begin()
    row = EpochRow(stage="finetune", epoch=1, valid_error=0.5)
    run.session.report(trial.id, [row])
    assert not run.session.wants_stop(trial.id), "its state is stored after this row"
    whole = {"key": "k", "epochs": 1, "reused_epochs": 0, "seconds": 1.0, "saved_s": 0.0}
    run.session.report(trial.id, [StageRow(stage="finetune", phase=0, **whole)])
    assert run.session.wants_stop(trial.id)
    assert run.session.job(trial).keep_at == {trial.finetuning[1].folder: [3]}


def test_a_trial_that_runs_too_long_is_stopped(tmp_path):
    run = Run(tmp_path, budget={"trial_minutes": 1})
    trial = run.begin()
    assert not run.session.wants_stop(trial.id)
    run.now = 61.0
    assert run.session.wants_stop(trial.id)
    run.session.cut(trial.id)
    assert run.rows() == [("FAIL", "timeout")]


def test_a_run_ends_when_its_time_is_used_up(tmp_path):
    run = Run(tmp_path, budget={"hours": 1})
    run.begin()
    run.now = 3599.0
    run.session.ending.check_deadline()
    assert not run.session.is_ending
    run.now = 3600.0
    run.session.ending.check_deadline()
    run.session.close()
    assert run.session.outcome is Outcome.STOPPED


def test_a_run_ends_when_the_gpu_time_that_its_trials_held_is_used_up(tmp_path):
    run = Run(tmp_path, slots=8, budget={"gpu_hours": 1}, resources={"gpu": 0.5})
    trial = run.begin()  # one of eight slots: the other trial waits for its alignment

    def goes_on_at(hour: float) -> bool:
        run.now = 3600 * hour
        run.session.ending.check_deadline()
        return not run.session.is_ending

    assert goes_on_at(1.0)
    run.session.lose(trial.id)
    assert goes_on_at(3.0)
    assert run.begin() is trial
    assert goes_on_at(3.9), "the two hours without a process do not count"
    assert not goes_on_at(4.0)
    run.session.close()
    assert run.session.outcome is Outcome.STOPPED
    assert run.session.processes.meter.hours == pytest.approx(1.0)


@pytest.mark.parametrize("end", ["end", "cut", "lose"])
def test_a_trial_that_ended_holds_no_gpu(tmp_path, end):
    run = Run(tmp_path, resources={"gpu": 1}, budget={"gpu_hours": 9})
    trial = run.begin()
    run.now = 3600.0
    getattr(run.session, end)(trial.id, *([COMPLETE] if end == "end" else []))
    run.now = 7200.0
    assert run.session.processes.meter.hours == pytest.approx(1.0)


def test_what_is_said_of_a_trial_that_has_ended_changes_nothing(run):
    trial = run.begin()
    run.session.end(trial.id, COMPLETE)
    run.session.report(trial.id, [EpochRow(stage="finetune", epoch=1)])
    run.session.cut(trial.id)
    run.session.lose(trial.id)
    run.session.end(trial.id, {"status": "FAIL", "cause": "user-error", "error": "", "traceback": ""})
    assert run.rows("status, attempt, sequence") == [("COMPLETE", 1, 1)]


def test_no_more_trials_run_than_there_are_slots(tmp_path):
    base = {"task": "digits", "body.weights": "random", "align.epochs": 0}
    run = Run(tmp_path, slots=1, space={"finetune.lr": {"grid": [0.1, 0.2]}}, base=base)
    first = run.begin()
    assert run.session.next() is None
    run.session.end(first.id, COMPLETE)
    assert run.session.next() is not None


def test_a_worker_is_told_all_of_a_trial_in_one_text(run):
    trial = run.begin()
    job = run.session.job(trial)
    again = TrialJob.from_json(job.to_json())
    assert again == job
    assert again.config == trial.config
    align = next(stage for stage in trial.stages if stage.kind == "align")
    assert (job.store, job.models, job.keep_at[align.folder]) == (run.workspace.artifacts_uri, run.workspace.artifacts_uri, [2, 4])


def test_trials_that_share_nothing_have_stores_of_their_own(tmp_path):
    run = Run(tmp_path)
    session = Session(run.planner, run.planner.plan.trials, run.recorder, run.workspace, slots=2, share=False)
    jobs = [session.job(session.next()) for _ in range(2)]
    shared = run.workspace.artifacts_uri
    assert len({job.store for job in jobs}) == 2
    assert all(not job.store.startswith(f"{shared}/") for job in jobs)
    assert {(job.models, len(job.keep_at)) for job in jobs} == {(shared, 0)}


def test_a_trial_that_ended_before_and_is_proposed_again_is_not_run_again(tmp_path):
    keys = {"space": {"finetune.lr": {"uniform": [0.1, 0.2]}}, "search": {"algorithm": "tpe", "trials": 3, "lag": 1}}
    run = Run(tmp_path, **keys)
    first = run.planner.plan.trials[0]
    (second,) = Planner(run.planner.space, {first.id: 0.25}).plan.trials[1:]
    ended = {"sweep": "s", "trial": second.id, "attempt": 1, "sequence": 1, "status": "FAIL", "cause": "user-error", "in_plan": False}
    row = ended | {"result_key": second.result_key}
    run.workspace.results.append("trials", "s", [row])
    for result_key, is_run in ((second.result_key, False), ("of other code", True)):
        planner = Planner(run.planner.space, {second.id: float("inf")}, {second.id: result_key})
        known = {second.id: row | {"result_key": result_key}}
        session = Session(planner, planner.plan.trials, run.recorder, run.workspace, slots=1, ended=known)
        session.start(session.next().id)
        session.end(first.id, COMPLETE)
        third = session.next()
        assert (third.id == second.id) is is_run
    assert run.workspace.results.live_trials("s") == [] or run.rows("in_plan")[0] == (True,)


def test_rows_that_another_attempt_has_reported_are_not_new(run):
    """By these a run is ended whose Tune fails again and again."""
    trial = run.begin()
    run.session.report(trial.id, [EpochRow(stage="align", epoch=epoch) for epoch in (1, 2)])
    for _ in range(3):
        run.session.interrupt("planted")
        assert run.begin() is trial
        run.session.report(trial.id, [EpochRow(stage="align", epoch=epoch) for epoch in (1, 2)])
        assert run.session.processes.num_new_rows == 2
    run.session.report(trial.id, [EpochRow(stage="align", epoch=3)])
    assert run.session.processes.num_new_rows == 3


IN_A_GROUP = {
    "base": {"task": "digits", "body.weights": "random", "align.epochs": 0, "finetune": {"epochs": 4, "fused": 9}},
    "space": {"finetune.lr": {"uniform": [0.1, 0.2]}},
    "search": {"algorithm": "random", "trials": 3},
    "seeds": 3,
}


def begin_group(run: Run, node: str | None = None) -> list:
    """Hand out a group and start it."""
    first = run.session.next()
    trials = [first, *run.session.beside(first)]
    for trial in trials:
        run.session.start(trial.id, node)
    return trials


def test_a_group_takes_one_slot_and_each_of_its_trials_its_share_of_the_time(tmp_path):
    run = Run(tmp_path, slots=2, **IN_A_GROUP)
    trials = begin_group(run)
    assert len(trials) == 9
    assert json.loads(run.session.message(trials))["group"].keys() == {trial.id for trial in trials}
    run.now = 90.0
    for trial in trials:
        run.session.end_member(trial.id, COMPLETE)
    assert run.rows("status, seconds") == [("COMPLETE", 10.0)] * 9


def test_a_member_pauses_at_its_limit_and_the_others_go_on(tmp_path):
    run = Run(tmp_path, slots=2, **IN_A_GROUP, scheduler={"name": "asha", "reduction_factor": 3})
    trials = begin_group(run)
    assert {run.session.job(trial).limit for trial in trials} == {1}
    for trial in trials[:8]:
        assert not reach(run, trial, 1, 0.5 + trial.candidate), "it is the worker that lets it leave"
        run.session.end_member(trial.id, {"status": PAUSED})
    assert (run.recorder.running, run.recorder.paused) == (1, 8)
    assert run.session.next() is None, "no candidate is decided"
    assert run.session.num_waiting == 8
    reach(run, trials[8], 1, 0.5 + trials[8].candidate)
    run.session.end_member(trials[8].id, {"status": PAUSED})
    assert run.session.num_waiting == 3, "one that goes on counts once"
    again = begin_group(run)
    assert {trial.candidate for trial in again} == {0}, "the survivors form a group anew"
    assert (len(again), {run.session.job(trial).limit for trial in again}) == (3, {3})


def test_what_ends_a_group_for_one_of_its_trials_is_no_end_of_the_others(tmp_path):
    run = Run(tmp_path, slots=2, **IN_A_GROUP, budget={"trial_minutes": 1})
    first, *others = begin_group(run)
    run.session.lose(first.id, Loss(is_announced=True))
    run.now = 9 * 61.0
    assert run.session.wants_stop(others[0].id)
    for trial in others[:7]:
        run.session.cut(trial.id)
    again = begin_group(run)
    assert again == [first]
    assert not run.session.wants_stop(first.id)
    run.session.cut(first.id)
    assert run.session.next() is first, "it had done nothing wrong"
    assert sorted(row[0] for row in run.rows()) == ["FAIL"] * 7 + ["RUNNING"] * 2


def test_a_group_that_is_lost_again_and_again_becomes_smaller_until_the_one_to_blame_is_alone(tmp_path):
    run = Run(tmp_path, slots=1, **IN_A_GROUP)
    sizes, poison = [], run.planner.plan.trials[4].id
    while not run.session.is_exhausted:
        trials = begin_group(run)
        sizes.append(len(trials))
        for trial in trials:
            if poison in {one.id for one in trials}:
                run.session.lose(trial.id)
            else:
                run.session.end_member(trial.id, COMPLETE)
    assert sizes == [9, 9, 3, 3, 1, 1, 1, 3]
    assert sorted(row[0] for row in run.rows()) == ["COMPLETE"] * 8 + ["FAIL"]


def test_a_process_that_does_not_start_is_blamed_on_its_machine_once_however_many_trials_it_had(tmp_path):
    run = Run(tmp_path, slots=0, **IN_A_GROUP)
    run.session.see([Node("a", "one", 1)])
    for number, trial in enumerate(begin_group(run, "a")):
        run.session.lose(trial.id, Loss("process-start", "no process", "a"), is_first=number == 0)
    assert not run.session.is_ending
    assert len(begin_group(run)) == 9
