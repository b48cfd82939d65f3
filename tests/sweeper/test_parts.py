"""What a plan says of the parts of its tasks, of small validation parts, and of where knobs come from."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from orca_core.config.resolve import resolve_config
from orca_core.errors import ConfigError
from sweeper import sweep
from sweeper.results.workspace import Workspace
from sweeper.running.outcome import Outcome
from sweeper.running.parts import parts_of, warn_of_small_parts
from sweeper.show.catalogue import describe
from sweeper.show.plan import describe_plan
from sweeper.space.reading import parse_space


@pytest.fixture
def task(tmp_path) -> str:
    """30 series in 2 classes, two thirds of them of class 1."""
    y = np.array([0, 1, 1] * 10)
    np.savez(tmp_path / "mine.npz", x=np.zeros((30, 12), "float32"), y=y)
    return f"npz:{tmp_path / 'mine.npz'}"


def lines_of(*knobs: dict) -> list[str]:
    return [parts.line() for parts in parts_of(map(resolve_config, knobs))]


def test_the_parts_and_the_majority_class_are_named_once_for_each_split(task):
    whole = (
        f"{task}: 21 train, 3 validation, 6 test samples, 2 classes; 1-accuracy of the majority class: 0.333 in validation, 0.333 in test"
    )
    assert lines_of({"task": task}, {"task": task, "seed": 1}, {"task": task, "split_seed": 1}) == [whole]
    assert lines_of({"task": task, "train_samples": 10}) == [whole.replace("21 train", "21 train (10 of them used)")]
    (folds,) = lines_of({"task": task, "validation.folds": 5})
    assert folds.startswith(f"{task}: 24 train, validated in 5 folds of 4 or 5, 6 test samples")
    assert len(lines_of({"task": task}, {"task": task, "valid_share": 0.5})) == 2


def test_a_small_validation_part_is_warned_of_with_what_it_can_show(task):
    (warning,) = warn_of_small_parts([resolve_config({"task": task})])
    assert warning.startswith(f"{task} has only 3 validation samples, so 0.33 is the least difference in error that they can show.")
    assert "Set validation.folds" in warning
    (folds,) = warn_of_small_parts([resolve_config({"task": task, "validation.folds": 5})])
    assert "only 24 validation samples, so 0.042" in folds
    assert warn_of_small_parts([resolve_config({"task": "digits"}), resolve_config({"task": task, "selection": "test"})]) == []


def test_a_run_warns_before_anything_starts(task, tmp_path, monkeypatch, capsys):
    def launch(*_: object) -> Outcome:
        assert "has only 3 validation samples" in capsys.readouterr().err
        return Outcome.STOPPED

    monkeypatch.setattr(sweep, "_launch", launch)
    monkeypatch.setattr(sweep, "_check_machine", lambda *_: None)
    space = parse_space({"name": "s", "base": {"task": task, "body.weights": "random", "align.epochs": 0}, "floors": False})
    assert sweep.run_space(space, tmp_path / "results") == 130


def test_a_task_shows_its_parts_and_all_of_its_recipes(task):
    text = describe("tasks", task)
    assert "\nsamples      21 train, 3 validation, 6 test, 2 classes; 1-accuracy of the majority class: 0.333 in validation" in text
    assert "\nrecipe       published-style: " in text


def plan_text(tmp_path: Path, space: dict, **overrides: object) -> str:
    parsed = parse_space({"name": "s", **space}, overrides=overrides)
    return describe_plan(parsed, Workspace(tmp_path / "results", tmp_path / "store"), "text")


def test_a_plan_shows_parts_warnings_and_sources_of_knobs(task, tmp_path):
    space = {"base": {"task": task, "align.epochs": 0}, "space": {"finetune.lr": {"grid": [1e-3, 1e-4]}}}
    text = plan_text(tmp_path, space, **{"finetune.epochs": 2})
    lines = text.splitlines()
    assert any(line.startswith(f"Tasks    {task}: 21 train") for line in lines)
    assert any(line.startswith(f"Warning  {task} has only 3") for line in lines)
    assert "Knobs    search space: task, align.epochs, finetune.lr" in lines
    assert "         --set: finetune.epochs" in lines
    recipe = text[text.index("recipe laptop") : text.index("defaults:")]
    assert "finetune.batch_size=32" not in recipe  # the default
    assert "finetune.clip=1.0" in recipe
    assert not [knob for knob in ("finetune.lr", "finetune.epochs", "align.") if knob in recipe]  # given, or not read


def test_a_plan_names_the_recipe_of_a_full_size_body(task, tmp_path):
    (tmp_path / "body").mkdir()
    (tmp_path / "body" / "config.json").write_text(json.dumps({"model_type": "bert", "hidden_size": 32, "num_hidden_layers": 2}))
    (tmp_path / "body" / "model.safetensors").touch()
    text = plan_text(tmp_path, {"base": {"task": task, "body": f"hf:{tmp_path / 'body'}"}})
    assert f"recipe published-style of {task}, after nb360/satellite:" in " ".join(text.split())


def test_folds_are_counted_and_stand_in_the_tree(task, tmp_path):
    base = {"task": task, "validation.folds": 3, "body.weights": "random", "align.epochs": 1}
    text = plan_text(tmp_path, {"base": base, "seeds": 2})
    assert "source 2 distinct of 2, align 8 distinct of 8, finetune 8 distinct of 8" in text
    assert f"align {task}, otdd-exact, folds, to epoch 1: 6 for 2 trials" in text
    assert f"align {task}, otdd-exact, to epoch 1: 2 for 2 trials" in text


def test_early_stopping_and_folds_are_refused_together():
    space = {"name": "s", "base": {"task": "digits"}, "scheduler": "asha"}
    with pytest.raises(ConfigError, match=r"scheduler\.name: must be fifo with validation\.folds, but got 'asha'"):
        parse_space(space | {"base": {"task": "digits", "validation.folds": 3}})
    with pytest.raises(ConfigError, match=r"scheduler\.name: must be fifo"):
        parse_space(space | {"space": {"validation.folds": {"grid": [None, 3]}}})
    among = {"scheduler": {"name": "asha", "among": "task"}}
    parse_space(space | among | {"base": {"task": "digits", "validation.folds": 3}, "space": {"validation.fold": {"grid": [0, 1, 2]}}})
