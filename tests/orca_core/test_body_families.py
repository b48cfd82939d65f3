"""What every family of bodies promises: the whole model when joined again, shapes, groups of parameters, a gradient to the embedder."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
import transformers
from body_families import (
    DECODERS,
    FAMILIES,
    IMAGE,
    LAYERS,
    PATCH,
    POSITIONS,
    TEXT,
    TOWERS,
    TWINS,
    VARIANTS,
    VOCABULARY,
    WIDTH,
    write_checkpoint,
)

from orca_core.alignment.loop import Alignment
from orca_core.alignment.source import source_features
from orca_core.bodies import BodySpec, find_body
from orca_core.bodies import family as family_table
from orca_core.bodies.base import rows_before_third
from orca_core.bodies.loading import LoadedBody, checkpoint_body, random_body
from orca_core.config.resolve import resolve_config
from orca_core.errors import ConfigError, DataError
from orca_core.freezing.groups import body_group, norms_of
from orca_core.identity import CanonicalConfig
from orca_core.model.cross_modal import CrossModalModel
from orca_core.pipeline import run_trial
from orca_core.proxies import find_proxy
from orca_core.settings import Settings
from orca_core.tasks import Split, TaskData
from orca_core.testing import BodyContract

DIFFERENT = [family for family in FAMILIES if family not in TWINS]


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory) -> dict[str, tuple[Any, str, LoadedBody]]:
    """Family -> (its own model, the body's name, the body)."""
    made = {}
    for family in FAMILIES:
        model, name = write_checkpoint(family, tmp_path_factory.mktemp(family))
        spec = find_body(name)
        made[family] = (model, name, checkpoint_body(spec, spec.digest()))
    return made


def test_every_known_family_is_held_to_this_contract():
    assert set(family_table.FAMILIES) == set(FAMILIES)


# The family's own model


def own_forward(family: str, model: Any, inputs: torch.Tensor) -> torch.Tensor:
    """Last hidden state of the family's own model, without class and distillation tokens."""
    if family == "timm-swin":
        return model.forward_features(inputs).flatten(1, 2)
    if family.startswith("timm-"):
        return model.forward_features(inputs)[:, model.num_prefix_tokens :]
    if family == "t5":
        model = model.encoder
    state = (model.vision_model if family in TOWERS else model)(inputs)[0]
    own = {"swin": 0, "deit": 2, "dinov2_with_registers": 4, "siglip": 0, "siglip_vision_model": 0}
    return state if family in TEXT else state[:, own.get(family, 1) :]


def inputs_of(family: str, length: int = 6) -> torch.Tensor:
    draws = torch.Generator().manual_seed(0)
    if family in TEXT:
        return torch.randint(5, VOCABULARY, (2, length), generator=draws)
    return torch.randn(2, 3, IMAGE, IMAGE, generator=draws)


@pytest.mark.parametrize("family", FAMILIES)
def test_embedding_and_body_joined_again_are_the_familys_own_model(family, checkpoints):
    model, _, loaded = checkpoints[family]
    inputs = inputs_of(family)
    with torch.no_grad():
        tokens = loaded.embedding.embed(inputs)
        if loaded.embedding.positions is not None and family in TEXT:
            assert tokens.shape == (2, 6, WIDTH)
        assert torch.equal(loaded.body(tokens), own_forward(family, model, inputs))


@pytest.mark.parametrize("variant", VARIANTS)
def test_variants_of_a_family_are_their_own_models_too(variant, tmp_path):
    model, name = write_checkpoint(variant, tmp_path)
    spec, family = find_body(name), VARIANTS[variant][0]
    loaded, inputs = checkpoint_body(spec, spec.digest()), inputs_of(family)
    with torch.no_grad():
        assert torch.equal(loaded.body(loaded.embedding.embed(inputs)), own_forward(family, model, inputs))


@pytest.mark.parametrize("family", FAMILIES)
def test_the_geometry_is_that_of_the_checkpoint(family, checkpoints):
    _, name, loaded = checkpoints[family]
    geometry, spec = loaded.body.geometry, find_body(name)
    swin = family.endswith("swin")
    assert (geometry.modality, spec.modality) == (("text", "text") if family in TEXT else ("images", "images"))
    assert (geometry.width, geometry.output_width) == (WIDTH, 2 * WIDTH if swin else WIDTH)
    if family in TEXT:
        assert geometry.max_tokens == POSITIONS - (2 if family in ("roberta", "xlm-roberta", "camembert") else 0)
    else:
        assert (geometry.image_size, geometry.patch_size, geometry.output_side) == (IMAGE, PATCH, 2 if swin else 4)
    assert len(loaded.body.blocks) == (3 if swin else LAYERS)
    assert spec.num_layers == len(loaded.body.blocks)
    assert spec.width == (None if family.startswith("timm-") else geometry.width)
    assert spec.rows_before_third == rows_before_third(loaded.embedding)
    assert spec.rows_before_third == (2 if family in ("bert", "distilbert", "electra") else 0)


class TestFamilies(BodyContract):
    """A tiny checkpoint of every family. It has no tokenizer, so texts cannot be embedded."""

    proxy = "noise"
    test_an_entry_point_can_register_it = None  # they are named by their folder

    @pytest.fixture(autouse=True, params=DIFFERENT)
    def _spec(self, request, checkpoints):
        self.spec = find_body(checkpoints[request.param][1])


# Any body with any task


SHAPES = {
    "series-to-classes": ((3, 40), (5,)),
    "series-to-series": ((2, 48), (1, 48)),
    "image-to-classes": ((1, 8, 8), (10,)),
    "field-to-field": ((1, 16, 16), (1, 16, 16)),
}


@pytest.mark.parametrize("shapes", SHAPES)
@pytest.mark.parametrize("family", DIFFERENT)
def test_every_body_gives_every_task_its_outputs_and_the_embedder_a_gradient(family, shapes, checkpoints):
    input_shape, output_shape = SHAPES[shapes]
    _, name, loaded = checkpoints[family]
    model = CrossModalModel(Settings.of(resolve_config({"task": "digits", "body": name}), "finetune"), loaded, input_shape, output_shape)
    outputs = model(torch.randn(2, *input_shape))
    assert outputs.shape == (2, *output_shape)
    outputs.square().sum().backward()
    assert all(parameter.grad is not None and parameter.grad.abs().sum() > 0 for parameter in model.embedder.parameters())


@pytest.mark.parametrize("family", [family for family in DIFFERENT if family not in ("llama", "qwen3", "modernbert", "dinov2", "siglip")])
def test_bodies_align_series_and_images_with_a_proxy_of_their_own_modality(family, checkpoints, monkeypatch):
    _, name, loaded = checkpoints[family]
    if family in TEXT:  # a checkpoint without tokenizer: ids by length of the words
        monkeypatch.setattr(LoadedBody, "tokenizer", lambda self: words_by_length)
    proxy = find_proxy("pydoc" if family in TEXT else "photos")
    features, labels = source_features(proxy, loaded, samples=40, seed=0, device=torch.device("cpu"))
    assert features.shape == (40, WIDTH)
    for shape in ((1, 32), (1, 8, 8)):
        config = resolve_config({"task": "digits", "body": name, "align.epochs": 1, "align.objective": "mmd"})
        assert config.proxy == proxy.name
        split = Split(torch.randn(20, *shape).numpy(), torch.arange(20).remainder(2).numpy())
        data = TaskData(split, split, split, 2)
        model = CrossModalModel(Settings.of(config, "finetune"), loaded, shape, (2,))
        before = model.embedder.projection.weight.detach().clone()
        assert (
            Alignment(Settings.of(config, "align"), model.embedder, features, labels, data, torch.device("cpu")).run_epoch(1).distance > 0
        )
        assert not torch.equal(model.embedder.projection.weight, before)


def words_by_length(texts: list[str], **settings: Any) -> dict[str, torch.Tensor]:
    rows = [[min(len(word), VOCABULARY - 6) + 5 for word in text.split()][: settings["max_length"]] for text in texts]
    longest = max(map(len, rows))
    return {
        "input_ids": torch.tensor([row + [0] * (longest - len(row)) for row in rows]),
        "attention_mask": torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in rows]),
    }


# Groups of parameters, by the type of their module


_BLOCKS = LAYERS * 2 * 2 * WIDTH
NUM_NORMS = {  # LayerNorms of the body by hand: two in a block, and what stands outside the blocks
    **dict.fromkeys(("bert", "roberta", "xlm-roberta", "camembert", "electra", "distilbert"), LAYERS * 2 * 2 * WIDTH),
    **dict.fromkeys(("gpt2", "gpt_neox", "vit", "deit", "beit", "timm-vit"), LAYERS * 2 * 2 * WIDTH + 2 * WIDTH),
    **dict.fromkeys(("dinov2", "dinov2_with_registers", "siglip", "siglip_vision_model"), _BLOCKS + 2 * WIDTH),
    **dict.fromkeys(("clip", "clip_vision_model"), _BLOCKS + 2 * WIDTH),  # the one before the blocks
    **dict.fromkeys(("llama", "qwen2", "t5"), (LAYERS * 2 + 1) * WIDTH),  # RMSNorms: a scale, no bias
    "qwen3": (LAYERS * 2 + 1) * WIDTH + LAYERS * 2 * 8,  # and those of the queries and keys of a head
    "modernbert": (LAYERS * 2 - 1 + 1) * WIDTH,  # without biases; the first block has none before its attention
    # one block of width 16, a merge of 4 x 16, two blocks of width 32, the last norm
    **dict.fromkeys(("swin", "timm-swin"), 2 * 2 * WIDTH + 2 * 4 * WIDTH + 2 * 2 * 2 * 2 * WIDTH + 2 * 2 * WIDTH),
}


@pytest.mark.parametrize("family", FAMILIES)
def test_norms_and_attention_are_found_by_module_type(family, checkpoints):
    body = checkpoints[family][2].body
    norms = [p for part in norms_of(body).values() for p in part.parameters()]
    assert sum(p.numel() for p in norms) == NUM_NORMS[family]
    group = {id(p) for p in body_group(body, "layernorm")}
    assert group == {id(p) for p in (*norms, *([body.model.wpe.weight] if family == "gpt2" else []))}
    assert not group & {id(p) for p in body_group(body, "attention")}
    assert all(set(block.modules()) & set(body.attention) for block in body.blocks)


# Decoders


@pytest.mark.parametrize("family", DECODERS)
def test_a_decoder_sees_only_what_came_before_and_flipped_or_doubled_all(family, checkpoints):
    _, name, loaded = checkpoints[family]
    for flip, double in ((False, False), (True, False), (False, True), (True, True)):
        config = resolve_config({"task": "digits", "body": {"name": name, "flip": flip, "double": double}})
        body = CrossModalModel(Settings.of(config, "finetune"), loaded, (1, 8), (2,)).body
        tokens = torch.randn(1, 5, WIDTH, requires_grad=True)
        body(tokens)[0, 1].sum().backward()  # what the second output token depends on
        seen = (tokens.grad[0].abs().sum(1) > 0).tolist()
        assert seen == ([True] * 5 if flip or double else [True, True, False, False, False])


@pytest.mark.parametrize("family", DECODERS)
def test_doubling_is_the_second_half_of_the_models_own_reading_of_the_doubled_sequence(family, checkpoints):
    model, name, loaded = checkpoints[family]
    ids = inputs_of(family)
    config = resolve_config({"task": "digits", "body": {"name": name, "double": True}})
    body = CrossModalModel(Settings.of(config, "finetune"), loaded, (1, 8), (2,)).body
    with torch.no_grad():
        assert torch.equal(body(loaded.embedding.embed(ids)), model(torch.cat([ids, ids], 1))[0][:, 6:])


@pytest.mark.parametrize("family", DECODERS)
def test_flipping_is_the_mean_of_the_models_own_readings_of_both_ways(family, checkpoints):
    model, name, loaded = checkpoints[family]
    ids = inputs_of(family)
    config = resolve_config({"task": "digits", "body": {"name": name, "flip": True}})
    body = CrossModalModel(Settings.of(config, "finetune"), loaded, (1, 8), (2,)).body
    with torch.no_grad():
        expected = (model(ids)[0] + model(ids.flip(1))[0].flip(1)) / 2
        assert torch.equal(body(loaded.embedding.embed(ids)), expected)


@pytest.mark.parametrize("family", DECODERS)
def test_a_doubled_sequence_has_half_as_many_tokens(family, checkpoints):
    _, name, loaded = checkpoints[family]
    config = resolve_config({"task": "digits", "body": {"name": name, "double": True}})
    model = CrossModalModel(Settings.of(config, "finetune"), loaded, (1, POSITIONS), (2,))
    assert model.embedder.num_tokens == POSITIONS // 2
    assert model(torch.randn(1, 1, POSITIONS)).shape == (1, 2)


def test_flip_and_double_are_read_by_decoders_only(checkpoints):
    bodies = {family: {"name": checkpoints[family][1], "flip": True, "double": True} for family in FAMILIES}
    read = {family: CanonicalConfig.of(resolve_config({"task": "digits", "body": body})).hashed for family, body in bodies.items()}
    assert {family for family in FAMILIES if "body.flip" in read[family] and "body.double" in read[family]} == set(DECODERS)
    assert not any("body.flip" in read[family] or "body.double" in read[family] for family in FAMILIES if family not in DECODERS)


# Faults


@pytest.mark.parametrize("family", ["bert", "timm-vit"])
def test_a_pickle_that_would_run_code_is_refused_by_file_and_cause(family, tmp_path):
    folder = tmp_path / "checkpoint"

    class Payload:
        def __reduce__(self):
            return open, (str(tmp_path / "ran"), "w")

    _, name = write_checkpoint(family, folder)
    (folder / "model.safetensors").unlink()
    torch.save({"x": Payload()}, folder / "pytorch_model.bin")
    spec = find_body(name)
    with pytest.raises(DataError) as caught:
        checkpoint_body(spec, spec.digest())
    assert str(folder / "pytorch_model.bin") in str(caught.value)
    assert "a pickle that holds other things than tensors, which could run code" in str(caught.value)
    assert not (tmp_path / "ran").exists()


def test_timm_weights_that_lack_a_layer_are_a_data_error(tmp_path):
    import safetensors.torch

    model, name = write_checkpoint("timm-vit", tmp_path)
    left = {key: value for key, value in model.state_dict().items() if "blocks.1.attn.qkv" not in key}
    safetensors.torch.save_file(left, tmp_path / "model.safetensors")
    spec = find_body(name)
    with pytest.raises(DataError, match=r"blocks\.1\.attn\.qkv"):
        checkpoint_body(spec, spec.digest())


def test_a_timm_model_of_another_kind_is_refused(tmp_path):
    _, name = write_checkpoint("timm-vit", tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"architecture": "resnet18"}))
    with pytest.raises(ConfigError, match=r"body\.name: must be a Swin or a ViT of timm, not 'resnet18'"):
        find_body(name)


def test_a_timm_name_that_gives_no_folder_is_refused():
    with pytest.raises(ConfigError, match="must be a checkpoint folder or a hub name, but got 'timm:no_such_model'"):
        find_body("timm:no_such_model")


def test_a_family_that_nobody_knows_is_refused_by_name():
    spec = BodySpec("my-body", "of a family of its own", "text", "t5-like")
    with pytest.raises(ConfigError, match=r"body\.name: must be of a known family, not 't5-like', but got 'my-body'"):
        random_body(spec, seed=0)


def test_a_timm_family_is_not_one_of_hugging_face(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "timm-swin"}')
    with pytest.raises(ConfigError, match="must be of a known family, not 'timm-swin'"):
        find_body(f"hf:{tmp_path}")


@pytest.mark.parametrize(
    ("pad_token_id", "rows"), [({"pad_token_id": 0}, 1), ({"pad_token_id": 1}, 0), ({"pad_token_id": None}, 1), ({}, 0)]
)
def test_a_roberta_uses_the_rows_behind_its_padding_id(pad_token_id, rows):
    assert family_table.FAMILIES["roberta"].rows_before_third(pad_token_id) == rows


# A whole trial


@pytest.mark.parametrize("family", ["gpt2", "timm-swin"])
def test_a_trial_of_a_new_kind_of_body_runs(family, checkpoints, store):
    knobs = {"task": "digits", "body": checkpoints[family][1], "train_samples": 40, "finetune.epochs": 1, "align.epochs": 0}
    result = run_trial(resolve_config(knobs), store, lambda row: None)
    assert 0 <= result.test_error <= 1
    assert result.params_trained == [result.params_total]


# Checkpoints of whole models


def _drawn(model: Any) -> Any:
    torch.manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.2)
    return model.eval()


@pytest.mark.parametrize("family", ["llama", "qwen3", "t5", "modernbert", "dinov2"])
def test_a_checkpoint_with_a_head_is_its_body(family, checkpoints, tmp_path):
    config = checkpoints[family][0].config
    kinds = {"t5": transformers.T5ForConditionalGeneration, "modernbert": transformers.ModernBertForMaskedLM}
    kind = kinds.get(family, transformers.AutoModelForImageClassification if family == "dinov2" else transformers.AutoModelForCausalLM)
    config = type(config)(**config.to_dict() | ({"is_encoder_decoder": True} if family == "t5" else {}))
    model = _drawn(kind(config) if family in kinds else kind.from_config(config))
    model.save_pretrained(tmp_path)
    spec = find_body(f"hf:{tmp_path}")
    loaded, inputs = checkpoint_body(spec, spec.digest()), inputs_of(family)
    own = model if family == "t5" else model.base_model
    with torch.no_grad():
        assert torch.equal(loaded.body(loaded.embedding.embed(inputs)), own_forward(family, own, inputs))


@pytest.mark.parametrize("family", TOWERS)
def test_a_tower_on_its_own_is_the_tower_of_the_whole_model(family, checkpoints, tmp_path):
    whole, _, loaded = checkpoints[family]
    whole.vision_model.save_pretrained(tmp_path)
    spec = find_body(f"hf:{tmp_path}")
    alone = checkpoint_body(spec, spec.digest())
    assert (spec.model_type, spec.num_layers, spec.width) == (f"{family}_vision_model", LAYERS, WIDTH)
    for one, other in ((alone.body, loaded.body), (alone.embedding, loaded.embedding)):
        assert one.state_dict().keys() == other.state_dict().keys()
        assert all(torch.equal(value, other.state_dict()[name]) for name, value in one.state_dict().items())


@pytest.mark.parametrize("nested", [{}, {"vision_config": {"model_type": "any"}}, {"vision_config": None}])
def test_a_nested_configuration_may_leave_out_what_the_library_takes_by_default(nested):
    for family in TOWERS:
        record = family_table.FAMILIES[family]
        own = (transformers.CLIPVisionConfig if family == "clip" else transformers.SiglipVisionConfig)()
        assert (record.num_layers(nested), record.width(nested)) == (own.num_hidden_layers, own.hidden_size)


def test_position_biases_of_t5_belong_to_its_attention(checkpoints):
    body = checkpoints["t5"][2].body
    table = body.encoder.block[0].layer[0].SelfAttention.relative_attention_bias.weight
    assert any(parameter is table for parameter in body_group(body, "attention"))
    assert not any(parameter is table for parameter in body_group(body, "layernorm"))


@pytest.mark.parametrize("family", ["llama", "t5", "modernbert"])
def test_a_tokenizer_comes_from_the_folder_of_the_checkpoint(family, tmp_path):
    from tokenizers import Tokenizer, models, pre_tokenizers

    _, name = write_checkpoint(family, tmp_path)
    words = Tokenizer(models.WordLevel({"<unk>": 0, "</s>": 1, "one": 2, "two": 3}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    transformers.PreTrainedTokenizerFast(tokenizer_object=words, eos_token="</s>").save_pretrained(tmp_path)
    tokenizer = random_body(find_body(name), seed=0).tokenizer()
    batch = tokenizer(["one two", "two"], padding=True, return_tensors="pt")
    rows = zip(batch["input_ids"].tolist(), batch["attention_mask"].tolist(), strict=True)
    assert [[token for token, kept in zip(*row, strict=True) if kept] for row in rows] == [[2, 3], [3]]
