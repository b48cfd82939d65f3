"""The hooks that Ray Tune calls. Each forwards to the session, which knows nothing about Ray.

Tune pulls trials from a searcher, asks a stopper after every report, and notifies callbacks of what happened. Its trials have ids of their
own; `TrialsByTuneId` maps these to the planned trials: a trial of Tune's is one of them, or a group that trains as one model. All hooks run
in the thread of Tune's loop: so they need no locks, but must be fast.
"""

from __future__ import annotations

import json
import math
import time
from typing import Any

from ray import tune
from ray.tune import PlacementGroupFactory, Trainable
from ray.tune.experiment import Experiment
from ray.tune.search import SearchAlgorithm

from orca_core.rows import row_from_json
from sweeper.planning.trials import PlannedTrial
from sweeper.running.lookout import Lookout
from sweeper.running.losses import Loss
from sweeper.running.progress import Progress
from sweeper.running.session import Session
from sweeper.tune.cluster import check_head, has_nodes
from sweeper.tune.trials import TuneTrial

LOOK_EVERY_S = 2.0
"""Seconds between looks at the cluster: which nodes have joined, which are gone or about to be taken away."""

ENDING_S = 0.5
"""Seconds from the wish to end to the end of trials. What ends a sweep, such as a batch scheduler, may end the processes of Ray as well."""

TrialsByTuneId = dict[str, dict[str, PlannedTrial]]
"""Tune's id of a trial -> planned trials by their own ids, of those that were handed out and have not ended."""


class _NotPickled:
    """Tune pickles its components to restore them later. A sweep is never restored in this way, so ours have an empty state."""

    def __getstate__(self) -> dict[str, Any]:
        return {}


class SessionBoard:
    """Connects `SweepController`, which knows trials by Tune's ids, to the session."""

    def __init__(self, session: Session, trials: TrialsByTuneId) -> None:
        self._session, self._trials = session, trials

    def avoided(self, tune_id: str) -> frozenset[str]:
        """Ids of the nodes on which a trial must not start."""
        planned = self._trials.get(tune_id)
        return frozenset().union(*map(self._session.nodes.avoided, planned)) if planned else self._session.nodes.unusable

    def gpu(self, tune_id: str) -> float:
        """The share of a GPU that a trial asks for under `gpu: auto`."""
        return max(map(self._session.packing.share, self._trials.get(tune_id, {}).values()), default=1.0)

    def started(self, tune_id: str, node: str | None, gpu: float | None) -> None:
        """A process on a node begins a trial; under `gpu: auto` with the share of a GPU that it holds."""
        for trial_id in self._trials.get(tune_id, ()):
            self._session.start(trial_id, node, gpu)

    def lost(self, tune_id: str, loss: Loss) -> None:
        """The process of a trial was lost."""
        for number, trial_id in enumerate(self._trials.pop(tune_id, ())):
            self._session.lose(trial_id, loss, is_first=number == 0)

    def hung(self) -> list[str]:
        """The trials whose processes have to be ended, as they are beyond their time limit and do not report."""
        hung = self._session.processes.hung
        return [tune_id for tune_id, planned in self._trials.items() if not hung.isdisjoint(planned)] if hung else []

    def timed_out(self, tune_id: str) -> None:
        """The process of such a trial is being ended."""
        hung = self._session.processes.hung
        for trial_id in self._trials.pop(tune_id, ()):
            if trial_id in hung:
                self._session.time_out(trial_id)
            else:
                self._session.lose(trial_id, Loss(error="the process was ended at the time limit of another trial", is_announced=True))

    def title(self, tune_id: str) -> str:
        """The name of a trial in Ray's dashboard: its task, its id, what it varies; of a group those of its first member."""
        if not (planned := self._trials.get(tune_id)):
            return ""
        first = next(iter(planned.values()))
        others = f"and {len(planned) - 1} more" if len(planned) > 1 else ""
        return " ".join(filter(None, (first.config.task, first.id, first.variant, others)))

    def is_fit(self, node_id: str) -> bool:
        """Whether a process on a node may get another trial."""
        return self._session.nodes.is_fit(node_id)

    @property
    def version(self) -> int:
        """A number that changes with the answers of `avoided` and `gpu`."""
        return self._session.nodes.version + self._session.packing.version

    @property
    def num_waiting(self) -> int:
        """How many trials may still be handed out."""
        return self._session.num_waiting


class PlannedSearcher(_NotPickled, SearchAlgorithm):
    """Hands the planned trials to Tune, in the order of the session: leaders of shared stages first.

    Args:
        session: The run.
        trials: Where it is noted which trial has which of Tune's ids.
        trainable: What runs trials.
        request: What Ray is asked for to run one.
    """

    def __init__(self, session: Session, trials: TrialsByTuneId, trainable: type[Trainable], request: PlacementGroupFactory) -> None:
        self._session, self._trials = session, trials
        self._trainable, self._request = trainable, request
        self._experiment: Experiment | None = None

    def add_configurations(self, experiments: Any) -> None:
        """Take Tune's settings, which its trials are made with."""
        (self._experiment,) = experiments

    def next_trial(self) -> TuneTrial | None:
        """The next trial; None if none may start now. Tune asks again after the next event: a trial may be unblocked then."""
        # While no trial runs, Tune asks again and again for up to ten minutes, and nothing else: not even whether the run is to end.
        self._session.ending.check_deadline()
        if self._session.is_exhausted:
            self.set_finished()
            return None
        if (trial := self._session.next()) is None:
            return None
        assert self._experiment is not None, "Tune adds its experiment before it asks for trials"
        tune_id, trials = TuneTrial.generate_id(), [trial, *self._session.beside(trial)]
        self._trials[tune_id] = {one.id: one for one in trials}
        return TuneTrial(self._trainable, self._request, self._experiment, tune_id, self._session.message(trials))


class StopWithSession(_NotPickled, tune.Stopper):
    """Passes reports on to the session, and stops trials and the run when the session wants it.

    Tune asks the stopper about a report before it calls any callback, so the rows are passed on here: the session decides by them. Tune
    calls `stop_all` in every turn of its loop: periodic checks are there.
    """

    def __init__(self, session: Session, trials: TrialsByTuneId, progress: Progress, lookout: Lookout) -> None:
        self._session, self._trials, self._progress, self._lookout = session, trials, progress, lookout
        self._last_look = -math.inf
        self._is_ending = False

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        if (planned := self._trials.get(trial_id)) is None:
            return self._session.is_ending
        reported = json.loads(result["rows"])
        worker = json.loads(result.get("worker", "{}"))
        for name in list(planned):
            rows = [row_from_json(row) for row in (reported.get(name, ()) if isinstance(reported, dict) else reported)]
            self._session.report(name, rows, result.get("hostname"), result.get("pid"), worker)
        outcomes = json.loads(result.get("outcomes", "{}"))
        for name, outcome in outcomes.items():
            if planned.pop(name, None) is not None:
                self._session.end_member(name, outcome)
        return any(self._session.wants_stop(name) for name in planned)

    def stop_all(self) -> bool:
        self._progress.update(self._session)
        self._session.ending.check_deadline()
        if not self._session.is_ending and time.monotonic() - self._last_look >= LOOK_EVERY_S:
            self._last_look = time.monotonic()
            self._look()
        if self._session.is_ending and not self._is_ending:
            self._is_ending = True
            if note := self._session.ending_note:
                self._progress.say(note, "yellow")
            time.sleep(ENDING_S)
            check_head()
        return self._session.is_ending

    def _look(self) -> None:
        """Look at the nodes, and at what keeps the sweep from going on."""
        check_head()
        if has_nodes():
            self._lookout.look()
        else:  # a cluster that has no workers now still has its head
            self._session.ending.lose_machines()


class Reporter(_NotPickled, tune.Callback):
    """Tells the session how trials end. It hears of their start and of losses through `SessionBoard`."""

    def __init__(self, session: Session, trials: TrialsByTuneId) -> None:
        self._session, self._trials = session, trials

    def on_trial_result(self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any) -> None:
        if "outcome" in result:
            for trial_id in self._trials.pop(trial.trial_id, ()):
                self._session.end(trial_id, json.loads(result["outcome"]))

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        # A trial that reported its outcome was removed in `on_trial_result`: one that is still here was stopped or pauses.
        for trial_id in self._trials.pop(trial.trial_id, ()):
            self._session.cut(trial_id)
