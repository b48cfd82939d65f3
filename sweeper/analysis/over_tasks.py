"""A factor's effect over tasks: one relative difference per task, Student's t over tasks.

Tasks are the units here, not pairs: arms differ from task to task, so a bootstrap or a t test over all pairs of all tasks takes one task's
peculiarity for many observations. In the simulations of `benchmarks/statistics.py` they give a false verdict in 26 to 48 % of sweeps.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sweeper.analysis.paired import PairedT, as_number, paired_t

MIN_TASKS = 2
"""Minimum number of tasks for a row over tasks."""


@dataclass(frozen=True)
class OverTasks:
    """Relative differences of several tasks.

    Args:
        t: Student's t over the tasks.
        prediction_low, prediction_high: Interval in which the relative difference of a new task of the same kind lies with 95 %.
        lower, higher: Number of tasks on which the level's mean error is lower, and higher, than the baseline's.
    """

    t: PairedT
    prediction_low: float | None
    prediction_high: float | None
    lower: int
    higher: int


def summarise_tasks(relative: Mapping[str, float]) -> OverTasks:
    """Summarise relative differences.

    Args:
        relative: Task -> mean difference over the mean error of the baseline; at least two tasks.
    """
    from scipy.special import stdtrit

    values: Sequence[float] = list(relative.values())
    t = paired_t(values)
    half = float(stdtrit(len(values) - 1, 0.975)) * float(t.sd) * math.sqrt(1 + 1 / len(values))
    mean = float(t.mean)
    return OverTasks(t, as_number(mean - half), as_number(mean + half), sum(v < 0 for v in values), sum(v > 0 for v in values))
