"""Stage keys: a key changes with exactly what its stage reads."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from orca_core import trial_stages
from orca_core.config.resolve import resolve_config
from orca_core.declarations import STAGES
from orca_core.pipeline import drain
from orca_core.stages import result_key, stages_of
from orca_core.store import Store
from orca_core.trial_stages import TrialStages

BASE = {"task": "openml/187", "align.epochs": 3, "finetune.epochs": 4}
ALL = {"pretrain", "source", "align", "finetune"}


def keys(knobs: dict | None = None, device: str = "cpu") -> dict[str, str]:
    """Kind -> key of the stages of a trial with one phase."""
    return {stage.kind: stage.key for stage in stages_of(resolve_config(BASE | (knobs or {})), device)}


@pytest.mark.parametrize(
    ("knob", "value", "changed"),
    [
        ("pretrain.fraction", 0.5, ALL),
        ("pretrain.seed", 1, ALL),
        ("pretrain.epochs", 2, ALL - {"pretrain"}),  # the same trajectory, left at another epoch
        ("proxy", "noise", {"source", "align", "finetune"}),
        ("align.proxy_samples", 100, {"source", "align", "finetune"}),
        ("seed", 1, {"source", "align", "finetune"}),
        ("task", "openml/1510", {"align", "finetune"}),
        ("split_seed", 1, {"align", "finetune"}),
        ("train_samples", 50, {"align", "finetune"}),
        ("embedder.init", "random", {"align", "finetune"}),
        ("embedder.target_seq_len", 8, {"align", "finetune"}),
        ("align.lr", 0.5, {"align", "finetune"}),
        ("align.objective", "mmd", {"align", "finetune"}),
        ("align.class_samples", 5, {"align", "finetune"}),
        ("align.epochs", 2, {"finetune"}),
        ("freezing", "frozen-body", {"finetune"}),
        ("finetune.lr", 0.5, {"finetune"}),
        ("finetune.decay_epochs", 90, {"finetune"}),
        ("finetune.eval_batch_size", 7, {"finetune"}),
        ("precision", "bf16", {"finetune"}),
        ("finetune.epochs", 3, set()),
        ("selection", "test", set()),
        ("recipe", "laptop", set()),
        ("align.momentum", 0.5, set()),  # not read by adamw
        ("threads", 2, ALL),
    ],
)
def test_a_knob_changes_the_keys_of_the_stages_that_read_it(knob, value, changed):
    before, after = keys(), keys({knob: value})
    assert {kind for kind in ALL if before[kind] != after[kind]} == changed


def test_the_device_type_is_part_of_every_key():
    assert not set(keys(device="cuda").values()) & set(keys().values())


def test_the_key_of_a_stage_that_is_declared_for_the_cpu_says_so_in_every_sweep(monkeypatch):
    as_released = keys()
    monkeypatch.setitem(STAGES, "source", replace(STAGES["source"], device="cpu"))
    assert keys() == as_released, "a sweep on CPUs keeps its keys"
    without_pretraining = {"body.weights": "random"}
    on_cpu, on_gpu = keys(without_pretraining), keys(without_pretraining, device="cuda")
    assert on_gpu["source"] == on_cpu["source"]
    assert on_gpu["align"] != on_cpu["align"]
    assert keys(device="cuda")["source"] != as_released["source"], "its input, the pretraining, is computed on the GPU"


def test_a_stage_that_is_declared_for_the_cpu_is_computed_there_in_a_trial_on_a_gpu(monkeypatch, tmp_path):
    """Without a GPU: the trial says `cuda`, and everything that it computes here is on the CPU."""
    monkeypatch.setattr(trial_stages, "_prepare_torch", lambda threads, device: torch.set_num_threads(threads))
    monkeypatch.setitem(STAGES, "source", replace(STAGES["source"], device="cpu"))
    config = resolve_config(BASE | {"body.weights": "random", "align.proxy_samples": 20})
    found = []
    for device in ("cuda", "cpu"):
        store = Store(tmp_path / device)
        artifact = drain(TrialStages(config, store, device).embed_source(None))
        source = next(stage for stage in stages_of(config, device) if stage.kind == "source")
        assert store.get(source.address) is not None
        found.append((source.key, artifact))
    (key, on_gpu), (other_key, on_cpu) = found
    assert key == other_key
    assert all(torch.equal(on_gpu.tensors[name], tensor) for name, tensor in on_cpu.tensors.items())
    assert {name: value for name, value in on_gpu.data.items() if name != "seconds"} == {
        name: value for name, value in on_cpu.data.items() if name != "seconds"
    }, "made by the same processor"


@pytest.mark.parametrize("kind", STAGES)
def test_a_new_version_of_a_stage_changes_its_key_and_those_that_follow(kind, monkeypatch):
    before = keys({"adapt.epochs": 2})
    monkeypatch.setitem(STAGES, kind, replace(STAGES[kind], version=99))
    after = keys({"adapt.epochs": 2})
    order = list(STAGES)
    assert {kind for kind in before if before[kind] != after[kind]} == set(order[order.index(kind) :])


@pytest.mark.parametrize(
    ("knobs", "kinds"),
    [
        ({}, ["pretrain", "source", "align", "finetune"]),
        ({"adapt.epochs": 2}, ["pretrain", "source", "align", "adapt", "finetune"]),
        ({"align.objective": "none"}, ["pretrain", "align", "finetune"]),
        ({"align.objective": "dispersion"}, ["pretrain", "align", "finetune"]),
        ({"align.objective": "dispersion", "embedder.init": "matched"}, ["pretrain", "source", "align", "finetune"]),
        ({"align.epochs": 0}, ["pretrain", "finetune"]),
        ({"body.weights": "random"}, ["source", "align", "finetune"]),
        ({"body.weights": "random", "align.epochs": 0, "freezing": "frozen-body:1"}, ["finetune", "finetune"]),
    ],
)
def test_a_trial_has_the_stages_it_needs(knobs, kinds):
    assert [stage.kind for stage in stages_of(resolve_config(BASE | knobs))] == kinds


def test_random_bodies_of_two_seeds_have_their_own_source_features():
    assert keys({"body.weights": "random", "seed": 1})["source"] != keys({"body.weights": "random"})["source"]


def test_pretraining_is_shared_by_the_tasks_and_seeds_of_a_body():
    assert keys({"seed": 5, "task": "mnist1d"})["pretrain"] == keys()["pretrain"]


# Phases


def finetune_stages(freezing: object, epochs: int = 4) -> list:
    config = resolve_config(BASE | {"freezing": freezing, "finetune.epochs": epochs})
    return [stage for stage in stages_of(config) if stage.kind == "finetune"]


def test_a_schedule_shares_its_first_phase_with_the_one_that_stays_in_it():
    (throughout,), (first, second) = finetune_stages("frozen-body"), finetune_stages("frozen-body:1")
    assert first.key == throughout.key != second.key
    assert [(stage.start, stage.end, stage.phase) for stage in (first, second)] == [(0, 1, 0), (1, 4, 1)]


def test_a_later_phase_depends_on_how_long_the_one_before_was():
    assert finetune_stages("frozen-body:1")[1].key != finetune_stages("frozen-body:2")[1].key


def test_a_longer_run_goes_on_with_the_last_phase():
    assert finetune_stages("frozen-body:1", epochs=4)[1].key == finetune_stages("frozen-body:1", epochs=9)[1].key


def test_an_address_says_the_epoch_at_which_a_trial_leaves():
    (stage,) = finetune_stages("full")
    assert str(stage.address) == str(stage.address_at(4)) == f"finetune/{stage.key}/e00004"


# Results and files


def test_a_result_key_tells_trials_apart_that_share_all_stages():
    by_valid, by_test = (resolve_config(BASE | {"selection": split}) for split in ("valid", "test"))
    assert stages_of(by_valid) == stages_of(by_test)
    assert result_key(by_valid, stages_of(by_valid)) != result_key(by_test, stages_of(by_test))


def test_a_file_enters_by_its_content_and_not_by_its_path(tmp_path):
    def write(name: str, last: int) -> str:
        np.savez(tmp_path / name, x=np.zeros((20, 1, 6), np.float32), y=np.array([0, 1] * 9 + [0, last]))
        return f"npz:{tmp_path / name}"

    one, copy, other = write("one.npz", 1), write("copy.npz", 1), write("other.npz", 2)
    assert keys({"task": one}) == keys({"task": copy})
    assert keys({"task": one})["finetune"] != keys({"task": other})["finetune"]
