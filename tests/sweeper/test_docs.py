"""The docs are true: generated pages are up to date, and what they show runs."""

from __future__ import annotations

import importlib.util
import re
import shlex
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from sweeper.cli import app
from sweeper.planning.planner import make_plan
from sweeper.space.reading import parse_space
from sweeper.space.yaml_reader import parse_value

DOCS = Path(__file__).parents[2] / "docs"


def blocks(page: str, language: str) -> list[str]:
    """The code blocks of a page in a language."""
    return re.findall(rf"^```{language}\n(.*?)^```", (DOCS / page).read_text(), flags=re.DOTALL | re.MULTILINE)


def test_generated_pages_are_up_to_date(monkeypatch, capsys):
    spec = importlib.util.spec_from_file_location("generate", DOCS / "generate.py")
    generate = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(generate)
    monkeypatch.setattr(sys, "argv", ["generate.py", "--check"])
    assert generate.main() == 0, capsys.readouterr().err


COMMANDS = re.findall(r"^    sweeper (trial .*)$", (DOCS / "tasks.md").read_text(), flags=re.MULTILINE)
OWN_DATA = list(zip(blocks("tasks.md", "python"), COMMANDS, strict=True))
"""Code that writes data, and the command that trains on them."""


@pytest.mark.parametrize(("code", "command"), OWN_DATA, ids=[command.split("=")[1].split()[0] for _, command in OWN_DATA])
def test_the_examples_of_own_data_run(tmp_path, use_data, monkeypatch, code, command):
    monkeypatch.chdir(tmp_path)
    use_data("data")
    exec(compile(code, "tasks.md", "exec"), {})
    quick = ("align.proxy_samples=60", "pretrain.epochs=1", "pretrain.fraction=0.1", "finetune.epochs=2", "finetune.decay_epochs=null")
    result = CliRunner().invoke(app, [*shlex.split(command), *(part for knob in quick for part in ("--set", knob))])
    assert result.exit_code == 0, result.output
    assert "status COMPLETE" in result.stdout


def test_the_example_of_an_own_proxy_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (code,) = blocks("proxies.md", "python")
    exec(compile(code, "proxies.md", "exec"), {})
    describe, trial = re.findall(r"^    sweeper (.*)$", (DOCS / "proxies.md").read_text(), flags=re.MULTILINE)
    shown = CliRunner().invoke(app, shlex.split(describe))
    assert shown.exit_code == 0, shown.output
    features = dict(re.findall(r"^(features|classes|width) +(\S+)", shown.stdout, flags=re.MULTILINE))
    assert features == {"features": "60", "classes": "2", "width": "64"}
    quick = ("pretrain.epochs=1", "pretrain.fraction=0.1", "finetune.epochs=2", "finetune.decay_epochs=null")
    result = CliRunner().invoke(app, [*shlex.split(trial), *(part for knob in quick for part in ("--set", knob))])
    assert result.exit_code == 0, result.output
    assert "status COMPLETE" in result.stdout


@pytest.mark.parametrize("text", blocks("search_spaces.md", "yaml"), ids=lambda text: text.splitlines()[0])
def test_every_yaml_block_is_part_of_a_space_that_plans(text):
    data = parse_value(text)
    if "space" not in data:
        data["space"] = {}
    if "task" not in data["space"]:
        data.setdefault("base", {})["task"] = "digits"
    assert make_plan(parse_space(data)).trials


@pytest.mark.ray
def test_the_examples_of_the_python_api_run_one_after_the_other(tmp_path, monkeypatch, ray_session):
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    for code in blocks("api.md", "python"):
        exec(compile(code, "api.md", "exec"), names)
    assert names["code"] == 0
    assert (tmp_path / "my-model" / "model.safetensors").is_file()
