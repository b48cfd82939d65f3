"""Which candidates are stopped early: a pure function of the plan and of the epochs that its trials have reported.

A candidate is one setting of an arm's tuned knobs, with all its seeds. It goes on past a rung, or is stopped there, as a whole:

- A rung is decided for a candidate when all its seeds have reached it. Seeds that arrive earlier wait.
- Candidates are decided in cohorts: those numbered 0 to c - 1, then c to 2c - 1, and so on, where c is `scheduler.cohort`. A cohort is
  decided at a rung when all of its candidates that are not stopped yet have reached it and all cohorts before it are decided there. It is
  compared with itself and with these.
- A candidate with a failed seed is not waited for. It is compared at the rungs that all its seeds reached, and stopped at the next one.
- A candidate with a COMPLETE seed is not stopped any more. That seed was taken over from another sweep, or had ended before the file asked
  for early stopping; its values count in the comparison.
- Under hyperband cohorts take the brackets in turn, and a candidate is compared with those of its bracket alone.
- A trial that several candidates contain, of one arm or of several, belongs to the one that its row names.

So decisions do not depend on the order in which trials run or report, and the scores of a cohort are known before `tpe` proposes the first
candidate that needs them: for this a cohort must not be larger than `search.lag`.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from sweeper.planning.planner import Planner
from sweeper.planning.rungs import Curve, find_stopped, list_rungs, mean_curve
from sweeper.planning.trials import PlannedTrial


@dataclass(eq=False)
class Candidate:
    """A candidate and what was decided about it.

    Args:
        number: Its number in its arm.
        trials: Its trials, one per seed.
        passed: Number of rungs after which it was allowed to go on.
        stopped_at: The epoch after which it is stopped; None if it is not.
    """

    number: int
    trials: list[PlannedTrial] = field(default_factory=list)
    passed: int = 0
    stopped_at: int | None = None

    @property
    def epochs(self) -> int:
        """Epochs of fine-tuning of each of its trials."""
        return self.trials[0].finetuning[-1].end


class EarlyStopping:
    """Decides which candidates of a plan are stopped.

    Args:
        planner: Holds the plan. Trials that it proposes later must be passed to `add`.
        past: Trial id -> row, of trials that have ended; rows of other code or data are ignored.
        curves: Trial id -> the metric after each epoch of fine-tuning, of the same trials.
    """

    def __init__(
        self, planner: Planner, past: Mapping[str, Mapping[str, Any]] = {}, curves: Mapping[str, Mapping[int, float | None]] = {}
    ) -> None:
        self._planner, self._config = planner, planner.space.scheduler
        self._curves: defaultdict[str, dict[int, float]] = defaultdict(dict)
        self._ended: dict[str, str] = {}
        self._past: dict[str, Mapping[str, Any]] = {}
        self._past_curves: dict[str, Mapping[int, float | None]] = {}
        self._candidate_of: dict[str, Candidate] = {}
        self._group_of: dict[str, _Group] = {}
        self._groups: dict[tuple[str, ...], _Group] = {}
        self._changed: dict[_Group, None] = {}  # a set in the order of insertion
        self.recall(past, curves)
        self.add(planner.plan.trials)

    def add(self, trials: Iterable[PlannedTrial]) -> None:
        """Take in trials that are new to the plan. To be called after each `Planner.tell`, even if that proposed nothing."""
        for trial in trials:
            group = self._group(trial)
            candidate = group.candidates.setdefault((trial.arm, trial.candidate), Candidate(trial.candidate))
            if not candidate.trials:
                group.cohorts[self.cohort_of(trial)].append(candidate)
            candidate.trials.append(trial)
            self._candidate_of[trial.id], self._group_of[trial.id] = candidate, group
            if len(rungs := list_rungs(self._config, candidate.epochs, self._bracket_of(trial))) > len(group.rungs):
                group.rungs = rungs
            self._load(trial)
            self._changed[group] = None
        if self._planner.space.search.learns:  # an arm may have proposed a trial that was known already: its cohort is complete
            self._changed |= dict.fromkeys(self._groups.values())

    def recall(self, past: Mapping[str, Mapping[str, Any]], curves: Mapping[str, Mapping[int, float | None]]) -> None:
        """Take in trials that have ended in earlier runs or in other sweeps; arguments as for the class."""
        self._past |= past
        self._past_curves |= curves
        for trial in [trial for trial in self._planner.plan.trials if trial.id in past and trial.id in self._candidate_of]:
            self._load(trial)
            self._changed[self._group_of[trial.id]] = None

    def observe(self, trial_id: str, epoch: int, value: float | None) -> None:
        """Take in the metric of a trial after an epoch of fine-tuning."""
        self._curves[trial_id][epoch] = math.inf if value is None or math.isnan(value) else value
        self._changed[self._group_of[trial_id]] = None

    def end(self, trial_id: str, status: str) -> None:
        """Take in that a trial is COMPLETE or has FAILed, and so will report no more."""
        self._ended[trial_id] = status
        self._changed[self._group_of[trial_id]] = None

    def settle(self) -> list[Candidate]:
        """Decide all that can be decided by now; returns the candidates for which something was."""
        changed, self._changed = self._changed, {}
        return [candidate for group in changed for candidate in group.settle(self)]

    def cohort_of(self, trial: PlannedTrial) -> int:
        """Number of the cohort of a trial's candidate."""
        return trial.candidate // self._planner.space.cohort

    def rungs_of(self, trial: PlannedTrial) -> tuple[int, ...]:
        """The epochs after which a trial may have to wait or to stop; empty if it is compared with nothing."""
        if self._group_of[trial.id].size <= 1:
            return ()
        return list_rungs(self._config, self._candidate_of[trial.id].epochs, self._bracket_of(trial))

    def limit(self, trial_id: str) -> float:
        """The epoch after which a trial must not go on for now: its next rung, or the one at which it is stopped; else infinite."""
        candidate, group = self._candidate_of[trial_id], self._group_of[trial_id]
        if candidate.stopped_at is not None:
            return candidate.stopped_at
        if group.size == 1 or candidate.passed >= len(group.rungs) or group.rungs[candidate.passed] >= candidate.epochs:
            return math.inf
        return group.rungs[candidate.passed]

    def is_stopped(self, trial_id: str) -> bool:
        """Whether the candidate of a trial is stopped early."""
        return self._candidate_of[trial_id].stopped_at is not None

    def has_ended_right(self, trial_id: str, epoch: int) -> bool:
        """Whether a trial that an earlier run stopped early, after an epoch, need not run for now.

        If its candidate is stopped, that is so after the same epoch alone: with seeds that were added or repeated since, the candidate may
        have been stopped at an earlier rung. If it is undecided, the trial has to have come as far as it may.
        """
        if self.is_stopped(trial_id):
            return epoch == self.limit(trial_id)
        return max(self._curves[trial_id], default=0) >= self.limit(trial_id)

    # ------------------------------------------------------------------------------------------------ for the groups

    def curve_of(self, candidate: Candidate, rung: int) -> Curve | None:
        """The mean curve of a candidate up to a rung; None if one of its seeds has not reached it."""
        curves = [self._curves[trial.id] for trial in candidate.trials]
        return mean_curve(curves, rung) if all(rung in curve for curve in curves) else None

    def is_awaited(self, candidate: Candidate, rung: int) -> bool:
        """Whether a seed of a candidate has yet to reach a rung."""
        return any(rung not in self._curves[trial.id] and trial.id not in self._ended for trial in candidate.trials)

    def has_complete_seed(self, candidate: Candidate) -> bool:
        """Whether any trial of a candidate is COMPLETE."""
        return any(self._ended.get(trial.id) == "COMPLETE" for trial in candidate.trials)

    def find_stopped(self, curves: Mapping[Candidate, Curve], judged: list[Candidate], rung: int) -> set[Candidate]:
        """Those of the judged candidates that the rule of the scheduler stops."""
        return find_stopped(self._config, curves, judged, rung)

    def is_proposed(self, arms: Iterable[str], cohort: int) -> bool:
        """Whether all candidates of a cohort are known."""
        end = (cohort + 1) * self._planner.space.cohort
        counts = [self._planner.count_candidates(arm) for arm in arms]
        return all(proposed >= min(end, total) for proposed, total in counts)

    def _group(self, trial: PlannedTrial) -> _Group:
        task, is_by_arm = trial.config.task, self._config.among == "arm"
        bracket = self._bracket_of(trial)
        key = (task, trial.arm if is_by_arm else "", str(bracket))
        if trial.role == "replicate":  # of a candidate that was chosen: it is compared with nothing
            return self._groups.setdefault((task, trial.arm, trial.role), _Group([trial.arm], 1, 1))
        if key not in self._groups:
            arms = [trial.arm] if is_by_arm else self._planner.arms_of(task)
            totals = [self._planner.count_candidates(arm)[1] for arm in arms]
            cohort = self._planner.space.cohort
            size = sum(self._bracket(number // cohort) == bracket for total in totals for number in range(total))
            self._groups[key] = _Group(arms, size, -(-max(totals) // cohort))
        return self._groups[key]

    def _bracket_of(self, trial: PlannedTrial) -> int:
        return self._bracket(self.cohort_of(trial))

    def _bracket(self, cohort: int) -> int:
        """The bracket of a cohort; 0 unless there are several."""
        return cohort % self._config.brackets if self._config.name == "hyperband" else 0

    def _load(self, trial: PlannedTrial) -> None:
        """Take in what is known of a trial from earlier runs."""
        row = self._past.get(trial.id)
        if row is None or not trial.accepts(row):
            return
        for epoch, value in self._past_curves.get(trial.id, {}).items():
            self.observe(trial.id, epoch, value)
        if row["status"] in ("COMPLETE", "FAIL"):
            self.end(trial.id, row["status"])


class _Group:
    """The candidates that are compared with each other.

    Args:
        arms: Their arms.
        size: Number of candidates of these arms, proposed or not.
        num_cohorts: Number of cohorts.
    """

    def __init__(self, arms: list[str], size: int, num_cohorts: int) -> None:
        self.size = size
        self.rungs: tuple[int, ...] = ()
        self.candidates: dict[tuple[str, int], Candidate] = {}
        self.cohorts: defaultdict[int, list[Candidate]] = defaultdict(list)
        self._arms, self._num_cohorts = arms, num_cohorts
        self._decided: defaultdict[int, int] = defaultdict(int)  # number of a rung -> cohorts that are decided there
        self._compared: defaultdict[int, dict[Candidate, Curve]] = defaultdict(dict)  # number of a rung -> those that reached it

    def settle(self, stopping: EarlyStopping) -> list[Candidate]:
        """Decide all that can be decided, rung by rung and cohort by cohort."""
        found: list[Candidate] = []
        for number, rung in enumerate(self.rungs if self.size > 1 else ()):
            while (cohort := self._decided[number]) < self._num_cohorts and self._can_decide(cohort, number, rung, stopping):
                found += self._decide(cohort, number, rung, stopping)
                self._decided[number] += 1
        return found

    def _arriving(self, cohort: int, number: int, rung: int) -> list[Candidate]:
        """The candidates of a cohort that reach a rung."""
        return [
            candidate
            for candidate in self.cohorts.get(cohort, ())
            if candidate.stopped_at is None and candidate.passed == number and candidate.epochs >= rung
        ]

    def _can_decide(self, cohort: int, number: int, rung: int, stopping: EarlyStopping) -> bool:
        if number > 0 and self._decided[number - 1] <= cohort:
            return False
        if not stopping.is_proposed(self._arms, cohort):
            return False
        return not any(stopping.is_awaited(candidate, rung) for candidate in self._arriving(cohort, number, rung))

    def _decide(self, cohort: int, number: int, rung: int, stopping: EarlyStopping) -> list[Candidate]:
        arriving = self._arriving(cohort, number, rung)
        compared = self._compared[number]
        compared |= {candidate: curve for candidate in arriving if (curve := stopping.curve_of(candidate, rung)) is not None}
        open_to_judgement = [one for one in arriving if one.epochs > rung]
        judged = [one for one in open_to_judgement if one in compared and not stopping.has_complete_seed(one)]
        stopped = stopping.find_stopped(compared, judged, rung) if judged else set()
        for candidate in open_to_judgement:
            has_lost_a_seed = candidate not in compared and not stopping.has_complete_seed(candidate)
            if candidate in stopped or has_lost_a_seed:
                candidate.stopped_at = rung
            else:
                candidate.passed += 1
        return open_to_judgement
