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

from orca_core.canonical import CANONICAL, canonical_value
from orca_core.config.knobs import OPTIMIZER_SETTINGS, TrialConfig
from orca_core.config.methods import method_of
from orca_core.config.paths import KNOBS
from orca_core.config.resolve import REFERENCE_BEHAVIOUR
from orca_core.config.spellings import in_hash
from orca_core.declarations import is_read
from orca_core.freezing.schedule import freezing_label, phases_as_data

DEFAULTS = {path: field.get_default(call_default_factory=True) for path, field in KNOBS.items()}
"""The introductory default of every knob."""


def unread_knobs(config: TrialConfig) -> frozenset[str]:
    """The knobs that neither a stage of this trial nor its result reads."""
    return frozenset(path for path in KNOBS if not is_read(path, config))


def canonical_knobs(config: TrialConfig) -> dict[str, Any]:
    """Every knob by dotted path; None for those that nothing reads. The freezing schedule in its shortest spelling.

    `reference_behaviour` is what the switches it stands for are, whoever set them; None if some are so and some are not.
    `method` is what the knobs amount to, whoever set them.
    """
    values = {path: canonical_value(config, path) if is_read(path, config) else None for path in KNOBS}
    values["freezing"] = freezing_label(config.phases)
    if values["align.weight"] is None and not config.body_spec.is_bodiless:
        values["align.weight"] = 0.0  # as good as none where the embedder never trains
    values["reference_behaviour"] = _reference_behaviour(values, config)
    values["method"] = method_of(config)
    return values


def _reference_behaviour(values: Mapping[str, Any], config: TrialConfig) -> bool | None:
    """Whether the switches that are read are all as in the reference: True; all at their defaults: False; else None."""
    as_reference = config.model_copy(update={"embedder": config.embedder.model_copy(update={"init": "reference"})})
    as_reference = as_reference.model_copy(update={"align": config.align.model_copy(update={"label_gradient": "reference"})})
    reference = {path: CANONICAL[path](as_reference) if path in CANONICAL else value for path, value in REFERENCE_BEHAVIOUR.items()}
    values = {**values, "align.optimizer_from": _optimizer_from(config)}
    read = [path for path in reference if values[path] is not None]
    if all(values[path] == reference[path] for path in read):
        return True
    return False if all(values[path] == DEFAULTS[path] for path in read) else None


def _optimizer_from(config: TrialConfig) -> str | None:
    """Where alignment's optimiser comes from; None if there is no alignment, or the two optimisers are one."""

    def settings(source: str) -> dict[str, Any]:
        taken = config.model_copy(update={"align": config.align.model_copy(update={"optimizer_from": source})})
        paths = [f"align.{name}" for name in OPTIMIZER_SETTINGS]
        return {path: canonical_value(taken, path) for path in paths if is_read(path, taken)}

    return None if settings("own") == settings("finetune") else config.align.optimizer_from


@lru_cache(maxsize=8)  # id, stages and result key of a trial all ask for it
def read_knobs(config: TrialConfig) -> Mapping[str, Any]:
    """The knobs that are read and not at their introductory default: what ids are made of."""
    knobs = {path: in_hash(path, value) for path, value in canonical_knobs(config).items() if value is not None and value != DEFAULTS[path]}
    for name in ("reference_behaviour", "method"):
        knobs.pop(name, None)  # it says what the others are
    if "freezing" in knobs:
        knobs["freezing"] = phases_as_data(config.phases)
    return knobs


def trial_id(config: TrialConfig) -> str:
    """Hash of the canonical config: 16 hexadecimal digits."""
    return hash_of(read_knobs(config))


def hash_of(data: Mapping[str, Any], digits: int = 16) -> str:
    """SHA-256 of JSON data in a canonical spelling, cut to `digits` hexadecimal digits."""
    text = json.dumps(data, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:digits]
