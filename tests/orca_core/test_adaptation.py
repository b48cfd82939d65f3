"""The stage `adapt`: masked reconstruction of the target's training inputs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from trials import TINY_BODIES, TINY_IMAGE_BODIES, run, small, tiny_bodies

from orca_core.adaptation.loop import Adaptation, draw_masks, patches
from orca_core.config.knobs import TrialConfig
from orca_core.identity import canonical_knobs, trial_id
from orca_core.model.cross_modal import build_body, build_embedder
from orca_core.pipeline import model_before_tuning
from orca_core.rows import EpochRow, StageRow
from orca_core.settings import Settings
from orca_core.stages import stages_of
from orca_core.store import Store
from orca_core.tasks import Split, TaskData
from orca_core.trial_stages import TrialStages, load_data

CPU = torch.device("cpu")
SERIES, IMAGES = "npz:tiny/series.npz", "npz:tiny/images.npz"
BODIES = {family: f"hf:{(TINY_BODIES | TINY_IMAGE_BODIES)[family]}" for family in ("gpt2", "bert", "vit", "swin")}
every_body = pytest.mark.parametrize("body", BODIES.values())


@pytest.fixture(scope="module", autouse=True)
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("adaptation")
    with tiny_bodies(folder, with_images=True):
        yield folder


def trial(task: str = SERIES, **knobs) -> TrialConfig:
    return small(task, **{"body": BODIES["gpt2"], "adapt__epochs": 2, "adapt__lr": 1e-2, "adapt__batch_size": 8, **knobs})


def adaptation(config: TrialConfig, data: TaskData | None = None) -> Adaptation:
    stages, settings = TrialStages(config, Store(Path("store")), "cpu"), Settings.of(config, "adapt")
    data = data or load_data(settings)
    loaded = stages.load_body(settings, None)
    return Adaptation(settings, build_embedder(settings, loaded, data.input_shape), build_body(settings, loaded), data, CPU)


@pytest.mark.parametrize(("task", "body"), [(SERIES, BODIES["gpt2"]), *((IMAGES, body) for body in BODIES.values())])
def test_it_learns_to_reconstruct(body, task):
    stage = adaptation(trial(task, body=body, train_samples=None))
    losses = [stage.run_epoch(epoch).train_loss for epoch in range(1, 6)]
    assert losses[-1] < 0.97 * losses[0]


@pytest.mark.parametrize("task", [SERIES, IMAGES])
@every_body
def test_patches_are_what_the_projection_reads(body, task):
    """A projection that copies the first value of each patch, and one that sums each patch, find it in `patches`."""
    stage = adaptation(trial(task, body=body, embedder__target_seq_len=6))
    embedder, x = stage.embedder, torch.from_numpy(stage.data.train.x)
    pixels = embedder.pixels(x)
    first, total = torch.zeros_like(embedder.projection.weight), torch.ones_like(embedder.projection.weight)
    first[:, 0].flatten(1)[:, 0] = 1
    convolve = torch.nn.functional.conv1d if pixels.dim() == 3 else torch.nn.functional.conv2d
    cut = patches(pixels, embedder.unit)
    for weight, expected in ((first, cut[..., 0]), (total, cut.sum(-1))):
        found = convolve(pixels, weight, stride=embedder.unit).flatten(2)[:, 0]
        assert torch.allclose(found, expected, atol=1e-4)


@every_body
def test_the_loss_is_the_mean_square_of_what_was_masked(body):
    """A decoder that says 0 is wrong by the masked values themselves."""
    stage = adaptation(trial(IMAGES, body=body, adapt__mask=0.25))
    torch.nn.init.zeros_(stage.decoder.weight)
    torch.nn.init.zeros_(stage.decoder.bias)
    x = torch.from_numpy(stage.data.train.x)
    loss = stage.loss(x, torch.Generator().manual_seed(3)).item()
    pixels, embedder = stage.embedder.pixels(x), stage.embedder
    mask = draw_masks(len(x), embedder.grid, 0.25, torch.Generator().manual_seed(3))
    chosen = patches(pixels, embedder.unit)[mask.flatten(1)]
    assert loss == pytest.approx(chosen.square().mean().item(), rel=1e-5)


@every_body
def test_what_is_masked_is_not_seen(body):
    stage = adaptation(trial(IMAGES, body=body))
    x = torch.from_numpy(stage.data.train.x)
    seen = []
    stage.body.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].detach()))
    embedder = stage.embedder
    embedder.pixels = lambda values: values  # type: ignore[method-assign]  # so that a patch of the input is one of the tokens
    pixels = torch.randn(len(x), x.shape[1], *(side * embedder.unit for side in embedder.grid))
    mask = draw_masks(len(x), embedder.grid, 0.5, torch.Generator().manual_seed(1))
    for axis in range(2, mask.dim()):
        mask = mask.repeat_interleave(embedder.unit, axis)
    for values in (pixels, torch.where(mask, pixels + 5, pixels), torch.where(mask, pixels, pixels + 5)):
        stage.loss(values, torch.Generator().manual_seed(1))
    assert torch.equal(seen[0], seen[1])
    assert not torch.equal(seen[0], seen[2])


def test_labels_and_other_parts_are_never_read():
    data = load_data(Settings.of(trial(), "adapt"))
    nonsense = Split(np.full_like(data.valid.x, np.nan), data.valid.y)
    blind = replace(data, train=Split(data.train.x, data.train.y[::-1].copy()), valid=nonsense, test=nonsense)
    one, other = adaptation(trial(), data), adaptation(trial(), blind)
    assert one.run_epoch(1) == other.run_epoch(1)


def test_it_goes_on_in_mid_stage_to_the_same_bits():
    one, other, third = (adaptation(trial()) for _ in range(3))
    rows = [one.run_epoch(epoch) for epoch in range(1, 5)]
    for epoch in (1, 2):
        other.run_epoch(epoch)
    third.load_state({name: tensor.clone() for name, tensor in other.state().items()})
    assert [third.run_epoch(epoch) for epoch in (3, 4)] == rows[2:]
    assert all(torch.equal(tensor, third.state()[name]) for name, tensor in one.state().items())


@pytest.mark.parametrize(("train", "body"), [("embedder", BODIES["gpt2"]), *(("all", body) for body in BODIES.values())])
def test_fine_tuning_starts_with_what_was_adapted(body, train, tmp_path):
    knobs = {"body": body, "adapt__train": train, "finetune__reinit_top": 1, "adapter": "lora"}
    plain, adapted = (dict(model_before_tuning(trial(**knobs, adapt__epochs=n), Store(tmp_path)).named_parameters()) for n in (0, 2))
    assert plain.keys() == adapted.keys()
    changed = {name.partition(".")[0] for name in plain if not torch.equal(plain[name], adapted[name])}
    assert changed == ({"embedder", "body"} if train == "all" else {"embedder"})


def test_a_later_adaptation_passes_through_a_shorter_one(tmp_path):
    store = Store(tmp_path)
    run(trial(adapt__epochs=1), store)
    rows, _, _ = run(trial(adapt__epochs=3), store)
    (row,) = (row for row in rows if isinstance(row, StageRow) and row.stage == "adapt")
    assert (row.epochs, [r.epoch for r in rows if isinstance(r, EpochRow) and r.stage == "adapt"]) == (3, [1, 2, 3])
    fresh, _, _ = run(trial(adapt__epochs=3), Store(tmp_path / "fresh"))
    assert [r for r in rows if isinstance(r, EpochRow)] == [r for r in fresh if isinstance(r, EpochRow)]


def test_the_stage_stands_between_alignment_and_fine_tuning():
    config = trial(align__epochs=1)
    assert [stage.kind for stage in stages_of(config)] == ["source", "align", "adapt", "finetune"]
    other = trial(align__epochs=2)
    assert [s.key for s in stages_of(config) if s.kind == "adapt"] != [s.key for s in stages_of(other) if s.kind == "adapt"]
    folds = [(stage.kind, stage.fold) for stage in stages_of(trial(validation__folds=2))]
    assert folds == [("adapt", 0), ("finetune", 0), ("adapt", 1), ("finetune", 1), ("adapt", None), ("finetune", None)]


def test_without_epochs_nothing_of_it_is_read():
    plain, other = trial(adapt__epochs=0), trial(adapt__epochs=0, adapt__mask=0.3, adapt__train="embedder")
    assert trial_id(plain) == trial_id(other) != trial_id(trial())
    known = canonical_knobs(plain)
    assert (known["adapt.epochs"], known["adapt.mask"]) == (0, None)
    assert canonical_knobs(trial(body="none"))["adapt.epochs"] is None  # a bodiless arm has no body to adapt


def test_every_sample_loses_as_many_tokens():
    masks = draw_masks(50, (3, 4), 0.4, torch.Generator().manual_seed(0))
    assert masks.shape == (50, 1, 3, 4)
    assert masks.flatten(1).sum(1).unique().tolist() == [5]
    assert len(masks.flatten(1).unique(dim=0)) > 40
    assert draw_masks(2, (3,), 0.01, torch.Generator().manual_seed(0)).flatten(1).sum(1).tolist() == [1, 1]
