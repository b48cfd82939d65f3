"""Embedder, body and predictor joined: every kind of task with every kind of body."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from orca_core.bodies import find_body
from orca_core.bodies.base import ImageEmbedding
from orca_core.bodies.loading import LoadedBody, random_body
from orca_core.model.cross_modal import CrossModalModel
from orca_core.model.embedder import FieldEmbedder, ImageEmbedder, SeriesEmbedder, fold_side, make_embedder, series_stride
from orca_core.model.pooling import FixedPool
from orca_core.model.predictor import DenseField, DenseSeries
from orca_core.settings import Settings


@pytest.fixture(scope="module")
def bodies() -> dict[str, LoadedBody]:
    return {name: random_body(find_body(name), seed=0) for name in ("mini-roberta", "mini-swin")}


def model_for(quick, loaded: LoadedBody, input_shape, output_shape, **knobs) -> CrossModalModel:
    config = quick("digits", {"body": loaded.spec.name, **knobs})
    return CrossModalModel(Settings.of(config, "finetune"), loaded, input_shape, output_shape)


SHAPES = {
    "series-to-classes": ((3, 40), (5,)),
    "point-to-classes": ((30, 1), (2,)),
    "series-to-series": ((2, 48), (1, 48)),
    "long-series-to-channels": ((1, 300), (2, 300)),
    "image-to-classes": ((1, 8, 8), (10,)),
    "field-to-field": ((1, 32, 32), (1, 32, 32)),
    "oblong-field-to-channels": ((4, 10, 27), (2, 10, 27)),
}


@pytest.mark.parametrize("shapes", SHAPES)
@pytest.mark.parametrize("body", ["mini-roberta", "mini-swin"])
def test_every_body_gives_every_task_its_outputs_and_the_embedder_a_gradient(quick, bodies, body, shapes):
    input_shape, output_shape = SHAPES[shapes]
    model = model_for(quick, bodies[body], input_shape, output_shape)
    outputs = model(torch.randn(2, *input_shape))
    assert outputs.shape == (2, *output_shape)
    outputs.square().sum().backward()
    assert all(parameter.grad is not None and parameter.grad.abs().sum() > 0 for parameter in model.embedder.parameters())


# Series


@pytest.mark.parametrize(
    ("length", "most", "stride"), [(46, 512, 1), (512, 512, 1), (1000, 64, 20), (1000, 100, 10), (128, 64, 2), (997, 512, 997), (1, 64, 1)]
)
def test_the_stride_is_the_smallest_divisor_that_gives_few_enough_tokens(length, most, stride):
    assert series_stride(length, most) == stride


def test_a_series_is_cut_to_the_tokens_that_the_body_takes(bodies):
    loaded = bodies["mini-roberta"]
    embedder = make_embedder((1, 256), loaded.body.geometry, loaded.embedding, target_seq_len=512, pretrained=True)
    assert (embedder.stride, embedder.num_tokens) == (2, 128)


def test_a_series_embedder_takes_norm_and_positions_from_the_body(bodies):
    loaded = bodies["mini-roberta"]
    embedder = make_embedder((1, 40), loaded.body.geometry, loaded.embedding, target_seq_len=64, pretrained=True)
    assert isinstance(embedder, SeriesEmbedder)
    table = loaded.embedding.embeddings.position_embeddings.weight
    assert torch.equal(embedder.positions, table[2:42])  # RoBERTa's ids start at 2
    assert torch.equal(embedder.norm.weight, loaded.embedding.norm.weight)


def test_a_fresh_projection_is_xavier_uniform_with_gain_sqrt_2(bodies):
    loaded = bodies["mini-roberta"]
    embedder = make_embedder((3, 40), loaded.body.geometry, loaded.embedding, target_seq_len=10, pretrained=False)
    bound = math.sqrt(2) * math.sqrt(6 / (3 * 4 + 64 * 4))  # fan in 3 x 4, fan out 64 x 4
    assert 0.95 * bound < embedder.projection.weight.abs().max() <= bound
    assert embedder.projection.bias.abs().max() == 0


# Fields


def test_a_field_is_cut_into_the_smallest_patches_that_give_few_enough_tokens(bodies):
    loaded = bodies["mini-roberta"]
    embedder = make_embedder((1, 10, 27), loaded.body.geometry, loaded.embedding, target_seq_len=64, pretrained=False)
    assert isinstance(embedder, FieldEmbedder)
    assert (embedder.patch, embedder.grid, embedder.padding) == (3, (4, 9), (0, 0, 0, 2))


def test_patches_are_read_in_raster_order(bodies):
    loaded = bodies["mini-roberta"]
    embedder = make_embedder((1, 4, 4), loaded.body.geometry, loaded.embedding, target_seq_len=4, pretrained=False)
    embedder.norm = nn.Identity()
    nn.init.ones_(embedder.projection.weight)
    nn.init.zeros_(embedder.positions)
    quarters = torch.tensor([[1.0, 2.0], [3.0, 4.0]]).repeat_interleave(2, 0).repeat_interleave(2, 1)
    assert embedder(quarters[None, None])[0, :, 0].tolist() == [4.0, 8.0, 12.0, 16.0]


# Images


@pytest.mark.parametrize(("channels", "picked"), [(1, [0]), (3, [0, 1, 2]), (5, [0, 1, 2, 0, 1])])
def test_an_image_embedder_repeats_the_pretrained_channels_and_cuts_them(bodies, channels, picked):
    loaded = bodies["mini-swin"]
    embedder = make_embedder((channels, 8, 8), loaded.body.geometry, loaded.embedding, target_seq_len=1, pretrained=True)
    assert torch.equal(embedder.projection.weight, loaded.embedding.projection.weight[:, picked])
    assert torch.equal(embedder.projection.bias, loaded.embedding.projection.bias)
    assert torch.equal(embedder.norm.weight, loaded.embedding.norm.weight)


def test_a_pretrained_image_embedder_embeds_as_the_body_does(bodies):
    loaded = bodies["mini-swin"]
    embedding: ImageEmbedding = loaded.embedding
    embedder = make_embedder((3, 16, 16), loaded.body.geometry, embedding, target_seq_len=1, pretrained=True)
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    images = torch.rand(2, 3, 16, 16)
    torch.testing.assert_close(embedder((images - mean) / std).mean(1), embedding(images))


@pytest.mark.parametrize(("length", "side"), [(1, 1), (4, 2), (5, 3), (128, 12)])
def test_a_series_is_folded_into_the_smallest_square(length, side):
    assert fold_side(length) == side


def test_a_folded_series_is_read_row_by_row(bodies):
    loaded = bodies["mini-swin"]
    embedder = make_embedder((1, 5), loaded.body.geometry, loaded.embedding, target_seq_len=1, pretrained=False)
    assert isinstance(embedder, ImageEmbedder)
    square = torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 0.0], [0.0, 0.0, 0.0]])
    assert torch.equal(embedder(torch.arange(1.0, 6.0)[None, None]), embedder(square[None, None]))


# Dense predictors


@pytest.mark.parametrize(("size", "output"), [(64, 8), (64, 5), (3, 1), (3, 7), (16, 16), (10, 4)])
def test_pooling_is_torchs_adaptive_average(size, output):
    x = torch.randn(2, 3, size)
    torch.testing.assert_close(FixedPool(size, output, dim=2)(x), nn.AdaptiveAvgPool1d(output)(x))


def test_two_poolings_are_torchs_in_two_dimensions():
    x = torch.randn(2, 3, 16, 16)
    pools = nn.Sequential(FixedPool(16, 5, dim=2), FixedPool(16, 32, dim=3))
    torch.testing.assert_close(pools(x), nn.AdaptiveAvgPool2d((5, 32))(x))


def test_a_dense_series_puts_the_values_of_a_token_where_it_came_from():
    tokens = torch.tensor([[[1.0, 1.0, 2.0, 2.0], [3.0, 3.0, 4.0, 4.0]]])  # two tokens of width 4, each for two positions
    assert DenseSeries(width=4, channels=1, stride=2).pool(tokens).tolist() == [[[1.0, 2.0, 3.0, 4.0]]]
    assert DenseSeries(width=4, channels=2, stride=1).pool(tokens).tolist() == [[[1.0, 3.0], [2.0, 4.0]]]


def test_a_dense_field_puts_the_values_of_a_token_into_its_patch():
    tokens = torch.tensor([[[1.0, 2.0, 3.0, 4.0], [5.0, 6.0, 7.0, 8.0]]])  # a grid of 1 x 2 patches of 2 x 2
    field = DenseField(width=4, output_shape=(1, 2, 3), grid=(1, 2), patch=2).pool(tokens)
    assert field.tolist() == [[[[1.0, 2.0, 5.0], [3.0, 4.0, 7.0]]]]


# Groups of parameters


def test_groups_of_a_mini_roberta_counted_by_hand(quick, bodies):
    model = model_for(quick, bodies["mini-roberta"], (3, 40), (5,), **{"embedder.target_seq_len": 20})
    attention, dense = 4 * (64 * 64 + 64), (64 * 128 + 128) + (128 * 64 + 64)
    expected = {
        "embedder": (3 * 2 * 64 + 64) + 2 * 64 + 20 * 64,  # convolution of stride 2, norm, positions
        "body": 2 * (attention + dense + 2 * 2 * 64),  # two layers with two norms each
        "predictor": 64 * 5 + 5,
        "layernorm": 2 * 2 * 2 * 64,
    }
    assert {name: sum(parameter.numel() for parameter in model.group(name)) for name in expected} == expected
    model.train_only(("embedder", "predictor", "layernorm"))
    assert model.num_trained() == expected["embedder"] + expected["predictor"] + expected["layernorm"]


def test_layernorms_of_a_swin_are_found_wherever_they_stand(quick, bodies):
    model = model_for(quick, bodies["mini-swin"], (1, 8, 8), (10,))
    # Width 32: two in the block, one of width 128 where patches merge. Width 64: two in the block and the last of all.
    assert sum(parameter.numel() for parameter in model.group("layernorm")) == 2 * (2 * 32 + 128 + 2 * 64 + 64)


# Draws


def test_models_of_a_seed_share_their_draws_whatever_else_differs(quick, bodies):
    shapes = (3, 40), (5,)
    pretrained = model_for(quick, bodies["mini-roberta"], *shapes, **{"embedder.init": "pretrained"})
    fresh = model_for(quick, bodies["mini-roberta"], *shapes, **{"embedder.init": "random", "align.epochs": 3})
    assert torch.equal(pretrained.embedder.projection.weight, fresh.embedder.projection.weight)
    assert torch.equal(pretrained.predictor.linear.weight, fresh.predictor.linear.weight)
    assert not torch.equal(pretrained.embedder.positions, fresh.embedder.positions)
    other = model_for(quick, bodies["mini-roberta"], *shapes, seed=1)
    assert not torch.equal(pretrained.predictor.linear.weight, other.predictor.linear.weight)


def test_a_random_body_has_nothing_pretrained_for_the_embedder(quick, bodies):
    model = model_for(quick, bodies["mini-roberta"], (3, 40), (5,), **{"body.weights": "random", "embedder.init": "pretrained"})
    assert not torch.equal(model.embedder.positions, bodies["mini-roberta"].embedding.positions[:40])


def test_training_a_model_leaves_the_shared_body_as_it_is(quick, bodies):
    loaded = bodies["mini-swin"]
    before = [parameter.clone() for parameter in loaded.body.parameters()]
    model = model_for(quick, loaded, (1, 8, 8), (10,))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1.0)
    assert all(torch.equal(now, then) for now, then in zip(loaded.body.parameters(), before, strict=True))
