"""Stages that go epoch by epoch: interrupted, resumed, reused and stored, always to the same bits."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import count

import pytest
import torch
from body_families import write_checkpoint

from orca_core.alignment.loop import Alignment
from orca_core.bodies import find_body
from orca_core.bodies.loading import random_body
from orca_core.config.knobs import TrialConfig
from orca_core.errors import NotFiniteError
from orca_core.finetuning.loop import Finetuning
from orca_core.model.cross_modal import CrossModalModel
from orca_core.numerics import numerical_kind
from orca_core.pipeline import run_trial, trial_rows
from orca_core.pretraining.loop import Pretraining
from orca_core.rows import EpochRow, Row, StageRow
from orca_core.settings import Settings
from orca_core.stages import Stage, stages_of
from orca_core.store import Artifact, Store
from orca_core.tasks import find_task
from orca_core.trajectory import Trajectory, advance, rows_of

CPU = torch.device("cpu")


def run(
    stage: Stage, store: Store, build: Callable[[], Trajectory], stop_after: int | None = None, **options
) -> tuple[list[Row], Artifact]:
    """Rows and artifact of `advance`; `stop_after` rows the generator is closed, as a killed process would leave it."""
    generator, rows = advance(stage, store, build, kind=numerical_kind(), **options), []
    for number in count(1):
        try:
            rows.append(next(generator))
        except StopIteration as stop:
            return rows, stop.value
        if number == stop_after:
            generator.close()
            return rows, Artifact({}, {})


def without_times(rows: Sequence[Row]) -> list[Row]:
    rows = [replace(row, seconds=0.0, memory_bytes=None) for row in rows]
    return [replace(row, saved_s=0.0, reused_epochs=0, stored_bytes=None) if isinstance(row, StageRow) else row for row in rows]


def assert_same_bits(one: Artifact, other: Artifact) -> None:
    assert one.tensors.keys() == other.tensors.keys()
    assert [name for name in one.tensors if not torch.equal(one.tensors[name], other.tensors[name])] == []
    assert without_times(rows_of(one)) == without_times(rows_of(other))


# The three trajectories of a trial


def pretraining(quick) -> tuple[Stage, Callable[[], Trajectory]]:
    config = quick("openml/187", {"pretrain.fraction": 0.05, "pretrain.epochs": 4})
    return stages_of(config)[0], lambda: Pretraining(Settings.of(config, "pretrain"), CPU)


def alignment(quick, **knobs) -> tuple[Stage, Callable[[], Trajectory]]:
    config = quick("openml/187", {"body.weights": "random", "proxy": "noise", "align.epochs": 4, "align.lr_steps": [2], **knobs})
    data, loaded = find_task("openml/187").load(), random_body(find_body("mini-roberta"), seed=0)
    source_x, source_y = torch.randn(40, 64, generator=torch.Generator().manual_seed(0)), torch.arange(40) % 4

    def build() -> Alignment:
        embedder = CrossModalModel(Settings.of(config, "finetune"), loaded, data.input_shape, data.output_shape).embedder
        return Alignment(Settings.of(config, "align"), embedder, source_x, source_y, data, CPU)

    return stages_of(config)[1], build


def finetuning(quick, **knobs) -> tuple[Stage, Callable[[], Trajectory]]:
    config = quick("openml/187", {"body.weights": "random", "finetune.epochs": 4, "finetune.dropout": 0.2, **knobs})
    data, loaded = find_task("openml/187").load(), random_body(find_body("mini-roberta"), seed=0, dropout=0.2)

    def build() -> Finetuning:
        tuning = Finetuning(
            Settings.of(config, "finetune"),
            CrossModalModel(Settings.of(config, "finetune"), loaded, data.input_shape, data.output_shape),
            data,
            CPU,
        )
        tuning.start_phase(tuning.settings)
        return tuning

    return stages_of(config)[0], build


TRAJECTORIES = {
    "pretraining": (pretraining, {}),
    "alignment-adamw": (alignment, {"align.objective": "otdd-gaussian"}),
    "alignment-sgd": (alignment, {"align.objective": "mmd", "align.optimizer": "sgd", "align.lr": 0.1}),
    "finetuning-adamw": (finetuning, {"finetune.optimizer": "adamw", "finetune.warmup_epochs": 2}),
    "finetuning-adam": (finetuning, {"finetune.optimizer": "adam", "finetune.weight_decay": 0.1}),
    "finetuning-sgd": (finetuning, {"finetune.optimizer": "sgd", "finetune.momentum": 0.9, "finetune.lr": 0.01}),
    "finetuning-frozen": (finetuning, {"freezing": "frozen-both"}),
}


@pytest.fixture(params=TRAJECTORIES)
def trajectory(request, quick) -> tuple[Stage, Callable[[], Trajectory]]:
    make, knobs = TRAJECTORIES[request.param]
    return make(quick, **knobs)


def test_interrupted_and_resumed_is_uninterrupted_bit_for_bit(trajectory, store, tmp_path):
    stage, build = trajectory
    _, whole = run(stage, Store(tmp_path / "uninterrupted"), build)
    rows, _ = run(stage, store, build, stop_after=2, save_every_s=0)
    assert [row.epoch for row in rows] == [1, 2]
    rows, resumed = run(stage, store, build)
    assert [row.epoch for row in rows[:-1]] == [1, 2, 3, 4]
    assert rows[-1].reused_epochs == 2
    assert_same_bits(resumed, whole)
    assert_same_bits(store.get(stage.address), whole)


@pytest.fixture
def tuning(quick) -> tuple[Stage, Callable[[], Trajectory]]:
    return finetuning(quick)


def refuse() -> Trajectory:
    raise AssertionError("a stored stage is not built")


# What is kept


def test_a_stored_stage_is_not_built_again_and_tells_its_rows_again(tuning, store):
    stage, build = tuning
    rows, artifact = run(stage, store, build)
    again, found = run(stage, store, refuse)
    assert again[:-1] == rows[:-1]
    assert (again[-1].reused_epochs, again[-1].seconds) == (4, 0.0)
    assert again[-1].saved_s == pytest.approx(sum(row.seconds for row in rows[:-1]))
    assert_same_bits(found, artifact)


def test_states_in_between_are_dropped_at_the_end(tuning, store):
    stage, build = tuning
    run(stage, store, build, save_every_s=0)
    assert [address.epoch for address in store.states(stage.folder)] == [4]


def test_epochs_that_other_trials_want_are_kept_and_serve_them(tuning, store, quick):
    stage, build = tuning
    _, whole = run(stage, store, build, keep_at=[1, 3])
    assert [address.epoch for address in store.states(stage.folder)] == [1, 3, 4]
    shorter, _ = finetuning(quick, **{"finetune.epochs": 3})
    assert shorter.address == stage.address_at(3)
    rows, artifact = run(shorter, store, refuse)
    assert without_times(rows[:-1]) == without_times(rows_of(whole)[:3])
    assert artifact.tensors.keys() == whole.tensors.keys()


def test_a_longer_trial_goes_on_where_a_shorter_one_left(tuning, store, quick, tmp_path):
    stage, build = tuning
    run(finetuning(quick, **{"finetune.epochs": 3})[0], store, build)
    rows, artifact = run(stage, store, build)
    assert rows[-1].reused_epochs == 3
    assert_same_bits(artifact, run(stage, Store(tmp_path / "alone"), build)[1])


def test_a_last_stage_keeps_its_rows_alone(tuning, store):
    stage, build = tuning
    _, artifact = run(stage, store, build, keep_tensors=False)
    assert (artifact.tensors, store.get(stage.address).tensors) == ({}, {})
    assert len(run(stage, store, refuse, keep_tensors=False)[0]) == 5


def test_rows_without_a_state_are_no_place_to_go_on_from(tuning, store, quick):
    stage, build = tuning
    shorter, _ = finetuning(quick, **{"finetune.epochs": 2})
    run(shorter, store, build, keep_tensors=False)
    rows, _ = run(stage, store, build, keep_at=[2])
    assert rows[-1].reused_epochs == 0
    assert store.get(shorter.address).tensors, "the state that is wanted takes the place of the rows alone"


# Faults


class Diverging:
    """A trajectory whose third loss is not a number."""

    device = torch.device("cpu")

    def run_epoch(self, epoch: int) -> EpochRow:
        return EpochRow(stage="finetune", epoch=epoch, train_loss=float("nan") if epoch == 3 else 1.0 / epoch)

    def state(self) -> dict[str, torch.Tensor]:
        return {"x": torch.zeros(1)}


def test_a_metric_that_is_not_finite_ends_the_stage_and_is_not_stored(store):
    stage = Stage("finetune", "k", end=5)
    with pytest.raises(NotFiniteError, match="train_loss is nan after finetune epoch 3"):
        run(stage, store, Diverging, keep_at=[1, 2, 3, 4])
    assert [address.epoch for address in store.states(stage.folder)] == [1, 2]


@pytest.mark.parametrize(
    "knobs",
    [
        {"finetune.lr": 1e30, "finetune.epochs": 3},
        {"align.lr": 1e30, "align.epochs": 3, "proxy": "noise", "align.proxy_samples": 50},
        {"align.lr": 1e30, "align.epochs": 3, "proxy": "noise", "align.proxy_samples": 50, "align.objective": "otdd-gaussian"},
        {"align.lr": 1e30, "align.epochs": 3, "proxy": "noise", "align.proxy_samples": 50, "align.objective": "mmd"},
    ],
)
def test_a_trial_that_diverges_says_that_a_number_is_not_finite(quick, store, knobs):
    with pytest.raises(NotFiniteError):
        run_trial(quick("openml/187", {"body.weights": "random", **knobs}), store, lambda row: None)


# Across the phases of a freezing schedule


SCHEDULES = {
    "moments-run-through": {
        "freezing": [{"train": ["predictor"], "epochs": 2}, {"train": "all"}],
    },
    "there-and-back": {
        "finetune.optimizer": "sgd",
        "freezing": [
            {"train": ["predictor"], "epochs": 1},
            {"train": ["embedder"], "epochs": 2},
            {"train": ["predictor"], "epochs": 1},
            {"train": "all"},
        ],
    },
    "restart": {
        "freezing": [
            {"train": ["predictor"], "epochs": 2},
            {"train": "all", "epochs": 2, "restart": True},
            {"train": ["embedder"], "lr_scale": 0.5},
        ],
    },
}


@pytest.fixture(params=SCHEDULES)
def config(request, quick) -> TrialConfig:
    knobs = {"body.weights": "random", "finetune.epochs": 5, "finetune.lr": 0.01, "finetune.warmup_epochs": 1, "finetune.dropout": 0.1}
    return quick("openml/187", knobs | SCHEDULES[request.param])


def reported(config: TrialConfig, store: Store) -> list[Row]:
    rows: list[Row] = []
    run_trial(config, store, rows.append)
    return without_times(rows)


def test_a_trial_interrupted_in_any_epoch_of_any_phase_ends_the_same(config, store, tmp_path):
    expected = reported(config, Store(tmp_path / "uninterrupted"))
    keep_at = {stage.folder: range(1, 5) for stage in stages_of(config)}
    for stop_after in range(1, len(expected)):
        rows = trial_rows(config, store, keep_at=keep_at)
        for _ in range(stop_after):
            next(rows)
        rows.close()
    assert reported(config, store) == expected


def test_a_phase_whose_artifact_is_lost_does_not_change_the_phases_after_it(config, store, tmp_path):
    expected = reported(config, store)
    first, *_, last = stages_of(config)
    for stage in (first, last):
        store.drop(stage.address)
    assert reported(config, store) == expected


def test_what_version_0_1_stored_under_a_key_of_two_computations_is_not_taken(quick, tmp_path, store):
    """Its `embedder.init: reference` of an aligned BERT had the keys of `pretrained`, and its artifacts do not say what made them."""
    (tmp_path / "roberta").mkdir()
    names = [write_checkpoint("bert", tmp_path)[1], write_checkpoint("roberta", tmp_path / "roberta")[1]]
    knobs = {"proxy": "noise", "align.epochs": 1, "align.objective": "mmd", "train_samples": 20, "align.proxy_samples": 20}
    config, other = (quick("openml/187", {**knobs, "body": name}) for name in names)
    rows = reported(config, store)
    for stage in stages_of(config):
        artifact = store.get(stage.address)
        unsigned = {name: value for name, value in artifact.data.items() if name != "made_by"}
        store.put(stage.address, artifact.tensors, unsigned)
        assert stage.needs_maker == (stage.kind != "source")
    again: list[Row] = []
    run_trial(config, store, again.append)
    assert [(row.stage, row.reused_epochs) for row in again if isinstance(row, StageRow)] == [("source", 0), ("align", 0), ("finetune", 0)]
    epochs = [[row for row in without_times(of) if isinstance(row, EpochRow)] for of in (again, rows)]
    assert epochs[0] == epochs[1]
    assert not any(stage.needs_maker for stage in stages_of(other)), "its two arms are one"
