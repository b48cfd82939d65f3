"""What makes two trials the same.

A knob that nothing reads in a config (the proxy, when `align.epochs` is 0) is no part of the trial: it becomes null, and trials
that then agree are one. A trial's id is a hash of what is left; it is the same in every sweep, process and Python version.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from orca_core.config.knobs import TrialConfig
from orca_core.config.paths import KNOBS
from orca_core.config.resolve import REFERENCE_BEHAVIOUR
from orca_core.freezing.schedule import freezing_label, phases_as_data

_DEFAULTS = {path: field.get_default(call_default_factory=True) for path, field in KNOBS.items()}


DISTANCE_KNOBS = frozenset(
    {
        "proxy",
        "align.weight",
        "align.objective",
        "align.label_gradient",
        "align.entropic_reg",
        "align.solver",
        "align.l2_batches",
        "align.proxy_samples",
    }
)
"""What the distance that fine-tuning minimises beside the task's loss depends on, if it does."""


def unread_knobs(config: TrialConfig) -> frozenset[str]:
    """The knobs that no stage of this trial reads."""
    unread = {"recipe", "reference_behaviour"}  # they chose defaults, and the values they chose are knobs themselves
    body, align = config.body_spec, config.align
    if not config.task_spec.reference:
        unread.add("reference_data")
    if align.epochs == 0:
        unread |= {"proxy"} | {path for path in KNOBS if path.startswith("align.")} - {"align.epochs", "align.weight"}
    if config.aligns_jointly:
        unread -= DISTANCE_KNOBS
    if not align.objective.startswith("otdd-"):
        unread |= {"align.label_gradient", "align.entropic_reg", "align.solver"}
    if align.objective != "l2":
        unread.add("align.l2_batches")
    if align.lr_from == "finetune":
        unread.add("align.lr")
    if align.optimizer != "sgd":
        unread.add("align.momentum")
    if config.body.weights == "random":
        unread |= {"embedder.init", "finetune.reinit_top"}  # there is nothing pretrained to copy, or to lose
    if config.adapter != "none":
        unread.add("finetune.mixout")  # the body's own weights stay what they are
    if config.task_spec.kind != "classification":
        unread.add("finetune.label_smoothing")
    if config.body.weights == "random" or not body.pretrained_here:
        unread |= {path for path in KNOBS if path.startswith("pretrain.")}
    if not body.is_decoder:
        unread |= {"body.flip", "body.double"}  # they are for bodies that read one way only
    if body.modality == "images":
        unread.add("embedder.target_seq_len")  # image bodies fix their number of tokens
    if config.finetune.accum == 1:
        unread.add("finetune.accumulation")
    if config.finetune.warmup_epochs == 0 and config.finetune.decay_epochs is None:
        unread.add("finetune.schedule")  # the rate is constant
    unread.add("finetune.betas" if config.finetune.optimizer == "sgd" else "finetune.momentum")
    return frozenset(unread)


def canonical_knobs(config: TrialConfig) -> dict[str, Any]:
    """Every knob by dotted path; None for those that nothing reads. The freezing schedule in its shortest spelling.

    `reference_behaviour` is what the switches it stands for are, whoever set them; None if some are so and some so.
    """
    unread = unread_knobs(config)
    values: dict[str, Any] = {}
    for path in KNOBS:
        node: Any = config
        for name in path.split("."):
            node = getattr(node, name)
        values[path] = None if path in unread else node
    values["freezing"] = freezing_label(config.phases)
    if not config.aligns_jointly:
        values["align.weight"] = 0.0  # as good as none where the embedder never trains
    if values["align.label_gradient"] == "reference" and config.align.objective == "otdd-exact":
        values["align.label_gradient"] = "none"  # what the reference's exact mode does
    if values["embedder.init"] == "reference" and config.align.epochs > 0:
        values["embedder.init"] = "pretrained"  # what the reference does if it aligns
    values["reference_behaviour"] = _reference_behaviour(values, config)
    return values


def _reference_behaviour(values: Mapping[str, Any], config: TrialConfig) -> bool | None:
    """Whether the switches that are read are all as in the reference: True; all at their defaults: False; else None."""
    reference = dict(REFERENCE_BEHAVIOUR)
    if config.align.objective == "otdd-exact":
        reference["align.label_gradient"] = "none"
    if config.align.epochs > 0:
        reference["embedder.init"] = "pretrained"
    read = [path for path in reference if values[path] is not None]
    if all(values[path] == reference[path] for path in read):
        return True
    return False if all(values[path] == _DEFAULTS[path] for path in read) else None


@lru_cache(maxsize=8)  # id, stages and result key of a trial all ask for it
def read_knobs(config: TrialConfig) -> Mapping[str, Any]:
    """The knobs that are read and not at their introductory default: what ids and stage keys are made of."""
    knobs = {path: value for path, value in canonical_knobs(config).items() if value is not None and value != _DEFAULTS[path]}
    knobs.pop("reference_behaviour", None)  # it says what the others are
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
