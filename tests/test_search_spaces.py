"""Every search space that comes with the package loads, is named after its file and asks a question."""

from __future__ import annotations

from pathlib import Path

import pytest

from sweeper.planning import make_plan
from sweeper.space import available_spaces, load_space

SPACES = sorted((Path(__file__).parents[1] / "search_spaces").glob("*.yaml"))


@pytest.mark.parametrize("file", SPACES, ids=lambda file: file.stem)
def test_a_space_plans_trials_and_says_what_it_asks(file):
    space = load_space(file)
    assert space.name == file.stem
    assert space.description.endswith("?") or "?" in space.description
    assert make_plan(space).trials


def test_every_space_is_found_by_its_name():
    assert {file.stem for file in SPACES} <= set(available_spaces())


def test_the_quickstart_sweeps_all_four_axes_on_both_kinds_of_task():
    space = load_space("quickstart")
    assert set(space.varied) == {"task", "align.epochs", "proxy", "freezing", "body.weights"}
    assert {trial.config.task_spec.dims for trial in make_plan(space).trials} == {1, 2}
