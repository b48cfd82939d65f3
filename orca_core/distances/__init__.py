"""Distances between labelled clouds of features.

`otdd`, `mmd` and `l2` are functions of two clouds, `OtddSource` is one side of OTDD, prepared once. What `align.objective` can name is in
`DISTANCES`, and, with the distances of other packages (entry-point group `orca_core.distances`), in `DISTANCE_CATALOGUE`. An entry is a
`DistanceSpec`: it names its code and declares its own knobs, so that a distance is one declaration. Importing this package loads no torch.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import TypeAdapter, ValidationError
from pydantic.fields import FieldInfo

from orca_core.catalogue import Catalogue
from orca_core.distances.builtin import BUILTIN_DISTANCES, OF_BODY, WITHOUT_PROXY
from orca_core.distances.spec import Distance, DistanceSpec, Knob, Separation, is_storable
from orca_core.plugins import check_reference

if TYPE_CHECKING:
    from orca_core.distances.l2_distance import l2
    from orca_core.distances.mmd_distance import mmd
    from orca_core.distances.otdd_distance import OtddSource, otdd

__all__ = [
    "DISTANCES",
    "DISTANCE_CATALOGUE",
    "Distance",
    "DistanceSpec",
    "OtddSource",
    "Separation",
    "distance_knobs",
    "find_distance",
    "knob_owners",
    "l2",
    "mmd",
    "otdd",
]

DISTANCES: dict[str, DistanceSpec] = {spec.name: spec for spec in BUILTIN_DISTANCES}
"""The built-in distances to the proxy. `bilevel` and the controls that read none, `none` and `dispersion`, are in `DISTANCE_CATALOGUE`."""

ALIGN_KNOBS = frozenset(
    {
        *("epochs", "weight", "objective", "class_samples", "class_sampling", "proxy_samples", "lr", "lr_from", "optimizer"),
        *("agreement", "gradient", "task_weight", "label_entropy", "label_entropy_form"),
        *("optimizer_from", "weight_decay", "momentum", "betas", "lr_steps", "lr_schedule"),
    }
)
"""Knobs of `align` that belong to no distance; none may take their names."""


def _check(spec: DistanceSpec, known: Mapping[str, DistanceSpec]) -> None:
    check_reference("prepare", spec.prepare)
    if spec.compares != "proxy":
        raise TypeError(f"compares must be proxy, not {spec.compares!r}: the objectives without a proxy are built in")
    others = {knob: (other, definition) for other in known.values() for knob, definition in other.knobs.items()}
    for knob, definition in spec.knobs.items():
        if not isinstance(knob, str) or not re.fullmatch(r"[a-z][a-z0-9_]*", knob):
            raise TypeError(f"knobs must have names of lower-case letters, digits and underscores, not {knob!r}")
        if knob in ALIGN_KNOBS:
            raise TypeError(f"knobs must not have the name of a knob that all distances share, but one is {knob!r}")
        if not isinstance(definition, tuple) or len(definition) != 2 or not isinstance(definition[1], FieldInfo):
            raise TypeError(f"knobs must be pairs of a type and a pydantic Field, but {knob} is {definition!r}")
        if definition[1].is_required() or not definition[1].description:
            raise TypeError(f"knobs must have a default and a description, but {knob} lacks one")
        if knob in others and repr(others[knob][1]) != repr(definition):
            raise TypeError(f"knobs must be defined as in other distances, but {knob} differs from that of {others[knob][0].name}")
        if not is_storable(definition[0]):
            raise TypeError(f"knobs must be texts, numbers, flags, choices of these, or lists of them, but {knob} is {definition[0]!r}")
        annotated: Any = Annotated[definition[0], definition[1]]
        try:
            TypeAdapter(annotated).validate_python(definition[1].default)
        except ValidationError:
            raise TypeError(f"knobs must have defaults that they allow, but that of {knob} is {definition[1].default!r}") from None


DISTANCE_CATALOGUE: Catalogue[DistanceSpec] = Catalogue(
    kind="distance",
    knob="align.objective",
    group="orca_core.distances",
    spec_class=DistanceSpec,
    builtin=(*DISTANCES.values(), OF_BODY, *WITHOUT_PROXY),
    check=_check,
)


def find_distance(name: str) -> DistanceSpec:
    """The distance of that name.

    Raises:
        ConfigError: If there is none; the fault offers the nearest known name.
    """
    return DISTANCE_CATALOGUE.find(name)


def distance_knobs() -> dict[str, Knob]:
    """The knobs of all distances by name, each once, as (type, pydantic field)."""
    return {knob: definition for spec in DISTANCE_CATALOGUE.entries().values() for knob, definition in spec.knobs.items()}


def knob_owners() -> dict[str, tuple[str, ...]]:
    """Knob -> the names of the distances that read it.

    >>> knob_owners()["l2_batches"], knob_owners()["solver"]
    (('l2',), ('otdd-exact', 'otdd-gaussian'))
    """
    specs = DISTANCE_CATALOGUE.entries().values()
    return {knob: tuple(spec.name for spec in specs if knob in spec.knobs) for knob in distance_knobs()}


_MODULES = {"OtddSource": "otdd_distance", "l2": "l2_distance", "mmd": "mmd_distance", "otdd": "otdd_distance"}


def __getattr__(name: str) -> Any:
    """Functions that need torch are imported when they are asked for."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
