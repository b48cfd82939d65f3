"""Knobs, axes and conditions of a search space: how one entry of the file is read, and what can be wrong with it."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from graphlib import CycleError, TopologicalSorter
from typing import Any, Literal

from pydantic import ValidationError

from orca_core.bodies import find_body
from orca_core.config.faults import faults_of
from orca_core.config.knobs import TrialConfig
from orca_core.config.paths import KNOBS, SHORTHAND, flatten, unknown_knobs
from orca_core.errors import ConfigError, DataError, Fault, nearest
from orca_core.freezing.schedule import FREEZING_NAMES
from orca_core.proxies import find_proxy
from orca_core.tasks import find_task

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
        when: Condition under which it varies; elsewhere the knob is left to base and recipe.
    """

    path: str
    kind: Literal["grid", "choice", "uniform", "loguniform", "int"]
    values: tuple[Any, ...]
    step: int = 1
    log: bool = False
    when: Mapping[str, Any] = field(default_factory=dict)

    @property
    def knobs(self) -> list[str]:
        """The knobs it sets: its own, or those of its levels where these are mappings."""
        return list(dict.fromkeys(knob for value in self.values for knob in flatten({self.path: value})))

    def put(self, knobs: Mapping[str, Any], value: Any) -> dict[str, Any]:
        """Knobs with this axis at a level on top; the level `recipe` takes out what stood there."""
        if value == RECIPE:
            return {path: other for path, other in knobs.items() if path not in self.knobs}
        return {**knobs, **flatten({self.path: value})}


_DECIDED_BY = {"body.modality": "body.name", "task.dims": "task"}
"""Of what a condition may ask for beside knobs, the knob that decides it."""


def in_order(axes: Sequence[Axis]) -> list[Axis]:
    """Axes without a condition first, then each of the others behind those that it asks for.

    Raises:
        graphlib.CycleError: If conditions go round in a circle; its second argument has the paths of the circle.
    """
    setter = {knob: axis.path for axis in axes for knob in axis.knobs}
    asked = {axis.path: sorted({setter.get(_DECIDED_BY.get(path, path), axis.path) for path in axis.when} - {axis.path}) for axis in axes}
    order = list(TopologicalSorter(asked).static_order())
    return sorted(axes, key=lambda axis: order.index(axis.path) if axis.when else -1)


def holds(condition: Mapping[str, Any], config: TrialConfig) -> bool:
    """Whether a condition holds: every knob has the value, or one of a list of values; `{not: ...}` turns it round.

    Beside the knobs, `body.modality` (text, images) and `task.dims` (1, 2) can be asked for.
    """
    return all(_matches(expected, _value_of(path, config)) for path, expected in condition.items())


def _matches(expected: Any, value: Any) -> bool:
    if isinstance(expected, Mapping):
        return not _matches(expected["not"], value)
    return value in expected if isinstance(expected, list) else value == expected


def _value_of(path: str, config: TrialConfig) -> Any:
    if path == "body.modality":
        return config.body_spec.modality
    if path == "task.dims":
        return config.task_spec.dims
    node: Any = config
    for name in path.split("."):
        node = getattr(node, name)
    return node


def read_knobs(data: Any, section: str, faults: list[Fault]) -> dict[str, Any]:
    """Flat knobs of `base` or a variant; each value is checked by itself."""
    if not isinstance(data, Mapping):
        faults.append(Fault(section, "must be a mapping of knobs", data))
        return {}
    try:
        flat = flatten(data)
    except ConfigError as error:
        faults += [fault.at(section) for fault in error.faults]
        return {}
    wrong = unknown_knobs(flat)
    faults += [fault.at(section) for fault in wrong]
    flat = {path: value for path, value in flat.items() if path in KNOBS}
    for path, value in flat.items():
        faults += [fault.at(section) for fault in check_knob(path, value)]
    return flat


def check_knob(path: str, value: Any) -> list[Fault]:
    """Faults of one knob's value by itself: type, range, name."""
    section, _, name = path.rpartition(".")
    owner: Any = TrialConfig.model_fields[section].annotation if section else TrialConfig
    try:
        # The owner's validators see the value as they would in a whole config.
        owner.__pydantic_validator__.validate_assignment(owner.model_construct(), name, value)
    except ValidationError as error:
        faults = [fault.at(section) for fault in faults_of(error) if fault.path.split(".")[0] == name]
        if faults:
            return faults
    finder = {"task": find_task, "proxy": find_proxy, "body.name": find_body}.get(path)
    try:
        if finder is not None and isinstance(value, str):
            finder(value)
        if path == "freezing" and isinstance(value, str) and value.partition(":")[0] not in {n.partition(":")[0] for n in FREEZING_NAMES}:
            return [Fault(path, "must be a freezing schedule", value, nearest(value, FREEZING_NAMES))]
    except ConfigError as error:
        return [Fault(path, fault.rule, fault.value, fault.remedy) for fault in error.faults]
    except DataError as error:
        return [Fault(path, str(error), Fault.ABSENT)]
    return []


_KINDS = ("grid", "choice", "uniform", "loguniform", "int")


def read_axes(data: Any, faults: list[Fault]) -> list[Axis]:
    if not isinstance(data, Mapping):
        faults.append(Fault("space", "must be a mapping of knobs", data))
        return []
    axes: list[Axis] = []
    for path, entry in _entries(data, ""):
        where = f"space.{path}"
        known = path in KNOBS or path in SHORTHAND
        if path == "seed":
            faults.append(Fault(where, "must not vary here", entry, "Use `seeds`."))
        elif not known:
            faults += [fault.at("space") for fault in unknown_knobs({path: Fault.ABSENT})]
        elif not isinstance(entry, Mapping):
            faults.append(Fault(where, f"must be a mapping with one of {', '.join(_KINDS)}", entry, _axis_remedy(entry)))
        elif (axis := _axis(path, entry, where, faults)) is not None:
            if twice := {knob for other in axes for knob in other.knobs}.intersection(axis.knobs):
                faults.append(Fault(where, "must not vary what another entry varies", sorted(twice)))
            axes.append(axis)
    tuned = {knob for axis in axes if axis.kind != "grid" for knob in axis.knobs}
    for axis in axes:
        faults += [fault.at(f"space.{axis.path}.when") for fault in tuned_faults(axis.when, tuned)]
    try:
        in_order(axes)
    except CycleError as error:
        circle = error.args[1]
        faults.append(Fault(f"space.{circle[0]}.when", "must not go round in a circle", " asks for ".join(reversed(circle))))
    return axes


def tuned_faults(condition: Mapping[str, Any], tuned: Collection[str]) -> list[Fault]:
    """Faults of a condition on knobs that are tuned: arms are made before these have a value."""
    return [Fault(path, "must not ask for a knob that is tuned", condition[path]) for path in condition if path in tuned]


def _axis_remedy(entry: Any) -> str:
    return f"Write {{grid: {entry if isinstance(entry, list) else [entry]}}}, or set it in `base`."


def _entries(data: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    """(dotted path, entry) of a nested or dotted mapping; an entry is what has a distribution's key, or is no mapping."""
    for key, value in data.items():
        path = f"{prefix}{key}"
        inner = isinstance(value, Mapping) and path not in KNOBS and not any(kind in value for kind in _KINDS)
        if inner and any(knob.startswith(f"{path}.") for knob in KNOBS):
            yield from _entries(value, f"{path}.")
        else:
            yield path, value


def _axis(path: str, entry: Mapping[str, Any], where: str, faults: list[Fault]) -> Axis | None:
    before = len(faults)
    kinds = [kind for kind in _KINDS if kind in entry]
    allowed = (*_KINDS, "when", *(("step", "log") if kinds == ["int"] else ()))
    if len(kinds) != 1:
        faults.append(Fault(where, f"must have exactly one of {', '.join(_KINDS)}", dict(entry), nearest(next(iter(entry), ""), _KINDS)))
        return None
    for key in entry:
        if key not in allowed:
            faults.append(Fault(f"{where}.{key}", "must be a known key", Fault.ABSENT, nearest(key, allowed)))
    kind, values = kinds[0], entry[kinds[0]]
    when = read_condition(entry.get("when", {}), f"{where}.when", faults)
    if kind in ("grid", "choice"):
        if not isinstance(values, list) or not values:
            faults.append(Fault(f"{where}.{kind}", "must be a list of at least one value", values))
            return None
        for number, value in enumerate(values):
            _check_level(path, value, f"{where}.{kind}.{number}", faults)
            if value in values[:number]:
                faults.append(Fault(f"{where}.{kind}.{number}", "must not stand twice", value))
    else:
        _check_range(path, kind, values, entry, where, faults)
    if len(faults) > before:
        return None
    log = kind == "loguniform" or bool(entry.get("log", False))
    return Axis(path, kind, tuple(values), entry.get("step", 1), log, when)  # type: ignore[arg-type]


def _check_level(path: str, value: Any, where: str, faults: list[Fault]) -> None:
    if value == RECIPE and path not in ("task", "recipe"):
        return
    try:
        knobs = flatten({path: value})
    except ConfigError as error:
        faults.extend(error.faults)
        return
    for wrong in unknown_knobs(knobs):
        faults.append(Fault(where, f"{wrong.path} {wrong.rule}", wrong.value, wrong.remedy))
    for knob, inner in knobs.items():
        if knob in KNOBS:
            faults.extend(Fault(where, fault.rule, fault.value, fault.remedy) for fault in check_knob(knob, inner))


def _check_range(path: str, kind: str, values: Any, entry: Mapping[str, Any], where: str, faults: list[Fault]) -> None:
    at = f"{where}.{kind}"
    numbers = isinstance(values, list) and len(values) == 2 and all(_is_number(value) for value in values)
    if not numbers:
        faults.append(Fault(at, "must be a list of two finite numbers, [low, high]", values))
        return
    low, high = values
    if not low < high:
        faults.append(Fault(at, "must have low < high", values, f"Turn it round: [{high}, {low}]." if low > high else ""))
        return
    if kind == "int" and not all(isinstance(value, int) for value in values):
        faults.append(Fault(at, "must be two whole numbers", values))
        return
    if (kind == "loguniform" or entry.get("log")) and low <= 0:
        faults.append(Fault(at, "must have low > 0 on a logarithmic scale", values))
        return
    if "log" in entry and not isinstance(entry["log"], bool):
        faults.append(Fault(f"{where}.log", "must be true or false", entry["log"]))
    if "step" in entry and (isinstance(entry["step"], bool) or not isinstance(entry["step"], int) or entry["step"] < 1):
        faults.append(Fault(f"{where}.step", "must be a whole number of at least 1", entry["step"]))
    elif entry.get("step", 1) != 1 and entry.get("log"):
        faults.append(Fault(f"{where}.step", "must be left out on a logarithmic scale", entry["step"]))
    for value in values:
        faults.extend(Fault(at, fault.rule, fault.value, fault.remedy) for fault in check_knob(path, value))


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def read_condition(data: Any, where: str, faults: list[Fault]) -> dict[str, Any]:
    if not isinstance(data, Mapping):
        faults.append(Fault(where, "must be a mapping of knobs to values", data))
        return {}
    condition: dict[str, Any] = {}
    askable = [*KNOBS, *_DERIVED]
    for path, expected in _flat_condition(data).items():
        if path not in askable:
            faults.append(Fault(f"{where}.{path}", "must be a knob, body.modality or task.dims", Fault.ABSENT, nearest(path, askable)))
        elif isinstance(expected, Mapping) and list(expected) != ["not"]:
            faults.append(Fault(f"{where}.{path}", "must be a value, a list of values, or {not: ...}", expected))
        else:
            inner = expected["not"] if isinstance(expected, Mapping) else expected
            for value in inner if isinstance(inner, list) else [inner]:
                faults += [fault.at(where) for fault in _check_asked(path, value)]
            condition[path] = expected
    return condition


_DERIVED: Mapping[str, tuple[Any, ...]] = {"body.modality": ("text", "images"), "task.dims": (1, 2)}
"""What a condition can ask for beside the knobs, and the answers there are."""


def _check_asked(path: str, value: Any) -> list[Fault]:
    if path not in _DERIVED:
        return check_knob(path, value)
    answers = _DERIVED[path]
    return [] if value in answers else [Fault(path, f"must be {' or '.join(map(str, answers))}", value)]


def _flat_condition(data: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in data.items():
        path = f"{prefix}{key}"
        if isinstance(value, Mapping) and "not" not in value and path not in KNOBS:
            flat |= _flat_condition(value, f"{path}.")
        else:
            flat[SHORTHAND.get(path, path)] = value
    return flat
