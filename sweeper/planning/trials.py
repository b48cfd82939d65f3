"""Plans: the trials of a search space, canonical and without repeats, and the stages they share."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from orca_core.config.knobs import TrialConfig
from orca_core.config.resolve import resolve_config
from orca_core.errors import ConfigError, DataError, Fault
from orca_core.identity import canonical_knobs, hash_of, read_knobs, trial_id
from orca_core.stages import Stage, result_key, stages_of
from sweeper.planning.search import candidates, mean_score
from sweeper.space.reading import Arm, SearchSpace


@dataclass(frozen=True)
class PlannedTrial:
    """One trial of a plan.

    Args:
        id: Hash of the canonical config.
        config: The whole config.
        arm: Hash of the config without seed and tuned knobs: trials of an arm answer the same question.
        candidate: Number of the candidate in its arm; 0 when nothing is tuned.
        variant: Names of the variants that ask for it, joined by commas.
        stages: What it runs, in order.
        result_key: What it is known by when finished.
    """

    id: str
    config: TrialConfig
    arm: str
    candidate: int
    variant: str
    stages: tuple[Stage, ...]
    result_key: str

    @property
    def finetuning(self) -> tuple[Stage, ...]:
        """The phases of its fine-tuning."""
        return tuple(stage for stage in self.stages if stage.kind == "finetune")

    def knobs(self) -> dict[str, Any]:
        """The canonical config: dotted path -> value, None where nothing reads the knob."""
        return canonical_knobs(self.config)


@dataclass(frozen=True)
class Plan:
    """The trials of a search space that are known by now.

    Args:
        space: What was planned.
        trials: Distinct trials, in the order of the file, all arms of a seed together.
        combinations: Trials before canonicalisation.
        proposed_later: Trials that `tpe` will propose when it has seen results.
    """

    space: SearchSpace
    trials: tuple[PlannedTrial, ...]
    combinations: int
    proposed_later: int = 0
    by_id: Mapping[str, PlannedTrial] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "by_id", {trial.id: trial for trial in self.trials})

    @cached_property
    def stage_counts(self) -> dict[str, tuple[int, int]]:
        """Kind of stage -> (stages that the trials need, distinct ones; a trajectory counts once, however far it goes)."""
        needed = Counter(stage.kind for trial in self.trials for stage in trial.stages)
        distinct = Counter(kind for kind, _ in {(stage.kind, stage.folder) for trial in self.trials for stage in trial.stages})
        return {kind: (needed[kind], distinct[kind]) for kind in ("pretrain", "source", "align", "finetune") if kind in needed}

    @cached_property
    def keep_at(self) -> dict[str, list[int]]:
        """Place of a trajectory -> epochs at which some trial leaves it, where there is more than one."""
        ends: dict[str, set[int]] = defaultdict(set)
        for trial in self.trials:
            for stage in trial.stages:
                if stage.end is not None:
                    ends[stage.folder].add(stage.end)
        return {place: sorted(epochs) for place, epochs in ends.items() if len(epochs) > 1}

    @property
    def hash(self) -> str:
        """What the plan is kept under: the space as given, and the results its trials will be known by."""
        return hash_of({"space": self.space.source, "results": sorted(trial.result_key for trial in self.trials)})


def make_plan(space: SearchSpace, scores: Mapping[str, float] = {}) -> Plan:
    """Plan a search space.

    Args:
        space: What to plan.
        scores: Trial id -> the metric of finished trials, infinite for failed ones; `tpe` proposes from these.

    Raises:
        ConfigError: If a combination breaks a rule of the knobs, files of a task or proxy are missing, or the plan breaks its budget.
    """
    trials: dict[str, PlannedTrial] = {}
    combinations = later = 0
    arms = space.arms()
    missing: dict[str, Fault] = {}
    for arm in arms:
        try:
            found = _arm_trials(space, arm, scores)
        except DataError as error:  # files of a task or proxy are not there: said for all at once
            missing |= {line: Fault(error.knob, line.rstrip("."), Fault.ABSENT) for line in str(error).splitlines()}
            continue
        combinations += len(found)
        later += len(space.seeds) * (space.search.trials if arm.tuned else 1) - len(found)
        for trial in found:
            known = trials.get(trial.id)
            if known is None:
                trials[trial.id] = trial
            elif trial.variant and trial.variant not in known.variant.split(","):
                trials[trial.id] = _replace_variant(known, f"{known.variant},{trial.variant}")
    if missing:
        raise ConfigError(missing.values(), space.file)
    if space.budget.trials is not None and len(trials) + later > space.budget.trials:
        rule = f"must allow the {len(trials) + later} trials of the plan"
        raise ConfigError([Fault("budget.trials", rule, space.budget.trials, "Raise it, or let less vary.")], space.file)
    if not trials:
        raise ConfigError([Fault("require", "must leave at least one combination", Fault.ABSENT)], space.file)
    order = {seed: position for position, seed in enumerate(space.seeds)}
    in_order = sorted(trials.values(), key=lambda trial: order[trial.config.seed])
    return Plan(space, tuple(in_order), combinations + later, later)


def _arm_trials(space: SearchSpace, arm: Arm, scores: Mapping[str, float]) -> list[PlannedTrial]:
    """The trials of an arm that are known by now."""
    key = _arm_key(space, arm)
    found: list[list[PlannedTrial]] = []
    known = _candidate_scores(found, scores)
    while True:
        proposals = candidates(arm, space.search, known)
        for number, values in enumerate(proposals[len(found) :], start=len(found)):
            overrides = dict(arm.overrides)
            for axis in arm.tuned:
                overrides = axis.put(overrides, values[axis.path])
            found.append([_planned(space, overrides | {"seed": seed}, arm, number, key) for seed in space.seeds])
        more = _candidate_scores(found, scores)
        if more == known or not arm.tuned or space.search.algorithm != "tpe":
            return [trial for candidate in found for trial in candidate]
        known = more


def _candidate_scores(found: Iterable[list[PlannedTrial]], scores: Mapping[str, float]) -> list[float | None]:
    return [mean_score({trial.config.seed: scores.get(trial.id) for trial in trials}) for trials in found]


def _arm_key(space: SearchSpace, arm: Arm) -> str:
    """Hash of the arm's knobs without seed and tuned knobs; what is read is judged with the tuned knobs where base has them."""
    left_out = {"seed"} | {knob for axis in arm.tuned for knob in axis.knobs}
    knobs = read_knobs(_resolved(space, arm.overrides))
    return hash_of({path: value for path, value in knobs.items() if path not in left_out})


def _resolved(space: SearchSpace, overrides: Mapping[str, Any]) -> TrialConfig:
    try:
        return resolve_config(overrides)
    except ConfigError as error:
        raise ConfigError([fault.at("space") for fault in error.faults], space.file) from None


def _planned(space: SearchSpace, overrides: Mapping[str, Any], arm: Arm, number: int, key: str) -> PlannedTrial:
    config = _resolved(space, overrides)
    stages = stages_of(config, space.device)
    return PlannedTrial(trial_id(config), config, key, number, arm.variant, stages, result_key(config, stages))


def _replace_variant(trial: PlannedTrial, variant: str) -> PlannedTrial:
    return PlannedTrial(trial.id, trial.config, trial.arm, trial.candidate, variant, trial.stages, trial.result_key)
