"""What the ranking of arms cannot show: differences that the validation samples do not resolve, and arms that have learned nothing."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

Rows = Sequence[Mapping[str, Any]]
"""Rows of `trials`: of one arm, one for each seed."""

_TOLERANCE = 1e-9
"""For rounding in means."""


def describe_resolution(metric: str, arms: Sequence[Rows]) -> list[str]:
    """How far a ranking can be trusted, in a sentence: which arms are closer to the best one than one validation sample; empty if none is.

    Args:
        metric: The metric by which the arms are ranked.
        arms: All ranked arms of one task, the best first.
    """
    samples = least_samples(arms)
    if metric != "valid_error" or samples is None or len(arms) < 2:
        return []
    means = [_mean(rows, metric) for rows in arms]
    close = sum(mean - means[0] < 1 / samples - _TOLERANCE for mean in means)
    if close < 2:
        return []
    which = "The first two arms" if close == 2 else f"The first {close} arms"
    return [f"{which} cannot be told apart: their validation errors differ by less than {1 / samples:.2g}, one of {samples} samples."]


def least_samples(arms: Sequence[Rows]) -> int | None:
    """The smallest number of validation samples of any trial; None if it is unknown, or errors are not counted in samples."""
    counts = [row.get("valid_samples") for rows in arms for row in rows if row.get("score") == "1-accuracy"]
    known = [count for count in counts if count]
    return min(known) if known and len(known) == sum(map(len, arms)) else None


def is_at_majority(rows: Rows) -> bool | None:
    """Whether an arm has learned nothing: its mean test error is not below that of always answering the most frequent class, or the mean.

    None if the error of the constant answer is unknown.
    """
    if any(row.get("majority_error") is None or row.get("test_error") is None for row in rows):
        return None
    return _mean(rows, "test_error") >= _mean(rows, "majority_error") - _TOLERANCE


def _mean(rows: Rows, column: str) -> float:
    return math.fsum(row[column] for row in rows) / len(rows)
