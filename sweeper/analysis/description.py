"""How levels do over tasks, as description: mean ranks, interquartile means, performance profiles. None of it is a test of a difference."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from sweeper.analysis.margins import NEAR_ZERO

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
        Demsar 2006, eq. 3.2 and the Nemenyi test; Friedman 1937, corrected for ties.
    """
    levels = list(next(iter(errors.values())))
    means = np.array([[np.mean(of_task[level]) for level in levels] for of_task in errors.values()])
    ranks = (means[:, :, None] > means[:, None, :]).sum(axis=2) + ((means[:, :, None] == means[:, None, :]).sum(axis=2) + 1) / 2
    k, n = len(levels), len(means)
    p = _friedman(ranks) if k > 2 and n > 2 else None
    of_level = dict(zip(levels, map(float, ranks.mean(axis=0)), strict=True))
    return Ranks(of_level, _studentized_range(1 - alpha, k) / math.sqrt(2) * math.sqrt(k * (k + 1) / (6 * n)), p, n)


# This and what the others of this module compute is in scipy.stats, too, which takes a third of the time of `sweeper compare` to import.


def _friedman(ranks: npt.NDArray[np.float64]) -> float | None:
    """Friedman's p, from the ranks within each task; None if all levels tie on every task."""
    from scipy.special import chdtrc

    n, k = ranks.shape
    ties = sum(float(count**3 - count) for of_task in ranks for count in np.unique(of_task, return_counts=True)[1])
    correction = 1 - ties / (k * (k * k - 1) * n)
    if correction == 0:
        return None
    statistic = (12 / (k * n * (k + 1)) * float((ranks.sum(axis=0) ** 2).sum()) - 3 * n * (k + 1)) / correction
    return float(chdtrc(k - 1, statistic))


def _studentized_range(p: float, k: int) -> float:
    """Quantile of the range of k independent standard normal values."""
    from scipy.special import ndtr

    z = np.linspace(-9, 9, 3601)
    density = np.exp(-z * z / 2) / math.sqrt(2 * math.pi) * (z[1] - z[0])
    low, high = 0.0, 20.0
    while high - low > 1e-12 * high:
        middle = (low + high) / 2
        below = k * float((density * (ndtr(z + middle) - ndtr(z)) ** (k - 1)).sum())  # z is the least of them
        low, high = (middle, high) if below < p else (low, middle)
    return (low + high) / 2


def interquartile_means(errors: Errors, baseline: Any) -> dict[Any, float]:
    """Level -> interquartile mean, over all tasks and seeds, of the error over the baseline's mean error on the task.

    Tasks on which the baseline's mean error is near 0 are left out.

    Reference:
        Agarwal et al. 2021, section 4.3: the mean without the lowest and the highest quarter.
    """
    found: dict[Any, list[float]] = {}
    for of_task in errors.values():
        scale = float(np.mean(of_task[baseline]))
        if scale >= NEAR_ZERO:
            for level, values in of_task.items():
                found.setdefault(level, []).extend(value / scale for value in values)
    return {level: _interquartile_mean(values) for level, values in found.items()}


def _interquartile_mean(values: Sequence[float]) -> float:
    cut = len(values) // 4
    return float(np.mean(np.partition(values, (cut, len(values) - cut - 1))[cut : len(values) - cut]))


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
