"""`embedder.init: matched`: the mean and covariance of the proxy's features, without training."""

from __future__ import annotations

import pytest
import torch
from trials import TINY_BODIES, TINY_IMAGE_BODIES, run, small, tiny_bodies

from orca_core.config.knobs import TrialConfig
from orca_core.distances.coral_distance import moments
from orca_core.errors import ConfigError
from orca_core.export import export_model, load_model
from orca_core.identity import canonical_knobs, trial_id
from orca_core.model.matching import covariance_map
from orca_core.pipeline import model_before_tuning
from orca_core.settings import Settings
from orca_core.stages import stages_of
from orca_core.store import Store
from orca_core.trial_stages import load_data

SERIES, IMAGES = "npz:tiny/series.npz", "npz:tiny/images.npz"
FAMILIES = {family: f"hf:{path}" for family, path in (TINY_BODIES | TINY_IMAGE_BODIES).items()}


@pytest.fixture(scope="module", autouse=True)
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("matching")
    with tiny_bodies(folder, with_images=True):
        yield folder


def trial(task: str = SERIES, **knobs) -> TrialConfig:
    return small(
        task,
        **{
            "body": FAMILIES["gpt2"],
            "embedder__init": "matched",
            "train_samples": None,
            "align__proxy_samples": 500,
            "embedder__target_seq_len": 4,
            **knobs,
        },
    )


def features(config: TrialConfig, store: Store) -> torch.Tensor:
    """(n, d) features of the target's training samples as fine-tuning starts."""
    data = load_data(Settings.of(config, "finetune"))
    with torch.no_grad():
        return model_before_tuning(config, store).embedder(data.inputs(torch.from_numpy(data.train.x))).mean(1).double()


def source(config: TrialConfig, store: Store) -> torch.Tensor:
    (stage,) = (stage for stage in stages_of(config) if stage.kind == "source")
    found = store.get(stage.address)
    assert found is not None
    return found.tensors["features"].double()


@pytest.mark.parametrize(
    ("family", "task", "weights"),
    [
        ("gpt2", SERIES, "pretrained"),
        ("gpt2", IMAGES, "random"),
        ("bert", IMAGES, "pretrained"),
        ("bert", SERIES, "random"),
        ("roberta-pad-0", SERIES, "pretrained"),
        ("vit", IMAGES, "pretrained"),
        ("vit", SERIES, "random"),
        ("swin", IMAGES, "pretrained"),
    ],
)
def test_means_are_the_proxys_and_covariances_are_so_where_the_target_has_any(task, family, weights, tmp_path):
    config, store = trial(task, body=FAMILIES[family], body__weights=weights), Store(tmp_path)
    found = features(config, store)
    (mean, covariance), (wanted_mean, wanted_covariance) = moments(found), moments(source(config, store))
    assert torch.allclose(mean, wanted_mean, atol=1e-4)
    plain = moments(features(trial(task, body=FAMILIES[family], body__weights=weights, embedder__init="pretrained"), store))[1]
    values, vectors = torch.linalg.eigh(plain)
    span = vectors[:, values > 1e-6 * values.max()]
    assert span.shape[1] >= 3
    projection = span @ span.mT
    assert torch.allclose(covariance, projection @ wanted_covariance @ projection, atol=2e-3 * wanted_covariance.abs().max().item())


def test_without_a_layer_norm_the_map_is_folded_into_the_projection(tmp_path):
    store = Store(tmp_path)
    plain, matched = (
        model_before_tuning(trial(IMAGES, body=FAMILIES["vit"], embedder__init=i), store).embedder for i in ("pretrained", "matched")
    )
    assert matched.colouring is None
    assert matched.state_dict().keys() == plain.state_dict().keys()
    assert torch.equal(plain.positions, matched.positions)
    assert not torch.allclose(plain.projection.weight, matched.projection.weight)


def test_the_map_of_two_covariances():
    """Symmetric and positive: between diagonal covariances the ratio of deviations; onto a rank-deficient one nothing is invented."""
    one, other = torch.diag(torch.tensor([4.0, 9.0])).double(), torch.diag(torch.tensor([1.0, 25.0])).double()
    assert torch.allclose(covariance_map(one, other), torch.diag(torch.tensor([2.0, 0.6])).double())
    draws = torch.Generator().manual_seed(0)
    source_x, target_x = (torch.randn(40, 6, generator=draws).double() @ torch.randn(6, 6, generator=draws).double() for _ in range(2))
    wanted, given = moments(source_x)[1], moments(target_x)[1]
    found = covariance_map(wanted, given)
    assert torch.allclose(found @ given @ found.mT, wanted, rtol=1e-8)
    assert torch.allclose(found, found.mT)
    flat = torch.diag(torch.tensor([1.0, 0.0])).double()
    assert torch.allclose(
        covariance_map(torch.tensor([[4.0, 1.0], [1.0, 3.0]]).double(), flat), torch.diag(torch.tensor([2.0, 0.0])).double()
    )


def test_it_reads_the_proxy_and_its_features():
    matched, other = trial(), trial(proxy="noise+shuffled")
    assert [stage.kind for stage in stages_of(matched)] == ["source", "finetune"]
    assert canonical_knobs(matched)["proxy"] == "noise"
    assert trial_id(matched) != trial_id(other) != trial_id(trial(embedder__init="pretrained"))
    assert {stage.key for stage in stages_of(matched)}.isdisjoint(stage.key for stage in stages_of(other))
    # A bodiless arm has no features to match, and a file holds the weights already.
    assert canonical_knobs(trial(body="none"))["embedder.init"] is None


def test_it_is_a_start_to_which_alignment_is_added(tmp_path):
    """The first row of alignment measures the matched embedder: nearer to the proxy than before."""
    starts = [trial(embedder__init=init, align__epochs=1, align__objective="mmd") for init in ("pretrained", "matched")]
    before, after = (run(config, Store(tmp_path))[0] for config in starts)
    first = [next(row for row in rows if row.stage == "align") for rows in (before, after)]
    assert first[1].proxy_distance_unlabelled < first[0].proxy_distance_unlabelled
    assert first[1].distance < first[0].distance
    kinds = [stage.kind for stage in stages_of(trial(embedder__init="matched", align__epochs=1, align__objective="dispersion"))]
    assert kinds == ["source", "align", "finetune"]


def test_no_more_numbers_train_than_otherwise(tmp_path):
    (_, matched, _), (_, plain, _) = (run(trial(embedder__init=init), Store(tmp_path / init)) for init in ("matched", "pretrained"))
    assert matched.params_trained == plain.params_trained
    assert matched.params_total == plain.params_total


@pytest.mark.parametrize("epochs", [0, 1])
def test_an_exported_model_has_the_map(epochs, tmp_path):
    config, store = trial(align__epochs=epochs, align__objective="mmd", body=FAMILIES["bert"]), Store(tmp_path / "store")
    export_model(config, store, tmp_path / "model")
    loaded = load_model(tmp_path / "model").model
    assert loaded.embedder.colouring is not None
    assert not torch.equal(loaded.embedder.colouring.weight, torch.eye(len(loaded.embedder.colouring.weight)))
    before = model_before_tuning(config, store).embedder.colouring
    assert before is not None
    assert torch.equal(before.weight, loaded.embedder.colouring.weight)  # it never trains


def test_an_unknown_start_is_refused_with_the_nearest():
    with pytest.raises(ConfigError, match=r"embedder\.init"):
        trial(embedder__init="match")
