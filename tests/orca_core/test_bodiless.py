"""Bodiless arms: what they compute, what nothing reads in them, and that they are trials like any other."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from trials import run, small

from orca_core.bodies import BODILESS, find_body
from orca_core.bodies.bodiless import CHANNELS, HEADS, WIDTH, ConvolutionalNetwork, SelfAttention, TransformerLayer
from orca_core.bodies.loading import random_body
from orca_core.config.knobs import TrialConfig
from orca_core.config.paths import KNOBS
from orca_core.config.resolve import resolve_config
from orca_core.errors import ConfigError
from orca_core.identity import canonical_knobs, trial_id
from orca_core.model.cross_modal import CrossModalModel
from orca_core.settings import Settings
from orca_core.stages import result_key, stages_of

LAYERED = [name for name in BODILESS if name != "none"]


def digits(**knobs: Any) -> TrialConfig:
    return resolve_config({"task": "digits", "body": "none"} | knobs)


def model_of(config: TrialConfig, input_shape: tuple[int, ...], output_shape: tuple[int, ...]) -> CrossModalModel:
    body = random_body(config.body_spec, seed=config.seed, dropout=config.finetune.dropout)
    return CrossModalModel(Settings.of(config, "finetune"), body, input_shape, output_shape)


# What is computed


def test_one_layer_of_attention_is_torchs_multi_head_attention():
    own, theirs = SelfAttention(WIDTH, HEADS, 0.0), nn.MultiheadAttention(WIDTH, HEADS, batch_first=True)
    theirs.load_state_dict(
        {
            "in_proj_weight": own.qkv.weight,
            "in_proj_bias": own.qkv.bias,
            "out_proj.weight": own.output.weight,
            "out_proj.bias": own.output.bias,
        }
    )
    x = torch.randn(2, 5, WIDTH, generator=torch.Generator().manual_seed(0))
    normed = own.norm(x)
    torch.testing.assert_close(own(x), x + theirs(normed, normed, normed)[0])


def test_a_transformer_layer_is_torchs_with_its_norms_first():
    own = TransformerLayer(WIDTH, HEADS, 0.0)
    theirs = nn.TransformerEncoderLayer(WIDTH, HEADS, 4 * WIDTH, 0.0, F.gelu, batch_first=True, norm_first=True)
    names = {
        "self_attn.in_proj_": "attention.qkv.",
        "self_attn.out_proj.": "attention.output.",
        "norm1.": "attention.norm.",
        "norm2.": "feed_forward.0.",
        "linear1.": "feed_forward.1.",
        "linear2.": "feed_forward.3.",
    }
    weights = own.state_dict()
    theirs.load_state_dict({f"{name}{kind}": weights[f"{ours}{kind}"] for name, ours in names.items() for kind in ("weight", "bias")})
    x = torch.randn(2, 5, WIDTH, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(own(x), theirs(x))


def test_without_a_body_the_predictor_reads_the_embedders_tokens():
    model = model_of(digits(), (1, 8, 8), (10,))
    x = torch.randn(3, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    assert torch.equal(model(x), model.predictor.linear(model.embedder(x).mean(1)))


@pytest.mark.parametrize(("shape", "near"), [((1, 30), {8, 9, 10, 11, 12}), ((1, 3, 10), {p + q for p in (0, 10, 20) for q in (7, 8, 9)})])
def test_a_convolution_reaches_neighbours_in_the_line_or_grid_of_the_input(shape, near):
    """Two convolutions with kernels of 3 reach two places. Of a grid 10 wide, the end of a row has no neighbour in the next row's start."""
    at = 10 if len(shape) == 2 else 9
    task = {2: "mnist1d", 3: "digits"}[len(shape)]
    body = model_of(digits(task=task, body="cnn"), shape, (10,)).body
    assert isinstance(body, ConvolutionalNetwork)
    body.layers = body.layers[:1]
    for place in (0, 3):  # without the norms, which are over all places
        body.layers[0].layers[place] = nn.Identity()
    tokens = torch.zeros(1, 30, CHANNELS)
    pulsed = tokens.clone()
    pulsed[:, at] = 1
    moved = (body(pulsed) - body(tokens)).abs().sum((0, 2))
    assert set(moved.nonzero().flatten().tolist()) == near


@pytest.mark.parametrize("shape", [(1, 16), (2, 6, 10)])
def test_the_network_takes_points_as_they_are(shape):
    """No patches up to 1024 points, no LayerNorm, no positions: the embedder is linear."""
    model = model_of(digits(task={2: "mnist1d", 3: "digits"}[len(shape)], body="cnn"), shape, (10,))
    x = torch.randn(1, *shape, generator=torch.Generator().manual_seed(0))
    tokens = model.embedder(x)
    assert tokens.shape == (1, x[0, 0].numel(), CHANNELS)
    torch.testing.assert_close(model.embedder(3 * x), 3 * tokens)


def test_a_large_field_is_cut_into_patches():
    model = model_of(digits(body="cnn"), (1, 85, 85), (1, 85, 85))
    assert (model.embedder.patch, model.body.grid) == (3, (29, 29))
    assert model(torch.zeros(1, 1, 85, 85)).shape == (1, 1, 85, 85)


def test_parameters_by_hand():
    """Digits in 16 patches of 2 x 2: projection 4 x 64 + 64, LayerNorm 2 x 64, positions 16 x 64; predictor 64 x 10 + 10."""
    none = sum(p.numel() for p in model_of(digits(), (1, 8, 8), (10,)).parameters())
    assert none == (4 * 64 + 64) + 2 * 64 + 16 * 64 + (64 * 10 + 10)
    attention = 2 * 64 + (64 * 192 + 192) + (64 * 64 + 64)
    feed_forward = 2 * 64 + (64 * 256 + 256) + (256 * 64 + 64)
    blocks = 4 * 2 * (9 * 32 * 32 + 32 + 2 * 32)
    counts = {name: sum(p.numel() for p in random_body(digits(body=name).body_spec, seed=0).body.parameters()) for name in BODILESS}
    assert counts == {"none": 0, "attention-1": attention, "transformer-1": attention + feed_forward, "cnn": blocks}


def test_arms_of_a_seed_share_their_draws():
    """Embedder and predictor start alike without a body, with a layer, and with a random mini-roberta, which is as wide."""
    common = {"task": "openml/187", "align.epochs": 0}
    arms = [resolve_config(common | knobs) for knobs in ({"body": "none"}, {"body": "transformer-1"}, {"body.weights": "random"})]
    models = [model_of(config, (13, 1), (3,)) for config in arms]
    first, *others = ({name: p for name, p in model.named_parameters() if not name.startswith("body.")} for model in models)
    for other in others:
        assert other.keys() == first.keys()
        assert all(torch.equal(other[name], first[name]) for name in first)


@pytest.mark.parametrize("body", BODILESS)
@pytest.mark.parametrize(
    ("task", "knobs"),
    [
        ("openml/187", {}),
        ("digits", {"train_samples": 40}),
        ("advection-mini", {"train_samples": 16}),
        ("darcy-mini", {"train_samples": 8}),
    ],
)
def test_a_trial_has_fine_tuning_alone_and_learns(task, body, knobs, store):
    config = small(task, body=body, align__epochs=5, finetune__epochs=3, **knobs)
    assert [stage.kind for stage in stages_of(config)] == ["finetune"]
    rows, result, _ = run(config, store)
    losses = [row.train_loss for row in rows if hasattr(row, "train_loss")]
    assert len(losses) == 3
    assert losses[-1] < losses[0]
    assert 0 <= result.test_error < 3


@pytest.mark.parametrize("body", LAYERED)
@pytest.mark.parametrize("knobs", [{"finetune.checkpointing": True}, {"finetune.layer_decay": 0.5}, {"finetune.dropout": 0.3}])
def test_knobs_of_layers_act_on_the_layers(body, knobs, store, tmp_path):
    plain, other = (run(small(body=body, **named), store)[0][-2] for named in ({}, {k.replace(".", "__"): v for k, v in knobs.items()}))
    assert (plain.train_loss == other.train_loss) == ("finetune.checkpointing" in knobs)


@pytest.mark.parametrize("body", BODILESS)
def test_a_cut_run_goes_on_to_the_same_rows(body, rows_of_cut_runs):
    whole, again = rows_of_cut_runs(small(body=body, finetune__epochs=3, freezing="lp-ft:1", finetune__dropout=0.1), range(1, 3))
    assert all(run == whole for run in again)


# Which knobs are read

UNREAD = {
    *("method", "proxy", "body.weights", "body.keep", "body.flip", "body.double", "embedder.init", "adapter"),
    *(f"finetune.{name}" for name in ("mixout", "reinit_top", "l2_sp", "distill")),
    *(knob for knob in KNOBS if knob.startswith(("align.", "adapt.", "pretrain."))),
}


@pytest.mark.parametrize("body", BODILESS)
def test_knobs_of_proxy_alignment_pretraining_and_adapters_are_null(body):
    config = digits(**{"body": body, "align.epochs": 10, "align.weight": 0.5, "proxy": "cifar10", "adapter": "lora", "pretrain.epochs": 3})
    knobs = canonical_knobs(config)
    assert {knob for knob in UNREAD if knobs[knob] is not None} == set()
    null = {knob for knob, value in knobs.items() if value is None and canonical_knobs(digits(body="mini-roberta"))[knob] is not None}
    of_layers = {"finetune.dropout", "finetune.checkpointing"} if body == "none" else set()
    assert null - UNREAD == of_layers | ({"embedder.target_seq_len"} if body == "cnn" else set())


@pytest.mark.parametrize("body", BODILESS)
@pytest.mark.parametrize(
    "knobs",
    [
        {"align.epochs": 0},
        {"align.weight": 1.0},
        {"proxy": "noise"},
        {"proxy": "pydoc"},
        {"body.weights": "random"},
        {"embedder.init": "random"},
        {"embedder.init": "reference"},
        {"adapter": {"name": "lora", "r": 2}},
        {"pretrain.fraction": 0.1},
        {"finetune.reinit_top": 7},
        {"finetune.mixout": 0.5},
    ],
)
def test_what_a_bodiless_arm_does_not_read_makes_no_other_trial(body, knobs):
    plain, other = digits(body=body), digits(body=body, **knobs)
    assert trial_id(plain) == trial_id(other)
    assert result_key(plain, stages_of(plain)) == result_key(other, stages_of(other))


def test_each_bodiless_arm_is_a_trial_of_its_own():
    configs = [digits(body=name) for name in (*BODILESS, "mini-roberta", "mini-swin")]
    assert len({trial_id(config) for config in configs}) == len({result_key(config, stages_of(config)) for config in configs}) == 6


def test_only_what_has_patches_reads_how_many():
    fewer = {"embedder.target_seq_len": 4}
    same = {name: trial_id(digits(body=name)) == trial_id(digits(body=name, **fewer)) for name in BODILESS}
    assert same == {"none": False, "attention-1": False, "transformer-1": False, "cnn": True}


# What is refused, and the defaults


@pytest.mark.parametrize("body", ["none", "cnn"])
@pytest.mark.parametrize("freezing", ["frozen-body", "frozen-embedder", "frozen-body:2", "layernorm", "bias", "attention", "top-layers:1"])
def test_a_schedule_that_singles_out_the_body_is_refused(body, freezing):
    with pytest.raises(ConfigError) as caught:
        digits(body=body, freezing=freezing)
    (fault,) = caught.value.faults
    assert fault.path == "freezing"
    assert fault.rule == f"must train embedder and body together for {body}, which has no pretrained layers"
    assert "full" in fault.remedy


@pytest.mark.parametrize(
    "freezing", ["full", "frozen-both", "lp-ft:1", "frozen-both:2", [{"train": ["predictor"], "epochs": 1}, {"train": "all"}]]
)
def test_other_schedules_are_taken(freezing):
    phases = digits(freezing=freezing, **{"finetune.epochs": 3}).phases
    assert {phase.train for phase in phases} <= {("embedder", "body", "predictor"), ("predictor",)}


@pytest.mark.parametrize(
    ("knobs", "recipe", "lr"),
    [({}, "laptop", 3e-3), ({"recipe": "published-style"}, "published-style", 1e-4), ({"task": "openml/1510"}, "laptop", 3e-3)],
)
def test_the_defaults_are_those_of_the_tasks_recipe(knobs, recipe, lr):
    config = digits(**knobs)
    assert (config.recipe, config.finetune.lr) == (recipe, lr)


def test_an_unknown_name_is_told_the_nearest_bodiless_one():
    with pytest.raises(ConfigError, match=r"Did you mean 'transformer-1'"):
        digits(body="transformer1")


def test_the_digest_of_a_bodiless_arm_does_not_depend_on_the_task():
    configs: Mapping[str, TrialConfig] = {task: digits(task=task, body="cnn") for task in ("digits", "openml/187")}
    assert {config.body_spec.digest() for config in configs.values()} == {find_body("cnn").digest()}
    assert [config.body_spec.dims for config in configs.values()] == [2, 1]
