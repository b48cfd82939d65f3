"""Values that mean the same computation have one spelling, by which a trial is known and which its stages see."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from orca_core.adapters.own import canonical
from orca_core.bodies.keep import without_repetition
from orca_core.config.knobs import OPTIMIZER_SETTINGS, TrialConfig
from orca_core.config.paths import VALUES_OF, value_of
from orca_core.corpora import OWN, OWN_OBJECTIVE, own_corpus


def effective_init(config: TrialConfig) -> str:
    """How the embedder starts. Where the trial aligns, the reference copies what `pretrained` copies, with positions from the third row;
    where that is the first row in use, this is `pretrained` itself."""
    init: str = config.embedder.init
    if init == "pretrained-third-row" and config.align.epochs > 0:
        init = "reference"
    at_third_row = init == "pretrained-third-row" or (init == "reference" and config.align.epochs > 0)
    return "pretrained" if at_third_row and config.body_spec.rows_before_third == 0 else init


def effective_label_gradient(config: TrialConfig) -> str:
    """What passes through label distances: in exact mode the reference passes nothing."""
    mode: str = value_of(config, "align.label_gradient")
    return "none" if mode == "reference" and config.align.objective == "otdd-exact" else mode


def effective_score_chunk(config: TrialConfig) -> int | None:
    """Samples of a chunk of the score; None where they are those of a forward pass."""
    chunk = config.finetune.score_chunk
    return None if chunk == config.finetune.eval_batch_size else chunk


def effective_keep(config: TrialConfig) -> str:
    """What is kept, without parts that are in the layers that are kept."""
    return without_repetition(config.body.keep, config.body_spec.num_layers)


def effective_corpus(config: TrialConfig) -> str:
    """`own` where the body's own corpus is named."""
    name: str = config.pretrain.corpus
    return OWN if config.body_spec.pretrained_here and own_corpus(config.body_spec) == name else name


def effective_objective(config: TrialConfig) -> str:
    """`own` where the body's own objective is named."""
    name: str = config.pretrain.objective
    return OWN if OWN_OBJECTIVE.get(config.body_spec.modality) == name else name


def effective_adapter(config: TrialConfig) -> str:
    """The adapter; a ladder in the spelling that stands for all that read the same layers."""
    return canonical(config.adapter, config.body_spec.num_layers)


CANONICAL: Mapping[str, Callable[[TrialConfig], Any]] = {
    "adapter": effective_adapter,
    "body.weights": lambda config: config.start_weights,
    "body.keep": effective_keep,
    "pretrain.corpus": effective_corpus,
    "pretrain.objective": effective_objective,
    "finetune.score_chunk": effective_score_chunk,
    "embedder.init": effective_init,
    "align.label_gradient": effective_label_gradient,
    **{f"align.{name}": partial(TrialConfig.align_optimizer, name=name) for name in OPTIMIZER_SETTINGS},
}
"""Knobs of which two values can mean the same computation -> the value that stands for both. With `align.optimizer_from: finetune` the
settings of alignment's optimiser are those of fine-tuning, whatever is written for them."""


SPELLINGS: Mapping[str, Callable[[TrialConfig], Any]] = {**VALUES_OF, **CANONICAL}
"""Knob -> what takes its value from a config, in the spelling that stands for all of the same computation."""


def canonical_value(config: TrialConfig, knob: str) -> Any:
    """The value of a knob, in the spelling that stands for all of the same computation."""
    return SPELLINGS[knob](config)
