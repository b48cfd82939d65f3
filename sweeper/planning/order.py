"""The order in which trials start: first those on which the longest path of computation hangs.

A stage that several trials share is computed by the first of them, its leader, and the others wait for it. What hangs on a leader is the
longest way from the first stage that it computes to the end of a trial that needs that stage; what hangs on any other trial is what is left
of it once the stages it shares are there. Starting the longest path first keeps the last trials of a sweep from waiting for one another.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from orca_core.stages import Stage
from sweeper.planning.trials import PlannedTrial

Seconds = Callable[[PlannedTrial, Stage], float]
"""Estimates the duration of a stage of a trial, from the stage's start to its end; of a trial that trains in a group, its share."""


def estimated_once(seconds: Seconds) -> Seconds:
    """The same estimates, each made once: for what asks for the stages of the same trials again and again."""
    known: dict[tuple[str, str, int, int | None], float] = {}

    def look_up(trial: PlannedTrial, stage: Stage) -> float:
        key = trial.id, stage.kind, stage.phase, stage.fold
        if (found := known.get(key)) is None:
            found = known[key] = seconds(trial, stage)
        return found

    return look_up


def longest_path_first(
    trials: Sequence[PlannedTrial], seconds: Seconds, *, share: bool = True, cohort_of: Callable[[PlannedTrial], int] | None = None
) -> list[PlannedTrial]:
    """Trials by decreasing length of the path that hangs on them; of equal ones, those that come first stay first.

    Args:
        trials: Trials to run.
        seconds: Estimates durations.
        share: Whether trials share stages; if not, the path of a trial is the trial.
        cohort_of: Number of a trial's cohort, if early stopping decides cohort after cohort: earlier cohorts come first.
    """
    lengths = {trial.id: [seconds(trial, stage) * _members(trial, stage) for stage in trial.stages] for trial in trials}
    rank = cohort_of or (lambda trial: 0)
    by_duration = sorted(trials, key=lambda trial: (rank(trial), -sum(lengths[trial.id])))
    if not share:
        return by_duration
    paths = _longest_paths(by_duration, lengths)
    reached: dict[str, int] = {}  # folder -> epoch to which the trials before compute it
    hanging = {trial.id: _path_of(trial, lengths[trial.id], paths, reached) for trial in by_duration}
    return sorted(by_duration, key=lambda trial: (rank(trial), -hanging[trial.id]))


def _members(trial: PlannedTrial, stage: Stage) -> int:
    """How many trials take part in a stage side by side: a trial of a group ends with its group, of which `Seconds` has its share."""
    return trial.config.finetune.fused if stage.kind == "finetune" and trial.group is not None else 1


def _longest_paths(trials: Iterable[PlannedTrial], lengths: dict[str, list[float]]) -> dict[str, float]:
    """Folder of a stage -> the longest way from its start to the end of a trial that needs it, in seconds."""
    paths: dict[str, float] = {}
    for trial in trials:
        rest = 0.0
        for stage, length in zip(reversed(trial.stages), reversed(lengths[trial.id]), strict=True):
            rest += length
            paths[stage.folder] = max(paths.get(stage.folder, 0.0), rest)
    return paths


def _path_of(trial: PlannedTrial, lengths: list[float], paths: dict[str, float], reached: dict[str, int]) -> float:
    """The path that hangs on a trial, if the trials in `reached` start before it. Adds its own stages to `reached`."""
    path, rest = None, sum(lengths)
    for stage, length in zip(trial.stages, lengths, strict=True):
        before = reached.get(stage.folder)
        if before is None:
            path = paths[stage.folder] if path is None else path
        elif before < stage.end and path is None:  # goes on alone from where an earlier trial leaves the trajectory
            path = rest - length * (before - stage.start) / (stage.end - stage.start)
        reached[stage.folder] = max(before or 0, stage.end)
        rest -= length
    return path or 0.0
