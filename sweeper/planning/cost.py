"""What stages cost, from the ones that were measured."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from orca_core.stages import Stage
from sweeper.planning.trials import Plan, PlannedTrial

GUESS_S = {"pretrain": 1.0, "source": 0.5, "align": 0.5, "finetune": 1.0}
"""Seconds of an epoch (`source`: of the whole) where nothing like it was measured: enough to put trials in an order."""


@dataclass(frozen=True)
class Measured:
    """What earlier trials tell of stages like those to come, by kind, task and body.

    Args:
        seconds: (stage, task, body) -> seconds of one epoch, or of the whole source stage.
        bytes: (stage, task, body) -> size of the state it leaves; not of fine-tuning, which leaves rows or weights.
        trained: (task, body, freezing) -> parameters that train, at most.
    """

    seconds: Mapping[tuple[str, str, str], float] = field(default_factory=dict)
    bytes: Mapping[tuple[str, str, str], float] = field(default_factory=dict)
    trained: Mapping[tuple[str, str, str], int] = field(default_factory=dict)


class CostModel:
    """Seconds and bytes of stages by kind, task and body.

    Args:
        measured: What earlier trials tell.
    """

    def __init__(self, measured: Measured = Measured()) -> None:
        self._measured = measured

    def knows(self, trial: PlannedTrial, stage: Stage) -> bool:
        """Whether a stage like this was measured."""
        return (stage.kind, trial.config.task, trial.config.body.name) in self._measured.seconds

    def seconds(self, trial: PlannedTrial, stage: Stage) -> float:
        """Seconds of a stage, from its start to its end."""
        each = self._measured.seconds.get((stage.kind, trial.config.task, trial.config.body.name), GUESS_S[stage.kind])
        return each * (stage.end - stage.start) if stage.has_epochs else each

    def path(self, trial: PlannedTrial) -> float:
        """Seconds of all stages of a trial, one after the other."""
        return sum(self.seconds(trial, stage) for stage in trial.stages)

    def longest_first(self, trials: Iterable[PlannedTrial]) -> list[PlannedTrial]:
        """Trials by the length of their path, so that no long one is left for the end and leaders go furthest."""
        return sorted(trials, key=self.path, reverse=True)

    def totals(self, trials: Iterable[PlannedTrial]) -> tuple[float, float, float]:
        """Seconds of some trials' stages: each trial by itself, each distinct stage once, and the measured share of the latter.

        Of a trajectory that several trials leave at different epochs, the longest counts.
        """
        alone = 0.0
        once: dict[str, tuple[float, bool]] = {}
        for trial in trials:
            for stage in trial.stages:
                seconds = self.seconds(trial, stage)
                alone += seconds
                once[stage.folder] = max(once.get(stage.folder, (0.0, True)), (seconds, self.knows(trial, stage)))
        distinct = sum(seconds for seconds, _ in once.values())
        measured = sum(seconds for seconds, known in once.values() if known)
        return alone, distinct, measured / distinct if distinct else 1.0

    def disk(self, plan: Plan, trials: Iterable[PlannedTrial]) -> tuple[float, float, float]:
        """Bytes that some trials leave, bytes of shared fine-tuning states beside these at most, and the measured share of the stages.

        A state of fine-tuning holds the trained weights and, of Adam, two moments; one more copy where the best weights are held.
        """
        stays, shared, known, folders = 0.0, 0.0, 0, set()
        of_weights = {"none": 0, "best": 1, "last": 1, "all": 1}[plan.space.keep]
        for trial in trials:
            config = trial.config
            trained = 4 * self._measured.trained.get((config.task, config.body.name, str(trial.knobs()["freezing"])), 0)
            stays += trained * of_weights
            state = trained * (2 if config.finetune.optimizer == "sgd" else 3) + trained * (plan.space.keep in ("best", "all"))
            for stage in trial.stages:
                if stage.folder in folders:
                    continue
                folders.add(stage.folder)
                ends = plan.keep_at.get(stage.folder, [stage.end])
                if stage.kind == "finetune":
                    known += trained > 0
                    if plan.space.keep == "all":
                        stays += state * (max(ends) - stage.start)
                    elif len(ends) > 1 or stage is not trial.finetuning[-1]:
                        shared += state * len(ends)
                else:
                    size = self._measured.bytes.get((stage.kind, config.task, config.body.name))
                    known += size is not None
                    stays += (size or 0.0) * len(ends)
        return stays, shared, known / len(folders) if folders else 1.0
