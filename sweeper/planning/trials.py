"""What a plan is: the trials of a search space, canonical and without repeats, and the stages they share."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

from orca_core.config.knobs import TrialConfig
from orca_core.config.paths import KNOBS
from orca_core.declarations import STAGES
from orca_core.fusing import group_of
from orca_core.identity import canonical_knob, canonical_knobs, hash_of
from orca_core.stages import Stage
from sweeper.space.space import SearchSpace

Role = Literal["trial", "tuning", "replicate"]
"""What a trial is for: `tuning` chooses the setting of an arm, and `replicate` repeats the chosen one; other trials do both."""


COLUMNS: Mapping[str, str] = {path: path.replace(".", "_") for path in KNOBS}
"""Knob -> its column in rows."""


@dataclass(frozen=True)
class PlannedTrial:
    """One trial of a plan.

    Args:
        id: Hash of the canonical config.
        config: Its complete config.
        arm: Hash of the config without tuned knobs and those that seeds set: the trials of an arm repeat one experiment.
        candidate: Number of the candidate in its arm; 0 when nothing is tuned.
        variant: Names of the variants that contain it, joined by commas.
        stages: Its stages, in order.
        result_key: Hash of its id and stage keys: equal keys, equal results.
        role: What it is for.
        read: The knobs that it reads; None if that is still to be found out.
    """

    id: str
    config: TrialConfig
    arm: str
    candidate: int
    variant: str
    stages: tuple[Stage, ...]
    result_key: str
    role: Role = "trial"
    read: frozenset[str] | None = field(default=None, repr=False, compare=False)

    @cached_property
    def group(self) -> str | None:
        """What the trials have in common that can train with it as one model, as members of one group; None if it trains alone."""
        return group_of(self.config)

    @property
    def finetuning(self) -> tuple[Stage, ...]:
        """The stages of its fine-tuning: one per phase, of each fold, if it has any, and of the trial itself."""
        return tuple(stage for stage in self.stages if stage.kind == "finetune")

    def is_last_phase(self, stage: Stage) -> bool:
        """Whether a stage is the last phase of fine-tuning, of a fold or of the trial itself: nothing in the trial goes on from it."""
        return stage.kind == "finetune" and stage.phase == len(self.config.phases) - 1

    def accepts(self, row: Mapping[str, Any]) -> bool:
        """Whether a finished row holds this trial's current result. Version 0.1, whose rows lack `numpy_version`, stored two computations
        under one result key; such rows are not accepted."""
        is_unclear = row.get("numpy_version") is None and any(stage.needs_maker for stage in self.stages)
        return row["result_key"] == self.result_key and not is_unclear

    def knobs(self) -> dict[str, Any]:
        """The canonical config: dotted path -> value, None for a knob that nothing reads."""
        return canonical_knobs(self.config, self.read)

    def cell(self, path: str) -> Any:
        """The value of one knob as `cells` has it."""
        return _cell(canonical_knob(self.config, path, self.read) if self.read is not None else self.knobs()[path])

    def cells(self) -> dict[str, Any]:
        """The canonical config as cells of a row: dots become underscores, tuples lists."""
        return {COLUMNS[path]: _cell(value) for path, value in self.knobs().items()}


def _cell(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


@dataclass(frozen=True)
class Plan:
    """The trials of a search space that are known so far.

    Args:
        space: The search space.
        trials: Distinct trials, in the order of the file, grouped by seed.
        combinations: Trials before canonicalisation.
        proposed_later: Number of trials that may be proposed once there are results.
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
        """Kind of stage -> (stages that the trials need, distinct ones); a trajectory counts once, however long it is."""
        needed = Counter(stage.kind for trial in self.trials for stage in trial.stages)
        distinct = Counter(kind for kind, _ in {(stage.kind, stage.folder) for trial in self.trials for stage in trial.stages})
        return {kind: (needed[kind], distinct[kind]) for kind in STAGES if kind in needed}

    @cached_property
    def keep_at(self) -> dict[str, list[int]]:
        """Folder of a trajectory -> epochs at which trials leave it, for trajectories with more than one such epoch."""
        ends: dict[str, set[int]] = defaultdict(set)
        for trial in self.trials:
            for stage in trial.stages:
                if stage.has_epochs:
                    ends[stage.folder].add(stage.end)
        return {folder: sorted(epochs) for folder, epochs in ends.items() if len(epochs) > 1}

    @property
    def hash(self) -> str:
        """Names the stored plan: hash of the space as given and of the trials' result keys."""
        return hash_of({"space": self.space.source, "results": sorted(trial.result_key for trial in self.trials)})
