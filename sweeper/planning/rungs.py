"""When candidates are judged, and which of them are stopped: the rules of `asha` and `median`, as pure functions.

A *rung* is an epoch of fine-tuning after which candidates are compared. A candidate's *curve* has its metric after each epoch, as the mean
over its seeds; lower is better. A metric that is not a number counts as infinite.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from statistics import median
from typing import TypeVar

from sweeper.space.file import SchedulerConfig

T = TypeVar("T")

Curve = Mapping[int, float]
"""Epoch of fine-tuning, from 1 -> metric after it."""


def list_rungs(config: SchedulerConfig, epochs: int, bracket: int = 0) -> tuple[int, ...]:
    """The epochs after which a candidate that trains for `epochs` epochs may be stopped, ascending.

    The first is `grace_period`; each next one is `reduction_factor` times as far for asha, and twice as far for median. The last epoch is
    never one: stopping there would not be early. Rungs do not depend on `epochs` otherwise. A candidate of `bracket` b of hyperband is
    not compared at the first b.
    """
    found: list[int] = []
    rung = config.grace_period
    factor = config.reduction_factor if config.name in ("asha", "hyperband") else 2.0
    while config.name != "fifo" and rung < epochs:
        found.append(rung)
        rung = max(rung + 1, int(rung * factor + 1e-9))
    return tuple(found[bracket:])


def find_stopped(config: SchedulerConfig, curves: Mapping[T, Curve], judged: Collection[T], rung: int) -> set[T]:
    """The candidates that are stopped at a rung. Equal candidates are treated equally, and the best one is never stopped.

    asha, hyperband: those worse than the best 1 / `reduction_factor` of all candidates, rounded down, but at least than the best one.

    median: those whose best value so far is worse than the median, over the other candidates, of their mean value from epoch
    `grace_period` to the rung; none if there are fewer than `min_trials` others.

    Args:
        config: Name and settings of the scheduler.
        curves: The curve of each candidate that has reached the rung, at least up to it.
        judged: Those of them that may be stopped.
        rung: The epoch.
    """
    if config.name in ("asha", "hyperband"):
        values = sorted(curve[rung] for curve in curves.values())
        kept = max(1, int(len(values) / config.reduction_factor + 1e-9))
        return {candidate for candidate in judged if curves[candidate][rung] > values[kept - 1]}
    means = {candidate: _mean([curve[epoch] for epoch in range(config.grace_period, rung + 1)]) for candidate, curve in curves.items()}
    stopped = set()
    for candidate in judged:
        others = [mean for other, mean in means.items() if other is not candidate]
        best = min(value for epoch, value in curves[candidate].items() if epoch <= rung)
        if len(others) >= config.min_trials and best > median(others):
            stopped.add(candidate)
    return stopped


def mean_curve(curves: Collection[Curve], rung: int) -> dict[int, float]:
    """The mean of the curves of a candidate's seeds, up to a rung that all of them have reached."""
    return {epoch: _mean([curve.get(epoch, math.inf) for curve in curves]) for epoch in range(1, rung + 1)}


def _mean(values: Collection[float]) -> float:
    return math.fsum(values) / len(values)
