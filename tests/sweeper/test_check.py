"""`sweeper check`: a trial computed again is compared bit for bit, and what cannot be compared is said, not taken for a difference."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from orca_core.config.resolve import resolve_config
from orca_core.errors import ConfigError
from orca_core.floors.rows import FloorCase
from orca_core.identity import canonical_knobs, trial_id
from sweeper.analysis.recomputed import beyond_tolerance, first_difference
from sweeper.cli import app
from sweeper.recompute import choose
from sweeper.results import Workspace
from sweeper.running.configs_of_rows import config_of_row

TRIAL = {
    "task": "digits",
    "body.name": "none",
    "finetune.epochs": 2,
    "finetune.warmup_epochs": 0,
    "finetune.decay_epochs": "null",
    "train_samples": 100,
}


def run(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, [*arguments], env={"COLUMNS": "300", "TERM": "dumb"})
    assert "Traceback" not in result.output
    return result.exit_code, result.output


@pytest.fixture(scope="module")
def recorded(tmp_path_factory) -> Path:
    """The results of one small trial."""
    folder = tmp_path_factory.mktemp("recorded") / "results"
    knobs = [part for knob, value in TRIAL.items() for part in ("--set", f"{knob}={value}")]
    code, output = run("trial", *knobs, "--name", "small", "--results", str(folder))
    assert code == 0, output
    return folder


@pytest.fixture
def altered(recorded: Path, tmp_path: Path) -> Callable[..., str]:
    """`altered(table, change)` is the folder of the results in which `change` was made to every row of a table."""

    def alter(table: str, change: Callable[[dict[str, Any]], Any]) -> str:
        folder = tmp_path / "altered"
        shutil.copytree(recorded, folder)
        for file in folder.glob(f"{table}/**/*.parquet"):
            rows = pq.read_table(file, partitioning=None)
            lines = rows.to_pylist()
            for line in lines:
                change(line)
            pq.write_table(pa.Table.from_pylist(lines, rows.schema), file)
        return str(folder)

    return alter


def test_a_trial_computed_again_is_equal_and_neither_store_nor_tables_are_touched(recorded: Path):
    before = {path: path.stat().st_mtime_ns for path in recorded.rglob("*")}
    code, output = run("check", "small", "--results", str(recorded))
    assert code == 0, output
    assert "1 equal" in output
    assert {path: path.stat().st_mtime_ns for path in recorded.rglob("*")} == before


def test_a_number_is_checked_by_its_trials(recorded: Path):
    numbers = json.loads(run("why", "--list", "small", "--results", str(recorded), "--format", "json")[1])
    number = next(number for number in numbers if number["kind"] == "score")
    code, output = run("check", "--number", number["number"], "--results", str(recorded))
    assert code == 0, output
    assert f"All that {number['number']} rests on is the same again" in output
    code, output = run("check", "other", "--number", number["number"], "--results", str(recorded))
    assert code == 2
    assert "It is one of small" in output


def test_one_bit_of_one_epoch_is_found(altered: Callable[..., str]):
    def nudge(row: dict[str, Any]) -> None:
        if row["epoch"] == 2:
            row["train_loss"] = float(np.nextafter(row["train_loss"], math.inf))

    code, output = run("check", "small", "--results", altered("metrics", nudge))
    assert code == 1
    assert "finetune epoch 2, train_loss" in output
    assert "1 differs" in output


def test_on_another_kind_of_machine_errors_count_within_a_tolerance(altered: Callable[..., str]):
    def elsewhere(row: dict[str, Any]) -> None:
        if row["status"] == "COMPLETE":
            row |= {"device_name": "Another CPU", "test_error": row["test_error"] + 1 / row["test_samples"], "valid_loss": 9.0}

    code, output = run("check", "small", "--results", altered("trials", elsewhere))
    assert code == 0, output
    assert "1 within tolerance" in output
    assert "device_name Another CPU there" in output
    assert "standard errors" in output


def test_beyond_the_tolerance_it_differs(altered: Callable[..., str]):
    code, output = run("check", "small", "--results", altered("trials", lambda row: row.update(device_name="X", test_error=0.0001)))
    assert code == 1
    assert "the trial's result, test_error: 0.0001 recorded" in output


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"result_key": "0" * 32}, "would be another computation"),
        ({"task": "csv:/gone.csv?target=a"}, "/gone.csv"),
        ({"body_name": "hf:/gone/checkpoint"}, "/gone/checkpoint"),
        ({"finetune_lr": 0.5}, "must be all of its config"),
        ({"device": "cuda"}, "GPU"),
    ],
)
def test_what_cannot_be_computed_again_is_no_difference(altered: Callable[..., str], change: dict[str, Any], reason: str):
    import torch

    if change.get("device") and torch.cuda.is_available():
        pytest.skip("a GPU is here")
    code, output = run("check", "small", "--results", altered("trials", lambda row: row.update(change)))
    assert code == 1  # as nothing was checked at all
    assert "1 not checked" in output
    assert reason in output
    assert "None could be checked" in output


def test_the_first_difference_is_that_of_the_first_epoch():
    rows = [
        {"stage": "finetune", "phase": 0, "fold": None, "epoch": epoch, "train_loss": 1.0 / epoch, "seconds": 1.0} for epoch in (1, 2, 3)
    ]
    result = {"test_error": 0.5, "best_epoch": 2}
    slower = [row | {"seconds": 2.0} for row in rows]
    assert first_difference((rows, result), (slower, result)) is None
    later = [row | {"train_loss": 0.0} if row["epoch"] > 1 else row for row in rows]
    assert str(first_difference((rows, result), (later, result))) == "finetune epoch 2, train_loss: 0.5 recorded, 0.0 now"
    assert "epoch 3, the row itself: there recorded, nothing now" in str(first_difference((rows, result), (rows[:2], result)))
    assert "result, best_epoch: 2 recorded, 3 now" in str(first_difference((rows, result), (rows, result | {"best_epoch": 3})))


@pytest.mark.parametrize(("one", "other", "equal"), [(math.nan, math.nan, True), (0.0, -0.0, False), ([1.0, None], [1.0, None], True)])
def test_bits_are_compared_not_values(one: Any, other: Any, equal: bool):
    place = {"stage": "align", "phase": 0, "fold": None, "epoch": 1}
    found = first_difference(([place | {"label_distances": one}], {}), ([place | {"label_distances": other}], {}))
    assert (found is None) == equal


def test_the_tolerance_is_three_standard_errors_of_two_counts():
    row = {"test_error": 0.5, "valid_error": 0.5, "test_samples": 200, "valid_samples": 200, "score": "1-accuracy"}
    bound = 3 * math.sqrt(0.5 / 200)  # 2 * 0.5 * 0.5 / n
    assert beyond_tolerance(row, row | {"test_error": 0.5 + 0.95 * bound}) is None
    assert beyond_tolerance(row, row | {"test_error": 0.5 + 1.05 * bound}) is not None
    assert beyond_tolerance(row, row | {"test_error": None}) is not None
    assert beyond_tolerance(row, row | {"test_error": math.nan}) is not None


def test_a_sample_is_the_same_every_time_and_takes_tasks_in_turn():
    rows = [{"trial": f"{number:016x}", "task": "abc"[number % 3]} for number in range(30)]
    assert choose(rows, 6) == choose(rows[::-1], 6)
    assert sorted(row["task"] for row in choose(rows, 6)) == ["a", "a", "b", "b", "c", "c"]
    assert choose(rows, 3) == choose(rows, 6)[:3]
    assert len(choose(rows, 99)) == 30


@pytest.mark.parametrize(
    "knobs",
    [
        {},
        {"align.epochs": 0},
        {"freezing": "frozen-body:2", "adapter": {"name": "lora", "r": 4}},
        {"freezing": [{"train": ["embedder"], "epochs": 2}, {"train": "all", "epochs": 3, "lr_scale": 0.1, "restart": True}]},
        {"freezing": [{"train": ["embedder", "top-layers:1"]}], "finetune.clip": None},
        {"body.name": "none", "validation.folds": 3},
        {"task": "mnist1d", "reference_behaviour": True, "train_samples": 50},
    ],
)
def test_a_config_comes_back_from_its_row(knobs: dict[str, Any]):
    given = {"task": "digits", "finetune.epochs": 5, "finetune.decay_epochs": None} | knobs
    config = resolve_config(given)
    cells = {path.replace(".", "_"): list(value) if isinstance(value, tuple) else value for path, value in canonical_knobs(config).items()}
    again = config_of_row(cells | {"trial": trial_id(config)})
    assert canonical_knobs(again) == canonical_knobs(config)
    with pytest.raises(ConfigError, match="must be all of its config"):
        config_of_row(cells | {"trial": trial_id(config), "seed": 7})


def test_a_floor_is_computed_again_from_its_id(tmp_path: Path):
    from orca_core.floors.compute import compute_floors

    workspace = Workspace(tmp_path)
    workspace.results.append_floors(list(compute_floors(FloorCase("digits", split_seed=3), ["logistic"])))
    from sweeper.analysis.floors import Floors
    from sweeper.analysis.numbers import floor_number

    number = floor_number(Floors.read(workspace.results), [FloorCase("digits", split_seed=3)], "logistic")
    assert number is not None
    code, output = run("check", "--number", number.id, "--results", str(tmp_path))
    assert code == 0, output
    assert "1 equal" in output


def test_what_there_is_nothing_to_check_of_is_said(recorded: Path):
    assert run("check", "--results", str(recorded))[0] == 2
    code, output = run("check", "smal", "--results", str(recorded))
    assert code == 2
    assert "small" in output
