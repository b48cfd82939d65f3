"""The margin within which a difference counts as none, and the smallest step of a metric."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from orca_core.errors import ConfigError, Fault
from sweeper.analysis.factors import Row

COUNTED = ("1-accuracy",)
"""Scores that count samples: their errors are multiples of 1 / samples."""

_SAMPLES = {
    "test_error": "test_samples",
    "last_test_error": "test_samples",
    "valid_error": "valid_samples",
    "last_valid_error": "valid_samples",
}

NEAR_ZERO = 1e-6
"""A baseline whose mean error is below this, or below one sample's worth, is too near 0 for relative differences."""


@dataclass(frozen=True)
class Margin:
    """A margin of equivalence, as it was asked for.

    Args:
        value: A share of the baseline's mean error, or a number in the metric's unit.
        is_relative: Which of the two.
    """

    value: float
    is_relative: bool

    def of(self, baseline: float, step: float) -> float:
        """The margin in the metric's unit.

        Args:
            baseline: Mean error of the baseline.
            step: One sample's worth. A relative margin is at least that; an absolute one is taken as it is.
        """
        return max(self.value * abs(baseline), step) if self.is_relative else self.value

    def __str__(self) -> str:
        return f"{100 * self.value:g}%" if self.is_relative else f"{self.value:g}"


DEFAULT_MARGIN = Margin(0.05, is_relative=True)


def parse_margin(given: Any, option: str = "--margin") -> Margin:
    """A margin from `5%`, or from a number in the metric's unit.

    Raises:
        ConfigError: If it is neither, or not greater than 0.
    """
    if isinstance(given, Margin):
        return given
    text = str(given).strip()
    try:
        value = float(text.removesuffix("%"))
    except ValueError:
        value = math.nan
    if isinstance(given, bool) or not (math.isfinite(value) and value > 0):
        rule = "must be greater than 0: a share of the baseline's error such as 5%, or a number in the metric's unit"
        raise ConfigError([Fault(option, rule, given)])
    return Margin(value / 100, True) if text.endswith("%") else Margin(value, False)


def find_step(rows: Iterable[Row], metric: str) -> float:
    """One sample's worth of a metric that counts samples; 0 for others, and where the number of samples is unknown.

    Rows that do not name their score count samples if every error is a whole number of samples.
    """
    least = math.inf
    for row in rows:
        score, samples, value = row.get("score"), row.get(_SAMPLES.get(metric, "")), row.get(metric)
        if not samples or value is None or not (score in COUNTED or (score is None and _is_whole(samples * value))):
            return 0.0
        least = min(least, samples)
    return 1 / least


def _is_whole(value: float) -> bool:
    return abs(value - round(value)) < 1e-6
