"""How many parameters train in every freezing mode, counted by hand for every kind of body."""

from __future__ import annotations

import pytest
import torch
from body_families import HIDDEN, IMAGE, PATCH, POSITIONS, WIDTH, write_checkpoint

from orca_core.bodies import find_body
from orca_core.bodies.loading import random_body
from orca_core.config.resolve import resolve_config
from orca_core.errors import ConfigError
from orca_core.model.cross_modal import CrossModalModel
from orca_core.settings import Settings

LENGTH, CLASSES = 8, 3
PATCHES = (IMAGE // PATCH) ** 2


class Block:
    """A transformer block: width d, feed-forward width h, `tables` position biases in the attention."""

    def __init__(self, d: int = WIDTH, h: int = HIDDEN, tables: int = 0, without: int = 0, scales: int = 0) -> None:
        self.attention = 4 * (d * d + d) + tables - without  # biases it does not have
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
        "top-layers:1": [new + blocks[-1]],
        "top-layers:2": [new + blocks[-1] + blocks[-2]],
        "gradual:1": [new, *(new + sum(blocks[-k:]) for k in range(1, len(blocks))), new + parts.all],
    }
    assert {freezing: counts(name, freezing) for freezing in expected} == expected
    assert counts(name, [{"train": ["layers:0", "predictor"]}]) == [blocks[0] + predictor]
    scores = [0.5, 0.1, 0.9][: len(blocks)]
    assert counts(name, "surgical:1", scores) == [new + (blocks[2] if len(blocks) == 3 else blocks[0])]


def test_a_layer_that_only_the_loaded_body_can_refuse_is_refused(names):
    settings = Settings.of(resolve_config({"task": "openml/187", "body": names["vit"]}), "finetune")
    model = CrossModalModel(settings, random_body(find_body(names["vit"]), seed=0), (1, 8), (3,))
    with pytest.raises(ConfigError, match="freezing: must name 1 to 2 after top-layers: for a body of 2 layers"):
        model.train_only(("top-layers:3",))
