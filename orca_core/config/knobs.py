"""Every knob of a trial: meaning, unit, range, default, source.

A knob is a dotted path (`align.epochs`), spelled the same in YAML, on the command line, in errors and, dots as underscores, as a
result column. A `TrialConfig` has every knob filled in. `resolve_config` makes one from what a user wrote: the task's recipe
gives the defaults, the user's values come on top, and every broken rule is found before anything runs.

Model defaults are *introductory*: ids and stage keys leave out a knob at its default, so a knob that is added later leaves the
ids of old trials alone. A default, once released, is therefore never changed; change a recipe instead.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, WithJsonSchema, field_validator, model_validator

from orca_core.adapters.inserted import NONE, schedule_faults, spell_adapter
from orca_core.bodies import BodySpec, find_body
from orca_core.bodies.widths import PUBLISHED_WIDTH, body_width
from orca_core.errors import ConfigError, DataError, Fault, nearest
from orca_core.freezing.schedule import Phase, parse_freezing
from orca_core.proxies import DEFAULT_PROXY, ProxySpec, find_proxy
from orca_core.tasks import TaskSpec, find_task

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Share = Annotated[float, Field(gt=0, le=1)]
Below1 = Annotated[float, Field(ge=0, lt=1)]
Count = Annotated[int, Field(ge=1, le=10**9)]
Epochs = Annotated[int, Field(ge=0, le=10**6)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]
Optimizer = Literal["sgd", "adam", "adamw"]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class BodyConfig(_Part):
    """The transformer that is adapted."""

    name: str = Field(
        description="Body: `mini-roberta`, `mini-swin`, `hf:NAME_OR_FOLDER` for a Hugging Face model, `timm:NAME_OR_FOLDER` for timm's."
    )
    weights: Literal["pretrained", "random"] = Field(
        "pretrained", description="Start from the pretrained weights, or from random ones at the same configuration."
    )
    flip: bool = Field(
        False,
        description="Read the sequence and the reversed sequence, and take the mean of the two results (arXiv 2510.05278). Decoders only.",
    )
    double: bool = Field(
        False,
        description="Read the sequence twice in a row, and keep the second half of the result (arXiv 2510.05278). Half as many tokens fit. "
        "Decoders only.",
    )


class PretrainConfig(_Part):
    """Pretraining of the mini bodies, a stage of its own; read only with a mini body and pretrained weights."""

    fraction: Share = Field(1.0, description="Share of the pretraining data that is used, in (0, 1].")
    epochs: Count = Field(8, description="Passes over the data that is used.")
    seed: Seed = Field(0, description="Seed of pretraining, apart from the trial's, so that all seeds of an arm adapt the same body.")


class EmbedderConfig(_Part):
    """The new input layer."""

    init: Literal["pretrained", "random", "reference"] = Field(
        "pretrained",
        description="Copy what fits from the body's own embedding (2D: patch projection and LayerNorm; 1D: LayerNorm and positions), "
        "or draw it all. `reference` ties this to `align.epochs`, as the reference's code does: `pretrained` where that is above 0; else "
        "positions alone are copied. Read only with pretrained weights.",
    )
    target_seq_len: Count = Field(
        512,
        description="Most tokens of a sequence: a 1D input is cut by the smallest divisor s of its length L with L / s below or at this.",
    )


class AlignConfig(_Part):
    """Stage 2: train the embedder until its features resemble the proxy's.

    All knobs but `epochs` and `weight` are read only if epochs > 0; those that say what the distance is also if weight > 0.
    """

    epochs: Epochs = Field(0, description="Optimiser steps of alignment; one epoch is one step over all classes. 0 = naive fine-tuning.")
    weight: NonNegative = Field(
        0.0,
        description="Fine-tuning minimises `weight` times the distance of a batch's features to the proxy, beside the task's loss; with "
        "`epochs` 0 this is the joint form, in one stage. Read only if the embedder trains in some phase.",
    )
    objective: Literal["otdd-exact", "otdd-gaussian", "mmd", "l2"] = Field("otdd-exact", description="Distance that is minimised.")
    label_gradient: Literal["true", "none", "reference"] = Field(
        "true",
        description="Whether the label term of OTDD steers the embedder; `reference`: none for exact, twice for Gaussian. OTDD only.",
    )
    entropic_reg: Positive = Field(0.1, description="Entropic regularisation of OTDD, in squared feature units. OTDD only.")
    solver: Literal["converged", "annealed"] = Field(
        "converged",
        description="How OTDD's transport problems are solved: to convergence in float64, or by the reference's one annealing in float32. "
        "OTDD only.",
    )
    l2_batches: Literal["full", "all"] = Field(
        "full",
        description="Batches that l2 is a mean over: the full ones, or, as in the reference, the incomplete last one too, as 0. l2 only.",
    )
    class_samples: Count = Field(128, description="Samples of a class that enter the distance in one epoch, at most.")
    class_sampling: Literal["exact", "batches"] = Field(
        "exact",
        description="`exact`: `class_samples` of a class. `batches`, as the reference draws: whole batches of `finetune.batch_size` until "
        "there are more than `class_samples`, classes in random order, those of one sample passed over.",
    )
    proxy_samples: Count = Field(5000, description="Samples of the proxy that are used, at most; drawn by the seed.")
    lr: Positive = Field(1e-3, description="Learning rate of alignment; the published recipes have 10 x `finetune.lr`.")
    lr_from: Literal["own", "finetune"] = Field(
        "own",
        description="`own`: `align.lr`. `finetune`, as the reference does: 10 x `finetune.lr`, or `finetune.lr` itself where that is above "
        "0.001; `align.lr` is not read.",
    )
    optimizer: Optimizer = Field("adamw", description="Optimiser of alignment.")
    weight_decay: NonNegative = Field(0.0, description="Weight decay of alignment.")
    momentum: Below1 = Field(0.9, description="Momentum of alignment; sgd only.")
    lr_steps: tuple[Count, ...] = Field((20, 40, 60), description="After these epochs the learning rate of alignment is multiplied by 0.2.")
    lr_schedule: Literal["steps", "reference"] = Field(
        "steps", description="`steps`: the rate falls in the epoch after each of `lr_steps`; `reference`: one epoch later, as in its code."
    )

    @field_validator("label_gradient", mode="before")
    @classmethod
    def _yaml_true(cls, value: Any) -> Any:
        return "true" if value is True else value

    @field_validator("lr_steps", mode="before")
    @classmethod
    def _list_as_tuple(cls, value: Any) -> Any:
        return tuple(value) if isinstance(value, list) else value


class FinetuneConfig(_Part):
    """Stage 3: train on the task."""

    epochs: Count = Field(10, description="Passes over the training set.")
    lr: Positive = Field(1e-4, description="Peak learning rate.")
    optimizer: Optimizer = Field("adamw", description="Optimiser.")
    weight_decay: NonNegative = Field(0.0, description="Weight decay.")
    momentum: Below1 = Field(0.9, description="Momentum; sgd only.")
    betas: tuple[Below1, Below1] = Field((0.9, 0.98), description="Moment decay rates; adam and adamw only.")
    batch_size: Count = Field(32, description="Samples of one forward pass in training.")
    eval_batch_size: Count = Field(
        256,
        description="Samples of one forward pass in evaluation; scores are over the whole set all the same, unless `scoring` is `chunks`.",
    )
    scoring: Literal["whole", "chunks"] = Field(
        "whole",
        description="Loss and score in evaluation: over the whole set, or, as the reference does, the mean over chunks of it, "
        "`eval_batch_size` samples rounded up to whole batches, the short last one counted in full.",
    )
    accum: Count = Field(1, description="Batches of one optimiser step.")
    accumulation: Literal["mean", "sum"] = Field(
        "mean",
        description="What a step takes of `accum` batches: the mean over their samples, or, as the reference does, the sum of their means, "
        "clipped after every batch, and an incomplete group at the end of an epoch dropped. Read only if `accum` > 1.",
    )
    clip: Positive | None = Field(None, description="Largest norm of the gradient of one step; null = no clipping.")
    schedule: Literal["linear", "cosine", "reference"] = Field(
        "linear",
        description="Decay of the learning rate after warm-up: `linear`; `cosine`; or `reference`, linear too, but one batch behind, so "
        "that warm-up begins with rate 0, and negative after `decay_epochs`.",
    )
    warmup_epochs: NonNegative = Field(0.0, description="Epochs of linear warm-up from 0.")
    decay_epochs: Positive | None = Field(
        None, description="Epoch at which the decay after warm-up reaches 0 (it stays there); null = no decay."
    )
    dropout: Below1 = Field(0.0, description="Dropout inside the body.")
    checkpointing: bool = Field(
        False, description="Compute the activations of the body's blocks again in the backward pass instead of keeping them: less memory."
    )
    compile: bool = Field(False, description="Let torch.compile make the forward pass; it takes a minute at the start of a trial.")
    label_smoothing: Below1 = Field(0.0, description="Share of the uniform distribution in the targets of training; classes only.")
    layer_decay: Share = Field(
        1.0,
        description="Factor on the learning rate for each layer down, in (0, 1]: the top block has it once, the embedder once "
        "more than the bottom block.",
    )
    reinit_top: Annotated[int, Field(ge=0, le=1000)] = Field(
        0, description="Top layers of the body that start from random weights, drawn by the seed. Read only with pretrained weights."
    )
    mixout: Below1 = Field(
        0.0,
        description="Probability that, in training, a weight of the body's linear layers is the one it started from (mixout). "
        "Not read with an adapter.",
    )

    @field_validator("betas", mode="before")
    @classmethod
    def _list_as_tuple(cls, value: Any) -> Any:
        return tuple(value) if isinstance(value, list) else value

    @model_validator(mode="after")
    def _decay_after_warmup(self) -> FinetuneConfig:
        if self.decay_epochs is not None and self.decay_epochs <= self.warmup_epochs:
            raise ValueError(f"must be greater than warmup_epochs ({self.warmup_epochs:g})|decay_epochs|{self.decay_epochs:g}")
        if self.schedule == "cosine" and self.decay_epochs is None:
            raise ValueError("must be a number if the schedule is cosine|decay_epochs|null")
        if self.mixout and (self.checkpointing or self.compile):
            rule = "must be 0 with checkpointing or compile: its weights are there in the forward pass only"
            raise ValueError(f"{rule}|mixout|{self.mixout:g}")
        return self


class TrialConfig(_Part):
    """One trial, whole: every knob has its value."""

    task: str = Field(description="Target task: a name of `sweeper tasks`, or `npz:PATH`, `csv:PATH`, `images:PATH`, `ucr/NAME`.")
    recipe: Literal["laptop", "published"] = Field(
        "laptop", description="Which of the task's recipes gave the defaults. It is not part of a trial's id: the knobs it sets are."
    )
    reference_behaviour: bool = Field(
        False,
        description="Short for all switches that bring back a quirk of the reference's code, as defaults above the recipe's and below your "
        "own values; see docs/reference.md. It is not part of a trial's id: the knobs it sets are. In results: true if all of these are as "
        "in the reference, false if all are at their defaults, else null.",
    )
    train_samples: Count | None = Field(None, description="Training samples that are used, drawn by `split_seed`; null = all.")
    split_seed: Seed = Field(0, description="Seed of the train / validation / test split.")
    reference_data: bool = Field(
        False,
        description="Splits and scores of the reference code, quirks included, validation = test among them; see docs/tasks.md. "
        "Read only by tasks that have such a form.",
    )
    proxy: str = Field(
        description="Proxy of the body's modality: a name of `sweeper proxies`, `text:PATH`, `images:PATH`, `npz:PATH`, `task:NAME`. "
        "`+shuffled` behind it permutes its labels, `+k:N` takes N samples. Read only if `align.epochs` or `align.weight` > 0."
    )
    body: BodyConfig
    pretrain: PretrainConfig = PretrainConfig()
    embedder: EmbedderConfig = EmbedderConfig()
    align: AlignConfig = AlignConfig()
    freezing: str | tuple[Phase, ...] = Field(
        "full", description="What trains, and when: a name (`full`, `frozen-body`, `frozen-body:5`, ...) or a list of phases."
    )
    adapter: Annotated[str, WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "object"}]})] = Field(
        "none",
        description="Few new weights inside the frozen body: `none`, a name (`lora`, `dora`, `adalora`, `ia3`, `ln_tuning`, `oft`), or "
        "a mapping of `name` and options of peft, `{name: lora, r: 4}`.",
    )
    finetune: FinetuneConfig = FinetuneConfig()
    selection: Literal["valid", "test"] = Field(
        "valid", description="Split on which the best epoch is chosen; `test` is what the reference does. Last and best are both kept."
    )
    selection_ties: Literal["earliest", "latest"] = Field(
        "earliest", description="Which of several epochs of the same lowest error is the best one; `latest` is what the reference takes."
    )
    precision: Literal["fp32", "bf16", "fp16"] = Field(
        "fp32", description="Number format of the forward pass of fine-tuning (autocast); fp16 scales the loss, and is for GPUs."
    )
    threads: Count = Field(1, description="CPU threads of the trial. Part of its identity: it changes the bits.")
    seed: Seed = Field(0, description="Seed of everything the trial draws. All arms of a seed share their draws, which pairs them.")

    @field_validator("adapter", mode="before")
    @classmethod
    def _one_spelling(cls, value: Any) -> Any:
        return spell_adapter(value)

    @field_validator("freezing", mode="before")
    @classmethod
    def _name_or_phases(cls, value: Any) -> Any:
        if not isinstance(value, str | list | tuple):
            raise ValueError("must be a name or a list of phases")
        return tuple(value) if isinstance(value, list) else value

    @cached_property
    def task_spec(self) -> TaskSpec:
        """The task, without its data."""
        return find_task(self.task)

    @cached_property
    def body_spec(self) -> BodySpec:
        """The body, without its weights."""
        return find_body(self.body.name)

    @property
    def align_lr(self) -> float:
        """The learning rate alignment starts with."""
        if self.align.lr_from == "own":
            return self.align.lr
        return 10 * self.finetune.lr if self.finetune.lr <= 1e-3 else self.finetune.lr  # the reference: `task_configs.py:312`

    @property
    def best_by(self) -> str:
        """What decides which epoch is the best one: the split, and how ties go unless to the earliest."""
        return self.selection if self.selection_ties == "earliest" else f"{self.selection}-{self.selection_ties}"

    @cached_property
    def phases(self) -> tuple[Phase, ...]:
        """The freezing schedule as phases that partition `finetune.epochs`."""
        return parse_freezing(self.freezing, self.finetune.epochs, self.body_spec.num_layers)

    @property
    def aligns_jointly(self) -> bool:
        """Whether fine-tuning minimises the distance to the proxy, too."""
        return self.align.weight > 0 and any("embedder" in phase.train for phase in self.phases)


# ---------------------------------------------------------------------------------------------------------------- dotted paths


def knob_fields(model: type[BaseModel] = TrialConfig, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every knob as (dotted path, pydantic field), in the order of the models."""
    for name, field in model.model_fields.items():
        path = f"{prefix}{name}"
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from knob_fields(field.annotation, f"{path}.")
        else:
            yield path, field


KNOBS: dict[str, Any] = dict(knob_fields())
"""Dotted path -> pydantic field, for every knob of a trial."""

SECTIONS = frozenset(path.rpartition(".")[0] for path in KNOBS if "." in path)
"""The inner nodes of the knob tree: `align`, `body`, ..."""

SHORTHAND = {"body": "body.name"}
"""A section that may be given as one value, and the knob that value is for."""


REFERENCE_BEHAVIOUR: Mapping[str, Any] = {
    "reference_data": True,
    "selection": "test",
    "selection_ties": "latest",
    "embedder.init": "reference",
    "align.label_gradient": "reference",
    "align.solver": "annealed",
    "align.l2_batches": "all",
    "align.class_sampling": "batches",
    "align.lr_from": "finetune",
    "align.lr_schedule": "reference",
    "finetune.scoring": "chunks",
    "finetune.accumulation": "sum",
    "finetune.schedule": "reference",
}
"""What `reference_behaviour: true` is short for. Where `align.lr` is given, `align.lr_from` is left alone."""


def flatten(nested: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested or dotted keys as a flat dict of dotted paths. Lists, and what stands below a knob, stay values.

    >>> flatten({"align": {"epochs": 5}, "finetune.lr": 0.1, "body": "mini-swin"})
    {'align.epochs': 5, 'finetune.lr': 0.1, 'body.name': 'mini-swin'}

    Raises:
        ConfigError: If a knob is given twice, nested and dotted.
    """
    flat: dict[str, Any] = {}
    for key, value in nested.items():
        path = f"{prefix}{key}"
        is_section = isinstance(value, Mapping) and path not in KNOBS
        inner = flatten(value, f"{path}.") if is_section else {SHORTHAND.get(path, path): value}
        for name in inner:
            if name in flat:
                raise ConfigError([Fault(name, "must be given once", inner[name], f"It is also given as {flat[name]!r}.")])
        flat |= inner
    return flat


def nest(flat: Mapping[str, Any]) -> dict[str, Any]:
    """A flat dict of dotted paths as nested dicts."""
    nested: dict[str, Any] = {}
    for path, value in flat.items():
        *sections, name = path.split(".")
        node = nested
        for section in sections:
            node = node.setdefault(section, {})
        node[name] = value
    return nested


def unknown_knobs(paths: Mapping[str, Any]) -> list[Fault]:
    """A fault for each path that is no knob, with the nearest known one."""
    faults = []
    for path, value in paths.items():
        if path in KNOBS:
            continue
        if path in SECTIONS:
            inside = [knob for knob in KNOBS if knob.startswith(f"{path}.")]
            faults.append(Fault(path, f"must be a mapping of {', '.join(inside)}", value))
        else:
            faults.append(Fault(path, "must be a known knob", Fault.ABSENT, nearest(path, KNOBS)))
    return faults


# ------------------------------------------------------------------------------------------------------------------ resolution


def resolve_config(overrides: Mapping[str, Any]) -> TrialConfig:
    """A whole config from what a user wrote, nested or dotted.

    The task's recipe gives the defaults, then `reference_behaviour`. With a mini body, or none named, the recipe is `laptop` where
    there is one; with any other body `published`. A proxy that is not named is the recipe's if the body can embed it, else the default
    of the body's modality.

    Raises:
        ConfigError: With every fault that was found.
    """
    given = flatten(overrides)
    faults = unknown_knobs(given)
    given = {path: value for path, value in given.items() if path in KNOBS}
    spec = _checked("task", given, find_task, faults)
    if spec is None:
        # The other knobs can still be checked, with stand-ins for what the recipe would give; the model misses a missing task.
        values = {"body.name": "mini-swin", "proxy": "noise"} | _reference_behaviour(given) | given
    else:
        recipe = choose_recipe(spec, given)
        values = flatten(spec.recipes[recipe]) | {"recipe": recipe} | _reference_behaviour(given) | given
        if isinstance(values["recipe"], str) and values["recipe"] != recipe:
            faults.append(Fault("recipe", f"must be a recipe of {spec.name}", values["recipe"], nearest(values["recipe"], spec.recipes)))
    body = _checked("body.name", values, find_body, faults)
    proxy = _checked("proxy", values, find_proxy, faults) if "proxy" in given else None
    if body is None:
        values.setdefault("proxy", "noise")  # a stand-in too: which proxy is the default depends on the body
    elif proxy is not None and not proxy.fits(body.modality):
        fitting = f"{body.name} reads {body.modality}; omit the proxy, or take {DEFAULT_PROXY[body.modality]} or noise."
        faults.append(Fault("proxy", f"must be a proxy of {body.modality}", given["proxy"], fitting))
    elif proxy is not None and proxy.width is not None:
        faults += _width_faults(proxy, body)
    elif "proxy" not in given and not ("proxy" in values and _serves(find_proxy(values["proxy"]), body)):
        values["proxy"] = DEFAULT_PROXY[body.modality]
    config, more = _validate(values)
    faults += [fault for fault in more if fault.path not in {known.path for known in faults}]
    faults += _schedule_faults(values, body, faults) + _layer_faults(config, body)
    if faults or config is None:
        raise ConfigError(faults)
    return config


def _reference_behaviour(given: Mapping[str, Any]) -> dict[str, Any]:
    """The defaults that `reference_behaviour` gives; none if it is off."""
    if given.get("reference_behaviour") is not True:
        return {}
    return {path: value for path, value in REFERENCE_BEHAVIOUR.items() if path != "align.lr_from" or "align.lr" not in given}


def choose_recipe(spec: TaskSpec, given: Mapping[str, Any]) -> str:
    """Name of the recipe that gives the defaults: the one asked for, else the one that suits the body."""
    asked = given.get("recipe")
    if isinstance(asked, str) and asked in spec.recipes:
        return asked
    body = given.get("body.name")
    wanted = "laptop" if body is None or str(body).startswith("mini-") else "published"
    return wanted if wanted in spec.recipes else next(iter(spec.recipes))


def _checked(path: str, values: Mapping[str, Any], find: Any, faults: list[Fault]) -> Any:
    """What `find` gives for a name, or None after adding its faults; a missing or mistyped name is left to the model."""
    if not isinstance(values.get(path), str):
        return None
    try:
        return find(values[path])
    except ConfigError as error:
        faults.extend(Fault(path, fault.rule, fault.value, fault.remedy) for fault in error.faults)
    except DataError as error:
        faults.append(Fault(path, str(error), Fault.ABSENT))
    return None


def _serves(proxy: ProxySpec, body: BodySpec) -> bool:
    """Whether a recipe's proxy can be used with the body. Of features that are not there, their published width counts."""
    if not proxy.fits(body.modality) or proxy.width is None:
        return proxy.fits(body.modality)
    try:
        return proxy.fits_width(body_width(body))
    except DataError:
        return body_width(body) == PUBLISHED_WIDTH


def _width_faults(proxy: ProxySpec, body: BodySpec) -> list[Fault]:
    """That features are as wide as the body's tokens."""
    try:
        if proxy.fits_width(body_width(body)):
            return []
    except DataError as error:
        return [Fault("proxy", str(error), Fault.ABSENT)]
    assert proxy.width is not None
    remedy = f"It holds features of width {proxy.width()}; take a proxy that the body embeds."
    return [Fault("proxy", f"must be as wide as the tokens of {body.name}, {body_width(body)}", proxy.name, remedy)]


def _validate(values: Mapping[str, Any]) -> tuple[TrialConfig | None, list[Fault]]:
    try:
        return TrialConfig.model_validate(nest(values)), []
    except ValidationError as error:
        return None, faults_of(error)


def _layer_faults(config: TrialConfig | None, body: BodySpec | None) -> list[Fault]:
    """Faults of knobs that count the body's layers."""
    if config is None or body is None or body.num_layers is None or config.finetune.reinit_top <= body.num_layers:
        return []
    rule = f"must be at most the {body.num_layers} layers of {body.name}"
    return [Fault("finetune.reinit_top", rule, config.finetune.reinit_top)]


def _schedule_faults(values: Mapping[str, Any], body: BodySpec | None, known: list[Fault]) -> list[Fault]:
    """Faults of the freezing schedule as a whole; none while its parts, or the epochs it is to fill, have faults of their own."""
    if any(fault.path.startswith(("freezing", "finetune.epochs")) for fault in known):
        return []
    freezing, epochs = (values.get(path, KNOBS[path].default) for path in ("freezing", "finetune.epochs"))
    layers = body.num_layers if body else 10**6  # any number of layers will do while it is not known which body is meant
    try:
        listed = freezing if isinstance(freezing, str) else [Phase.model_validate(phase) for phase in freezing]
        phases = parse_freezing(listed, epochs, layers)
        if not any(fault.path.startswith("adapter") for fault in known):
            return schedule_faults(spell_adapter(values.get("adapter", NONE)), phases)
    except ConfigError as error:
        return list(error.faults)
    return []


def faults_of(error: ValidationError) -> list[Fault]:
    """A pydantic error as faults in this project's form, one for each path."""
    faults: dict[str, Fault] = {}
    for item in error.errors(include_url=False):
        if item["loc"][-1:] == ("str",) and isinstance(item["input"], list | tuple):
            continue  # the branch of a union of names and lists that was not meant
        where = [str(part) for part in item["loc"] if not str(part).startswith(("function-", "tuple[", "constrained-"))]
        path, value, remedy = ".".join(where), item["input"], ""
        context = item.get("ctx", {})
        match item["type"]:
            case "missing":
                rule, value = "must be given", Fault.ABSENT
            case "extra_forbidden":
                rule, value = "must be a known key", Fault.ABSENT
            case "literal_error":
                rule = f"must be one of {context['expected'].replace(' or ', ', ')}".replace("'", "")
                remedy = nearest(value, _choices(context["expected"])).partition("Known:")[0].strip()
            case "greater_than":
                rule = f"must be greater than {context['gt']:g}"
            case "greater_than_equal":
                rule = f"must be at least {context['ge']:g}"
            case "less_than":
                rule = f"must be less than {context['lt']:g}"
            case "less_than_equal":
                rule = f"must be at most {context['le']:g}"
            case "value_error":
                rule, _, rest = str(context["error"]).partition("|")
                if rest:  # A rule over several fields names the one to look at and its value.
                    name, _, shown = rest.partition("|")
                    path, value = ".".join([*where, name]), _Shown(shown)
            case kind:
                rule = f"must be {_TYPES[kind]}" if kind in _TYPES else item["msg"][:1].lower() + item["msg"][1:]
        # A union gives one error per branch for one fault: the first says enough.
        faults.setdefault(path, Fault(path, rule, value, remedy))
    return list(faults.values())


class _Shown(str):
    """A value that is shown as it stands."""

    def __repr__(self) -> str:
        return str(self)


_TYPES = {
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "finite_number": "a finite number",
    "bool_type": "true or false",
    "string_type": "a text",
    "tuple_type": "a list",
    "list_type": "a list",
    "dict_type": "a mapping",
    "model_type": "a mapping",
    "model_attributes_type": "a mapping",
}


def _choices(expected: str) -> list[str]:
    return [part.strip().strip("'") for part in expected.replace(" or ", ", ").split(",")]


def choices_of(path: str) -> tuple[str, ...]:
    """The values a knob with a fixed set of names may take; empty for other knobs."""
    values = get_args(KNOBS[path].annotation)
    return tuple(values) if values and all(isinstance(value, str) for value in values) else ()
