"""Every knob of a trial: meaning, unit, range, default, source.

A knob is a dotted path (`align.epochs`), spelled the same in YAML, on the command line, in errors and, with dots as underscores, as a
result column. A `TrialConfig` has a value for every knob. `resolve_config` makes one from what a user wrote: the task's recipe
provides the defaults, the user's values override them, and all errors are reported before anything runs.

Model defaults are *introductory*: ids and stage keys leave out a knob at its default, so a knob that is added later leaves the
ids of old trials alone. A default, once released, is therefore never changed; change a recipe instead.

When a knob is read is declared with the stages that read it (`orca_core/declarations.py`), from which the docs add the sentence.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BeforeValidator, Field, WithJsonSchema, create_model, field_validator, model_validator

from orca_core.adapters.names import spell_adapter
from orca_core.bodies import BodySpec, find_body
from orca_core.bodies.keep import NOTHING, spell_keep
from orca_core.config.faults import broken_rule
from orca_core.config.methods import Method
from orca_core.config.part import Below1, Count, Epochs, NonNegative, Optimizer, Positive, Seed, Share
from orca_core.config.part import Part as _Part
from orca_core.config.successor_knobs import MixConfig
from orca_core.config.training_knobs import MixupConfig, PredictorConfig, SmoothConfig
from orca_core.distances import DISTANCE_CATALOGUE, distance_knobs, find_distance
from orca_core.errors import ConfigError
from orca_core.freezing.schedule import Phase, parse_freezing
from orca_core.tasks import TaskSpec, find_task, spell_task
from orca_core.tasks.validation import Validation

OPTIMIZER_SETTINGS = ("optimizer", "weight_decay", "momentum", "betas")
"""The knobs of an optimiser that alignment and fine-tuning both have, beside the rate."""


_FROM_LIST = BeforeValidator(lambda value: tuple(value) if isinstance(value, list) else value)
"""YAML has lists, a frozen model has tuples."""


class BodyConfig(_Part):
    """The transformer that is adapted."""

    name: str = Field(
        description="Body: `mini-roberta`, `mini-roberta-small`, `mini-swin`, `hf:NAME_OR_FOLDER` for a Hugging Face model, "
        "`hf:NAME@REVISION` for a checkpoint along its pretraining, `timm:NAME_OR_FOLDER` for timm's; or, for a bodiless arm, `none`, "
        "`attention-1`, `transformer-1`, `cnn`."
    )
    weights: Literal["pretrained", "random", "shuffled"] = Field(
        "pretrained",
        description="Start from the pretrained weights; from random weights in the same configuration; or from the pretrained ones with "
        "the entries of each tensor permuted by the seed: the same statistics, no structure.",
    )
    keep: Annotated[str, WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]})] = Field(
        "all",
        description="The parts of the body that start pretrained; the rest starts from the weights that `body.weights: random` would "
        "draw. `all`, or a list of `attention`, `ffn`, `layernorm`, `embeddings`, `other` (these five are the whole body) and `layers:N` "
        "(the lowest N blocks, whole). As a column the names are joined by `+`, in this order. An empty list is `body.weights: random`.",
    )
    flip: bool = Field(
        False,
        description="Read the sequence and the reversed sequence with one model, and average the two results; arXiv 2510.05278 trains a "
        "second model on reversed data instead, see `reversed`.",
    )
    double: bool = Field(
        False,
        description="Read the sequence twice in a row, and keep the second half of the result (arXiv 2510.05278). Half as many tokens fit.",
    )

    @field_validator("keep", mode="before")
    @classmethod
    def _one_spelling(cls, value: Any) -> Any:
        return spell_keep(value)


class PretrainConfig(_Part):
    """Pretraining of the mini bodies, a stage of its own."""

    fraction: Share = Field(1.0, description="Share of the pretraining data to use, in (0, 1].")
    epochs: Count = Field(8, description="Passes over that data.")
    corpus: Literal["own", "pydoc", "fractals", "dyck", "sort", "copy", "automata", "bigram", "noise"] = Field(
        "own",
        description="What the body is pretrained on: its own corpus (`pydoc` for mini-roberta, `fractals` for mini-swin), or, for text "
        "bodies, balanced brackets (`dyck`), numbers and the same in order (`sort`), a repetition (`copy`), generations of a cellular "
        "automaton (`automata`), a walk by pydoc's pairs of words (`bigram`); for both kinds `noise`. See docs/bodies.md.",
    )
    objective: Literal["own", "masked", "causal", "labels", "denoise"] = Field(
        "own",
        description="What the body is pretrained for: its own objective (`masked` for text, `labels` for images); `masked` words, the next "
        "word (`causal`), the sample's label (`labels`), or a sample from its noisy form (`denoise`). Images have the last two.",
    )
    label_noise: Annotated[float, Field(ge=0, le=0.5)] = Field(
        0.0, description="Share of the training samples of pretraining that get another label, drawn by `pretrain.seed` (arXiv 2309.17002)."
    )
    seed: Seed = Field(0, description="Seed of pretraining, separate from the trial's, so that all seeds of an arm adapt the same body.")


class ValidationConfig(_Part):
    """How the best epoch is chosen."""

    folds: Annotated[int, Field(ge=2, le=100)] | None = Field(
        None,
        description="Choose the epoch by cross-validation, for tasks with few samples: the rows outside the test part are dealt into this "
        "many folds by `split_seed`, stratified by class. For each fold, alignment and fine-tuning run without its rows; the best epoch "
        "is the one with the lowest mean validation error over the folds. Then all these rows are trained on, with the same schedule, up "
        "to that epoch, and the test error is of that model. null = one validation part. A trial takes about `folds` + 1 times as long.",
    )
    fold: Annotated[int, Field(ge=0, lt=100)] | None = Field(
        None,
        description="With `validation.folds`: an ordinary trial on the split of this one fold, from 0; null = all folds and the final "
        "training.",
    )


class EmbedderConfig(_Part):
    """The new input layer."""

    init: Literal["pretrained", "random", "reference", "pretrained-third-row", "matched"] = Field(
        "pretrained",
        description="Copy what fits from the body's own embedding (2D: patch projection and LayerNorm; 1D: LayerNorm and positions), "
        "or draw everything at random. `reference` does what the reference code does: with `align.epochs` > 0 it copies what `pretrained` "
        "copies, otherwise positions alone, and it counts positions as RoBERTa does for every text body. `pretrained-third-row` copies "
        "what `pretrained` copies, with positions counted like that. `matched` starts like `pretrained` and then, without training, "
        "gives the embedder's features on the training samples the mean and covariance of the proxy's, in closed form (arXiv 1511.05547).",
    )
    weights: str | None = Field(
        None,
        description="A safetensors file with all weights that the embedder starts with, for comparison with other implementations; see "
        "docs/bodies.md. Its content is part of stage keys, its path is not.",
    )
    target_seq_len: Count = Field(
        512,
        description="Maximum number of tokens of a sequence: a 1D input of length L is cut into windows of the smallest divisor s of L "
        "for which L / s does not exceed it.",
    )


class CommonAlignConfig(_Part):
    """Stage 2: train the embedder until its features resemble the proxy's."""

    epochs: Epochs = Field(0, description="Optimiser steps of alignment; one epoch is one step over all classes. 0 = naive fine-tuning.")
    weight: NonNegative = Field(
        0.0,
        description="Fine-tuning also minimises `weight` times the distance of a batch's features to the proxy; with `epochs` 0 this is "
        "the one-stage, joint form.",
    )
    objective: Annotated[str, WithJsonSchema({"enum": [*DISTANCE_CATALOGUE.entries()]})] = Field(
        "otdd-exact",
        description="The distance to minimise. Two controls read no proxy: `dispersion` moves the target's own classes apart; `none` takes "
        "as many steps on the task's own loss, through the frozen body and a predictor that is thrown away. `bilevel` is no distance: it "
        "moves the embedder so that a step on the task changes least what the body knows of the proxy (MoNA, arXiv 2406.18864).",
    )
    gradient: Literal["sum", "project"] = Field(
        "sum",
        description="How the joint form combines the gradients of the task's loss and of the weighted distance, batch by batch: their "
        "`sum`; or `project`: where they work against each other (negative inner product in the embedder), each is first projected onto "
        "the plane normal to the other (PCGrad, arXiv 2001.06782).",
    )
    agreement: bool = Field(
        False,
        description="Report, for each epoch, the cosine of the gradients of the distance and of the task's loss in the embedder "
        "(`gradient_cosine`). It costs a backward pass through the body in each step of alignment and each batch of the joint form, and "
        "changes nothing else.",
    )
    task_weight: NonNegative = Field(
        0.0,
        description="Alignment also minimises `task_weight` times the task's own loss, through the frozen body and a predictor that is "
        "thrown away; of `bilevel`, the loss after its inner steps. It asks whether an embedder that serves the task already starts "
        "better.",
    )
    label_entropy: NonNegative = Field(
        0.0,
        description="Alignment also minimises `label_entropy` times the entropy of the proxy's labels, as a classifier of the proxy reads "
        "them from target samples, given the target's label (feature-label distortion of RECRAFT, arXiv 2601.18231). It asks whether "
        "closeness helps only where classes fall into classes.",
    )
    label_entropy_form: Literal["conditional", "information"] = Field(
        "conditional",
        description="`conditional`: that entropy. `information`: less the entropy of the proxy's labels over all classes, so that it does "
        "not fall where all samples go to one class of the proxy.",
    )
    class_samples: Count = Field(128, description="Maximum number of samples of each class that enter the distance in one epoch.")
    class_sampling: Literal["exact", "batches"] = Field(
        "exact",
        description="`exact`: `class_samples` of each class. `batches`, as in the reference: whole batches of `finetune.batch_size` until "
        "there are more than `class_samples`, classes in random order, skipping classes of one sample.",
    )
    proxy_samples: Count = Field(5000, description="Maximum number of proxy samples, drawn by the seed.")
    lr: Positive = Field(1e-3, description="Learning rate of alignment; the published recipes use 10 x `finetune.lr`.")
    lr_from: Literal["own", "finetune"] = Field(
        "own",
        description="`own`: `align.lr`. `finetune`, as in the reference: 10 x `finetune.lr`, or `finetune.lr` itself if it is above 0.001.",
    )
    optimizer_from: Literal["own", "finetune"] = Field(
        "own",
        description="Where `optimizer`, `weight_decay`, `momentum` and `betas` of alignment come from: `own`, or `finetune`, as in the "
        "reference, which replaces the values of `align`.",
    )
    optimizer: Optimizer = Field("adamw", description="Optimiser of alignment.")
    weight_decay: NonNegative = Field(0.0, description="Weight decay of alignment.")
    momentum: Below1 = Field(0.9, description="Momentum of alignment.")
    betas: Annotated[tuple[Below1, Below1], _FROM_LIST] = Field((0.9, 0.98), description="Decay rates of the moments in alignment.")
    lr_steps: Annotated[tuple[Count, ...], _FROM_LIST] = Field(
        (20, 40, 60), description="Epochs after which the learning rate of alignment is multiplied by 0.2."
    )
    lr_schedule: Literal["steps", "reference"] = Field(
        "steps",
        description="`steps`: the rate falls in the epoch after each of `lr_steps`; `reference`: one epoch later.",
    )

    @field_validator("objective")
    @classmethod
    def _known_distance(cls, value: str) -> str:
        try:
            return find_distance(value).name
        except ConfigError as error:
            (fault,) = error.faults
            raise broken_rule("", fault.rule, fault.value, fault.remedy) from None


if TYPE_CHECKING:
    AlignConfig = CommonAlignConfig
else:
    AlignConfig = create_model(
        "AlignConfig", __base__=CommonAlignConfig, __doc__=CommonAlignConfig.__doc__, __module__=__name__, **distance_knobs()
    )
    """`align.*`: the knobs that all distances share, and those that a distance declares for itself."""


class AdaptConfig(_Part):
    """Between alignment and fine-tuning: masked reconstruction of the target's training inputs, without labels."""

    epochs: Epochs = Field(
        0,
        description="Passes over the training inputs in which masked parts are reconstructed, before fine-tuning; no label is read. "
        "0 = none.",
    )
    train: Literal["all", "embedder"] = Field(
        "all", description="What trains beside the linear decoder, which is thrown away: embedder and body, or the embedder alone."
    )
    lr: Positive = Field(1e-4, description="Learning rate of this stage, constant.")
    batch_size: Count = Field(32, description="Samples per step of this stage.")
    mask: Annotated[float, Field(gt=0, lt=1)] = Field(
        0.5,
        description="Share of a sample's tokens whose input values are replaced by 0 and reconstructed: this share of them, rounded, at "
        "least one.",
    )


class FinetuneConfig(_Part):
    """Stage 3: train on the task."""

    epochs: Count = Field(10, description="Passes over the training set.")
    lr: Positive = Field(1e-4, description="Peak learning rate.")
    optimizer: Optimizer = Field("adamw", description="Optimiser.")
    weight_decay: NonNegative = Field(0.0, description="Weight decay.")
    momentum: Below1 = Field(0.9, description="Momentum.")
    betas: Annotated[tuple[Below1, Below1], _FROM_LIST] = Field((0.9, 0.98), description="Decay rates of the moments.")
    batch_size: Count = Field(32, description="Samples per forward pass in training.")
    data_order: Literal["shuffled", "given"] = Field(
        "shuffled",
        description="Order of the training rows in an epoch: drawn by the seed, or the task's own, for comparison with other "
        "implementations.",
    )
    eval_batch_size: Count = Field(
        256,
        description="Samples per forward pass in evaluation. It changes no score, unless `scoring` is `chunks` and `score_chunk` is null.",
    )
    scoring: Literal["whole", "chunks"] = Field(
        "whole",
        description="Loss and score in evaluation: over the whole set or, as in the reference, averaged over chunks of "
        "`score_chunk` samples rounded up to a multiple of `batch_size`; a short last chunk counts in full.",
    )
    score_chunk: Count | None = Field(
        None,
        description="Samples of a chunk whose loss and score are averaged with those of the others; null = `eval_batch_size`. The "
        "reference calls this `eval_batch_size`; the published recipes have its values.",
    )
    accum: Count = Field(1, description="Batches per optimiser step.")
    accumulation: Literal["mean", "sum"] = Field(
        "mean",
        description="How a step combines its `accum` batches: the mean over their samples or, as in the reference, the sum of their means, "
        "clipped after every batch; an incomplete group at the end of an epoch is then dropped.",
    )
    clip: Positive | None = Field(None, description="Maximum norm of the gradient of a step; null = no clipping.")
    schedule: Literal["linear", "cosine", "reference"] = Field(
        "linear",
        description="Decay of the learning rate after warm-up: `linear`; `cosine`; or `reference`, also linear, but one batch behind, so "
        "that warm-up starts at rate 0, and negative after `decay_epochs`.",
    )
    warmup_epochs: NonNegative = Field(0.0, description="Epochs of linear warm-up from 0.")
    decay_epochs: Positive | None = Field(
        None, description="Epoch at which the decay after warm-up reaches 0, where it stays; null = no decay."
    )
    dropout: Below1 = Field(0.0, description="Dropout inside the body.")
    checkpointing: bool = Field(
        False, description="Recompute the activations of the body's blocks in the backward pass instead of keeping them, to save memory."
    )
    compile: bool = Field(False, description="Compile the forward pass with torch.compile, which takes a minute at the start of a trial.")
    label_smoothing: Below1 = Field(0.0, description="Share of the uniform distribution in the training targets.")
    layer_decay: Share = Field(
        1.0,
        description="Factor on the learning rate per layer from the top, in (0, 1]: once for the top block, once more for the embedder "
        "than for the bottom block.",
    )
    reinit_top: Annotated[int, Field(ge=0, le=1000)] = Field(
        0, description="Number of top layers of the body that start from random weights, drawn by the seed."
    )
    mixout: Below1 = Field(
        0.0,
        description="Probability that, in training, a weight of the body's linear layers is replaced by its initial value (mixout).",
    )
    l2_sp: NonNegative = Field(
        0.0,
        description="Half of this times the squared distance of the weights of embedder and body from those that fine-tuning starts with "
        "is added to the loss (L2-SP, arXiv 1802.01483). The predictor has no such start and is left out.",
    )
    distill: NonNegative = Field(
        0.0,
        description="This times the mean squared difference between the body's output and that of the model as fine-tuning starts, aligned "
        "or not, is added to the loss (as DELTA without attention, arXiv 1901.09229).",
    )
    smooth: SmoothConfig = SmoothConfig()
    mixup: MixupConfig = MixupConfig()

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

    task: str = Field(
        description="Target task: a name of `sweeper tasks`, or `npz:PATH`, `csv:PATH`, `images:PATH`, `hfds:NAME`, `ucr/NAME`."
    )
    recipe: Literal["laptop", "published", "published-style"] = Field(
        "laptop",
        description="Which of the task's recipes provided the defaults. Omitted: `laptop` for a mini body or a bodiless arm, otherwise "
        "`published` or, for a task without a published recipe, `published-style`. Not part of a trial's id; the knobs it sets are.",
    )
    reference_behaviour: bool = Field(
        False,
        description="Turns on every switch that restores a quirk of the reference code, as defaults that override the recipe's but not "
        "your own values; see docs/reference.md. Not part of a trial's id; the knobs it sets are. In results: true if all of these are as "
        "in the reference, false if all are at their defaults, otherwise null.",
    )
    method: Method | None = Field(
        None,
        description="Sets the knobs of a published method, as defaults that override the recipe's but not your own values: `naive`, "
        "`orca`, `pare`, `mona`, `recraft`, `l2g`; see docs/successors.md. Not part of a trial's id; the knobs it sets are. In results: "
        "the method that the knobs amount to, whoever set them; null if none.",
    )
    train_samples: Count | None = Field(
        None,
        description="Number of training samples to use, drawn by `split_seed`; null = all. Inputs stay scaled by the whole training part.",
    )
    reversed: bool = Field(
        False,
        description="Read every input from its end: series reversed, images and fields along both axes, and dense targets with them "
        "(arXiv 2510.05278). `sweeper soup --kind flip` averages the answers of a pair of such trials.",
    )
    split_seed: Seed = Field(0, description="Seed of the train / validation / test split.")
    valid_share: Annotated[float, Field(gt=0, lt=1)] | None = Field(
        None,
        description="Share of the rows outside the test part that validate; null = the task's own, about a tenth. Refused where the "
        "validation part is published or given.",
    )
    validation: ValidationConfig = ValidationConfig()
    reference_data: bool = Field(
        False,
        description="Use the splits and scores of the reference code, including its quirks such as validation = test; see docs/tasks.md.",
    )
    proxy: str = Field(
        description="Proxy of the body's modality: a name of `sweeper proxies`, `text:PATH`, `images:PATH`, `npz:PATH`, `hfds:NAME`, "
        "`task:NAME`, or a mixture, `photos*0.5+fractals*0.5`. The suffix `+shuffled` permutes its labels, `+k:N` takes N samples, "
        "`+near:N` and `+far:N` the N nearest to the target, or farthest from it."
    )
    body: BodyConfig
    pretrain: PretrainConfig = PretrainConfig()
    embedder: EmbedderConfig = EmbedderConfig()
    align: AlignConfig = AlignConfig()
    adapt: AdaptConfig = AdaptConfig()
    freezing: str | tuple[Phase, ...] = Field(
        "full", description="What trains, and when: a name (`full`, `frozen-body`, `frozen-body:5`, ...) or a list of phases."
    )
    adapter: Annotated[str, WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "object"}]})] = Field(
        "none",
        description="A few new weights in the frozen body, or beside it: `none`, a name (`lora`, `dora`, `adalora`, `ia3`, `vera`, "
        "`ln_tuning`, `oft`, `bottleneck`, `side`, `vpt`, `prefix`), or a mapping of `name` and options, `{name: lora, r: 4}`; see "
        "docs/freezing.md.",
    )
    predictor: PredictorConfig = PredictorConfig()
    finetune: FinetuneConfig = FinetuneConfig()
    mix: MixConfig = MixConfig()
    selection: Literal["valid", "test"] = Field(
        "valid",
        description="Split on which the best epoch is chosen; the reference uses `test`. The last epoch's scores are kept too.",
    )
    selection_ties: Literal["earliest", "latest"] = Field(
        "earliest", description="Which of several epochs with the same lowest error counts as the best; the reference takes the `latest`."
    )
    precision: Literal["fp32", "bf16", "fp16"] = Field(
        "fp32", description="Number format of the forward pass in fine-tuning (autocast); fp16 scales the loss and is meant for GPUs."
    )
    threads: Count = Field(1, description="CPU threads of the trial. Part of its identity, as it changes the bits.")
    bits: Literal["native", "portable"] = Field(
        "native",
        description="`native`: each library uses the fastest code for the processor it finds, so bits may differ between kinds of "
        "processor. `portable`: on CPUs, all libraries use only instructions that every x86-64-v3 processor has; slower, see "
        "docs/design.md. It applies to a whole sweep and is a key of its file, not of `base`, `space` or `variants`.",
    )
    seed: Seed = Field(0, description="Seed of everything the trial draws. All arms share the draws of a seed, which pairs them.")

    @field_validator("task")
    @classmethod
    def _one_address(cls, value: str) -> str:
        return spell_task(value)

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
        spec = find_body(self.body.name)
        return replace(spec, dims=self.task_spec.dims) if spec.is_bodiless else spec

    @property
    def start_weights(self) -> str:
        """`body.weights`, and random where nothing is kept of the pretrained ones."""
        return "random" if self.body.weights == "pretrained" and self.body.keep == NOTHING else self.body.weights

    @property
    def is_cross_validated(self) -> bool:
        """Whether folds choose the epoch."""
        return self.validation.folds is not None and self.validation.fold is None

    @property
    def held_out(self) -> Validation:
        """Which rows validate."""
        return Validation(self.valid_share, self.validation.folds, self.validation.fold)

    @property
    def fold_configs(self) -> tuple[TrialConfig, ...]:
        """The trials on the single folds; none if the epoch is not chosen by folds."""
        folds = range(self.validation.folds or 0) if self.is_cross_validated else ()
        return tuple(self.model_copy(update={"validation": self.validation.model_copy(update={"fold": fold})}) for fold in folds)

    @property
    def align_lr(self) -> float:
        """The learning rate alignment starts with."""
        if self.align.lr_from == "own":
            return self.align.lr
        return 10 * self.finetune.lr if self.finetune.lr <= 1e-3 else self.finetune.lr  # the reference: `task_configs.py:312`

    def align_optimizer(self, name: str) -> Any:
        """A setting of the optimiser that alignment uses: one of `OPTIMIZER_SETTINGS`."""
        return getattr(self.align if self.align.optimizer_from == "own" else self.finetune, name)

    @property
    def best_by(self) -> str:
        """What decides which epoch is the best one: the split, and how ties go unless to the earliest."""
        return self.selection if self.selection_ties == "earliest" else f"{self.selection}-{self.selection_ties}"

    @cached_property
    def phases(self) -> tuple[Phase, ...]:
        """The freezing schedule as phases that partition `finetune.epochs`."""
        return parse_freezing(self.freezing, self.finetune.epochs, self.body_spec.num_layers)

    @property
    def aligns(self) -> bool:
        """Whether the embedder is aligned before fine-tuning."""
        return self.align.epochs > 0 and not self.body_spec.is_bodiless

    @property
    def aligns_jointly(self) -> bool:
        """Whether fine-tuning minimises the distance to the proxy, too."""
        if self.align.weight == 0 or self.body_spec.is_bodiless:
            return False
        return any("embedder" in phase.train for phase in self.phases)

    @property
    def trains_features(self) -> bool:
        """Whether anything trains, in some phase, besides the predictor."""
        return any(set(phase.train) != {"predictor"} for phase in self.phases)

    @property
    def reads_proxy(self) -> bool:
        """Whether the trial reads a proxy at all."""
        compares = (self.aligns or self.aligns_jointly) and find_distance(self.align.objective).reads_proxy
        return compares or self.matches or self.mixes

    @property
    def needs_task_model(self) -> bool:
        """Whether alignment needs body and predictor, and not the embedder alone."""
        align = self.align
        return align.objective in ("none", "bilevel") or align.agreement or align.task_weight > 0 or align.label_entropy > 0

    @property
    def mixes(self) -> bool:
        """Whether tokens of the proxy replace some of the target's in fine-tuning."""
        if self.mix.share == 0 or self.body_spec.is_bodiless:
            return False
        return any(phase.train != ("predictor",) for phase in self.phases)

    @property
    def matches(self) -> bool:
        """Whether the embedder starts with the moments of the proxy's features."""
        return self.embedder.init == "matched" and self.embedder.weights is None and not self.body_spec.is_bodiless

    @property
    def adapts(self) -> bool:
        """Whether the model is adapted to the target's inputs before fine-tuning."""
        return self.adapt.epochs > 0 and not self.body_spec.is_bodiless
