"""Sweeps on Ray: same config, same rows; running is resuming; a failed trial is a row."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from without_ray import without_ray

from orca_core.errors import ConfigError
from orca_core.pipeline import trial_rows
from orca_core.store import Store
from orca_core.workbench import Workbench
from sweeper.planning.planner import make_plan
from sweeper.results import Results, ResultStore, Workspace
from sweeper.show.trial import describe_trial
from sweeper.single import run_one
from sweeper.space.reading import parse_space
from sweeper.sweep import run_space
from sweeper.upkeep.cleaning import clean
from sweeper.upkeep.doctor import examine

pytestmark = pytest.mark.ray

BASE = {
    "task": "openml/187",
    "pretrain": {"epochs": 1, "fraction": 0.1},
    "align": {"epochs": 0, "class_samples": 16, "proxy_samples": 60},
    "finetune": {"epochs": 2, "warmup_epochs": 0, "decay_epochs": None},
}

FOUR_AXES = {
    "name": "four-axes",
    "floors": False,
    "base": BASE,
    "space": {
        "align.epochs": {"grid": [0, 1]},
        "proxy": {"grid": ["recipe", "noise"]},
        "freezing": {"grid": ["full", "frozen-body:1"]},
        "body.weights": {"grid": ["pretrained", "random"]},
    },
}

HOW_IT_RAN = {"sweep", "attempt", "run", "started_at", "ended_at", "host", "node_id", "pid", "seconds", "saved_s", "code_commit"}


@dataclass(frozen=True)
class Sweep:
    """A folder of results with its stage store inside."""

    folder: Path

    def run(self, data: dict[str, Any], *, max_concurrent: int = 1, **options: Any) -> int:
        """Run a search space in this process; the exit code. One slot unless two matter: each starts a process, which imports torch."""
        return run_space(parse_space({"floors": False, **data}), str(self.folder), quiet=True, max_concurrent=max_concurrent, **options)

    def run_here(self, data: dict[str, Any], **options: Any) -> int:
        """The same without Ray: on one slot, in this process, which has imported torch."""
        with without_ray():
            return self.run(data, **options)

    def ask(self, sql: str) -> list[dict[str, Any]]:
        return Results(self.folder).sql(sql).rows()

    def metrics(self) -> list[dict[str, Any]]:
        """Every metrics row, without times."""
        return self.ask("select * exclude (sweep, attempt, run, seconds) from metrics order by trial, stage, epoch")

    def trials(self) -> dict[str, dict[str, Any]]:
        """Trials by id, without what says how and where they ran."""
        rows = self.ask("select * from trial_status")
        return {row["trial"]: {k: v for k, v in row.items() if k not in HOW_IT_RAN and not k.startswith("seconds_")} for row in rows}

    def statuses(self) -> list[str]:
        return [row["status"] for row in self.ask("select status from trial_status")]

    def pids(self) -> set[int]:
        return {row["pid"] for row in self.ask("select pid from trial_status")}


@pytest.fixture
def sweep(tmp_path: Path, ray_session: None) -> Sweep:
    return Sweep(tmp_path / "results")


@pytest.fixture(scope="module")
def four_axes(tmp_path_factory: pytest.TempPathFactory, ray_session: None) -> Sweep:
    """The four axes that this project is for, run on two slots. Tests only read it."""
    sweep = Sweep(tmp_path_factory.mktemp("four-axes") / "results")
    assert sweep.run(FOUR_AXES, max_concurrent=2) == 0
    return sweep


# --------------------------------------------------------------------------------------------------------------------- same rows


def test_a_sweep_over_four_axes_runs_every_distinct_trial_once(four_axes):
    assert four_axes.statuses() == ["COMPLETE"] * 12  # of 16 combinations: without alignment nothing reads the proxy
    assert four_axes.ask("select count(*) n from metrics where stage = 'finetune'") == [{"n": 12 * 2}]
    computed = four_axes.ask("select stage, count(*) n from stages where saved_s = 0 group by stage")
    assert {row["stage"]: row["n"] for row in computed} == {"pretrain": 1, "source": 4, "align": 4, "finetune": 6 + 6 * 2}


def test_of_fine_tuning_the_best_weights_of_each_trial_stay_and_no_state(four_axes):
    assert len(list(four_axes.folder.glob("artifacts/model/**/*.safetensors"))) == 12
    assert not list(four_axes.folder.glob("artifacts/finetune/**/*.safetensors"))


def test_trials_run_in_no_more_processes_than_there_are_slots(four_axes):
    assert len(four_axes.pids()) <= 2
    assert os.getpid() not in four_axes.pids()


def test_the_same_sweep_run_anew_on_one_slot_gives_the_same_rows_bit_for_bit(four_axes, sweep):
    assert sweep.run(FOUR_AXES) == 0
    assert len(sweep.pids()) == 1
    assert sweep.metrics() == four_axes.metrics()
    assert sweep.trials() == four_axes.trials()


def test_one_trial_without_ray_gives_the_rows_of_the_sweep_bit_for_bit(four_axes, tmp_path, capsys):
    Workbench.current().clear()
    alone = Sweep(tmp_path / "results")
    settings = BASE | {"align": BASE["align"] | {"epochs": 1}, "proxy": "noise", "freezing": "frozen-body:1"}
    assert run_one(settings, Workspace(alone.folder), name="alone", device="cpu", format="json") == 0
    (trial,) = alone.trials()
    assert alone.metrics() == [row for row in four_axes.metrics() if row["trial"] == trial]
    known = four_axes.trials()[trial]
    assert alone.trials()[trial] == known | {"arm": alone.trials()[trial]["arm"], "ray_version": None}


def test_a_second_run_of_a_finished_sweep_starts_nothing_not_even_ray(four_axes, monkeypatch, capsys):
    before = four_axes.ask("select * from trials order by trial")
    monkeypatch.delitem(sys.modules, "sweeper.tune.launch", raising=False)
    assert run_space(parse_space(FOUR_AXES), str(four_axes.folder)) == 0
    assert "sweeper.tune.launch" not in sys.modules
    assert "nothing to run, all 12 trials are in the results" in capsys.readouterr().out
    assert four_axes.ask("select * from trials order by trial") == before


def test_another_sweep_takes_finished_trials_over(four_axes, tmp_path, monkeypatch):
    copy = Sweep(shutil.copytree(four_axes.folder, tmp_path / "results"))
    monkeypatch.delitem(sys.modules, "sweeper.tune.launch", raising=False)
    assert copy.run(FOUR_AXES | {"name": "again"}) == 0
    assert "sweeper.tune.launch" not in sys.modules
    scores = "select trial, valid_error, test_error, best_epoch from trials where sweep = '{}' order by 1"
    assert copy.ask(scores.format("again")) == copy.ask(scores.format("four-axes"))


def test_an_edited_space_adds_what_is_new_and_takes_out_of_the_plan_what_is_gone(four_axes, tmp_path):
    copy = Sweep(shutil.copytree(four_axes.folder, tmp_path / "results"))
    edited = FOUR_AXES | {"seeds": 2, "space": FOUR_AXES["space"] | {"freezing": {"grid": ["full"]}, "proxy": {"grid": ["noise"]}}}
    assert copy.run_here(edited) == 0
    counts = copy.ask("select freezing, in_plan, seed, count(*) n, max(attempt) tries from trial_status group by all order by all")
    assert [tuple(row.values()) for row in counts] == [
        ("frozen-body:1", False, 0, 6, 1),
        ("full", False, 0, 2, 1),
        ("full", True, 0, 4, 1),
        ("full", True, 1, 4, 1),
    ]
    assert copy.run(FOUR_AXES) == 0
    assert copy.ask("select in_plan, seed, count(*) n from trial_status group by all order by all") == [
        {"in_plan": False, "seed": 1, "n": 4},
        {"in_plan": True, "seed": 0, "n": 12},
    ]


def test_without_sharing_each_trial_computes_all_of_its_stages_to_the_same_rows_but_those_in_its_private_store(four_axes, sweep):
    """One trial has a private store, as a run leaves it that was killed after the first stages of that trial were stored."""
    space, workspace = parse_space(FOUR_AXES), Workspace(sweep.folder)
    trial = next(trial for trial in make_plan(space).trials if trial.config.body.weights == "pretrained" and trial.config.align.epochs)
    rows = trial_rows(trial.config, Store(workspace.private_uri(space.name, trial.id)))
    while next(rows).stage != "source":
        pass
    rows.close()
    clean(workspace, max_gib=0.0)
    assert examine(workspace, repair=True)[1]
    assert sweep.run_here(FOUR_AXES, share=False) == 0
    reused = sweep.ask("select trial, stage from stages where saved_s > 0 order by stage")
    assert reused == [{"trial": trial.id, "stage": "pretrain"}, {"trial": trial.id, "stage": "source"}], "all else was computed"
    assert sweep.metrics() == four_axes.metrics()
    assert not list((sweep.folder / "artifacts-unshared" / "four-axes").glob("*"))


# ---------------------------------------------------------------------------------------------------------------------- failures


def test_a_trial_that_runs_too_long_fails_with_that_cause(sweep):
    long = BASE | {"task": "digits", "body": {"weights": "random"}, "finetune": {"epochs": 500, "decay_epochs": None}}
    assert sweep.run_here({"name": "long", "base": long, "budget": {"trial_minutes": 0.01}}) == 1
    assert sweep.ask("select status, cause from trial_status") == [{"status": "FAIL", "cause": "timeout"}]


def test_a_trial_whose_process_dies_is_started_again_and_one_that_diverges_is_a_failed_row(sweep, capsys):
    import psutil

    def kill_the_workers() -> None:
        while not list(sweep.folder.glob("artifacts/pretrain/*/*/COMPLETE.json")):
            time.sleep(0.02)
        killed = False
        while not killed:  # between two steps the process has another title
            for process in psutil.Process().children(recursive=True):  # of this process's own Ray
                with suppress(psutil.NoSuchProcess):
                    if "ray::train openml" in " ".join(process.cmdline()):  # the title has the task and the id of the trial
                        process.kill()
                        killed = True

    killer = threading.Thread(target=kill_the_workers, daemon=True)
    killer.start()
    space = {"name": "s", "base": BASE | {"finetune": {"epochs": 40}}, "space": {"finetune.lr": {"grid": [1e-3, 1e30]}}}
    assert sweep.run(space) == 1
    good, bad = sweep.ask("select trial, status, attempt, cause, error, traceback from trial_status order by finetune_lr")
    assert (good["status"], good["attempt"]) == ("COMPLETE", 2)
    rows = "select stage, count(*) n, count(distinct epoch) epochs from metrics where trial = '{}' group by all order by all"
    assert sweep.ask(rows.format(good["trial"])) == [
        {"stage": "finetune", "n": 40, "epochs": 40},
        {"stage": "pretrain", "n": 1, "epochs": 1},
    ]
    assert (bad["status"], bad["attempt"], bad["cause"]) == ("FAIL", 1, "not-finite")
    assert not bad["error"].startswith("NotFiniteError"), "the cause says it"
    assert "Traceback" in bad["traceback"]
    assert bad["traceback"].strip() in describe_trial(Workspace(sweep.folder), bad["trial"])

    space["space"]["finetune.lr"] = {"grid": [1e30]}
    assert run_space(parse_space({"floors": False, **space}), str(sweep.folder)) == 1, "it would only fail again, and is not run again"
    assert "1 failed (not-finite): " in capsys.readouterr().out
    assert sweep.ask("select attempt from trial_status where in_plan") == [{"attempt": 1}]


def test_portable_bits_are_refused_in_a_session_of_ray_whose_workers_are_not_pinned(sweep):
    with pytest.raises(ConfigError, match=r"bits: must be native in a Ray session that was started without"):
        sweep.run({"name": "p", "base": {"task": "digits"}, "bits": "portable"})
    assert ResultStore(sweep.folder).live_trials("p") == []


# ------------------------------------------------------------------------------------------------------------ search, early stopping


EARLY = {
    "base": BASE | {"body.weights": "random", "finetune": {"epochs": 4, "warmup_epochs": 0, "decay_epochs": None}},
    "space": {"freezing": {"grid": ["full", "frozen-body"]}, "finetune.lr": {"loguniform": [1e-9, 1e-2]}},
    "search": {"algorithm": "random", "trials": 3},
    "scheduler": {"name": "asha", "cohort": 2},
    "metric": "valid_loss",
    "seeds": 2,
}


def ends(sweep: Sweep, of: str = "s") -> dict[str, tuple]:
    """Trial -> how it ended, with its scores."""
    rows = sweep.ask(f"select trial, status, cause, best_epoch, valid_loss, test_error from trial_status where sweep = '{of}'")
    return {row.pop("trial"): tuple(row.values()) for row in rows}


def test_early_stopping_stops_the_same_candidates_as_a_whole_with_one_slot_with_two_and_without_sharing(sweep, tmp_path):
    assert sweep.run(EARLY | {"name": "s"}, max_concurrent=2) == 0
    rows = sweep.ask("select arm, candidate, count(*) seeds, min(status) status from trial_status group by arm, candidate, status")
    assert {(row["seeds"], row["status"]) for row in rows} == {(2, "COMPLETE"), (2, "PRUNED")}
    by_arm = sweep.ask("select freezing, count(*) n from trials where status = 'COMPLETE' group by all order by all")
    assert [row["freezing"] for row in by_arm] == ["frozen-body", "full"], "no arm is stopped by the other one"
    for row in sweep.ask("select * from trial_status where status = 'PRUNED'"):
        epochs = sweep.ask(f"select epoch, valid_loss from metrics where trial = '{row['trial']}' and stage = 'finetune' order by epoch")
        assert [epoch["epoch"] for epoch in epochs] == list(range(1, row["best_epoch"] + 1))
        assert (row["cause"], row["valid_loss"]) == (f"asha after epoch {len(epochs)}", epochs[-1]["valid_loss"])
    complete = sweep.ask("select trial, count(*) n from metrics where stage = 'finetune' group by all having n > 3")
    assert {row["n"] for row in complete} == {4}
    assert sweep.ask("select max(attempt) n from trial_status") == [{"n": 1}], "a pause is no other attempt"
    assert sweep.ask("select sum(saved_s) s from stages where stage = 'finetune'") == [{"s": 0.0}], "no epoch is computed twice"
    assert len(sweep.pids()) <= 2
    assert not list(sweep.folder.glob("artifacts/finetune/**/*.safetensors")), "where trials paused, no state stays behind"
    other = Sweep(tmp_path / "other")
    assert other.run_here(EARLY | {"name": "s"}, share=False) == 0
    assert ends(other) == ends(sweep)
    assert not list((other.folder / "artifacts-unshared" / "s").glob("*"))
    assert sweep.run_here(EARLY | {"name": "again"}) == 0
    assert ends(sweep, "again") == ends(sweep), "also where complete trials are taken over"
    assert sweep.run(EARLY | {"name": "s"}) == 0
    assert sweep.ask("select max(attempt) n from trial_status") == [{"n": 1}]


def test_trials_in_groups_are_stopped_early_one_by_one_and_have_the_rows_that_they_have_without_ray(sweep, tmp_path):
    tuning = {"epochs": 4, "fused": 4, "warmup_epochs": 0, "decay_epochs": None}
    data = EARLY | {"name": "s", "base": EARLY["base"] | {"body": "mini-roberta-small", "finetune": tuning}}
    assert sweep.run(data) == 0
    assert {row["status"] for row in sweep.ask("select status from trial_status")} == {"COMPLETE", "PRUNED"}
    assert sweep.ask("select max(attempt) n from trial_status") == [{"n": 1}], "a pause is no other attempt"
    assert sweep.ask("select sum(saved_s) s from stages where stage = 'finetune'") == [{"s": 0.0}], "no epoch is computed twice"
    assert not list(sweep.folder.glob("artifacts/finetune/**/*.safetensors"))
    assert len(sweep.pids()) == 1
    other = Sweep(tmp_path / "other")
    assert other.run_here(data, share=False) == 0
    assert ends(other) == ends(sweep)
    assert other.metrics() == sweep.metrics()


def test_tpe_makes_the_same_proposals_whatever_the_timing_and_takes_them_over(tmp_path, ray_session):
    space = {
        "name": "s",
        "base": BASE | {"body.weights": "random", "finetune": {"epochs": 1, "warmup_epochs": 0, "decay_epochs": None}},
        "space": {"finetune.lr": {"loguniform": [1e-5, 1e-2]}, "finetune.dropout": {"choice": [0.0, 0.1]}},
        "search": {"algorithm": "tpe", "trials": 5, "lag": 2},
    }
    first, second = Sweep(tmp_path / "first"), Sweep(tmp_path / "second")
    assert first.run(space, max_concurrent=2) == second.run_here(space) == 0
    assert sorted(row["candidate"] for row in first.trials().values()) == [0, 1, 2, 3, 4]
    assert first.trials() == second.trials()
    assert first.metrics() == second.metrics()
    assert first.run(space | {"name": "again"}) == 0
    assert first.ask("select count(*) n from trials where sweep = 'again' and reused_from = 's'") == [{"n": 5}]


# --------------------------------------------------------------------------------------------------------------- stopped and killed


def wait_until(holds: Callable[[], bool], process: subprocess.Popen, seconds: float = 240) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert process.poll() is None, "the sweep ended before it could be disturbed"
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_sweep_that_was_stopped_and_then_killed_continues_to_the_same_rows(four_axes, sweep, tmp_path):
    file = tmp_path / "space.yaml"
    file.write_text(yaml.safe_dump(FOUR_AXES))
    command = [sys.executable, "-m", "sweeper.cli", "run", str(file), "--results", str(sweep.folder), "--quiet"]

    def tuned() -> int:
        """Trials whose fine-tuning is in the store."""
        return len(list(sweep.folder.glob("artifacts/finetune/*/e00002/COMPLETE.json")))

    stopped = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    wait_until(lambda: tuned() >= 1, stopped)
    stopped.send_signal(signal.SIGINT)
    _, said = stopped.communicate(timeout=180)
    assert stopped.returncode == 130
    assert "Traceback" not in said
    done = sweep.statuses().count("COMPLETE")
    assert done < 12
    assert "RUNNING" not in sweep.statuses()

    killed = subprocess.Popen([*command, "--max-concurrent", "1"])  # one process less that imports torch
    before = tuned()
    wait_until(lambda: tuned() >= before + 2, killed)
    killed.kill()
    killed.wait(timeout=180)
    assert sweep.statuses().count("COMPLETE") < 12

    assert sweep.run_here(FOUR_AXES) == 0
    assert sweep.metrics() == four_axes.metrics()
    assert sweep.trials() == four_axes.trials()
