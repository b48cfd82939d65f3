"""A data root with small files of every published task, and an empty one."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from published import WRITERS

from orca_core.pipeline import run_trial
from orca_core.rows import EpochRow, Row, TrialResult
from orca_core.tasks.nb360 import psicov


@pytest.fixture(scope="session")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data")
    for write in WRITERS.values():
        write(root)
    return root


@pytest.fixture
def data(written, use_data, monkeypatch) -> Path:
    """The data root that has every task's files; not to be changed."""
    use_data(written)
    monkeypatch.setattr(psicov, "WINDOW", 64)
    return written


@pytest.fixture
def root(tmp_path, use_data, monkeypatch) -> Path:
    """An empty data root."""
    use_data(tmp_path)
    monkeypatch.setattr(psicov, "WINDOW", 64)
    return tmp_path


@dataclass(frozen=True)
class Training:
    """Fine-tuning of a task.

    Args:
        epochs: Its rows, epoch by epoch.
        result: Of the trial.
    """

    epochs: list[EpochRow]
    result: TrialResult

    @property
    def has_moved(self) -> bool:
        """Whether there were two epochs, every number is finite, the loss changed, and the result is the best epoch's."""
        numbers = [x for row in self.epochs for x in (row.train_loss, row.valid_loss, row.valid_error, row.test_error)]
        moved = len(self.epochs) == 2 and self.epochs[0].train_loss != self.epochs[1].train_loss
        return moved and all(map(math.isfinite, numbers)) and self.result.valid_error == min(row.valid_error for row in self.epochs)


@pytest.fixture
def two_epochs(quick, warm_store) -> Callable[..., Training]:
    """`two_epochs(task, knobs)` trains a mini body on a task."""

    def train(task: str, knobs: Mapping[str, Any] = {}) -> Training:
        rows: list[Row] = []
        result = run_trial(quick(task, {"finetune.epochs": 2, **knobs}), warm_store, rows.append)
        return Training([row for row in rows if isinstance(row, EpochRow) and row.stage == "finetune"], result)

    return train
