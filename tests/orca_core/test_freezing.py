"""Freezing schedules: names and lists of phases, what they come to, how they are spelled back; and what they do in training."""

from __future__ import annotations

import pytest
import torch

from orca_core.bodies import find_body
from orca_core.bodies.loading import random_body
from orca_core.errors import ConfigError
from orca_core.finetuning.loop import Finetuning
from orca_core.freezing.fisher import fisher_scores, highest
from orca_core.freezing.schedule import FREEZING_NAMES, Phase, freezing_label, parse_freezing
from orca_core.model.cross_modal import CrossModalModel
from orca_core.pipeline import run_trial
from orca_core.settings import Settings
from orca_core.tasks import find_task

ALL = ("embedder", "body", "predictor")
EMBEDDER_AND_PREDICTOR = ("embedder", "predictor")


def phases(*items: tuple) -> tuple[Phase, ...]:
    """Phases from (train, epochs) pairs."""
    return tuple(Phase(train=train, epochs=epochs) for train, epochs in items)


# What a schedule comes to


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("full", [(ALL, 8)]),
        ("frozen-embedder", [(("body", "predictor"), 8)]),
        ("frozen-body", [(EMBEDDER_AND_PREDICTOR, 8)]),
        ("frozen-both", [(("predictor",), 8)]),
        ("layernorm", [(("embedder", "predictor", "layernorm"), 8)]),
        ("frozen-body:5", [(EMBEDDER_AND_PREDICTOR, 5), (ALL, 3)]),
        ("frozen-body:8", [(EMBEDDER_AND_PREDICTOR, 8)]),
        ("bias", [(("embedder", "predictor", "bias"), 8)]),
        ("non-attn", [(("embedder", "predictor", "non-attn"), 8)]),
        ("non-qkv", [(("embedder", "predictor", "non-qkv"), 8)]),
        ("top-layers:2", [(("embedder", "predictor", "top-layers:2"), 8)]),
        ("surgical:2", [(("embedder", "predictor", "surgical:2"), 8)]),
        ("gradual:3", [(EMBEDDER_AND_PREDICTOR, 3), ((*EMBEDDER_AND_PREDICTOR, "top-layers:1"), 3), (ALL, 2)]),
        ("gradual:5", [(EMBEDDER_AND_PREDICTOR, 5), ((*EMBEDDER_AND_PREDICTOR, "top-layers:1"), 3)]),
        ("gradual:8", [(EMBEDDER_AND_PREDICTOR, 8)]),
    ],
)
def test_a_name_stands_for_phases(name, expected):
    assert parse_freezing(name, 8, layers=2) == phases(*expected)


def test_a_linear_probe_before_fine_tuning_restarts_the_optimiser():
    assert parse_freezing("lp-ft:3", 8) == (Phase(train=["predictor"], epochs=3), Phase(train=ALL, epochs=5, restart=True))


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ([(ALL, None)], [(ALL, 8)]),
        ([(["predictor"], 3), (ALL, None)], [(("predictor",), 3), (ALL, 5)]),
        ([(ALL, 3), (ALL, 5)], [(ALL, 8)]),
        ([(["predictor", "embedder"], 2), (["embedder", "predictor"], 2), (ALL, None)], [(EMBEDDER_AND_PREDICTOR, 4), (ALL, 4)]),
    ],
)
def test_phases_partition_the_epochs_and_equal_neighbours_are_one(given, expected):
    assert parse_freezing(phases(*given), 8) == phases(*expected)


def test_a_restart_or_another_rate_keeps_neighbours_apart():
    schedule = [Phase(train=ALL, epochs=2), Phase(train=ALL, epochs=2, restart=True), Phase(train=ALL, lr_scale=0.5)]
    assert len(parse_freezing(schedule, 8)) == 3


def test_a_restart_of_the_first_phase_says_nothing():
    assert parse_freezing([Phase(train=ALL, restart=True)], 8) == parse_freezing("full", 8)


@pytest.mark.parametrize(
    ("train", "canonical"),
    [
        ("all", ALL),
        (["predictor", "body", "embedder"], ALL),
        (["layernorm", "body"], ("body",)),
        (["predictor", "predictor"], ("predictor",)),
        (["layers:10", "embedder", "layers:2", "layers:02"], ("embedder", "layers:2", "layers:10")),
        (["top-layers:2", "body", "predictor"], ("body", "predictor")),
    ],
)
def test_what_trains_has_one_spelling(train, canonical):
    assert Phase(train=train).train == canonical


@pytest.mark.parametrize("name", [*(name.replace(":N", ":3") for name in FREEZING_NAMES), "gradual:2", "gradual:1"])
def test_a_name_is_its_own_label(name):
    assert freezing_label(parse_freezing(name, 8, layers=5)) == name


def test_a_schedule_without_a_name_is_labelled_by_its_phases():
    schedule = [Phase(train=["predictor"], epochs=3), Phase(train=ALL, lr_scale=0.5, restart=True)]
    assert freezing_label(parse_freezing(schedule, 8)) == "predictor:3 > embedder+body+predictor:5 lr*0.5 restart"


# Faults


@pytest.mark.parametrize(
    ("schedule", "text"),
    [
        ("frozen", "freezing: must be a freezing schedule, but got 'frozen'"),
        ("layernorm:2", "freezing: must be a freezing schedule, but got 'layernorm:2'. Did you mean 'layernorm'?"),
        ("frozen-body:9", "freezing: must name 1 to 8 epochs (finetune.epochs) after the colon, but got 'frozen-body:9'"),
        ("frozen-body:", "freezing: must name 1 to 8 epochs"),
        ("top-layers:0", "freezing: must name a number of layers, 1 or more, after the colon, but got 'top-layers:0'"),
        ("top-layers:4", "freezing: must name 1 to 3 after top-layers: for a body of 3 layers, but got 'top-layers:4'"),
        (phases((["layers:3"], None)), "freezing: must name 0 to 2 after layers: for a body of 3 layers, but got 'layers:3'"),
        ("gradual:9", "freezing: must name 1 to 8 epochs (finetune.epochs) after the colon, but got 'gradual:9'"),
        ((), "freezing: must have at least one phase"),
        (phases((ALL, None), (ALL, 3)), "freezing.0.epochs: must be given in every phase but the last"),
        (
            phases((ALL, 8), (ALL, None)),
            "freezing: must leave at least one of the 8 epochs of finetune.epochs to the last phase, but got 8",
        ),
        (phases((ALL, 3), (ALL, 6)), "freezing: must have phases that add up to finetune.epochs = 8, but got 9"),
    ],
)
def test_a_schedule_that_does_not_fill_the_epochs_is_refused(schedule, text):
    with pytest.raises(ConfigError) as caught:
        parse_freezing(schedule, 8, layers=3)
    assert str(caught.value).startswith(text)


def test_a_gradual_schedule_needs_a_body_whose_layers_are_known():
    with pytest.raises(ConfigError, match="freezing: must not be gradual for a body whose number of layers is unknown before it is loaded"):
        parse_freezing("gradual:2", 8)


# In training


@pytest.fixture
def tune(quick):
    """`tune(freezing)` is a fine-tuning of a random mini-swin on 64 digits, in its first phase."""

    def make(freezing: str) -> Finetuning:
        config = quick("digits", {"body.weights": "random", "freezing": freezing})
        data = find_task("digits").load()
        model = CrossModalModel(
            Settings.of(config, "finetune"), random_body(find_body("mini-swin"), seed=0), data.input_shape, data.output_shape
        )
        tuning = Finetuning(Settings.of(config, "finetune"), model, data, torch.device("cpu"))
        tuning.train = tuple(part[:64] for part in tuning.train)
        tuning.start_phase(tuning.settings)
        return tuning

    return make


MODES = [
    "full",
    "frozen-embedder",
    "frozen-body",
    "frozen-both",
    "layernorm",
    "bias",
    "attention",
    "non-attn",
    "non-qkv",
    "top-layers:1",
    "surgical:1",
]


@pytest.mark.parametrize("freezing", MODES)
def test_frozen_parameters_keep_their_bytes_and_trained_ones_change(tune, freezing):
    tuning = tune(freezing)
    before = {name: parameter.detach().clone() for name, parameter in tuning.model.named_parameters()}
    tuning.run_epoch(1)
    trained = {name for name, parameter in tuning.model.named_parameters() if parameter.requires_grad}
    changed = {name for name, parameter in tuning.model.named_parameters() if not torch.equal(parameter, before[name])}
    assert changed == trained


def test_frozen_parts_are_in_eval_mode_so_that_dropout_does_not_reach_them(tune):
    tuning, modes = tune("frozen-body"), set()
    tuning.model.body.register_forward_pre_hook(lambda body, _: modes.add((tuning.model.embedder.training, body.training)))
    tuning.run_epoch(1)
    assert modes == {(True, False), (False, False)}  # in training and in evaluation


def test_frozen_layers_are_in_eval_mode_beside_those_that_train(tune):
    tuning, modes = tune("top-layers:1"), []
    tuning.model.body.register_forward_pre_hook(lambda body, _: modes.append([block.training for block in body.blocks]))
    tuning.run_epoch(1)
    assert modes[0] == [False, True]  # in training
    assert modes[-1] == [False, False]  # in evaluation


def test_predictions_from_cached_features_are_those_of_the_whole_model(tune):
    tuning = tune("frozen-both")
    tuning.run_epoch(1)
    _, valid_features, _ = tuning.inputs
    assert valid_features.shape == (180, 64)
    with torch.no_grad():
        assert torch.equal(tuning.model.predictor(valid_features), tuning.model(tuning.valid[0]))


def test_a_model_in_which_nothing_can_train_still_runs(quick, store):
    # A dense predictor of a text body has no parameters, so nothing is left to train.
    config = quick("burgers-mini", {"body.weights": "random", "freezing": "frozen-both", "train_samples": 8})
    result = run_trial(config, store, lambda row: None)
    assert result.params_trained == [0]


# Layers chosen by their Fisher information


def test_fisher_scores_are_mean_squared_gradients_by_hand():
    first, second = torch.nn.Linear(1, 1, bias=False), torch.nn.Linear(2, 1)  # 1 and 3 parameters
    inputs = torch.tensor([1.0, 3.0])
    batches = [lambda x=x: first.weight.sum() * x + 2 * second.weight.sum() * x for x in inputs]
    # Gradients: x for the one weight; 2 x for two weights and none for the bias. Squares, averaged over parameters and batches.
    expected = [(1 + 9) / 2, (2 * 4 * 1 + 2 * 4 * 9) / 3 / 2]
    assert fisher_scores([first, second], batches).tolist() == pytest.approx(expected)


@pytest.mark.parametrize(("scores", "count", "chosen"), [([0.1, 0.5, 0.5], 1, [1]), ([3.0, 1.0, 2.0], 2, [0, 2]), ([1.0, 1.0], 2, [0, 1])])
def test_the_layers_of_highest_score_are_chosen_and_the_lower_of_equals(scores, count, chosen):
    assert highest(torch.tensor(scores), count) == chosen


def test_layers_are_chosen_once_from_the_weights_that_training_starts_with(tune):
    tuning = tune("surgical:1")
    tuning.run_epoch(1)
    first = tuning.fisher_scores.clone()
    assert torch.equal(tuning.state()["surgical.scores"], first)
    tuning.run_epoch(2)
    assert torch.equal(tuning.fisher_scores, first)
    again = tune("surgical:1")
    again.run_epoch(1)
    assert torch.equal(again.fisher_scores, first)


@pytest.mark.parametrize(
    "freezing", ["surgical:1", "gradual:1", "lp-ft:2", [{"train": ["predictor"], "epochs": 1}, {"train": ["surgical:1"]}]]
)
def test_a_run_that_is_cut_short_goes_on_to_the_same_rows_and_counts(quick, rows_of_cut_runs, freezing):
    knobs = {"body.weights": "random", "freezing": freezing, "finetune.epochs": 4, "train_samples": 64, "finetune.dropout": 0.1}
    config = quick("digits", knobs)

    whole, again = rows_of_cut_runs(config, range(1, 4))
    assert again == [whole] * len(again)
