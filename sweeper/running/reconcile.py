"""Compares a plan with the results: which trials are done, to run, stale, or no longer planned."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from orca_core.errors import StoreError
from sweeper.planning.collection import no_collection
from sweeper.planning.planner import Planner
from sweeper.planning.stopping import EarlyStopping
from sweeper.planning.trials import Plan, PlannedTrial
from sweeper.results.store import ResultStore
from sweeper.running.recorder import NOT_RETRIED, Recorder, scores_of
from sweeper.running.warm_start import recall_candidates
from sweeper.space.reading import parse_space
from sweeper.space.space import SearchSpace


@dataclass(frozen=True)
class Reconciliation:
    """A plan and the results of its sweep.

    Args:
        planner: Holds the plan, including what `tpe` proposes from the results.
        known: Trial id -> current row, of every trial of the sweep.
        ended: Those of `known` that are final, planned or not.
        done: Ids of planned trials that need not run.
        todo: Planned trials that must run.
        stale: Ids of planned trials whose results come from other code, data or pretraining than the current ones.
        dropped: Rows of trials that are no longer planned, without derived ones, which never were.
        stopping: What early stopping decides from the results; None without it.
    """

    planner: Planner
    known: Mapping[str, Mapping[str, Any]]
    ended: Mapping[str, Mapping[str, Any]]
    done: frozenset[str]
    todo: tuple[PlannedTrial, ...]
    stale: frozenset[str]
    dropped: tuple[Mapping[str, Any], ...]
    stopping: EarlyStopping | None = None

    def is_done(self, trial: PlannedTrial) -> bool:
        """Whether a trial need not run. Also for trials that `tpe` proposes later: an earlier run may have finished them."""
        return _is_done(trial, self.ended.get(trial.id), self.stopping)

    def recall(self, results: ResultStore, taken: Collection[str]) -> None:
        """Let early stopping know the trials that were taken over from other sweeps. Their rows must have been written."""
        if taken and self.stopping is not None:
            space = self.plan.space
            rows = {row["trial"]: row for row in results.live_trials(space.name) if row["trial"] in taken}
            self.stopping.recall(rows, results.curves(space.name, space.metric))

    def mark_planned(self, recorder: Recorder) -> None:
        """Bring the rows of earlier trials that need not run up to date with the plan."""
        for trial in self.plan.trials:
            if trial.id in self.done:
                recorder.plan_again(trial, self.known[trial.id], self.planner.arms_with(trial.id))

    def mark_dropped(self, recorder: Recorder) -> None:
        """Clear `in_plan` in the rows of earlier trials that the current plan no longer contains."""
        planned = self.plan.by_id
        recorder.set_in_plan((row for trial, row in self.known.items() if trial not in planned and row["in_plan"]), False)

    @property
    def plan(self) -> Plan:
        """The current plan."""
        return self.planner.plan


def latest_space(results: ResultStore, name: str) -> SearchSpace:
    """The search space with which a sweep was last run.

    Raises:
        StoreError: If no plan of it is stored.
    """
    plan = results.latest_plan(name)
    if plan is None:
        raise StoreError(f"{results.uri}: has no plan of {name}. Run the sweep again.")
    return parse_space(plan["space"] | {"name": name})


@no_collection()
def reconcile(space: SearchSpace, results: ResultStore, retry_failed: bool = False, planner: Planner | None = None) -> Reconciliation:
    """Compare a search space with the results of its sweep.

    Args:
        space: The search space.
        results: The result tables.
        retry_failed: Count failed trials as not done, whatever the cause.
        planner: The space's planner, if there is one already.

    Raises:
        ConfigError: If the space cannot be planned.
    """
    known = {row["trial"]: row for row in results.live_trials(space.name)}
    stops_early = space.scheduler.name != "fifo"

    def has_ended(row: Mapping[str, Any]) -> bool:
        if row["status"] == "FAIL":
            return not retry_failed and row["cause"] in NOT_RETRIED
        return row["status"] == "COMPLETE" or (row["status"] == "PRUNED" and stops_early)

    ended = {trial: row for trial, row in known.items() if has_ended(row)}
    scores = {trial: scores_of(row, space.columns_read) for trial, row in ended.items() if row["status"] != "PRUNED"}
    if planner is None:
        result_keys = {trial: row["result_key"] for trial, row in ended.items()}
        planner = Planner(space, scores, result_keys, earlier=recall_candidates(space, results))
    stopping = _decide_again(planner, ended, results.curves(space.name, space.metric) if ended else {}) if stops_early else None
    plan = planner.plan
    current = {trial.id for trial in plan.trials if _is_done(trial, ended.get(trial.id), stopping)}
    return Reconciliation(
        planner=planner,
        known=known,
        ended=ended,
        done=frozenset(current),
        todo=tuple(trial for trial in plan.trials if trial.id not in current),
        stale=frozenset(trial.id for trial in plan.trials if trial.id in ended and not trial.accepts(ended[trial.id])),
        dropped=tuple(row for trial, row in known.items() if trial not in plan.by_id and row["role"] != "derived"),
        stopping=stopping,
    )


def _is_done(trial: PlannedTrial, row: Mapping[str, Any] | None, stopping: EarlyStopping | None) -> bool:
    """Whether a trial need not run, given its row if it has ended.

    A trial that was stopped early goes on if the decision is another one by now: seeds were added, say, or a failed one was repeated.
    """
    if row is None or not trial.accepts(row):
        return False
    return row["status"] != "PRUNED" or stopping is None or stopping.has_ended_right(trial.id, row["best_epoch"])


def _decide_again(
    planner: Planner, ended: Mapping[str, Mapping[str, Any]], curves: Mapping[str, Mapping[int, float | None]]
) -> EarlyStopping:
    """Decide from the results which candidates are stopped, and let `tpe` propose from the scores of those that are.

    A trial that is PRUNED in the results has no score as long as its candidate is undecided: it may go on.
    """
    stopping = EarlyStopping(planner, ended, curves)
    open_trials = {trial: row for trial, row in ended.items() if row["status"] == "PRUNED"}
    while True:
        stopping.settle()
        by_id = planner.plan.by_id
        confirmed = [
            trial
            for trial, row in open_trials.items()
            if trial in by_id
            and by_id[trial].accepts(row)
            and stopping.is_stopped(trial)
            and stopping.has_ended_right(trial, row["best_epoch"])
        ]
        if not confirmed:
            return stopping
        for trial in confirmed:
            scores = scores_of(open_trials.pop(trial), planner.space.columns_read)
            stopping.add(planner.tell(trial, scores, is_stopped=True))
