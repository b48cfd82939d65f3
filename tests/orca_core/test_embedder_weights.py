"""Starts of an embedder for comparison with other implementations: weights from a file, positions from the third row."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from body_families import write_checkpoint
from safetensors.torch import load_file, save_file
from torch import nn

from orca_core.bodies import find_body
from orca_core.bodies.loading import random_body
from orca_core.config.knobs import TrialConfig
from orca_core.config.resolve import resolve_config
from orca_core.errors import ConfigError, DataError
from orca_core.export import load_model, tuned_model
from orca_core.identity import canonical_knobs, trial_id
from orca_core.model.cross_modal import build_embedder
from orca_core.pipeline import run_trial
from orca_core.rows import EpochRow
from orca_core.settings import Settings
from orca_core.stages import stages_of
from orca_core.store import Store
from sweeper.running.preflight import check_embedders

KNOBS = {"body.weights": "random", "proxy": "noise", "align.epochs": 2, "align.proxy_samples": 40, "finetune.epochs": 1}


def embedder_of(config: TrialConfig) -> nn.Module:
    return build_embedder(Settings.of(config, "align"), random_body(find_body(config.body.name), seed=0), (13, 1))


def write(file: Path, embedder: nn.Module, **changes: torch.Tensor | None) -> str:
    """A file with the weights of an embedder; `changes`, with `__` for a dot, replace tensors, None drops one."""
    tensors = dict(embedder.state_dict()) | {name.replace("__", "."): tensor for name, tensor in changes.items()}
    save_file({name: tensor.contiguous() for name, tensor in tensors.items() if tensor is not None}, file)
    return str(file)


@pytest.fixture
def config(quick) -> TrialConfig:
    return quick("openml/187", KNOBS)


def keys(config: TrialConfig) -> dict[str, str]:
    return {stage.kind: stage.key for stage in stages_of(config)}


def test_a_trial_goes_the_same_way_from_a_file_of_the_weights_it_would_draw(quick, config, tmp_path):
    file = write(tmp_path / "start.safetensors", embedder_of(config))
    given = quick("openml/187", KNOBS | {"embedder.weights": file, "seed": config.seed})
    found = []
    for number, each in enumerate((config, given)):
        rows: list = []
        result = run_trial(each, Store(tmp_path / f"store-{number}"), rows.append)
        found.append(([row.cells() | {"seconds": 0} for row in rows if isinstance(row, EpochRow)], result))
    assert found[0] == found[1]


def test_weights_of_ones_own_are_those_that_alignment_starts_with(quick, config, tmp_path):
    start = embedder_of(config)
    for parameter in start.parameters():
        nn.init.normal_(parameter)
    file = write(tmp_path / "own.safetensors", start.half())
    taken = embedder_of(quick("openml/187", KNOBS | {"embedder.weights": file})).state_dict()
    expected = load_file(file)
    assert all(torch.equal(taken[name], expected[name].float()) for name in taken)
    assert {tensor.dtype for tensor in taken.values()} == {torch.float32}


def test_a_file_is_part_of_keys_by_its_content_and_takes_the_place_of_the_initialisation(quick, config, tmp_path):
    one = write(tmp_path / "one.safetensors", embedder_of(config))
    copy = shutil.copy(one, tmp_path / "copy.safetensors")
    other = write(tmp_path / "other.safetensors", embedder_of(config), norm__bias=torch.ones(64))
    by_file = [quick("openml/187", KNOBS | {"body.weights": "pretrained", "embedder.weights": str(file)}) for file in (one, copy, other)]
    assert keys(by_file[0]) == keys(by_file[1])
    changed = {kind for kind, key in keys(by_file[2]).items() if key != keys(by_file[0])[kind]}
    assert changed == {"align", "finetune"}
    assert canonical_knobs(by_file[0])["embedder.init"] is None
    plain = quick("openml/187", KNOBS)
    assert keys(plain)["align"] not in {keys(config)["align"] for config in by_file}
    assert trial_id(plain) == trial_id(quick("openml/187", KNOBS | {"embedder.weights": None}))


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (None, r"embedder\.weights: .*own\.safetensors: must be an existing file"),
        (b"weights", r"own\.safetensors: must be a safetensors file, but cannot be read"),
        ({"conv.weight": torch.ones(2)}, r"own\.safetensors: conv\.weight: must be one of projection\.weight, projection\.bias, norm"),
        ({"norm.bias": torch.ones(2, dtype=torch.int64)}, r"own\.safetensors: norm\.bias: must hold floating-point numbers, but got 'I64'"),
    ],
)
def test_a_file_of_another_kind_is_refused_with_the_config(tmp_path, content, fault):
    file = tmp_path / "own.safetensors"
    if isinstance(content, bytes):
        file.write_bytes(content)
    elif content is not None:
        save_file(content, file)
    with pytest.raises(ConfigError, match=fault):
        resolve_config({"task": "openml/187", "embedder.weights": str(file)})


def test_all_tensors_of_another_shape_are_told_before_anything_starts(quick, config, tmp_path):
    wrong = {"projection__weight": torch.ones(64, 13, 2), "norm__weight": None}
    file = write(tmp_path / "own.safetensors", embedder_of(config), **wrong)
    with pytest.raises(ConfigError) as error:
        check_embedders([quick("openml/187", KNOBS | {"embedder.weights": file}), config], "space.yaml")
    assert [fault.text() for fault in error.value.faults] == [
        f"embedder.weights: {file}: norm.weight: must be in the file, of shape (64,).",
        f"embedder.weights: {file}: projection.weight: must have the shape (64, 13, 1), but got (64, 13, 2).",
    ]


def test_numbers_that_are_not_finite_are_refused(quick, config, tmp_path):
    file = write(tmp_path / "own.safetensors", embedder_of(config), norm__bias=torch.full((64,), torch.nan))
    with pytest.raises(DataError, match=r"norm\.bias: must hold finite numbers"):
        embedder_of(quick("openml/187", KNOBS | {"embedder.weights": file}))


def test_a_saved_model_is_read_where_the_file_of_its_start_is_gone(quick, config, tmp_path):
    file = Path(write(tmp_path / "own.safetensors", embedder_of(config)))
    given = quick("openml/187", KNOBS | {"align.epochs": 0, "embedder.weights": str(file)})
    tuned = tuned_model(given, Store(tmp_path / "store"))
    tuned.save(tmp_path / "model")
    file.unlink()
    again = load_model(tmp_path / "model").model.state_dict()
    assert all(torch.equal(tensor, again[name]) for name, tensor in tuned.model.state_dict().items())


# Positions from the third row


@pytest.mark.parametrize(("family", "skipped"), [("bert", 2), ("roberta", 0)])
@pytest.mark.parametrize("epochs", [0, 5])
def test_everything_may_be_copied_with_positions_from_the_third_row(tmp_path, family, skipped, epochs):
    model, name = write_checkpoint(family, tmp_path)
    knobs = {"task": "openml/187", "body": name, "align.epochs": epochs, "proxy": "noise"}
    inits = ("pretrained-third-row", "reference", "pretrained")
    configs = {init: resolve_config({**knobs, "embedder.init": init}) for init in inits}
    body = random_body(configs["reference"].body_spec, seed=0)
    body.embedding.embeddings.load_state_dict(model.embeddings.state_dict())
    embedder = build_embedder(Settings.of(configs["pretrained-third-row"], "finetune"), body, (1, 22))
    assert torch.equal(embedder.positions, model.embeddings.position_embeddings.weight[2:24])
    assert torch.equal(embedder.norm.weight, model.embeddings.LayerNorm.weight)

    # Aligned, it is what the reference does; where the table starts at its third row, it is `pretrained`: the same trial, then.
    ids = {init: trial_id(config) for init, config in configs.items()}
    alike = {init for init in inits[1:] if ids[init] == ids["pretrained-third-row"]}
    assert alike == {*(["reference"] if epochs else []), *([] if skipped else ["pretrained"])}
    for init in inits[1:]:
        other = build_embedder(Settings.of(configs[init], "finetune"), body, (1, 22)).state_dict()
        equal = all(torch.equal(tensor, other[name]) for name, tensor in embedder.state_dict().items())
        assert equal == (init in alike)
