"""What a plan is: the trials of a search space, canonical and without repeats, and the stages they share."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from orca_core.config.knobs import TrialConfig
from orca_core.identity import canonical_knobs, hash_of
from orca_core.stages import Stage
from sweeper.space.space import SearchSpace


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

    def cells(self) -> dict[str, Any]:
        """The canonical config as cells of a row: dots become underscores, tuples lists."""
        return {path.replace(".", "_"): list(value) if isinstance(value, tuple) else value for path, value in self.knobs().items()}


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
                if stage.has_epochs:
                    ends[stage.folder].add(stage.end)
        return {place: sorted(epochs) for place, epochs in ends.items() if len(epochs) > 1}

    @property
    def hash(self) -> str:
        """What the plan is kept under: the space as given, and the results its trials will be known by."""
        return hash_of({"space": self.space.source, "results": sorted(trial.result_key for trial in self.trials)})
