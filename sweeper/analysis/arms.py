"""Ranks the arms of a sweep by the scores of their trials."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from orca_core.errors import ConfigError, Fault
from sweeper.results.store import ResultStore

Rows = list[dict[str, Any]]


@dataclass(frozen=True)
class RankedArm:
    """An arm of a sweep, represented by its best candidate.

    Args:
        line: Its line in the output of `best`: task, mean of the metric and half-width of its interval, mean test error, seeds, knobs.
        rows: The rows of its trials, one per seed.
    """

    line: Mapping[str, Any]
    rows: Rows


@dataclass(frozen=True)
class Ranking:
    """The arms of a sweep by task, the best first.

    Args:
        metric: The metric by which they are ranked; lower is better.
        arms: Task -> arms.
    """

    metric: str
    arms: Mapping[str, Sequence[RankedArm]]


def rank_arms(results: ResultStore, sweep: str) -> Ranking:
    """Rank the arms of each task by the sweep's metric, averaged over seeds. A tuned arm is ranked by its best candidate.

    Arms with all seeds come first: a mean over fewer is not comparable. Equal arms are in the order of their ids. The interval is
    Student's t at 95 % over seeds; none for one seed.

    Raises:
        ConfigError: If the sweep is unknown, or none of its trials has finished.
    """
    results.check_sweep(sweep)
    rows = [row for row in results.live_trials(sweep) if row["in_plan"] and row["status"] == "COMPLETE"]
    if not rows:
        raise ConfigError([Fault("", f"sweep {sweep} must have finished trials", Fault.ABSENT, "See `sweeper status`.")])
    plan = results.latest_plan(sweep) or {"metric": "valid_error", "varied": []}
    metric, knobs = plan["metric"], [knob for knob in plan["varied"] if knob != "task"]
    candidates: dict[tuple[str, str, int], Rows] = defaultdict(list)
    for row in rows:
        candidates[row["task"], row["arm"], row["candidate"]].append(row)
    seeds = max(len(of_candidate) for of_candidate in candidates.values())
    ranked: dict[str, dict[str, RankedArm]] = defaultdict(dict)

    def rank(candidate: tuple[str, str, int]) -> tuple[bool, float]:
        found = candidates[candidate]
        return len(found) < seeds, _mean([row[metric] for row in found])

    # Of equals, the one with the smaller id, whichever ended first.
    for task, arm, candidate in sorted(candidates, key=lambda key: (key[0], *rank(key), *key[1:])):
        if arm not in ranked[task]:  # otherwise a better candidate of this arm came before
            ranked[task][arm] = RankedArm(*_summarise(candidates[task, arm, candidate], metric, knobs))
    return Ranking(metric, {task: list(arms.values()) for task, arms in ranked.items()})


def _summarise(rows: Rows, metric: str, knobs: Sequence[str]) -> tuple[dict[str, Any], Rows]:
    values = [row[metric] for row in rows]
    line = {"task": rows[0]["task"], metric: _mean(values), "95% +-": _half_interval(values)}
    line |= {"test_error": _mean([row["test_error"] for row in rows]), "seeds": len(rows)}
    return line | {knob: rows[0][knob] for knob in knobs}, rows


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)


def _half_interval(values: Sequence[float]) -> float | None:
    """Half the width of Student's 95 % interval of the mean; None for one value."""
    from scipy.special import stdtrit  # of scipy.stats, too, which takes a second to import

    if len(values) < 2:
        return None
    mean = _mean(values)
    spread = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1))
    return float(stdtrit(len(values) - 1, 0.975)) * spread / math.sqrt(len(values))
