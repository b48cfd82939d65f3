"""What makes two trials the same.

A knob that nothing reads in a config (the proxy, when `align.epochs` is 0) is not part of the trial: it becomes null, and trials
that then agree are one. A trial's id is a hash of what is left; it is the same in every sweep, process and Python version.
What is read, and when, is declared with the stages (`orca_core.declarations`).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from orca_core.canonical import CANONICAL, SPELLINGS, canonical_value
from orca_core.config.knobs import OPTIMIZER_SETTINGS, TrialConfig
from orca_core.config.methods import method_of
from orca_core.config.paths import KNOBS
from orca_core.config.resolve import REFERENCE_BEHAVIOUR
from orca_core.config.spellings import in_hash
from orca_core.declarations import is_read
from orca_core.facts import facts_of, knobs_read
from orca_core.freezing.schedule import freezing_label, phases_as_data

DEFAULTS = {path: field.get_default(call_default_factory=True) for path, field in KNOBS.items()}
"""The introductory default of every knob."""


def unread_knobs(config: TrialConfig) -> frozenset[str]:
    """The knobs that neither a stage of this trial nor its result reads."""
    return frozenset(KNOBS) - knobs_read(facts_of(config))


def canonical_knobs(config: TrialConfig) -> dict[str, Any]:
    """Every knob by dotted path; None for those that nothing reads. The freezing schedule in its shortest spelling.

    `reference_behaviour` is what the switches it stands for are, whoever set them; None if some are so and some are not.
    `method` is what the knobs amount to, whoever set them.
    """
    values: dict[str, Any] = dict.fromkeys(KNOBS)
    for path in knobs_read(facts_of(config)):
        values[path] = SPELLINGS[path](config)
    values["freezing"] = freezing_label(config.phases)
    if values["align.weight"] is None and not config.body_spec.is_bodiless:
        values["align.weight"] = 0.0  # as good as none where the embedder never trains
    values["reference_behaviour"] = _reference_behaviour(values, config)
    values["method"] = method_of(config)
    return values


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


@lru_cache(maxsize=8)  # id, stages and result key of a trial all ask for it
def read_knobs(config: TrialConfig) -> Mapping[str, Any]:
    """The knobs that are read and not at their introductory default: what ids are made of."""
    knobs = {path: in_hash(path, value) for path, value in canonical_knobs(config).items() if value is not None and value != DEFAULTS[path]}
    for name in ("reference_behaviour", "method"):
        knobs.pop(name, None)  # it says what the others are
    if "freezing" in knobs:
        knobs["freezing"] = phases_as_data(config.phases)
    return knobs


_CANONICAL_JSON = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)


def trial_id(config: TrialConfig) -> str:
    """Hash of the canonical config: 16 hexadecimal digits."""
    return hash_of(read_knobs(config))


def hash_of(data: Mapping[str, Any], digits: int = 16) -> str:
    """SHA-256 of JSON data in a canonical spelling, cut to `digits` hexadecimal digits."""
    return hashlib.sha256(_CANONICAL_JSON.encode(data).encode()).hexdigest()[:digits]
