"""How levels do over tasks, as description: mean ranks, interquartile means, performance profiles. None of it is a test of a difference."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from sweeper.analysis.paired import as_number

Errors = Mapping[Any, Mapping[Any, Sequence[float]]]
"""Task -> level -> errors by seed. Every task has every level."""


@dataclass(frozen=True)
class Ranks:
    """Ranks of levels by their mean error, 1 being the lowest, averaged over tasks.

    Args:
        mean_rank: Level -> mean rank over tasks; ties share their mean.
        critical_difference: Nemenyi's: mean ranks that are closer are joined in a critical-difference diagram.
        p: Friedman's p that all levels rank alike; None for two levels, fewer than three tasks, or if all tie on every task.
        tasks: Number of tasks.
    """

    mean_rank: Mapping[Any, float]
    critical_difference: float
    p: float | None
    tasks: int


def rank_levels(errors: Errors, alpha: float = 0.05) -> Ranks:
    """Rank levels by mean error within each task.

    Reference:
        Demsar 2006, eq. 3.2 and the Nemenyi test; `scipy.stats.friedmanchisquare`.
    """
    from scipy.stats import friedmanchisquare, rankdata, studentized_range

    levels = list(next(iter(errors.values())))
    means = np.array([[np.mean(of_task[level]) for level in levels] for of_task in errors.values()])
    ranks = rankdata(means, axis=1).mean(axis=0)
    k, n = len(levels), len(means)
    q = float(studentized_range.ppf(1 - alpha, k, np.inf)) / math.sqrt(2)
    with np.errstate(invalid="ignore"):  # p is NaN where all levels tie on every task
        p = as_number(friedmanchisquare(*means.T).pvalue) if k > 2 and n > 2 else None
    return Ranks(dict(zip(levels, map(float, ranks), strict=True)), q * math.sqrt(k * (k + 1) / (6 * n)), p, n)


def interquartile_means(errors: Errors, baseline: Any) -> dict[Any, float]:
    """Level -> interquartile mean, over all tasks and seeds, of the error over the baseline's mean error on the task.

    Tasks on which the baseline's mean error is 0 are left out.

    Reference:
        Agarwal et al. 2021, section 4.3: the mean without the lowest and the highest quarter.
    """
    from scipy.stats import trim_mean

    found: dict[Any, list[float]] = {}
    for of_task in errors.values():
        if scale := float(np.mean(of_task[baseline])):
            for level, values in of_task.items():
                found.setdefault(level, []).extend(value / scale for value in values)
    return {level: float(trim_mean(values, 0.25)) for level, values in found.items()}


def performance_profile(errors: Errors, ratios: Sequence[float]) -> dict[Any, list[float]]:
    """Level -> for each ratio, the share of runs whose error is at most so many times the lowest mean error on the task.

    Reference:
        Dolan & Moré 2002, with runs instead of problems; each task counts alike.
    """
    shares: dict[Any, list[Any]] = {}
    for of_task in errors.values():
        best = min(float(np.mean(values)) for values in of_task.values())
        for level, values in of_task.items():
            shares.setdefault(level, []).append([float(np.mean(np.asarray(values) <= ratio * best)) for ratio in ratios])
    return {level: np.mean(of_level, axis=0).tolist() for level, of_level in shares.items()}
