"""What stages cost, from the ones that were measured."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from statistics import median
from typing import Any

from orca_core.stages import Stage
from sweeper.planning import Plan, PlannedTrial

GUESS_S = {"pretrain": 1.0, "source": 0.5, "align": 0.5, "finetune": 1.0}
"""Seconds of an epoch (`source`: of the whole) where nothing like it was measured: enough to put trials in an order."""


class CostModel:
    """Seconds of stages by kind, task and body.

    Args:
        measured: Rows of (stage, task, body_name, seconds of one epoch, or of the whole source stage).
    """

    def __init__(self, measured: Iterable[Mapping[str, Any]] = ()) -> None:
        seconds: defaultdict[tuple[str, str, str], list[float]] = defaultdict(list)
        for row in measured:
            seconds[row["stage"], row["task"], row["body_name"]].append(row["seconds"])
        self._median = {key: median(values) for key, values in seconds.items()}

    def knows(self, trial: PlannedTrial, stage: Stage) -> bool:
        """Whether a stage like this was measured."""
        return (stage.kind, trial.config.task, trial.config.body.name) in self._median

    def seconds(self, trial: PlannedTrial, stage: Stage) -> float:
        """Seconds of a stage, from its start to its end."""
        each = self._median.get((stage.kind, trial.config.task, trial.config.body.name), GUESS_S[stage.kind])
        return each if stage.end is None else each * (stage.end - stage.start)

    def path(self, trial: PlannedTrial) -> float:
        """Seconds of all stages of a trial, one after the other."""
        return sum(self.seconds(trial, stage) for stage in trial.stages)

    def longest_first(self, trials: Iterable[PlannedTrial]) -> list[PlannedTrial]:
        """Trials by the length of their path, so that no long one is left for the end and leaders go furthest."""
        return sorted(trials, key=self.path, reverse=True)

    def totals(self, plan: Plan, trials: Iterable[PlannedTrial]) -> tuple[float, float, float]:
        """Seconds of some trials' stages: each trial by itself, each distinct stage once, and the measured share of the latter.

        Of a trajectory that several trials leave at different epochs, the longest counts.
        """
        alone = 0.0
        once: dict[str, tuple[float, bool]] = {}
        for trial in trials:
            for stage in trial.stages:
                seconds = self.seconds(trial, stage)
                alone += seconds
                once[stage.place] = max(once.get(stage.place, (0.0, True)), (seconds, self.knows(trial, stage)))
        distinct = sum(seconds for seconds, _ in once.values())
        measured = sum(seconds for seconds, known in once.values() if known)
        return alone, distinct, measured / distinct if distinct else 1.0
