"""A distance without its code (`DistanceSpec`), and what its code makes (`Distance`). No torch here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import UnionType
from typing import TYPE_CHECKING, Annotated, Any, Literal, Protocol, Union, get_args, get_origin, runtime_checkable

from pydantic.fields import FieldInfo

from orca_core.plugins import resolve

if TYPE_CHECKING:
    import torch
    from torch import Tensor

Knob = tuple[Any, FieldInfo]
"""Type and pydantic field of a knob: default, bounds, description. The type may be `Annotated`."""


def is_storable(kind: Any) -> bool:
    """Whether values of a type fit into a column of the result tables; of a union, the first type counts."""
    if kind in (str, int, float, bool):
        return True
    arguments = get_args(kind)
    if get_origin(kind) is Literal:
        return all(isinstance(choice, str | int | float | bool) for choice in arguments)
    return get_origin(kind) in (Annotated, Union, UnionType, list, tuple) and bool(arguments) and is_storable(arguments[0])


Compares = Literal["proxy", "classes", "nothing", "body"]
"""What an objective of alignment is of: the target's features and the proxy's, the target's classes among themselves, no features, or what
the body makes of the proxy."""


class Distance(Protocol):
    """How far the features of one target class are from the source, of which what can be computed once has been."""

    def __call__(self, features: Tensor, draws: torch.Generator, /) -> tuple[Tensor, Tensor | None]:
        """The distance, and the distances of the class to the source's classes.

        Args:
            features: (m, d) features of one target class, m >= 1, float32, on the device of the source.
            draws: For distances that draw; its state moves on.

        Returns:
            Scalar, differentiable in `features`; and (1, C) distances to the source's C classes, without a gradient, or None.
        """


@runtime_checkable
class DistanceOfClasses(Protocol):
    """A distance that takes less time for several classes at once. It must not draw."""

    def of_classes(self, classes: Sequence[Tensor], /) -> Sequence[tuple[Tensor, Tensor | None]]:
        """What `Distance` returns, of each of several target classes; one's may depend on the others' by rounding."""


class Separation(Protocol):
    """How far the target's classes are from being apart: an objective that reads no proxy."""

    def __call__(self, features: Tensor, labels: Tensor, weights: Tensor, /) -> Tensor:
        """The objective: lower is further apart.

        Args:
            features: (m, d) features of samples of all classes, float32.
            labels: (m,) integer class ids, on the device of the features.
            weights: (m,) weights of the samples, > 0; only their proportions count.

        Returns:
            Scalar, differentiable in `features`.
        """


@dataclass(frozen=True)
class DistanceSpec:
    """One distance, described without its code.

    Args:
        name: As written in `align.objective`.
        summary: One line for the docs.
        prepare: `"module:function"`, called as `prepare(source_x, source_y, options)` with (n, d) float32 features, (n,) int64 labels and
            the values of `knobs` by name; returns a `Distance`.
        knobs: The distance's own knobs, which become `align.NAME` of a config. Distances may share a knob if they define it alike.
        version: Raised when the code returns other numbers than before for the same features.
        compares: `proxy` for a distance. The other objectives are built in: `classes`, whose code is called as `prepare(options)` and
            returns a `Separation`, and `nothing` and `body`, which have no code here.
    """

    name: str
    summary: str
    prepare: str
    knobs: Mapping[str, Knob] = field(default_factory=dict, hash=False)
    version: int = 1
    compares: Compares = "proxy"

    @property
    def reads_proxy(self) -> bool:
        """Whether it needs a proxy."""
        return self.compares in ("proxy", "body")

    def separation(self, options: Mapping[str, Any]) -> Separation:
        """The objective that compares the target's classes; `options` as for `prepared`."""
        separation: Separation = resolve(self.prepare, self.name)({name: options[name] for name in self.knobs})
        return separation

    def prepared(self, source_x: Tensor, source_y: Tensor, options: Mapping[str, Any]) -> Distance:
        """The distance to a source.

        Args:
            source_x: (n, d) features, n >= 1.
            source_y: (n,) integer labels.
            options: Values of knobs by name, `entropic_reg`; only the distance's own are passed on.
        """
        distance: Distance = resolve(self.prepare, self.name)(source_x, source_y, {name: options[name] for name in self.knobs})
        return distance
