"""A data root with small files of every published task, and an empty one."""

from __future__ import annotations

from pathlib import Path

import pytest
from published import WRITERS

from orca_core.tasks.nb360 import psicov


@pytest.fixture(scope="session")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data")
    for write in WRITERS.values():
        write(root)
    return root


@pytest.fixture
def data(written, monkeypatch) -> Path:
    """The data root that has every task's files; not to be changed."""
    monkeypatch.setenv("SWEEPER_DATA", str(written))
    monkeypatch.setattr(psicov, "WINDOW", 64)
    return written


@pytest.fixture
def root(tmp_path, monkeypatch) -> Path:
    """An empty data root."""
    monkeypatch.setenv("SWEEPER_DATA", str(tmp_path))
    monkeypatch.setattr(psicov, "WINDOW", 64)
    return tmp_path
