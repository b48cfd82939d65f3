"""`sweeper tasks`, and what is said of one's own tables: what can run here, what is in the files, which are broken."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from click.testing import Result
from PIL import Image
from typer.testing import CliRunner

from sweeper.cli import app
from sweeper.running.outcome import Outcome

sys.path.append(str(Path(__file__).parents[1] / "orca_core" / "tasks"))

from published import WRITERS


@pytest.fixture
def root(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    return tmp_path / "data"


def sweeper(*arguments: object) -> Result:
    return CliRunner().invoke(app, [*map(str, arguments)], env={"COLUMNS": "200", "TERM": "dumb"})


def write_series(root: Path, name: str = "Waves", suffix: str = "tsv", labels: str = "ab") -> None:
    for part, number in (("TRAIN", 20), ("TEST", 6)):
        lines = [[labels[i % 2], *map(str, np.sin(np.arange(12) * (1 + i % 2) + i))] for i in range(number)]
        if suffix == "tsv":
            text = "\n".join("\t".join(line) for line in lines)
        else:
            text = "@classLabel true a b\n@data\n" + "\n".join(f"{','.join(line[1:])}:{line[0]}" for line in lines)
        (root / f"{name}_{part}.{suffix}").write_text(text)


def write_table(place: Path = Path("t.csv")) -> None:
    rows = [f"{'abc'[i % 3]},{i},{i / 7},{'' if i == 2 else f'{i % 5}%'},{'rg'[i % 2]}" for i in range(60)]
    place.write_text("species,id,width,share,colour\n" + "\n".join(rows))


def pairs(text: str) -> dict[str, str]:
    return {line[:12].strip(): line[13:] for line in text.splitlines() if line[:12].strip()}


def test_what_can_run_here_comes_first_and_the_rest_is_grouped(root):
    WRITERS["nb360/ninapro"](root)
    write_series(root)
    shown = sweeper("tasks", "--data", root).stdout
    ready, own, missing = shown.split("\n\n")
    names = [line.split()[0] for line in ready.splitlines()[2:]]
    assert {"digits", "openml/187", "nb360/ninapro", "ucr/Waves"} < set(names)
    assert "openml/11" not in names
    assert [line.split()[0] for line in own.splitlines()[2:]][-4:] == ["npz:PATH", "csv:PATH", "images:PATH", "hfds:NAME"]
    assert "openml/: 40 tasks, 11 12 14" in missing
    assert "ninapro" not in missing
    assert len(shown.splitlines()) < 35


def test_many_pictures_are_counted_not_listed(root):
    for name in "ab":
        Path("pics", name).mkdir(parents=True)
        for i in range(10):
            Image.new("RGB", (8, 8), (10 * i, 0, 0)).save(f"pics/{name}/{i}.png")
    shown = sweeper("tasks", "images:pics?size=8", "--data", root).stdout
    assert pairs(shown)["file"] == "20 files, the first of them pics/a/0.png"
    assert pairs(shown)["input"] == "3 x 8 x 8, channels first"


def test_a_data_set_of_the_archive_is_shown_with_its_own_files_and_counts(root):
    write_series(root, suffix="ts")
    shown = pairs(sweeper("tasks", "ucr/Waves", "--data", root).stdout)
    assert shown["file"].startswith("Waves_TEST.ts (present)")
    assert (shown["input"], shown["output"]) == ("1 x 12, channels first", "2")
    assert shown["classes"] == "2: a 13, b 13"


def test_a_table_is_shown_with_what_becomes_of_its_columns(root):
    write_table()
    result = sweeper("tasks", "csv:t.csv?target=species&drop=id", "--data", root)
    shown = pairs(result.stdout)
    assert result.exit_code == 0
    assert shown["target"] == "species"
    assert shown["classes"] == "3: a 20, b 20, c 20"
    assert shown["numbers"] == "width"
    assert shown["categories"] == "colour (2)"
    assert shown["left out"] == "id (named by the option drop); share (1 of 60 entries is missing)"
    assert shown["note"] == "column 'share' is left out: 1 of 60 entries is missing"


def test_a_broken_file_fails_the_check_and_the_others_are_still_looked_at(root):
    write_series(root)
    WRITERS["nb360/ninapro"](root)
    assert sweeper("tasks", "--check", "--data", root).exit_code == 0  # missing is not broken
    (root / "187_dev_test_split.npy").write_bytes(b"\x93NUMPY broken")
    (root / "protein").mkdir()
    (root / "protein/psicov.lst").write_bytes(b"1psx\xe9A 58\n")
    write_series(root, "More", labels="xy")
    (root / "More_TEST.tsv").write_text("z\t1\t2\n")
    result = sweeper("tasks", "--check", "--data", root)
    states = {line.split()[0]: line for line in result.stdout.splitlines()}
    assert result.exit_code == 1
    assert "broken: " in states["openml/187"]
    assert "broken: " in states["ucr/More"]
    assert "present" in states["ucr/Waves"]
    assert states["nb360/ninapro"].endswith("present")
    assert states["drug/gdsc"].split()[1] == "missing"
    result = sweeper("tasks", "ucr/More", "--data", root)
    assert result.exit_code == 1
    assert "must have only labels of the training part, but got ['z']. Those are x, y." in pairs(result.stdout)["broken"]


def test_an_error_that_no_reader_foresaw_is_a_broken_file(root, monkeypatch):
    from orca_core.tasks import TaskSpec

    write_series(root)
    monkeypatch.setattr(TaskSpec, "load", lambda spec: [][1])
    result = sweeper("tasks", "--check", "--data", root)
    assert result.exit_code == 1
    assert "broken: IndexError: list index out of range" in result.stdout


def test_the_plan_says_which_column_is_predicted_and_warns(root, tmp_path):
    write_table()
    (tmp_path / "space.yaml").write_text(
        'name: t\nfloors: false\nbase: {align.epochs: 0}\nspace: {task: {grid: ["csv:t.csv?target=species"]}}\nseeds: 2\n'
    )
    result = sweeper("plan", "space.yaml", "--format", "json")
    assert result.exit_code == 0
    assert len(json.loads(result.stdout)) == 2
    said = result.stderr.splitlines()
    assert said[0] == "csv:t.csv?target=species: 3 classes of column 'species' by 3 other columns, 60 rows"
    assert len(said) == 3
    assert "warning: csv:t.csv?target=species: column 'id' has another value in each row" in result.stderr
    assert "warning: csv:t.csv?target=species: column 'share' is left out" in result.stderr


def test_the_plan_warns_of_files_beside_the_pictures_that_are_left_out(root, tmp_path):
    for name in "ab":
        Path("pics", name).mkdir(parents=True)
        for number in range(9):
            Image.new("RGB", (8, 8), (number, ord(name), 0)).save(Path("pics", name, f"{number}.png"))
    Path("pics/a/x.heic").touch()
    (tmp_path / "space.yaml").write_text('name: t\nbase: {align.epochs: 0, task: "images:pics"}\n')
    said = sweeper("plan", "space.yaml").stderr
    assert "warning: images:pics: 1 file is left out, without the name of a picture (.jpg " in said


@pytest.mark.parametrize(
    ("name", "suggestion"),
    [
        ("t.csv", "Did you mean 'csv:t.csv'?"),
        ("sub/../t.csv", "Did you mean 'csv:sub/../t.csv'?"),
        ("a.npz", "Did you mean 'npz:a.npz'? There is no file or folder a.npz yet."),
        ("pics", "Did you mean 'images:pics'?"),
        ("sub/", "It is a path that exists, but nothing here reads such a file or folder."),
        ("nonsense", "Known: "),
    ],
)
def test_a_bare_path_suggests_the_name_of_a_task(root, name, suggestion):
    write_table()
    Path("pics/a").mkdir(parents=True)
    Path("pics/a/1.PNG").touch()
    Path("sub").mkdir()
    result = sweeper("tasks", name)
    assert result.exit_code == 2
    assert suggestion in result.stderr
    assert len(result.stderr) < 300


@pytest.mark.parametrize(
    ("knob", "suggestion"),
    [
        ("lr", "Did you mean 'finetune.lr' or 'align.lr'?"),
        ("batch_size", "Did you mean 'finetune.batch_size' or 'adapt.batch_size'?"),
        ("align.epoch", "Did you mean 'align.epochs'?"),
    ],
)
def test_the_last_part_of_a_knob_suggests_the_whole(knob, suggestion):
    result = sweeper("trial", "--set", "task=digits", "--set", f"{knob}=1")
    assert result.exit_code == 2
    assert f"{knob}: must be a known knob. {suggestion}\n" in result.stderr


def test_a_run_says_it_too_unless_it_is_quiet(root, tmp_path, monkeypatch):
    write_table()
    (tmp_path / "space.yaml").write_text(
        'name: t\nfloors: false\nbase: {align.epochs: 0}\nspace: {task: {grid: ["csv:t.csv?target=species"]}}\n'
    )
    monkeypatch.setattr("sweeper.sweep._launch", lambda *_: Outcome.STOPPED)  # what is said comes before any trial starts
    said = sweeper("run", "space.yaml").stderr
    assert said.startswith("csv:t.csv?target=species: 3 classes of column 'species' by 3 other columns, 60 rows\nwarning: ")
    assert sweeper("run", "space.yaml", "--quiet").stderr == ""
