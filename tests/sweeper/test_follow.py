"""`status --follow`: what is read from the tables of a sweep is what its own run counts, and it ends with the run."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace
from random import Random

import pytest
from typer.testing import CliRunner

from sweeper.cli import app
from sweeper.planning.planner import Planner
from sweeper.results.store import ResultStore
from sweeper.results.workspace import Workspace
from sweeper.running.claim import claim_sweep
from sweeper.running.driver import driver_of
from sweeper.running.plan_note import plan_note
from sweeper.running.progress import Progress
from sweeper.running.simulated_store import SimulatedWorkspace
from sweeper.running.simulation import Chances, Simulation
from sweeper.show.follow import follow, read_standing
from sweeper.space.reading import parse_space

SPACE = {
    "name": "small",
    "base": {"task": "digits", "body": "mini-swin", "finetune": {"epochs": 2, "warmup_epochs": 0, "decay_epochs": None}},
    "space": {"align.epochs": {"grid": [0, 2]}},
    "seeds": 5,
}


@pytest.fixture
def simulated(tmp_path):
    """A sweep that was simulated with its rows in real tables; its results, and where it stood in the middle and at the end."""
    workspace, planner, middle = Workspace(tmp_path), Planner(parse_space(SPACE)), []
    store = ResultStore(tmp_path)
    store.save_plan("small", planner.plan.hash, plan_note(planner.plan))

    def watch(simulation: Simulation) -> None:
        progress = Progress(simulation.recorder, 10, clock=lambda: simulation.now)
        tally = simulation.recorder.tally
        if tally.done == 4 and tally.running == 2 and not middle:
            simulation.recorder.flush()
            with claim_sweep(store, "small") as claim, claim.connect(lambda: None, progress.facts):
                claim.write()
                middle.append((progress.standing(), read_standing(workspace, "small", driver_of(store, "small"))))

    simulation = Simulation(
        planner,
        planner.plan.trials,
        store,
        SimulatedWorkspace(),
        slots=2,
        chances=Chances(fails=0.02, lost=0.02),
        random=Random(4),
        watch=watch,
    )
    simulation.run()
    return workspace, middle[0], Progress(simulation.recorder, 10, clock=lambda: simulation.now)


def test_the_tables_tell_what_the_run_counted(simulated):
    workspace, (counted, read), progress = simulated
    assert read == counted
    assert (counted.running, counted.done) == (2, 4)
    progress.finish()
    at_the_end = read_standing(workspace, "small", None)
    assert at_the_end == replace(progress.standing(), elapsed_s=None)
    assert at_the_end.failed > 0
    assert at_the_end.reused > 0


def test_it_follows_until_no_process_runs_the_sweep_and_says_what_is_missing(simulated, capsys, monkeypatch):
    workspace, *_ = simulated
    monkeypatch.setattr("sweeper.show.follow.PLAIN_EVERY_S", 0.0)
    looks, driving = [], ExitStack()
    driving.enter_context(claim_sweep(workspace.results, "small"))

    def sleep(seconds: float) -> None:
        looks.append(seconds)
        if len(looks) == 2:
            driving.close()

    assert follow(workspace, "small", sleep) == 0
    *lines, last, end = capsys.readouterr().out.splitlines()
    assert len(lines) == 2
    assert last.startswith("7/10 trials, 0 running, 3 failed (last ")
    assert end == f"small: no process runs it, and 3 trials are not done. See: sweeper status small --results {workspace.uri}"


def test_ctrl_c_ends_the_following_and_not_the_sweep(simulated, capsys):
    workspace, *_ = simulated

    def interrupt(seconds: float) -> None:
        raise KeyboardInterrupt

    with claim_sweep(workspace.results, "small"):
        assert follow(workspace, "small", interrupt) == 130
        assert not workspace.results.is_asked_to_stop("small", driver_of(workspace.results, "small").run)


def test_what_does_not_go_with_follow_is_refused_all_at_once(tmp_path):
    result = CliRunner().invoke(app, ["status", "--follow", "--arms", "--format", "csv", "--results", str(tmp_path)])
    assert result.exit_code == 2
    assert all(name in result.output for name in ("--arms", "--format", "NAME"))
