"""From a sweep on own data to answers in the shell: `best --export-model`, then `predict` on raw files."""

from __future__ import annotations

import csv
import io
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from click.testing import Result
from typer.testing import CliRunner

from orca_core import load_model
from orca_core.pipeline import run_trial
from orca_core.store import Store
from orca_core.tasks import find_task
from sweeper.cli import app
from sweeper.planning.planner import make_plan
from sweeper.results import Results, ResultStore
from sweeper.running.plan_note import plan_note
from sweeper.running.recorder import Recorder
from sweeper.space.reading import parse_space


def sweeper(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments], env={"COLUMNS": "200", "TERM": "dumb"})


@pytest.fixture(scope="module")
def swept(tmp_path_factory) -> Path:
    """A folder with tables of one's own, and the results of a sweep over two of them, as a driver would have written them."""
    folder, rng = tmp_path_factory.mktemp("swept"), np.random.default_rng(0)
    lines = ["height,colour,label"]
    for i in range(80):
        height = rng.normal(170, 10)
        lines.append(f"{height:.1f},{('red', 'blue')[i % 2]},{'high' if height > 170 else 'low'}")
    (folder / "mine.csv").write_text("\n".join(lines) + "\n")
    y = np.resize([1, 2], 60)
    np.savez(folder / "mine.npz", x=rng.normal(size=(60, 1, 16)) + y[:, None, None], y=np.cumsum(rng.normal(size=(60, 1, 16)), 2))
    knobs = {"epochs": 2, "warmup_epochs": 0, "decay_epochs": None, "batch_size": 8, "lr": 3e-3}
    tasks = [f"csv:{folder / 'mine.csv'}", f"npz:{folder / 'mine.npz'}"]
    base = {"body": {"name": "mini-roberta", "weights": "random"}, "align": {"epochs": 0}, "finetune": knobs}
    space = parse_space({"name": "own", "base": base, "space": {"task": {"grid": tasks}, "freezing": {"grid": ["full", "frozen-body"]}}})
    results, plan = ResultStore(folder / "results"), make_plan(space)
    results.save_plan("own", plan.hash, plan_note(plan))
    recorder = Recorder(results, "own", "valid_error")
    for trial in plan.trials:
        recorder.start(trial, device="cpu")
        result = run_trial(trial.config, Store(folder / "results" / "artifacts"), lambda row: None, keep="best")
        recorder.end(trial.id, {"status": "COMPLETE"} | result.cells())
    recorder.flush()
    return folder


@pytest.fixture(scope="module")
def model(swept) -> Path:
    """The exported model of the table."""
    done = sweeper("best", "own", "--results", swept / "results", "--task", f"csv:{swept / 'mine.csv'}", "--export-model", swept / "model")
    assert (done.exit_code, done.stderr) == (0, "")
    assert "as kept by the sweep" in done.stdout
    assert "rows with 2 columns" in done.stdout
    assert f"sweeper predict {swept / 'model'} FILE" in done.stdout
    again = sweeper("best", "own", "--results", swept / "results", "--task", f"csv:{swept / 'mine.csv'}", "--export-model", swept / "model")
    assert (again.exit_code, again.stderr.partition(",")[0]) == (2, "--export-model: must not exist yet")
    return swept / "model"


def write_test_part(swept: Path) -> Path:
    """The rows of the table's test part, as a file."""
    task = f"csv:{swept / 'mine.csv'}"
    data, lines = find_task(task).load(0), (swept / "mine.csv").read_text().splitlines()
    every = data.preparation.inputs.encode(data.preparation.inputs.read(swept / "mine.csv").inputs)
    rows = [int(np.flatnonzero((every == row).all((1, 2)))[0]) for row in data.test.x]
    (swept / "test.csv").write_text("\n".join([lines[0], *(lines[1 + row] for row in rows)]) + "\n")
    return swept / "test.csv"


def test_the_answers_for_the_raw_test_part_have_the_error_of_the_best_row(swept, model):
    file = write_test_part(swept)
    done = sweeper("predict", model, file, "--format", "csv")
    assert done.exit_code == 0, done.output
    rows = list(csv.DictReader(io.StringIO(done.stdout)))
    truth = [line.rpartition(",")[2] for line in file.read_text().splitlines()[1:]]
    assert [row["answer"] for row in rows] == truth
    assert [row["sample"] for row in rows] == [str(number) for number in range(1, 17)]
    query = "select test_error from trials where task like 'csv%' order by valid_error, seed limit 1"
    (best,) = Results(swept / "results").sql(query).rows()
    assert np.mean([row["prediction"] != row["answer"] for row in rows]) == pytest.approx(best["test_error"])
    assert done.stderr == f"1-accuracy of the 16 samples, by the answers in {file}: {best['test_error']:.6g}\n"


def test_answers_come_in_the_formats_of_other_tables_with_probabilities_on_request(swept, model, tmp_path):
    (tmp_path / "new.csv").write_text("colour,height\nred,150\nblue,190\n")  # no answers, columns in another order
    done = sweeper("predict", model, tmp_path / "new.csv", "--probabilities", "--format", "json")
    assert (done.exit_code, done.stderr) == (0, "")
    first, second = json.loads(done.stdout)
    assert list(first) == ["sample", "prediction", "p(high)", "p(low)"]
    assert first["p(high)"] + first["p(low)"] == pytest.approx(1)
    assert {first["prediction"], second["prediction"]} <= {"high", "low"}
    assert sweeper("predict", model, tmp_path / "new.csv").stdout.split()[:2] == ["sample", "prediction"]
    assert sweeper("predict", model, tmp_path / "new.csv", "-o", tmp_path / "out.md", "--format", "markdown").stdout == ""
    assert (tmp_path / "out.md").read_text().startswith("| sample | prediction |")
    sweeper("predict", model, tmp_path / "new.csv", "--probabilities", "-o", tmp_path / "out.npy")
    assert np.load(tmp_path / "out.npy")[0].tolist() == [first["p(high)"], first["p(low)"]]


def test_fields_go_to_an_array_file(swept, tmp_path):
    task = f"npz:{swept / 'mine.npz'}"
    assert sweeper("best", "own", "--results", swept / "results", "--task", task, "--export-model", tmp_path / "model").exit_code == 0
    done = sweeper("predict", tmp_path / "model", swept / "mine.npz")
    assert done.exit_code == 2
    assert "--output: must be a file that ends in .npy" in done.stderr
    done = sweeper("predict", tmp_path / "model", swept / "mine.npz", "-o", tmp_path / "fields.npy")
    assert done.exit_code == 0
    assert done.stderr.startswith("nrmse of the 60 samples, by the answers in ")
    fields = np.load(tmp_path / "fields.npy")
    assert (fields == load_model(tmp_path / "model").predict(np.load(swept / "mine.npz")["x"])).all()


@pytest.mark.parametrize(
    ("content", "arguments", "message"),
    [
        ("height\n150\n", (), "colour: must be a column"),
        ("height,colour\n150,green\n", (), "new.csv: row 1: colour: must be a category of the training data, but got 'green'"),
        ("height,colour\n150,red\n", ("--format", "xml"), "--format: must be one of table, csv, json, markdown"),
        ("height,colour\n150,red\n", ("-o", "/no/such/folder/x.npy"), "--output: must be writable"),
        ("height,colour\n150,red\n", ("--device", "cuda"), "device: must be a device of this machine"),
    ],
)
def test_what_cannot_be_answered_ends_with_code_2_and_one_line(content, arguments, message, model, tmp_path):
    (tmp_path / "new.csv").write_text(content)
    done = sweeper("predict", model, tmp_path / "new.csv", *arguments)
    assert done.exit_code == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_samples_whose_true_answers_are_none_of_the_model_are_answered_without_a_score(model, tmp_path):
    (tmp_path / "new.csv").write_text("height,colour,label\n150,red,unknown\n")
    done = sweeper("predict", model, tmp_path / "new.csv", "--format", "csv")
    assert done.exit_code == 0
    assert done.stdout.splitlines()[0] == "sample,prediction,answer"
    reason = "answers: must be classes of the model: high, low, but got ['unknown']."
    assert done.stderr == f"warning: {tmp_path / 'new.csv'}: no 1-accuracy: {reason}\n"


def test_a_folder_without_a_model_is_told(tmp_path):
    done = sweeper("predict", tmp_path, tmp_path)
    assert done.exit_code == 2
    assert "must hold model.json and model.safetensors" in done.stderr


def test_without_the_task_the_tasks_are_listed(swept):
    done = sweeper("best", "own", "--results", swept / "results", "--export-model", swept / "none")
    assert done.exit_code == 2
    assert "--task: must be given: the sweep has several. Tasks: csv:" in done.stderr
    assert not (swept / "none").exists()


def test_kept_weights_are_exported_without_torch(swept, tmp_path):
    arguments = ["best", "own", "--results", str(swept / "results"), "--task", f"csv:{swept / 'mine.csv'}"]
    code = (
        "import sys; from sweeper.cli import app; app(sys.argv[1:], standalone_mode=False);"
        "print(*{name for name in ('torch', 'transformers', 'ray', 'scipy.stats') if name in sys.modules})"
    )
    command = [sys.executable, "-c", code, *arguments, "--export-model", str(tmp_path / "model")]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert said.splitlines()[-1] == ""
    assert load_model(tmp_path / "model").classes == ("high", "low")


def test_data_that_changed_since_are_not_taken_for_those_of_the_results(swept, tmp_path):
    shutil.copytree(swept / "results", tmp_path / "results")
    content = (swept / "mine.csv").read_text()
    try:
        (swept / "mine.csv").write_text(content.replace("red", "green"))
        task = f"csv:{swept / 'mine.csv'}"
        done = sweeper("best", "own", "--results", tmp_path / "results", "--task", task, "--export-model", tmp_path / "model")
    finally:
        (swept / "mine.csv").write_text(content)
    assert done.exit_code == 2
    assert "must be those that its results come from. One of them has changed since. Run own again." in done.stderr
    assert not (tmp_path / "model").exists()
