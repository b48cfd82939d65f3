"""`body.keep` and `body.weights: shuffled`: which tensors start pretrained, counted and compared bit by bit."""

from __future__ import annotations

import pytest
import torch
from body_families import HEADS, HIDDEN, IMAGE, LAYERS, PATCH, POSITIONS, VOCABULARY, WIDTH, write_checkpoint
from transformers import RobertaConfig, RobertaModel
from trials import run, small

from orca_core.bodies import BodySpec, find_body
from orca_core.bodies.base import Body, BodyEmbedding
from orca_core.bodies.families.bert import split_bert
from orca_core.bodies.keep import PARTS, kept_of_embedding, spell_keep, without_repetition
from orca_core.bodies.loading import checkpoint_body, partly_pretrained, random_body, shuffled_body
from orca_core.bodies.parts import kept_names, parts_of, tensors_of
from orca_core.config.resolve import resolve_config
from orca_core.errors import ConfigError
from orca_core.identity import canonical_knobs, trial_id
from orca_core.model.cross_modal import build_embedder
from orca_core.rows import EpochRow, Row
from orca_core.settings import Settings
from orca_core.stages import stages_of
from orca_core.store import Store

ATTENTION = 4 * (WIDTH * WIDTH + WIDTH)
"""Parameters of queries, keys, values and output of one layer."""

FFN = 2 * WIDTH * HIDDEN + HIDDEN + WIDTH
NORM = 2 * WIDTH


def _swin_attention(width: int, heads: int, window: int = 2) -> int:
    return 4 * (width * width + width) + (2 * window - 1) ** 2 * heads


COUNTS = {
    # Words, positions, one token type or two; two LayerNorms a layer and one in the embedding.
    "roberta": (LAYERS * ATTENTION, LAYERS * FFN, 5 * NORM, (VOCABULARY + POSITIONS + 2) * WIDTH, 0),
    # Words in the embedding and positions in the body; two LayerNorms a layer and a final one.
    "gpt2": (LAYERS * ATTENTION, LAYERS * FFN, 5 * NORM, (VOCABULARY + POSITIONS) * WIDTH, 0),
    "vit": (LAYERS * ATTENTION, LAYERS * FFN, 5 * NORM, WIDTH * 3 * PATCH**2 + WIDTH + (1 + (IMAGE // PATCH) ** 2) * WIDTH, 0),
    # Depths 1 and 2 at widths 16 and 32; LayerNorms: two a block, one in the embedding, one of 4 x 16 in the merging, one at the end.
    "swin": (
        _swin_attention(16, 1) + 2 * _swin_attention(32, 2),
        (2 * 16 * 32 + 32 + 16) + 2 * (2 * 32 * 64 + 64 + 32),
        2 * (2 * 16 + 4 * 32 + 16 + 64 + 32),
        WIDTH * 3 * PATCH**2 + WIDTH,
        4 * 16 * 2 * 16,  # the merging of patches
    ),
}
"""Family -> parameters of the tiny checkpoint in each part, in the order of `PARTS`."""

MORE = ("timm-vit", "timm-swin", "beit-shared-bias", "gpt_neox", "llama", "t5", "modernbert", "dinov2", "clip")


@pytest.fixture(scope="module")
def bodies(tmp_path_factory):
    found = {}
    for family in (*COUNTS, *MORE):
        folder = tmp_path_factory.mktemp(family)
        spec = find_body(write_checkpoint(family, folder)[1])
        found[family] = checkpoint_body(spec, spec.digest())
    return found


def count(loaded, part: str) -> int:
    tensors, parts = tensors_of(loaded.body, loaded.embedding), parts_of(loaded.body, loaded.embedding)
    return sum(tensors[name].numel() for name in parts if parts[name] == part and isinstance(tensors[name], torch.nn.Parameter))


@pytest.mark.parametrize("family", COUNTS)
def test_parameters_part_by_part_are_those_counted_by_hand(bodies, family):
    assert HEADS == 2
    assert tuple(count(bodies[family], part) for part in PARTS) == COUNTS[family]


@pytest.mark.parametrize("family", [*COUNTS, *MORE])
def test_what_is_kept_is_pretrained_and_all_else_is_what_random_weights_would_be(bodies, family):
    pretrained = bodies[family]
    whole = sum(p.numel() for module in (pretrained.body, pretrained.embedding) for p in module.parameters())
    assert sum(count(pretrained, part) for part in PARTS) == whole
    original = {name: tensor.clone() for name, tensor in tensors_of(pretrained.body, pretrained.embedding).items()}
    drawn = random_body(pretrained.spec, seed=3)
    random = tensors_of(drawn.body, drawn.embedding)
    seen = set()
    for keep in (*PARTS, "layers:1", "attention+layers:1", "none", "all"):
        mixed = partly_pretrained(pretrained, keep, seed=3)
        names = kept_names(pretrained.body, pretrained.embedding, keep)
        seen |= names if keep in PARTS else set()
        assert keep not in PARTS or names == {n for n, part in parts_of(mixed.body, mixed.embedding).items() if part == keep}
        for name, tensor in tensors_of(mixed.body, mixed.embedding).items():
            assert torch.equal(tensor, (original if name in names else random)[name]), (keep, name)
    assert seen == original.keys()
    for name, tensor in tensors_of(pretrained.body, pretrained.embedding).items():
        if isinstance(tensor, torch.nn.Parameter):
            assert not tensor.numel() or not torch.equal(original[name], random[name])  # else nothing would tell the two apart
    assert all(torch.equal(tensor, original[name]) for name, tensor in tensors_of(pretrained.body, pretrained.embedding).items())


@pytest.mark.parametrize("family", ["vit", "timm-vit", "dinov2", "clip"])
def test_class_tokens_belong_to_the_embeddings(bodies, family):
    loaded = bodies[family]
    parts = parts_of(loaded.body, loaded.embedding)
    assert parts["body.prefix"] == "embeddings"
    assert "other" not in parts.values()


def test_layers_are_the_lowest_blocks_whole(bodies):
    loaded = bodies["roberta"]
    names = kept_names(loaded.body, loaded.embedding, "layers:1")
    assert names == {f"body.{name}" for name in loaded.body.state_dict() if name.startswith("encoder.layer.0.")}
    with pytest.raises(ConfigError, match=r"body\.keep.*at most the 2 layers"):
        partly_pretrained(loaded, "layers:3", seed=0)


def test_shuffled_tensors_hold_the_same_numbers_in_another_order(bodies):
    loaded = bodies["swin"]
    original = {name: tensor.clone() for name, tensor in tensors_of(loaded.body, loaded.embedding).items()}
    one, again, other = (shuffled_body(loaded, seed=seed) for seed in (0, 0, 1))
    for name, tensor in tensors_of(one.body, one.embedding).items():
        assert torch.equal(tensor.flatten().sort().values, original[name].flatten().sort().values)
        assert torch.equal(tensor, tensors_of(again.body, again.embedding)[name])
        if isinstance(tensor, torch.nn.Parameter) and tensor.numel() > 8:
            assert not torch.equal(tensor, original[name])
            assert not torch.equal(tensor, tensors_of(other.body, other.embedding)[name])
        elif not isinstance(tensor, torch.nn.Parameter):
            assert torch.equal(tensor, original[name])
    assert all(torch.equal(tensor, original[name]) for name, tensor in tensors_of(loaded.body, loaded.embedding).items())


def build_own(spec: BodySpec, pretrained: bool, dropout: float) -> tuple[Body, BodyEmbedding]:
    """A body that brings its own code: the tiny RoBERTa's modules, the weights of the pretrained one all 2."""
    body, embedding = split_bert(RobertaModel(RobertaConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=1, vocab_size=9)))
    if pretrained:
        for parameter in (*body.parameters(), *embedding.parameters()):
            torch.nn.init.constant_(parameter, 2.0)
    return body, embedding


def test_a_body_that_brings_its_own_code_is_kept_in_part_too():
    spec = BodySpec("my-body", "a body", "text", build="test_body_parts:build_own")
    mixed = partly_pretrained(checkpoint_body(spec, spec.digest()), "ffn", seed=1)
    drawn = random_body(spec, seed=1)
    others = tensors_of(drawn.body, drawn.embedding)
    for name, part in parts_of(mixed.body, mixed.embedding).items():
        tensor = tensors_of(mixed.body, mixed.embedding)[name]
        assert bool((tensor == 2).all()) if part == "ffn" else torch.equal(tensor, others[name]), name


@pytest.mark.parametrize("family", ["roberta", "gpt2", "vit", "swin", "modernbert"])
def test_the_embedder_copies_what_is_kept_of_the_embedding(bodies, family):
    """Where a part is not kept, the embedder has what `embedder.init: random` draws; where it is, what `pretrained` copies."""
    loaded = bodies[family]

    def embedder(keep: str, init: str = "pretrained") -> dict[str, torch.Tensor]:
        config = resolve_config({"task": "digits", "body.name": loaded.spec.name, "body.keep": keep, "embedder.init": init, "seed": 3})
        part = loaded if keep == "all" else partly_pretrained(loaded, keep, seed=3)
        return build_embedder(Settings.of(config, "finetune"), part, (1, 8, 8)).state_dict()

    whole, drawn = embedder("all"), embedder("all", "random")
    assert any(not torch.equal(whole[name], drawn[name]) for name in whole) == (family != "gpt2")  # whose positions are the body's
    for keep, of_norm, of_rest in (("layernorm", whole, drawn), ("embeddings", drawn, whole), ("attention+ffn+layers:1", drawn, drawn)):
        for name, tensor in embedder(keep).items():
            assert torch.equal(tensor, (of_norm if name.startswith("norm.") else of_rest)[name]), (keep, name)


@pytest.mark.parametrize("family", ["roberta", "gpt2", "vit"])
def test_keeping_every_part_that_a_body_has_is_keeping_all_of_it(bodies, family, tmp_path):
    """These families have nothing in `other`: the trial without it has another id, and the same rows."""

    def rows(number: int, keep: list[str] | str) -> list[Row]:
        config = small("digits", body=bodies[family].spec.name, body__keep=keep, align__epochs=1, align__objective="l2")
        return [row for row in run(config, Store(tmp_path / str(number)))[0] if isinstance(row, EpochRow)]

    found = [rows(number, keep) for number, keep in enumerate(("all", list(PARTS[:4]), ["attention"]))]
    assert found[0] == found[1]
    assert [row.test_error is None for row in found[0]] == [True, False, False]
    assert len({row.train_loss for rows_of in found for row in rows_of[-1:]}) == 2


# ------------------------------------------------------------------------------------------------------- configs, without torch


def config(**knobs):
    return resolve_config({"task": "digits", **{name.replace("__", "."): value for name, value in knobs.items()}})


def test_spellings_of_the_same_computation_have_one_id():
    assert trial_id(config(body__keep=list(PARTS))) == trial_id(config(body__keep="all")) == trial_id(config())
    assert trial_id(config(body__keep=[])) == trial_id(config(body__weights="random"))
    assert trial_id(config(body__keep=["ffn", "attention"])) == trial_id(config(body__keep="attention+ffn")) != trial_id(config())
    assert trial_id(config(body__keep=["attention"], body__weights="random")) == trial_id(config(body__weights="random"))
    assert trial_id(config(body__keep=["ffn", "layers:2"])) == trial_id(config(body__keep=["layers:1", "layers:2"]))


def test_the_columns_of_an_arm_that_keeps_nothing_are_those_of_a_random_one():
    knobs = canonical_knobs(config(body__keep=[], align__epochs=1))
    assert (knobs["body.weights"], knobs["body.keep"], knobs["embedder.init"], knobs["pretrain.epochs"]) == ("random", None, None, None)
    assert canonical_knobs(config(body__keep=["ffn", "attention"]))["body.keep"] == "attention+ffn"
    assert canonical_knobs(config())["body.keep"] == "all"


def test_source_and_alignment_are_shared_by_arms_that_keep_the_same_of_the_embedding():
    def keys(keep) -> dict[str, str]:
        return {stage.kind: stage.key for stage in stages_of(config(body__keep=keep, align__epochs=1))}

    attention, ffn, norms, both, whole = (keys(k) for k in (["attention"], ["ffn"], ["layernorm"], ["layernorm", "embeddings"], "all"))
    assert attention["source"] == ffn["source"] != norms["source"] != both["source"] == whole["source"]
    assert attention["align"] == ffn["align"] != norms["align"] != both["align"] == whole["align"]
    assert len({found["finetune"] for found in (attention, ffn, norms, both, whole)}) == 5


@pytest.mark.parametrize(
    ("keep", "said"),
    [
        (["atention"], "attention"),
        (["layers:0"], "layers:N"),
        (["atention", "layers:0"], r"\]\. 'atention' is no part\. Did you mean 'attention'\? 'layers:0' is no part\."),
        (3, "must be all or a list"),
        (["layers:3"], "at most the 2 layers"),
        ([["ffn"]], "must be all or a list"),
    ],
)
def test_what_cannot_be_kept_is_a_fault(keep, said):
    with pytest.raises(ConfigError, match=said) as caught:
        config(body__keep=keep)
    assert [fault.path for fault in caught.value.faults] == ["body.keep"]


def test_a_bodiless_arm_keeps_nothing():
    with pytest.raises(ConfigError, match=r"body\.keep: must be all with cnn"):
        config(body="cnn", body__keep=["ffn"])


def test_spellings():
    assert spell_keep(["all", "ffn"]) == "all"
    assert spell_keep(("layers:2", "other", "attention")) == "attention+other+layers:2"
    assert kept_of_embedding("attention+layers:1") == "none"
    assert without_repetition("ffn+layers:2", None) == "ffn+layers:2"
