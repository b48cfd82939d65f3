"""What each stage of a trial reads: the one declaration that keys, ids, canonical configs, docs and the plan derive from.

A stage is built from `Settings`, a view of the config that holds what its declaration names and raises on anything else. So a stage can
read only what its key hashes.

How a key is laid out (and therefore the names of the groups below) is fixed: keys of stored results must not change. Leave a group's
name, the name of a read in the key, and `VERSION`s alone unless the computation changes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

from orca_core import conditions as when
from orca_core.adapters.own import canonical
from orca_core.bodies.keep import ALL, kept_of_embedding, without_repetition
from orca_core.conditions import ALWAYS, Condition
from orca_core.config.knobs import OPTIMIZER_SETTINGS, TrialConfig
from orca_core.config.paths import KNOBS, value_of
from orca_core.corpora import OWN, OWN_OBJECTIVE, corpus_of, own_corpus
from orca_core.datafiles.embedder_weights import weights_digest
from orca_core.distances import find_distance, knob_owners
from orca_core.freezing.schedule import Phase, phases_as_data
from orca_core.proxies import find_proxy

Kind = Literal["pretrain", "source", "align", "adapt", "finetune"]


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


def canonical_value(config: TrialConfig, knob: str) -> Any:
    """The value of a knob, in the spelling that stands for all of the same computation."""
    return CANONICAL[knob](config) if knob in CANONICAL else value_of(config, knob)


Value = Callable[[TrialConfig, int], Any]
"""A value out of a trial's config, for one phase of fine-tuning (0 in the other stages)."""


@dataclass(frozen=True)
class Read:
    """One thing that a stage reads.

    Args:
        name: What the stage asks for it by.
        knob: The knob it comes from, which is part of the trial because of this.
        value: What the stage sees where it is read.
        in_key: What enters the key: the value, or what it is known by, as data is by its digest.
        when: Condition under which it is read.
        otherwise: What the stage sees where it is not read: a constant.
        key_name: Its name in the key.
        always_in_key: Whether it enters the key even at the knob's introductory default.
    """

    name: str
    knob: str
    value: Value
    in_key: Value
    when: Condition = ALWAYS
    otherwise: Any = None
    key_name: str = ""
    always_in_key: bool = True


def knob(path: str, when: Condition = ALWAYS, *, otherwise: Any = None, key_name: str = "", always_in_key: bool = False) -> Read:
    """A knob, read as it is written. Where it is not read, the stage sees `otherwise`, by default the introductory default."""

    def value(config: TrialConfig, phase: int) -> Any:
        return canonical_value(config, path)

    neutral = KNOBS[path].get_default(call_default_factory=True) if otherwise is None else otherwise
    return Read(path, path, value, value, when, neutral, key_name or path, always_in_key)


def content(path: str, key_name: str, digest: Callable[[TrialConfig], str]) -> Read:
    """A knob that names data: the content of the data enters the key instead of the name."""
    return Read(path, path, lambda config, _: value_of(config, path), lambda config, _: digest(config), key_name=key_name)


def phases_until(config: TrialConfig, number: int) -> tuple[Phase, ...]:
    """The phases of fine-tuning up to one of them, whose own length is left out: a longer phase passes through a shorter one."""
    return (*config.phases[:number], config.phases[number].model_copy(update={"epochs": None}))


@dataclass(frozen=True)
class Group:
    """Some reads and inputs that stand together in a key.

    Args:
        reads: What is read.
        inputs: Kinds of stages whose results are used, where the trial has them.
        when: Condition under which the group exists.
    """

    reads: tuple[Read, ...] = ()
    inputs: tuple[Kind, ...] = ()
    when: Condition = ALWAYS


@dataclass(frozen=True)
class Declaration:
    """One kind of stage.

    Args:
        kind: Its name.
        version: Raised when its computation changes, so that old artifacts are not taken for new ones.
        exists: Condition under which a trial has it.
        groups: What it reads, by the group's name in the key; those of "" stand at the top of the key.
        length: The knob that says after how many epochs a trial leaves it; not part of the key, as epoch 60 passes through epoch 20.
            Empty for a stage without epochs.
        build: `module:name` of what computes it.
        device: `cpu` for a stage that gains nothing from a GPU: it is computed on the CPU and its key says `cpu`, in sweeps on GPUs, too.
            None = it is computed on the device of the trial, which its key says.
    """

    kind: Kind
    version: int
    exists: Condition
    groups: Mapping[str, Group]
    length: str
    build: str
    device: Literal["cpu"] | None = None

    def device_in(self, device: str) -> str:
        """The device type on which it is computed in a trial on `device`."""
        return self.device or device

    def reads(self) -> Iterator[tuple[Group, Read]]:
        """Everything it reads, with the group it belongs to."""
        for group in (*self.groups.values(), COMMON):
            for read in group.reads:
                yield group, read


COMMON = Group((knob("threads", always_in_key=True), knob("bits")))
"""What every stage depends on."""


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
        knob(
            "embedder.init", when.MATCHES | (when.PRETRAINED & when.KEEPS_OF_EMBEDDING & when.NO_EMBEDDER_FILE), otherwise="random"
        ),
        Read("embedder.weights", "embedder.weights", _weights_file, _weights_content, key_name="embedder.weights", always_in_key=False),
        knob("embedder.target_seq_len", when.READS_TOKENS, otherwise=10**9),  # then the body alone limits them
        knob("body.double", when.IS_DECODER),  # a doubled sequence has half as many tokens
    )


_WHOLE_BODY = _embedder_from(knob("body.keep", when.KEEPS))
"""What the embedder's start and the body depend on."""


def _distance_version(config: TrialConfig, phase: int) -> int:
    return find_distance(config.align.objective).version


_OBJECTIVE = knob("align.objective")
_OBJECTIVE_VERSION = Read(
    "align.objective.version",
    "align.objective",
    _distance_version,
    _distance_version,
    Condition("", lambda config: _distance_version(config, 0) > 1),
    key_name="align.objective.version",
)


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


_PHASES = Read("freezing", "freezing", phases_until, lambda config, phase: phases_as_data(phases_until(config, phase)), key_name="phases")


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
        "target": Group(_embedder_from(_KEPT_OF_EMBEDDING), when=when.CHOOSES_SAMPLES),
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
    "accum": ALWAYS,
    "accumulation": when.ACCUMULATES,
    "clip": ALWAYS,
    "schedule": when.RATE_CHANGES,
    "warmup_epochs": ALWAYS,
    "decay_epochs": ALWAYS,
    "dropout": when.HAS_LAYERS,
    "checkpointing": when.HAS_LAYERS,
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
}

FINETUNE = Declaration(
    kind="finetune",
    version=3,
    exists=ALWAYS,
    groups={
        "reads": Group(
            (
                *(knob(f"finetune.{name}", condition) for name, condition in _TUNING.items()),
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
