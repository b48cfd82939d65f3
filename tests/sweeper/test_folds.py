"""A trial by folds in the result tables: its rows, what finds them whole, and what takes them over."""

from __future__ import annotations

import re

import numpy as np
import pytest

from orca_core.tasks import find_task
from sweeper.planning.planner import Planner
from sweeper.results.workspace import Workspace
from sweeper.running.recorder import Recorder
from sweeper.running.takeover import take_over
from sweeper.show.trial import describe_trial
from sweeper.single import run_one
from sweeper.space.reading import parse_space
from sweeper.upkeep.doctor import examine

FOLDS, EPOCHS = 3, 2


@pytest.fixture(scope="module")
def knobs(tmp_path_factory) -> dict:
    path = tmp_path_factory.mktemp("series") / "series.npz"
    y = np.arange(30) % 3
    np.savez(path, x=(np.random.default_rng(0).normal(size=(30, 12)) + y[:, None]).astype("float32"), y=y)
    return {
        "task": f"npz:{path}",
        "body.weights": "random",
        "proxy": "noise",
        "align.epochs": 1,
        "align.objective": "mmd",
        "align.proxy_samples": 20,
        "finetune.epochs": EPOCHS,
        "validation.folds": FOLDS,
    }


@pytest.fixture(scope="module")
def workspace(knobs, tmp_path_factory) -> Workspace:
    """Results with one trial by folds, of the sweep `first`."""
    folder = tmp_path_factory.mktemp("folds")
    workspace = Workspace(folder / "results", folder / "store")
    assert run_one(knobs, workspace, name="first", device="cpu", format="json") == 0
    return workspace


COUNTS = "select sweep, stage, fold, count(*) as rows from metrics group by all order by all"


def expected_counts(workspace: Workspace, sweep: str) -> list[dict]:
    (row,) = workspace.sql(f"select best_epoch from trials where sweep = '{sweep}'").rows()
    folds = [(stage, fold, rows) for stage, rows in (("align", 1), ("finetune", EPOCHS)) for fold in range(FOLDS)]
    final = [("align", None, 1), ("finetune", None, row["best_epoch"])]
    order = sorted(folds + final, key=lambda entry: (entry[0], entry[1] is None, entry[1]))
    return [{"sweep": sweep, "stage": stage, "fold": fold, "rows": rows} for stage, fold, rows in order]


def test_every_fold_has_rows_of_its_own_and_the_final_training_has_none(workspace):
    assert workspace.sql(COUNTS).rows() == expected_counts(workspace, "first")
    means = workspace.sql("select avg(valid_error) as error from metrics where fold is not null group by epoch having error is not null")
    (row,) = workspace.sql("select * from trials").rows()
    assert row["valid_error"] == pytest.approx(min(mean["error"] for mean in means.rows()), abs=1e-12)
    assert (row["validation_folds"], row["valid_samples"], row["test_samples"], row["valid_majority_error"]) == (FOLDS, 24, 6, None)
    data = find_task(row["task"]).load(0)
    labels = np.concatenate([data.train.y, data.valid.y])
    assert row["majority_error"] == np.mean(data.test.y != np.bincount(labels).argmax())


def test_a_doctor_finds_the_rows_complete(workspace):
    text, is_fine = examine(workspace)
    assert is_fine
    assert "first: rows are complete" in text


def test_a_trial_warns_of_a_small_validation_part_before_its_rows(workspace, knobs, capsys):
    assert run_one(knobs, workspace, name=None, device="cpu", format="json") == 0
    assert capsys.readouterr().err.startswith(f"warning: {knobs['task']} has only 24 validation samples, so 0.042 is the least")


def test_show_lists_the_folds(workspace):
    (row,) = workspace.sql("select trial from trials").rows()
    text = describe_trial(workspace, row["trial"])
    assert re.search(r"^stage +phase +fold ", text, re.MULTILINE)


def test_another_sweep_takes_the_folds_over(workspace, knobs):
    space = parse_space({"name": "second", "base": knobs})
    recorder = Recorder(workspace.results, "second", "valid_error")
    todo = Planner(space).plan.trials
    assert take_over(workspace, recorder, todo) == {todo[0].id}
    recorder.flush()
    second = [row for row in workspace.sql(COUNTS).rows() if row["sweep"] == "second"]
    assert second == expected_counts(workspace, "second")
