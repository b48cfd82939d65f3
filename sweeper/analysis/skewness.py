"""Whether paired differences are skewed, which Student's t does not bear at few seeds.

With exponential differences, intervals from 3 to 5 seeds cover 88 to 90 % where they claim 95 %. Three to five values cannot show by
themselves that they are skewed; the differences of a level in all contexts and on all tasks together may.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from sweeper.analysis.contrasts import Contrast

SKEWED = "skewed-differences"
"""The flag of a verdict from skewed differences. It is no matter of fairness: there is a verdict all the same."""

SKEWED_NOTE = "The differences are skewed; with so few seeds intervals are too narrow and p too small (docs/statistics.md)."

MAX_KEYS = 5
"""Maximum number of seeds with which a verdict is flagged: with more, t bears the skewness that the test finds."""

CRITICAL = 2.58
"""Critical value of the test statistic: one level in a hundred is flagged though its differences are normal."""


def find_skewed(contrasts: Sequence[Contrast]) -> set[Any]:
    """The levels whose differences are skewed, by a test over the contexts and tasks of each level."""
    series: dict[Any, list[Sequence[float]]] = defaultdict(list)
    for contrast in contrasts:
        series[contrast.level] += [list(of_keys.values()) for of_keys in contrast.by_context().values()]
    return {level for level, samples in series.items() if abs(pooled_skewness(samples)) > CRITICAL}


def pooled_skewness(samples: Sequence[Sequence[float]]) -> float:
    """The skewness of several samples together, in standard errors: close to standard normal for samples of normal values.

    Each sample contributes its own skewness, weighted by its size; samples of fewer than three values, or that do not vary, none.

    Reference:
        Variance of the skewness of a normal sample: Fisher 1930, 6 (n - 2) / ((n + 1) (n + 3)).
    """
    total, variance = 0.0, 0.0
    for sample in samples:
        n = len(sample)
        if n < 3:
            continue
        mean = math.fsum(sample) / n
        second = math.fsum((value - mean) ** 2 for value in sample) / n
        if second <= (1e-12 * max(map(abs, sample))) ** 2:
            continue
        third = math.fsum((value - mean) ** 3 for value in sample) / n
        total += n * third / second**1.5
        variance += n**2 * 6 * (n - 2) / ((n + 1) * (n + 3))
    return total / math.sqrt(variance) if variance else 0.0
