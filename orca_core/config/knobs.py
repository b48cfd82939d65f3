"""Every knob of a trial: meaning, unit, range, default, source.

A knob is a dotted path (`align.epochs`), spelled the same in YAML, on the command line, in errors and, dots as underscores, as a
result column. A `TrialConfig` has every knob filled in. `resolve_config` makes one from what a user wrote: the task's recipe
gives the defaults, the user's values come on top, and every broken rule is found before anything runs.

Model defaults are *introductory*: ids and stage keys leave out a knob at its default, so a knob that is added later leaves the
ids of old trials alone. A default, once released, is therefore never changed; change a recipe instead.
"""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, WithJsonSchema, create_model, field_validator, model_validator

from orca_core.adapters.names import spell_adapter
from orca_core.bodies import BodySpec, find_body
from orca_core.config.faults import broken_rule
from orca_core.distances import DISTANCE_CATALOGUE, distance_knobs, find_distance
from orca_core.errors import ConfigError
from orca_core.freezing.schedule import Phase, parse_freezing
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


class CommonAlignConfig(_Part):
    """Stage 2: train the embedder until its features resemble the proxy's.

    All knobs but `epochs` and `weight` are read only if epochs > 0; those that say what the distance is also if weight > 0.
    """

    epochs: Epochs = Field(0, description="Optimiser steps of alignment; one epoch is one step over all classes. 0 = naive fine-tuning.")
    weight: NonNegative = Field(
        0.0,
        description="Fine-tuning minimises `weight` times the distance of a batch's features to the proxy, beside the task's loss; with "
        "`epochs` 0 this is the joint form, in one stage. Read only if the embedder trains in some phase.",
    )
    objective: Annotated[str, WithJsonSchema({"enum": [*DISTANCE_CATALOGUE.entries()]})] = Field(
        "otdd-exact", description="Distance that is minimised."
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

    @field_validator("objective")
    @classmethod
    def _known_distance(cls, value: str) -> str:
        try:
            return find_distance(value).name
        except ConfigError as error:
            (fault,) = error.faults
            raise broken_rule("", fault.rule, fault.value, fault.remedy) from None

    @field_validator("lr_steps", mode="before")
    @classmethod
    def _list_as_tuple(cls, value: Any) -> Any:
        return tuple(value) if isinstance(value, list) else value


if TYPE_CHECKING:
    AlignConfig = CommonAlignConfig
else:
    AlignConfig = create_model(
        "AlignConfig", __base__=CommonAlignConfig, __doc__=CommonAlignConfig.__doc__, __module__=__name__, **distance_knobs()
    )
    """`align.*`: the knobs that all distances share, and those that a distance declares for itself."""


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
    def _check_rules(self) -> FinetuneConfig:
        if self.decay_epochs is not None and self.decay_epochs <= self.warmup_epochs:
            raise broken_rule("decay_epochs", f"must be greater than warmup_epochs ({self.warmup_epochs:g})", self.decay_epochs)
        if self.schedule == "cosine" and self.decay_epochs is None:
            raise broken_rule("decay_epochs", "must be a number if the schedule is cosine", None)
        if self.mixout and (self.checkpointing or self.compile):
            rule = "must be 0 with checkpointing or compile: its weights exist in the forward pass only"
            raise broken_rule("mixout", rule, self.mixout)
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
    bits: Literal["native", "portable"] = Field(
        "native",
        description="`native`: each library takes the fastest code for the processor it finds, so bits may differ between kinds of "
        "processor. `portable`: on the CPU all are held to what every x86-64-v3 processor has; slower, see docs/design.md. Of a sweep as a "
        "whole: it is a key of the file, not of `base`, `space` or `variants`.",
    )
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

    @model_validator(mode="after")
    def _check_bits(self) -> TrialConfig:
        if self.bits == "portable" and self.finetune.compile:
            raise broken_rule("finetune.compile", "must be false with bits: portable: a compiler takes what the processor has", True)
        return self

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
