"""Reads the section `space` of a file: turns its entries into axes, and reports what is wrong with them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from graphlib import CycleError
from typing import Any

from orca_core.config.paths import KNOBS, SHORTHAND, flatten, unknown_knobs
from orca_core.errors import ConfigError, Fault, nearest
from sweeper.faults import Faults
from sweeper.space.axes import RECIPE, Axis, sort_by_condition
from sweeper.space.conditions import read_condition, refuse_tuned
from sweeper.space.file import BITS_OF_THE_SWEEP
from sweeper.space.knobs import check_knob

KINDS = ("grid", "choice", "uniform", "loguniform", "int")


def read_axes(data: Any, faults: Faults) -> list[Axis]:
    """Read the axes of a search space; an entry with a fault is left out.

    Args:
        data: The section `space`.
        faults: Collects faults of that section.
    """
    if not isinstance(data, Mapping):
        faults.add("", "must be a mapping of knobs", data)
        return []
    axes: list[Axis] = []
    for path, entry in _entries(data, ""):
        if path == "seed":
            faults.add(path, "must not vary here", entry, "Use `seeds`.")
        elif path == "bits":
            faults.add(path, "must not vary here", entry, BITS_OF_THE_SWEEP)
        elif path not in KNOBS and path not in SHORTHAND:
            faults.extend(unknown_knobs({path: Fault.ABSENT}))
        elif not isinstance(entry, Mapping):
            remedy = f"Write {{grid: {entry if isinstance(entry, list) else [entry]}}}, or set it in `base`."
            faults.add(path, f"must be a mapping with one of {', '.join(KINDS)}", entry, remedy)
        elif (axis := _read_axis(path, entry, faults.at(path))) is not None:
            if repeated := {knob for other in axes for knob in other.knobs}.intersection(axis.knobs):
                faults.add(path, "must not vary a knob that another entry varies", sorted(repeated))
            axes.append(axis)
    tuned = {knob for axis in axes if axis.is_tuned for knob in axis.knobs}
    for axis in axes:
        refuse_tuned(axis.when, tuned, faults.at(f"{axis.path}.when"))
    try:
        sort_by_condition(axes)
    except CycleError as error:
        cycle = error.args[1]
        faults.add(f"{cycle[0]}.when", "must not form a cycle with other conditions", " depends on ".join(reversed(cycle)))
    return axes


def _entries(data: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    """(dotted path, entry) of a nested or dotted mapping; an entry is a mapping with the key of a distribution, or not a mapping at all."""
    for key, value in data.items():
        path = f"{prefix}{key}"
        inner = isinstance(value, Mapping) and path not in KNOBS and not any(kind in value for kind in KINDS)
        if inner and any(knob.startswith(f"{path}.") for knob in KNOBS):
            yield from _entries(value, f"{path}.")
        else:
            yield path, value


def _read_axis(path: str, entry: Mapping[str, Any], faults: Faults) -> Axis | None:
    before = len(faults)
    kinds = [kind for kind in KINDS if kind in entry]
    allowed = (*KINDS, "when", *(("step", "log") if kinds == ["int"] else ()))
    if len(kinds) != 1:
        faults.add("", f"must have exactly one of {', '.join(KINDS)}", dict(entry), nearest(next(iter(entry), ""), KINDS))
        return None
    for key in entry:
        if key not in allowed:
            faults.add(key, "must be a known key", remedy=nearest(key, allowed))
    kind, values = kinds[0], entry[kinds[0]]
    when = read_condition(entry.get("when", {}), faults.at("when"))
    if kind in ("grid", "choice"):
        _check_levels(path, values, faults.at(kind))
    else:
        _check_range(path, kind, entry, faults)
    if len(faults) > before:
        return None
    log = kind == "loguniform" or bool(entry.get("log", False))
    return Axis(path, kind, tuple(values), entry.get("step", 1), log, when)  # type: ignore[arg-type]


def _check_levels(path: str, values: Any, faults: Faults) -> None:
    if not isinstance(values, list) or not values:
        faults.add("", "must be a list of at least one value", values)
        return
    for number, value in enumerate(values):
        _check_level(path, value, faults.exactly_at(str(number)))
        if value in values[:number]:
            faults.add(str(number), "must be listed once", value)


def _check_level(path: str, value: Any, faults: Faults) -> None:
    if value == RECIPE and path not in ("task", "recipe"):
        return
    try:
        knobs = flatten({path: value})
    except ConfigError as error:
        faults.extend(error.faults)
        return
    for wrong in unknown_knobs(knobs):
        faults.add("", f"{wrong.path} {wrong.rule}", wrong.value, wrong.remedy)
    for knob, inner in knobs.items():
        if knob in KNOBS:
            check_knob(knob, inner, faults)


def _check_range(path: str, kind: str, entry: Mapping[str, Any], faults: Faults) -> None:
    values, bounds = entry[kind], faults.exactly_at(kind)
    if not (isinstance(values, list) and len(values) == 2 and all(_is_number(value) for value in values)):
        bounds.add("", "must be a list of two finite numbers, [low, high]", values)
        return
    low, high = values
    if not low < high:
        bounds.add("", "must have low < high", values, f"Swap the bounds: [{high}, {low}]." if low > high else "")
        return
    if kind == "int" and not all(isinstance(value, int) for value in values):
        bounds.add("", "must be two whole numbers", values)
        return
    if (kind == "loguniform" or entry.get("log")) and low <= 0:
        bounds.add("", "must have low > 0 on a logarithmic scale", values)
        return
    if "log" in entry and not isinstance(entry["log"], bool):
        faults.add("log", "must be true or false", entry["log"])
    if "step" in entry and (isinstance(entry["step"], bool) or not isinstance(entry["step"], int) or entry["step"] < 1):
        faults.add("step", "must be a whole number of at least 1", entry["step"])
    elif entry.get("step", 1) != 1 and entry.get("log"):
        faults.add("step", "must be left out on a logarithmic scale", entry["step"])
    for value in values:
        check_knob(path, value, bounds)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
