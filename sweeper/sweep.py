"""Runs or continues a sweep: the trials that are in its plan but not in its results."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

from orca_core.errors import ConfigError, Fault, StoreUnavailableError
from orca_core.patience import Trouble
from sweeper.analysis.machines import COLUMNS
from sweeper.planning.cost import CostModel
from sweeper.planning.measured import load_measured_costs
from sweeper.planning.order import longest_path_first
from sweeper.planning.trials import PlannedTrial
from sweeper.results.workspace import Workspace
from sweeper.running.claim import SweepClaim, claim_sweep
from sweeper.running.cluster_address import check_form
from sweeper.running.data_notes import tell_notes
from sweeper.running.floors import FloorsBeside, cases_of
from sweeper.running.logged_rows import LoggedRows, check_logging
from sweeper.running.notify import Notifier, parse_command
from sweeper.running.outcome import Outcome, SweepCutError
from sweeper.running.parts import warn_of_small_parts
from sweeper.running.plan_note import plan_note
from sweeper.running.preflight import (
    check_adapters,
    check_data,
    check_devices,
    check_embedders,
    check_mixing,
    check_room,
    check_stores,
)
from sweeper.running.probes import add_probes, describe_added
from sweeper.running.reasons import Reasons
from sweeper.running.reconcile import Reconciliation, reconcile
from sweeper.running.recorder import Recorder
from sweeper.running.signals import stop_on_signal
from sweeper.running.takeover import take_over
from sweeper.running.time_left import WorkLeft
from sweeper.running.unfinished import find_unfinished
from sweeper.running.writer import InThread
from sweeper.space.space import SearchSpace
from sweeper.workbench import on_workbench

START_MINUTES = 1.0
"""How long storage is waited for before the first contact: what does not answer then may be a wrong address."""

_READ_AT_THE_END = ("trial", "in_plan", "status", "cause", "error", "task", "result_key", "numpy_version", *COLUMNS)
"""Columns of the rows that say how a run ended: with all columns, the rows of a large sweep take more memory than its run."""


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
    wait_minutes: float = 15.0,
    notify: str | None = None,
) -> int:
    """Run a sweep, or continue it.

    Args:
        space: The search space.
        workspace: Where results and stages are kept; or the folder or URI of the results.
        address: Address of a running Ray cluster; None starts Ray on this machine.
        max_concurrent: Maximum number of trials at once; None = as many as the resources allow.
        retry_failed: Run failed trials again, whatever the cause.
        share: Whether trials share stages; if not, each computes all of its own, to the same rows.
        quiet: Show neither progress nor summary.
        wait_minutes: How long to wait for the claim of a driver that seems to be dead to expire, and for a first worker; 0 = not at all.
        notify: A command that is run when something keeps the sweep from going on, and when that is over.

    Returns:
        Exit code: 0 every planned trial is COMPLETE or PRUNED, 1 some are not, 130 stopped.

    Raises:
        ConfigError: If the space, the data or the machines do not allow it, or another process drives the sweep. Nothing was started.
        StoreUnavailableError: If results or stages are out of reach before the first trial or after the last.
        SweepCutError: If the sweep was ended early because the disk is full, Ray was lost, or another run has taken the sweep over.
    """
    if address is not None:
        check_form(address)
    notifier = Notifier(parse_command(notify)) if notify is not None else None
    workspace, minutes = Workspace.of(workspace), space.budget.storage_minutes
    patience = workspace.patience.lasting(min(START_MINUTES, minutes), None if quiet else _tell_trouble)
    try:
        with patience, FloorsBeside(workspace.results, quiet) as floors:
            return _run_space(space, workspace, floors, address, max_concurrent, retry_failed, share, quiet, wait_minutes, notifier)
    except StoreUnavailableError as error:
        remedy = "If the address is right, run the same command again once the storage answers; what has been finished is kept."
        raise StoreUnavailableError(f"{error} {remedy}") from None


def _run_space(
    space: SearchSpace,
    workspace: Workspace,
    floors: FloorsBeside,
    address: str | None,
    max_concurrent: int | None,
    retry_failed: bool,
    share: bool,
    quiet: bool,
    wait_minutes: float,
    notifier: Notifier | None,
) -> int:
    results = workspace.results
    check_logging(space, results)
    first = reconcile(space, results, retry_failed)
    check_devices((trial.config for trial in first.todo), space.device, space.file)
    check_data((trial.config for trial in first.todo), space.file)  # a finished sweep reads no data
    if not quiet:
        tell_notes(trial.config for trial in first.todo)
    if first.todo and not quiet:
        for warning in warn_of_small_parts(trial.config for trial in first.todo):
            _warn(warning)
    with claim_sweep(results, space.name, wait_minutes=wait_minutes) as claim, InThread() as writer:
        # Again, now that no other process can add to the results.
        found = reconcile(space, results, retry_failed, planner=None if first.planner.proposed_later else first.planner)
        if found.todo:
            _check_machine(space, workspace, found, address, share)
        workspace.patience.minutes = space.budget.storage_minutes  # it was in reach
        planned = found.plan.hash
        results.save_plan(space.name, planned, plan_note(found.plan, found.planner.earlier))
        tables = LoggedRows(results, space, _warn) if space.tensorboard else results
        recorder = Recorder(tables, space.name, space.metric, reads=space.columns_read, run=claim.run, writer=writer)
        found.mark_planned(recorder)
        is_open = found.planner.proposed_later > 0  # scores may still lead to trials of earlier runs, so the rest are marked at the end
        if not is_open:
            found.mark_dropped(recorder)
        taken, todo = _take_over(found, workspace, recorder) if share else (set[str](), list(found.todo))
        recorder.flush()
        found.recall(results, taken)
        outcome = Outcome.FINISHED

        def start_floors() -> None:
            if space.floors:
                floors.start(cases_of(trial.config for trial in found.plan.trials))

        if not todo:
            start_floors()
        else:  # first it has to be known that a trial fits on some machine: if none does, the run ends, and nothing is computed for it
            reasons = Reasons(space.name)
            if notifier is not None:
                reasons.listeners.append(notifier.tell)
            workspace.patience.tell = None  # from here on it is one of the reasons
            with notifier.running() if notifier is not None else nullcontext():
                outcome = _launch(
                    found, todo, workspace, recorder, claim, reasons, address, max_concurrent, share, quiet, wait_minutes, start_floors
                )
        _check_claim(claim, space.name)
        if is_open:
            found.mark_dropped(recorder)
            recorder.flush()
        if found.plan.hash != planned:  # trials were proposed meanwhile
            results.save_plan(space.name, found.plan.hash, plan_note(found.plan, found.planner.earlier))
        if outcome is Outcome.FINISHED and space.probes.names:
            outcome = _add_probes(found, workspace, claim, retry_failed, quiet)
            _check_claim(claim, space.name)
        results.compact(space.name)
    if outcome is Outcome.FINISHED:
        floors.finish()
    varied = [path.replace(".", "_") for path in space.varied]
    rows = [row for row in results.live_trials(space.name, {*_READ_AT_THE_END, *varied}) if row["in_plan"]]
    unfinished = find_unfinished(found.plan, rows)
    if not quiet:
        from sweeper.show.summary import summarise_run

        sys.stdout.write(summarise_run(found, workspace, len(taken), outcome, rows, unfinished))
    if outcome is Outcome.STOPPED:
        return 130
    return 1 if unfinished or found.planner.proposed_later else 0


def _add_probes(found: Reconciliation, workspace: Workspace, claim: SweepClaim, retry: bool, quiet: bool) -> Outcome:
    """Add the probes that finished trials lack, until the run is asked to end."""
    stop, trials = threading.Event(), found.plan.trials
    say = (lambda text: None) if quiet else _say
    with stop_on_signal(stop.set), claim.connect(stop.set):
        added = add_probes(found.plan.space, trials, workspace, retry=retry, should_stop=stop.is_set, say=say)
    if not quiet:
        for line in describe_added(found.plan.space.name, added):
            _say(line)
    return Outcome.STOPPED if added.is_stopped else Outcome.FINISHED


def _say(text: str) -> None:
    sys.stderr.write(f"{text}\n")


def _check_claim(claim: SweepClaim, sweep: str) -> None:
    """Raise `SweepCutError` if another run has taken the sweep over."""
    if claim.is_lost:
        by = f"{claim.lost_to} has" if claim.lost_to is not None else "another run has since"
        raise SweepCutError(
            f"{sweep}: {by} taken the sweep over, because this run gave no sign of life for too long; this run has ended. "
            "Finished work is kept; once the other run has ended, the same command completes what is missing."
        )


def _warn(text: str) -> None:
    sys.stderr.write(f"warning: {text}\n")


def _tell_trouble(trouble: Trouble | None) -> None:
    sys.stderr.write(f"{trouble.line() if trouble is not None else 'storage answers again'}\n")


def _check_machine(space: SearchSpace, workspace: Workspace, found: Reconciliation, address: str | None, share: bool) -> None:
    if address is None and space.resources.cpu > (os.cpu_count() or 1):
        rule = f"must be at most {os.cpu_count()}, the CPUs of this machine"
        raise ConfigError(
            [Fault("resources.cpu", rule, space.resources.cpu, "Lower it, or give --address of a larger cluster.")], space.file
        )
    check_adapters((trial.config for trial in found.todo), space.file)
    check_embedders((trial.config for trial in found.todo), space.file)
    check_mixing((trial.config for trial in found.todo), space.file)
    check_stores(workspace, share)
    check_room([workspace.uri, workspace.artifacts_uri], space.budget.free_gib, space.file)


def _take_over(found: Reconciliation, workspace: Workspace, recorder: Recorder) -> tuple[set[str], list[PlannedTrial]]:
    """Take over finished trials of other sweeps. Returns their ids, and the trials that remain to run."""
    planner, taken, todo = found.planner, set[str](), list(found.todo)
    while todo and (more := take_over(workspace, recorder, todo)):
        taken |= more
        for taken_over in more:  # tpe may propose further trials from these scores, which other sweeps may have, too
            proposed = planner.tell(taken_over, recorder.ended[taken_over].scores)
            if found.stopping is not None:
                found.stopping.add(proposed)
        todo = [trial for trial in planner.plan.trials if trial.id not in taken and not found.is_done(trial)]
    for trial in planner.plan.trials:
        if found.is_done(trial) and trial.id not in found.done:
            recorder.plan_again(trial, found.ended[trial.id], planner.arms_with(trial.id))
    return taken, todo


def _launch(
    found: Reconciliation,
    todo: list[PlannedTrial],
    workspace: Workspace,
    recorder: Recorder,
    claim: SweepClaim,
    reasons: Reasons,
    address: str | None,
    max_concurrent: int | None,
    share: bool,
    quiet: bool,
    wait_minutes: float,
    begin: Callable[[], None],
) -> Outcome:
    from sweeper.running.progress import Progress

    planner = found.planner
    recorder.tally.recall((found.ended[trial] for trial in found.done if trial not in recorder.started), recorder.metric)
    progress = Progress(recorder, planner.most_trials, quiet, reasons, floors=workspace.results)
    if address is not None:  # it takes seconds until there is more to say
        progress.say(f"{planner.space.name}: connecting to the cluster at {address}")
    from sweeper.tune.launch import launch  # loads Ray: only if there is something to run

    costs, cohort_of = CostModel(load_measured_costs(workspace)), found.stopping.cohort_of if found.stopping is not None else None
    recorder.tally.work = WorkLeft(costs, share=share)
    ordered = longest_path_first(todo, costs.seconds, share=share, cohort_of=cohort_of)
    try:
        return launch(
            planner,
            ordered,
            found.ended,
            found.stopping,
            recorder,
            workspace,
            progress,
            address=address,
            max_concurrent=max_concurrent,
            claim=claim,
            reasons=reasons,
            share=share,
            wait_minutes=wait_minutes,
            begin=begin,
        )
    except ConfigError as error:  # raised by the cluster, which does not know the file; an option of the command is not in it
        is_option = all(fault.path.startswith("--") for fault in error.faults)
        raise ConfigError(error.faults, "" if is_option else planner.space.file) from None
