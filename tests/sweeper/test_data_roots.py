"""Which workbench the sweeper works on, and how workers come by it."""

from __future__ import annotations

import os
import subprocess
import sys
from contextvars import Context
from pathlib import Path

import pytest

from orca_core.config.resolve import resolve_config
from orca_core.errors import ConfigError
from orca_core.workbench import Workbench
from sweeper.planning.planner import Planner
from sweeper.results.workspace import Workspace
from sweeper.running.execution import execute
from sweeper.running.job import TrialJob
from sweeper.running.recorder import Recorder
from sweeper.running.session import Session
from sweeper.workbench import choose_workbench, open_workbench, shorten_home

SPACE = "name: two\nbase: {task: digits, body.weights: random, finetune.epochs: 1}\nseeds: [0, 1]\n"


def choose(data: Path | None = None) -> Workbench:
    """As in a process where no workbench is in use."""
    return Context().run(choose_workbench, data)


def test_the_environment_names_the_roots_unless_a_workbench_is_in_use(tmp_path, use_data, monkeypatch):
    monkeypatch.setenv("SWEEPER_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("SWEEPER_CACHE", str(tmp_path / "cache"))
    chosen = choose()
    assert (chosen.data_root, chosen.cache_root) == (tmp_path / "data", tmp_path / "cache")
    assert choose() is chosen  # what it keeps loaded stays from one call to the next
    bench = use_data(tmp_path / "other")
    assert choose_workbench() is bench


def test_without_any_word_data_is_in_the_working_folder_and_the_cache_at_home(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("SWEEPER_DATA", "SWEEPER_CACHE"):
        monkeypatch.delenv(name, raising=False)
    assert (choose().data_root, choose().cache_root) == (tmp_path / "data", tmp_path / ".cache/orca-sweeper")


def test_data_goes_before_the_environment_and_must_exist(tmp_path, monkeypatch):
    monkeypatch.setenv("SWEEPER_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("SWEEPER_CACHE", str(tmp_path / "cache"))
    chosen = choose(tmp_path)
    assert (chosen.data_root, chosen.cache_root) == (tmp_path, tmp_path / "cache")
    with pytest.raises(ConfigError, match="--data: must be an existing folder"):
        choose(tmp_path / "nowhere")


def test_the_environment_bounds_the_size_of_data(tmp_path, monkeypatch):
    monkeypatch.setenv("SWEEPER_DATA", str(tmp_path))
    assert choose().max_data_gib is None
    monkeypatch.setenv("SWEEPER_MAX_DATA_GIB", "2.5")
    assert (choose().max_data_gib, choose(tmp_path).max_data_gib) == (2.5, 2.5)
    for wrong in ("0", "-1", "much", "nan"):
        monkeypatch.setenv("SWEEPER_MAX_DATA_GIB", wrong)
        with pytest.raises(ConfigError, match=rf"\$SWEEPER_MAX_DATA_GIB: must be a number of GiB greater than 0, but got '{wrong}'"):
            choose()


def test_a_bound_is_part_of_no_key(tmp_path, use_data, load):
    before = [trial.id for trial in Planner(load(SPACE)).plan.trials]
    use_data(tmp_path).max_data_gib = 1.0
    assert [trial.id for trial in Planner(load(SPACE)).plan.trials] == before


def test_the_python_api_honours_the_environment(tmp_path):
    code = (
        "import sweeper\n"
        "from sweeper.space.reading import parse_space\n"
        "space = parse_space({'name': 'x', 'base': {'task': 'nb360/ecg'}})\n"
        "try: sweeper.plan(space)\n"
        "except Exception as error: print(error)"
    )
    environment = os.environ | {"SWEEPER_DATA": str(tmp_path / "here")}
    said = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True).stdout
    assert f"{tmp_path}/here/challenge2017.pkl: must be an existing file" in said


def test_the_jobs_of_a_sweep_carry_the_roots_to_the_worker(tmp_path, load, use_data):
    bench = use_data(tmp_path / "mine", tmp_path / "cache")
    bench.max_data_gib = 3.0
    planner, workspace = Planner(load(SPACE)), Workspace(tmp_path / "results")
    session = Session(planner, planner.plan.trials, Recorder(workspace.results, "two", "valid_error"), workspace, slots=1)
    job = TrialJob.from_json(session.job(session.next()).to_json())
    assert (job.data_root, job.cache_root, job.max_data_gib) == (str(bench.data_root), str(bench.cache_root), 3.0)


def test_a_worker_runs_a_job_on_the_roots_that_it_carries(tmp_path, store):
    config = resolve_config({"task": "digits", "body.weights": "random"})
    job = TrialJob(config.model_copy(update={"task": "nb360/ecg"}), str(tmp_path / "store"), data_root=str(tmp_path / "mine"))
    rows = execute(job)
    with pytest.raises(StopIteration) as ended:
        next(rows)
    result = ended.value.value
    assert (result["status"], result["cause"]) == ("FAIL", "data")
    assert f"{tmp_path}/mine/challenge2017.pkl" in result["traceback"]


def test_a_worker_keeps_its_workbench_from_job_to_job(tmp_path):
    first = open_workbench(tmp_path / "a", tmp_path / "c")
    assert open_workbench(str(tmp_path / "a"), str(tmp_path / "c")) is first
    assert open_workbench(tmp_path / "b", tmp_path / "c") is not first


def test_a_cache_below_the_home_folder_is_below_the_workers_own_home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "driver"))
    sent = [shorten_home(folder) for folder in (Workbench().cache_root, tmp_path / "cache")]
    assert sent == ["~/.cache/orca-sweeper", str(tmp_path / "cache")]
    monkeypatch.setenv("HOME", str(tmp_path / "worker"))
    assert open_workbench("data", sent[0]).cache_root == tmp_path / "worker/.cache/orca-sweeper"


def test_the_environment_bounds_the_copies_of_artifacts(tmp_path, monkeypatch):
    monkeypatch.setenv("SWEEPER_DATA", str(tmp_path))
    assert choose().artifact_cache_gib == 10
    monkeypatch.setenv("SWEEPER_ARTIFACT_CACHE_GIB", "0")
    assert (choose().artifact_cache_gib, choose(tmp_path).artifact_cache_gib) == (0, 0)
    for wrong in ("-1", "much", "inf"):
        monkeypatch.setenv("SWEEPER_ARTIFACT_CACHE_GIB", wrong)
        with pytest.raises(ConfigError, match=rf"\$SWEEPER_ARTIFACT_CACHE_GIB: must be a number of GiB from 0, but got '{wrong}'"):
            choose()
