"""What makes two trials the same.

A knob that nothing reads in a config (the proxy, when `align.epochs` is 0) is not part of the trial: it becomes null, and trials
that then agree are one. A trial's id is a hash of what is left; it is the same in every sweep, process and Python version.
What is read, and when, is declared with the stages (`orca_core.declarations`).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from operator import attrgetter
from typing import Any, NamedTuple

from orca_core.canonical import CANONICAL, SPELLINGS, canonical_value
from orca_core.config.knobs import OPTIMIZER_SETTINGS, TrialConfig
from orca_core.config.methods import method_of
from orca_core.config.paths import KNOBS
from orca_core.config.resolve import REFERENCE_BEHAVIOUR
from orca_core.config.spellings import in_hash
from orca_core.declarations import is_read
from orca_core.facts import Facts, facts_of, knobs_read
from orca_core.freezing.schedule import freezing_label, phases_as_data

DEFAULTS = {path: field.get_default(call_default_factory=True) for path, field in KNOBS.items()}
"""The introductory default of every knob."""


def unread_knobs(config: TrialConfig) -> frozenset[str]:
    """The knobs that neither a stage of this trial nor its result reads."""
    return frozenset(KNOBS) - knobs_read(facts_of(config))


def canonical_knobs(config: TrialConfig, read: frozenset[str] | None = None) -> dict[str, Any]:
    """Every knob by dotted path; None for those that nothing reads. The freezing schedule in its shortest spelling.

    `reference_behaviour` is what the switches it stands for are, whoever set them; None if some are so and some are not.
    `method` is what the knobs amount to, whoever set them.

    Args:
        config: A complete config.
        read: The knobs that are read in it, if they are known already.
    """
    values: dict[str, Any] = dict.fromkeys(KNOBS)
    for path in knobs_read(facts_of(config)) if read is None else read:
        values[path] = SPELLINGS[path](config)
    values["freezing"] = freezing_label(config.phases)
    if values["align.weight"] is None:
        values["align.weight"] = _unread_weight(config)
    values["reference_behaviour"] = _reference_behaviour(values, config)
    values["method"] = method_of(config)
    return values


def canonical_knob(config: TrialConfig, path: str, read: frozenset[str]) -> Any:
    """One of the values of `canonical_knobs`, without the others."""
    if path == "reference_behaviour":
        return canonical_knobs(config, read)[path]
    if path == "freezing":
        return freezing_label(config.phases)
    if path == "method":
        return method_of(config)
    if path == "align.weight" and path not in read:
        return _unread_weight(config)
    return SPELLINGS[path](config) if path in read else None


def _unread_weight(config: TrialConfig) -> float | None:
    """`align.weight` where nothing reads it: as good as none where the embedder never trains."""
    return None if config.body_spec.is_bodiless else 0.0


def _reference_behaviour(values: Mapping[str, Any], config: TrialConfig) -> bool | None:
    """Whether the switches that are read are all as in the reference: True; all at their defaults: False; else None."""
    source = "align.optimizer_from"

    def are_as(wanted: Mapping[str, Any]) -> bool:
        others = (path for path in REFERENCE_BEHAVIOUR if path != source and values[path] is not None)
        if not all(values[path] == wanted[path] for path in others):
            return False
        return config.align.optimizer_from == wanted[source] or _has_one_optimizer(config)

    if values["selection"] == DEFAULTS["selection"]:  # always read, and another one in the reference
        return False if are_as(DEFAULTS) else None
    as_reference = config.model_copy(update={"embedder": config.embedder.model_copy(update={"init": "reference"})})
    as_reference = as_reference.model_copy(update={"align": config.align.model_copy(update={"label_gradient": "reference"})})
    canonical = {path: CANONICAL[path](as_reference) for path in REFERENCE_BEHAVIOUR if path in CANONICAL}
    return True if are_as({**REFERENCE_BEHAVIOUR, **canonical}) else None


def _has_one_optimizer(config: TrialConfig) -> bool:
    """Whether alignment's optimiser is the same wherever it comes from: there is no alignment, or it is that of fine-tuning."""

    def settings(source: str) -> dict[str, Any]:
        taken = config.model_copy(update={"align": config.align.model_copy(update={"optimizer_from": source})})
        paths = [f"align.{name}" for name in OPTIMIZER_SETTINGS]
        return {path: canonical_value(taken, path) for path in paths if is_read(path, taken)}

    return settings("own") == settings("finetune")


class _Taker(NamedTuple):
    """What takes from a config the knobs that are read in it.

    Args:
        plain: Those that are taken as they are written, and their introductory defaults.
        values: Takes them all at once.
        others: Those of which two values can mean the same computation.
    """

    plain: tuple[tuple[str, Any], ...]
    values: Callable[[TrialConfig], tuple[Any, ...]]
    others: tuple[str, ...]


@lru_cache(maxsize=4096)
def _taker(read: frozenset[str]) -> _Taker:
    plain = tuple((path, DEFAULTS[path]) for path in KNOBS if path in read and path not in CANONICAL and path != "freezing")
    return _Taker(plain, attrgetter(*(path for path, _ in plain)), tuple(path for path in CANONICAL if path in read))


def hashed_knobs(config: TrialConfig, read: frozenset[str]) -> dict[str, Any]:
    """The knobs that are read and not at their introductory default, as ids and keys have them.

    Args:
        config: A complete config.
        read: The knobs that are read in it.
    """
    taker = _taker(read)
    found = {
        path: value
        for (path, default), value in zip(taker.plain, taker.values(config), strict=True)
        if value is not None and value != default
    }
    for path in taker.others:
        if (value := CANONICAL[path](config)) is not None and value != DEFAULTS[path]:
            found[path] = value
    if freezing_label(config.phases) != DEFAULTS["freezing"]:
        found["freezing"] = phases_as_data(config.phases)
    if (compiled := found.get("finetune.compile")) is not None:
        found["finetune.compile"] = in_hash("finetune.compile", compiled)
    return found


@dataclass(frozen=True)
class CanonicalConfig:
    """A config with what its id and the keys of its stages are made of: worked out once for all of them.

    Args:
        config: The config.
        facts: What holds in it.
        hashed: Its `hashed_knobs`.
    """

    config: TrialConfig
    facts: Facts
    hashed: Mapping[str, Any]

    @classmethod
    def of(cls, config: TrialConfig) -> CanonicalConfig:
        """A config in its canonical form."""
        facts = facts_of(config)
        return cls(config, facts, hashed_knobs(config, knobs_read(facts)))

    def with_seed(self, knobs: Sequence[str], seed: int) -> CanonicalConfig:
        """The same with another seed. No condition looks at seeds, and no other value depends on them.

        Args:
            knobs: Those that are set to it: `seed`, `split_seed`.
            seed: Their value.
        """
        hashed = dict(self.hashed)
        for path in knobs:
            hashed.pop(path, None)
            if seed != DEFAULTS[path] and path in self.read:
                hashed[path] = seed
        return CanonicalConfig(self.config.model_copy(update=dict.fromkeys(knobs, seed)), self.facts, hashed)

    @property
    def read(self) -> frozenset[str]:
        """The knobs that are read."""
        return knobs_read(self.facts)

    @property
    def id(self) -> str:
        """The id of the trial; see `trial_id`."""
        return hash_of(self.hashed)


_CANONICAL_JSON = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)


def trial_id(config: TrialConfig) -> str:
    """Hash of the canonical config: 16 hexadecimal digits."""
    return CanonicalConfig.of(config).id


def hash_of(data: Mapping[str, Any], digits: int = 16) -> str:
    """SHA-256 of JSON data in a canonical spelling, cut to `digits` hexadecimal digits."""
    return hashlib.sha256(_CANONICAL_JSON.encode(data).encode()).hexdigest()[:digits]
