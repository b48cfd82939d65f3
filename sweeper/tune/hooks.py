"""What Ray Tune calls: each hook passes a call on to the session, which knows nothing of Ray.

Tune gives trials ids of its own; `Handed` maps them to the planned trials.
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

LOOK_EVERY_S = 5.0
"""Seconds between looks at whether Ray still has nodes."""

Handed = dict[str, PlannedTrial]
"""Tune's id of a trial -> planned trial, of those that were handed out."""


class _NotPickled:
    """Tune pickles its parts into a state that is never restored here; none of ours goes there."""

    def __getstate__(self) -> dict[str, Any]:
        return {}


class PlannedSearcher(_NotPickled, Searcher):
    """Hands Tune the planned trials, leaders of shared stages first."""

    def __init__(self, session: Session, handed: Handed) -> None:
        super().__init__()
        self._session, self._handed = session, handed

    def suggest(self, trial_id: str) -> Any:
        if self._session.is_exhausted:
            return Searcher.FINISHED
        trial = self._session.next()
        if trial is None:
            return None
        self._handed[trial_id] = trial
        return {"trial": self._session.job(trial).to_json()}

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Nothing: the callback hears of it, with the rows."""

    def save(self, checkpoint_path: str) -> None:
        """Nothing: never restored."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing: never saved."""


class StopWithSession(_NotPickled, tune.Stopper):
    """Stops trials and the run when the session says so. Tune asks it in every turn of its loop."""

    def __init__(self, session: Session, handed: Handed, progress: Progress) -> None:
        self._session, self._handed, self._progress = session, handed, progress
        self._looked = time.monotonic()

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        trial = self._handed.get(trial_id)
        return self._session.is_ending or (trial is not None and self._session.wants_stop(trial.id))

    def stop_all(self) -> bool:
        self._progress.update()
        self._session.check_deadline()
        if not self._session.is_ending and time.monotonic() - self._looked >= LOOK_EVERY_S:
            self._looked = time.monotonic()
            if not has_nodes():  # Tune would wait for ever; a cluster that scales up has its head
                self._session.lose_machines()
        return self._session.is_ending


class Reporter(_NotPickled, tune.Callback):
    """Passes on what happens to trials."""

    def __init__(self, session: Session, handed: Handed) -> None:
        self._session, self._handed = session, handed

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._session.start(self._handed[trial.trial_id].id)

    def on_trial_recover(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._session.lose(self._handed[trial.trial_id].id)  # Tune starts it again

    def on_trial_result(self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any) -> None:
        if (planned := self._handed.get(trial.trial_id)) is None:
            return
        rows = [row_from_json(row) for row in json.loads(result["rows"])]
        worker = json.loads(result.get("worker", "{}"))
        self._session.report(planned.id, rows, result.get("hostname"), result.get("pid"), worker)
        if "outcome" in result:
            del self._handed[trial.trial_id]
            self._session.end(planned.id, json.loads(result["outcome"]))

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        # One that reported its result has ended already: this one was stopped.
        if (planned := self._handed.pop(trial.trial_id, None)) is not None:
            self._session.cut(planned.id, trial.last_result or {})

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        if (planned := self._handed.pop(trial.trial_id, None)) is not None:
            self._session.give_up(planned.id)
