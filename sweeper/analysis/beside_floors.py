"""The arms of a comparison beside the floors: what models without a transformer reach on the same samples."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from sweeper.analysis.comparison import Comparison
from sweeper.analysis.effect import Effect
from sweeper.analysis.factors import Row
from sweeper.analysis.floors import Compared, Floors
from sweeper.analysis.paired import as_number, paired_t

METRICS = ("test_error", "last_test_error")
"""The metrics that floors have, too."""


def arms_beside_floors(comparison: Comparison, task: Any, floors: Floors) -> list[Compared]:
    """The arms that a comparison reads on a task, the one with the lowest validation error first; none if it is of another metric."""
    if comparison.metric not in METRICS:
        return []
    arms: dict[Any, dict[Any, Row]] = {}
    for contrast in comparison.contrasts:
        if contrast.task == task:
            for key in contrast.keys:
                for context, pair in contrast.pairs[key].items():
                    one, other = contrast.arms[context]
                    arms.setdefault(("level", contrast.level, context) if one is None else one, {})[key] = pair.level
                    arms.setdefault(("baseline", context) if other is None else other, {})[key] = pair.baseline
    found = []
    for of_arm in arms.values():
        rows = list(of_arm.values())
        t = paired_t([row[comparison.metric] for row in rows])
        half = as_number(t.high - t.mean)
        found.append((_mean_valid(rows), float(t.mean), Compared(rows, float(t.mean), half, floors.of_trials(rows))))
    return [compared for _, _, compared in sorted(found, key=lambda entry: entry[:2])]


def _mean_valid(rows: Sequence[Row]) -> float:
    """The mean validation error of an arm; infinite if it is unknown."""
    values = [row.get("valid_error") for row in rows]
    known = [value for value in values if value is not None]
    return math.fsum(known) / len(known) if known and len(known) == len(values) else math.inf


def add_floors(comparison: Comparison, floors: Floors) -> list[Effect]:
    """The effects of a comparison with the best floor of their task, where all arms have the same one."""
    found = []
    for effect in comparison.effects:
        arms = arms_beside_floors(comparison, effect.task, floors) if effect.task is not None else []
        known = {None if arm.floor is None else (arm.floor.model, arm.floor.test_error) for arm in arms}
        best = next(iter(known)) if len(known) == 1 else None
        found.append(effect if best is None else replace(effect, floor={"model": best[0], "test_error": best[1]}))
    return found
