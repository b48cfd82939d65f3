"""Estimates of what stages cost, in seconds and bytes, from measurements of earlier ones."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from orca_core.freezing.schedule import freezing_label
from orca_core.stages import Stage
from sweeper.planning.groups import find_alike, padding
from sweeper.planning.order import Seconds
from sweeper.planning.passes import JOINT, guess_epoch, kind_of, passes_of
from sweeper.planning.rungs import list_rungs
from sweeper.planning.trials import Plan, PlannedTrial

GUESS_S = {"pretrain": 1.0, "source": 0.5, "align": 0.5, "adapt": 1.0, "finetune": 1.0}
"""Seconds per epoch (`source`: of the complete stage) where no similar stage was measured: good enough to put trials in order."""

FUSED_SHARE, FUSED_HEAD_SHARE = 0.6, 0.2
"""Of the seconds of an epoch alone, what falls to a member of a full group (`finetune.fused`), and to one that trains its predictor alone.
Where no group of the task, body and width was measured yet: about what docs/benchmarks.md has, on the cautious side."""


@dataclass(frozen=True)
class Measured:
    """Measurements of earlier stages, by kind, task and body.

    Args:
        seconds: (kind, task, body) -> seconds of one plain epoch, or of the complete source stage; the kind as `kind_of` has it.
        bytes: (stage, task, body) -> size of the state it stores. Fine-tuning is not included: it stores rows or weights.
        trained: (task, body, freezing) -> maximum number of trained parameters.
        fused: (task, body, `finetune.fused`) -> seconds of one epoch of fine-tuning that fall to a member of a group.
    """

    seconds: Mapping[tuple[str, str, str], float] = field(default_factory=dict)
    bytes: Mapping[tuple[str, str, str], float] = field(default_factory=dict)
    trained: Mapping[tuple[str, str, str], int] = field(default_factory=dict)
    fused: Mapping[tuple[str, str, int], float] = field(default_factory=dict)


class CostModel:
    """Estimates seconds and bytes of stages by kind, task and body.

    Args:
        measured: Measurements of earlier trials.
    """

    def __init__(self, measured: Measured = Measured()) -> None:
        self._measured = measured

    def knows(self, trial: PlannedTrial, stage: Stage) -> bool:
        """Whether a stage of this kind, task and body was measured."""
        if stage.kind == "finetune" and trial.group is not None:
            return self._of_group(trial) in self._measured.fused
        return (kind_of(trial, stage), trial.config.task, trial.config.body.name) in self._measured.seconds

    def seconds(self, trial: PlannedTrial, stage: Stage) -> float:
        """Seconds of a stage, from its start to its end; of a trial that trains in a group, its share of a full one."""
        if stage.kind != "finetune" or trial.group is None:
            return self._alone(trial, stage)
        if (each := self._measured.fused.get(self._of_group(trial))) is not None:
            return each * (stage.end - stage.start)
        is_head = set(trial.config.phases[stage.phase].train) == {"predictor"}
        return self._alone(trial, stage) * (FUSED_HEAD_SHARE if is_head else FUSED_SHARE)

    def alone(self, trial: PlannedTrial) -> float:
        """Seconds of fine-tuning, if a trial that trains in a group trained as with `finetune.fused: 0`."""
        return sum(self._alone(trial, stage) for stage in trial.finetuning)

    def _alone(self, trial: PlannedTrial, stage: Stage) -> float:
        of_body = trial.config.task, trial.config.body.name
        each = self._measured.seconds.get((kind_of(trial, stage), *of_body))
        if each is None:  # what another objective took is nearer than a guess
            each = self._measured.seconds.get((stage.kind, *of_body), guess_epoch(trial, stage) or GUESS_S[stage.kind])
            each *= JOINT if stage.kind == "finetune" and trial.config.aligns_jointly else 1.0
        return each * passes_of(trial, stage) * (stage.end - stage.start) if stage.has_epochs else each

    def _of_group(self, trial: PlannedTrial) -> tuple[str, str, int]:
        return trial.config.task, trial.config.body.name, trial.config.finetune.fused

    def trial_seconds(self, trial: PlannedTrial) -> float:
        """Seconds of all stages of a trial, run one after the other."""
        return sum(self.seconds(trial, stage) for stage in trial.stages)

    def totals(self, trials: Iterable[PlannedTrial], seconds: Seconds | None = None) -> tuple[float, float, float]:
        """Seconds without sharing, seconds with each distinct stage computed once, and the share of the latter that was measured.

        Where several trials leave a trajectory at different epochs, the last of these counts. Groups that are not full cost what full
        ones do.

        Args:
            trials: The trials.
            seconds: What has this model's estimates already; None = the model.
        """
        trials, seconds = list(trials), seconds or self.seconds
        alone, alike = 0.0, find_alike(trials)
        once: dict[str, tuple[float, bool]] = {}
        for trial in trials:
            for stage in trial.stages:
                length = seconds(trial, stage) * (padding(trial, alike) if stage.kind == "finetune" else 1.0)
                alone += length
                once[stage.folder] = max(once.get(stage.folder, (0.0, True)), (length, self.knows(trial, stage)))
        distinct = sum(length for length, _ in once.values())
        measured = sum(length for length, known in once.values() if known)
        return alone, distinct, measured / distinct if distinct else 1.0

    def disk(self, plan: Plan, trials: Iterable[PlannedTrial]) -> tuple[float, float, float]:
        """Bytes that trials leave in the store, maximum bytes of shared fine-tuning states on top, and the measured share of stages.

        A fine-tuning state holds the trained weights, the optimizer's moments (two for Adam, one for SGD) and, with `keep` best or all, a
        copy of the best weights.
        """
        stays, shared, known, folders = 0.0, 0.0, 0, set()
        of_weights = {"none": 0, "best": 1, "last": 1, "all": 1}[plan.space.keep]
        for trial in trials:
            config = trial.config
            trained = 4 * self._measured.trained.get((config.task, config.body.name, freezing_label(config.phases)), 0)
            stays += trained * of_weights
            state = trained * (2 if config.finetune.optimizer == "sgd" else 3) + trained * (plan.space.keep in ("best", "all"))
            rungs = list_rungs(plan.space.scheduler, trial.finetuning[-1].end)
            for stage in trial.stages:
                if stage.folder in folders:
                    continue
                folders.add(stage.folder)
                ends = plan.keep_at.get(stage.folder, [stage.end])
                if stage.kind == "finetune":
                    known += trained > 0
                    if plan.space.keep == "all" and stage.fold is None:
                        stays += state * (max(ends) - stage.start)
                    else:
                        leaves = len(ends) if len(ends) > 1 or not trial.is_last_phase(stage) else 0
                        shared += state * (leaves + sum(stage.start < rung < stage.end for rung in rungs))
                else:
                    size = self._measured.bytes.get((stage.kind, config.task, config.body.name))
                    known += size is not None
                    stays += (size or 0.0) * len(ends)
        return stays, shared, known / len(folders) if folders else 1.0
