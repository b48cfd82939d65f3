"""What further seeds are expected to bring, from earlier results: how many trials a question takes, and which trials would settle most.

Expectations take the mean and deviation of earlier differences for the true ones. They plan work; no verdict rests on them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from orca_core.errors import ConfigError
from sweeper.analysis.adaptive import look_at
from sweeper.analysis.contrasts import Contrast, paired_differences
from sweeper.analysis.detectable import Spread
from sweeper.analysis.margins import parse_margin
from sweeper.analysis.paired import paired_t
from sweeper.analysis.representatives import is_usable
from sweeper.analysis.sequential import conditional_power, simulate_seeds
from sweeper.analysis.sweep_rows import SweepRows
from sweeper.planning.deciding import ContrastName, name_of
from sweeper.space.space import SearchSpace


@dataclass(frozen=True)
class Known:
    """What earlier results tell of a contrast.

    Args:
        mean, deviation: Of its differences.
        pairs: Number of differences they are from; 0 if the deviation comes from other arms of the task, and the mean is assumed to be 0.
        margin: Its margin.
    """

    mean: float
    deviation: float
    pairs: int
    margin: float


def find_known(
    space: SearchSpace, names: Sequence[ContrastName], sweeps: Sequence[SweepRows], spread: Mapping[tuple[str, str], Spread] = {}
) -> dict[ContrastName, Known]:
    """What earlier sweeps tell of contrasts, from the sweep that has most pairs of each; contrasts of which nothing is known are left out.

    Where no sweep has the contrast itself, the deviation is that of differences between arms of the same task and body.

    Args:
        space: The space whose question is asked.
        names: The contrasts.
        sweeps: Rows of earlier sweeps.
        spread: (task, body) -> the spread in earlier sweeps.
    """
    found: dict[ContrastName, Known] = {}
    for sweep in sweeps:
        for contrast in _contrasts_in(space, sweep):
            known = describe(space, contrast)
            if known is not None and known.pairs > found.get(name_of(contrast), Known(0, 0, 0, 0)).pairs:
                found[name_of(contrast)] = known
    of_task = {task: _of_other_arms(space, task, sweeps, spread) for task in {name.task for name in names if name not in found}}
    return {name: known for name in names if (known := found.get(name) or of_task.get(name.task)) is not None}


def describe(space: SearchSpace, contrast: Contrast) -> Known | None:
    """What a contrast's own pairs tell of it; None if they are fewer than two."""
    if len(contrast.keys) < 2:
        return None
    assert space.question is not None
    look = look_at(contrast, parse_margin(space.question.margin))
    t = paired_t(look.differences, resolution=look.resolution)
    return Known(float(t.mean), float(t.sd), len(contrast.keys), look.margin)


def _contrasts_in(space: SearchSpace, sweep: SweepRows) -> list[Contrast]:
    question = space.question
    assert question is not None
    try:
        return paired_differences(
            sweep.rows,
            question.factor,
            question.baseline,
            sweep.pair_by,
            metric=question.metric,
            varied=sweep.varied,
            within=question.within,
            lists_plan=sweep.lists_plan,
            objective=sweep.objective,
        )
    except ConfigError:  # it asked something else
        return []


def _of_other_arms(space: SearchSpace, task: str, sweeps: Sequence[SweepRows], spread: Mapping[tuple[str, str], Spread]) -> Known | None:
    """What other arms of a task tell: the spread of differences between them, and with their mean error the margin."""
    question = space.question
    assert question is not None
    found = next((spread[key] for key in sorted(spread) if key[0] == task), None)
    errors = [row[question.metric] for sweep in sweeps for row in sweep.rows if row.get("task") == task and is_usable(row, question.metric)]
    if found is None or not errors:
        return None
    return Known(0.0, found.sd, 0, parse_margin(question.margin).of(math.fsum(errors) / len(errors), 0.0))


def expect_trials(
    space: SearchSpace, contrasts: Mapping[ContrastName, frozenset[str]], known: Mapping[ContrastName, Known], arms: Sequence[str]
) -> float:
    """The expected number of trials of a question.

    Args:
        space: The space.
        contrasts: Its contrasts, and the keys of their arms.
        known: What is known of every one of them.
        arms: Keys of all arms.
    """
    assert space.question is not None
    seeds = {key: np.full(1, space.looks[0]) for key in arms}
    for name, keys in contrasts.items():
        of = known[name]
        unit = of.deviation or math.inf
        ends = simulate_seeds(of.mean / unit, of.margin / unit, space.looks, space.question.alpha / len(contrasts))
        if of.deviation == 0:
            ends = np.full(1, space.looks[0])
        for key in keys:
            seeds[key] = np.maximum(seeds[key], ends)
    return float(sum(of_arm.mean() for of_arm in seeds.values()))


@dataclass(frozen=True)
class Open:
    """A contrast without a verdict.

    Args:
        name: Its name.
        arms: Keys of its arms.
        known: What its pairs tell.
        levels: Levels of its two tests, as the correction for the family leaves them.
    """

    name: ContrastName
    arms: frozenset[str]
    known: Known
    levels: tuple[float, float]


@dataclass(frozen=True)
class Step:
    """Further seeds for a contrast.

    Args:
        contrast: The contrast.
        seeds: Number of further seeds of each of its arms.
        trials: Number of trials that these take beside those of other steps.
        probability: With which it is decided then.
    """

    contrast: Open
    seeds: int
    trials: int
    probability: float


def choose_trials(contrasts: Sequence[Open], number: int) -> tuple[list[Step], dict[str, int]]:
    """Spend a number of trials where they are expected to settle most verdicts: again and again on the seeds that gain most per trial.

    Args:
        contrasts: The contrasts without a verdict.
        number: Number of trials, each of one seed of one arm.

    Returns:
        What is done for which contrast, and the number of further seeds by arm.
    """
    extra: dict[str, int] = {key: 0 for contrast in contrasts for key in contrast.arms}
    power = [_powers(contrast, number // len(contrast.arms)) for contrast in contrasts]
    steps: dict[int, Step] = {}
    left = number
    while True:
        best: tuple[float, int, int, int] | None = None
        for index, contrast in enumerate(contrasts):
            now = min(extra[key] for key in contrast.arms)
            for seeds in range(now + 1, len(power[index])):
                cost = sum(max(0, seeds - extra[key]) for key in contrast.arms)
                if cost > left:
                    break
                rate = (power[index][seeds] - power[index][now]) / max(cost, 1)
                if power[index][seeds] - power[index][now] > _LEAST_GAIN and (best is None or rate > best[0]):
                    best = rate, index, seeds, cost
        if best is None:
            break
        _, index, seeds, cost = best
        left -= cost
        for key in contrasts[index].arms:
            extra[key] = max(extra[key], seeds)
        before = steps[index].trials if index in steps else 0
        steps[index] = Step(contrasts[index], seeds, before + cost, power[index][seeds])
    for index, contrast in enumerate(contrasts):  # seeds that others need may serve this one, too
        reached = min(extra[key] for key in contrast.arms)
        if reached > (steps[index].seeds if index in steps else 0):
            known = steps.get(index, Step(contrast, 0, 0, 0.0))
            steps[index] = replace(known, seeds=reached, probability=power[index][min(reached, len(power[index]) - 1)])
    return [steps[index] for index in sorted(steps)], {key: seeds for key, seeds in extra.items() if seeds}


_LEAST_GAIN = 0.005
"""Probability of a verdict that further seeds have to add."""


def _powers(contrast: Open, most: int) -> list[float]:
    """Probability that a contrast is decided with 0, 1, 2, ... further seeds."""
    known = contrast.known
    return [0.0] + [
        float(conditional_power(known.mean, known.deviation, known.pairs, known.margin, known.pairs + seeds, contrast.levels))
        for seeds in range(1, most + 1)
    ]
