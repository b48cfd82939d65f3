"""A validated search space, and the arms it spans."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from orca_core.config.knobs import TrialConfig
from orca_core.config.resolve import resolve_config
from orca_core.errors import ConfigError
from orca_core.probing.request import ProbeRequest
from sweeper.faults import Faults
from sweeper.space.axes import Axis, sort_by_condition
from sweeper.space.conditions import Requirement
from sweeper.space.file import Bits, Budget, Keep, Resources, SchedulerConfig
from sweeper.space.probes import ProbesConfig
from sweeper.space.search import SearchConfig
from sweeper.space.seeds import Question

Knobs = dict[str, Any]
"""Knob -> value."""


@dataclass(frozen=True)
class Arm:
    """One combination of grid levels, variant and task; tuned knobs and seeds are not set yet.

    Args:
        overrides: Knob -> value.
        config: The resolved config, with tuned knobs at their values in `base` or the recipe, and seed 0.
        variant: Name of its variant; empty without variants.
        tuned: The axes that are tuned in it.
    """

    overrides: Mapping[str, Any]
    config: TrialConfig
    variant: str
    tuned: tuple[Axis, ...]


@dataclass(frozen=True)
class SearchSpace:
    """A validated search space. Its fields are those of `SpaceFile`, except that `base` is flat, `axes` come from `space`, `metrics` are
    those of `metric`, `seeds` are all seeds that an arm may have, `looks` the numbers of seeds after which an arm may have enough of them
    (empty if it has all of them from the start), `vary` the knobs that seeds set, and `options` the knobs of `base` that the command line
    set."""

    name: str
    description: str
    base: Mapping[str, Any]
    axes: tuple[Axis, ...]
    variants: Mapping[str, Mapping[str, Any]]
    design: str
    seeds: tuple[int, ...]
    search: SearchConfig
    scheduler: SchedulerConfig
    metrics: tuple[str, ...]
    require: tuple[Requirement, ...]
    resources: Resources
    budget: Budget
    bits: Bits
    keep: Keep
    floors: bool
    source: Mapping[str, Any]
    question: Question | None = None
    looks: tuple[int, ...] = ()
    vary: tuple[str, ...] = ("seed",)
    file: str = ""
    options: tuple[str, ...] = ()
    tensorboard: bool = False
    probes: ProbesConfig = field(default_factory=ProbesConfig)

    @property
    def probe_request(self) -> ProbeRequest | None:
        """What is asked of probes; None if nothing is."""
        return self.probes.request("last" if self.keep == "last" else "best") if self.probes.names else None

    @property
    def device(self) -> str:
        """Device type of the trials."""
        return "cuda" if self.resources.most_gpu > 0 else "cpu"

    @property
    def cohort(self) -> int:
        """Number of candidates of an arm that early stopping decides together."""
        return self.scheduler.cohort or self.search.lag

    @property
    def metric(self) -> str:
        """The metric that the search minimises; of two, the one by which candidates are ranked first."""
        return self.metrics[0]

    @property
    def columns_read(self) -> tuple[str, ...]:
        """The columns of the rows of ended trials from which further trials are planned."""
        asked = (self.question.metric, "test_samples") if self.question is not None and self.looks else ()
        return tuple(dict.fromkeys([*self.metrics, *asked]))

    @property
    def learns(self) -> bool:
        """Whether scores lead to further trials."""
        return self.search.learns or self.search.replicate > 0 or bool(self.looks)

    @property
    def fresh_seeds(self) -> tuple[int, ...]:
        """The seeds of `search.replicate`: the numbers after those with which candidates are compared."""
        return tuple(range(max(self.seeds) + 1, max(self.seeds) + 1 + self.search.replicate))

    @property
    def varied(self) -> list[str]:
        """The knobs that the file varies, in its order: those of the axes, then those that variants set."""
        knobs = [knob for axis in self.axes for knob in axis.knobs]
        knobs += [knob for overrides in self.variants.values() for knob in overrides]
        return list(dict.fromkeys(knobs))

    def arms(self) -> list[Arm]:
        """All arms, in the order of the file, without the combinations that break a rule of `require`.

        Raises:
            ConfigError: If a combination breaks a rule of the knobs.
        """
        arms, faults = [], Faults()
        for variant, overrides in (self.variants or {"": {}}).items():
            for combination in self._combinations(dict(self.base) | dict(overrides), faults):
                config = self._resolve(combination, faults)
                if config is None or not all(requirement.allows(config) for requirement in self.require):
                    continue
                tuned = tuple(axis for axis in self.axes if axis.is_tuned and axis.when.holds(config))
                arms.append(Arm(combination, config, variant, tuned))
        faults.raise_if_any(self.file)
        return arms

    def _combinations(self, base: Knobs, faults: Faults) -> Iterator[Knobs]:
        grids = sort_by_condition([axis for axis in self.axes if not axis.is_tuned])
        if self.design == "one-factor-at-a-time":
            tasks = [axis for axis in grids if axis.path == "task" and not axis.when]
            for start in _product(base, tasks):
                yield from self._one_at_a_time(start, [axis for axis in grids if axis.path != "task"], faults)
            return
        for start in _product(base, [axis for axis in grids if not axis.when]):
            partial = [start]
            for axis in grids:
                if axis.when:
                    partial = [longer for shorter in partial for longer in self._levels(axis, shorter, faults)]
            yield from partial

    def _levels(self, axis: Axis, combination: Knobs, faults: Faults) -> Iterator[Knobs]:
        """A combination with each level of an axis, or unchanged if the axis does not vary there."""
        if self._varies(axis, combination, faults):
            yield from (axis.put(combination, value) for value in axis.values)
        else:
            yield combination

    def _one_at_a_time(self, start: Knobs, axes: Sequence[Axis], faults: Faults) -> Iterator[Knobs]:
        yield start
        for axis in axes:
            if self._varies(axis, start, faults):
                yield from (axis.put(start, value) for value in axis.values)

    def _varies(self, axis: Axis, combination: Knobs, faults: Faults) -> bool:
        config = self._resolve(combination, faults) if axis.when else None
        return not axis.when or (config is not None and axis.when.holds(config))

    def _resolve(self, combination: Knobs, faults: Faults) -> TrialConfig | None:
        try:
            return resolve_config(combination)
        except ConfigError as error:
            for fault in error.faults:
                faults.at(self._section_of(fault.path)).extend([fault])
            return None

    def _section_of(self, path: str) -> str:
        """The section of the file that sets a knob; empty for `bits`, which stands at the top."""
        if path == "bits":
            return ""
        if any(axis.path == path or path.startswith(f"{axis.path}.") for axis in self.axes):
            return "space"
        return next((f"variants.{name}" for name, overrides in self.variants.items() if path in overrides), "base")


def _product(base: Knobs, axes: Sequence[Axis]) -> Iterator[Knobs]:
    for values in itertools.product(*(axis.values for axis in axes)):
        combination = dict(base)
        for axis, value in zip(axes, values, strict=True):
            combination = axis.put(combination, value)
        yield combination
