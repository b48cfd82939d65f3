"""How a run ends: with exit code 0 if every planned trial is COMPLETE or PRUNED, and with the names of those that are not."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
from typer.testing import CliRunner

import sweeper.sweep
from sweeper.cli import app
from sweeper.planning.planner import make_plan
from sweeper.planning.trials import PlannedTrial
from sweeper.results import ResultStore
from sweeper.running.driver import Process
from sweeper.running.outcome import Outcome, SweepCutError
from sweeper.running.unfinished import find_unfinished
from sweeper.space.reading import parse_space
from sweeper.sweep import run_space

SPACE: dict[str, Any] = {"name": "s", "base": {"task": "digits", "body.weights": "random"}, "seeds": 5, "floors": False}
COMPLETE = {"status": "COMPLETE", "valid_error": 0.1, "test_error": 0.2, "best_epoch": 1, "numpy_version": "2"}
PRUNED = COMPLETE | {"status": "PRUNED", "cause": "asha after epoch 1"}
LOST = {"status": "FAIL", "cause": "infrastructure", "error": "the worker's process or machine was lost too often"}

Run = Callable[..., int]


@pytest.fixture
def run(tmp_path, monkeypatch) -> Run:
    """`run(ends)` runs a sweep whose trials end so, in the order of the plan: None begins without ending, and one left out never begins."""

    def run(ends: Sequence[Any], space: dict[str, Any] = SPACE, outcome: Outcome = Outcome.FINISHED, lose: bool = False) -> int:
        def launch(found, todo: list[PlannedTrial], workspace, recorder, claim, *_: object) -> Outcome:
            for trial, end in zip(found.plan.trials, ends, strict=False):
                recorder.start(trial, device="cpu")
                if end is not None:
                    recorder.end(trial.id, end)
            recorder.flush()
            if lose:
                workspace.results.drop_claim("s", claim.run)
                claim.beat()
            return outcome

        monkeypatch.setattr(sweeper.sweep, "_launch", launch)
        return run_space(parse_space(space), tmp_path / "results")

    return run


def test_a_run_succeeds_if_every_planned_trial_is_complete(run, capsys):
    assert run([COMPLETE] * 5) == 0
    assert "did not finish" not in capsys.readouterr().out
    assert run([]) == 0, "and so does the next one, which has nothing to do"


def test_trials_without_a_row_are_named(run, capsys):
    assert run([COMPLETE]) == 1
    ids = [trial.id for trial in make_plan(parse_space(SPACE)).trials]
    said = capsys.readouterr().out
    assert f"4 did not finish (not started): {', '.join(ids[1:4])} and 1 more. {ids[1]}: it has no row in the results.\n" in said


def test_failed_trials_are_named_by_cause(run, capsys):
    assert run([COMPLETE, LOST, LOST, LOST | {"cause": "timeout", "error": "too long"}, None]) == 1
    ids = [trial.id for trial in make_plan(parse_space(SPACE)).trials]
    said = capsys.readouterr().out
    assert f"2 failed (infrastructure): {ids[1]}, {ids[2]}. {ids[1]}: {LOST['error']}. See: sweeper show {ids[1]}" in said
    assert f"1 failed (timeout): {ids[3]}. {ids[3]}: too long." in said
    assert f"1 did not finish (no end): {ids[4]}. {ids[4]}: its last row says RUNNING." in said


def test_pruned_trials_count_where_the_sweep_prunes(run):
    assert run([COMPLETE, PRUNED, PRUNED, PRUNED, PRUNED], SPACE | {"scheduler": {"name": "asha", "among": "task"}}) == 0
    assert run([PRUNED], SPACE | {"scheduler": "fifo"}) == 1


def test_a_row_of_other_code_does_not_count_for_a_trial_that_did_not_start_again():
    plan = make_plan(parse_space(SPACE))
    rows = [COMPLETE | {"trial": trial.id, "result_key": trial.result_key, "error": None} for trial in plan.trials]
    assert find_unfinished(plan, rows) == []
    (found,) = find_unfinished(plan, [rows[0] | {"result_key": "old"}, *rows[1:]])
    assert (found.trial, found.status) == (plan.trials[0].id, "NONE")


def test_trials_that_were_never_proposed_are_missing_too(run, capsys):
    tuned = SPACE | {"space": {"finetune.lr": {"loguniform": [1e-4, 1e-2]}}, "search": {"algorithm": "tpe", "trials": 30}, "seeds": 1}
    assert run([], tuned) == 1
    assert "trials were never proposed: tpe lacks scores of earlier ones" in capsys.readouterr().out


def test_a_stopped_run_has_an_exit_code_of_its_own_and_complains_of_nothing(run, capsys):
    assert run([COMPLETE, None], outcome=Outcome.STOPPED) == 130
    assert "did not finish" not in capsys.readouterr().out


def test_rows_say_which_run_wrote_them(run, tmp_path):
    assert run([COMPLETE, LOST]) == 1
    results = ResultStore(tmp_path / "results")
    first = {row["run"] for row in results.live_trials("s")}
    assert run([COMPLETE] * 5) == 0
    assert len(first) == 1
    assert first.isdisjoint({row["run"] for row in results.live_trials("s")})


def test_a_run_that_lost_its_claim_ends_and_says_so(run):
    with pytest.raises(SweepCutError, match="another run has since taken the sweep over") as caught:
        run([COMPLETE], lose=True)
    assert caught.value.exit_code == 1


def test_a_sweep_with_a_driver_is_refused_before_anything_is_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    ResultStore("my results").write_claim("quickstart", "20260101T000000-a", {"beats": 1, "holds": True} | Process("elsewhere", 7).cells())
    result = CliRunner().invoke(app, ["run", "quickstart", "--set", "sweep:seeds=1", "--wait", "0", "--results", "my results"])
    assert result.exit_code == 2
    assert "sweep quickstart is already being run by process 7 on elsewhere" in result.output
    assert "end it with `sweeper stop quickstart --results 'my results'`, or" in result.output, "as it can be pasted"
    assert "--wait MINUTES" in result.output
    assert list((tmp_path / "my results").iterdir()) == [tmp_path / "my results" / "sweeps"]
    assert not list((tmp_path / "my results").rglob("*.json"))
