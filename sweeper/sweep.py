"""Run a sweep, or continue it: what its plan has and the results lack is added."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from orca_core.errors import ConfigError, Fault
from sweeper.planning.cost import CostModel
from sweeper.planning.measured import measured_costs
from sweeper.planning.trials import PlannedTrial
from sweeper.results.workspace import Workspace
from sweeper.running.driver import only_driver
from sweeper.running.plan_note import plan_note
from sweeper.running.preflight import check_adapters, check_data, check_room, check_stores
from sweeper.running.reconcile import Reconciliation, reconcile
from sweeper.running.recorder import Recorder
from sweeper.running.session import Outcome
from sweeper.running.takeover import take_over
from sweeper.space.space import SearchSpace
from sweeper.workbench import on_workbench


@on_workbench
def run_space(
    space: SearchSpace,
    workspace: Workspace | str | Path = "results",
    *,
    address: str | None = None,
    max_concurrent: int | None = None,
    retry_failed: bool = False,
    share: bool = True,
    quiet: bool = False,
) -> int:
    """Run a sweep, or continue it.

    Args:
        space: What is run.
        workspace: Where results and stages are; a folder or URI stands for the workspace whose results are there.
        address: Of a running Ray cluster; None starts Ray on this machine.
        max_concurrent: Largest number of trials at once; None = as many as the resources allow.
        retry_failed: Run failed trials again, whatever the cause.
        share: Whether trials share stages; if not, each computes all of its own, to the same rows.
        quiet: Show neither progress nor summary.

    Returns:
        Exit code: 0 done, 1 some trials failed, 130 stopped.

    Raises:
        ConfigError: If the space, the data or the machines cannot do it; nothing was started.
        SweepCutError: If it could not come to its end: the disk is full, or Ray is gone.
    """
    workspace = Workspace.of(workspace)
    results = workspace.results
    first = reconcile(space, results, retry_failed)
    check_data((trial.config for trial in first.todo), space.file)  # a finished sweep reads no data
    with only_driver(results, space.name):
        # Compared again, now that no other process can add to the results.
        found = reconcile(space, results, retry_failed, planner=None if first.planner.proposed_later else first.planner)
        if found.todo:
            _check_machine(space, workspace, found, address, share)
        results.save_plan(space.name, found.plan.hash, plan_note(found.plan))
        recorder = Recorder(results, space.name, space.metric)
        found.mark_planned(recorder)
        is_open = found.planner.proposed_later > 0  # what is not in the plan yet may still be proposed
        if not is_open:
            found.mark_dropped(recorder)
        taken, todo = _take_over(found, workspace, recorder) if share else (set[str](), list(found.todo))
        recorder.flush()
        outcome = _launch(found, todo, workspace, recorder, address, max_concurrent, share, quiet) if todo else Outcome.FINISHED
        if is_open:
            found.mark_dropped(recorder)
            recorder.flush()
        results.compact(space.name)
    planned = [row for row in results.live_trials(space.name) if row["in_plan"]]
    if not quiet:
        from sweeper.show.summary import summarise_run

        sys.stdout.write(summarise_run(found, workspace, len(taken), outcome, planned))
    if outcome is Outcome.STOPPED:
        return 130
    return 1 if any(row["status"] == "FAIL" for row in planned) else 0


def _check_machine(space: SearchSpace, workspace: Workspace, found: Reconciliation, address: str | None, share: bool) -> None:
    if address is None and space.resources.cpu > (os.cpu_count() or 1):
        rule = f"must be at most the {os.cpu_count()} CPUs of this machine"
        raise ConfigError([Fault("resources.cpu", rule, space.resources.cpu, "Or give --address of a larger cluster.")], space.file)
    check_adapters((trial.config for trial in found.todo), space.file)
    check_stores(workspace, share)
    check_room([workspace.uri, workspace.artifacts_uri], space.budget.free_gib, space.file)


def _take_over(found: Reconciliation, workspace: Workspace, recorder: Recorder) -> tuple[set[str], list[PlannedTrial]]:
    """Take over what other sweeps have; ids of these trials, and the trials that are left to run."""
    planner, taken, todo = found.planner, set[str](), list(found.todo)
    while todo and (more := take_over(workspace, recorder, todo)):
        taken |= more
        for trial in more:  # from these scores tpe proposes further trials, which other sweeps may have, too
            planner.tell(trial, recorder.ended[trial].score)
        todo = [trial for trial in planner.plan.trials if trial.id not in taken and not found.is_done(trial)]
    again = [found.ended[trial.id] for trial in planner.plan.trials if found.is_done(trial) and trial.id not in found.done]
    recorder.set_in_plan(again, True)
    return taken, todo


def _launch(
    found: Reconciliation,
    todo: list[PlannedTrial],
    workspace: Workspace,
    recorder: Recorder,
    address: str | None,
    max_concurrent: int | None,
    share: bool,
    quiet: bool,
) -> Outcome:
    from sweeper.running.progress import Progress
    from sweeper.tune.launch import launch  # Ray is loaded only if there is something to run

    planner = found.planner
    progress = Progress(recorder, len(planner.plan.trials) + planner.proposed_later, len(found.done), quiet)
    longest_first = CostModel(measured_costs(workspace)).longest_first(todo)
    try:
        return launch(
            planner,
            longest_first,
            found.ended,
            recorder,
            workspace,
            progress,
            address=address,
            max_concurrent=max_concurrent,
            share=share,
        )
    except ConfigError as error:  # what only the machines could tell
        raise ConfigError(error.faults, planner.space.file) from None
