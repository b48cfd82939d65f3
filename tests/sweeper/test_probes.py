"""Probes of a sweep: recorded with its trials, added to finished ones, shown, and what is said where they cannot be had."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from without_ray import without_ray

from orca_core.errors import ConfigError
from orca_core.probing import PROBES
from orca_core.rows import ProbeRow
from sweeper.results import Results, Workspace
from sweeper.running.probes import find_lacking
from sweeper.running.reconcile import reconcile
from sweeper.running.recorder import Recorder
from sweeper.show.plan import describe_plan
from sweeper.show.trial import describe_trial
from sweeper.space.reading import parse_space
from sweeper.sweep import run_space
from sweeper.upkeep.cleaning import clean

SPACE = {
    "name": "probed",
    "floors": False,
    "base": {"task": "openml/187", "body": "transformer-1", "finetune": {"epochs": 2, "warmup_epochs": 0, "decay_epochs": None}},
    "space": {"finetune.lr": {"grid": [1e-3, 1e-2]}},
}
ONE = {"space": {}}
PROBED = {"probes": ["effective-rank", "cka", "nll", "distance"]}
SCORES = "select * exclude (seconds, seconds_finetune, started_at, ended_at, run, pid, sequence) from trial_status order by trial"


def run(folder: Path, **keys) -> Workspace:
    with without_ray():
        assert run_space(parse_space(SPACE | keys), str(folder), quiet=True) == 0
    return Workspace(folder)


def rows_of(folder: Path, sql: str) -> list[dict]:
    return Results(folder).sql(sql).rows()


COUNTS = "select probe, moment, count(*) as rows, count(value) as numbers, count(distinct trial) as trials from probes group by all"


@pytest.fixture(scope="module")
def at_once(tmp_path_factory) -> Path:
    """Results of a sweep that asks for probes from the start."""
    folder = tmp_path_factory.mktemp("at-once")
    run(folder, **PROBED)
    return folder


def test_probes_are_recorded_with_the_trials(at_once: Path) -> None:
    found = {(row["probe"], row["moment"]): (row["rows"], row["numbers"], row["trials"]) for row in rows_of(at_once, COUNTS)}
    twice = {("effective-rank", moment): (4, 4, 2) for moment in ("start", "fine-tuned")}
    assert found == twice | {("cka", "fine-tuned"): (2, 2, 2), ("nll", "fine-tuned"): (4, 4, 2)}  # and no distance: there is no proxy
    joined = "select count(*) as n from probes join trials using (sweep, trial) where recorded_at is not null and probes.seconds > 0"
    assert rows_of(at_once, joined) == [{"n": 14}]


def test_probes_are_added_to_finished_trials_and_change_no_other_row(at_once: Path, tmp_path: Path) -> None:
    run(tmp_path)
    before = rows_of(tmp_path, SCORES)
    plan = describe_plan(parse_space(SPACE | PROBED), Workspace(tmp_path), "text")
    assert "Probes   effective-rank, cka, nll, distance: at most 256 samples each" in plan
    assert "distance: in no trial, as a bodiless arm has no embedding" in plan
    assert "2 finished trials lack probes whose states are kept: the next run adds them" in plan
    run(tmp_path, **PROBED)
    assert rows_of(tmp_path, SCORES) == before
    numbers = "select * exclude (attempt, run, seconds, recorded_at) from probes order by all"
    assert rows_of(tmp_path, numbers) == rows_of(at_once, numbers)
    space = parse_space(SPACE | PROBED)
    assert find_lacking(space, reconcile(space, Workspace(tmp_path).results).plan.trials, Workspace(tmp_path)) == []
    run(tmp_path, probes={"names": ["effective-rank"], "samples": 8})  # takes the place of the other number of samples
    assert rows_of(tmp_path, "select distinct samples from probes where probe = 'effective-rank'") == [{"samples": 8}]
    assert rows_of(tmp_path, "select count(*) as n from probes where probe = 'nll'") == [{"n": 4}]


def test_what_is_not_kept_is_trained_again_only_if_asked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(tmp_path, **ONE, keep="none")
    before = rows_of(tmp_path, SCORES)
    space = parse_space(SPACE | ONE | PROBED | {"keep": "none"})
    plan = describe_plan(space, Workspace(tmp_path), "text")
    assert "1 finished trial lacks probes whose fine-tuned weights were not kept; `--set sweep:probes.recompute=true`" in plan
    with without_ray():
        assert run_space(space, str(tmp_path)) == 0
    assert "1 finished trial lacks probes whose fine-tuned weights were not kept" in capsys.readouterr().err
    moments = "select distinct moment from probes order by 1"
    assert [row["moment"] for row in rows_of(tmp_path, moments)] == ["start"]
    asked = {**ONE, "keep": "none", "probes": {"names": PROBED["probes"], "recompute": True}}
    assert "1 finished trial is trained again for probes" in describe_plan(parse_space(SPACE | asked), Workspace(tmp_path), "text")
    run(tmp_path, **asked)
    assert [row["moment"] for row in rows_of(tmp_path, moments)] == ["fine-tuned", "start"]
    assert rows_of(tmp_path, SCORES) == before


def test_a_failure_is_tried_again_only_if_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("orca_core.probing.geometry.effective_rank", lambda features: 1 / 0)
        run(tmp_path, **ONE, probes=["effective-rank"])
    reasons = "select distinct reason, value is null as is_null from probes"
    failed = [{"reason": "ZeroDivisionError: division by zero", "is_null": True}]
    assert rows_of(tmp_path, reasons) == failed
    run(tmp_path, **ONE, probes=["effective-rank"])
    assert rows_of(tmp_path, reasons) == failed
    with without_ray():
        assert run_space(parse_space(SPACE | ONE | {"probes": ["effective-rank"]}), str(tmp_path), quiet=True, retry_failed=True) == 0
    assert rows_of(tmp_path, reasons) == [{"reason": None, "is_null": False}]


def test_what_a_killed_process_left_out_is_taken_from_the_trial_that_shares_it(tmp_path: Path) -> None:
    """Both trials start alike: the second one measures and stores what the first one was killed at."""
    asked = {"probes": ["effective-rank"]}
    run(tmp_path)
    space, workspace = parse_space(SPACE | asked), Workspace(tmp_path)
    (first, _) = find_lacking(space, reconcile(space, workspace.results).plan.trials, workspace)
    workspace.artifacts.put(first.ready.under_way, {}, {"moment": "start"})
    run(tmp_path, **asked)
    numbers = "select moment, count(value) as numbers, count(reason) as reasons from probes group by all order by all"
    assert rows_of(tmp_path, numbers)[1] == {"moment": "start", "numbers": 2, "reasons": 1}
    with without_ray():
        assert run_space(space, str(tmp_path), quiet=True, retry_failed=True) == 0
    assert rows_of(tmp_path, numbers)[1] == {"moment": "start", "numbers": 4, "reasons": 0}


def test_an_interrupt_ends_the_adding_of_probes_after_a_trial(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(tmp_path)
    space = parse_space(SPACE | {"probes": ["effective-rank"]})
    trials = "select count(distinct trial) as trials, count(value) as numbers, count(reason) as reasons from probes"

    def interrupted(features: object) -> float:
        if signal.getsignal(signal.SIGINT) is not signal.default_int_handler:  # a second Ctrl-C would end the process
            os.kill(os.getpid(), signal.SIGINT)
        return 1.0

    with without_ray():
        with monkeypatch.context() as patch:
            patch.setattr("orca_core.probing.geometry.effective_rank", interrupted)
            assert run_space(space, str(tmp_path), quiet=True) == 130
        assert rows_of(tmp_path, trials) == [{"trials": 1, "numbers": 4, "reasons": 0}]
        assert run_space(space, str(tmp_path), quiet=True) == 0
    assert rows_of(tmp_path, trials) == [{"trials": 2, "numbers": 8, "reasons": 0}]


def test_taken_over_trials_bring_their_probes(at_once: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import shutil

    shutil.copytree(at_once, tmp_path / "results")
    monkeypatch.setattr("sweeper.running.probes.probe_finished", None)
    run(tmp_path / "results", name="another", **PROBED)
    counts = "select sweep, count(*) as n from probes group by all order by all"
    assert rows_of(tmp_path / "results", counts) == [{"sweep": "another", "n": 14}, {"sweep": "probed", "n": 14}]


def test_show_lists_the_probes_of_a_trial(at_once: Path) -> None:
    (trial, *_) = rows_of(at_once, "select trial from trials order by trial")
    text = describe_trial(Workspace(at_once), trial["trial"])
    assert "\nprobes\n" in text
    assert "effective-rank  fine-tuned" in text


def test_probes_survive_compaction_and_go_with_their_sweep(at_once: Path, tmp_path: Path) -> None:
    import shutil

    shutil.copytree(at_once, tmp_path / "results")
    workspace = Workspace(tmp_path / "results")
    before = rows_of(tmp_path / "results", COUNTS + " order by all")
    workspace.results.compact("probed", repair=True)
    assert rows_of(tmp_path / "results", COUNTS + " order by all") == before
    dropped = clean(workspace, sweep="probed").dropped
    assert {entry.address.kind for entry in dropped} == {"finetune", "model", "probe"}


def test_the_forms_of_the_key() -> None:
    assert parse_space(SPACE | {"probes": "all"}).probes.names == list(PROBES)
    request = parse_space(SPACE | {"keep": "last", "probes": {"names": ["cka"], "layers": [0, 2]}}).probe_request
    assert (request.names, request.layers, request.weights, request.samples) == (("cka",), (0, 2), "last", 256)
    assert parse_space(SPACE).probe_request is None
    assert parse_space(SPACE, overrides={"sweep:probes": ["ece"], "sweep:probes.recompute": True}).probes.recompute


@pytest.mark.parametrize(
    ("value", "fault"),
    [
        (["ckaa"], "probes.names: must be the name of a probe, but got 'ckaa'. Did you mean 'cka'?"),
        ("cka", "probes.names: must be a list of names of probes, or `all`"),
        ({"names": ["cka"], "samples": 1}, "probes.samples"),
        ({"names": ["cka"], "layers": [-1]}, "probes.layers.0"),
        ({"names": ["distance"], "proxy": "pydok"}, "probes.proxy: must be the name of a proxy data set"),
        ({"names": ["cka"], "sample": 3}, "Did you mean 'samples'?"),
    ],
)
def test_faults_of_the_key(value: object, fault: str) -> None:
    with pytest.raises(ConfigError) as error:
        parse_space(SPACE | {"probes": value})
    assert fault in str(error.value)


def test_ids_do_not_depend_on_probes() -> None:
    trials = [
        [(t.id, t.result_key) for t in reconcile(parse_space(SPACE | more), Workspace("nowhere").results).plan.trials]
        for more in ({}, PROBED)
    ]
    assert trials[0] == trials[1]


def test_rows_of_a_probe_have_one_time(tmp_path: Path) -> None:
    """Also if they come in two reports, so that the view shows all of them."""
    workspace, space = Workspace(tmp_path), parse_space(SPACE | {"name": "other"})
    recorder = Recorder(workspace.results, "other", "valid_error")
    trial = reconcile(space, workspace.results).plan.trials[0]
    recorder.start(trial, device="cpu")
    for layer in (0, 1):
        recorder.add_rows(trial.id, [ProbeRow(probe="cka", moment="start", key="k", layer=layer, value=1.0)])
        recorder.flush()
    recorder.end(trial.id, {"status": "FAIL", "cause": "user-error"})
    recorder.flush()
    assert [row["layer"] for row in rows_of(tmp_path, "select layer from probes order by layer")] == [0, 1]
