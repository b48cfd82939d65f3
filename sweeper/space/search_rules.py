"""The rules of the section `search` that depend on what is tuned."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any

from orca_core.errors import Fault, nearest
from sweeper.faults import Faults
from sweeper.space.axes import Axis
from sweeper.space.search import SearchConfig


def check_search(search: SearchConfig, tuned: Sequence[Axis], faults: Faults) -> None:
    """Check that the algorithm can tune these axes, and that the points lie on them."""
    numbers = [axis for axis in tuned if axis.kind != "choice"]
    if search.algorithm == "cmaes" and tuned and len(numbers) < 2:
        remedy = "Give more knobs a range, or take another algorithm: cmaes learns about numbers only, and needs two of them."
        faults.add("search.algorithm", "must tune at least two ranges (uniform, loguniform, int) under cmaes", "cmaes", remedy)
    if search.algorithm == "cmaes" and find_spec("cmaes") is None:
        faults.add("search.algorithm", "must have its package on this machine", "cmaes", "Install it: pip install 'orca-sweeper[cmaes]'.")
    if search.replicate and search.algorithm == "grid":
        remedy = "Tune a knob, or raise `seeds`: without candidates there is nothing to choose."
        faults.add("search.replicate", "must be used with an algorithm that tunes", search.replicate, remedy)
    if search.warm_start and search.algorithm not in ("tpe", "gp"):
        faults.add(
            "search.warm_start", "must be used with tpe or gp", search.warm_start, "The other algorithms cannot learn from other sweeps."
        )
    if len(search.points) > search.trials:
        faults.add("search.points", f"must be at most search.trials = {search.trials}", len(search.points))
    if search.points and not tuned:
        faults.add("search.points", "must be used with tuned knobs", len(search.points))
        return
    axes = {axis.path: axis for axis in tuned}
    for number, point in enumerate(search.points):
        for path, value in point.items():
            where = f"search.points.{number}.{path}"
            if path not in axes:
                faults.add(where, "must be a tuned knob", Fault.ABSENT, nearest(path, axes))
            elif (rule := _broken(axes[path], value)) is not None:
                faults.add(where, rule, value)


def _broken(axis: Axis, value: Any) -> str | None:
    """The rule that a value breaks which is to lie on an axis; None if it breaks none."""
    if axis.kind == "choice":
        return None if value in axis.values else f"must be one of {', '.join(map(str, axis.values))}"
    low, high = axis.values
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        return f"must be a number from {low:g} to {high:g}"
    if axis.kind == "int" and (not isinstance(value, int) or (value - low) % axis.step):
        return "must be a whole number on the steps of its range"
    return None
