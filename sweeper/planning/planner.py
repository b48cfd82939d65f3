"""Plans a search space once, then extends the plan score by score.

Scores lead to new trials in three ways: algorithms that learn propose candidates; `search.replicate` repeats the best candidate of an arm;
and a question adds seeds where it is open. Each is a pure function of the scores, so a plan made anew from the results goes on where the
one before had come to. A candidate depends only on the scores of its arm, so `Planner.tell` costs as much as proposing one, however large
the sweep is. An arm is one combination of grid levels and variant; a candidate is one choice of values for its tuned knobs.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

from orca_core.errors import ConfigError, DataError, Fault
from orca_core.stages import Digests
from sweeper.planning.deciding import Deciding, find_contrasts
from sweeper.planning.planned_arm import PlannedArm, Scores
from sweeper.planning.search import Earlier
from sweeper.planning.trials import Plan, PlannedTrial
from sweeper.space.space import SearchSpace
from sweeper.workbench import on_workbench


@on_workbench
def make_plan(space: SearchSpace, *, scores: Mapping[str, float | Scores] = {}) -> Plan:
    """Plan a search space.

    Args:
        space: The search space.
        scores: Trial id -> the metric of finished trials, or metric -> value if several are read (`SearchSpace.columns_read`); infinite for
            failed trials.

    Raises:
        ConfigError: If a combination breaks a rule of the knobs, files of a task or proxy are missing, or the plan exceeds its budget.
    """
    return Planner(space, scores).plan


class Planner:
    """The trials of a search space that are known so far. The plan depends on the scores, not on the order in which they arrive.

    Args:
        space: The search space.
        scores: As for `make_plan`.
        result_keys: Trial id -> result key under which its score was computed, where known. If the trial's key has changed since, the
            score comes from other code or data and is ignored.
        stopped: Ids of those trials with scores that were stopped early.
        earlier: Key of an arm -> candidates of earlier sweeps from which it learns.

    Attributes:
        contrasts: The contrasts of the question, and the keys of the arms that each compares; empty without a question.
        deciding: Decides how many seeds each arm has; None if all have the same ones.

    Raises:
        ConfigError: As `make_plan`.
    """

    def __init__(
        self,
        space: SearchSpace,
        scores: Mapping[str, float | Scores] = {},
        result_keys: Mapping[str, str] = {},
        stopped: Collection[str] = (),
        earlier: Mapping[str, Earlier] = {},
    ) -> None:
        self.space, self.earlier = space, earlier
        self._scores, self._result_keys = {trial: self._by_metric(score) for trial, score in scores.items()}, dict(result_keys)
        self._stopped = set(stopped)
        self._arms: list[PlannedArm] = []
        self._arms_of: defaultdict[str, list[PlannedArm]] = defaultdict(list)
        self._ends: defaultdict[str, set[int]] = defaultdict(set)
        self._by_key: defaultdict[str, list[PlannedArm]] = defaultdict(list)
        self._plan: Plan | None = None
        self._reported: set[str] = set()
        self._digests: Digests = {}  # for one round of proposals: files may change until the next
        missing: dict[str, Fault] = {}
        for arm in space.arms():
            planned = PlannedArm(space, arm, earlier, self._digests)
            try:
                self._index(planned, planned.grow(self._score_of, self._stopped))
            except DataError as error:  # missing files of a task or proxy: collected, to be reported together
                missing |= {line: Fault(error.knob, line.rstrip("."), Fault.ABSENT) for line in str(error).splitlines()}
            self._arms.append(planned)
            self._by_key[planned.key].append(planned)
        self._proposed_later = sum(arm.proposed_later for arm in self._arms)
        if missing:
            raise ConfigError(missing.values(), space.file)
        self.contrasts = find_contrasts(space, self._by_key) if space.question is not None and self._arms else {}
        self.deciding = Deciding(space, self._by_key, self.contrasts) if space.looks else None
        self._decide()
        self._digests.clear()
        self._check_budget()

    def tell(self, trial_id: str, score: float | Scores, *, is_stopped: bool = False) -> list[PlannedTrial]:
        """Take in the score of a trial that has ended.

        Args:
            trial_id: The trial.
            score: As in `make_plan`.
            is_stopped: Whether it was stopped early.

        Returns:
            The trials that are proposed because of it and are new to the plan.

        Raises:
            ValueError: If the trial already has a different score, where trials are proposed from scores.
            ConfigError: If a proposed combination breaks a rule of the knobs.
        """
        if not self.space.learns:
            return []
        values = self._by_metric(score)
        if trial_id in self._reported and self._scores[trial_id] != values:
            raise ValueError(f"the score of trial {trial_id} must not change, but got {values} after {self._scores[trial_id]}")
        self._reported.add(trial_id)
        self._scores[trial_id] = values
        self._result_keys.pop(trial_id, None)
        if is_stopped:
            self._stopped.add(trial_id)
        proposed: list[PlannedTrial] = []
        for arm in tuple(self._arms_of.get(trial_id, ())):
            before = arm.proposed_later
            proposed += self._index(arm, arm.grow(self._score_of, self._stopped))
            self._proposed_later += arm.proposed_later - before
        proposed += self._decide(trial_id)
        self._digests.clear()
        return proposed

    @property
    def plan(self) -> Plan:
        """The current plan."""
        if self._plan is None:
            self._plan = self._assemble()
        return self._plan

    @property
    def proposed_later(self) -> int:
        """Number of trials that may be proposed once more scores are known: those of a search, and the most that a question may add."""
        return self._proposed_later + (self.deciding.most_later if self.deciding is not None else 0)

    @property
    def searched_later(self) -> int:
        """The same, of a search alone."""
        return self._proposed_later

    @property
    def most_trials(self) -> int:
        """Number of distinct trials, with those that may yet be proposed."""
        return len(self._arms_of) + self.proposed_later

    @property
    def least_trials(self) -> int:
        """The same, if every open contrast were decided with the seeds that its arms have now."""
        return len(self._arms_of) + self._proposed_later

    @property
    def arm_keys(self) -> list[str]:
        """Keys of all arms, in the order of the file."""
        return list(self._by_key)

    def arms_with(self, trial_id: str) -> list[str]:
        """Keys of the arms that contain a trial."""
        return [arm.key for arm in self._arms_of.get(trial_id, ())]

    def count_candidates(self, arm: str) -> tuple[int, int]:
        """Number of candidates of an arm that are proposed so far, and that there will be in the end."""
        arms = self._by_key[arm]
        return max(one.num_proposed for one in arms), max(one.num_candidates for one in arms)

    def arms_of(self, task: str) -> list[str]:
        """The arms that may have trials on a task, in the order of the file."""
        return [key for key, arms in self._by_key.items() if any(arm.may_have(task) for arm in arms)]

    def ends_of(self, trajectory: str) -> list[int]:
        """Epochs at which trials leave a trajectory, ascending; empty if all leave it at the same epoch."""
        ends = self._ends.get(trajectory, ())
        return sorted(ends) if len(ends) > 1 else []

    def _decide(self, told: str | None = None) -> list[PlannedTrial]:
        """Let the question add seeds, now that a trial has its score (None: that any may have). Returns the trials that are new."""
        proposed: list[PlannedTrial] = []
        while self.deciding is not None and (wanted := self.deciding.look(self._score_of, told)):
            for arm in [arm for key in wanted for arm in self._by_key[key]]:
                proposed += self._index(arm, arm.extend(wanted[arm.key]))
            told = None  # scores of these may be known from an earlier run
        return proposed

    def _by_metric(self, score: float | Scores) -> Scores:
        return score if isinstance(score, Mapping) else {self.space.metric: score}

    def _score_of(self, trial: PlannedTrial) -> Scores | None:
        """The scores of a trial; None if it is unknown, or was computed by other code or from other data."""
        is_current = self._result_keys.get(trial.id, trial.result_key) == trial.result_key
        return self._scores.get(trial.id) if is_current else None

    def _index(self, arm: PlannedArm, grown: Sequence[PlannedTrial]) -> list[PlannedTrial]:
        """Register the trials that an arm has grown by; returns those that no other arm has."""
        new = []
        for trial in grown:
            if trial.id not in self._arms_of:
                new.append(trial)
                for stage in trial.stages:
                    if stage.has_epochs:
                        self._ends[stage.folder].add(stage.end)
            if arm not in self._arms_of[trial.id]:
                self._arms_of[trial.id].append(arm)
        if grown:
            self._plan = None
        return new

    def _assemble(self) -> Plan:
        trials: dict[str, PlannedTrial] = {}
        for trial in (trial for arm in self._arms for trial in arm.trials):
            known = trials.get(trial.id)
            if known is None:
                trials[trial.id] = trial
            elif trial.variant and trial.variant not in known.variant.split(","):
                trials[trial.id] = replace(known, variant=f"{known.variant},{trial.variant}")
        order = {seed: position for position, seed in enumerate((*self.space.seeds, *self.space.fresh_seeds))}
        in_order = sorted(trials.values(), key=lambda trial: order[trial.config.seed])
        combinations = sum(len(arm.trials) for arm in self._arms)
        return Plan(self.space, tuple(in_order), combinations + self.proposed_later, self.proposed_later)

    def _check_budget(self) -> None:
        trials, allowed = self.most_trials, self.space.budget.trials
        if allowed is not None and trials > allowed:
            rule = f"must allow the {trials} trials of the plan"
            raise ConfigError([Fault("budget.trials", rule, allowed, "Raise it, or vary fewer knobs.")], self.space.file)
        if not self._arms_of:
            raise ConfigError([Fault("require", "must leave at least one combination", Fault.ABSENT)], self.space.file)
