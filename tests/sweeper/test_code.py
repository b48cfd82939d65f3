"""The code that computes rows: its digest, and workers that have other code."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, replace

import pytest

from orca_core.config.resolve import resolve_config
from sweeper.running.code import Code, code_here, differences, differing_files, file_digests, plugin_packages, source_digest, version_of
from sweeper.running.execution import execute_message
from sweeper.running.job import TrialJob

HERE = code_here()


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package `alpha` of two modules on the path, with a plug-in."""
    folder = tmp_path / "alpha"
    (folder / "inner").mkdir(parents=True)
    (folder / "__init__.py").write_text("")
    (folder / "inner" / "code.py").write_text("ANSWER = 42\n")
    metadata = tmp_path / "alpha_tasks-3.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: alpha-tasks\nVersion: 3\n")
    (metadata / "entry_points.txt").write_text("[orca_core.tasks]\none = alpha.inner.code:ANSWER\n")
    monkeypatch.syspath_prepend(tmp_path)
    yield folder
    sys.modules.pop("alpha", None)


def ended(text: str) -> dict:
    with pytest.raises(StopIteration) as stop:
        next(execute_message(text))
    return stop.value.value


def message(code: Code, store: str = "/nowhere") -> str:
    config = resolve_config({"task": "openml/187", "body.weights": "random", "align.epochs": 0})
    return TrialJob(config, store, code=asdict(code)).to_json()


def test_the_digest_is_that_of_the_source_alone(package):
    before = source_digest("alpha")
    (package / "__pycache__").mkdir()
    (package / "__pycache__" / "code.pyc").write_bytes(b"compiled")
    (package / "notes.txt").write_text("no code")
    assert source_digest("alpha") == before
    (package / "inner" / "code.py").write_text("ANSWER = 43\n")
    changed = source_digest("alpha")
    (package / "inner" / "code.py").rename(package / "inner" / "codes.py")
    assert len({before, changed, source_digest("alpha")}) == 3
    assert list(file_digests("alpha")) == ["__init__.py", "inner/codes.py"]


def test_an_absent_package_has_no_source():
    assert (source_digest("no_such_package"), file_digests("no_such_package")) == ("absent", {})


def test_code_has_this_project_and_the_plugins(package):
    code_here.cache_clear()
    try:
        with_plugin = code_here()
    finally:
        code_here.cache_clear()
    assert plugin_packages()["alpha"].version == "3"
    assert set(with_plugin.sources) >= {"orca_core", "sweeper", "alpha"}
    assert with_plugin.digest != HERE.digest
    assert differences(HERE, with_plugin) == [], "plug-ins that the sweep does not have do no harm"
    (missing,) = differences(with_plugin, HERE)
    assert missing == f"the plug-in package alpha (3, source {source_digest('alpha')}) is not installed"


def test_files_that_differ_are_named(package):
    wanted = {"alpha": file_digests("alpha")}
    assert differing_files(wanted) == []
    (package / "inner" / "code.py").write_text("ANSWER = 43\n")
    (package / "new.py").write_text("")
    assert differing_files(wanted) == ["alpha/inner/code.py", "alpha/new.py"]


def test_builds_of_torch_for_a_gpu_and_a_cpu_are_one_release(monkeypatch):
    code_here.cache_clear()
    monkeypatch.setattr("sweeper.running.code.version_of", lambda name: {"torch": "2.14.1+cu130"}.get(name) or version_of(name))
    try:
        assert code_here().versions["torch"] == "2.14.1"
    finally:
        code_here.cache_clear()


@pytest.mark.parametrize("kind", ["sources", "versions"])
def test_a_worker_with_other_code_runs_nothing_and_says_what_differs(kind):
    name = {"sources": "orca_core", "versions": "torch"}[kind]
    wanted = replace(HERE, **{kind: {**getattr(HERE, kind), name: "0ther"}})
    result = ended(message(wanted))
    assert (result["status"], result["cause"]) == ("FAIL", "other-code")
    here = getattr(HERE, kind)[name]
    assert result["error"].startswith("the code of this worker is not that with which the sweep was started: ")
    expected = (
        f"torch is {here} instead of 0ther." if kind == "versions" else f"source {here} instead of {HERE.releases[name]}, source 0ther."
    )
    assert result["error"].endswith(expected)


def test_code_is_compared_before_the_rest_of_the_message_is_understood():
    """A later version may send what this one cannot read."""
    text = json.loads(message(replace(HERE, versions={"ray": "9"}))) | {"knob of tomorrow": 1, "config": {"what": "is this"}}
    assert ended(json.dumps(text))["cause"] == "other-code"
