"""The hooks that Ray Tune calls. Each forwards to the session, which knows nothing about Ray.

Tune pulls trials from a searcher, asks a stopper after every report, and notifies callbacks of what happened. Its trials have ids of their
own; `TrialsByTuneId` maps these to the planned trials. All hooks run in the thread of Tune's loop: so they need no locks, but must be fast.
"""

from __future__ import annotations

import json
import time
from typing import Any

from ray import tune
from ray.tune.search import Searcher

from orca_core.rows import row_from_json
from sweeper.planning.trials import PlannedTrial
from sweeper.running.progress import Progress
from sweeper.running.session import Session
from sweeper.tune.cluster import has_nodes

NODE_CHECK_EVERY_S = 5.0
"""Seconds between checks whether Ray still has nodes."""

TrialsByTuneId = dict[str, PlannedTrial]
"""Tune's id of a trial -> planned trial, of the trials that were handed out and have not ended."""


class _NotPickled:
    """Tune pickles its components to restore them later. A sweep is never restored in this way, so ours have an empty state."""

    def __getstate__(self) -> dict[str, Any]:
        return {}


class PlannedSearcher(_NotPickled, Searcher):
    """Hands the planned trials to Tune, in the order of the session: leaders of shared stages first."""

    def __init__(self, session: Session, trials: TrialsByTuneId) -> None:
        super().__init__()
        self._session, self._trials = session, trials

    def suggest(self, trial_id: str) -> Any:
        # While no trial runs, Tune asks again and again for up to ten minutes, and nothing else: not even whether the run is to end.
        self._session.check_deadline()
        if self._session.is_exhausted:
            return Searcher.FINISHED
        trial = self._session.next()
        if trial is None:
            return None  # Tune asks again after the next event: a trial may be unblocked then
        self._trials[trial_id] = trial
        return {"trial": self._session.job(trial).to_json()}

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Do nothing: `Reporter` gets this event together with the rows."""

    def save(self, checkpoint_path: str) -> None:
        """Do nothing: never restored."""

    def restore(self, checkpoint_path: str) -> None:
        """Do nothing: never saved."""


class StopWithSession(_NotPickled, tune.Stopper):
    """Passes reports on to the session, and stops trials and the run when the session wants it.

    Tune asks the stopper about a report before it calls any callback, so the rows are passed on here: the session decides by them. Tune
    calls `stop_all` in every turn of its loop: periodic checks are there.
    """

    def __init__(self, session: Session, trials: TrialsByTuneId, progress: Progress) -> None:
        self._session, self._trials, self._progress = session, trials, progress
        self._last_check = time.monotonic()

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        if (trial := self._trials.get(trial_id)) is None:
            return self._session.is_ending
        rows = [row_from_json(row) for row in json.loads(result["rows"])]
        worker = json.loads(result.get("worker", "{}"))
        self._session.report(trial.id, rows, result.get("hostname"), result.get("pid"), worker)
        return self._session.wants_stop(trial.id)

    def stop_all(self) -> bool:
        self._progress.update()
        self._session.check_deadline()
        if not self._session.is_ending and time.monotonic() - self._last_check >= NODE_CHECK_EVERY_S:
            self._last_check = time.monotonic()
            if not has_nodes():  # Tune would wait for ever. A cluster that is still scaling up has at least its head.
                self._session.lose_machines()
        return self._session.is_ending


class Reporter(_NotPickled, tune.Callback):
    """Tells the session how trials start and end."""

    def __init__(self, session: Session, trials: TrialsByTuneId) -> None:
        self._session, self._trials = session, trials

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._session.start(self._trials[trial.trial_id].id)

    def on_trial_recover(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._session.lose(self._trials[trial.trial_id].id)  # Tune restarts it by itself

    def on_trial_result(self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any) -> None:
        if "outcome" in result and (planned := self._trials.pop(trial.trial_id, None)) is not None:
            self._session.end(planned.id, json.loads(result["outcome"]))

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        # A trial that reported its outcome was removed in `on_trial_result`: one that is still here was stopped or pauses.
        if (planned := self._trials.pop(trial.trial_id, None)) is not None:
            self._session.cut(planned.id)

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        if (planned := self._trials.pop(trial.trial_id, None)) is not None:
            self._session.give_up(planned.id)
