"""What stays of a sweep in the stage store, what can be had from it afterwards, and what a doctor finds and mends."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from without_ray import without_ray

from orca_core import load_model
from orca_core.addresses import Address
from orca_core.errors import ConfigError
from orca_core.identity import trial_id
from orca_core.scoring import SCORES
from orca_core.settings import Settings
from orca_core.store import Store
from orca_core.trial_stages import load_data
from sweeper.export import export_best
from sweeper.planning.planner import make_plan
from sweeper.results import Results, Workspace
from sweeper.running.preflight import check_room
from sweeper.space.reading import load_space, parse_space
from sweeper.sweep import run_space
from sweeper.upkeep.doctor import examine

BASE = {
    "task": "openml/187",
    "pretrain": {"epochs": 1, "fraction": 0.1},
    "align": {"epochs": 1, "class_samples": 16, "proxy_samples": 60},
    "finetune": {"lr": 1e-3, "warmup_epochs": 0, "decay_epochs": None},
}
SPACE = {
    "name": "kept",
    "floors": False,
    "base": BASE,
    "space": {"finetune.epochs": {"grid": [2, 4]}, "freezing": {"grid": ["full", "frozen-body:1"]}},
}


def run(folder: Path, **keys) -> Store:
    with without_ray():
        assert run_space(parse_space(SPACE | keys), str(folder), quiet=True) == 0
    return Store(folder / "artifacts")


def addresses(store: Store, kind: str) -> list[str]:
    return [str(entry.address) for entry in store.entries() if entry.address.kind == kind]


def with_tensors(folder: Path, kind: str) -> int:
    return len(list((folder / "artifacts" / kind).rglob("*.safetensors")))


@pytest.fixture(scope="module")
def best(tmp_path_factory) -> Path:
    """Results of the sweep with `keep: best`."""
    folder = tmp_path_factory.mktemp("best")
    run(folder)
    return folder


def test_states_that_trials_shared_are_dropped_and_their_rows_stay(best):
    assert with_tensors(best, "finetune") == 0
    assert len(addresses(Store(best / "artifacts"), "finetune")) >= 4
    assert with_tensors(best, "pretrain") == with_tensors(best, "align") == 1  # small, and of use to other sweeps


def test_best_weights_give_the_scores_of_the_rows(best):
    trials = {trial.id: trial for trial in make_plan(parse_space(SPACE)).trials}
    for row in Results(best).sql("select * from trials").rows():
        config = trials[row["trial"]].config
        artifact = Store(best / "artifacts").get(Address.model(row["result_key"], "best"))
        assert artifact.data["epoch"] == row["best_epoch"]
    export_best(Workspace(best), "kept", None, space_file=None, model_folder=best / "model")
    tuned = load_model(best / "model")
    data = load_data(Settings.of(config, "finetune"))
    torch.set_num_threads(1)
    for split, column in ((data.valid, "valid_error"), (data.test, "test_error")):
        with torch.no_grad():
            error = SCORES[config.task_spec.score](tuned.model(torch.from_numpy(split.x)), torch.from_numpy(split.y))
        where = f"where trial = '{trial_id(tuned.config)}' and epoch = {tuned.epoch} and stage = 'finetune'"
        (found,) = Results(best).sql(f"select {column} as error from metrics {where}").rows()
        assert error == found["error"]


def test_weights_that_are_gone_are_computed_again_to_the_same_bits(best, tmp_path):
    said = export_best(Workspace(best), "kept", None, space_file=None, model_folder=tmp_path / "kept")
    assert "as kept by the sweep" in said
    shutil.copytree(best, tmp_path / "results")
    shutil.rmtree(tmp_path / "results" / "artifacts" / "model")
    said = export_best(Workspace(tmp_path / "results"), "kept", None, space_file=None, model_folder=tmp_path / "again")
    assert "computed again" in said
    kept, again = (load_file(tmp_path / which / "model.safetensors") for which in ("kept", "again"))
    assert kept.keys() == again.keys()
    assert all(torch.equal(kept[name], again[name]) for name in kept)


def test_the_exported_space_is_the_best_arm(best, tmp_path):
    export_best(Workspace(best), "kept", None, space_file=tmp_path / "best.yaml", model_folder=None)
    exported = {trial.id for trial in make_plan(load_space(tmp_path / "best.yaml")).trials}
    first, *others = Results(best).sql("select trial from trials order by valid_error, arm").rows()
    assert exported == {first["trial"]}
    assert len(others) == 3


def test_a_sweep_of_several_tasks_must_be_told_whose_best_is_meant(best, tmp_path):
    with pytest.raises(ConfigError, match=r"--task: must be a task of kept, but got 'digitz'"):
        export_best(Workspace(best), "kept", "digitz", space_file=tmp_path / "x.yaml", model_folder=None)


@pytest.mark.parametrize("keep", ["none", "last", "all"])
def test_what_is_kept_changes_no_row(keep, best, tmp_path):
    store = run(tmp_path, keep=keep)
    rows = "select * exclude (sweep, attempt, run, seconds) from metrics order by trial, stage, epoch"
    assert Results(tmp_path).sql(rows).rows() == Results(best).sql(rows).rows()
    if keep == "none":
        assert addresses(store, "model") == addresses(store, "finetune") == []
    if keep == "last":
        assert {address.rpartition("/")[2] for address in addresses(store, "model")} == {"last"}
        assert with_tensors(tmp_path, "finetune") == 0
    if keep == "all":
        assert with_tensors(tmp_path, "finetune") == 4 + 1 + 4 - 1  # full: 4 epochs; frozen-body:1, then 3 more
    assert len(addresses(store, "model")) == {"none": 0, "last": 4, "all": 4}[keep]


def test_room_on_the_disk_is_asked_for_before_anything_starts(tmp_path):
    check_room([str(tmp_path / "not" / "there"), "s3://bucket/place"], 0.001)
    with pytest.raises(ConfigError, match=r"budget.free_gib: must be free on the disk of .*there, but got 1000000.0. Only .* GiB are free"):
        check_room([str(tmp_path / "not" / "there")], 1e6)


def cut(file: Path) -> None:
    """Leave the first half of a file."""
    content = file.read_bytes()
    file.write_bytes(content[: len(content) // 2])


@pytest.mark.parametrize("tables", [["metrics"], ["trials"], ["stages", "metrics"]], ids="+".join)
def test_damaged_tables_are_found_set_aside_and_brought_back(tables, best, tmp_path):
    folder = tmp_path / "results"
    shutil.copytree(best, folder)
    for table in tables:
        cut(next((folder / table).rglob("*.parquet")))
    report, healthy = examine(Workspace(folder))
    assert not healthy
    assert report.count("WRONG") == len(tables)
    assert examine(Workspace(folder), repair=True)[1]
    run(folder)
    rows = "select * exclude (sweep, attempt, run, seconds) from metrics order by trial, stage, epoch"
    assert Results(folder).sql(rows).rows() == Results(best).sql(rows).rows()
    # Nothing was computed again: what the store has was reported again.
    computed = Results(folder).sql("select count(*) as n from stages where stage != 'finetune' and seconds > 0 and attempt > 1").rows()
    assert computed == [{"n": 0}]
    assert examine(Workspace(folder))[1]


def test_damaged_artifacts_and_plans_are_found_and_dropped(best, tmp_path):
    folder = tmp_path / "results"
    shutil.copytree(best, folder)
    weights = next((folder / "artifacts" / "align").rglob("*.safetensors"))
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    next((folder / "artifacts" / "source").rglob("COMPLETE.json")).write_text("{")
    next((folder / "sweeps" / "kept").glob("*.json")).write_text('{"name": "ke')
    report, healthy = examine(Workspace(folder))
    assert (healthy, report.count("WRONG"), report.count("is incomplete")) == (False, 3, 2)
    report, healthy = examine(Workspace(folder), repair=True)
    assert (healthy, report.count("was incomplete and has been dropped")) == (True, 2)
    assert examine(Workspace(folder))[1]
