"""Published tasks on the command line: where their files must lie, whether they do, and runs over them."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from click.testing import Result
from typer.testing import CliRunner

from sweeper.cli import app

sys.path.append(str(Path(__file__).parents[1] / "orca_core" / "tasks"))

from published import WRITERS

SPACE = """
name: two-tasks
base: {finetune.epochs: 1}
space:
  task: {grid: [nb360/ninapro, nb360/satellite, digits]}
"""


@pytest.fixture
def root(tmp_path) -> Path:
    (tmp_path / "data").mkdir()
    return tmp_path / "data"


def sweeper(*arguments: object) -> Result:
    return CliRunner().invoke(app, [*map(str, arguments)], env={"COLUMNS": "200", "TERM": "dumb"})


def test_one_task_is_shown_with_its_files_and_whether_they_are_there(root):
    WRITERS["nb360/ninapro"](root)
    (root / "ninaPro/label_val.npy").unlink()
    (root / "ninaPro/label_test.npy").write_bytes(b"text")
    shown = sweeper("tasks", "nb360/ninapro", "--data", root).stdout
    lines = {line.split()[1]: line for line in shown.splitlines() if line.startswith("file ")}
    assert "(present): npy: (n, t, c) float" in lines["ninaPro/ninapro_train.npy"]
    assert "(missing)" in lines["ninaPro/label_val.npy"]
    assert "(broken)" in lines["ninaPro/label_test.npy"]
    assert "must be a complete npy file" in shown
    for text in (f"data root    {root}", "CC BY-ND", "about 30 MB in all", "NAS-Bench-360", "with reference_data: train and validation"):
        assert text in shown


def test_check_goes_through_all_tasks_in_a_line_each(root):
    WRITERS["nb360/ninapro"](root)
    WRITERS["nb360/cosmic"](root)
    (root / "cosmic/npy_test/f435w/1000/without/2_j8x.npy").unlink()
    (root / "satellite_train.npy").write_bytes(b"text")
    (root / "satellite_test.npy").write_bytes(b"text")
    shown = sweeper("tasks", "--check", "--data", root).stdout
    states = {line.split()[0]: line for line in shown.splitlines()[1:]}
    assert states["digits"].endswith("ships with the packages")
    assert states["nb360/ninapro"].endswith("present")
    assert "missing 1 of 1: s2_cifar100.gz" in states["nb360/spherical"]
    assert "broken:" in states["nb360/satellite"]
    assert "2_j8x.npy" in states["nb360/cosmic"]


def test_a_data_root_that_is_not_there_is_refused(root):
    result = sweeper("tasks", "--check", "--data", root / "elsewhere")
    assert (result.exit_code, result.stdout) == (2, "")
    assert "--data: must be an existing folder" in result.stderr


@pytest.mark.parametrize("command", ["plan", "run"])
def test_missing_files_of_all_tasks_are_told_before_anything_starts(root, tmp_path, command):
    (tmp_path / "space.yaml").write_text(SPACE)
    result = sweeper(command, tmp_path / "space.yaml", "--data", root, "--results", tmp_path / "results")
    assert result.exit_code == 2
    lines = result.stderr.splitlines()
    assert len(lines) == 6 + 2
    assert all(line.startswith(f"{tmp_path / 'space.yaml'}: task: {root}/") for line in lines)
    assert not (tmp_path / "results").exists()


def test_a_broken_file_is_told_by_the_plan(root, tmp_path):
    WRITERS["nb360/ninapro"](root)
    WRITERS["nb360/satellite"](root)
    place = root / "ninaPro/ninapro_train.npy"
    place.write_bytes(place.read_bytes()[:-1])
    (tmp_path / "space.yaml").write_text(SPACE)
    result = sweeper("plan", tmp_path / "space.yaml", "--data", root, "--results", tmp_path / "results")
    assert result.exit_code == 2
    assert len(result.stderr.splitlines()) == 1
    assert "it is truncated" in result.stderr


def test_a_trial_reads_the_data_root_that_is_given(root, tmp_path):
    WRITERS["nb360/ninapro"](root)
    knobs = ("body.weights=random", "finetune.epochs=1", "finetune.warmup_epochs=0", "align.epochs=0")
    settings = [argument for knob in ("task=nb360/ninapro", *knobs) for argument in ("--set", knob)]
    result = sweeper("trial", *settings, "--data", root, "--results", tmp_path / "results")
    assert result.exit_code == 0, result.stderr
    assert "status COMPLETE" in result.stdout


def test_missing_files_of_proxies_are_told_before_anything_starts(root, tmp_path):
    (tmp_path / "space.yaml").write_text(
        "name: proxies\nbase: {task: digits, align.epochs: 1}\nspace:\n  proxy: {grid: [photos, cifar100, cifar100+shuffled]}\n"
    )
    for command in ("plan", "run"):
        result = sweeper(command, tmp_path / "space.yaml", "--data", root, "--results", tmp_path / "results")
        assert result.exit_code == 2
        (line,) = result.stderr.splitlines()
        assert line.startswith(f"{tmp_path / 'space.yaml'}: proxy: {root}/cifar-100-python/train: must be an existing file")
    assert not (tmp_path / "results").exists()


def test_a_proxy_is_shown_with_its_files_and_its_features(root):
    missing = sweeper("proxies", "conll2003", "--data", root).stdout
    assert "conll2003/eng.train (missing)" in missing
    (root / "eng.train").write_text("EU I-ORG\nrejects O\ncalls O\n" * 4)
    shown = sweeper("proxies", "conll2003", "--body", "mini-roberta", "--data", root).stdout
    lines = dict(line.split(maxsplit=1) for line in shown.splitlines())
    assert lines["labels"] == "B-ORG 4, O 8"
    assert (lines["features"], lines["classes"], lines["width"], lines["tokens"]) == ("12", "2", "64", "1.0 on average")
    wrong = sweeper("proxies", "conll2003", "--body", "mini-swin", "--data", root)
    assert (wrong.exit_code, wrong.stdout) == (2, "")
    assert "--body: must read text" in wrong.stderr
