"""Completion in the shell: what is offered, and that nothing heavy is loaded for it. Groups of commands in the help."""

from __future__ import annotations

import json
import os
import subprocess
import sys

from typer.testing import CliRunner

from sweeper.cli import GROUPS, app

PROBE = """
import contextlib, io, json, os, sys
from sweeper.cli import app
offered = []
for line in sys.argv[1:]:
    out, words = io.StringIO(), line.split(" ")
    os.environ |= {"_SWEEPER_COMPLETE": "complete_bash", "COMP_WORDS": line, "COMP_CWORD": str(len(words) - 1)}
    with contextlib.redirect_stdout(out), contextlib.suppress(SystemExit):
        app(prog_name="sweeper")
    offered.append(out.getvalue().split())
heavy = [name for name in ("torch", "ray", "pyarrow", "duckdb", "transformers", "scipy") if name in sys.modules]
print(json.dumps([offered, heavy]))
"""


def complete(folder, *lines: str) -> list[list[str]]:
    """What is offered at the end of each line, in a fresh process in a folder."""
    command = [sys.executable, "-c", PROBE, *lines]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(os.path.abspath(path or ".") for path in sys.path)}
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=folder, env=environment)
    offered, heavy = json.loads(done.stdout)
    assert heavy == []
    return offered


def test_names_are_completed_from_folders_and_catalogues_and_load_nothing_heavy(tmp_path):
    for sweep in ("mine-1", "mine-2", "other"):
        (tmp_path / "elsewhere" / "sweeps" / sweep).mkdir(parents=True)
    (tmp_path / "elsewhere" / "trials" / "sweep=mine-3").mkdir(parents=True)
    (tmp_path / "results" / "sweeps" / "here").mkdir(parents=True)
    (tmp_path / "search_spaces").mkdir()
    (tmp_path / "search_spaces" / "quick-mine.yaml").touch()
    (tmp_path / "quick-path.yaml").touch()
    lines = {
        "sweeper comp": ["compare", "compact"],
        "sweeper help imp": ["importance"],
        "sweeper run quick": ["quick-mine", "quick-path.yaml", "quickstart"],
        "sweeper best --results elsewhere mine": ["mine-1", "mine-2", "mine-3"],
        "sweeper status ": ["here"],
        "sweeper tasks nb360/sp": ["nb360/spherical"],
        "sweeper proxies fract": ["fractals"],
        "sweeper bodies attention": ["attention-1"],
        "sweeper run quickstart --set align.ep": ["align.epochs="],
        "sweeper best here --format ": ["csv", "json", "latex", "markdown", "table"],
    }
    assert dict(zip(lines, complete(tmp_path, *lines), strict=True)) == lines


def test_the_help_has_all_commands_in_their_groups_and_order():
    text = CliRunner().invoke(app, ["--help"], env={"COLUMNS": "100", "TERM": "dumb"}).output
    order = [name for group, commands in GROUPS.items() for name in (f"─ {group} ─", *(f"│ {command} " for command in commands))]
    places = [text.index(name) for name in order]
    assert places == sorted(places)
    assert "─ Commands ─" not in text, "a command without a group"
