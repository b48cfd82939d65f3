"""The section `probes` of a search-space file."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from orca_core.config.faults import broken_rule
from orca_core.errors import ConfigError, OrcaError, nearest
from orca_core.probing.catalogue import PROBES
from orca_core.probing.request import SAMPLES, ProbeRequest
from orca_core.proxies import find_proxy
from sweeper.space.section import Section


class ProbesConfig(Section):
    """What is measured inside the models of a sweep. It is no part of a trial: ids, keys and rows stay what they are."""

    names: list[str] = Field([], description="Names of probes, or `all`.")
    samples: Annotated[int, Field(ge=2)] = Field(
        SAMPLES, description="Largest number of samples that a probe reads of each part of the data, drawn by the trial's seed."
    )
    layers: list[Annotated[int, Field(ge=0)]] | None = Field(
        None, description="Layers that probes by layer report: 0 is the embedder's output, k that of block k; null = all."
    )
    proxy: str | None = Field(
        None,
        description="Data set that `distance` and `forgetting` read in all trials, also in those that do not align; null = each its own.",
    )
    recompute: bool = Field(
        False,
        description="Whether finished trials that lack a probe are trained again where their fine-tuned weights were not kept. "
        "`sweeper plan` says how long that takes.",
    )

    @field_validator("names", mode="before")
    @classmethod
    def _names(cls, value: Any) -> Any:
        if value == "all":
            return list(PROBES)
        if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
            raise ValueError("must be a list of names of probes, or `all`")
        for name in value:
            if name not in PROBES:
                raise broken_rule("", "must be the name of a probe", name, nearest(name, PROBES))
        return list(dict.fromkeys(value))

    @field_validator("proxy")
    @classmethod
    def _proxy(cls, value: str | None) -> str | None:
        if value is not None:
            try:
                find_proxy(value)
            except ConfigError as error:
                raise broken_rule("", error.faults[0].rule, value, error.faults[0].remedy) from None
            except OrcaError as error:
                raise broken_rule("", f"must be a proxy that can be read: {error}", value) from None
        return value

    def request(self, weights: Literal["best", "last"]) -> ProbeRequest:
        """What is asked of each trial.

        Args:
            weights: Which fine-tuned weights are read.
        """
        return ProbeRequest(tuple(self.names), self.samples, None if self.layers is None else tuple(self.layers), self.proxy, weights)
