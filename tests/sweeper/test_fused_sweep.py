"""A sweep whose trials train in groups (`finetune.fused`): the rows that each trial has alone, whatever becomes of its group."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from without_ray import without_ray

from orca_core.pipeline import run_trial
from orca_core.rows import EpochRow, Row
from orca_core.store import Store
from sweeper.planning.planner import make_plan
from sweeper.results import Results
from sweeper.running.session import Session
from sweeper.space.reading import parse_space
from sweeper.sweep import run_space

TIMELESS = ("sweep", "attempt", "run", "seconds")


@pytest.fixture(scope="module")
def task(tmp_path_factory) -> str:
    path = tmp_path_factory.mktemp("series") / "series.npz"
    y = np.arange(45) % 3
    np.savez(path, x=(np.random.default_rng(0).normal(size=(45, 12)) + y[:, None]).astype("float32"), y=y)
    return f"npz:{path}"


def space(task: str, **keys: Any) -> dict[str, Any]:
    """Two aligned starts and one that is not, each with two rates, in groups of at most four."""
    base = {"task": task, "body": "mini-roberta-small", "body.weights": "random", "proxy": "noise"}
    base |= {"align.objective": "mmd", "align.proxy_samples": 20}
    base |= {"finetune": {"fused": 4, "epochs": 3, "batch_size": 7, "warmup_epochs": 0, "decay_epochs": None}}
    axes = {"align.epochs": {"grid": [0, 1, 2]}, "finetune.lr": {"grid": [1e-3, 1e-2]}}
    return {"name": "fused", "floors": False, "keep": "none", "base": base, "space": axes} | keys


def alone(data: dict[str, Any], store: Store) -> list[dict[str, Any]]:
    """The rows of fine-tuning that the trials have alone."""
    found = []
    for trial in make_plan(parse_space(data)).trials:
        rows: list[Row] = []
        run_trial(trial.config, store, rows.append)
        kept = [row for row in rows if isinstance(row, EpochRow) and row.stage == "finetune"]
        found += [{"trial": trial.id} | replace(row, is_reused=False).cells() for row in kept]
    return timeless(found)


def timeless(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    ordered = sorted(rows, key=lambda row: (row["trial"], row["epoch"]))
    return [{name: value for name, value in row.items() if name not in TIMELESS and value is not None} for row in ordered]


def rows_of(folder: Path) -> list[dict[str, Any]]:
    """The rows of fine-tuning in the tables, of the attempts that count."""
    return timeless(Results(folder).sql("select * from metrics where stage = 'finetune'").rows())


def test_a_sweep_in_groups_has_the_rows_of_trials_alone_also_after_a_kill(task, tmp_path, monkeypatch):
    data, groups, reported = space(task), list[list[str]](), Counter[str]()
    beside, report = Session.beside, Session.report

    def note(session: Session, trial: Any) -> Any:
        others = beside(session, trial)
        groups.append([trial.id, *(other.id for other in others)])
        return others

    def kill(session: Session, trial_id: str, rows: Any, *arguments: Any) -> None:
        report(session, trial_id, rows, *arguments)
        reported.update("finetune" for row in rows if isinstance(row, EpochRow) and row.stage == "finetune")
        if reported["finetune"] == 6:
            raise KeyboardInterrupt

    monkeypatch.setattr(Session, "beside", note)
    with without_ray():
        monkeypatch.setattr(Session, "report", kill)
        with pytest.raises(KeyboardInterrupt):
            run_space(parse_space(data), str(tmp_path / "results"), quiet=True)
        monkeypatch.setattr(Session, "report", report)
        assert run_space(parse_space(data), str(tmp_path / "results"), quiet=True) == 0
    assert [len(group) for group in groups] == [1, 4, 1, 4, 2], "one computes the alignment; the second run looks for it in the store"
    assert rows_of(tmp_path / "results") == alone(data, Store(tmp_path / "alone"))
    computed = Results(tmp_path / "results").sql("select key, count(*) as n from stages where saved_s = 0 group by key").rows()
    assert {row["n"] for row in computed} <= {1}
