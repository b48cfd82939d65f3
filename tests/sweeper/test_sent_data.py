"""The user's own data on the way to a worker that does not have it."""

from __future__ import annotations

import json
import shutil
import zipfile
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from orca_core.config.resolve import resolve_config
from orca_core.errors import ConfigError, StoreError
from orca_core.stages import result_key, stages_of
from orca_core.workbench import Workbench
from sweeper.running.code import code_here
from sweeper.running.execution import execute_message
from sweeper.running.job import TrialJob
from sweeper.running.own_data import contents_of, fetch_own_data, find_own_data, other_contents, own_data_uri, send_own_data
from sweeper.workbench import open_on_worker, sent_mib


def write_table(path: Path, sign: int = 1) -> None:
    values = np.random.default_rng(0).normal(size=(60, 2))
    lines = [f"{a},{b},{'yes' if sign * a > b else 'no'}" for a, b in values]
    path.write_text("\n".join(["a,b,label", *lines]) + "\n")


@pytest.fixture
def driver(tmp_path, monkeypatch):
    """The driver's working folder, with data of each kind; all paths are relative to it."""
    folder = tmp_path / "driver"
    (folder / "my texts" / "food").mkdir(parents=True)
    monkeypatch.chdir(folder)
    write_table(folder / "t.csv")
    rng = np.random.default_rng(0)
    np.savez(folder / "a.npz", x=rng.normal(size=(60, 1, 16)).astype("float32"), y=np.arange(60) % 2)
    np.savez(folder / "f.npz", x=rng.normal(size=(60, 32)).astype("float32"), y=np.arange(60) % 2)
    for label in ("food", "weather"):
        (folder / "my texts" / label).mkdir(exist_ok=True)
        (folder / "pictures" / label).mkdir(parents=True)
        for number in range(12):
            (folder / "my texts" / label / f"{number}.txt").write_text(f"{label} {number}")
            Image.fromarray(rng.integers(0, 255, (8, 8, 3), dtype="uint8")).save(folder / "pictures" / label / f"{number}.png")
    return folder


NAMES = [
    {"task": "csv:t.csv?target=label"},
    {"task": "npz:a.npz"},
    {"task": "images:pictures?size=8"},
    {"task": "digits", "proxy": "text:my texts+shuffled", "align.epochs": 1, "body": "mini-roberta"},
    {"task": "digits", "proxy": "task:images:pictures?size=8", "align.epochs": 1},
    {"task": "digits", "proxy": "npz:f.npz", "align.epochs": 1},
]


def key_of(config) -> str:
    return result_key(config, stages_of(config, "cpu"))


@pytest.mark.parametrize("knobs", NAMES, ids=lambda knobs: knobs.get("proxy", knobs["task"]))
def test_a_node_without_the_file_has_the_same_keys_by_the_copy(driver, tmp_path, monkeypatch, knobs):
    config = resolve_config({"body.weights": "random", **knobs})
    wanted, contents = key_of(config), contents_of(config)
    (one,) = found = find_own_data([config])
    sent, too_large = send_own_data(found, str(tmp_path / "store"), max_mib=1)
    assert (list(sent), too_large) == ([one.path], [])
    shutil.rmtree(driver)
    monkeypatch.chdir(tmp_path)
    bench = Workbench(cache_root=tmp_path / "cache of the node")
    fetch_own_data(sent, str(tmp_path / "store"), bench)
    with bench.use():
        job = TrialJob.from_json(TrialJob(config, "store").to_json())
        assert key_of(job.config) == wanted
        assert list(other_contents(contents)) == []
        data = job.config.task_spec if "proxy" not in knobs else None
        assert data is None or len(data.load().train) > 10


def job_of(config, store, **more) -> TrialJob:
    common = {"data_root": "data", "cache_root": str(Path(store).parent / "cache"), "result_key": key_of(config)}
    common["code"] = asdict(code_here())
    return TrialJob(config, str(store), **common, contents=contents_of(config), **more)


def outcome(job_text: str) -> dict:
    rows = execute_message(job_text)
    while True:
        try:
            next(rows)
        except StopIteration as stop:
            return stop.value


QUICK = {"body.weights": "random", "align.epochs": 0, "finetune.epochs": 1, "finetune.warmup_epochs": 0, "finetune.decay_epochs": None}


def test_a_trial_runs_on_the_copy_even_where_another_file_has_the_same_path(driver, tmp_path):
    config = resolve_config({"task": "csv:t.csv", **QUICK})
    sent, _ = send_own_data(find_own_data([config]), str(tmp_path / "artifacts"), max_mib=1)
    text = job_of(config, tmp_path / "artifacts", own_data=sent).to_json()
    expected = outcome(text)
    assert expected["status"] == "COMPLETE", expected
    write_table(driver / "t.csv", sign=-1)
    again = json.loads(text) | {"store": str(tmp_path / "another store")}
    assert outcome(json.dumps(again))["valid_loss"] == expected["valid_loss"]


def test_a_trial_whose_data_is_other_on_this_node_runs_nothing(driver, tmp_path):
    config = resolve_config({"task": "csv:t.csv", **QUICK})
    text = job_of(config, tmp_path / "artifacts").to_json()
    write_table(driver / "t.csv", sign=-1)
    result = outcome(text)
    assert (result["status"], result["cause"]) == ("FAIL", "other-data")
    assert "task csv:t.csv has other content here" in result["error"]
    (driver / "t.csv").unlink()
    result = outcome(text)
    assert (result["status"], result["cause"]) == ("FAIL", "data")
    assert "t.csv: must be an existing file" in result["error"]
    (missing,) = other_contents(contents_of(config) if (driver / "t.csv").exists() else json.loads(text)["contents"])
    assert missing.startswith("task csv:t.csv cannot be read here: t.csv: must be an existing file")


def test_what_is_too_large_is_not_sent(driver, tmp_path):
    config = resolve_config({"task": "csv:t.csv", **QUICK})
    assert send_own_data(find_own_data([config]), str(tmp_path / "store"), max_mib=0.0001) == ({}, ["t.csv"])
    assert not (tmp_path / "store-own-data").exists()


def test_published_data_does_not_travel():
    configs = [resolve_config({"task": "digits", "align.epochs": epochs}) for epochs in (0, 1)]
    assert find_own_data(configs) == []


def test_a_damaged_archive_is_refused_and_leaves_nothing(driver, tmp_path):
    config = resolve_config({"task": "csv:t.csv", **QUICK})
    sent, _ = send_own_data(find_own_data([config]), str(tmp_path / "store"), max_mib=1)
    at = Path(own_data_uri(str(tmp_path / "store")), f"{sent['t.csv']}.zip")
    whole = at.read_bytes()
    bench = Workbench(cache_root=tmp_path / "cache")
    with zipfile.ZipFile(at, "w") as archive:
        archive.writestr("../../t.csv", "a,label\n1,x\n")
    other = at.read_bytes()
    for damaged in (whole[:-30], b"", other):
        at.write_bytes(damaged)
        with pytest.raises(StoreError, match="the data that was sent to this node cannot be read"):
            fetch_own_data(sent, str(tmp_path / "store"), bench)
        assert list((tmp_path / "cache" / "own-data").iterdir()) == []
    at.write_bytes(whole)
    fetch_own_data(sent, str(tmp_path / "store"), bench)
    at.unlink()
    fetch_own_data(sent, str(tmp_path / "store"), bench)  # it is on this machine by now
    assert bench.locate("t.csv").read_text() == (driver / "t.csv").read_text()


def test_the_largest_size_is_a_setting(monkeypatch):
    assert sent_mib() == 64
    monkeypatch.setenv("SWEEPER_SEND_DATA_MIB", "0.5")
    assert sent_mib() == 0.5
    for wrong in ("-1", "much", "nan"):
        monkeypatch.setenv("SWEEPER_SEND_DATA_MIB", wrong)
        with pytest.raises(ConfigError, match=rf"\$SWEEPER_SEND_DATA_MIB: must be a number of MiB of at least 0, but got '{wrong}'"):
            sent_mib()


def test_folders_of_the_node_count_where_those_of_the_driver_do_not_exist(tmp_path, monkeypatch):
    monkeypatch.setenv("SWEEPER_DATA", str(tmp_path / "node data"))
    monkeypatch.setenv("SWEEPER_CACHE", str(tmp_path / "node cache"))
    bench = open_on_worker(str(tmp_path / "data"), str(tmp_path / "cache"))
    assert (bench.data_root, bench.cache_root) == (tmp_path / "node data", tmp_path / "node cache")
    (tmp_path / "data").mkdir()
    (tmp_path / "cache").mkdir()
    bench = open_on_worker(str(tmp_path / "data"), str(tmp_path / "cache"))
    assert (bench.data_root, bench.cache_root) == (tmp_path / "data", tmp_path / "cache")
