"""The ranking of arms: a candidate counts with all of its seeds or not at all, whatever early stopping and failures have left."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pytest

from orca_core.errors import ConfigError
from sweeper.analysis.arms import rank_arms
from sweeper.analysis.candidates import read_arms
from sweeper.planning.planner import make_plan
from sweeper.results import Workspace
from sweeper.running.outcome import Outcome
from sweeper.running.plan_note import plan_note
from sweeper.running.reconcile import reconcile
from sweeper.running.recorder import Recorder
from sweeper.show.results import best_arms, describe_best
from sweeper.show.status import arms_status, describe_status, sweep_status
from sweeper.show.summary import summarise_run
from sweeper.space.reading import parse_space

PRUNED = {"status": "PRUNED", "cause": "asha after epoch 2", "best_epoch": 2}
STOPPED = {"status": "FAIL", "cause": "stopped", "error": "the sweep was stopped"}
FAILED = {"status": "FAIL", "cause": "user-error", "error": "ValueError: x"}

TUNED = {
    "name": "tuned",
    "base": {"task": "digits", "body.weights": "random"},
    "space": {"align.epochs": {"grid": [0, 5]}, "finetune.lr": {"choice": [0.1, 0.2, 0.3, 0.4]}},
    "search": {"algorithm": "random", "trials": 3, "seed": 3},
    "scheduler": "asha",
    "seeds": 2,
}


def record(workspace: Workspace, data: Mapping[str, Any], ends: Mapping[tuple[Any, ...], Any], knob: str, old: bool = False) -> None:
    """Record a sweep as a driver would.

    Args:
        workspace: Where it is recorded.
        data: The search space.
        ends: (value of `knob`, candidate, seed) -> the validation error of a complete trial, cells of one that ended otherwise,
            None for one that runs; trials that are left out have not started.
        knob: The column that tells the arms apart.
        old: Whether the plan is stored as version 0.1 did.
    """
    plan = make_plan(parse_space(data))
    note = plan_note(plan)
    if old:
        del note["candidates"]
    workspace.results.save_plan(data["name"], plan.hash, note)
    now = 0.0
    recorder = Recorder(workspace.results, data["name"], "valid_error", clock=lambda: now)
    for trial in plan.trials:
        key = (trial.cells()[knob], trial.candidate, trial.config.seed)
        if key not in ends:
            continue
        recorder.start(trial, device="cpu")
        now += 10.0
        end = ends[key]
        if isinstance(end, float):
            recorder.end(trial.id, {"status": "COMPLETE", "valid_error": end, "test_error": end + 0.1})
        elif end is not None:
            recorder.end(trial.id, {"valid_error": 0.9, "test_error": 0.9} | end)
    recorder.flush()


@pytest.fixture
def workspace(tmp_path) -> Workspace:
    return Workspace(tmp_path / "results")


SURVIVORS = {
    **{(0, 0, seed): error for seed, error in enumerate((0.30, 0.32))},
    (0, 1, 0): 0.01,  # one lucky seed
    (0, 1, 1): PRUNED,
    (0, 2, 0): PRUNED,
    (0, 2, 1): PRUNED,
    (5, 0, 0): 0.02,
    (5, 0, 1): PRUNED,
    (5, 1, 0): 0.40,
    (5, 1, 1): 0.42,
    (5, 2, 0): 0.03,  # its other seed has not started
}


@pytest.mark.parametrize("old", [False, True])
def test_lucky_seeds_of_pruned_candidates_are_not_ranked(workspace, old):
    record(workspace, TUNED, SURVIVORS, "align_epochs", old)
    first, second = best_arms(workspace, "tuned", 5).to_pylist()
    assert (first["align_epochs"], first["valid_error"], first["seeds"]) == (0, pytest.approx(0.31), 2)
    assert (second["align_epochs"], second["valid_error"], second["seeds"]) == (5, pytest.approx(0.41), 2)
    counts = ("candidates", "completed", "pruned", "failed", "trial_seconds")
    assert [first[key] for key in counts] == [3, 1, 2, 0, 60.0]
    assert [second[key] for key in counts] == [3, 1, 1, 0, 50.0]


def test_candidates_that_have_pending_are_counted(workspace):
    record(workspace, TUNED, {(0, 0, 0): 0.3, (0, 0, 1): 0.3, (5, 1, 0): None}, "align_epochs")
    rows = {row["align_epochs"]: row for row in arms_status(workspace, "tuned").to_pylist()}
    assert [rows[0][key] for key in ("candidates", "completed")] == [3, 1]
    assert [rows[5][key] for key in ("candidates", "completed")] == [3, 0]
    assert "finetune_lr" not in rows[0], "a tuned knob is no setting of the arm"
    text = describe_best(workspace, "tuned", 5)
    assert "1 arm is not ranked" in text
    assert "1 of 3 candidates completed, 0 pruned, 20 s" in " ".join(text.split())


def test_a_failed_seed_takes_its_candidate_out(workspace):
    record(workspace, TUNED, {(0, 0, 0): 0.1, (0, 0, 1): FAILED, (0, 1, 0): 0.5, (0, 1, 1): 0.5}, "align_epochs")
    (line,) = best_arms(workspace, "tuned", 5).to_pylist()
    assert (line["valid_error"], line["failed"]) == (0.5, 1)


@pytest.mark.parametrize(
    ("ends", "message"),
    [
        ({(0, 0, 0): None, (0, 0, 1): STOPPED}, "tuned has no finished trials yet. See `sweeper status tuned --results "),
        (
            {(0, 0, 0): 0.1, (0, 0, 1): PRUNED},
            "tuned has no candidate yet of which all seeds are complete; only such candidates are ranked.",
        ),
    ],
)
def test_what_cannot_be_ranked_yet_is_said_as_a_fact(workspace, ends, message):
    record(workspace, TUNED, ends, "align_epochs")
    with pytest.raises(ConfigError) as caught:
        rank_arms(workspace.results, "tuned")
    assert str(caught.value).startswith(message)


def test_a_trial_of_an_earlier_plan_changes_no_ranking(workspace):
    """Its row stays with in_plan false; here it is the better one."""
    record(workspace, TUNED, {(0, 0, 0): 0.3, (0, 0, 1): 0.3, (5, 0, 0): 0.1, (5, 0, 1): 0.1}, "align_epochs")
    left = [row | {"in_plan": False, "sequence": 2} for row in workspace.results.live_trials("tuned") if row["align_epochs"] == 5]
    workspace.results.append("trials", "tuned", left)
    assert [line["align_epochs"] for line in best_arms(workspace, "tuned", 5).to_pylist()] == [0]


VARIANTS = {
    "name": "variants",
    "base": {"task": "digits", "align.epochs": 0, "body.weights": "random"},
    "variants": {"hot": {"finetune.lr": 0.1}, "ok": {"finetune.lr": 0.001}, "near": {"finetune.lr": 0.0010001}},
    "seeds": [0, 7],
}


def test_arms_have_the_names_of_their_variants_and_ties_have_equal_ranks(workspace):
    scores = {"hot": (0.1, 0.3), "ok": (0.2, 0.2), "near": (0.25, 0.25)}
    lr = {"hot": 0.1, "ok": 0.001, "near": 0.0010001}
    ends = {(lr[name], 0, seed): errors[i] for name, errors in scores.items() for i, seed in enumerate((0, 7))}
    record(workspace, VARIANTS, ends, "finetune_lr")
    lines = best_arms(workspace, "variants", 5).to_pylist()
    assert sorted((line["rank"], line["variant"]) for line in lines) == [(1, "hot"), (1, "ok"), (3, "near")]
    text = describe_best(workspace, "variants", 5)
    assert all(f"{name}: finetune_lr {value}" in " ".join(text.split()) for name, value in lr.items()), text


@pytest.mark.parametrize("driver", [False, True])
def test_a_clean_stop_is_no_failure(workspace, driver):
    """Nor is a trial whose driver died: that, too, is continued by the next run."""
    record(workspace, TUNED, {(0, 0, 0): 0.1, (0, 0, 1): STOPPED, (5, 0, 0): FAILED, (5, 0, 1): None}, "align_epochs")
    if driver:
        workspace.results.write_claim("tuned", "20260101T000000-a", {"host": "elsewhere", "pid": 1, "holds": True})
    (line,) = sweep_status(workspace, None).to_pylist()
    expected = {"complete": 1, "pruned": 0, "fail": 1, "running": 1 if driver else 0, "interrupted": 0 if driver else 2}
    expected |= {"planned": 12, "pending": 9 if driver else 8, "paused": 0}
    assert {key: line[key] for key in expected} == expected
    assert ("tuned is run by process 1 on elsewhere." in describe_status(workspace, None)) is driver


def test_trials_that_pause_are_counted_as_their_driver_tells(workspace):
    """Their rows say RUNNING."""
    record(workspace, TUNED, {(0, 0, 0): None, (0, 0, 1): None, (5, 0, 0): None}, "align_epochs")
    facts = {"running": 1, "paused": 2}
    workspace.results.write_claim("tuned", "20260101T000000-a", {"host": "elsewhere", "pid": 1, "holds": True, "facts": facts})
    (line,) = sweep_status(workspace, "tuned").to_pylist()
    assert (line["running"], line["paused"], line["interrupted"], line["pending"]) == (1, 2, 0, 9)


def test_the_summary_of_a_stopped_run_reports_no_failure(workspace):
    record(workspace, TUNED, {(0, 0, 0): 0.1, (0, 0, 1): STOPPED, (5, 0, 0): STOPPED}, "align_epochs")
    found = reconcile(parse_space(TUNED), workspace.results)
    text = summarise_run(found, workspace, 0, Outcome.STOPPED, workspace.results.live_trials("tuned"))
    assert "tuned: stopped, 2 of 12 trials interrupted. Run the same command to continue.\n" in text
    assert "failed" not in text
    assert len(found.todo) == 11, "the next run takes them up"


def test_the_summary_counts_the_trials_that_tpe_has_yet_to_propose(workspace):
    """As the progress line does; and what it advises reads the folder of this run."""
    data = TUNED | {"search": {"algorithm": "tpe", "trials": 9}}
    record(workspace, data, {(0, 0, 1): STOPPED}, "align_epochs")
    found = reconcile(parse_space(data), workspace.results)
    text = summarise_run(found, workspace, 0, Outcome.STOPPED, workspace.results.live_trials("tuned"))
    assert (len(found.plan.trials), found.plan.proposed_later) == (12, 20)
    assert "tuned: stopped, 1 of 32 trials interrupted." in text
    assert text.endswith(f"See: sweeper status tuned --results {workspace.uri}\n")


def test_equal_errors_have_an_interval_of_zero(workspace):
    """Also if they are equal up to rounding, as means over folds are."""
    record(workspace, TUNED, {(0, 0, 0): 0.21, (0, 0, 1): 0.21000000000000002}, "align_epochs")
    (line,) = best_arms(workspace, "tuned", 5).to_pylist()
    assert line["valid_error_ci95"] == 0


def test_a_tie_with_an_arm_that_is_not_listed_is_told(workspace):
    known = {"status": "COMPLETE", "valid_error": 0.3, "test_error": 0.3, "valid_samples": 10, "score": "1-accuracy", "majority_error": 0.2}
    record(workspace, TUNED, {(epochs, 0, seed): known for epochs in (0, 5) for seed in (0, 1)}, "align_epochs")
    text = " ".join(describe_best(workspace, "tuned", 1).split())
    assert "1 of 2 arms are shown" in text
    assert "The first two arms cannot be told apart" in text
    assert text.count("no better than a constant answer") == 1


def test_trials_recorded_one_by_one_are_arms_of_one_seed(workspace):
    """`sweeper trial --name` stores no plan."""
    for trial in make_plan(parse_space(VARIANTS)).trials:
        recorder = Recorder(workspace.results, "single", "valid_error")
        recorder.start(trial, device="cpu")
        recorder.end(trial.id, {"status": "COMPLETE", "valid_error": 0.5, "test_error": 0.5})
        recorder.flush()
    assert {arm.count("COMPLETE") for arm in read_arms(workspace.results, "single").arms} == {1}
    assert json.dumps(best_arms(workspace, "single", 5).to_pylist())


def test_arms_recorded_one_by_one_are_told_apart_by_the_knobs_in_which_they_differ(workspace):
    space = {"name": "one", "base": {"task": "digits"}, "space": {"freezing": {"grid": ["full", "bias"]}}}
    recorder = Recorder(workspace.results, "single", "valid_error")
    for trial in make_plan(parse_space(space)).trials:
        recorder.start(trial, device="cpu")
        recorder.end(trial.id, {"status": "COMPLETE", "valid_error": 0.5, "test_error": 0.5})
    recorder.flush()
    text = describe_best(workspace, "single", 5)
    assert "freezing full;" in text
    assert "freezing bias;" in text


@pytest.mark.parametrize("width", [80, 200])
def test_best_and_status_fit_the_terminal(workspace, monkeypatch, width):
    monkeypatch.setenv("COLUMNS", str(width))
    long = TUNED | {"name": "a-sweep-with-a-rather-long-name-for-a-table"}
    record(workspace, long, SURVIVORS, "align_epochs")
    for text in (describe_best(workspace, long["name"], 5), describe_status(workspace, None), describe_status(workspace, long["name"])):
        assert max(len(line) for line in text.splitlines() if workspace.uri not in line) <= width, text  # a path is not broken
