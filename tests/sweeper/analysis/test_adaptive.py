"""`sweeper compare` on a sweep whose seeds were added until decided has the verdicts by which they were added."""

from __future__ import annotations

import json
from random import Random

import pytest
from typer.testing import CliRunner

from sweeper.analysis.comparison import compare
from sweeper.analysis.sweep_rows import read_sweep_rows
from sweeper.cli import app
from sweeper.planning.planner import Planner
from sweeper.running.plan_note import plan_note
from sweeper.running.recorder import Recorder
from sweeper.space.reading import parse_space

SPACE = {
    "name": "open",
    "base": {"task": "digits"},
    "space": {"align.epochs": {"grid": [0, 1, 2, 3]}, "freezing": {"grid": ["full", "layernorm"]}},
    "seeds": {"until": "decided", "from": 3, "to": 12},
    "question": {"factor": "align.epochs", "baseline": 0, "margin": 0.02},
}
EFFECTS = {0: 0.0, 1: 0.0, 2: -0.03, 3: -0.01}


def error_of(trial, sd: float) -> float:
    return 0.3 + EFFECTS[trial.config.align.epochs] + Random(trial.id).gauss(0, sd)


def run(workspace, sd: float, failing=lambda trial: False) -> Planner:
    """A planner that was told of trials until none was left, and the sweep's tables."""
    planner = Planner(parse_space(SPACE))
    recorder = Recorder(workspace.results, "open", "valid_error")
    waiting = list(planner.plan.trials)
    while waiting:
        trial = waiting.pop(0)
        error = error_of(trial, sd)
        recorder.start(trial, device="cpu")
        end = {"status": "FAIL", "cause": "not-finite", "error": "x"} if failing(trial) else {"status": "COMPLETE"}
        scores = {"valid_error": 0.5, "test_error": error, "test_samples": 10_000, "score": "1-accuracy"}
        recorder.end(trial.id, end | (scores if end["status"] == "COMPLETE" else {}))
        told = {key: float("inf") for key in ("valid_error", "test_error")} if failing(trial) else {"valid_error": 0.5, "test_error": error}
        waiting += planner.tell(trial.id, told | {"test_samples": 10_000})
    recorder.flush()
    workspace.results.save_plan("open", planner.plan.hash, plan_note(planner.plan))
    return planner


def as_json(workspace, *options):
    result = CliRunner().invoke(app, ["compare", "open", *options, "--format", "json", "--results", workspace.uri])
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


@pytest.mark.parametrize("sd", [0.004, 0.012, 0.03])
@pytest.mark.parametrize("options", [(), ("--factor", "align.epochs", "--baseline", "0")])
def test_the_verdicts_are_those_by_which_seeds_were_added(workspace, sd, options):
    planner = run(workspace, sd)
    decisions = {name.level: decision for name, decision in planner.deciding.decisions.items()}
    found = {row["level"]: row for row in as_json(workspace, *options)}
    assert {level: row["verdict"] for level, row in found.items()} == {level: decision.verdict for level, decision in decisions.items()}
    for level, row in found.items():
        assert row["p_adjusted"] == pytest.approx(decisions[level].p_adjusted)
        looked = ", ".join(str(look) for look in (3, 4, 6, 8, 12) if look <= decisions[level].seeds)
        assert any(f"after {looked} seeds, of those planned after 3, 4, 6, 8, 12" in note for note in row["notes"])
        assert row["n"] >= decisions[level].seeds
        assert (row["flags"], row["pairs_missing"]) == ([], []), "seeds that one level has less are not missing: none was planned"


def test_trials_that_failed_for_good_are_missing_at_their_look(workspace):
    planner = run(workspace, 0.012, lambda trial: trial.config.align.epochs == 1 and trial.config.seed == 1)
    decisions = {name.level: decision for name, decision in planner.deciding.decisions.items()}
    options = ("--allow-unfair",)
    assert {row["level"]: row["verdict"] for row in as_json(workspace, *options)} == {k: d.verdict for k, d in decisions.items()}
    unfair = next(row for row in as_json(workspace) if row["level"] == 1)
    assert (unfair["flags"], unfair["verdict"]) == (["missing-in-one-arm"], None)


def test_other_comparisons_of_such_a_sweep_are_ordinary_tests(workspace):
    run(workspace, 0.012)
    rows = read_sweep_rows(workspace.results, "open")
    assert list(rows.looks) == [3, 4, 6, 8, 12]
    (other,) = as_json(workspace, "--factor", "freezing", "--baseline", "full")
    (expected,) = compare(rows.rows, "freezing", "full", varied=rows.varied, lists_plan=True).effects
    assert (other["p"], other["verdict"]) == (pytest.approx(expected.p), expected.verdict)


def test_looks_that_wait_for_seeds_are_not_taken(workspace):
    """Trials of a look that have not ended: nothing is decided by the others."""
    planner = run(workspace, 0.012)
    rows = read_sweep_rows(workspace.results, "open").rows
    cut = [row | ({"status": "RUNNING", "test_error": None} if row["seed"] == 2 and row["align_epochs"] == 2 else {}) for row in rows]
    options = {
        "varied": ["align_epochs", "freezing"],
        "lists_plan": True,
        "margin": 0.02,
        "looks": planner.space.looks,
        "allow_unfair": True,
    }
    found = {effect.level: effect for effect in compare(cut, "align.epochs", 0, **options).effects}
    assert {effect.verdict for effect in found.values()} == {"undecided"}, "no look of the family was complete"
