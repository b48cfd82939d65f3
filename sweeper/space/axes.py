"""Axes: the knobs that vary in a search space, and the values they take."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from graphlib import TopologicalSorter
from typing import Any, Literal

from orca_core.config.paths import flatten
from sweeper.space.conditions import ALWAYS, DECIDED_BY, Condition

RECIPE = "recipe"
"""The level of an axis that leaves the knob to the task's recipe."""


@dataclass(frozen=True)
class Axis:
    """A knob that varies.

    Args:
        path: The knob, or a section whose levels are mappings (`body`).
        kind: `grid` spans arms; the others are tuned.
        values: The levels of a grid or choice; (low, high) of a range.
        step, log: Of an `int` range; `loguniform` has log.
        when: Where it varies; elsewhere the knob is left to base and recipe.
    """

    path: str
    kind: Literal["grid", "choice", "uniform", "loguniform", "int"]
    values: tuple[Any, ...]
    step: int = 1
    log: bool = False
    when: Condition = ALWAYS

    @property
    def is_tuned(self) -> bool:
        """Whether a search finds its values; a grid takes all of them."""
        return self.kind != "grid"

    @cached_property
    def knobs(self) -> list[str]:
        """The knobs it sets: its own, or those of its levels where these are mappings."""
        return list(dict.fromkeys(knob for value in self.values for knob in flatten({self.path: value})))

    def put(self, knobs: Mapping[str, Any], value: Any) -> dict[str, Any]:
        """Knobs with this axis at a level on top; the level `recipe` takes out what was there."""
        if value == RECIPE:
            return {path: other for path, other in knobs.items() if path not in self.knobs}
        return {**knobs, **flatten({self.path: value})}


def in_order(axes: Sequence[Axis]) -> list[Axis]:
    """Axes without a condition first, then each of the others behind those that it asks for.

    Raises:
        graphlib.CycleError: If conditions form a circle; its second argument has the paths of the circle.
    """
    setter = {knob: axis.path for axis in axes for knob in axis.knobs}
    asked = {
        axis.path: sorted({setter.get(DECIDED_BY.get(path, path), axis.path) for path in axis.when.expected} - {axis.path}) for axis in axes
    }
    order = list(TopologicalSorter(asked).static_order())
    return sorted(axes, key=lambda axis: order.index(axis.path) if axis.when else -1)
