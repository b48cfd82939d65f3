"""Which trials stand for an arm in a comparison: its replicates, or else its best candidate by validation.

A tuned arm has many candidates; it is compared at the one that validation chooses, never at the one whose test error is the lowest.
Replicates run that candidate once more on fresh seeds; where an arm has them, the trials by which it was chosen do not count.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from sweeper.analysis.factors import KNOB_OF, Row, cell

TRIAL, TUNING, REPLICATE = "trial", "tuning", "replicate"
"""The roles of the trials of an arm: tuning runs choose its candidate, replicates are compared, ordinary trials do both."""

OPEN = "OPEN"
"""Status given to the trials of an arm none of whose candidates is complete."""


def role_of(row: Row) -> str:
    """The role of a trial; rows of earlier versions have none and are ordinary trials."""
    return row.get("role") or TRIAL


def group_arms(rows: Iterable[Row]) -> dict[tuple[Any, Any], list[Row]]:
    """The rows of each arm on each task, of planned trials that are not derived. A row without `arm` is an arm of its own."""
    arms: dict[tuple[Any, Any], list[Row]] = defaultdict(list)
    for number, row in enumerate(rows):
        if row.get("in_plan") is not False and role_of(row) in (TRIAL, TUNING, REPLICATE):
            arm = row.get("arm")
            arms[row.get("task"), ("row", number) if arm is None else arm].append(row)
    return arms


def tuned_columns(rows: Iterable[Row], pair_by: Sequence[str]) -> list[str]:
    """Columns of knobs that differ between candidates of some arm."""
    candidates: dict[tuple[Any, ...], dict[int, Row]] = defaultdict(dict)
    for key, of_arm in group_arms(rows).items():
        for row in of_arm:
            candidates[key].setdefault(row.get("candidate") or 0, row)
    several = [list(of_arm.values()) for of_arm in candidates.values() if len(of_arm) > 1]
    return [
        column for column in KNOB_OF if column not in pair_by and any(len({cell(row, column) for row in of_arm}) > 1 for of_arm in several)
    ]


def represent_arms(rows: Iterable[Row], pair_by: Sequence[str] = ("seed",), objective: str = "valid_error") -> list[Row]:
    """The rows by which the arms are compared.

    A candidate counts with all of its seeds or not at all. If no candidate of a tuned arm is complete, the rows of its first one are
    returned with the status OPEN, so that the arm is known to be missing.

    Args:
        rows: Rows of trials, whatever their status.
        pair_by: The columns that tell the repeats of an arm apart.
        objective: The column by which candidates are chosen; lower is better.
    """
    found: list[Row] = []
    for of_arm in group_arms(rows).values():
        replicates = [row for row in of_arm if role_of(row) == REPLICATE]
        trials = [row for row in of_arm if role_of(row) == TRIAL]
        found += replicates or (_choose_candidate(trials, pair_by, objective) if trials else [])
    return found


def _choose_candidate(rows: Sequence[Row], pair_by: Sequence[str], objective: str) -> Sequence[Row]:
    candidates: dict[int, list[Row]] = defaultdict(list)
    for row in rows:
        candidates[row.get("candidate") or 0].append(row)
    if len(candidates) == 1:
        return rows
    keys = {key_of(row, pair_by) for row in rows}
    scores = {number: _mean_score(of_candidate, keys, pair_by, objective) for number, of_candidate in candidates.items()}
    complete = {number: score for number, score in scores.items() if score is not None}
    if complete:
        return candidates[min(complete, key=lambda number: (complete[number], number))]
    return [{**row, "status": OPEN} for row in candidates[min(candidates)]]


def _mean_score(rows: Sequence[Row], keys: set[tuple[Any, ...]], pair_by: Sequence[str], objective: str) -> float | None:
    """The mean objective of a candidate; None unless every seed of the arm is complete."""
    scores = {key_of(row, pair_by): row[objective] for row in rows if is_usable(row, objective)}
    return math.fsum(scores.values()) / len(scores) if scores.keys() == keys else None


def key_of(row: Row, pair_by: Sequence[str]) -> tuple[Any, ...]:
    """What tells the repeats of an arm apart: its seed, or all that the seeds vary."""
    return tuple(row.get(column) for column in pair_by)


def is_usable(row: Mapping[str, Any], column: str) -> bool:
    """Whether a trial is complete and has a finite number in a column. Rows without a status are those of complete trials."""
    value = row.get(column)
    return row.get("status", "COMPLETE") == "COMPLETE" and isinstance(value, int | float) and math.isfinite(value)
