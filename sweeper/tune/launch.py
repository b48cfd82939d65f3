"""Runs the trials of a plan on Ray Tune.

Ray's own restore is not used: its state lags behind, loses the scheduler and is a pickle. A sweep is continued by planning it again
against the results and the stage store.
"""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ray import tune

from orca_core.errors import StoreError
from sweeper.planning.planner import Planner
from sweeper.planning.stopping import EarlyStopping
from sweeper.planning.trials import PlannedTrial
from sweeper.results.workspace import Workspace
from sweeper.running.driver import heartbeat
from sweeper.running.keeping import StateKeeper
from sweeper.running.progress import Progress
from sweeper.running.recorder import Recorder
from sweeper.running.session import LAST_ROWS_S, MAX_LOSSES, Outcome, Session, SweepCutError
from sweeper.tune.cluster import PENDING_TRIALS, open_cluster, ray_environment
from sweeper.tune.hooks import PlannedSearcher, Reporter, StopWithSession, TrialsByTuneId
from sweeper.tune.schedulers import SlotScheduler
from sweeper.tune.trainable import TrialRunner


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
    share: bool = True,
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
        share: Whether trials share stages; if not, each computes all of its own, to the same rows.

    Returns:
        FINISHED or STOPPED.

    Raises:
        ConfigError: If no machine has the resources for one trial, or one cannot see the store.
        SweepCutError: If the disk is full, storage was out of reach for longer than the budget allows, or no machine is left.
    """
    space = planner.space
    with ray_environment(), open_cluster(address, space.resources, workspace.artifacts_uri, space.bits) as fitting:
        slots = min(fitting, max_concurrent or fitting)
        os.environ[PENDING_TRIALS] = str(slots)
        keeper = StateKeeper(workspace.artifacts, planner, todo, recorder.writer) if share else None
        session = Session(planner, todo, recorder, workspace, slots=slots, ended=ended, stopping=stopping, share=share, keeper=keeper)
        recorder.prepare()
        trials: TrialsByTuneId = {}
        scratch = Path(tempfile.mkdtemp(prefix="sweeper-tune-"))
        tuner = tune.Tuner(
            tune.with_resources(TrialRunner, {"cpu": space.resources.cpu, "gpu": space.resources.gpu}),
            tune_config=tune.TuneConfig(
                num_samples=-1,
                search_alg=PlannedSearcher(session, trials),
                scheduler=SlotScheduler(slots),
                reuse_actors=True,
                trial_dirname_creator=lambda trial: trial.trial_id,
            ),
            run_config=tune.RunConfig(
                name="tune",
                storage_path=str(scratch),
                verbose=0,
                progress_reporter=tune.CLIReporter(),  # silent at verbose=0; the default in notebooks would clear our line
                stop=StopWithSession(session, trials, progress),
                callbacks=[Reporter(session, trials)],
                failure_config=tune.FailureConfig(max_failures=MAX_LOSSES),
                checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False, checkpoint_frequency=0),
            ),
        )
        try:
            with progress, _stop_on_signal(session), heartbeat(workspace.results, space.name, session.stop):
                tuner.fit()
        finally:
            session.close()
            _write_rows(recorder)
            session.drop_unneeded()
            recorder.writer.finish()
            shutil.rmtree(scratch, ignore_errors=True)
    if session.outcome is Outcome.DISK_FULL:
        text = "the disk is full; the sweep was ended. Free some space and run the same command to continue."
        raise SweepCutError(f"{space.name}: {text} ({session.reason})")
    if session.outcome is Outcome.STORE_LOST:
        text = "storage was out of reach for too long; the sweep was ended. Finished work is kept; run the same command to continue."
        raise SweepCutError(f"{space.name}: {text} ({session.reason})")
    if session.outcome is Outcome.LOST:
        raise SweepCutError(
            f"{space.name}: Ray's processes were lost; the sweep was ended. Finished work is kept; run the same command to continue."
        )
    return session.outcome


def _write_rows(recorder: Recorder) -> None:
    """Write the last rows; if that fails, retry for a while.

    Raises:
        SweepCutError: If they still cannot be written.
    """
    give_up_at = time.monotonic() + LAST_ROWS_S
    while True:
        try:
            return recorder.flush()
        except StoreError as error:
            if time.monotonic() > give_up_at:
                text = "the last rows could not be written. Finished work is in the stage store; run the same command to report it."
                raise SweepCutError(f"{recorder.sweep}: {text} ({error})") from error
            time.sleep(1.0)


@contextmanager
def _stop_on_signal(session: Session) -> Iterator[None]:
    """End the sweep cleanly on Ctrl-C and on SIGTERM, which batch schedulers send; a second Ctrl-C ends it immediately."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, frame: Any) -> None:
        session.stop()
        signal.signal(signal.SIGINT, before[signal.SIGINT])

    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    for number in before:
        signal.signal(number, stop)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
