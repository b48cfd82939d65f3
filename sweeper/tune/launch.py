"""Runs the trials of a plan on Ray Tune.

Ray's own restore is not used: its state lags behind, loses the scheduler and is a pickle. A sweep is continued by planning it again
against the results and the stage store.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from ray import tune

from orca_core.errors import StoreError
from sweeper.planning.planner import Planner
from sweeper.planning.stopping import EarlyStopping
from sweeper.planning.trials import PlannedTrial
from sweeper.results.workspace import Workspace
from sweeper.running.claim import SweepClaim
from sweeper.running.driver import clock_skew
from sweeper.running.ending import LAST_ROWS_S
from sweeper.running.keeping import StateKeeper
from sweeper.running.lookout import Lookout
from sweeper.running.outcome import Outcome, SweepCutError, describe_end
from sweeper.running.own_data import find_own_data, send_own_data
from sweeper.running.packing import Packing
from sweeper.running.progress import Progress, describe_start
from sweeper.running.reasons import Reasons
from sweeper.running.recorder import Recorder
from sweeper.running.session import Session
from sweeper.running.signals import stop_on_signal
from sweeper.tune.cluster import RayGoneError, has_nodes, open_cluster, ray_environment
from sweeper.tune.controller import controlled, request_for
from sweeper.tune.hooks import PlannedSearcher, Reporter, SessionBoard, StopWithSession, TrialsByTuneId
from sweeper.tune.node_checks import NodeChecks, make_question, probed
from sweeper.tune.ray_log import RayLog
from sweeper.tune.trainable import TrialRunner
from sweeper.workbench import sent_mib

MAX_FIT_FAILURES = 3
"""How often in a row Ray Tune itself may fail, with no new row in between, before the run ends."""


def launch(
    planner: Planner,
    todo: list[PlannedTrial],
    ended: Mapping[str, Mapping[str, Any]],
    stopping: EarlyStopping | None,
    recorder: Recorder,
    workspace: Workspace,
    progress: Progress,
    *,
    address: str | None,
    max_concurrent: int | None,
    claim: SweepClaim,
    reasons: Reasons,
    share: bool = True,
    wait_minutes: float = 15.0,
    begin: Callable[[], None] = lambda: None,
) -> Outcome:
    """Run trials to their end.

    Args:
        planner: Holds the complete plan.
        todo: The trials to run, in order of preference.
        ended: Trial id -> row, of trials that ended for good in earlier runs of the sweep.
        stopping: Decides which candidates are stopped early; None if none is.
        recorder: Writes rows.
        workspace: Where results and stages are.
        progress: Shows the progress.
        address: Address of a running Ray cluster; None starts Ray on this machine.
        max_concurrent: Maximum number of trials at once; None = as many as the resources allow.
        claim: By which this process drives the sweep.
        reasons: Where it is told what keeps the sweep from going on.
        share: Whether trials share stages; if not, each computes all of its own, to the same rows.
        wait_minutes: How long to wait for a first worker.
        begin: Called once the machines are known to have room for a trial, before the first one starts.

    Returns:
        FINISHED or STOPPED.

    Raises:
        ConfigError: If no machine has the resources for one trial, or the cluster cannot be joined.
        SweepCutError: If the disk is full, storage stays out of reach, no machine came or is left, or none can run the trials.
    """
    space = planner.space
    num_trials = min(len(todo), max_concurrent or len(todo))
    log = RayLog(workspace.results.local_folder, space.name)
    with (
        ray_environment(),
        log.writing(),
        open_cluster(address, space.resources, space.bits, name=space.name, num_trials=num_trials) as cluster,
        ExitStack() as stack,
    ):
        cluster.check_fit()
        begin()
        keeper = StateKeeper(workspace.artifacts, planner, todo, recorder.writer) if share else None
        own_data = _send_own_data(todo, workspace) if address is not None else {}
        session = Session(
            planner,
            todo,
            recorder,
            workspace,
            slots=0,
            max_concurrent=max_concurrent,
            ended=ended,
            stopping=stopping,
            share=share,
            keeper=keeper,
            own_data=own_data,
            packing=Packing.recall(space.resources, workspace),
        )
        recorder.prepare()
        checks = None
        if address is not None:
            question = make_question(
                (trial.config for trial in todo),
                workspace.artifacts_uri,
                free_gib=space.budget.free_gib,
                own_data=own_data,
                gpu=space.resources.most_gpu,
            )
            checks = NodeChecks(stack.enter_context(probed(question)))
            progress.nodes = session.nodes
            progress.say(f"{space.name}: {describe_start(cluster.nodes(session.packing.smallest))}")
        lookout = Lookout(
            session,
            cluster,
            reasons,
            checks=checks,
            wait_minutes=wait_minutes,
            skew=lambda: clock_skew(workspace.results, space.name),
        )

        def facts() -> dict[str, Any]:
            return recorder.counts() | {"reasons": reasons.facts()} | progress.facts()

        try:
            with progress, stop_on_signal(session.ending.stop), claim.connect(session.ending.stop, facts):
                _run(session, lookout, progress)
        finally:
            session.close()
            progress.finish()
            unwritten = _write_rows(recorder)
            session.drop_unneeded()
            recorder.writer.finish()
    if log.note and not progress.console.quiet:
        sys.stderr.write(f"{log.note}\n")
    if text := describe_end(session.outcome, session.ending.reason, session.num_interrupted, unwritten):
        raise SweepCutError(f"{space.name}: {text}")
    return session.outcome


def _run(session: Session, lookout: Lookout, progress: Progress) -> None:
    """Let Ray Tune run trials until the session ends. An error of Tune's own ends one call of `fit`, not the run."""
    failures, rows = 0, session.processes.num_new_rows
    while True:
        scratch = Path(tempfile.mkdtemp(prefix="sweeper-tune-"))
        try:
            lookout.look()
            _fit(session, lookout, progress, scratch)
            return
        except RayGoneError:
            if not session.is_ending:
                session.ending.lose_machines()
            return
        except Exception as error:  # whatever it is: the plan and the stores are whole, and trials go on from there
            if session.is_exhausted:
                return
            if session.processes.num_new_rows > rows:
                failures, rows = 0, session.processes.num_new_rows
            failures += 1
            if failures > MAX_FIT_FAILURES or not has_nodes():
                raise SweepCutError(
                    f"{session.space.name}: Ray Tune failed {failures} times without a new result ({_last_line(error)})"
                ) from error
            session.interrupt(f"Ray Tune failed ({_last_line(error)})")
        finally:
            shutil.rmtree(scratch, ignore_errors=True)


def _last_line(error: Exception) -> str:
    """What went wrong: Tune's errors are the text of a traceback, which ends with it."""
    lines = str(error).strip().splitlines()
    return lines[-1].strip() if lines else type(error).__name__


def _fit(session: Session, lookout: Lookout, progress: Progress, scratch: Path) -> None:
    trials: TrialsByTuneId = {}
    resources = session.space.resources
    tuner = tune.Tuner(
        TrialRunner,
        tune_config=tune.TuneConfig(
            num_samples=-1,
            search_alg=PlannedSearcher(session, trials, TrialRunner, request_for(resources)),
            reuse_actors=True,
            trial_dirname_creator=lambda trial: trial.trial_id,
        ),
        run_config=tune.RunConfig(
            name="tune",
            storage_path=str(scratch),
            verbose=0,
            progress_reporter=tune.CLIReporter(),  # silent at verbose=0; the default in notebooks would clear our line
            stop=StopWithSession(session, trials, progress, lookout),
            callbacks=[Reporter(session, trials)],
            failure_config=tune.FailureConfig(max_failures=0),  # the session decides which trials are started again
            checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False, checkpoint_frequency=0),
        ),
    )
    with controlled(SessionBoard(session, trials), resources):
        tuner.fit()


def _send_own_data(todo: list[PlannedTrial], workspace: Workspace) -> dict[str, str]:
    """Send what trials read of the user's own data to the nodes of a cluster; say what is too large for it."""
    sent, too_large = send_own_data(find_own_data(trial.config for trial in todo), workspace.artifacts_uri, sent_mib(), workspace.patience)
    for path in too_large:
        text = f"{path} is not sent to the nodes, as it has more than {sent_mib():g} MiB: every node must have it under this path"
        warnings.warn(text, RuntimeWarning, stacklevel=2)
    return sent


def _write_rows(recorder: Recorder) -> StoreError | None:
    """Write the last rows; if that fails, retry for a while. Returns why they still cannot be written; None if they are."""
    give_up_at = time.monotonic() + LAST_ROWS_S
    while True:
        try:
            recorder.flush()
            return None
        except StoreError as error:
            if time.monotonic() > give_up_at:
                return error
            time.sleep(1.0)
