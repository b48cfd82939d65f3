"""Floors in results: stored once, read as the latest, shown beside the arms, computed beside trials and by a command."""

from __future__ import annotations

import csv
import io
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner
from without_ray import without_ray

from orca_core.config.resolve import resolve_config
from orca_core.floors.rows import MODELS, FloorCase, FloorRow, sklearn_version
from orca_core.tasks import find_task
from orca_core.tasks.validation import Validation
from sweeper.analysis.floors import Compared, Floor, Floors, best_floor, describe_floors
from sweeper.cli import app
from sweeper.planning.planner import make_plan
from sweeper.results import Results, ResultStore, Workspace
from sweeper.running.floors import FloorsBeside, cases_of, compute_missing, find_missing
from sweeper.running.plan_note import plan_note
from sweeper.running.recorder import Recorder
from sweeper.show.results import best_arms, describe_best
from sweeper.space.reading import parse_space
from sweeper.sweep import run_space
from sweeper.upkeep.cleaning import remove_sweep
from sweeper.upkeep.doctor import examine

ABOUT = {"version": 1, "sklearn_version": "1.7", "numpy_version": "2.3", "score": "1-accuracy", "task_digest": "d"}


def floor(model: str, valid: float | None, test: float | None, **cells: Any) -> FloorRow:
    status = "FAIL" if test is None else "COMPLETE"
    return FloorRow(**{"task": "digits", **ABOUT, "status": status, "model": model, "valid_error": valid, "test_error": test, **cells})


@pytest.fixture
def store(tmp_path) -> ResultStore:
    return ResultStore(tmp_path / "results")


def sql(store: ResultStore, query: str) -> list[Any]:
    return [tuple(row.values()) for row in Results(store).sql(query).rows()]


# ------------------------------------------------------------------------------------------------------------------------- stored


def test_floors_are_asked_for_in_sql_without_any_sweep(store):
    store.append_floors([floor("svm", 0.01, 0.008, settings='{"C": 1.0}'), floor("boosting", None, None, cause="it failed")])
    expected = [("boosting", None, "it failed"), ("svm", 0.008, None)]
    assert sql(store, "select model, test_error, cause from floors order by model") == expected
    assert store.sweeps() == []
    assert sql(store, "select computed_at is not null from floors") == [(True,), (True,)]


def test_results_without_floors_have_an_empty_view(store):
    store.append("trials", "s", [{"trial": "t", "attempt": 1, "sequence": 0, "status": "COMPLETE", "in_plan": True}])
    assert sql(store, "select count(*) from floors") == [(0,)]


def test_the_latest_row_of_a_model_counts_but_none_without_data_if_another_has_some(store):
    store.append_floors([floor("svm", 0.03, 0.03), floor("ridge", 0.2, 0.2)])
    store.append_floors([floor("svm", 0.02, 0.02, sklearn_version="1.8")])
    store.append_floors([floor("svm", None, None, task_digest=None, cause="files are missing"), floor("svm", 0.5, 0.5, split_seed=1)])
    expected = [("ridge", 0, 0.2), ("svm", 0, 0.02), ("svm", 1, 0.5)]
    query = "select model, split_seed, test_error from floors order by model, split_seed"
    assert sql(store, query) == expected
    assert sorted((row["model"], row["split_seed"], row["test_error"]) for row in store.floors()) == expected


def test_compaction_keeps_what_counts_in_one_file_and_other_versions(store):
    for number in range(4):
        store.append_floors([floor("svm", 0.1, number / 10), floor("ridge", 0.2, 0.2, sklearn_version=str(number % 2))])
    before = sql(store, "select model, test_error, sklearn_version from floors order by all")
    store.compact_floors()
    assert len(list(Path(store.uri, "floors").iterdir())) == 1
    assert sql(store, "select model, test_error, sklearn_version from floors order by all") == before
    assert len(store.floors(("model", "sklearn_version"))) == 3
    store.compact_floors()
    assert len(list(Path(store.uri, "floors").iterdir())) == 1


def test_doctor_sets_damaged_floors_aside_and_rm_leaves_floors(store):
    store.append_floors([floor("svm", 0.1, 0.1)])
    store.append("trials", "s", [{"trial": "t", "attempt": 1, "sequence": 0, "status": "FAIL", "in_plan": True}])
    remove_sweep(store, "s")
    assert sql(store, "select model from floors") == [("svm",)]
    (file,) = Path(store.uri, "floors").iterdir()
    file.write_bytes(file.read_bytes()[:-9])
    text, healthy = examine(Workspace(store.uri))
    assert not healthy
    assert str(file) in text
    _, healthy = examine(Workspace(store.uri), repair=True)
    assert healthy
    assert sql(store, "select count(*) from floors") == [(0,)]


# --------------------------------------------------------------------------------------------------------------------------- read


def test_the_best_floor_is_chosen_on_validation_and_the_simplest_of_equals(store):
    store.append_floors([floor("boosting", 0.05, 0.01), floor("svm", 0.02, 0.05), floor("neighbours", 0.02, 0.06)])
    store.append_floors([floor("logistic", None, None)])
    store.append_floors([floor("svm", 0.3, 0.4, train_samples=50)])
    best = best_floor(store, "digits")
    assert best == Floor("neighbours", 0.06, 0.02, tied={"svm": 0.05})
    assert (best.to_beat, str(best)) == (0.05, "neighbours 0.06 and, as good in validation, svm 0.05")
    assert best_floor(store, "digits", train_samples=50) == Floor("svm", 0.4, 0.3)
    assert best_floor(store, "digits", split_seed=1) is None
    assert best_floor(store, "digits", validation=Validation(folds=3)) is None
    assert best_floor(store, "other") is None


def test_over_several_splits_a_floor_is_a_mean_of_one_model(store):
    store.append_floors([floor("svm", 0.1, 0.2), floor("ridge", 0.0, 0.0)])
    store.append_floors([floor("svm", 0.3, 0.6, split_seed=1), floor("boosting", 0.4, 0.1, split_seed=1)])
    trials = [{"task": "digits", "split_seed": seed, "train_samples": None} for seed in (0, 1, 1, 0)]
    assert Floors.read(store).of_trials(trials) == Floor("svm", pytest.approx(0.4), pytest.approx(0.2))
    assert Floors.read(store).of_trials([*trials, {"task": "digits", "split_seed": 2}]) is None


SVM = Floor("svm", 0.008, 0.01)


@pytest.mark.parametrize(
    ("errors", "halves", "said"),
    [
        ([0.07, 0.09], [0.01, 0.01], "No evidence of transfer on digits: svm 0.008, best arm 0.07. No arm beats the best model"),
        ([0.008], [0.001], "No evidence of transfer on digits: svm 0.008, best arm 0.008."),
        ([0.07, 0.001], [0.1, 0.1], "The best arm of digits does not beat the best model without a transformer: svm 0.008, best arm 0.07;"),
        ([0.004], [None], "is below the best model without a transformer, with one seed: svm 0.008, best arm 0.004."),
        ([0.004], [0.02], "but by less than its interval over seeds: svm 0.008, best arm 0.004 +- 0.02."),
        ([0.004], [0.001], "The best arm of digits beats the best model without a transformer: svm 0.008, best arm 0.004 +- 0.001."),
    ],
)
def test_words_say_whether_an_arm_beats_the_floor(errors, halves, said):
    rows = [{"task": "digits", "split_seed": 0}]
    (line,) = describe_floors("digits", [Compared(rows, error, half, SVM) for error, half in zip(errors, halves, strict=True)], "results")
    assert said in line


def test_an_arm_has_to_beat_every_model_that_validation_does_not_tell_from_the_best():
    tied = Floor("neighbours", 0.011, 0.0, tied={"svm": 0.003})
    (line,) = describe_floors("digits", [Compared([{"task": "digits", "split_seed": 0}], 0.008, 0.001, tied)], "results")
    assert line.startswith("No evidence of transfer on digits: neighbours 0.011 and, as good in validation, svm 0.003, best arm 0.008.")


def test_arms_on_other_samples_have_sentences_of_their_own_and_missing_floors_a_command():
    def arm(error: float, floor: Floor | None, **cells: Any) -> Compared:
        return Compared([{"task": "digits", "split_seed": 0, **cells}], error, 0.01, floor)

    arms = [arm(0.07, SVM), arm(0.2, Floor("ridge", 0.3, 0.3), train_samples=100), arm(0.5, None, train_samples=20, validation_folds=3)]
    all_samples, few, unknown = describe_floors("digits", arms, "there")
    assert all_samples.startswith("No evidence of transfer on digits (all training samples): svm")
    assert few == "The best arm of digits (train_samples=100) beats the best model without a transformer: ridge 0.3, best arm 0.2 +- 0.01."
    assert "`sweeper floors digits --set train_samples=20 --set validation.folds=3 --results there` computes them" in unknown


SWEEP = {"name": "two", "base": {"task": "digits"}, "space": {"align.epochs": {"grid": [0, 5]}}, "seeds": 2}


@pytest.fixture
def two(store) -> Workspace:
    """A sweep of two arms on digits, whose test errors are 0.06 and 0.11."""
    plan = make_plan(parse_space(SWEEP))
    store.save_plan("two", plan.hash, plan_note(plan))
    recorder = Recorder(store, "two", "valid_error")
    for trial in plan.trials:
        error = 0.05 + 0.05 * (trial.config.align.epochs > 0) + 0.01 * trial.config.seed
        recorder.start(trial, device="cpu")
        recorder.end(trial.id, {"status": "COMPLETE", "valid_error": error, "test_error": error + 0.005})
    recorder.flush()
    return Workspace(store.uri)


def test_best_shows_the_floor_beside_the_arms(two):
    two.results.append_floors([floor("svm", 0.01, 0.008), floor("majority", 0.9, 0.9)])
    assert [(row["best_floor"], row["floor_model"]) for row in best_arms(two, "two", 5).to_pylist()] == [(0.008, "svm")] * 2
    assert "No evidence of transfer on digits: svm 0.008, best arm 0.06." in " ".join(describe_best(two, "two", 5).split())
    result = CliRunner().invoke(app, ["best", "two", "--results", two.uri, "--format", "csv"])
    assert [(row["best_floor"], row["floor_model"]) for row in csv.DictReader(io.StringIO(result.stdout))] == [("0.008", "svm")] * 2


def test_each_arm_stands_beside_the_floor_of_its_own_samples(store):
    """As rows are stored and read back: their splits alone tell which floor is theirs."""
    space = {"train_samples": {"grid": [50, 100]}, "split_seed": {"grid": [0, 1]}}
    plan = make_plan(parse_space({"name": "few", "base": {"task": "digits"}, "space": space}))
    store.save_plan("few", plan.hash, plan_note(plan))
    recorder = Recorder(store, "few", "valid_error")
    for trial in plan.trials:
        recorder.start(trial, device="cpu")
        recorder.end(trial.id, {"status": "COMPLETE", "valid_error": 0.5, "test_error": 0.5})
    recorder.flush()
    cases = [(samples, seed) for samples in (50, 100, None) for seed in (0, 1)]
    store.append_floors([floor("svm", 0.1, (samples or 0) + seed / 10, train_samples=samples, split_seed=seed) for samples, seed in cases])
    found = {(row["train_samples"], row["split_seed"]): row["best_floor"] for row in best_arms(Workspace(store.uri), "few", 9).to_pylist()}
    assert found == {(samples, seed): samples + seed / 10 for samples, seed in cases if samples}


def test_a_sweep_of_one_split_stands_beside_the_floor_of_its_samples(store):
    """The knobs of the split are not among what the sweep varies, and are read all the same."""
    plan = make_plan(parse_space({"name": "few", "base": {"task": "digits", "train_samples": 50, "split_seed": 1}}))
    store.save_plan("few", plan.hash, plan_note(plan))
    recorder = Recorder(store, "few", "valid_error")
    recorder.start(plan.trials[0], device="cpu")
    recorder.end(plan.trials[0].id, {"status": "COMPLETE", "valid_error": 0.5, "test_error": 0.5})
    recorder.flush()
    store.append_floors([floor("svm", 0.1, 0.1), floor("ridge", 0.3, 0.3, train_samples=50, split_seed=1)])
    (row,) = best_arms(Workspace(store.uri), "few", 9).to_pylist()
    assert (row["best_floor"], row["floor_model"]) == (0.3, "ridge")


def test_best_without_floors_says_how_to_get_them(two):
    text = " ".join(describe_best(two, "two", 5).split())
    assert f"Not compared with models that need no transformer: `sweeper floors digits --results {two.uri}` computes them." in text
    assert [row["best_floor"] for row in best_arms(two, "two", 5).to_pylist()] == [None, None]


# ----------------------------------------------------------------------------------------------------------------------- computed


def test_cases_are_the_splits_of_trials_each_once():
    same = ({}, {"seed": 1}, {"align.epochs": 3}, {"reference_data": True})
    others = ({"split_seed": 1}, {"train_samples": 50, "valid_share": 0.3})
    configs = [resolve_config({"task": "digits", **knobs}) for knobs in (*same, *others)]
    assert cases_of(configs) == [
        FloorCase("digits"),  # it has no form of the reference
        FloorCase("digits", split_seed=1),
        FloorCase("digits", train_samples=50, validation=Validation(share=0.3)),
    ]


WINE = FloorCase("openml/187")


def test_what_is_known_is_not_computed_again(store):
    told: list[FloorRow] = []
    (missing,) = find_missing(store, [WINE])
    assert missing == (WINE, list(MODELS["classification"]))
    compute_missing(store, [(WINE, ["majority", "logistic"])], told.append)
    assert [row.model for row in told] == ["majority", "logistic"]
    assert find_missing(store, [WINE]) == [(WINE, ["neighbours", "svm", "boosting"])]
    digest = find_task("openml/187").digest()
    assert {(row["task_digest"], row["sklearn_version"]) for row in store.floors()} == {(digest, sklearn_version())}
    store.append_floors([replace(told[0], model="svm", status="FAIL"), replace(told[0], model="boosting", version=0)])
    assert find_missing(store, [WINE]) == [(WINE, ["neighbours", "boosting"])]
    assert find_missing(store, [WINE], retry_failed=True) == [(WINE, ["neighbours", "svm", "boosting"])]


def invoke(*arguments: str) -> Any:
    return CliRunner().invoke(app, ["floors", *arguments])


def test_the_command_computes_once_and_shows_what_there_is(tmp_path):
    results = ["--results", str(tmp_path / "results")]
    first = invoke("openml/187", *results)
    assert first.exit_code == 0, first.output
    assert "openml/187, by 1-auroc: settings chosen on validation, 18 test samples" in first.stdout
    assert "best by validation: " in first.stdout
    assert "openml/187: svm 0" in first.stderr
    second = invoke("openml/187", *results, "--format", "json")
    assert second.stderr == ""
    rows = json.loads(second.stdout)
    assert [row["model"] for row in rows] == list(MODELS["classification"])
    assert {row["status"] for row in rows} == {"COMPLETE"}
    third = invoke("openml/187", *results, "--set", "train_samples=20", "--set", "split_seed=1", "--format", "csv")
    assert {(row["train_samples"], row["fitted_samples"]) for row in csv.DictReader(io.StringIO(third.stdout))} == {("20", "20")}


def test_the_command_says_all_that_is_wrong(tmp_path):
    results = ["--results", str(tmp_path / "results")]
    wrong = invoke("digist", "npz:nowhere.npz", *results)
    assert wrong.exit_code == 2
    assert "Did you mean 'digits'?" in wrong.stderr
    assert "nowhere.npz" in wrong.stderr
    knob = invoke("digits", *results, "--set", "finetune.lr=1", "--set", "train_sample=3")
    assert knob.exit_code == 2
    assert "--set finetune.lr: must be a knob that decides the samples" in knob.stderr
    assert "Did you mean 'train_samples'?" in knob.stderr
    assert invoke("digits", *results, "--format", "xml").exit_code == 2


def test_a_task_whose_data_is_missing_is_a_row_and_no_obstacle_for_others(tmp_path):
    results = str(tmp_path / "results")
    (tmp_path / "data").mkdir()
    done = invoke("nb360/satellite", "openml/187", "--results", results, "--data", str(tmp_path / "data"))
    assert done.exit_code == 1
    assert "majority, logistic, neighbours, svm, boosting: fail: " in done.stdout
    assert "satellite_train.npy" in done.stdout.replace("\n", "")
    rows = sql(ResultStore(results), "select task, status, count(*) from floors group by all order by task")
    assert rows == [("nb360/satellite", "FAIL", 5), ("openml/187", "COMPLETE", 5)]


def test_a_process_beside_trials_computes_them_and_writes_them_itself(store, capfd):
    with FloorsBeside(store) as floors:
        floors.start([WINE])
        floors.finish()
    assert best_floor(store, "openml/187") is not None
    assert "floors: computing what models without a transformer reach on 1 task, beside the trials" in capfd.readouterr().err
    with FloorsBeside(store) as floors:
        floors.start([WINE])
        assert floors._process is None, "nothing is missing"


def test_the_process_ends_with_its_context_whatever_it_is_doing(store):
    with FloorsBeside(store, quiet=True) as floors:
        floors.start([FloorCase("mnist1d", split_seed=seed) for seed in range(30)])
        pid = floors._process.pid
        time.sleep(1)
    assert not exists(pid)


def exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return "State:\tZ" not in Path(f"/proc/{pid}/status").read_text()


def test_the_process_ends_when_the_one_that_started_it_is_killed(tmp_path):
    code = f"""
import sys, time
from orca_core.floors.rows import FloorCase
from sweeper.results import ResultStore
from sweeper.running.floors import FloorsBeside
floors = FloorsBeside(ResultStore({str(tmp_path / "results")!r}), quiet=True)
floors.start([FloorCase("mnist1d", split_seed=seed) for seed in range(30)])
print(floors._process.pid, flush=True)
time.sleep(60)
"""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as parent:
        pid = int(parent.stdout.readline())
        assert exists(pid)
        parent.send_signal(signal.SIGKILL)
    give_up_at = time.monotonic() + 30
    while exists(pid) and time.monotonic() < give_up_at:
        time.sleep(0.1)
    assert not exists(pid)


def test_what_goes_wrong_beside_trials_is_said_and_leaves_them_alone(store, tmp_path, capfd):
    folder = Path(store.uri, "floors")
    folder.mkdir(parents=True)
    (folder / "0.parquet").write_bytes(b"damaged")
    with FloorsBeside(store) as floors:
        floors.start([WINE])
        floors.finish()
    assert "warning: floors cannot be computed: " in capfd.readouterr().err


# -------------------------------------------------------------------------------------------------------------------------- swept

QUICK = {
    "name": "quick",
    "base": {"task": "openml/187", "body.weights": "random", "align.epochs": 0, "finetune": {"epochs": 1, "warmup_epochs": 0}},
}


def test_a_run_computes_the_floors_of_its_tasks_unless_told_not_to(store, capsys):
    with without_ray():
        assert run_space(parse_space({**QUICK, "floors": False}), store.uri) == 0
    assert store.floors() == []
    assert "sweeper floors openml/187" in capsys.readouterr().out
    assert run_space(parse_space(QUICK), store.uri) == 0, "nothing is left to run but the floors"
    assert len(store.floors()) == len(MODELS["classification"])
    told = capsys.readouterr()
    assert "floors: computing" in told.err
    assert "best arm" in " ".join(told.out.split())
    assert run_space(parse_space(QUICK), store.uri) == 0
    assert "floors: " not in capsys.readouterr().err


@pytest.mark.parametrize("value", [1, "no", None])
def test_floors_is_true_or_false(faults_in, value):
    text = f"base: {{task: digits}}\nfloors: {json.dumps(value)}"
    assert faults_in(text)[0].startswith("floors: must be true or false")
