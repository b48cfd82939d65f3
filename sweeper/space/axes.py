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
"""The level of an axis at which the knob has the value of the task's recipe."""


@dataclass(frozen=True)
class Axis:
    """A knob that varies.

    Args:
        path: The knob, or a section whose levels are mappings (`body`).
        kind: A `grid` spans arms; the other kinds are tuned.
        values: The levels of a grid or choice; (low, high) of a range.
        step, log: Step and logarithmic scale of an `int` range; `loguniform` sets log.
        when: Condition under which it varies; otherwise the knob has the value of `base` or the recipe.
    """

    path: str
    kind: Literal["grid", "choice", "uniform", "loguniform", "int"]
    values: tuple[Any, ...]
    step: int = 1
    log: bool = False
    when: Condition = ALWAYS

    @property
    def is_tuned(self) -> bool:
        """Whether a search chooses its values; every value of a grid is run."""
        return self.kind != "grid"

    @cached_property
    def knobs(self) -> list[str]:
        """The knobs it sets: its own, or those in its levels if these are mappings."""
        return list(dict.fromkeys(knob for value in self.values for knob in flatten({self.path: value})))

    def put(self, knobs: Mapping[str, Any], value: Any) -> dict[str, Any]:
        """Knobs with this axis set to a level; the level `recipe` removes the knob."""
        if value == RECIPE:
            return {path: other for path, other in knobs.items() if path not in self.knobs}
        return {**knobs, **flatten({self.path: value})}


def sort_by_condition(axes: Sequence[Axis]) -> list[Axis]:
    """Axes without a condition first, then each of the others after those on which its condition depends.

    Raises:
        graphlib.CycleError: If conditions form a cycle; its second argument lists the paths of the cycle.
    """
    setter = {knob: axis.path for axis in axes for knob in axis.knobs}
    dependencies = {
        axis.path: sorted({setter.get(DECIDED_BY.get(path, path), axis.path) for path in axis.when.expected} - {axis.path}) for axis in axes
    }
    order = list(TopologicalSorter(dependencies).static_order())
    return sorted(axes, key=lambda axis: order.index(axis.path) if axis.when else -1)
