"""What a node is found to lack before trials run on it, and what is prepared there."""

from __future__ import annotations

import json
import pickle
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

from orca_core.config.knobs import TrialConfig
from orca_core.config.resolve import resolve_config
from orca_core.datafiles.decoding import is_decoded
from orca_core.tasks import TaskSpec, find_task
from orca_core.workbench import Workbench
from sweeper.running.node import REMEDIES, NodeFinding, NodeNeeds, prepare_node

sys.path.append(str(Path(__file__).parents[1] / "orca_core" / "tasks"))

from published import WRITERS

TASK = "nb360/ninapro"


@pytest.fixture
def root(tmp_path, use_data) -> Path:
    """Data root of the driver, whose working folder is beside it."""
    root = tmp_path / "data"
    root.mkdir()
    WRITERS[TASK](root)
    use_data(root, tmp_path / "cache of the driver")
    return root


def configs(*tasks: str) -> list[TrialConfig]:
    return [resolve_config({"task": task, "align.epochs": 1}) for task in tasks or (TASK,)]


def on_node(needs: NodeNeeds, root: Path, **folders: object) -> list[NodeFinding]:
    """What is found on a node with folders of its own: sent there as the driver does it, and back as Ray does it."""
    fields = vars(NodeNeeds.from_json(needs.to_json())) | {"data_root": str(root), "cache_root": str(root.parent / "cache of the node")}
    return pickle.loads(pickle.dumps(prepare_node(NodeNeeds(**fields | folders))))


def copy(root: Path) -> Path:
    return Path(shutil.copytree(root, root.parent / "data of the node"))


def test_a_node_with_the_same_data_is_fine_and_has_them_decoded_afterwards(root, monkeypatch):
    needs, other = NodeNeeds.of(configs(TASK, "digits")), copy(root)
    assert on_node(needs, other) == []
    with Workbench(other, root.parent / "cache of the node").use():
        assert is_decoded(find_task(TASK))
    assert not is_decoded(find_task(TASK)), "the driver's own cache is left alone"

    def refuse(*arguments: object) -> None:
        raise AssertionError("what is decoded is not read again")

    monkeypatch.setattr(TaskSpec, "load", refuse)
    assert on_node(needs, other) == []


def test_missing_data_are_named_with_where_they_were_looked_for(root):
    needs, other = NodeNeeds.of(configs()), copy(root)
    missing = other / "ninaPro" / "label_test.npy"
    missing.unlink()
    (found,) = on_node(needs, other)
    assert (found.kind, found.remedy) == ("data", REMEDIES["data"])
    assert found.what.startswith(f"task {TASK}: {missing}: must be an existing file.")
    assert f"The data root is {other}" in found.what


def test_other_data_are_no_data(root):
    needs, other = NodeNeeds.of(configs(TASK, "digits")), copy(root)
    labels = np.load(other / "ninaPro" / "label_test.npy")
    np.save(other / "ninaPro" / "label_test.npy", labels[::-1])
    assert on_node(needs, other) == [NodeFinding("content", f"task {TASK}: its content is not that of the driver", REMEDIES["content"])]
    with Workbench(other, root.parent / "cache of the node").use():
        assert not is_decoded(find_task(TASK))


def test_own_files_are_looked_for_from_the_folder_of_the_driver(root, monkeypatch):
    monkeypatch.chdir(root.parent)
    rows = np.arange(120.0).reshape(60, 2).astype("float32")
    np.savez(root.parent / "own.npz", x=rows, y=np.arange(60) % 3)
    needs = NodeNeeds.of(configs("npz:own.npz"))
    monkeypatch.chdir(root)
    assert on_node(needs, root) == []
    np.savez(root.parent / "own.npz", x=rows + 1, y=np.arange(60) % 3)
    assert [found.kind for found in on_node(needs, root)] == ["content"]
    (root.parent / "own.npz").unlink()
    (found,) = on_node(needs, root)
    assert found.kind == "data"
    assert "own.npz: must be an existing file." in found.what
    assert Path.cwd() == root, "a process of Ray runs other tasks afterwards"


def test_bodies_are_compared_by_content(root, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    body = tmp_path / "body"
    body.mkdir()
    (body / "config.json").write_text(json.dumps({"model_type": "gpt2", "n_embd": 32, "n_layer": 2}))
    (body / "model.safetensors").write_bytes(b"1")
    needs = NodeNeeds.of([resolve_config({"task": "digits", "body": f"hf:{body}", "proxy": "noise"})])
    assert on_node(needs, root) == []
    (body / "model.safetensors").write_bytes(b"2")
    assert [(found.kind, found.what) for found in on_node(needs, root)] == [
        ("content", f"body hf:{body}: its content is not that of the driver")
    ]
    shutil.rmtree(body)
    (found,) = on_node(needs, root)
    assert found.kind == "data"
    assert found.what.startswith(f"body hf:{body}: body.name: must be an existing checkpoint folder")


def test_a_task_of_a_package_that_is_missing_there_is_named(root):
    needs = NodeNeeds.of(configs("digits"))
    known = {**needs.digests, ("task", "corp/sensors"): "0" * 64}
    (found,) = on_node(needs, root, digests=known)
    assert (found.kind, found.remedy) == ("name", REMEDIES["name"])
    assert "corp/sensors" in found.what


def test_a_cache_without_room_or_that_cannot_be_written_is_found_before_anything_is_read(root, monkeypatch):
    needs = NodeNeeds.of(configs(), free_gib=1e6)
    (found,) = on_node(needs, root)
    assert found.kind == "disk"
    assert "must have 1e+06 GiB of free disk space (budget.free_gib), but has " in found.what
    occupied = root.parent / "a file"
    occupied.touch()
    (found,) = on_node(needs, root, cache_root=str(occupied / "cache"))
    assert (found.kind, found.what) == ("cache", f"{occupied}/cache: must be a folder that can be written (Not a directory)")
