"""How many parameters train in every freezing mode, counted by hand for every kind of body."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from body_families import HIDDEN, IMAGE, PATCH, POSITIONS, WIDTH, write_checkpoint
from transformers import RobertaConfig, RobertaModel, SwinConfig, SwinModel

from orca_core.bodies import find_body
from orca_core.bodies.base import Body
from orca_core.bodies.families.bert import split_bert
from orca_core.bodies.families.images import split_swin
from orca_core.bodies.loading import random_body
from orca_core.config.resolve import resolve_config
from orca_core.errors import ConfigError
from orca_core.freezing.groups import body_group
from orca_core.model.cross_modal import CrossModalModel
from orca_core.settings import Settings

LENGTH, CLASSES = 8, 3
PATCHES = (IMAGE // PATCH) ** 2


class Block:
    """A transformer block: width d, feed-forward width h, `tables` position biases in the attention."""

    def __init__(self, d: int = WIDTH, h: int = HIDDEN, tables: int = 0, without: int = 0, scales: int = 0) -> None:
        self.attention = 4 * (d * d + d) + tables - without  # biases it does not have
        self.qkv = 3 * (d * d + d) - without
        self.norms = 2 * 2 * d
        self.bias = 4 * d + (h + d) + 2 * d - without  # attention, feed-forward, norms
        self.all = self.attention + self.norms + (d * h + h) + (h * d + d) + scales


class Parts:
    """A body: its blocks and what stands outside them."""

    def __init__(self, blocks: list[Block], *, embedder: int, norms: int = 0, bias: int = 0, positions: int = 0, other: int = 0) -> None:
        self.blocks, self.embedder = blocks, embedder
        self.layernorm = sum(block.norms for block in blocks) + norms + positions
        self.bias = sum(block.bias for block in blocks) + bias
        self.attention = sum(block.attention for block in blocks)
        self.qkv = sum(block.qkv for block in blocks)
        self.all = sum(block.all for block in blocks) + norms + positions + other


SERIES = 1 * 1 * WIDTH + WIDTH + 2 * WIDTH  # convolution of kernel 1, norm
IMAGES = 1 * PATCH * PATCH * WIDTH + WIDTH
WIDE = Block(2 * WIDTH, 2 * 2 * WIDTH, tables=(2 * 2 - 1) ** 2 * 2)  # two heads, windows of 2 x 2
SWIN = Parts(
    [Block(tables=(2 * 2 - 1) ** 2 * 1), WIDE, WIDE],
    embedder=IMAGES + 2 * WIDTH,
    norms=2 * 4 * WIDTH + 2 * 2 * WIDTH,  # of the merge of four patches, and the last
    bias=4 * WIDTH + 2 * WIDTH,
    other=4 * WIDTH * 2 * WIDTH,  # the merge
)
VIT = Parts([Block()] * 2, embedder=IMAGES + PATCHES * WIDTH, norms=2 * WIDTH, bias=WIDTH, other=WIDTH)  # other: the class token
# BEiT: keys without bias, a factor for each channel after attention and feed-forward, and position biases of two heads: those
# between patches, and three more with the class token.
BEIT = Parts(
    [Block(tables=((2 * IMAGE // PATCH - 1) ** 2 + 3) * 2, without=WIDTH, scales=2 * WIDTH)] * 2,
    embedder=IMAGES,
    norms=2 * WIDTH,
    bias=WIDTH,
    other=WIDTH,
)
BERT = Parts([Block()] * 2, embedder=SERIES + LENGTH * WIDTH)
DECODER = {"embedder": SERIES, "norms": 2 * WIDTH, "bias": WIDTH}  # positions are the body's
FAMILIES = {
    "bert": BERT,
    "roberta": BERT,
    "xlm-roberta": BERT,
    "camembert": BERT,
    "distilbert": BERT,
    "electra": BERT,
    "gpt2": Parts([Block()] * 2, **DECODER, positions=POSITIONS * WIDTH),
    "gpt_neox": Parts([Block()] * 2, **DECODER),
    "vit": VIT,
    "timm-vit": VIT,
    "deit": Parts([Block()] * 2, embedder=IMAGES + PATCHES * WIDTH, norms=2 * WIDTH, bias=WIDTH, other=2 * WIDTH),
    "beit": BEIT,
    "swin": SWIN,
    "timm-swin": SWIN,
}


@pytest.fixture(scope="module")
def names(tmp_path_factory) -> dict[str, str]:
    return {family: write_checkpoint(family, tmp_path_factory.mktemp(family))[1] for family in FAMILIES}


def counts(name: str, freezing: object, scores: list[float] | None = None) -> list[int]:
    """Parameters that train, phase by phase, of a model for a series of 8 points and 3 classes over 6 epochs."""
    config = resolve_config({"task": "openml/187", "body": name, "freezing": freezing, "finetune.epochs": 6})
    model = CrossModalModel(Settings.of(config, "finetune"), random_body(find_body(name), seed=0), (1, LENGTH), (CLASSES,))
    found = []
    for phase in config.phases:
        model.train_only(phase.train, None if scores is None else torch.tensor(scores))
        found.append(model.num_trained())
    return found


@pytest.mark.parametrize("family", FAMILIES)
def test_what_trains_is_what_is_counted_by_hand(family, names):
    parts, name = FAMILIES[family], names[family]
    predictor = (2 if family.endswith("swin") else 1) * WIDTH * CLASSES + CLASSES
    new = parts.embedder + predictor
    blocks = [block.all for block in parts.blocks]
    expected = {
        "full": [new + parts.all],
        "frozen-embedder": [parts.all + predictor],
        "frozen-body": [new],
        "frozen-both": [predictor],
        "frozen-both:2": [predictor, new + parts.all],
        "lp-ft:2": [predictor, new + parts.all],
        "layernorm": [new + parts.layernorm],
        "bias": [new + parts.bias],
        "attention": [new + parts.attention],
        "non-attn": [new + parts.all - parts.attention],
        "qkv": [new + parts.qkv],
        "non-qkv": [new + parts.all - parts.qkv],
        "top-layers:1": [new + blocks[-1]],
        "top-layers:2": [new + blocks[-1] + blocks[-2]],
        "gradual:1": [new, *(new + sum(blocks[-k:]) for k in range(1, len(blocks))), new + parts.all],
    }
    assert {freezing: counts(name, freezing) for freezing in expected} == expected
    assert counts(name, [{"train": ["layers:0", "predictor"]}]) == [blocks[0] + predictor]
    scores = [0.5, 0.1, 0.9][: len(blocks)]
    assert counts(name, "surgical:1", scores) == [new + (blocks[2] if len(blocks) == 3 else blocks[0])]


def published(architecture: type, config: object, split: Callable) -> Body:
    """A body of the size that the reference adapts, without memory for its weights."""
    with torch.device("meta"):
        body, _ = split(architecture(config))
    return body


ROBERTA_BASE = {"vocab_size": 50265, "max_position_embeddings": 514, "type_vocab_size": 1}
SWIN_BASE = {"embed_dim": 128, "depths": [2, 2, 18, 2], "num_heads": [4, 8, 16, 32]}


@pytest.mark.parametrize(
    ("make", "all_of_it", "qkv", "beyond"),
    [
        # Output projections of 12 layers.
        (lambda: published(RobertaModel, RobertaConfig(**ROBERTA_BASE), split_bert), 85_054_464, 12 * 3 * (768**2 + 768), 7_087_104),
        # Output projections, and biases of 169 pairs of positions, of 2, 2, 18 and 2 blocks. The reference, with the names of its time,
        # trains 65,782,730 of NinaPro's 86,757,578 weights, of which 2432 are the embedder's and 18,450 the predictor's.
        (lambda: published(SwinModel, SwinConfig(**SWIN_BASE), split_swin), 86_757_578 - 2432 - 18_450, 20_974_848, 7_055_160),
    ],
    ids=["roberta-base", "swin-base"],
)
def test_non_attn_freezes_output_projections_and_position_biases_beyond_the_reference(make, all_of_it, qkv, beyond):
    body = make()
    sizes = {name: sum(parameter.numel() for parameter in body_group(body, name)) for name in ("body", "qkv", "non-qkv", "non-attn")}
    assert sizes == {"body": all_of_it, "qkv": qkv, "non-qkv": all_of_it - qkv, "non-attn": all_of_it - qkv - beyond}


class Nameless(Body):
    """A body that says nothing of its projections."""

    blocks = attention = ()


def test_a_body_that_does_not_say_which_its_projections_are_takes_no_group_of_them():
    with pytest.raises(ConfigError, match="freezing: must not name qkv or non-qkv for a body that has no `qkv`, but got 'Nameless'"):
        body_group(Nameless(), "non-qkv")


def test_a_layer_that_only_the_loaded_body_can_refuse_is_refused(names):
    settings = Settings.of(resolve_config({"task": "openml/187", "body": names["vit"]}), "finetune")
    model = CrossModalModel(settings, random_body(find_body(names["vit"]), seed=0), (1, 8), (3,))
    with pytest.raises(ConfigError, match="freezing: must name 1 to 2 after top-layers: for a body of 2 layers"):
        model.train_only(("top-layers:3",))
