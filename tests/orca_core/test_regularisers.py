"""Label smoothing, mixout, rates that fall with depth, layers that start anew: each by hand, and all of them resumed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from orca_core.bodies import find_body
from orca_core.bodies.loading import LoadedBody, random_body
from orca_core.config.resolve import resolve_config
from orca_core.errors import ConfigError
from orca_core.finetuning.loop import Finetuning
from orca_core.finetuning.regularisers import Mixout, layer_rates, smoothed
from orca_core.identity import trial_id, unread_knobs
from orca_core.model.cross_modal import CrossModalModel
from orca_core.pipeline import run_trial
from orca_core.rows import EpochRow, Row
from orca_core.settings import Settings
from orca_core.store import Store
from orca_core.tasks import find_task

LINEARS = 2 * 6
"""Linear layers of mini-roberta's body: four in the attention and two in the feed-forward part of each of two layers."""


def model_for(quick, loaded: LoadedBody | None = None, **knobs: Any) -> CrossModalModel:
    config = quick("openml/187", knobs)
    return CrossModalModel(Settings.of(config, "finetune"), loaded or random_body(find_body("mini-roberta"), seed=5), (13, 1), (3,))


# Label smoothing


def test_smoothing_is_that_of_torch_for_the_plain_cross_entropy():
    logits, labels = torch.randn(6, 4), torch.tensor([0, 1, 2, 3, 0, 1])
    expected = F.cross_entropy(logits, labels, label_smoothing=0.3)
    torch.testing.assert_close(smoothed(F.cross_entropy(logits, labels), logits, 0.3), expected)


def test_smoothing_is_for_training_alone(quick):
    def losses(share: float) -> dict[str, float]:
        config = quick("openml/187", {"body.weights": "random", "finetune.lr": 1e-12, "finetune.label_smoothing": share})
        data = find_task("openml/187").load()
        model = CrossModalModel(
            Settings.of(config, "finetune"), random_body(find_body("mini-roberta"), seed=0), data.input_shape, data.output_shape
        )
        tuning = Finetuning(Settings.of(config, "finetune"), model, data, torch.device("cpu"))
        tuning.start_phase(tuning.settings)
        return tuning.run_epoch(1)

    plain, smooth = losses(0.0), losses(0.5)
    assert plain.train_loss != smooth.train_loss
    assert plain.valid_loss == pytest.approx(smooth.valid_loss, abs=1e-6)


def test_smoothing_is_read_by_tasks_with_classes_only(quick):
    assert "finetune.label_smoothing" in unread_knobs(quick("burgers-mini"))
    assert "finetune.label_smoothing" not in unread_knobs(quick("digits"))


# Rates that fall with depth


def test_rates_fall_with_depth_by_hand(quick):
    model = model_for(quick)
    block = 4 * (64 * 64 + 64) + (64 * 128 + 128) + (128 * 64 + 64) + 2 * 2 * 64
    counts = {group["scale"]: sum(p.numel() for p in group["params"]) for group in layer_rates(model, 0.5)}
    # Predictor; upper and lower of two blocks; embedder: convolution, norm, one position.
    assert counts == {1.0: 64 * 3 + 3, 0.5: block, 0.25: block, 0.125: (13 * 64 + 64) + 2 * 64 + 64}


def test_each_step_is_taken_at_the_rate_of_its_layer(quick):
    knobs = {"body.weights": "random", "finetune.optimizer": "adam", "finetune.lr": 0.01, "finetune.layer_decay": 0.5}
    config = quick("openml/187", {**knobs, "finetune.clip": None, "finetune.batch_size": 1000, "finetune.weight_decay": 0.0})
    data = find_task("openml/187").load()
    tuning = Finetuning(Settings.of(config, "finetune"), model_for(quick, **knobs), data, torch.device("cpu"))
    tuning.start_phase(tuning.settings)
    before = {name: p.detach().clone() for name, p in tuning.model.named_parameters()}
    tuning.run_epoch(1)  # one step; the first step of Adam is the rate, wherever the gradient is not next to nothing
    largest = {name: (p - before[name]).abs().max().item() for name, p in tuning.model.named_parameters()}
    assert largest["predictor.linear.weight"] == pytest.approx(0.01, rel=1e-3)
    assert largest["body.encoder.layer.1.output.dense.weight"] == pytest.approx(0.005, rel=1e-3)
    assert largest["body.encoder.layer.0.output.dense.weight"] == pytest.approx(0.0025, rel=1e-3)
    assert largest["embedder.projection.weight"] == pytest.approx(0.00125, rel=1e-3)


# Layers that start anew


def test_top_layers_start_anew_and_the_others_are_the_pretrained_ones(quick):
    pretrained, drawn = (random_body(find_body("mini-roberta"), seed=seed) for seed in (5, 0))
    model = model_for(quick, pretrained, **{"finetune.reinit_top": 1})
    for number, source in ((0, pretrained), (1, drawn)):
        expected = source.body.blocks[number].state_dict()
        assert all(torch.equal(value, expected[name]) for name, value in model.body.blocks[number].state_dict().items())


def test_more_layers_than_the_body_has_cannot_start_anew():
    with pytest.raises(ConfigError, match=r"finetune\.reinit_top: must be at most the 2 layers of mini-swin, but got 3"):
        resolve_config({"task": "digits", "finetune.reinit_top": 3})


def test_a_random_body_has_no_layers_to_start_anew(quick):
    knobs = {"body.weights": "random"}
    assert trial_id(quick("digits", {**knobs, "finetune.reinit_top": 1})) == trial_id(quick("digits", knobs))


# Mixout


def test_mixed_weights_are_the_first_ones_or_scaled_moves_away_from_them(quick):
    model = model_for(quick)
    mixout = Mixout(model, 0.75)
    model.train_only(("embedder", "body", "predictor"))
    with torch.no_grad():
        for parameter in model.body.parameters():
            parameter.add_(1.0)
    torch.manual_seed(0)
    mixed = mixout.weights(model)
    assert len(mixed) == LINEARS
    moves = torch.cat([(mixed[name] - mixout.start[name]).flatten() for name in mixed])
    assert set(moves.round(decimals=4).unique().tolist()) == {0.0, 4.0}  # 1 / (1 - p)
    assert moves.mean().item() == pytest.approx(1.0, abs=0.05)  # the current weight, on average


def test_frozen_layers_are_not_mixed(quick):
    model = model_for(quick)
    mixout = Mixout(model, 0.5)
    model.train_only(("embedder", "predictor", "top-layers:1"))
    assert len(mixout.weights(model)) == LINEARS // 2


# All of them


def test_a_run_that_is_cut_short_goes_on_to_the_same_bits(quick, rows_of_cut_runs):
    values = {"label_smoothing": 0.1, "layer_decay": 0.8, "mixout": 0.3, "dropout": 0.1, "epochs": 3}
    knobs = {f"finetune.{name}": value for name, value in values.items()}
    config = quick("openml/187", {"body.weights": "random", "train_samples": 64, "freezing": "frozen-body:1", **knobs})

    whole, again = rows_of_cut_runs(config, range(1, 3))
    assert again == [whole] * len(again)


@pytest.mark.parametrize("knob", ["label_smoothing", "layer_decay", "mixout"])
def test_each_changes_what_is_learnt(quick, tmp_path: Path, knob):
    base = {"body.weights": "random", "train_samples": 64, "finetune.epochs": 2, "finetune.lr": 0.01}
    losses = []
    for number, knobs in enumerate(({}, {f"finetune.{knob}": 0.5})):
        rows: list[Row] = []
        run_trial(quick("openml/187", {**base, **knobs}), Store(tmp_path / str(number)), rows.append)
        losses.append([row.valid_loss for row in rows if isinstance(row, EpochRow)])
    assert losses[0] != losses[1]
