"""`finetune.test: best-and-last`: the test set is evaluated after the epochs whose row is asked for, and no number is another."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from trials import compared

from orca_core.errors import ConfigError
from orca_core.finetuning.tested import TestedEpochs
from orca_core.identity import trial_id
from orca_core.pipeline import run_trial, trial_rows
from orca_core.rows import EpochRow, Row, TrialResult
from orca_core.stages import stages_of
from orca_core.store import Store

SOME = {"finetune.test": "best-and-last"}
SMALL = {"body.weights": "random", "train_samples": 32, "finetune.epochs": 6, "finetune.lr": 0.03, "freezing": "frozen-body:2"}


def run(config, folder) -> tuple[list[EpochRow], TrialResult]:
    rows: list[Row] = []
    result = run_trial(config, Store(folder), rows.append)
    return [compared(row) for row in rows if isinstance(row, EpochRow)], result


def test_the_epochs_by_hand():
    errors = [0.5, 0.6, 0.5, 0.4, 0.45, 0.45]
    tested = TestedEpochs(SOME | {"finetune.epochs": 6})  # type: ignore[arg-type]
    assert [tested.asks(epoch, error) for epoch, error in enumerate(errors, 1)] == [True, False, True, True, False, True]
    again = TestedEpochs(SOME | {"finetune.epochs": 6})  # type: ignore[arg-type]
    again.load_state(tested.state())
    assert not again.asks(5, 0.41)
    assert again.asks(5, 0.4)
    again.load_state({})
    assert again.asks(1, 0.9), "as before its first epoch"
    assert again.asks(2, None), "nothing to choose by"
    every = TestedEpochs({"finetune.test": "each-epoch"})  # type: ignore[arg-type]
    assert every.asks(1, 0.1)
    assert every.asks(2, 0.2)
    assert every.state() == {}


@pytest.mark.parametrize("knobs", [{"selection_ties": "earliest"}, {"selection_ties": "latest"}, {"finetune.fused": 2}])
def test_rows_and_result_are_those_of_a_trial_that_tests_each_epoch(quick, tmp_path, knobs):
    config = quick("openml/187", SMALL | knobs)
    rows, result = run(config, tmp_path / "each")
    errors = [row.valid_error for row in rows]
    asked = [error <= min(errors[: at + 1]) or at == 5 for at, error in enumerate(errors)]
    assert not all(asked), "the error goes up, too"
    some_rows, some_result = run(quick("openml/187", SMALL | SOME | knobs), tmp_path / "some")
    assert some_rows == [row if is_asked else replace(row, test_error=None) for row, is_asked in zip(rows, asked, strict=True)]
    assert some_result == result


@pytest.mark.parametrize("stopped_after", [1, 3])
def test_a_trial_that_was_stopped_asks_for_the_same_epochs(quick, tmp_path, stopped_after):
    config = quick("openml/187", SMALL | SOME)
    whole = run(config, tmp_path / "whole")
    rows = trial_rows(config, Store(tmp_path / "stopped"))
    while not isinstance(row := next(rows), EpochRow) or row.epoch < stopped_after:
        pass
    rows.close()
    again, result = run(config, tmp_path / "stopped")
    assert [replace(row, is_reused=False) for row in again] == whole[0]
    assert result == whole[1]


def test_the_test_set_passes_through_the_model_no_more_often_than_asked(tune, monkeypatch):
    tuning = tune(SOME | {"finetune.epochs": 3, "finetune.lr": 1e-30})
    passed: list[str] = []
    monkeypatch.setattr(
        tuning, "_evaluate", lambda x, y, group: (passed.append("test" if y is tuning.test[1] else "valid"), (1.0, 0.1 * len(passed)))[1]
    )
    rows = [tuning.run_epoch(epoch) for epoch in (1, 2, 3)]
    assert passed == ["valid", "test", "valid", "valid", "test"]
    assert [row.test_error for row in rows] == [pytest.approx(0.2), None, pytest.approx(0.5)]
    assert tuning.evaluate()[2] is not None


def test_with_folds_every_epoch_of_the_final_training_is_tested(quick, tmp_path):
    knobs = {"validation.folds": 2, "train_samples": 32, "finetune.epochs": 3, "body.weights": "random"}
    _, result = run(quick("openml/187", knobs), tmp_path / "each")
    assert run(quick("openml/187", knobs | SOME), tmp_path / "some")[1] == result


def test_it_is_in_id_and_key_with_the_length_of_the_run_which_decides_what_is_last(quick):
    def keys(**knobs):
        return [stage.key for stage in stages_of(quick("openml/187", knobs)) if stage.kind == "finetune"]

    assert keys(**SOME, **{"finetune.epochs": 2}) != keys(**SOME, **{"finetune.epochs": 3})
    assert keys(**{"finetune.epochs": 2}) == keys(**{"finetune.epochs": 3}) != keys(**SOME, **{"finetune.epochs": 3})
    assert trial_id(quick("openml/187", SOME)) != trial_id(quick("openml/187"))


def test_it_is_refused_where_the_epoch_is_chosen_by_test_errors(quick):
    with pytest.raises(ConfigError, match=r"finetune\.test: must be each-epoch with selection: test, but got 'best-and-last'"):
        quick("openml/187", SOME | {"selection": "test"})


def test_its_state_is_a_tensor_of_the_trajectory(tune):
    tuning = tune(SOME)
    row = tuning.run_epoch(1)
    state = tuning.state()
    assert state["tested.lowest"].dtype == torch.float64
    assert state["tested.lowest"].item() == row.valid_error
