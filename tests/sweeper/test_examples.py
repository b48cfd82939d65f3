"""The scripts in examples/ run from top to bottom, and come to what they say. All but the cheapest are slow: `.ci/run` runs them."""

from __future__ import annotations

import os
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from orca_core.identity import trial_id
from sweeper.results import Results

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture
def example(tmp_path, monkeypatch, ray_session, use_data):
    """`example(name)` runs a script in an empty folder, and returns its names."""
    monkeypatch.chdir(tmp_path)
    use_data("data")

    def run(name: str) -> dict[str, Any]:
        names = runpy.run_path(str(EXAMPLES / name), run_name="__main__")
        assert names["code"] == 0
        return names

    return run


@pytest.mark.ray
def test_a_figure_is_reproduced(example):
    data = example("reproduce_a_figure.py")["data"]
    assert "2 seeds" in data.caption
    svg = Path("small-proxies.svg").read_text()
    assert all(name in svg for name in ("pydoc", "noise-matched:pydoc"))
    assert Path("small-proxies.pdf").read_bytes().startswith(b"%PDF")


@pytest.mark.slow
@pytest.mark.ray
def test_own_data_lead_to_a_verdict_beside_the_floors(example, capsys):
    names = example("own_data_to_verdict.py")
    said = capsys.readouterr().out
    rows = Results("results").sql("select freezing, avg(test_error) as error from trials group by all").rows()
    error = {row["freezing"]: row["error"] for row in rows}
    assert f"A frozen body: {names['row']['verdict']}. Error {error['frozen-body']:.3f} against {error['full']:.3f}" in said
    assert {row["model"] for row in names["floors"].rows()} >= {"majority", "svm", "boosting"}
    assert [answer["question"] for answer in names["answers"]][-1] == "Does the best arm beat the models without a transformer?"


@pytest.mark.slow
@pytest.mark.ray
def test_the_python_api_gives_the_sweep_the_trial_that_ran_alone(example):
    names = example("python_api.py")
    (row,) = Results("results").sql(f"select * from trials where trial = '{trial_id(names['config'])}'").rows()
    assert (row["valid_error"], row["test_error"]) == (names["result"].valid_error, names["result"].test_error)


@pytest.mark.slow
def test_a_sweep_runs_on_a_cluster(tmp_path):
    """In a process of its own: this one may have a Ray already."""
    script = [sys.executable, str(EXAMPLES / "on_a_cluster.py")]
    environment = {**os.environ, "PYTHONPATH": str(EXAMPLES.parent), "RAY_AUTH_MODE": "disabled"}
    done = subprocess.run(script, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr
    assert Results(tmp_path / "results").sql("select count(*) as n from trials where sweep = 'on-two-nodes'").rows() == [{"n": 4}]
