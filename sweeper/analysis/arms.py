"""Ranks the arms of a sweep by the scores of their candidates."""

from __future__ import annotations

import math
import shlex
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from orca_core.errors import ConfigError, Fault
from sweeper.analysis.candidates import Arm, Candidate, Row, Sweep, read_arms
from sweeper.analysis.floors import Floor, Floors
from sweeper.analysis.resolution import is_at_majority
from sweeper.results.store import ResultStore, results_option


@dataclass(frozen=True)
class RankedArm:
    """An arm of a sweep, represented by its best candidate.

    Args:
        arm: The arm.
        candidate: Its best candidate.
        line: Its line in the output of `best`: rank, task, scores with half the width of their intervals, the best floor, seeds, settings,
            counts.
        floor: The best floor on its task and splits; None if it is not known.
    """

    arm: Arm
    candidate: Candidate
    line: Mapping[str, Any]
    floor: Floor | None

    @property
    def rows(self) -> list[Row]:
        """The rows of the candidate's trials, by seed."""
        return [self.candidate.rows[seed] for seed in sorted(self.candidate.seeds)]


@dataclass(frozen=True)
class Ranking:
    """The arms of a sweep by task, the best first.

    Args:
        sweep: All arms, ranked or not.
        arms: Task -> ranked arms.
    """

    sweep: Sweep
    arms: Mapping[str, Sequence[RankedArm]]

    @property
    def metric(self) -> str:
        """The metric by which they are ranked; lower is better."""
        return self.sweep.metric

    def unranked(self, task: str) -> int:
        """Number of arms of a task of which no candidate is complete."""
        return sum(arm.task == task for arm in self.sweep.arms) - len(self.arms.get(task, ()))


def rank_arms(results: ResultStore, sweep: str) -> Ranking:
    """Rank the arms of each task by the sweep's metric, averaged over seeds. A tuned arm is ranked by its replicates; if it has none, by
    its best candidate.

    Only candidates of which every planned seed is COMPLETE are ranked. Arms with the same mean have the same rank, and are listed by id.
    Intervals are Student's t at 95 % over seeds; there are none for one seed.

    Raises:
        ConfigError: If the sweep is unknown, or none of its candidates is complete.
    """
    known = read_arms(results, sweep)
    floors = Floors.read(results)
    ranked: dict[str, list[tuple[float, Arm, Candidate]]] = defaultdict(list)
    for arm in known.arms:
        complete = [candidate for candidate in arm.compared if candidate.state == "COMPLETE"]
        if complete:
            best = min(complete, key=lambda candidate: (*(_score(candidate, metric) for metric in known.metrics), candidate.number))
            ranked[arm.task].append((_score(best, known.metric), arm, best))
    if not ranked:
        raise ConfigError([_nothing_to_rank(known, results.uri)])
    arms = {}
    for task, of_task in sorted(ranked.items()):
        of_task.sort(key=lambda entry: (entry[0], entry[1].id))
        ranks = _ranks([score for score, _, _ in of_task])
        arms[task] = [_describe(rank, known, arm, best, floors) for rank, (_, arm, best) in zip(ranks, of_task, strict=True)]
    return Ranking(known, arms)


def _nothing_to_rank(sweep: Sweep, uri: str) -> Fault:
    trials = [row for arm in sweep.arms for row in arm.rows]
    see = f"See `sweeper status {shlex.quote(sweep.name)}{results_option(uri)}`."
    if not any(row["status"] == "COMPLETE" for row in trials):
        return Fault("", f"{sweep.name} has no finished trials yet", Fault.ABSENT, see)
    rule = f"{sweep.name} has no candidate yet of which all seeds are complete; only such candidates are ranked"
    return Fault("", rule, Fault.ABSENT, see)


def _ranks(scores: Sequence[float]) -> list[int]:
    """The rank of each of some ascending scores; equal scores, up to rounding of means, have equal ranks."""
    ranks: list[int] = []
    for position, score in enumerate(scores, 1):
        is_tied = bool(ranks) and math.isclose(score, scores[ranks[-1] - 1], rel_tol=1e-12, abs_tol=1e-15)
        ranks.append(ranks[-1] if is_tied else position)
    return ranks


def _score(candidate: Candidate, metric: str) -> float:
    return _mean([candidate.rows[seed][metric] for seed in candidate.seeds])


def _describe(rank: int, sweep: Sweep, arm: Arm, candidate: Candidate, floors: Floors) -> RankedArm:
    rows = [candidate.rows[seed] for seed in sorted(candidate.seeds)]
    floor = floors.of_trials(rows)
    line: dict[str, Any] = {"rank": rank, "task": arm.task}
    if sweep.has_variants:
        line["variant"] = arm.variant
    for metric in dict.fromkeys((sweep.metric, "test_error")):
        values = [row[metric] for row in rows]
        line |= {metric: _mean(values), f"{metric}_ci95": half_interval(values)}
    line |= {"best_floor": floor.test_error if floor else None, "floor_model": floor.model if floor else None}
    line |= {"seeds": len(rows), "at_majority": is_at_majority(rows)} | {knob: candidate.cells.get(knob) for knob in sweep.varied}
    return RankedArm(arm, candidate, line | arm.counts(), floor)


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)


def half_interval(values: Sequence[float]) -> float | None:
    """Half the width of Student's 95 % interval of the mean; None for one value."""
    from scipy.special import stdtrit  # of scipy.stats, too, which takes a second to import

    if len(values) < 2:
        return None
    if math.isclose(min(values), max(values), rel_tol=1e-12, abs_tol=1e-15):  # equal up to rounding, as means over folds may be
        return 0.0
    mean = _mean(values)
    spread = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1))
    return float(stdtrit(len(values) - 1, 0.975)) * spread / math.sqrt(len(values))
