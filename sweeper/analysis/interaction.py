"""Whether a difference depends on the context: the interaction between the factor and the other knobs."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from sweeper.analysis.contrasts import Contrast
from sweeper.analysis.factors import KNOB_OF
from sweeper.analysis.matching import Setting

MIN_KEYS = 3
"""Minimum number of seeds for a test."""


@dataclass(frozen=True)
class Interaction:
    """How a difference depends on the context.

    Args:
        p: p of the test that the difference is the same in all contexts; NaN if it is, exactly, in every seed.
        n: Number of seeds that have all contexts.
        where: Knob -> value of the contexts that differ the most from the others.
        there, elsewhere: Mean difference in these contexts, and in the others.
    """

    p: float
    n: int
    where: Mapping[str, Any]
    there: float
    elsewhere: float


def find_interaction(contrast: Contrast) -> Interaction | None:
    """Test whether the difference is the same in all contexts; None with fewer than two contexts, or fewer than three seeds that have all.

    Of the contexts, those are named that share a value of one knob, or the single one, whose mean explains most of the spread of contexts.
    """
    by_context = {context: of_keys for context, of_keys in contrast.by_context().items() if of_keys}
    keys = sorted(set.intersection(*(set(of_keys) for of_keys in by_context.values()))) if by_context else []
    if len(by_context) < 2 or len(keys) < MIN_KEYS:
        return None
    contexts = list(by_context)
    table = np.array([[by_context[context][key] for context in contexts] for key in keys])
    means = table.mean(axis=0)
    splits = []
    for group in _groups(contexts):
        rest = [number for number in range(len(contexts)) if number not in group]
        there, elsewhere = float(means[group].mean()), float(means[rest].mean())
        splits.append((len(group) * len(rest) * (there - elsewhere) ** 2, group, there, elsewhere))
    most = max(explained for explained, *_ in splits)
    tied = [split for split in splits if split[0] >= most * (1 - 1e-9)]  # both halves of contexts, for one
    _, group, there, elsewhere = max(tied, key=lambda split: abs(split[2]) > abs(split[3]))
    where = _shared_by(contrast, [contexts[number] for number in group])
    return Interaction(float(repeated_measures(table)), len(keys), where, there, elsewhere)


def repeated_measures(table: ArrayLike) -> float:
    """p that the columns of a table have the same mean, in an analysis of variance with rows as subjects.

    Columns may vary unequally and be correlated: the degrees of freedom are corrected by Greenhouse and Geisser's estimate of how much.
    With two columns this is the paired t test.

    Args:
        table: (seeds, contexts) values.

    Returns:
        p; NaN if the columns are equal up to rounding.

    Reference:
        Greenhouse & Geisser 1959.
    """
    from scipy.special import fdtrc

    values = np.asarray(table, dtype=np.float64)
    n, k = values.shape
    residual = values - values.mean(axis=1, keepdims=True)  # each row about its mean: what rows share is gone
    means = residual.mean(axis=0)
    residual = residual - means
    between, within = n * float(np.sum(means**2)), float(np.sum(residual**2))
    rounding = (1e-12 * float(np.max(np.abs(values)))) ** 2 * n * k
    if between <= rounding:
        return math.nan
    if within <= rounding:
        return 0.0
    covariance = residual.T @ residual / (n - 1)  # centred in rows and columns
    epsilon = float(np.trace(covariance) ** 2 / ((k - 1) * np.sum(covariance**2)))
    f = between / (k - 1) / (within / ((k - 1) * (n - 1)))
    return float(fdtrc(epsilon * (k - 1), epsilon * (k - 1) * (n - 1), f))


def _groups(contexts: Sequence[Setting]) -> Iterator[list[int]]:
    """The positions of the contexts that share a value of a knob, for each value; then each context alone."""
    for number in range(len(contexts[0])):
        for value in dict.fromkeys(context[number] for context in contexts):
            group = [position for position, context in enumerate(contexts) if context[number] == value]
            if len(group) < len(contexts):
                yield group
    yield from ([position] for position in range(len(contexts)))


def _shared_by(contrast: Contrast, group: Sequence[Setting]) -> dict[str, Any]:
    """What the contexts of a group share, of the knobs in which contexts differ at all."""
    numbers = {KNOB_OF[column]: number for number, column in enumerate(contrast.columns)}
    named = contrast.name_context(group[0])
    return {knob: value for knob, value in named.items() if len({context[numbers[knob]] for context in group}) == 1}
