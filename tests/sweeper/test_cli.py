"""The command line: what each command prints and the code it ends with; faults in one line each, no traceback."""

from __future__ import annotations

import csv
import io
import json
import tomllib
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from click.testing import Result
from typer.main import get_command
from typer.testing import CliRunner

from orca_core.rows import EpochRow
from sweeper.cli import app
from sweeper.planning.planner import make_plan
from sweeper.results import Results, ResultStore
from sweeper.running.plan_note import plan_note
from sweeper.running.recorder import Recorder
from sweeper.show.plan_work import local_slots
from sweeper.space.reading import load_space, parse_space

COMMANDS = sorted(get_command(app).commands)  # type: ignore[attr-defined]

STUDY = {
    "name": "study",
    "base": {"task": "digits"},
    "space": {"freezing": {"grid": ["full", "layernorm"]}, "finetune.lr": {"choice": [0.1, 0.2]}},
    "search": {"algorithm": "random", "trials": 2, "seed": 1},
    "seeds": 2,
}
SCORES = {("full", 0): (0.10, 0.30), ("full", 1): (0.02, 0.04), ("layernorm", 0): (0.5, 0.5), ("layernorm", 1): (0.2, None)}
"""Validation errors by arm and candidate, of both seeds; None for a trial that failed."""


def sweeper(*arguments: str) -> Result:
    return CliRunner().invoke(app, [*arguments], env={"COLUMNS": "200", "TERM": "dumb"})


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The results of a small study, as a driver would have written them."""
    folder = tmp_path_factory.mktemp("cli") / "results"
    store, plan = ResultStore(folder), make_plan(parse_space(STUDY))
    store.save_plan("study", plan.hash, plan_note(plan))
    recorder = Recorder(store, "study", "valid_error")
    for trial in plan.trials:
        error = SCORES[trial.config.freezing, trial.candidate][trial.config.seed]
        recorder.start(trial, device="cpu")
        if error is None:
            failure = {"cause": "user-error", "error": "ValueError: too bad", "traceback": "Traceback ...\nValueError: too bad"}
            recorder.end(trial.id, {"status": "FAIL"} | failure)
        else:
            distances = [EpochRow(stage="align", epoch=epoch, label_distances=[[0.5 * epoch, 12.25], None]) for epoch in (1, 2, 3)]
            recorder.add_rows(trial.id, [*distances, EpochRow(stage="finetune", epoch=1, valid_error=error)])
            recorder.end(trial.id, {"status": "COMPLETE", "valid_error": error, "test_error": error + 0.1})
    recorder.flush()
    return folder


@pytest.fixture
def ask(results):
    """`ask(command, ...)` runs a command on the study's results; what it printed."""

    def ask(*arguments: str) -> str:
        result = sweeper(*arguments, "--results", str(results))
        assert (result.exit_code, result.stderr) == (0, ""), result.stderr
        return result.stdout

    return ask


# -------------------------------------------------------------------------------------------------------------------------- help


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself_with_an_example(command):
    result = sweeper(command, "--help")
    assert result.exit_code == 0
    assert f"Example: sweeper {command}" in " ".join(result.stdout.split())


def test_help_is_a_command_and_the_version_an_option():
    version = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]["version"]
    assert sweeper("--version").stdout == f"sweeper {version}\n"
    assert sweeper("help").stdout.split() == sweeper("--help").stdout.split()
    assert sweeper("help", "run").stdout.split() == sweeper("run", "--help").stdout.split()
    assert sweeper("help", "rnu").exit_code == 2


def test_an_unknown_command_or_option_gets_the_nearest_name():
    assert "Did you mean 'query'" in sweeper("qery").stderr
    assert "--results" in sweeper("status", "--result", "x").stderr
    assert sweeper("qery").exit_code == sweeper("status", "--result", "x").exit_code == 2


# ------------------------------------------------------------------------------------------------------------------------ faults

BAD_INPUT = {
    "space that is missing": (["run", "nowhere.yaml"], "nowhere.yaml: must be an existing file."),
    "space that is unknown": (["plan", "quikstart"], "SPACE: must be a file or the name of a search space, but got 'quikstart'. "),
    "set without value": (["plan", "quickstart", "--set", "seeds"], "--set: must have the form knob=value, but got 'seeds'."),
    "set on what varies": (["run", "quickstart", "--set", "proxy=noise"], "{space}: --set proxy: must not be a knob that the space varies"),
    "unit of a budget": (
        ["plan", "quickstart", "--set", "sweep:budget.hours=3h"],
        "{space}: budget.hours: must be a number of hours, but got '3h'.",
    ),
    "set to nonsense": (["run", "quickstart", "--set", "finetune.lr=fast"], "{space}: base.finetune.lr: must be a number, but got 'fast'."),
    "name of a sweep": (["run", "quickstart", "--name", "../x"], "{space}: name: must be usable as a file name"),
    "format of a plan": (["plan", "quickstart", "--format", "xml"], "--format: must be text, json or csv, but got 'xml'."),
    "trial without task": (["trial"], "task: must be given. Example: --set task=digits"),
    "trial with faults": (["trial", "--set", "task=digitz", "--set", "seed=-1"], "task: must be the name of a task, but got 'digitz'."),
    "trial by a bad name": (["trial", "--set", "task=digits", "--name", "../x"], "--name: must be usable as a file name"),
    "device": (["trial", "--set", "task=digits", "--device", "tpu"], "--device: must be cpu or cuda, but got 'tpu'."),
    "sweep that is unknown": (["best", "stdy", "--results", "{results}"], "NAME: must be the name of a sweep in the results, but"),
    "status of none": (["status", "stdy", "--results", "{results}"], "NAME: must be the name of a sweep in the results, but got"),
    "trial that is unknown": (["show", "xyz", "--results", "{results}"], "TRIAL: must be the start of one trial's id, but got 'xyz'."),
    "format of a trial": (["show", "a", "--format", "xml", "--results", "{results}"], "--format: must be text or json, but got 'xml'."),
    "task of another sweep": (
        ["best", "study", "--task", "digitz", "--results", "{results}"],
        "--task: must be a task of study with ranked",
    ),
    "trial that is no id": (["show", "a' or 1=1", "--results", "{results}"], "TRIAL: must be the start of a trial's id: "),
    "no results": (["query", "select 1", "--results", "nowhere"], "nowhere: there are no results here. Check the spelling of --results"),
    "no results at all": (["query", "select 1"], "results: there are no results here. Run a sweep first, or give the place"),
    "status of no results": (["status", "--results", "nowhere"], "nowhere: there are no results here. Check the spelling of --results"),
    "best of no results": (["best", "study", "--results", "nowhere"], "nowhere: there are no results here. Check the spelling of --resu"),
    "SQL that is wrong": (["query", "select frezing from trials", "--results", "{results}"], "Binder Error: "),
    "SQL that writes": (["query", "drop table trials", "--results", "{results}"], "results are read-only: give a SELECT, but got DROP"),
    "format of a table": (["query", "select 1", "--format", "xml", "--results", "{results}"], "--format: must be one of table"),
    "format, before the query": (["query", "select zz", "--format", "xml", "--results", "{results}"], "--format: must be one of table"),
    "output": (["query", "select 1", "-o", "/nowhere/x", "--results", "{results}"], "--output: must be writable (No such file"),
    "entry of the catalogue": (["tasks", "digitz"], "task: must be the name of a task, but got 'digitz'. Did you mean 'digits'?"),
    "names to rank": (
        ["proxies", "phots", "--task", "digitz"],
        "task: must be the name of a task, but got 'digitz'. Did you mean 'digits'?",
    ),
    "proxy of another modality": (["proxies", "pydoc", "--task", "digits", "--body", "mini-swin"], "proxy: must be a proxy of images, but"),
    "knob that is an argument": (
        ["proxies", "--task", "digits", "--set", "seed=1"],
        "--set: must not set what an argument sets, but got 'seed'",
    ),
    "format of a ranking": (
        ["proxies", "--task", "digits", "--format", "xml"],
        "--format: must be one of table, csv, json, markdown, latex",
    ),
    "seed of a list": (["proxies", "--seed", "1"], "--seed: must be used with --task."),
    "names of a list": (["proxies", "photos", "noise"], "NAME: must be one, without --task, but got 'photos noise'."),
    "results in no bucket": (["status", "--results", "s3://"], "s3://: must name a bucket. Give a URI like s3://bucket/folder."),
    "results in an unknown place": (["status", "--results", "ftpx://a/b"], "ftpx://a/b: cannot be opened as a store"),
}


@pytest.mark.parametrize(("arguments", "said"), BAD_INPUT.values(), ids=BAD_INPUT)
def test_bad_input_is_said_on_stderr_with_exit_code_2_and_nothing_is_started(arguments, said, results, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shipped = Path(__file__).parents[2] / "search_spaces" / "quickstart.yaml"
    result = sweeper(*(argument.format(results=results) for argument in arguments))
    assert result.stderr.startswith(said.format(space=shipped))
    assert (result.exit_code, result.stdout) == (2, "")
    assert isinstance(result.exception, SystemExit)
    assert not list(tmp_path.iterdir())


def test_every_fault_of_a_trial_is_said_at_once():
    said = sweeper("trial", "--set", "task=digits", "--set", "finetune.lr=0", "--set", "frezing=full").stderr.splitlines()
    assert [line.partition(":")[0] for line in said] == ["frezing", "finetune.lr"]


def test_every_fault_of_a_plan_is_said_at_once():
    said = sweeper("plan", "quickstart", "--set", "seeds", "--set", "finetune.lr=fast", "--name", "../x").stderr.splitlines()
    assert [line.split(": ")[1] for line in said] == ["--set", "base.finetune.lr", "name"]


@pytest.mark.parametrize(
    ("arguments", "paths"),
    [
        (["trial", "--set", "task=digitz", "--device", "tpu"], ["--set", "--device", "task"]),
        (["trial", "--set", "sweep:seeds=2", "--format", "xml"], ["--set", "--set sweep:seeds", "--format", "task"]),
        (["floors", "digitz", "--set", "finetune.lr=1"], ["--set", "--set finetune.lr", "task"]),
        (["proxies", "--task", "digitz", "--set", "seed=1"], ["--set", "--set", "task"]),
        (["plan", "study", "--decide", "4", "--format", "xml", "--set", "finetune.clip=-1"], ["--set", "--format", "base.finetune.clip"]),
    ],
    ids=["trial", "trial with keys of a sweep", "floors", "proxies", "plan --decide"],
)
def test_a_malformed_set_is_said_together_with_all_other_faults(results, arguments, paths):
    result = sweeper(*arguments, "--set", "train_samples", "--results", str(results))
    assert [line.partition(": ")[0] for line in result.stderr.splitlines()] == paths
    assert (result.exit_code, result.stdout) == (2, "")


# ------------------------------------------------------------------------------------------------------------------------- query

SQL = "select freezing, candidate, seed, valid_error, status, align_lr_steps from trial_status order by 1, 2, 3"


def test_query_as_csv_and_json_parses_back_to_the_same_rows(ask):
    rows = json.loads(ask("query", SQL, "--format", "json"))
    assert [(row["freezing"], row["candidate"], row["seed"]) for row in rows] == [(*arm, seed) for arm in SCORES for seed in (0, 1)]
    assert [row["valid_error"] for row in rows] == [error for errors in SCORES.values() for error in errors]
    assert rows[0]["align_lr_steps"] == [20, 40, 60]
    plain = list(csv.DictReader(io.StringIO(ask("query", SQL, "--format", "csv"))))
    assert [float(row["valid_error"] or "nan") for row in plain[:-1]] == [row["valid_error"] for row in rows[:-1]]
    assert plain[-1]["valid_error"] == ""


@pytest.mark.parametrize("format", ["table", "csv", "json", "markdown", "latex"])
def test_query_writes_to_a_file_what_it_would_print(ask, tmp_path, format):
    file = tmp_path / "answer"
    assert ask("query", SQL, "--format", format, "-o", str(file)) == ""
    assert file.read_text() == ask("query", SQL, "--format", format)


@pytest.mark.parametrize(
    ("name", "format"), [("a.csv", "csv"), ("a.JSON", "json"), ("a.md", "markdown"), ("a.tex", "latex"), ("a.txt", "table")]
)
def test_the_format_of_a_file_is_that_of_its_suffix_unless_another_is_asked_for(ask, tmp_path, name, format):
    file = tmp_path / name
    ask("query", SQL, "-o", str(file))
    assert file.read_text() == ask("query", SQL, "--format", format)
    ask("query", SQL, "-o", str(file), "--format", "latex")
    assert file.read_text() == ask("query", SQL, "--format", "latex")


def test_a_query_is_written_as_parquet_even_with_two_columns_of_a_name(ask, results, tmp_path):
    ask("query", f"select *, 1 as seed from ({SQL})", "-o", str(tmp_path / "a.parquet"))
    rows = pq.read_table(tmp_path / "a.parquet")
    assert rows.drop_columns("seed_1").to_pylist() == Results(results).sql(SQL).rows()


# ------------------------------------------------------------------------------------------------------------------------ reading


def test_best_ranks_arms_by_the_mean_over_seeds_of_their_best_candidate(ask):
    first, second = json.loads(ask("best", "study", "--format", "json"))
    assert (first["rank"], first["freezing"], first["seeds"]) == (1, "full", 2)
    assert first["valid_error"] == pytest.approx(0.03)
    assert first["valid_error_ci95"] == pytest.approx(12.706 * 0.01, rel=1e-4)  # t of 1 degree, times the standard error
    assert first["test_error_ci95"] == pytest.approx(first["valid_error_ci95"])
    assert first["test_error"] == pytest.approx(0.13)
    # Its candidate 1 has the better mean, but over one seed of two.
    assert (second["rank"], second["freezing"], second["valid_error"]) == (2, "layernorm", 0.5)
    assert {key: second[key] for key in ("candidates", "completed", "pruned", "failed")} == {
        "candidates": 2,
        "completed": 1,
        "pruned": 0,
        "failed": 1,
    }
    assert all(name.isidentifier() for name in first), "columns that a program can use"
    assert len(json.loads(ask("best", "study", "--top", "1", "--format", "json"))) == 1


def test_the_best_arm_is_exported_with_its_candidate_and_all_of_its_seeds(ask, tmp_path):
    said = ask("best", "study", "--export", str(tmp_path / "best.yaml"))
    assert "runs the arm again with 2 seeds" in said
    exported = {trial.id for trial in make_plan(load_space(tmp_path / "best.yaml")).trials}
    query = "select trial from trials where freezing = 'full' and candidate = 1"
    assert exported == {row["trial"] for row in json.loads(ask("query", query, "--format", "json"))}


def test_status_counts_trials(ask):
    (line,) = json.loads(ask("status", "--format", "json"))
    expected = {"sweep": "study", "planned": 8, "complete": 7, "pruned": 0, "fail": 1, "running": 0, "interrupted": 0, "driver": "none"}
    assert {key: line[key] for key in expected} == expected


def test_show_has_config_scores_epochs_and_traceback(ask):
    rows = json.loads(ask("query", "select trial, status from trial_status order by status desc", "--format", "json"))
    failed, complete = rows[0]["trial"], rows[-1]["trial"]
    text = ask("show", failed)
    assert text.startswith(f"trial {failed} of sweep study: FAIL")
    assert "ValueError: too bad" in text.partition("\ntraceback\n")[2]
    text = ask("show", complete)
    assert all(f"\n{section}\n" in text for section in ("config", "result", "stages", "epochs"))
    assert "\ntraceback\n" not in text


def test_show_has_the_label_distances_of_the_first_and_the_last_epoch_of_alignment(ask):
    query = "select trial from trials where status = 'COMPLETE' limit 1"
    text = ask("show", json.loads(ask("query", query, "--format", "json"))[0]["trial"])
    for epoch, cell in [(1, "0.5"), (3, "1.5")]:
        shown = text[text.index(f"label distances of alignment epoch {epoch}") :].splitlines()[1:4]
        assert [line.split() for line in shown] == [["0", "1"], ["0", cell, "12.25"], ["1", "-", "-"]]
    assert "alignment epoch 2" not in text


def test_show_as_json_has_the_same_for_a_program(ask):
    query = "select trial, valid_error from trials where freezing = 'full' limit 1"
    (row,) = json.loads(ask("query", query, "--format", "json"))
    (found,) = json.loads(ask("show", row["trial"], "--format", "json"))
    assert (found["trial"], found["sweep"], found["status"]) == (row["trial"], "study", "COMPLETE")
    assert (found["config"]["freezing"], found["result"]["valid_error"]) == ("full", row["valid_error"])
    assert [(epoch["stage"], epoch["epoch"]) for epoch in found["epochs"]] == [("align", 1), ("align", 2), ("align", 3), ("finetune", 1)]
    assert (found["stages"], found["traceback"]) == ([], None)


@pytest.mark.parametrize("command", [("best", "study"), ("best", "study", "--task", "digits"), ("status",), ("status", "study")])
def test_best_and_status_are_text_that_fits_80_columns(results, command):
    result = CliRunner().invoke(app, [*command, "--results", str(results)], env={"COLUMNS": "80"})
    assert result.exit_code == 0
    assert max(map(len, result.stdout.splitlines())) <= 80
    if command[0] == "best" or len(command) > 1:
        assert all(name in result.stdout for name in ("full", "layernorm"))


def test_status_of_arms_is_a_table_for_programs(ask):
    rows = {row["freezing"]: row for row in csv.DictReader(io.StringIO(ask("status", "study", "--arms", "--format", "csv")))}
    counts = {name: [row[key] for key in ("candidates", "completed", "pruned", "failed")] for name, row in rows.items()}
    assert counts == {"full": ["2", "2", "0", "0"], "layernorm": ["2", "1", "0", "1"]}


def test_best_as_latex(ask):
    text = ask("best", "study", "--format", "latex")
    assert text.count(r"\\") == 3
    assert r"valid\_error\_ci95" in text


# ---------------------------------------------------------------------------------------------------------------------- catalogue


@pytest.mark.parametrize(
    ("command", "entry", "shown"),
    [
        ("spaces", "quickstart", "align.epochs: {grid: [0, 10]}"),
        ("tasks", "openml/1510", "1-auroc (an error, lower is better)"),
        ("proxies", "noise-matched", "the control"),
        ("bodies", "mini-roberta", "text"),
        ("bodies", "none", "bodiless, not pretrained"),
        ("bodies", "cnn", "a small residual network"),
    ],
)
def test_the_catalogue_lists_entries_and_shows_one_in_full(command, entry, shown):
    listed, full = sweeper(command), sweeper(command, entry)
    assert entry in {line.split()[0] for line in listed.stdout.splitlines() if line}
    assert shown in full.stdout
    assert (listed.exit_code, full.exit_code) == (0, 0)


def test_proxies_are_ranked_by_the_numbers_that_a_trial_has(tmp_path, use_data, monkeypatch):
    monkeypatch.chdir(tmp_path)
    use_data(tmp_path)
    knobs = {
        "pretrain.epochs": 1,
        "pretrain.fraction": 0.1,
        "train_samples": 40,
        "align.proxy_samples": 60,
        "finetune.decay_epochs": "null",
    }
    settings = [part for knob, value in knobs.items() for part in ("--set", f"{knob}={value}")]
    task = ["--task", "digits", "--body", "mini-swin", "--seed", "2"]
    asked = sweeper("proxies", "photos+shuffled", "noise+k:20", "photos", *task, *settings, "--store", "asked", "--format", "json")
    assert asked.exit_code == 0, asked.stderr
    found = {row["proxy"]: row for row in json.loads(asked.stdout)}
    missing = {"cifar10", "cifar100", "tiny-imagenet"}
    usable = list(found)[: -len(missing)]
    assert set(usable) == {"photos", "photos+shuffled", "fractals", "noise", "noise-matched", "noise+k:20"}
    assert usable == sorted(usable, key=lambda proxy: found[proxy]["proxy_distance"])
    assert {name: found[name]["unusable"].partition(" ")[0] for name in list(found)[len(usable) :]} == dict.fromkeys(missing, "missing")
    assert found["photos"]["proxy_distance_unlabelled"] == found["photos+shuffled"]["proxy_distance_unlabelled"]

    for proxy in ("photos+shuffled", "noise+k:20"):
        given = {"task": "digits", "body": "mini-swin", "seed": 2, "proxy": proxy, "align.epochs": 2, "finetune.epochs": 1}
        more = [part for knob, value in given.items() for part in ("--set", f"{knob}={value}")]
        assert sweeper("trial", *settings, *more, "--name", "one", "--results", "own").exit_code == 0
    answer = sweeper("query", "select proxy, proxy_distance, proxy_distance_unlabelled from trials", "--results", "own", "--format", "json")
    trials = json.loads(answer.stdout)
    assert len(trials) == 2
    assert all(found[row["proxy"]] | row == found[row["proxy"]] for row in trials)


@pytest.mark.parametrize("arguments", [("noise",), ("--task", "digits")])
def test_a_bodiless_arm_has_no_proxies(arguments):
    asked = sweeper("proxies", *arguments, "--body", "cnn")
    assert (asked.exit_code, asked.stdout) == (2, "")
    assert "--body: must be a body with an embedding of its own" in asked.stderr


def test_a_proxy_that_cannot_be_read_is_listed_and_the_others_are_ranked(tmp_path, use_data, monkeypatch):
    monkeypatch.chdir(tmp_path)
    use_data(tmp_path)
    (tmp_path / "cifar-100-python").mkdir()
    (tmp_path / "cifar-100-python" / "train").write_bytes(b"no pickle")
    small = ("--set", "body.weights=random", "--set", "train_samples=40", "--set", "align.proxy_samples=60")
    asked = sweeper("proxies", "--task", "digits", "--body", "mini-swin", *small, "--format", "csv")
    assert asked.exit_code == 0, asked.stderr
    rows = {row["proxy"]: row for row in csv.DictReader(io.StringIO(asked.stdout))}
    assert {name for name, row in rows.items() if row["proxy_distance"]} == {"photos", "fractals", "noise", "noise-matched"}
    assert f"{tmp_path}/cifar-100-python/train: " in rows["cifar100"]["unusable"]


def test_every_fault_of_a_ranking_is_said_at_once_and_nothing_is_started(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = sweeper("proxies", "phots", "text:nowhere.txt", "--task", "digits", "--body", "mini-swin", "--seed", "-1")
    assert result.exit_code == 2
    assert [line.partition(":")[0] for line in result.stderr.splitlines()] == ["seed", "proxy", "proxy"]
    assert "Did you mean 'photos'" in result.stderr
    assert not list(tmp_path.iterdir())


def test_spaces_are_listed_by_their_question_and_without_benchmarks(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "search_spaces").mkdir()
    (tmp_path / "search_spaces" / "broken.yaml").write_text("name: [")
    result = CliRunner().invoke(app, ["spaces"], env={"COLUMNS": "80"})
    assert max(map(len, result.stdout.splitlines())) <= 80
    names = {line.split()[0] for line in result.stdout.splitlines() if not line.startswith(" ")}
    assert {"quickstart", "freezing-laptop", "broken"} <= names
    assert "storm" not in names
    assert "/" not in result.stdout, "no paths"


TWO_ARMS = {"base": {"task": "digits", "body.weights": "random", "align.epochs": 0}, "space": {"freezing": {"grid": ["full", "layernorm"]}}}


def test_a_plan_ends_with_its_summary_and_counts_what_it_takes_over(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("os.cpu_count", lambda: 4)
    recorder = Recorder(ResultStore("results"), "first", "valid_error")
    first, _ = make_plan(parse_space({"name": "first", **TWO_ARMS})).trials
    recorder.start(first, device="cpu")
    recorder.end(first.id, {"status": "COMPLETE", "valid_error": 0.5, "numpy_version": "2.3"})
    recorder.flush()
    Path("second.yaml").write_text(json.dumps({"name": "second", "seeds": 2, **TWO_ARMS}))
    result = sweeper("plan", "second.yaml")
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    starts = [line.partition(" ")[0] for line in lines]
    assert starts.index("trial") < starts.index("Stages") < starts.index("second") < starts.index("Results") < starts.index("Work")
    assert starts.index("Work") >= len(lines) - 5, "the summary is what a terminal shows last"
    assert lines[starts.index("Results")] == "Results  0 done, 1 taken over from other sweeps, 0 stale, 3 to run"
    assert " min on the 4 slots of this machine: " in lines[starts.index("Work")] or " s on the 4 slots" in lines[starts.index("Work")]
    states = {row["trial"]: row["state"] for row in json.loads(sweeper("plan", "second.yaml", "--format", "json").stdout)}
    assert states[first.id] == "take over"
    assert sorted(states.values()) == ["take over", "to run", "to run", "to run"]


def test_a_plan_says_what_each_trial_needs_and_how_long_it_takes_on_how_many_slots(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    resources = {"cpu": 2, "gpu": 0.5, "labels": {"ray.io/market-type": "spot"}}
    base = {"task": "digits", "finetune.epochs": 6}
    space = {"name": "s", "base": base, "space": {"align.epochs": {"grid": [0, 4]}}, "seeds": 2, "resources": resources}
    Path("s.yaml").write_text(json.dumps(space))
    result = sweeper("plan", "s.yaml", "--slots", "1", "--slots", "4")
    assert result.exit_code == 0, result.output
    lines = {line[:9].rstrip(): line[9:] for line in result.stdout.splitlines()}
    assert lines["Needs"] == "each trial 2 CPUs, 0.5 GPUs, on a node with ray.io/market-type: spot"
    # Guessed seconds: pretraining 8, source features 0.5 and alignment 2 of each seed, fine-tuning 6 of each trial.
    assert lines["Time"] == "about 37 s on 1 slot, about 16 s on 4 slots, at best about 16 s, with 2 slots busy on average"
    assert lines["GPUs"] == "about 0.005 GPU-hours"
    Path("s.yaml").write_text(json.dumps(space | {"search": "tpe", "space": {"finetune.lr": {"uniform": [0.1, 0.2]}}, "scheduler": "asha"}))
    assert (
        "at best about 20 s, with 3 slots busy on average; without the 24 trials that are proposed later"
        in sweeper("plan", "s.yaml").output
    )
    assert "Invalid value for '--slots'" in sweeper("plan", "s.yaml", "--slots", "0").output


@pytest.mark.parametrize(("resources", "slots"), [({}, 4), ({"cpu": 1.5}, 2), ({"cpu": 4}, 1), ({"gpu": 0.5}, 1)])
def test_slots_are_what_fits_on_this_machine(monkeypatch, resources, slots):
    monkeypatch.setattr("os.cpu_count", lambda: 4)
    assert local_slots(parse_space({"name": "s", "resources": resources, **TWO_ARMS})) == slots


def test_a_plan_is_printed_and_nothing_is_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = sweeper("plan", "quickstart", "--set", "sweep:seeds=1", "--format", "json")
    assert len(json.loads(result.stdout)) == 20
    assert not list(tmp_path.iterdir())


def test_a_trial_prints_what_it_computes_and_counts_what_it_finds(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    knobs = ("task=openml/187", "body.weights=random", "align.epochs=0", "finetune.warmup_epochs=0", "finetune.decay_epochs=null")
    command = ["trial", *(part for knob in knobs for part in ("--set", knob))]
    computed = sweeper(*command, "--set", "finetune.epochs=2").stdout.splitlines()
    assert [line.split()[:2] for line in computed[:-1]] == [["finetune", "1"], ["finetune", "2"], ["finetune", "total"]]
    assert "from the store" not in computed[2]
    found = sweeper(*command, "--set", "finetune.epochs=2").stdout.splitlines()
    assert [line.split()[:2] for line in found[:-1]] == [["finetune", "total"]]
    assert "2 of 2 epochs from the store" in found[0]
    assert found[-1] == computed[-1]
    assert "None" not in "".join(computed + found)
    rows = [json.loads(line) for line in sweeper(*command, "--set", "finetune.epochs=2", "--format", "json").stdout.splitlines()]
    assert [row.get("epoch") for row in rows] == [1, 2, None, None], "for a program, every row as in a sweep"


def test_a_single_trial_has_no_keys_of_a_sweep():
    result = CliRunner().invoke(app, ["trial", "--set", "task=digits", "--set", "sweep:bits=portable"])
    assert result.exit_code == 2
    assert "--set sweep:bits: must be a knob: a single trial has no keys of a sweep, but got 'portable'." in result.output
    assert "--set bits=portable" in result.output
