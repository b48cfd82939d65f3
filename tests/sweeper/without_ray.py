"""Runs a sweep's trials in this process, one after another: planner, session, recorder, keeper and trials are the real ones.

For tests of what a sweep keeps, continues or decides, which does not depend on who runs its trials: each run on Ray starts processes that
import torch for seconds. That Ray gives the same rows is tested in `test_run.py`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from importlib import import_module
from typing import Any

import pytest

from orca_core.rows import row_from_json, row_to_json
from sweeper.planning.planner import Planner
from sweeper.planning.stopping import EarlyStopping
from sweeper.planning.trials import PlannedTrial
from sweeper.results.workspace import Workspace
from sweeper.running.execution import execute_group, execute_message
from sweeper.running.keeping import StateKeeper
from sweeper.running.outcome import Outcome
from sweeper.running.recorder import Recorder
from sweeper.running.session import Session
from sweeper.running.worker import report_text, worker_facts


@contextmanager
def without_ray() -> Iterator[None]:
    """Within the context, `run_space` runs its trials in this process, on one slot."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(import_module("sweeper.tune.launch"), "launch", _launch)
        yield


def _launch(
    planner: Planner,
    todo: list[PlannedTrial],
    ended: Mapping[str, Mapping[str, Any]],
    stopping: EarlyStopping | None,
    recorder: Recorder,
    workspace: Workspace,
    progress: Any,
    *,
    share: bool = True,
    begin: Callable[[], None] = lambda: None,
    **options: Any,
) -> Outcome:
    """As `sweeper.tune.launch.launch`, whose other options are about Ray."""
    begin()
    keeper = StateKeeper(workspace.artifacts, planner, todo, recorder.writer) if share else None
    session = Session(planner, todo, recorder, workspace, slots=1, ended=ended, stopping=stopping, share=share, keeper=keeper)
    while (trial := session.next()) is not None:
        trials = [trial, *session.beside(trial)]
        for one in trials:
            session.start(one.id)
        if trial.group is None:
            _run(session, trial)
        else:
            _run_group(session, trials)
    session.close()
    recorder.flush()
    session.drop_unneeded()
    recorder.writer.finish()
    return session.outcome


def _run(session: Session, trial: PlannedTrial) -> None:
    """Run a trial to its end, or until it has to pause."""
    rows = execute_message(session.job(trial).to_json())
    worker = json.loads(report_text(worker_facts("this-process"), "cpu"))
    with closing(rows):
        while True:
            try:
                row = next(rows)
            except StopIteration as stop:
                session.end(trial.id, stop.value)
                return
            session.report(trial.id, [row_from_json(row_to_json(row))], worker["host"], worker["pid"], worker)
            if session.wants_stop(trial.id):
                break
    session.cut(trial.id)


def _run_group(session: Session, trials: list[PlannedTrial]) -> None:
    """Run the trials of a group, each to its end or until it has to pause."""
    worker = json.loads(report_text(worker_facts("this-process"), "cpu"))
    members = [trial.id for trial in trials]
    with closing(execute_group(session.message(trials))) as steps:
        for trial, step in steps:
            if isinstance(step, dict):
                members.remove(trial)
                session.end_member(trial, step)
                continue
            session.report(trial, [row_from_json(row_to_json(step))], worker["host"], worker["pid"], worker)
            if any(map(session.wants_stop, members)):
                break
    for trial in members:
        session.cut(trial)
