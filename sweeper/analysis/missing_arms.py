"""A search space with the arms that an explanation lacks: the sweep's own, with further values of a knob."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

from sweeper.analysis.gap_arms import Missing


def complete_space(space: Mapping[str, Any], missing: Sequence[Missing]) -> dict[str, Any] | None:
    """The space of a sweep with the arms that are missing. Trials that it had are still in it, so running it computes the new ones alone.

    Args:
        space: The sweep's space, as its plan has it.
        missing: What is missing.

    Returns:
        None if nothing is missing, or the space is no grid over the knobs: if it has variants or another design, or sets a knob within a
        section.
    """
    found: dict[str, Any] = copy.deepcopy(dict(space))
    axes = found["space"] = dict(found.get("space") or {})
    base = found["base"] = dict(found.get("base") or {})
    for knob in dict.fromkeys(one.knob for one in missing):
        of_knob = [one for one in missing if one.knob == knob]
        present = [value for one in of_knob for value in one.present]
        wanted = [value for one in of_knob for value in one.values]
        if found.get("variants") or found.get("design", "factorial") != "factorial" or _is_nested(knob, axes):
            return None
        axis = axes.get(knob, {})
        if not isinstance(axis, Mapping) or (axis and "grid" not in axis):
            return None
        values: list[Any] = []
        for value in (*axis.get("grid", ()), *present, *wanted):
            if value not in values:
                values.append(value)
        axes[knob] = {**axis, "grid": values}
        base.pop(knob, None)
    return found if missing else None


def _is_nested(knob: str, axes: Mapping[str, Any]) -> bool:
    """Whether an axis over a section sets the knob, or may do so: `body: {grid: [...]}`."""
    section = knob.partition(".")[0]
    levels = (axes.get(section) or {}).get("grid", ()) if isinstance(axes.get(section), Mapping) else ()
    return any(isinstance(level, Mapping) and knob.partition(".")[2] in level for level in levels)
