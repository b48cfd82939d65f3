"""What is imported when: names, plans and questions start at once; the core knows nothing of Ray or of the sweeper."""

from __future__ import annotations

import subprocess
import sys

import pytest


@pytest.mark.parametrize(
    ("modules", "forbidden"),
    [
        (
            "orca_core.distances, orca_core.bodies, "
            "orca_core.config.knobs, sweeper, sweeper.cli, sweeper.planning.planner, sweeper.results, sweeper.sweep, sweeper.single, "
            "sweeper.space.reading, sweeper.space.schema, sweeper.analysis.arms, "
            "sweeper.running.floors, sweeper.show.floors, sweeper.running.session, sweeper.upkeep.cleaning",
            {"torch", "ray", "transformers", "duckdb", "optuna", "sklearn", "scipy"},
        ),
        (
            "sweeper.results, sweeper.analysis.arms, sweeper.analysis.floors, sweeper.analysis.tables, sweeper.analysis.associations, "
            "sweeper.analysis.detectable",
            {"torch", "ray", "transformers", "duckdb", "scipy", "sklearn", "optuna", "pandas", "statsmodels"},
        ),
        ("orca_core.pipeline", {"ray", "sweeper", "optuna", "duckdb"}),
    ],
)
def test_modules_do_not_load_what_they_do_not_need(modules, forbidden):
    code = f"import sys, {modules}; print(*sorted({{name.partition('.')[0] for name in sys.modules}}))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert set(loaded) & forbidden == set()


@pytest.mark.parametrize("package", ["sweeper", "sweeper.analysis", "orca_core"])
def test_the_public_names_are_what_tab_completion_shows(package):
    """In a new process, in which nothing has been imported on demand."""
    code = f"import {package} as p; print(dir(p) == sorted(p.__all__))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "True\n"


DRIVES = """
import sys
from sweeper.results.workspace import Workspace
from sweeper.running.preflight import check_stores
from orca_core.addresses import WHOLE, Address
import sweeper.tune.launch

workspace = Workspace(sys.argv[1])
check_stores(workspace)
address = Address("align", "key", WHOLE)
workspace.artifacts.put(address, {}, {"rows": []})
assert workspace.artifacts.get(address).data == {"rows": []}
print(*sorted({name.partition(".")[0] for name in sys.modules}))
"""


def test_the_driver_of_a_sweep_does_without_torch(tmp_path):
    """It would take seconds at the start of each run, and 400 MiB."""
    loaded = subprocess.run([sys.executable, "-c", DRIVES, str(tmp_path)], capture_output=True, text=True, check=True).stdout.split()
    assert "ray" in loaded
    assert "torch" not in loaded
