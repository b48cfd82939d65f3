"""A trial from config to rows: same config, same rows, from nothing or from stored stages."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from orca_core import trial_stages
from orca_core.config.knobs import TrialConfig
from orca_core.errors import ConfigError, DataError
from orca_core.pipeline import run_trial
from orca_core.rows import EpochRow, Row, StageRow, TrialResult
from orca_core.settings import Settings
from orca_core.stages import stages_of
from orca_core.store import Store
from orca_core.workbench import Workbench


def run(config: TrialConfig, store: Store) -> tuple[list[Row], TrialResult]:
    """Rows without times, and the result."""
    rows: list[Row] = []
    result = run_trial(config, store, rows.append)
    return [without_times(row) for row in rows], result


def without_times(row: Row) -> Row:
    row = replace(row, seconds=0.0, memory_bytes=None)
    return replace(row, saved_s=0.0, reused_epochs=0, stored_bytes=None) if isinstance(row, StageRow) else row


TRIALS = {
    "image-classes": ("digits", {"align.epochs": 1, "train_samples": 64}),
    "table-classes": ("openml/187", {"align.epochs": 2, "align.objective": "otdd-gaussian", "align.proxy_samples": 100}),
    "dense-series": ("burgers-mini", {"align.epochs": 1, "align.objective": "mmd", "train_samples": 32}),
    "dense-field": ("darcy-mini", {"align.epochs": 1, "align.objective": "l2", "proxy": "noise", "train_samples": 32}),
    "swapped-body": ("mnist1d", {"body": "mini-swin", "freezing": "frozen-body:1", "finetune.epochs": 2, "train_samples": 64}),
    "random-body": ("digits", {"body": "mini-roberta", "body.weights": "random", "freezing": "layernorm", "train_samples": 32}),
}


@pytest.mark.parametrize("trial", TRIALS)
def test_same_config_same_rows_from_a_shared_store_an_empty_one_and_a_full_one(quick, warm_store, tmp_path, trial):
    task, knobs = TRIALS[trial]
    config = quick(task, {"align.class_samples": 32, **knobs})
    shared = run(config, warm_store)
    Workbench.current().clear()  # or else the body would be the very object that the first run used
    fresh = Store(tmp_path / "fresh")
    assert run(config, fresh) == shared
    assert run(config, fresh) == shared


def test_a_whole_trial_tells_its_stages_in_order(quick, warm_store):
    config = quick("openml/187", {"align.epochs": 2, "freezing": "frozen-body:1", "finetune.epochs": 3, "align.objective": "mmd"})
    rows, result = run(config, warm_store)
    told = [(row.stage, row.phase, getattr(row, "epoch", None)) for row in rows]
    assert told == [
        ("pretrain", 0, 1),
        ("pretrain", 0, None),
        ("source", 0, None),
        ("align", 0, 1),
        ("align", 0, 2),
        ("align", 0, None),
        ("finetune", 0, 1),
        ("finetune", 0, None),
        ("finetune", 1, 2),
        ("finetune", 1, 3),
        ("finetune", 1, None),
    ]
    assert [row.key for row in rows if isinstance(row, StageRow)] == [stage.key for stage in stages_of(config)]
    assert result.params_trained[0] < result.params_trained[1] == result.params_total


def test_the_scores_of_a_trial_are_those_of_its_rows(quick, store):
    rows, result = run(quick("openml/187", {"body.weights": "random", "finetune.epochs": 3}), store)
    errors = [(row.valid_error, row.epoch, row.test_error) for row in rows if isinstance(row, EpochRow)]
    assert (result.valid_error, result.best_epoch, result.test_error) == min(errors)
    assert (result.last_valid_error, result.last_test_error) == (errors[-1][0], errors[-1][2])


def test_the_best_epoch_may_lie_in_any_phase(quick, store):
    # At a rate of next to nothing all epochs are equal, and the earliest is the best.
    knobs = {"body.weights": "random", "finetune.lr": 1e-12, "finetune.epochs": 3, "freezing": "frozen-body:1"}
    assert run(quick("openml/187", knobs), store)[1].best_epoch == 1


def test_arms_share_the_stages_they_have_in_common(quick, store):
    knobs = {"body.weights": "random", "proxy": "noise", "align.epochs": 1, "align.objective": "mmd"}
    run(quick("openml/187", knobs), store)
    rows: list[Row] = []
    run_trial(quick("openml/187", {**knobs, "freezing": "frozen-body"}), store, rows.append)
    seconds = {row.stage: (row.seconds == 0, row.saved_s > 0) for row in rows if isinstance(row, StageRow)}
    assert seconds == {"source": (True, True), "align": (True, True), "finetune": (False, False)}


def test_a_shorter_trial_is_a_prefix_of_a_longer_one(quick, tmp_path):
    def metrics(epochs: int) -> list[EpochRow]:
        config = quick("openml/187", {"body.weights": "random", "finetune.epochs": epochs, "finetune.decay_epochs": 9})
        return [row for row in run(config, Store(tmp_path / str(epochs)))[0] if isinstance(row, EpochRow)]

    assert metrics(4)[:2] == metrics(2)


def test_other_trials_in_the_same_process_change_nothing(quick, tmp_path):
    config = quick("openml/187", {"body.weights": "random", "finetune.dropout": 0.1})
    before = run(config, Store(tmp_path / "before"))
    run(quick("digits", {"body.weights": "random", "train_samples": 16, "seed": 5}), Store(tmp_path / "between"))
    torch.manual_seed(99)
    np.random.seed(99)
    assert run(config, Store(tmp_path / "after")) == before


def test_training_writes_nothing_to_the_global_generators(quick, store):
    before = torch.get_rng_state(), np.random.get_state()[1].tolist()
    run(quick("burgers-mini", {"body.weights": "random", "proxy": "noise", "align.epochs": 1, "train_samples": 16}), store)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.random.get_state()[1].tolist() == before[1]


# Subsets of the training data


def subset(quick, count: int | None, **knobs: object) -> set[bytes]:
    data = trial_stages.load_data(Settings.of(quick("openml/187", {"train_samples": count, **knobs}), "finetune"))
    return {row.tobytes() for row in data.train.x}


def test_a_smaller_training_set_is_a_part_of_a_larger_one(quick):
    assert len(subset(quick, 10)) == 10
    assert subset(quick, 10) < subset(quick, 40) < subset(quick, None)


def test_the_training_subset_is_drawn_by_the_split_seed_and_not_by_the_seed(quick):
    assert subset(quick, 10, seed=1) == subset(quick, 10)
    assert subset(quick, 10, split_seed=1) != subset(quick, 10)


def test_every_class_is_in_the_smallest_training_set(quick):
    data = trial_stages.load_data(Settings.of(quick("openml/187", {"train_samples": 3}), "finetune"))
    assert sorted(data.train.y) == [0, 1, 2]


@pytest.mark.parametrize(
    ("count", "rule"), [(143, "at most the 142 training samples of openml/187"), (2, "at least the 3 classes of openml/187")]
)
def test_a_training_set_that_cannot_be_is_refused(quick, store, count, rule):
    with pytest.raises(ConfigError, match=f"train_samples: must be {rule}, but got {count}"):
        run(quick("openml/187", {"body.weights": "random", "train_samples": count}), store)


# Causes of failure


def test_arrays_that_are_not_finite_are_refused_before_anything_trains(quick, store, tmp_path):
    x = np.zeros((30, 1, 6), np.float32)
    x[3] = np.nan
    np.savez(tmp_path / "bad.npz", x=x, y=np.arange(30) % 2)
    rows: list[Row] = []
    with pytest.raises(DataError, match="must have no NaN"):
        run_trial(quick(f"npz:{tmp_path / 'bad.npz'}", {"body.weights": "random"}), store, rows.append)
    assert rows == []


def test_own_arrays_run_like_any_task(quick, store, tmp_path):
    rng = np.random.Generator(np.random.PCG64(0))
    np.savez(tmp_path / "mine.npz", x=rng.normal(size=(40, 2, 12)), y=np.array(["1", "7"]).astype(int)[np.arange(40) % 2])
    _, result = run(quick(f"npz:{tmp_path / 'mine.npz'}", {"body.weights": "random"}), store)
    assert 0 <= result.test_error <= 1


def test_a_report_that_raises_stops_the_trial_with_its_own_error(quick, store):
    def report(row: Row) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_trial(quick("openml/187", {"body.weights": "random"}), store, report)


def test_a_report_that_raises_leaves_the_state_of_the_epoch_before(quick, store):
    """The generator is closed at once, which stores the interim state: what is computed is not lost with the reporter."""
    config = quick("openml/187", {"finetune.epochs": 3})

    def report(row: Row) -> None:
        if isinstance(row, EpochRow) and row.stage == "finetune" and row.epoch == 2:
            raise RuntimeError("the reporter broke")

    with pytest.raises(RuntimeError, match="the reporter broke") as caught:
        run_trial(config, store, report)
    tuning = stages_of(config)[-1]
    interim = store.get(tuning.interim)
    assert interim is not None
    assert [row["epoch"] for row in interim.data["rows"]] == [1, 2], caught
