"""What each stage of a trial reads: the one declaration that keys, ids, canonical configs, docs and the plan derive from.

A stage is built from `Settings`, a view of the config that holds what its declaration names and raises on anything else. So a stage can
read only what its key hashes.

How a key is laid out (and therefore the names of the groups below) is fixed: keys of stored results must not change. Leave a group's
name, the name of a read in the key, and `VERSION`s alone unless the computation changes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from orca_core import conditions as when
from orca_core.bodies.keep import ALL, kept_of_embedding
from orca_core.canonical import canonical_value, effective_corpus
from orca_core.conditions import ALWAYS, Condition
from orca_core.config.knobs import TrialConfig
from orca_core.config.paths import KNOBS
from orca_core.corpora import OWN, corpus_of
from orca_core.datafiles.embedder_weights import weights_digest
from orca_core.distances import find_distance, knob_owners
from orca_core.freezing.schedule import Phase, phases_as_data
from orca_core.proxies import find_proxy
from orca_core.reads import Declaration, Group, Kind, Read, content, knob


def phases_until(config: TrialConfig, number: int) -> tuple[Phase, ...]:
    """The phases of fine-tuning up to one of them, whose own length is left out: a longer phase passes through a shorter one."""
    return (*config.phases[:number], config.phases[number].model_copy(update={"epochs": None}))


def _embedding_keep(config: TrialConfig, phase: int) -> str:
    return kept_of_embedding(config.body.keep)


_KEPT_OF_EMBEDDING = Read("body.keep", "body.keep", _embedding_keep, _embedding_keep, when.KEEPS, ALL, "body.keep", always_in_key=False)


def _alignment_keep(config: TrialConfig, phase: int) -> str:
    """The task's own loss passes through the body; a distance sees its embedding alone."""
    keep: str = canonical_value(config, "body.keep")
    return keep if when.NEEDS_TASK_LOSS.holds(config) else kept_of_embedding(keep)


_KEPT_IN_ALIGNMENT = Read("body.keep", "body.keep", _alignment_keep, _alignment_keep, when.KEEPS, ALL, "body.keep", always_in_key=False)

_BODY = (
    content("body.name", "body", lambda config: config.body_spec.digest()),
    knob("body.weights", when.HAS_BODY, otherwise="random", key_name="weights", always_in_key=True),
    _KEPT_OF_EMBEDDING,
    knob("seed", when.EMBEDDING_DRAWN, key_name="seed", always_in_key=True),
)
"""The body as stages read it that use nothing but its own embedding."""


def _weights_file(config: TrialConfig, phase: int) -> str | None:
    return config.embedder.weights


def _weights_content(config: TrialConfig, phase: int) -> str | None:
    return None if config.embedder.weights is None else weights_digest(config.embedder.weights)


def _embedder_from(keep: Read) -> tuple[Read, ...]:
    """What the embedder's start depends on.

    Args:
        keep: What the stage sees of `body.keep`.
    """
    return (
        *_BODY[:2],
        keep,
        knob("seed", always_in_key=True),
        content("task", "task", lambda config: config.task_spec.digest()),
        knob("split_seed", always_in_key=True),
        knob("valid_share"),
        knob("validation.folds"),
        knob("validation.fold"),
        knob("train_samples"),
        knob("reversed"),
        knob("reference_data", when.HAS_REFERENCE_FORM),
        knob("embedder.init", when.MATCHES | (when.PRETRAINED & when.KEEPS_OF_EMBEDDING & when.NO_EMBEDDER_FILE), otherwise="random"),
        Read("embedder.weights", "embedder.weights", _weights_file, _weights_content, key_name="embedder.weights", always_in_key=False),
        knob("embedder.target_seq_len", when.READS_TOKENS, otherwise=10**9),  # then the body alone limits them
        knob("body.double", when.IS_DECODER),  # a doubled sequence has half as many tokens
    )


_WHOLE_BODY = _embedder_from(knob("body.keep", when.KEEPS))
"""What the embedder's start and the body depend on."""


def _version(name: str, path: str, version: Callable[[TrialConfig], int], when_used: Condition = ALWAYS) -> Read:
    """The version of something that a stage uses because of a knob; in keys from version 2 on, so that those of version 1 stay.

    Args:
        name: Of the version, also in keys.
        path: The knob.
        version: The version in a config.
        when_used: Condition under which it is used.
    """

    def value(config: TrialConfig, phase: int) -> int:
        return version(config)

    return Read(name, path, value, value, when_used & Condition("", lambda config: version(config) > 1), key_name=name)


_OBJECTIVE = knob("align.objective")
_OBJECTIVE_VERSION = _version("align.objective.version", "align.objective", lambda config: find_distance(config.align.objective).version)


TRANSPORT_VERSION = 4
"""Of the transport solver: its last digits are in the proxy's distances in an alignment's first row, and in a choice of samples."""


def _transport(when_used: Condition) -> Read:
    """The version of the transport solver, where something else than the objective uses it."""
    return _version("transport.version", "proxy", lambda config: TRANSPORT_VERSION, when_used)


def _of_objectives(*compares: str) -> tuple[Read, ...]:
    """The knobs that some kinds of objectives have of their own."""
    owned = {name: [owner for owner in owners if find_distance(owner).compares in compares] for name, owners in knob_owners().items()}
    return tuple(knob(f"align.{name}", when.objective_is(*owners)) for name, owners in owned.items() if owners)


_DISTANCE = (_OBJECTIVE, *_of_objectives("proxy", "classes", "nothing", "body"), _OBJECTIVE_VERSION)
_JOINT_DISTANCE = (_OBJECTIVE, *_of_objectives("proxy", "classes", "nothing"), _OBJECTIVE_VERSION)
"""What fine-tuning can minimise, too: not the bi-level objective."""

_STEPS = tuple(
    knob(f"align.{name}", condition)
    for name, condition in {
        "class_samples": ALWAYS,
        "class_sampling": ALWAYS,
        "proxy_samples": when.READS_PROXY,
        "lr_from": ALWAYS,
        "optimizer": ALWAYS,
        "weight_decay": ALWAYS,
        "momentum": when.ALIGNS_BY_SGD,
        "betas": when.ALIGNS_BY_ADAM,
        "lr_steps": ALWAYS,
        "lr_schedule": ALWAYS,
        "lr": when.OWN_RATE,
    }.items()
)


def _align_lr(config: TrialConfig, phase: int) -> float:
    return config.align_lr


_TASK_MODEL = (
    knob("body.flip", when.NEEDS_TASK_LOSS & when.IS_DECODER),
    knob("finetune.reinit_top", when.NEEDS_TASK_LOSS & when.PRETRAINED),
    knob("predictor.pool", when.NEEDS_TASK_LOSS & when.POOLS_TOKENS),
    knob("predictor.head", when.NEEDS_TASK_LOSS & when.POOLS_TOKENS),
)
"""What the model between embedder and task's loss depends on, beside the body: it is the one that fine-tuning starts with."""


_RATE_OF_FINETUNING = Read("align.lr", "finetune.lr", _align_lr, _align_lr, when.RATE_OF_FINETUNING, key_name="align.lr")


def _phases_in_key(config: TrialConfig, phase: int) -> list[Mapping[str, Any]]:
    """`phases_until` as data."""
    *before, last = phases_as_data(config.phases[: phase + 1])
    return [*before, {name: value for name, value in last.items() if name != "epochs"}]


_PHASES = Read("freezing", "freezing", phases_until, _phases_in_key, key_name="phases")


def _corpus(config: TrialConfig, phase: int) -> str:
    return effective_corpus(config)


def _corpus_content(config: TrialConfig, phase: int) -> str:
    """Its own corpus is part of what a mini body is known by."""
    name = effective_corpus(config)
    return name if name == OWN else corpus_of(config.body_spec, name).digest()


PRETRAIN = Declaration(
    kind="pretrain",
    version=2,
    exists=when.PRETRAINED_HERE,
    groups={
        "reads": Group(
            (
                knob("pretrain.fraction"),
                knob("pretrain.seed"),
                Read("pretrain.corpus", "pretrain.corpus", _corpus, _corpus_content, key_name="pretrain.corpus", always_in_key=False),
                knob("pretrain.objective"),
                knob("pretrain.label_noise", when.BY_LABELS),
            )
        ),
        "": Group(_BODY[:1]),
    },
    length="pretrain.epochs",
    build="orca_core.pretraining.loop:Pretraining",
)

SOURCE = Declaration(
    kind="source",
    version=1,
    exists=when.READS_PROXY,
    groups={
        "reads": Group((knob("align.proxy_samples"),)),
        "start": Group(_BODY, inputs=("pretrain",)),
        "": Group((content("proxy", "proxy", lambda config: find_proxy(config.proxy).digest()), knob("seed", always_in_key=True))),
        "target": Group((*_embedder_from(_KEPT_OF_EMBEDDING), _transport(when.CHOOSES_SAMPLES)), when=when.CHOOSES_SAMPLES),
    },
    length="",
    build="orca_core.alignment.source:source_features",
)

ALIGN = Declaration(
    kind="align",
    version=3,
    exists=when.ALIGNS,
    groups={
        "reads": Group(
            (
                *_DISTANCE,
                *_STEPS,
                _RATE_OF_FINETUNING,
                _transport(when.READS_PROXY),
                knob("finetune.batch_size", when.SAMPLES_BATCHES, always_in_key=True),
                knob("align.agreement", when.ALIGNS_BY_DISTANCE),
                knob("align.task_weight", when.ALIGNS_BY_DISTANCE),
                knob("align.label_entropy", when.HAS_CLASSES_OF_PROXY),
                knob("align.label_entropy_form", when.HAS_CLASSES_OF_PROXY & when.HAS_LABEL_ENTROPY),
                *_TASK_MODEL,
            )
        ),
        "start": Group(_embedder_from(_KEPT_IN_ALIGNMENT), inputs=("pretrain",)),
        "": Group(inputs=("source",)),
    },
    length="align.epochs",
    build="orca_core.alignment.loop:Alignment",
)

_MATCHED = Group(inputs=("source",), when=when.MATCHES)
"""Where the embedder starts with the moments of the proxy's features."""

ADAPT = Declaration(
    kind="adapt",
    version=1,
    exists=when.ADAPTS,
    groups={
        "reads": Group(
            (
                *(knob(f"adapt.{name}") for name in ("train", "lr", "batch_size", "mask")),
                knob("body.flip", when.IS_DECODER),
                knob("finetune.reinit_top", when.PRETRAINED),
            )
        ),
        "start": Group(_WHOLE_BODY, inputs=("pretrain", "align")),
        "matched": _MATCHED,
    },
    length="adapt.epochs",
    build="orca_core.adaptation.loop:Adaptation",
)

PREFIX_VERSION = 2
"""Of what the lowest layers give where it is kept: since version 2 bodies read few samples at a time, and T5's layers are kept, too."""

_KEEPS_PREFIX = when.KEEPS_PREFIX & when.HAS_BODY & when.NO_ADAPTER
_PREFIX_VERSION = _version(
    "prefix.version", "finetune.prefix", lambda config: PREFIX_VERSION if config.finetune.prefix == "once" else 1, _KEEPS_PREFIX
)

FUSED_VERSION = 3
"""Of what a group of models computes: since version 2 members are folded into the batch; since version 3 mini bodies and linear heads have
passes and steps of their own, and members are evaluated together."""

_FUSED_VERSION = _version("fused.version", "finetune.fused", lambda config: FUSED_VERSION if config.finetune.fused else 1)

_TUNING = {
    "lr": ALWAYS,
    "optimizer": ALWAYS,
    "weight_decay": ALWAYS,
    "momentum": when.TUNES_BY_SGD,
    "betas": when.TUNES_BY_ADAM,
    "batch_size": ALWAYS,
    "data_order": ALWAYS,
    "eval_batch_size": ALWAYS,
    "scoring": ALWAYS,
    "score_chunk": when.SCORES_CHUNKS,
    "test": ALWAYS,
    "accum": ALWAYS,
    "accumulation": when.ACCUMULATES,
    "clip": ALWAYS,
    "schedule": when.RATE_CHANGES,
    "warmup_epochs": ALWAYS,
    "decay_epochs": ALWAYS,
    "dropout": when.HAS_LAYERS,
    "checkpointing": when.HAS_LAYERS,
    "prefix": _KEEPS_PREFIX,
    "compile": ALWAYS,
    "label_smoothing": when.IS_CLASSIFICATION,
    "layer_decay": ALWAYS,
    "reinit_top": when.PRETRAINED,
    "mixout": when.HAS_BODY & when.NO_ADAPTER,
    "l2_sp": when.HAS_BODY & when.NO_ADAPTER & when.TRAINS_FEATURES,
    "distill": when.HAS_BODY & when.TRAINS_FEATURES,
    "smooth.kind": ALWAYS,
    "smooth.weight": when.SMOOTHS,
    "smooth.noise": when.SMOOTHS,
    "smooth.radius": when.SMOOTHS_BY_ASCENT,
    "mixup.alpha": ALWAYS,
    "mixup.place": when.MIXES,
    "fused": ALWAYS,
}

FINETUNE = Declaration(
    kind="finetune",
    version=3,
    exists=ALWAYS,
    groups={
        "reads": Group(
            (
                *(knob(f"finetune.{name}", condition) for name, condition in _TUNING.items()),
                _PREFIX_VERSION,
                _FUSED_VERSION,
                knob("finetune.epochs", when.TESTS_SOME_EPOCHS, always_in_key=True),  # whose last one is tested
                knob("precision"),
                knob("body.flip", when.IS_DECODER),
                knob("adapter", when.HAS_BODY),
                knob("predictor.pool", when.POOLS_TOKENS),
                knob("predictor.head", when.POOLS_TOKENS),
            )
        ),
        "start": Group(_WHOLE_BODY, inputs=("pretrain", "align", "adapt")),
        "matched": _MATCHED,
        "": Group((_PHASES,)),
        "joint": Group(
            (knob("align.weight"), knob("align.gradient"), knob("align.agreement"), *_JOINT_DISTANCE),
            inputs=("source",),
            when=when.ALIGNS_JOINTLY,
        ),
        "mix": Group(
            (
                *(knob(f"mix.{name}") for name in ("share", "end_share", "epochs", "weight", "gate")),
                knob("mix.gate_epochs", when.GATE_LEARNS),
            ),
            inputs=("source",),
            when=when.REPLACES_TOKENS,
        ),
    },
    length="finetune.epochs",
    build="orca_core.finetuning.loop:Finetuning",
)

STAGES: Mapping[Kind, Declaration] = {declared.kind: declared for declared in (PRETRAIN, SOURCE, ALIGN, ADAPT, FINETUNE)}
"""Every kind of stage, in the order they run. A trial has one of each kind that exists for it; of fine-tuning, one for each phase."""

RESULT: tuple[Read, ...] = (
    knob("align.epochs", when.HAS_BODY),
    knob("adapt.epochs", when.HAS_BODY),
    knob("selection"),
    knob("selection_ties"),
)
"""What a trial's result depends on beside the settings of its stages: whether it aligns at all, and which epoch counts."""


@dataclass(frozen=True)
class _Use:
    """Where a knob is read: by which stage, and when."""

    exists: Condition
    when: Condition


def _uses_of(path: str) -> tuple[_Use, ...]:
    uses = [
        _Use(declared.exists & group.when, read.when)
        for declared in STAGES.values()
        for group, read in declared.reads()
        if read.knob == path
    ]
    uses += [_Use(declared.exists, ALWAYS) for declared in STAGES.values() if declared.length == path]
    return (*uses, *(_Use(ALWAYS, read.when) for read in RESULT if read.knob == path))


USES: Mapping[str, tuple[_Use, ...]] = {path: _uses_of(path) for path in KNOBS}
"""Where each knob is read; empty for those that only choose defaults."""


def is_read(path: str, config: TrialConfig) -> bool:
    """Whether some stage of a trial, or its result, reads a knob."""
    return any(use.exists.holds(config) and use.when.holds(config) for use in USES[path])


def reading_sentence(path: str) -> str:
    """When a knob is read, as a sentence for the docs; empty if always, or if it only chooses defaults."""
    uses = USES[path]
    if not uses or any(not use.exists.text and not use.when.text for use in uses):
        return ""
    stages: dict[str, list[str]] = {}
    for use in uses:
        if any(_parts_of(other) < _parts_of(use) for other in uses):
            continue  # another stage reads it under fewer conditions
        stages.setdefault(use.when.text, []).append(use.exists.text)
    conditions = list(dict.fromkeys(_spell_use(condition, exists) for condition, exists in stages.items()))
    text = f"Read only if {', or '.join(conditions)}."
    return text.replace(f"`{path}` > 0 and ", "").replace(f"`{path}` > 0, or ", "")  # that 0 changes nothing goes without saying


def _parts_of(use: _Use) -> set[str]:
    """The conditions that must all hold for a use, as texts."""
    return {part for text in (use.exists.text, use.when.text) if text for part in text.split(" and ")}


def _spell_use(condition: str, stages: list[str]) -> str:
    """`stage, or stage; and only if condition`, without what always holds."""
    texts = [] if "" in stages else list(dict.fromkeys(text for stage in stages for text in stage.split(", or ")))
    return "; and only if ".join(text for text in (", or ".join(texts), condition) if text)


def describe_knob(path: str) -> str:
    """The meaning of a knob, and when it is read."""
    return " ".join(text for text in (KNOBS[path].description or "", reading_sentence(path)) if text)
