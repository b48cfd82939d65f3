"""What a config reads, found once for all configs in which the same conditions hold.

A plan asks for the ids and keys of ten thousand configs, and each has more than a hundred knobs that several stages may read. What is read
depends on a config through the conditions of the declarations alone. So the conditions are looked at in each config, and what follows from
them is kept.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import NamedTuple

from orca_core.conditions import Condition
from orca_core.config.knobs import TrialConfig
from orca_core.declarations import STAGES, USES
from orca_core.reads import COMMON, Declaration, Kind, Read

Facts = frozenset[Condition]
"""The conditions without parts that hold in a config."""

LEAVES: tuple[Condition, ...] = tuple(
    dict.fromkeys(
        leaf
        for condition in (
            *(condition for uses in USES.values() for use in uses for condition in (use.exists, use.when)),
            *(declared.exists for declared in STAGES.values()),
        )
        for leaf in condition.leaves()
    )
)
"""Every condition without parts that the declarations name."""


class ReadGroup(NamedTuple):
    """A group of a declaration, where it exists.

    Args:
        name: Its name.
        settings: The knobs that are read as they are written, and what they are called in the key, where they stay out at their default.
        others: What else is read.
        inputs: Kinds of its inputs.
    """

    name: str
    settings: Mapping[str, str]
    others: tuple[Read, ...]
    inputs: tuple[Kind, ...]


def facts_of(config: TrialConfig) -> Facts:
    """Which conditions hold in a config."""
    return _one_of_equal(frozenset([condition for condition in LEAVES if condition.holds(config)]))


@lru_cache(maxsize=4096)
def _one_of_equal(facts: Facts) -> Facts:
    """The same object for all configs of equal facts: a plan keeps one instead of ten thousand, and finds it faster."""
    return facts


@lru_cache(maxsize=4096)
def knobs_read(facts: Facts) -> frozenset[str]:
    """The knobs that some stage of a trial, or its result, reads."""
    return frozenset(
        path for path, uses in USES.items() if any(use.exists.follows_from(facts) and use.when.follows_from(facts) for use in uses)
    )


@lru_cache(maxsize=4096)
def groups_read(declared: Declaration, facts: Facts) -> tuple[ReadGroup, ...]:
    """The groups of a stage that exist in a trial; that of what every stage depends on, whose name is empty, comes last. Empty if the trial
    has no such stage."""
    if not declared.exists.follows_from(facts):
        return ()
    found, known = [], knobs_read(facts)
    for name, group in (*declared.groups.items(), ("", COMMON)):
        if group.when.follows_from(facts):
            reads = [read for read in group.reads if read.when.follows_from(facts)]
            settings = {read.knob: read.key_name for read in reads if read.is_setting and read.knob in known}
            others = tuple(read for read in reads if settings.get(read.knob) != read.key_name or not read.is_setting)
            found.append(ReadGroup(name, settings, others, group.inputs))
    return tuple(found)
