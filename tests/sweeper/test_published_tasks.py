"""Published tasks on the command line: where their files must lie, whether they do, and runs over them."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from click.testing import Result
from PIL import Image
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


@pytest.mark.parametrize(
    ("name", "spoil"),
    [
        ("nb360/psicov", lambda root: (root / "protein/psicov.lst").write_bytes(b"1psx\xe9A 58\n")),
        ("nb360/fsd50k", lambda root: (root / "chunks/val.csv").write_bytes(b"files,labels,ext\ndata/\xe9.wav,Bark,0\n")),
        ("pdebench/rd", lambda root: zero(root / "ReacDiff_Nu0.5_Rho1.0.hdf5", 90, 1500)),
        ("nb360/ninapro", lambda root: (root / "ninaPro/label_val.npy").write_bytes(b"\x93NUMPY\x01\0\x10\0{'descr': (((((((")),
        ("nb360/deepsea", lambda root: zero(root / "deepsea_filtered.npz", 40, 90)),
        ("nb360/cosmic", lambda root: (root / "cosmic/train_dirs.npy").write_bytes((root / "cosmic/test_dirs.npy").read_bytes()[:-9])),
    ],
)
def test_a_damaged_file_does_not_stop_the_check_of_the_others(root, name, spoil):
    WRITERS[name](root)
    WRITERS["nb360/ecg"](root)
    spoil(root)
    result = sweeper("tasks", "--check", "--data", root)
    assert result.exception is None or isinstance(result.exception, SystemExit)
    states = {line.split()[0]: line for line in result.stdout.splitlines()[1:]}
    assert "broken:" in states[name]
    assert f"{root}/" in states[name]
    assert states["nb360/ecg"].endswith("present")
    assert "drug/ctrp" in states


def zero(path: Path, start: int, stop: int) -> None:
    content = bytearray(path.read_bytes())
    content[start:stop] = bytes(stop - start)
    path.write_bytes(content)


def test_what_the_parts_share_is_shown(root, tmp_path, use_data):
    use_data(root, cache=tmp_path / "cache")
    WRITERS["nb360/ninapro"](root)
    for kind in ("ninapro", "label"):
        (root / f"ninaPro/{kind}_test.npy").write_bytes((root / f"ninaPro/{kind}_val.npy").read_bytes())
    told = "18 of the 18 test samples are also in validation"
    assert told not in sweeper("tasks", "--check", "--data", root).stdout  # by headers alone
    assert told in sweeper("tasks", "nb360/ninapro", "--data", root).stdout
    assert f"present; {told}" in sweeper("tasks", "--check", "--data", root).stdout  # decoded by now
    (tmp_path / "space.yaml").write_text("name: one\nbase: {task: nb360/ninapro, finetune.epochs: 1}\nseeds: 2\n")
    with pytest.warns(RuntimeWarning, match=f"nb360/ninapro: {told}") as told_by:
        result = sweeper("plan", tmp_path / "space.yaml", "--data", root, "--results", tmp_path / "results")
    assert result.exit_code == 0, result.output
    assert len(told_by) == 1


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


@pytest.mark.parametrize("command", ["trial", "run"])
def test_a_damaged_proxy_is_told_before_anything_starts(root, tmp_path, command):
    """Its headers are whole: only reading it shows the damage."""
    folder = root / "tiny-imagenet-200/train"
    for name in ("n01", "n02"):
        (folder / name / "images").mkdir(parents=True)
        for number in range(3):
            Image.effect_noise((9, 9), 40 + number).save(folder / name / "images" / f"{number}.JPEG")
    (folder / "n02/images/1.JPEG").write_bytes((folder / "n02/images/1.JPEG").read_bytes()[:-80])
    knobs = {"task": "digits", "proxy": "tiny-imagenet", "align.epochs": 1}
    (tmp_path / "space.yaml").write_text(f"name: one\nbase: {json.dumps(knobs)}\nseeds: 1\n")
    settings = [argument for knob, value in knobs.items() for argument in ("--set", f"{knob}={value}")]
    arguments = settings if command == "trial" else [tmp_path / "space.yaml"]
    result = sweeper(command, *arguments, "--data", root, "--results", tmp_path / "results")
    assert result.exit_code == 2
    assert "proxy: " in result.stderr
    assert f"{folder}/n02/images/1.JPEG: must be a picture" in result.stderr
    assert "Traceback" not in result.output
    assert not (tmp_path / "results").exists()


def test_a_damaged_proxy_of_the_catalogue_does_not_stop_the_ranking(root, tmp_path):
    (root / "eng.train").write_text("EU NNP I-NP I-ORG\ncall NN O\n")
    knobs = ["--set", "body.weights=random", "--set", "train_samples=40"]
    result = sweeper(
        "proxies", "--task", "openml/187", "--body", "mini-roberta", *knobs, "--data", root, "--results", tmp_path, "--format", "csv"
    )
    assert result.exit_code == 0, result.output
    assert "eng.train: line 2: must have 4 columns like the first line" in result.stdout
    assert "\npydoc," in result.stdout


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
