"""Sweeps whose errors are made up, recorded as a driver records them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest

from sweeper.planning.planner import make_plan
from sweeper.results import Workspace
from sweeper.running.plan_note import plan_note
from sweeper.running.recorder import Recorder
from sweeper.space.reading import parse_space

Simulate = Callable[..., None]


@pytest.fixture
def workspace(tmp_path) -> Workspace:
    return Workspace(tmp_path / "results")


@pytest.fixture
def simulate(workspace: Workspace) -> Simulate:
    """`simulate(space, outcome)` records a sweep. `outcome(cells)` has the test error of a trial with these cells; or cells of one that
    ended otherwise; or None for one that has not started. `stored` is whether the plan is stored, too."""

    def simulate(space: Mapping[str, Any], outcome: Callable[[Mapping[str, Any]], Any], *, stored: bool = True) -> None:
        plan = make_plan(parse_space(space))
        if stored:
            workspace.results.save_plan(space["name"], plan.hash, plan_note(plan))
        recorder = Recorder(workspace.results, space["name"], "valid_error")
        for trial in plan.trials:
            end = outcome(trial.cells() | {"candidate": trial.candidate, "variant": trial.variant or None})
            if end is None:
                continue
            recorder.start(trial, device="cpu")
            cells = end if isinstance(end, dict) else {"test_error": end}
            scores = {"status": "COMPLETE", "valid_error": cells.get("test_error"), "test_samples": 10_000, "score": "1-accuracy"}
            recorder.end(trial.id, scores | cells)
        recorder.flush()

    return simulate
