"""The docs are true: generated pages are up to date, and what they show runs."""

from __future__ import annotations

import ast
import importlib.util
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from typer.main import get_command
from typer.testing import CliRunner

import sweeper
from orca_core.floors.rows import FloorRow
from orca_core.rows import EpochRow
from sweeper.cli import app
from sweeper.planning.planner import make_plan
from sweeper.results import Results, ResultStore
from sweeper.running.recorder import Recorder
from sweeper.show.figures import FIGURES
from sweeper.show.summary import advise_query
from sweeper.show.tables import render
from sweeper.space.reading import parse_space
from sweeper.space.yaml_reader import parse_value, read_mapping

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


ROOT = DOCS.parent
PAGES = sorted([*DOCS.glob("*.md"), ROOT / "README.md"])


def queries_of(page: Path) -> list[str]:
    """Every query that a page shows: in SQL blocks, as an argument of `sweeper query`, as a text in Python."""
    text = page.read_text()
    found = re.findall(r"^```sql\n(.*?)^```", text, flags=re.DOTALL | re.MULTILINE)
    found += [sql for sql in re.findall(r"sweeper query \"([^\"]+)\"", text) if "..." not in sql]
    return found + [sql for code in re.findall(r"^```python\n(.*?)^```", text, flags=re.DOTALL | re.MULTILINE) for sql in queries_in(code)]


def queries_in(code: str) -> list[str]:
    """The texts of a program that are queries."""
    texts = [node.value for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Constant) and isinstance(node.value, str)]
    return [text for text in texts if text.strip().startswith("select ")]


STORED = "tutorial.md"  # its queries run on the tables of its own sweep, when docs/generate.py checks what it shows
QUERIES = [(f"{page.name} {number}", sql) for page in PAGES if page.name != STORED for number, sql in enumerate(queries_of(page), 1)]
QUERIES += [("docstring of sweeper", sql) for sql in queries_in(re.split(r"\n\n", sweeper.__doc__, maxsplit=1)[1])]
COMMAND = get_command(app)
HELP = [command.help or "" for command in COMMAND.commands.values()]
QUERIES += [("help", " ".join(sql.split())) for text in HELP for sql in re.findall(r'query "(select [^"]+)"', text)]

SWEEPS = {
    "quickstart": {"name": "quickstart", **read_mapping(ROOT / "search_spaces" / "quickstart.yaml")},
    "closer-proxy": parse_value(next(text for text in blocks("proxies.md", "yaml") if "closer-proxy" in text)),
    "full-arms": parse_value(next(text for text in blocks("benchmarks.md", "yaml") if "full-arms" in text)),
    "my-sweep": {"name": "my-sweep", "base": {"task": "openml/187"}, "space": {"freezing": {"grid": ["full", "frozen-both"]}}, "seeds": 2},
}


SCORES = ("valid_error", "test_error")


@pytest.fixture(scope="module")
def shown_sweeps(tmp_path_factory) -> Path:
    """The results of the sweeps that the docs speak of: every trial complete, with invented scores."""
    folder = tmp_path_factory.mktemp("docs") / "results"
    for name, data in SWEEPS.items():
        recorder = Recorder(ResultStore(folder), name, "valid_error")
        for number, trial in enumerate(make_plan(parse_space(data)).trials):
            error = 0.1 + number / 1024
            recorder.start(trial, device="cpu")
            aligned = [EpochRow(stage="align", epoch=epoch, distance=40.5 - epoch, label_distances=[[1.0] * 3] * 2) for epoch in (1, 2)]
            tuned = [EpochRow(stage="finetune", epoch=epoch, valid_error=error / epoch) for epoch in (1, 2)]
            recorder.add_rows(trial.id, [*aligned, *tuned])
            scores = {"valid_error": error, "test_error": error, "proxy_distance": 30 + number / 7, "proxy_distance_unlabelled": 15.0}
            recorder.end(trial.id, {"status": "COMPLETE", "device_name": "a processor", "torch_version": "2.9"} | scores)
        recorder.flush()
    soup = {"trial": "a soup", "attempt": 1, "sequence": 0, "status": "COMPLETE", "in_plan": False, "role": "derived", "task": "openml/187"}
    between = soup | {"trial": "between", "derived_by": "wise-body", "members": ["a trial"], "alpha": 0.5} | dict.fromkeys(SCORES, 0.25)
    ResultStore(folder).append("trials", "my-sweep", [soup, between])
    about = {"version": 1, "sklearn_version": "1.7", "numpy_version": "2.3", "status": "COMPLETE", "score": "1-accuracy"}
    svm = FloorRow(task="digits", model="svm", valid_error=0.01, test_error=0.008, **about)
    ResultStore(folder).append_floors([svm])
    return folder


@pytest.mark.parametrize(("where", "sql"), QUERIES, ids=[where for where, _ in QUERIES])
def test_every_query_of_the_docs_names_its_sweep_and_task_runs_and_fits_80_columns(shown_sweeps, where, sql):
    assert re.search("sweep = '", sql), sql
    assert "test_error" not in sql or re.search("task = '", sql), sql
    assert max(map(len, sql.splitlines())) <= 80 or "\n" not in sql  # a text of several parts, in Python
    answer = Results(shown_sweeps).sql(sql)
    assert len(answer) or "mixed_numerics" in sql
    text = render(answer.arrow(), "table")
    assert max(map(len, text.splitlines())) <= 80, text


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_and_tables_that_pages_show_fit_80_columns(page):
    """What a terminal shows: blocks without a language that start with a command, and SQL."""
    for language, block in re.findall(r"^```(\w*)\n(.*?)^```", page.read_text(), flags=re.DOTALL | re.MULTILINE):
        if language == "sql" or (not language and "sweeper query" in block):
            assert max(map(len, block.splitlines())) <= 80, block


@pytest.mark.parametrize("name", ["quickstart", "closer-proxy"])
def test_the_advice_at_the_end_of_a_run_runs_and_fits_80_columns(shown_sweeps, name, monkeypatch):
    monkeypatch.chdir(shown_sweeps.parent)
    space, store = parse_space(SWEEPS[name]), ResultStore("results")
    advice = advise_query(name, space.varied, store.live_trials(name), "results")
    assert max(map(len, advice.splitlines())) <= 80, advice
    command = shlex.split(advice.partition("For example:\n")[2])
    assert command[:2] == ["sweeper", "query"]
    result = CliRunner().invoke(app, command[1:])
    assert result.exit_code == 0, result.output
    assert max(map(len, result.stdout.splitlines())) <= 80, result.stdout
    head, *rows = (line.split() for line in result.stdout.splitlines())
    varying = {knob.replace(".", "_") for knob in space.varied} - {"task"}
    if name == "quickstart":
        varying -= {"proxy"}  # the widest of four knobs that do not fit together: averaged over
    assert set(head) == varying | {"error", "trials"}
    assert all(len({row[head.index(knob)] for row in rows}) > 1 for knob in varying), "what does not vary is not shown"


def shown_commands(page: Path) -> list[str]:
    """The `sweeper` commands that a page shows in blocks, line by line, without what a shell would add."""
    lines = re.sub(r"\\\n\s*", "", page.read_text()).splitlines()
    found = [re.match(r"(?: {4}|\$ )(?:[A-Z_]+=\S+ )*(?:\S*/bin/)?(sweeper .*)", line) for line in lines]
    return [match[1].partition(" #")[0].strip() for match in found if match]


def what_is_wrong_with(command: str) -> str | None:
    """The first word of a `sweeper` command that names no command, or no option of it."""
    group, words = COMMAND, command.split()[1:]
    while hasattr(group, "commands"):
        if not words or words[0].startswith("--") or words[0].isupper():  # an option of sweeper itself, or a word that stands for a command
            return None
        if words[0] not in group.commands:
            return words[0]
        group, words = group.commands[words[0]], words[1:]
    known = {option for parameter in group.params for option in (*parameter.opts, *parameter.secondary_opts)} | {"--help"}
    options = (re.split(r"[=\"]", word)[0] for word in words if re.match(r"-{1,2}[a-z]", word))
    return next((option for option in options if option not in known), None)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_that_pages_show_exist_with_their_options(page):
    commands = shown_commands(page)
    assert {command: wrong for command in commands if (wrong := what_is_wrong_with(command))} == {}


def test_a_command_or_option_that_is_not_there_is_found():
    assert what_is_wrong_with("sweeper best quickstart --top 3") is None
    assert what_is_wrong_with("sweeper node drain --wait") is None
    assert what_is_wrong_with("sweeper best quickstart --tops 3") == "--tops"
    assert what_is_wrong_with("sweeper bests quickstart") == "bests"


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md"])
def test_links_of_pages_that_are_not_in_the_site_lead_somewhere(page):
    links = re.findall(r"\]\((?!http)([^)#]+)", (ROOT / page).read_text())
    assert [link for link in links if not (ROOT / link).exists()] == []


def test_the_site_builds_without_a_broken_link_and_fetches_nothing(tmp_path):
    pytest.importorskip("material")
    command = [sys.executable, "-m", "mkdocs", "build", "--site-dir", str(tmp_path)]
    built = subprocess.run(command, cwd=ROOT, env={**os.environ, "NO_MKDOCS_2_WARNING": "1"}, capture_output=True, text=True, timeout=120)
    assert built.returncode == 0, built.stdout + built.stderr
    pages = {page.name: page.read_text() for page in tmp_path.glob("*.html")}
    assert {"index.html", "tutorial.html", "gallery.html", "statistics.html"} <= set(pages)
    for name, text in pages.items():
        fetched = re.findall(r"<(?:script|img|iframe)[^>]*\ssrc=\"?([^\" >]+)|<link[^>]*\shref=\"?([^\" >]+)", text)
        assert not [address for pair in fetched for address in pair if address.startswith(("http:", "https:", "//"))], name


def test_figures_of_the_gallery_are_small_and_come_with_a_command_that_can_draw_them():
    text, kinds = (DOCS / "gallery.md").read_text(), {kind.name for kind in FIGURES}
    shown = re.findall(r"\]\(gallery/(\S+)\.svg\)\n\n((?:    .*\n)+)", text)
    assert {f"{name}.svg" for name, _ in shown} | {"first-learning.svg"} == {file.name for file in (DOCS / "gallery").iterdir()}
    for name, commands in shown:
        sweep, figure, *_ = re.findall(r"^    sweeper plot (\S+) (\S+)", commands, flags=re.MULTILINE)[0]
        assert figure in kinds
        assert name.startswith(f"{sweep}-{figure}")
        assert (DOCS / "gallery" / f"{name}.svg").stat().st_size < 100_000
