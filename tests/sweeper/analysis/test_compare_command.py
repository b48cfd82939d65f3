"""`sweeper compare` and `sweeper importance` on recorded sweeps, and on tables of other programs that have few columns."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from made_rows import cross
from typer.testing import CliRunner

from orca_core.floors.rows import FloorRow
from sweeper import Results
from sweeper.analysis import effects
from sweeper.analysis.comparison import compare
from sweeper.analysis.sweep_rows import read_sweep_rows
from sweeper.cli import app
from sweeper.planning.planner import make_plan
from sweeper.running.plan_note import plan_note
from sweeper.space.reading import parse_space

QUICKSTART = {
    "name": "quick",
    "space": {
        "task": {"grid": ["digits", "openml/1510"]},
        "align.epochs": {"grid": [0, 10]},
        "proxy": {"grid": ["recipe", "noise-matched"], "when": {"freezing": "full"}},
        "freezing": {"grid": ["full", "layernorm"]},
        "body.weights": {"grid": ["pretrained", "random"]},
    },
    "seeds": 4,
}


def noisy(seed: int = 0):
    """An outcome: alignment lowers the error by 0.05 with frozen bodies alone."""
    rng = np.random.default_rng(seed)

    def error(cells):
        gain = 0.05 * (cells["align_epochs"] == 10 and cells["freezing"] == "layernorm")
        return 0.2 + 0.1 * (cells["task"] == "digits") + 0.02 * cells["seed"] - gain + 0.003 * rng.normal()

    return error


def sweeper(workspace, *arguments, code=0):
    result = CliRunner().invoke(app, [*arguments, "--results", workspace.uri])
    assert result.exit_code == code, result.output
    return result.stdout if code == 0 else result.stderr


def as_json(workspace, *arguments):
    return json.loads(sweeper(workspace, "compare", *arguments, "--format", "json"))


KEYS = "task, factor, level, baseline, difference, relative, low, high, p, p_adjusted, n, pairs_missing, verdict, seeds_needed, flags"


def test_json_has_one_object_for_each_task_and_level_and_over_tasks(workspace, simulate):
    simulate(QUICKSTART, noisy())
    found = as_json(workspace, "quick", "--factor", "align.epochs", "--baseline", "0")
    assert [row["task"] for row in found] == ["digits", "openml/1510", None]
    assert all(key in row for row in found for key in KEYS.split(", "))
    assert {(row["factor"], row["level"], row["baseline"], row["n"]) for row in found[:2]} == {("align.epochs", 10, 0, 4)}
    assert all(row["flags"] == [] and row["pairs_missing"] == [] for row in found)
    assert found[0]["contexts"] == 6, "full with two proxies, layernorm with one, each with two weights"
    assert found[0]["difference"] == pytest.approx(-0.05 / 3, abs=0.004)
    assert found[0]["interaction"]["where"] in (
        {"freezing": "full"},
        {"freezing": "layernorm", "proxy": "photos"},
        {"freezing": "layernorm"},
    )
    (overall,) = as_json(workspace, "quick", "--factor", "align_epochs", "--baseline", "0", "--by", "all")
    assert (overall["task"], overall["n"], overall["difference"]) == (None, 2, None)


def test_the_function_on_arrow_tables_agrees_with_the_command(workspace, simulate):
    simulate(QUICKSTART, noisy())
    trials = Results(workspace.uri).sql("from trial_status where sweep = 'quick' and in_plan").arrow()
    table = effects(trials, "proxy", None).to_pylist()
    found = as_json(workspace, "quick", "--factor", "proxy", "--baseline", "none")
    for key in ("task", "level", "difference", "low", "p_adjusted", "verdict", "flags", "n", "contexts"):
        assert [row[key] for row in table] == [row[key] for row in found]


def test_the_function_sees_that_each_seed_has_a_split_of_its_own():
    rows = cross({"align_epochs": [0, 10], "seed": range(5)}, lambda cells: 0.3 + 0.01 * cells["seed"] * cells["align_epochs"])
    (row,) = effects(pa.Table.from_pylist([row | {"split_seed": row["seed"]} for row in rows]), "align.epochs", 0).to_pylist()
    assert (row["n"], row["contexts"], row["pairs_missing"]) == (5, 1, "[]")
    assert "both redrawn by seed" in row["covers"]


@pytest.mark.parametrize("width", [80, 120])
@pytest.mark.parametrize(
    "options",
    [
        ("--factor", "align.epochs", "--baseline", "0"),
        ("--factor", "proxy", "--baseline", "none"),
        ("--factor", "freezing", "--baseline", "full", "--within", "body.weights"),
        ("--factor", "body", "--baseline", "random", "--metric", "valid_error", "--margin", "0.01"),
    ],
)
def test_the_text_fits_the_terminal(workspace, simulate, monkeypatch, width, options):
    monkeypatch.setenv("COLUMNS", str(width))
    simulate(QUICKSTART, noisy())
    text = sweeper(workspace, "compare", "quick", *options)
    assert max(len(line) for line in text.splitlines() if workspace.uri not in line) <= width, text  # a path is not broken
    for format in ("csv", "markdown", "latex"):
        assert sweeper(workspace, "compare", "quick", *options, "--format", format)


def test_the_text_says_what_is_found(workspace, simulate):
    def outcome(cells):
        if (cells["task"], cells["align_epochs"], cells["seed"], cells["freezing"]) == ("digits", 10, 3, "full"):
            return {"status": "FAIL", "cause": "not-finite", "error": "x"}
        return noisy(cells["seed"])(cells)

    simulate(QUICKSTART, outcome)
    text = " ".join(sweeper(workspace, "compare", "quick", "--factor", "align.epochs", "--baseline", "0").split())
    assert "quick: test_error by align.epochs, each level against 0. Lower is better." in text
    assert "not given: unfair" in text
    assert "missing-in-one-arm: More trials are missing on one side: 4 of the level, 0 of the baseline" in text
    assert "seed 3" in text
    assert "FAIL not-finite" in text
    assert "over tasks: difference relative to the error of 0" in text
    assert "p-values are corrected for all 3 verdicts (Holm); the family's error rate is 5 %." in text
    assert "cover the draws of training by seed, on one split of the data; not other splits or pretrained bodies." in text
    allowed = sweeper(workspace, "compare", "quick", "--factor", "align.epochs", "--baseline", "0", "--allow-unfair")
    assert "not given: unfair" not in allowed


def test_the_best_floor_stands_beside_the_arms(workspace, simulate):
    """It is the one of the split on which the sweep ran; on the other task none is known."""
    simulate(QUICKSTART | {"base": {"split_seed": 3}}, noisy())
    known = {"task": "digits", "status": "COMPLETE", "version": 1, "sklearn_version": "1", "numpy_version": "2", "score": "1-accuracy"}
    best = FloorRow(**known, model="svm", split_seed=3, valid_error=0.01, test_error=0.0125)
    worse = FloorRow(**known, model="majority", split_seed=3, valid_error=0.9, test_error=0.9)
    workspace.results.append_floors([best, worse, replace(best, split_seed=0, test_error=0.5)])
    options = ("quick", "--factor", "align.epochs", "--baseline", "0")
    assert [row["floor"] for row in as_json(workspace, *options)] == [{"model": "svm", "test_error": 0.0125}, None, None]
    assert [row["floor"] for row in as_json(workspace, *options, "--metric", "valid_error")] == [None, None, None]
    text = " ".join(sweeper(workspace, "compare", *options, "--within", "freezing").split())
    assert text.count("No evidence of transfer on digits: svm 0.0125, best arm 0.") == 1, "once for all values of freezing"
    assert "`sweeper floors openml/1510 --set split_seed=3" in text


def test_a_failed_trial_is_missing_and_one_that_was_not_planned_is_not(workspace, simulate):
    """Seed 3 of the level has failed, seed 2 has not started: both are planned. The row of another plan is not read."""

    def outcome(cells):
        if cells["align_epochs"] == 10 and cells["seed"] > 1:
            return {"status": "FAIL", "cause": "data", "error": "x"} if cells["seed"] == 3 else None
        return 0.3 + 0.01 * cells["seed"]

    simulate({"name": "s", "base": {"task": "digits"}, "space": {"align.epochs": {"grid": [0, 10]}}, "seeds": 4}, outcome)
    (row,) = as_json(workspace, "s", "--factor", "align.epochs", "--baseline", "0")
    assert [(missing["seed"], missing["side"], missing["why"]) for missing in row["pairs_missing"]] == [
        (2, "level", "not started"),
        (3, "level", "FAIL data"),
    ]
    dropped = [row | {"in_plan": False, "sequence": 9} for row in workspace.results.live_trials("s") if row["seed"] > 1]
    workspace.results.append("trials", "s", dropped)
    plan = make_plan(parse_space({"name": "s", "base": {"task": "digits"}, "space": {"align.epochs": {"grid": [0, 10]}}, "seeds": 2}))
    workspace.results.save_plan("s", plan.hash, plan_note(plan))
    (row,) = as_json(workspace, "s", "--factor", "align.epochs", "--baseline", "0")
    assert (row["n"], row["pairs_missing"], row["verdict"]) == (2, [], "no-difference")


def test_a_knob_that_the_first_trials_have_in_common_is_read_from_their_rows(workspace, simulate):
    """Early in a sweep all trials that have started may have one level; the plan has the others."""
    space = {"name": "s", "base": {"task": "digits"}, "space": {"freezing": {"grid": ["full", "bias"]}}, "seeds": 3}
    simulate(space, lambda cells: 0.3 if cells["freezing"] == "full" and cells["seed"] < 2 else None)
    (row,) = as_json(workspace, "s", "--factor", "freezing", "--baseline", "full")
    assert (row["level"], row["n"]) == ("bias", 0)
    assert [(missing["seed"], missing["side"]) for missing in row["pairs_missing"]] == [(0, "level"), (1, "level"), (2, "both")]


def test_trials_are_selected_by_a_condition_on_any_column(workspace, simulate):
    """Knobs that the sweep does not vary can be named, too, and trials that have not started are among those selected."""
    space = {"name": "s", "space": {"task": {"grid": ["digits", "mnist1d"]}, "align.epochs": {"grid": [0, 5, 10]}}, "seeds": 3}
    simulate(space, lambda cells: None if cells["seed"] == 2 and cells["align_epochs"] == 10 else 0.3 + 0.01 * cells["seed"])
    asked = ("s", "--factor", "align.epochs", "--baseline", "5", "--where")
    (row,) = as_json(workspace, *asked, "align_epochs > 0 and task = 'digits' and freezing = 'full'")
    assert (row["task"], row["level"], row["n"], len(row["pairs_missing"])) == ("digits", 10, 2, 1)
    assert "--where: must be met by a trial" in sweeper(workspace, "compare", *asked, "seed > 7", code=2)
    assert 'align_epoch" not found' in sweeper(workspace, "compare", *asked, "align_epoch > 0", code=2)
    assert "give one SELECT" in sweeper(workspace, "compare", *asked, "true); drop table trials; select (1", code=2)


def test_the_question_of_a_sweep_is_asked_unless_another_is(workspace, simulate):
    space = {
        "name": "s",
        "base": {"task": "digits"},
        "space": {"align.epochs": {"grid": [0, 10]}, "freezing": {"grid": ["full", "bias"]}},
        "seeds": 3,
    }
    simulate(space, lambda cells: 0.3 + 0.01 * cells["seed"])
    assert "--factor: must be given: no question of the search space says it" in sweeper(workspace, "compare", "s", code=2)
    plan = make_plan(parse_space(space))
    note = plan_note(plan) | {
        "question": {"factor": "align.epochs", "baseline": 0, "by": "task", "within": "freezing", "margin": "10%", "alpha": 0.1}
    }
    workspace.results.save_plan("s", plan.hash, note)
    found = as_json(workspace, "s")
    assert [(row["factor"], row["within"], row["margin"]) for row in found] == [
        ("align.epochs", {"freezing": "bias"}, pytest.approx(0.031)),
        ("align.epochs", {"freezing": "full"}, pytest.approx(0.031)),
    ]
    (other,) = as_json(workspace, "s", "--factor", "freezing", "--baseline", "full")
    assert (other["factor"], other["within"], other["margin"]) == ("freezing", None, pytest.approx(0.0155))


def test_a_stored_plan_says_that_seeds_redraw_the_split_and_how_it_stops_early(workspace, simulate):
    space = {"name": "s", "base": {"task": "digits"}, "space": {"align.epochs": {"grid": [0, 10]}}, "seeds": 3}
    simulate(space, lambda cells: 0.3)
    plan = make_plan(parse_space(space))
    source = dict(plan.space.source) | {"scheduler": {"name": "asha", "among": "task"}}
    workspace.results.save_plan("s", plan.hash, plan_note(plan) | {"vary": ["seed", "split_seed"], "space": source})
    rows = read_sweep_rows(workspace.results, "s")
    assert (rows.pair_by, rows.scheduler) == (("seed", "split_seed"), {"name": "asha", "among": "task"})
    (row,) = as_json(workspace, "s", "--factor", "align.epochs", "--baseline", "0")
    assert (row["flags"], row["verdict"]) == (["stopped-among-task"], None)
    assert "redrawn by seed" in row["covers"]


@pytest.mark.parametrize(
    ("options", "messages"),
    [
        (("nothing", "--factor", "x", "--baseline", "0"), ["must be the name of a sweep in the results, but got 'nothing'"]),
        (("quick", "--factor", "align.epochs"), ["--baseline: must be given"]),
        (
            ("quick", "--factor", "align.epoch", "--baseline", "0", "--margin", "x", "--by", "y"),
            ["--by: must be task or all", "--margin: must be greater than 0", "Did you mean 'align.epochs'?"],
        ),
        (("quick", "--factor", "align.epochs", "--baseline", "0", "--metric", "test_eror"), ["Did you mean 'test_error'?"]),
        (("quick", "--factor", "align.epochs", "--baseline", "0", "--format", "yaml"), ["--format: must be one of table, csv, json"]),
    ],
)
def test_faults_are_told_without_traceback(workspace, simulate, options, messages):
    simulate(QUICKSTART, noisy())
    text = sweeper(workspace, "compare", *options, code=2)
    assert all(message in text for message in messages), text


def test_importance_of_a_sweep(workspace, simulate):
    simulate(QUICKSTART, noisy())
    text = sweeper(workspace, "importance", "quick")
    assert max(map(len, text.splitlines())) <= 80, text
    assert "digits: shares of the variance of test_error over arms and 4 seeds" in text
    rows = json.loads(sweeper(workspace, "importance", "quick", "--format", "json"))
    assert {row["task"] for row in rows} == {"digits", "openml/1510"}
    assert any(row["factors"] == ["freezing"] and row["share"] > 0.1 for row in rows)


def write_table(workspace, name, rows):
    """A table that another program wrote: one file, with the columns of the rows alone."""
    folder = Path(workspace.uri) / "trials" / f"sweep={name}"
    folder.mkdir(parents=True)
    pq.write_table(pa.Table.from_pylist(rows), folder / "part.parquet")


@pytest.mark.parametrize("more", [{}, {"sweep": "other", "attempt": 1, "sequence": 1, "in_plan": True}])
def test_tables_with_few_columns_and_without_a_plan_are_compared(workspace, more):
    rng = np.random.default_rng(0)
    rows = cross(
        {"task": ["a", "b"], "align_epochs": [0, 5, 10], "seed": range(5)}, lambda c: 0.3 - 0.01 * c["align_epochs"] + 0.01 * rng.normal()
    )
    write_table(workspace, "other", [row | more for row in rows])
    found = as_json(workspace, "other", "--factor", "align.epochs", "--baseline", "0")
    expected = compare(rows, "align.epochs", 0).effects
    assert [(row["task"], row["level"], row["verdict"]) for row in found] == [(e.task, e.level, e.verdict) for e in expected]
    assert [row["p"] for row in found] == pytest.approx([effect.p for effect in expected])


def test_tables_without_status_or_ids_of_trials_are_compared(workspace):
    rows = cross(
        {"align_epochs": [0, 5], "seed": range(3)}, lambda c: 0.3 - 0.1 * bool(c["align_epochs"]) + 0.001 * c["seed"] * c["align_epochs"]
    )
    write_table(workspace, "other", [{key: value for key, value in row.items() if key not in ("status", "trial")} for row in rows])
    (row,) = as_json(workspace, "other", "--factor", "align.epochs", "--baseline", "0")
    assert (row["n"], row["verdict"], row["pairs_missing"]) == (3, "helps", [])
