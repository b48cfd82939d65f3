"""`sweeper export`: one small sweep, written down by hand, read back by the package of each format; and event files of a running sweep."""

from __future__ import annotations

import csv
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from typer.testing import CliRunner

from orca_core.errors import ConfigError
from orca_core.rows import EpochRow
from sweeper.cli import app
from sweeper.planning.planner import make_plan
from sweeper.planning.trials import PlannedTrial
from sweeper.results import Results, ResultStore
from sweeper.running.logged_rows import LoggedRows, check_logging
from sweeper.running.plan_note import plan_note
from sweeper.running.recorder import Recorder
from sweeper.space.reading import parse_space

SPACE = {
    "name": "two-tasks",
    "base": {"body": "mini-roberta", "proxy": "noise", "align.epochs": 1, "finetune.epochs": 2},
    "space": {"task": {"grid": ["digits", "mnist1d"]}, "finetune.lr": {"loguniform": [1e-4, 1e-2]}},
    "search": {"algorithm": "random", "trials": 2},
    "seeds": 2,
}
START = datetime(2026, 1, 1, tzinfo=UTC)


def epochs_of(number: int) -> list[EpochRow]:
    """The rows that trial `number` reports: 2 s of alignment, then two epochs of fine-tuning of 3 s."""
    aligned = EpochRow(stage="align", epoch=1, distance=10.0 + number, seconds=2.0)
    return [aligned, *(EpochRow(stage="finetune", epoch=e, valid_error=(number + 1) / (10 * e), lr=1e-3, seconds=3.0) for e in (1, 2))]


def record(store: Any, trials: list[PlannedTrial]) -> None:
    """Write the trials: of the first task all COMPLETE, of the second one PRUNED, one FAIL, one that runs and one that has not begun."""
    recorder = Recorder(store, "two-tasks", "valid_error", run="r1")
    ends = {4: {"status": "PRUNED", "cause": "asha"}, 5: {"status": "FAIL", "cause": "not-finite", "error": "the loss is NaN"}}
    for number, trial in enumerate(trials[:7]):
        recorder.start(trial, device="cpu")
        recorder.add_rows(trial.id, epochs_of(number) if number != 5 else [])
        scores = {"best_epoch": 2, "valid_error": (number + 1) / 20, "test_error": (number + 1) / 16, "params_total": 7}
        if number < 6:
            end = {"status": "COMPLETE"} | scores if number < 4 else ends[number] | (scores if number == 4 else {})
            recorder.end(trial.id, end)
    for rows in recorder._buffers.values():  # times of a clock that every run of the tests shares
        for row in rows:
            at = START + timedelta(minutes=[trial.id for trial in trials].index(row["trial"]))
            row.update({"started_at": at} if "started_at" in row else {})
            row.update({"ended_at": at + timedelta(seconds=30), "seconds": 30.0} if row.get("ended_at") else {})
    recorder.flush()


@pytest.fixture(scope="module")
def trials() -> list[PlannedTrial]:
    return sorted(make_plan(parse_space(SPACE)).trials, key=lambda trial: (trial.config.task, trial.candidate, trial.config.seed))


@pytest.fixture(scope="module")
def results(tmp_path_factory, trials) -> Path:
    folder = tmp_path_factory.mktemp("exports") / "results"
    plan = make_plan(parse_space(SPACE))
    ResultStore(folder).save_plan("two-tasks", plan.hash, plan_note(plan))
    record(ResultStore(folder), trials)
    return folder


def export(results: Path, to: str, path: Path) -> Result:
    arguments = ["export", "two-tasks", "--to", to, "-o", str(path), "--results", str(results)]
    return CliRunner().invoke(app, arguments, env={"COLUMNS": "200", "TERM": "dumb"})


def test_csv_has_every_row_of_every_table(results, tmp_path):
    done = export(results, "csv", tmp_path / "tables")
    assert (done.exit_code, done.stderr) == (0, "")
    assert "trials (7 rows), metrics (18 rows), stages (0 rows), probes (0 rows), floors (0 rows)" in done.stdout
    with (tmp_path / "tables" / "trials.csv").open() as file:
        rows = list(csv.DictReader(file))
    stored = Results(results).sql("select * from trial_status order by started_at").rows()
    assert [row["trial"] for row in rows] == [row["trial"] for row in stored]
    assert [float(row["finetune_lr"]) for row in rows] == [row["finetune_lr"] for row in stored]
    assert [row["test_error"] for row in rows] == ["0.0625", "0.125", "0.1875", "0.25", "0.3125", "", ""]


def test_pandas_reads_the_same_frames_as_from_sql(results, tmp_path):
    pandas = pytest.importorskip("pandas")
    assert export(results, "pandas", tmp_path / "frames").exit_code == 0
    for table, order in (("trial_status", "started_at, trial"), ("metrics", "trial, stage, phase, fold, epoch")):
        read = pandas.read_parquet(tmp_path / "frames" / f"{'trials' if table == 'trial_status' else table}.parquet")
        pandas.testing.assert_frame_equal(read, Results(results).sql(f"select * from {table} order by {order}").df())


def test_optuna_loads_a_study_for_each_task(results, trials, tmp_path):
    import optuna

    done = export(results, "optuna", tmp_path / "study.db")
    assert (done.exit_code, done.stderr) == (0, "")
    assert "6 trials in the studies two-tasks/digits, two-tasks/mnist1d" in done.stdout
    assert "left out: 1 trials that have not ended" in done.stdout
    storage = f"sqlite:///{tmp_path / 'study.db'}"
    assert optuna.get_all_study_names(storage) == ["two-tasks/digits", "two-tasks/mnist1d"]
    study = optuna.load_study(study_name="two-tasks/digits", storage=storage)
    assert study.best_value == 1 / 20
    first = study.trials[0]
    assert first.params == {"finetune.lr": trials[0].config.finetune.lr}
    assert first.distributions["finetune.lr"] == optuna.distributions.FloatDistribution(1e-4, 1e-2, log=True)
    assert first.intermediate_values == {1: 0.1, 2: 0.05}
    known = {name: first.user_attrs[name] for name in ("trial", "arm", "seed", "role", "candidate", "status", "test_error")}
    assert known == {
        **{"trial": trials[0].id, "arm": trials[0].arm, "seed": 0, "role": "trial", "candidate": 0},
        **{"status": "COMPLETE", "test_error": 1 / 16},
    }
    assert first.duration == timedelta(seconds=30)
    pruned, failed = optuna.load_study(study_name="two-tasks/mnist1d", storage=storage).trials
    assert (pruned.state.name, pruned.value, pruned.user_attrs["cause"]) == ("PRUNED", 0.25, "asha")
    assert (failed.state.name, failed.value, failed.user_attrs["error"]) == ("FAIL", None, "the loss is NaN")


def test_knobs_of_a_grid_are_choices_and_those_that_nothing_reads_no_parameters(tmp_path):
    import optuna

    space = {
        "name": "grid",
        "base": {"task": "digits", "body": "mini-swin"},
        "space": {"align.epochs": {"grid": [0, 5]}, "proxy": {"grid": ["photos", "noise"]}},
    }
    plan = make_plan(parse_space(space))
    recorder = Recorder(ResultStore(tmp_path / "results"), "grid", "valid_error")
    ResultStore(tmp_path / "results").save_plan("grid", plan.hash, plan_note(plan))
    for trial in plan.trials:
        recorder.start(trial, device="cpu")
        recorder.end(trial.id, {"status": "COMPLETE", "valid_error": 0.5})
    recorder.flush()
    arguments = ["export", "grid", "--to", "optuna", "-o", str(tmp_path / "s.db"), "--results", str(tmp_path / "results")]
    assert CliRunner().invoke(app, arguments).exit_code == 0
    study = optuna.load_study(study_name="grid/digits", storage=f"sqlite:///{tmp_path / 's.db'}")
    params = sorted(map(str, (sorted(trial.params.items()) for trial in study.trials)))
    aligned = [f"[('align.epochs', 5), ('proxy', '{proxy}')]" for proxy in ("noise", "photos")]
    assert params == ["[('align.epochs', 0)]", *aligned]
    assert study.trials[0].distributions["align.epochs"] == optuna.distributions.CategoricalDistribution((0, 5))


def test_mlflow_finds_the_runs(results, trials, tmp_path):
    pytest.importorskip("mlflow")
    from mlflow import MlflowClient

    done = export(results, "mlflow", tmp_path / "mlflow.db")
    assert done.exit_code == 0, done.output
    client = MlflowClient(tracking_uri=f"sqlite:///{tmp_path / 'mlflow.db'}")
    ids = {one.name: one.experiment_id for one in client.search_experiments() if one.name != "Default"}
    assert sorted(ids) == ["two-tasks/digits", "two-tasks/mnist1d"]
    runs = client.search_runs([ids["two-tasks/digits"]], order_by=["attributes.start_time"])
    first = runs[0]
    assert len(runs) == 4
    assert (first.info.run_name, first.info.status, first.data.tags["arm"]) == (trials[0].id, "FINISHED", trials[0].arm)
    assert first.data.params["finetune.lr"] == str(trials[0].config.finetune.lr)
    assert first.data.params["seed"] == "0"
    assert first.data.metrics["test_error"] == 1 / 16
    history = client.get_metric_history(first.info.run_id, "finetune/valid_error")
    begun = START.timestamp() * 1000
    assert [(point.step, point.value, point.timestamp - begun) for point in history] == [(1, 0.1, 5000), (2, 0.05, 8000)]
    others = client.search_runs([ids["two-tasks/mnist1d"]], order_by=["attributes.start_time"])
    assert [(run.info.status, run.data.tags["status"]) for run in others] == [("KILLED", "PRUNED"), ("FAILED", "FAIL")]


def test_trackio_finds_the_runs(results, trials, tmp_path):
    pytest.importorskip("trackio")
    from trackio import sqlite_storage

    assert export(results, "trackio", tmp_path / "trackio").exit_code == 0
    before, sqlite_storage.TRACKIO_DIR = sqlite_storage.TRACKIO_DIR, tmp_path / "trackio"
    try:
        logs = sqlite_storage.SQLiteStorage.get_logs("two-tasks-digits", trials[0].id)
        config = sqlite_storage.SQLiteStorage.get_run_config("two-tasks-digits", trials[0].id)
    finally:
        sqlite_storage.TRACKIO_DIR = before
    assert [(log["step"], log["finetune/valid_error"]) for log in logs if "finetune/valid_error" in log] == [(1, 0.1), (2, 0.05)]
    assert logs[-1]["test_error"] == 1 / 16
    assert (config["arm"], config["finetune.lr"]) == (trials[0].arm, trials[0].config.finetune.lr)


def read_events(folder: Path) -> Any:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    return EventAccumulator(str(folder)).Reload()


def settings_in(events: Any) -> Any:
    """What the tab of hyperparameters knows of a run."""
    from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

    content = events.summary_metadata["_hparams_/session_start_info"].plugin_data.content
    return HParamsPluginData.FromString(content).session_start_info


def test_tensorboard_reads_scalars_and_settings(results, trials, tmp_path):
    pytest.importorskip("tensorboard")
    done = export(results, "tensorboard", tmp_path / "runs")
    assert (done.exit_code, done.stderr) == (0, "")
    (folder,) = tmp_path.glob(f"runs/digits/*{trials[1].id[:8]}")
    assert folder.name == f"finetune.lr={trials[1].config.finetune.lr},seed=1-{trials[1].id[:8]}"
    events = read_events(folder)
    begun = (START + timedelta(minutes=1)).timestamp()
    points = [(point.step, round(point.value, 6), point.wall_time - begun) for point in events.Scalars("finetune/valid_error")]
    assert points == [(1, 0.2, 5.0), (2, 0.1, 8.0)]
    assert [point.value for point in events.Scalars("align/distance")] == [11.0]
    assert [point.value for point in events.Scalars("trial/test_error")] == [0.125]
    start = settings_in(events)
    assert start.group_name == trials[1].arm
    assert start.hparams["finetune.lr"].number_value == trials[1].config.finetune.lr
    assert start.hparams["task"].string_value == "digits"


@pytest.mark.parametrize("to", ["csv", "pandas", "tensorboard"])
def test_the_same_sweep_gives_the_same_bytes(to, results, tmp_path):
    for name in ("one", "two"):
        assert export(results, to, tmp_path / name).exit_code == 0
    files = [
        sorted(path.relative_to(tmp_path / name) for path in (tmp_path / name).rglob("*") if path.is_file()) for name in ("one", "two")
    ]
    assert files[0] == files[1] != []
    assert all((tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes() for file in files[0])


def test_everything_that_is_wrong_is_said_at_once_and_nothing_is_overwritten(results, tmp_path):
    (tmp_path / "there").write_text("mine")
    arguments = ["export", "two-task", "--to", "optun", "-o", str(tmp_path / "there"), "--results", str(results)]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 2
    assert "--to: must be one of optuna, mlflow, tensorboard, trackio, csv, pandas, but got 'optun'. Did you mean 'optuna'?" in done.stderr
    assert "--output: must not exist yet" in done.stderr
    assert "NAME: must be the name of a sweep in the results, but got 'two-task'. Did you mean 'two-tasks'?" in done.stderr
    assert (tmp_path / "there").read_text() == "mine"


@pytest.mark.parametrize(("to", "package"), [("mlflow", "mlflow"), ("tensorboard", "tensorboard"), ("trackio", "trackio")])
def test_a_missing_package_is_one_fault_with_the_command(to, package, results, tmp_path, monkeypatch):
    monkeypatch.setattr("sweeper.interchange.find_spec", lambda name: None if name == package else object())
    done = export(results, to, tmp_path / "out")
    assert done.exit_code == 2
    extra = "trackio" if to == "trackio" else "exports"
    assert done.stderr == f"--to: {to} needs the package {package}. Install it: pip install 'orca-sweeper[{extra}]'\n"


def test_what_cannot_be_written_to_its_end_leaves_nothing(results, tmp_path, monkeypatch):
    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device", "tables")

    monkeypatch.setattr("sweeper.interchange.tables.write_table", fail)
    done = export(results, "csv", tmp_path / "out")
    assert done.exit_code == 2
    assert "No space left on device" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_sweep_without_ended_trials_has_nothing_to_export(tmp_path):
    plan = make_plan(parse_space(SPACE))
    ResultStore(tmp_path / "results").save_plan("two-tasks", plan.hash, plan_note(plan))
    done = export(tmp_path / "results", "optuna", tmp_path / "out.db")
    assert (done.exit_code, done.stderr) == (2, "two-tasks has no trial yet that has ended. See `sweeper status two-tasks`.\n")


# ------------------------------------------------------------------------------------------------------------ tensorboard: true


LOGGED = SPACE | {"tensorboard": True}


def logged(folder: Path, told: list[str]) -> LoggedRows:
    return LoggedRows(ResultStore(folder), parse_space(LOGGED), told.append, clock=lambda: 1e9)


def test_a_logged_sweep_has_event_files_of_all_its_rows(trials, tmp_path):
    pytest.importorskip("tensorboard")
    told: list[str] = []
    record(logged(tmp_path / "results", told), trials)
    root = tmp_path / "results" / "tensorboard" / "sweep=two-tasks"
    assert told == []
    assert len(list(root.glob("*/*/events.out.tfevents.0001"))) == 7
    (folder,) = root.glob(f"digits/*{trials[0].id[:8]}")
    events = read_events(folder)
    assert [(point.step, round(point.value, 6)) for point in events.Scalars("finetune/valid_error")] == [(1, 0.1), (2, 0.05)]
    assert [point.value for point in events.Scalars("trial/test_error")] == [0.0625]
    assert settings_in(events).hparams["seed"].number_value == 0
    assert Results(tmp_path / "results").sql("select count(*) as n from trials").rows() == [{"n": 4}]


def test_a_second_attempt_takes_the_place_of_the_first(trials, tmp_path):
    pytest.importorskip("tensorboard")
    store = logged(tmp_path / "results", [])
    for _ in range(2):
        recorder = Recorder(store, "two-tasks", "valid_error")
        recorder.start(trials[0], device="cpu")
        recorder.add_rows(trials[0].id, epochs_of(0))
        recorder.flush()
    (file,) = (tmp_path / "results" / "tensorboard").rglob("events.*")
    assert file.name == "events.out.tfevents.0002"
    assert len(read_events(file.parent).Scalars("finetune/valid_error")) == 2


def test_a_log_that_fails_ends_nothing_and_is_told_once(trials, tmp_path):
    pytest.importorskip("tensorboard")
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "tensorboard").write_text("a file where the folder should be")
    told: list[str] = []
    record(logged(tmp_path / "results", told), trials)
    assert len(told) == 1
    assert told[0].startswith("event files for TensorBoard are no longer written (")
    assert "sweeper export two-tasks --to tensorboard -o runs" in told[0]
    assert Results(tmp_path / "results").sql("select count(*) as n from metrics").rows() == [{"n": 18}]


def test_logging_is_no_part_of_any_id():
    plain, with_log = make_plan(parse_space(SPACE)), make_plan(parse_space(LOGGED))
    assert [(trial.id, trial.arm, trial.result_key) for trial in plain.trials] == [
        (trial.id, trial.arm, trial.result_key) for trial in with_log.trials
    ]


def test_a_log_needs_the_package_and_a_file_system(monkeypatch, tmp_path):
    class Remote:
        local_folder = None

    monkeypatch.setattr("sweeper.running.logged_rows.find_spec", lambda _: None)
    with pytest.raises(ConfigError) as caught:
        check_logging(parse_space(LOGGED), Remote())  # type: ignore[arg-type]
    assert str(caught.value).splitlines() == [
        "tensorboard: needs the package tensorboard. Install it: pip install 'orca-sweeper[exports]'",
        "tensorboard: must be false where results are in an object store, but got True. "
        "Export them when you want to look: sweeper export two-tasks --to tensorboard -o runs",
    ]
    check_logging(parse_space(SPACE), Remote())  # type: ignore[arg-type]


def test_removing_a_sweep_removes_its_event_files(trials, tmp_path):
    pytest.importorskip("tensorboard")
    record(logged(tmp_path / "results", []), trials)
    ResultStore(tmp_path / "results").remove("two-tasks")
    assert not (tmp_path / "results" / "tensorboard" / "sweep=two-tasks").exists()


def test_no_export_loads_torch(results, tmp_path):
    import subprocess

    code = (
        "import sys; from pathlib import Path; from sweeper.interchange import export_sweep; from sweeper.results import Workspace;"
        f"[export_sweep(Workspace({str(results)!r}), 'two-tasks', to, Path({str(tmp_path)!r}) / to) for to in ('csv', 'tensorboard')];"
        "print(*{name for name in ('torch', 'ray', 'mlflow', 'optuna') if name in sys.modules})"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "\n"
