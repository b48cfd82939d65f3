"""Plans a search space once, then extends the plan score by score.

Only `tpe` proposes trials from scores. A score affects only the arms that contain its trial, so `Planner.tell` costs as much as proposing
one candidate, however large the sweep is. An arm is one combination of grid levels and variant; a candidate is one choice of values for its
tuned knobs.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from orca_core.config.knobs import TrialConfig
from orca_core.config.resolve import resolve_config
from orca_core.errors import ConfigError, DataError, Fault
from orca_core.identity import hash_of, read_knobs, trial_id
from orca_core.stages import result_key, stages_of
from sweeper.planning.search import Values, list_candidates, mean_score
from sweeper.planning.trials import Plan, PlannedTrial
from sweeper.space.space import Arm, SearchSpace
from sweeper.workbench import on_workbench

ScoreOf = Callable[[PlannedTrial], float | None]


@on_workbench
def make_plan(space: SearchSpace, *, scores: Mapping[str, float] = {}) -> Plan:
    """Plan a search space.

    Args:
        space: The search space.
        scores: Trial id -> the metric of finished trials, infinite for failed ones; `tpe` proposes from these.

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

    Raises:
        ConfigError: As `make_plan`.
    """

    def __init__(self, space: SearchSpace, scores: Mapping[str, float] = {}, result_keys: Mapping[str, str] = {}) -> None:
        self.space = space
        self._scores, self._result_keys = dict(scores), dict(result_keys)
        self._arms: list[_PlannedArm] = []
        self._arms_of: defaultdict[str, list[_PlannedArm]] = defaultdict(list)
        self._ends: defaultdict[str, set[int]] = defaultdict(set)
        self._by_key: defaultdict[str, list[_PlannedArm]] = defaultdict(list)
        self._plan: Plan | None = None
        self._reported: set[str] = set()
        missing: dict[str, Fault] = {}
        for arm in space.arms():
            planned = _PlannedArm(space, arm)
            try:
                self._index(planned, planned.grow(self._score_of))
            except DataError as error:  # missing files of a task or proxy: collected, to be reported together
                missing |= {line: Fault(error.knob, line.rstrip("."), Fault.ABSENT) for line in str(error).splitlines()}
            self._arms.append(planned)
            self._by_key[planned.key].append(planned)
        self._proposed_later = sum(arm.proposed_later for arm in self._arms)
        if missing:
            raise ConfigError(missing.values(), space.file)
        self._check_budget()

    def tell(self, trial_id: str, score: float) -> list[PlannedTrial]:
        """Take in the metric of a trial that has ended, infinite if it failed.

        Returns:
            The trials that are proposed because of it and are new to the plan.

        Raises:
            ValueError: If the trial already has a different score, under `tpe`.
            ConfigError: If a proposed combination breaks a rule of the knobs.
        """
        if self.space.search.algorithm != "tpe":
            return []
        if trial_id in self._reported and self._scores[trial_id] != score:
            raise ValueError(f"the score of trial {trial_id} must not change, but got {score} after {self._scores[trial_id]}")
        self._reported.add(trial_id)
        self._scores[trial_id] = score
        self._result_keys.pop(trial_id, None)
        proposed: list[PlannedTrial] = []
        for arm in tuple(self._arms_of.get(trial_id, ())):
            before = arm.proposed_later
            proposed += self._index(arm, arm.grow(self._score_of))
            self._proposed_later += arm.proposed_later - before
        return proposed

    @property
    def plan(self) -> Plan:
        """The current plan."""
        if self._plan is None:
            self._plan = self._assemble()
        return self._plan

    @property
    def proposed_later(self) -> int:
        """Number of trials that `tpe` will propose once it has seen more scores."""
        return self._proposed_later

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

    def _score_of(self, trial: PlannedTrial) -> float | None:
        """The score of a trial; None if it is unknown, or was computed by other code or from other data."""
        is_current = self._result_keys.get(trial.id, trial.result_key) == trial.result_key
        return self._scores.get(trial.id) if is_current else None

    def _index(self, arm: _PlannedArm, grown: Sequence[PlannedTrial]) -> list[PlannedTrial]:
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
        order = {seed: position for position, seed in enumerate(self.space.seeds)}
        in_order = sorted(trials.values(), key=lambda trial: order[trial.config.seed])
        combinations = sum(len(arm.trials) for arm in self._arms)
        return Plan(self.space, tuple(in_order), combinations + self._proposed_later, self._proposed_later)

    def _check_budget(self) -> None:
        trials, allowed = len(self._arms_of) + self._proposed_later, self.space.budget.trials
        if allowed is not None and trials > allowed:
            rule = f"must allow the {trials} trials of the plan"
            raise ConfigError([Fault("budget.trials", rule, allowed, "Raise it, or vary fewer knobs.")], self.space.file)
        if not self._arms_of:
            raise ConfigError([Fault("require", "must leave at least one combination", Fault.ABSENT)], self.space.file)


class _PlannedArm:
    """An arm with the candidates proposed so far."""

    def __init__(self, space: SearchSpace, arm: Arm) -> None:
        self._space, self._arm = space, arm
        self._values: list[Values] = []
        self._candidates: list[list[PlannedTrial]] = []
        self._means: list[float | None] = []
        self.key = ""

    @property
    def num_proposed(self) -> int:
        """Number of candidates proposed so far."""
        return len(self._candidates)

    @property
    def num_candidates(self) -> int:
        """Number of candidates in the end."""
        return self._space.search.trials if self._arm.tuned else 1

    def may_have(self, task: str) -> bool:
        """Whether the arm may have trials on a task."""
        return self._arm.config.task == task or any("task" in axis.knobs for axis in self._arm.tuned)

    @property
    def trials(self) -> list[PlannedTrial]:
        """The trials of all candidates, each with every seed."""
        return [trial for candidate in self._candidates for trial in candidate]

    @property
    def proposed_later(self) -> int:
        """Number of trials still to be proposed."""
        return len(self._space.seeds) * (self.num_candidates - len(self._candidates))

    def grow(self, score_of: ScoreOf) -> list[PlannedTrial]:
        """Propose every candidate that the scores allow; returns the new trials."""
        self.key = self.key or _arm_key(self._arm)
        before = len(self._candidates)
        while True:
            # A candidate may repeat an earlier one whose score is known: then the next one can be proposed right away.
            self._means = self._score_candidates(score_of)
            values = list_candidates(self._arm.tuned, self._space.search, self._means, self._values)
            if len(values) == len(self._values):
                return [trial for candidate in self._candidates[before:] for trial in candidate]
            for chosen in values[len(self._values) :]:
                self._candidates.append(self._plan_candidate(chosen))
                self._values.append(chosen)

    def _score_candidates(self, score_of: ScoreOf) -> list[float | None]:
        """The mean score of each candidate. Means known before are reused, which keeps `tell` fast."""
        known = self._means + [None] * (len(self._candidates) - len(self._means))
        return [
            mean_score({trial.config.seed: score_of(trial) for trial in trials}) if mean is None else mean
            for mean, trials in zip(known, self._candidates, strict=True)
        ]

    def _plan_candidate(self, values: Values) -> list[PlannedTrial]:
        """The trials of the next candidate, one per seed."""
        config, number = self._arm.config, len(self._candidates)
        if self._arm.tuned:
            overrides = dict(self._arm.overrides)
            for axis in self._arm.tuned:
                overrides = axis.put(overrides, values[axis.path])
            config = _resolve(self._space, overrides)
        # No other knob depends on the seed: resolve once, then fill in each seed.
        seeded = [config.model_copy(update={"seed": seed}) for seed in self._space.seeds]
        return [plan_trial(one, self._space.device, self.key, number, self._arm.variant) for one in seeded]


def plan_trial(config: TrialConfig, device: str, arm: str = "", candidate: int = 0, variant: str = "") -> PlannedTrial:
    """One trial with its stages. Without an `arm`, the trial is an arm of its own."""
    stages, identity = stages_of(config, device), trial_id(config)
    return PlannedTrial(identity, config, arm or identity, candidate, variant, stages, result_key(config, stages))


def _arm_key(arm: Arm) -> str:
    """Hash of the knobs that an arm reads, without seed and tuned knobs. Which it reads is decided at the base values of the tuned ones."""
    left_out = {"seed"} | {knob for axis in arm.tuned for knob in axis.knobs}
    return hash_of({path: value for path, value in read_knobs(arm.config).items() if path not in left_out})


def _resolve(space: SearchSpace, overrides: Mapping[str, object]) -> TrialConfig:
    try:
        return resolve_config(overrides)
    except ConfigError as error:
        raise ConfigError([fault.at("space") for fault in error.faults], space.file) from None
