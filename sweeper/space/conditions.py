"""Conditions on knobs: when an axis varies, and which combinations a search space leaves out."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from orca_core.config.knobs import TrialConfig
from orca_core.config.paths import KNOBS, SHORTHAND
from orca_core.errors import nearest
from orca_core.proxies import stands_for
from sweeper.faults import Faults
from sweeper.space.knobs import check_knob

DERIVED: Mapping[str, tuple[Any, ...]] = {"body.modality": ("text", "images", "none"), "task.dims": (1, 2)}
"""Properties, in addition to the knobs, on which a condition can depend, with their values."""

DECIDED_BY = {"body.modality": "body.name", "task.dims": "task"}
"""Derived property -> the knob that determines it."""


@dataclass(frozen=True)
class Condition:
    """Holds if every knob has the given value, or one of a list of values; `{not: ...}` negates. An empty condition always holds.

    Args:
        expected: Knob, `body.modality` or `task.dims` -> value, list of values, or `{"not": ...}`.
    """

    expected: Mapping[str, Any] = field(default_factory=dict)

    def holds(self, config: TrialConfig) -> bool:
        """Whether the condition holds for a trial."""
        return all(_matches(expected, _value_of(path, config)) for path, expected in self.expected.items())

    def __bool__(self) -> bool:
        return bool(self.expected)


ALWAYS = Condition()


@dataclass(frozen=True)
class Requirement:
    """A combination is left out if `when` holds and `then` does not."""

    when: Condition
    then: Condition

    def allows(self, config: TrialConfig) -> bool:
        """Whether a combination is kept."""
        return self.then.holds(config) or not self.when.holds(config)


def read_condition(data: Any, faults: Faults) -> Condition:
    """Read a condition of the file. Faults are added, and the parts that have them left out."""
    if not isinstance(data, Mapping):
        faults.add("", "must be a mapping of knobs to values", data)
        return ALWAYS
    read: dict[str, Any] = {}
    known = [*KNOBS, *DERIVED]
    for path, expected in _flatten(data).items():
        if path not in known:
            faults.add(path, "must be a knob, body.modality or task.dims", remedy=nearest(path, known))
        elif isinstance(expected, Mapping) and list(expected) != ["not"]:
            faults.add(path, "must be a value, a list of values, or {not: ...}", expected)
        else:
            inner = expected["not"] if isinstance(expected, Mapping) else expected
            for value in inner if isinstance(inner, list) else [inner]:
                _check_expected(path, value, faults)
            read[path] = expected
    return Condition(read)


def refuse_tuned(condition: Condition, tuned: Collection[str], faults: Faults) -> None:
    """Add a fault for each tuned knob on which a condition depends: conditions are evaluated before tuned knobs have a value."""
    for path, expected in condition.expected.items():
        if path in tuned:
            faults.add(path, "must not depend on a tuned knob", expected)


def _check_expected(path: str, value: Any, faults: Faults) -> None:
    if path not in DERIVED:
        check_knob(path, value, faults)
    elif value not in DERIVED[path]:
        faults.add(path, f"must be {' or '.join(map(str, DERIVED[path]))}", value)


def _matches(expected: Any, value: Any) -> bool:
    if isinstance(expected, Mapping):
        return not _matches(expected["not"], value)
    return any(value == other or stands_for(other, value) for other in (expected if isinstance(expected, list) else [expected]))


def _value_of(path: str, config: TrialConfig) -> Any:
    if path == "body.modality":
        return config.body_spec.modality
    if path == "task.dims":
        return config.task_spec.dims
    node: Any = config
    for name in path.split("."):
        node = getattr(node, name)
    return node


def _flatten(data: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in data.items():
        path = f"{prefix}{key}"
        if isinstance(value, Mapping) and "not" not in value and path not in KNOBS:
            flat |= _flatten(value, f"{path}.")
        else:
            flat[SHORTHAND.get(path, path)] = value
    return flat
