"""Results and stages in one object, opened once."""

from __future__ import annotations

from pathlib import Path

import pytest

import sweeper
from orca_core.addresses import Address
from orca_core.errors import StoreError
from orca_core.store import Store
from sweeper.results import Workspace


def test_the_stage_store_is_in_the_results_unless_it_is_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert Workspace("results/").artifacts_uri == str(tmp_path / "results" / "artifacts")
    assert Workspace("results", store="stages").artifacts_uri == str(tmp_path / "stages")
    assert Workspace("results", store="s3://bucket/stages").artifacts_uri == "s3://bucket/stages"
    assert Workspace("results").uri == "results"


def test_a_folder_stands_for_the_workspace_whose_results_are_there(tmp_path):
    workspace = Workspace(tmp_path, store=tmp_path / "stages")
    assert Workspace.of(workspace) is workspace
    assert Workspace.of(str(tmp_path)).results.uri == Workspace.of(tmp_path).results.uri == str(tmp_path)


def test_questions_are_answered_from_its_tables(tmp_path):
    workspace = sweeper.Workspace(tmp_path)
    workspace.results.append("trials", "s", [{"trial": "t", "attempt": 1, "sequence": 0}])
    assert workspace.sql("select trial from trial_status").rows() == [{"trial": "t"}]
    with pytest.raises(StoreError, match="there are no results here"):
        Workspace(tmp_path / "nowhere").sql("select 1")


def test_private_stores_lie_beside_the_shared_one_and_go_by_trial_or_by_sweep(tmp_path):
    workspace = Workspace(tmp_path / "results")
    address = Address.after("align", "k", 1)
    for trial in ("a", "b"):
        Store(workspace.private_uri("s", trial)).put(address, {}, {})
    assert workspace.artifacts.entries() == []
    workspace.drop_private("s", "a")
    workspace.drop_private("s", "a")
    assert [folder.name for folder in Path(workspace.private_uri("s")).iterdir()] == ["b"]
    workspace.drop_private("s")
    assert not Path(workspace.private_uri("s")).exists()


def test_nothing_is_written_by_opening(tmp_path):
    workspace = Workspace(tmp_path / "results")
    assert not workspace.results.exists()
    assert workspace.artifacts.entries() == []
    assert list(tmp_path.iterdir()) == []
