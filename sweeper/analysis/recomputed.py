"""Compares the rows of a trial with those of the same trial computed again: bit for bit, or within a tolerance between kinds of machine."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from orca_core.rows import EpochRow, TrialResult, row_columns
from sweeper.analysis.margins import COUNTED

EQUAL, WITHIN, DIFFERS, NOT_CHECKED = "equal", "within tolerance", "differs", "not checked"
"""What can come of a check."""

_OF_THE_MACHINE = ("seconds", "memory_bytes")
"""Columns of epochs that say how a row was computed; no promise is made of them."""

_PLACE = ("stage", "phase", "fold", "epoch")
_EPOCH = [column.name for column in row_columns(EpochRow) if column.name not in (*_OF_THE_MACHINE, *_PLACE)]
_RESULT = [column.name for column in row_columns(TrialResult)]

STANDARD_ERRORS, RELATIVE = 3.0, 0.1

TOLERANCE = (
    f"errors that count samples may differ by {STANDARD_ERRORS:g} standard errors of the difference of two such counts and by two samples, "
    f"other errors by {100 * RELATIVE:g} %: training amplifies the rounding of another processor or library, so that the two are like "
    "trainings with other draws"
)
"""The tolerance between kinds of machine, and its reason."""

_ERRORS = {
    "test_error": "test_samples",
    "valid_error": "valid_samples",
    "last_test_error": "test_samples",
    "last_valid_error": "valid_samples",
}
"""Errors that are compared within the tolerance -> the column with the number of their samples."""


@dataclass(frozen=True)
class Difference:
    """The first value that is another one.

    Args:
        place: Where it stands, in words: stage and epoch, or the result of the trial.
        column: Its column.
        recorded, now: The two values; None where there is none.
    """

    place: str
    column: str
    recorded: Any
    now: Any

    def __str__(self) -> str:
        return f"{self.place}, {self.column}: {_spell(self.recorded)} recorded, {_spell(self.now)} now"


def _spell(value: Any) -> str:
    text = repr(value) if isinstance(value, float) else "nothing" if value is None else str(value)
    return text if len(text) <= 40 else text[:37] + "..."


def first_difference(
    recorded: tuple[Iterable[Mapping[str, Any]], Mapping[str, Any]], now: tuple[Iterable[Mapping[str, Any]], Mapping[str, Any]]
) -> Difference | None:
    """The first bit in which two computations of a trial differ, in the order in which it is computed; None if there is none.

    Args:
        recorded: Its rows in `metrics`, and its row in `trials`.
        now: The same of the other computation.
    """
    one, other = _by_place(recorded[0]), _by_place(now[0])
    for place in dict.fromkeys([*other, *one]):
        before, after = one.get(place), other.get(place)
        if before is None or after is None:
            return Difference(_spell_place(place), "the row itself", before and "there", after and "there")
        for column in _EPOCH:
            if not _is_same(before.get(column), after.get(column)):
                return Difference(_spell_place(place), column, before.get(column), after.get(column))
    for column in _RESULT:
        if not _is_same(recorded[1].get(column), now[1].get(column)):
            return Difference("the trial's result", column, recorded[1].get(column), now[1].get(column))
    return None


def _by_place(rows: Iterable[Mapping[str, Any]]) -> dict[tuple[Any, ...], Mapping[str, Any]]:
    return {tuple(row.get(name) for name in _PLACE): row for row in rows}


def _spell_place(place: Sequence[Any]) -> str:
    stage, _, fold, epoch = place
    return f"{stage} epoch {epoch}" + ("" if fold is None else f" of fold {fold}")


def _is_same(one: Any, other: Any) -> bool:
    """Whether two values are the same bits, NaN and NaN included, 0 and -0 not."""
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        return len(one) == len(other) and all(map(_is_same, one, other))
    if isinstance(one, float) and isinstance(other, float):
        return (one == other and math.copysign(1, one) == math.copysign(1, other)) or (one != one and other != other)
    return bool(one == other)


def beyond_tolerance(recorded: Mapping[str, Any], now: Mapping[str, Any]) -> Difference | None:
    """The first error of two results of a trial that differs by more than the tolerance; None if there is none."""
    for column, of_samples in _ERRORS.items():
        one, other, samples = recorded.get(column), now.get(column), recorded.get(of_samples)
        if one is None and other is None:
            continue
        if one is None or other is None or not abs(one - other) <= tolerance((one + other) / 2, samples, recorded.get("score")):
            return Difference("the trial's result", column, one, other)
    return None


def tolerance(error: float, samples: int | None, score: str | None) -> float:
    """How far an error may be from that of another kind of machine.

    Args:
        error: The error, as the mean of both.
        samples: Number of samples that it is of.
        score: Name of the score.

    >>> round(tolerance(0.5, 5000, "1-accuracy"), 6), tolerance(0.0, 100, "1-accuracy"), tolerance(2.0, 100, "rmse")
    (0.03, 0.02, 0.2)
    """
    if samples and score in COUNTED:
        return max(STANDARD_ERRORS * math.sqrt(2 * error * (1 - error) / samples), 2 / samples)
    return RELATIVE * abs(error)
