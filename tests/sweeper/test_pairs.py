"""`sweeper soup --kind flip`: the mean answer of a trial and its twin that reads the task from its end."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.csv
import pytest
from test_soup import derived, run, sweeper

from orca_core.pairing import combine
from orca_core.store import Store
from sweeper.planning.planner import make_plan
from sweeper.space.reading import parse_space

SPACE: dict[str, Any] = {
    "name": "both-ways",
    "keep": "best",
    "base": {"body": "transformer-1", "finetune": {"epochs": 1, "warmup_epochs": 0, "decay_epochs": None}},
    "space": {"reversed": {"grid": [False, True]}},
    "seeds": 2,
}


@pytest.fixture(scope="module")
def space(tmp_path_factory) -> dict[str, Any]:
    """Trials on 60 short series of three classes."""
    path, y = tmp_path_factory.mktemp("pairs") / "series.npz", np.arange(60) % 3
    x = np.random.default_rng(0).normal(size=(60, 1, 8)) + y.reshape(-1, 1, 1)
    np.savez(path, x=x.astype("float32"), y=y)
    return {**SPACE, "base": {**SPACE["base"], "task": f"npz:{path}"}}


@pytest.fixture(scope="module")
def swept(space, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("pairs") / "results"
    run(folder, space)
    return folder


def test_each_trial_and_its_twin_are_a_derived_row(space, swept):
    done = sweeper("soup", "both-ways", "--kind", "flip", "--results", swept)
    assert done.exit_code == 0, done.output
    assert "2 new." in done.output
    rows = derived(swept)
    assert [row["derived_by"] for row in rows] == ["flip"] * 2
    configs = {trial.id: trial.config for trial in make_plan(parse_space(space)).trials}
    assert {row["seed"] for row in rows} == {0, 1}
    for row in rows:
        pair = [configs[member] for member in row["members"]]
        assert [(config.reversed, config.seed) for config in pair] == [(False, row["seed"]), (True, row["seed"])]
        found = combine(pair, Store(swept / "artifacts"))
        assert (row["valid_error"], row["valid_loss"], row["test_error"]) == (found.valid_error, found.valid_loss, found.test_error)
        assert row["reversed"] is None
        assert not row["in_plan"]
    again = sweeper("soup", "both-ways", "--kind", "flip", "--again", "--format", "csv", "--results", swept)
    table = pyarrow.csv.read_csv(pyarrow.py_buffer(again.output.encode())).to_pylist()
    assert [line["news"] for line in table] == ["the same again"] * 2
    assert len(derived(swept)) == 2


def test_without_a_twin_there_is_no_pair(swept):
    refused = sweeper("soup", "both-ways", "--kind", "flip", "--where", "not reversed", "--results", swept)
    assert refused.exit_code == 2
    assert "differ in `reversed` alone" in " ".join(refused.output.split())
    refused = sweeper("soup", "both-ways", "--kind", "flip", "--alphas", "0.5", "--results", swept)
    assert "--alphas" in refused.output
