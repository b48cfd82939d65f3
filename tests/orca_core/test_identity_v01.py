"""Ids and keys of version 0.1: configs written out in full before keys were declared, with what they were known by."""

from __future__ import annotations

import gzip
import json
from dataclasses import replace
from pathlib import Path

import pytest

from orca_core import declarations
from orca_core.bodies import BodySpec
from orca_core.config.knobs import TrialConfig
from orca_core.config.paths import flatten
from orca_core.distances import find_distance
from orca_core.identity import canonical_knobs, trial_id
from orca_core.proxies import ProxySpec
from orca_core.stages import result_key, stages_of
from orca_core.tasks import TaskSpec

CASES = json.loads(gzip.decompress((Path(__file__).parents[1] / "fixtures" / "identity_v01.json.gz").read_bytes()))

FAMILIES = {
    "bert": {"hidden_size": 32, "num_hidden_layers": 2, "pad_token_id": 0},
    "distilbert": {"dim": 32, "n_layers": 2, "pad_token_id": 0},
    "electra": {"hidden_size": 32, "embedding_size": 32, "num_hidden_layers": 2, "pad_token_id": 0},
    "roberta": {"hidden_size": 32, "num_hidden_layers": 2, "pad_token_id": 1},
    "gpt2": {"n_embd": 32, "n_layer": 2},
    "gpt_neox": {"hidden_size": 32, "num_hidden_layers": 2},
    "vit": {"hidden_size": 32, "num_hidden_layers": 2},
    "swin": {"embed_dim": 32, "depths": [1, 1]},
}


@pytest.fixture(autouse=True)
def as_written(tmp_path, monkeypatch):
    """The folder in which the configs were written, and data known by its name: keys then depend on configs alone."""
    monkeypatch.chdir(tmp_path)
    for family, config in FAMILIES.items():
        folder = tmp_path / "bodies" / family
        folder.mkdir(parents=True)
        (folder / "config.json").write_text(json.dumps({"model_type": family} | config))
        (folder / "model.safetensors").write_bytes(b"")
    for spec, kind in ((BodySpec, "body"), (TaskSpec, "task"), (ProxySpec, "proxy")):
        monkeypatch.setattr(spec, "digest", lambda self, kind=kind: f"{kind} {self.name}")


def known_by(case: dict) -> dict:
    config = TrialConfig.model_validate_json(json.dumps(case["config"]))
    stages = stages_of(config, case["device"])
    known_then = flatten(case["config"])
    return {
        "id": trial_id(config),
        "null": sorted(knob for knob, value in canonical_knobs(config).items() if value is None and knob in known_then),
        "stages": [str(stage.address) for stage in stages],
        "result_key": result_key(config, stages),
    }


@pytest.fixture
def versions_of_then(monkeypatch):
    """Versions of code as they were: what has changed since then is told by `test_new_versions_change_keys_of_aligned_trials_alone`."""
    monkeypatch.setattr(declarations, "TRANSPORT_VERSION", 1)
    monkeypatch.setattr(declarations, "find_distance", lambda name: replace(find_distance(name), version=1))


def test_new_versions_change_keys_of_aligned_trials_alone():
    """The transport solver's last digits are in the proxy's distance, which every alignment to a proxy measures, and in a joint OTDD."""
    kinds = set()
    for case in CASES:
        now, config = known_by(case), case["config"]
        assert now["id"] == case["id"] or "collided" in case
        aligned = any(address.startswith("align") for address in case["stages"])
        joint = config["align"]["weight"] > 0 and config["align"]["objective"].startswith("otdd")
        expected = (
            [not aligned or address.startswith(("pretrain", "source")) for address in case["stages"]]
            if not joint
            else [not address.startswith(("align", "finetune")) for address in case["stages"]]
        )
        if "collided" not in case:
            assert [a == b for a, b in zip(case["stages"], now["stages"], strict=True)] == expected, config
            assert (now["result_key"] == case["result_key"]) == all(expected)
        kinds.add((aligned, joint))
    assert {(True, False), (False, False)} <= kinds


def test_ids_keys_and_nulls_are_those_of_version_0_1(versions_of_then):
    same = [case for case in CASES if "collided" not in case]
    assert len(same) > 350
    for case in same:
        assert known_by(case) == {name: case[name] for name in ("id", "null", "stages", "result_key")}, case["config"]


def test_the_arm_that_vanished_has_an_id_and_keys_of_its_own(versions_of_then):
    """`embedder.init: reference` on an aligned BERT, DistilBERT or ELECTRA was known as `pretrained`, from which it differs."""
    collided = [case for case in CASES if "collided" in case]
    assert collided
    for case in collided:
        now = known_by(case)
        plain = case | {"config": case["config"] | {"embedder": case["config"]["embedder"] | {"init": "pretrained"}}}
        assert known_by(plain)["id"] == case["id"] != now["id"]
        assert not {a for a in now["stages"] if a.startswith(("align", "finetune"))} & set(case["stages"])
