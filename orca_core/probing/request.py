"""What is asked of probes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, Self

SAMPLES = 256
"""Number of samples that a probe reads of each part of the data, unless asked otherwise."""


@dataclass(frozen=True)
class ProbeRequest:
    """Which probes of a trial are wanted.

    Args:
        names: Names of `PROBES`.
        samples: Largest number of samples that a probe reads of each part of the data.
        layers: Layers that probes by layer report; None = all. Those that a body does not have are passed over.
        proxy: The data set that `distance` and `forgetting` read in all trials; None = each trial its own.
        weights: Which fine-tuned weights are read: of the best epoch, or of the last.
        retry: Compute again what has failed before.
    """

    names: tuple[str, ...]
    samples: int = SAMPLES
    layers: tuple[int, ...] | None = None
    proxy: str | None = None
    weights: Literal["best", "last"] = "best"
    retry: bool = False

    def to_json(self) -> dict[str, Any]:
        """As JSON data."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """What `to_json` wrote."""
        layers = data["layers"]
        return cls(**{**data, "names": tuple(data["names"]), "layers": None if layers is None else tuple(layers)})

    def has_layer(self, layer: int) -> bool:
        """Whether a layer is reported."""
        return self.layers is None or layer in self.layers
