"""Every knob of a trial: meaning, unit, range, default, source.

The parts of a `TrialConfig` stand in `model_knobs.py`, `alignment_knobs.py`, `training_knobs.py` and `successor_knobs.py`; what they share,
such as ranges of numbers, in `part.py`.

A knob is a dotted path (`align.epochs`), spelled the same in YAML, on the command line, in errors and, with dots as underscores, as a
result column. A `TrialConfig` has a value for every knob. `resolve_config` makes one from what a user wrote: the task's recipe
provides the defaults, the user's values override them, and all errors are reported before anything runs.

Model defaults are *introductory*: ids and stage keys leave out a knob at its default, so a knob that is added later leaves the
ids of old trials alone. A default, once released, is therefore never changed; change a recipe instead.

When a knob is read is declared with the stages that read it (`orca_core/declarations.py`), from which the docs add the sentence.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property
from typing import Annotated, Any, Literal

from pydantic import Field, WithJsonSchema, field_validator, model_validator

from orca_core.adapters.names import spell_adapter
from orca_core.bodies import BodySpec, find_body
from orca_core.bodies.keep import NOTHING
from orca_core.config.alignment_knobs import AdaptConfig, AlignConfig
from orca_core.config.faults import broken_rule
from orca_core.config.methods import Method
from orca_core.config.model_knobs import BodyConfig, EmbedderConfig, PretrainConfig
from orca_core.config.part import Count, Part, Seed
from orca_core.config.successor_knobs import MixConfig
from orca_core.config.training_knobs import FinetuneConfig, PredictorConfig
from orca_core.distances import find_distance
from orca_core.freezing.schedule import Phase, parse_freezing
from orca_core.tasks import TaskSpec, find_task, spell_task
from orca_core.tasks.validation import Validation

OPTIMIZER_SETTINGS = ("optimizer", "weight_decay", "momentum", "betas")
"""The knobs of an optimiser that alignment and fine-tuning both have, beside the rate."""


class ValidationConfig(Part):
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


class TrialConfig(Part):
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
        if self.bits == "portable" and self.finetune.compile != "none":
            rule = "must be none with bits: portable: a compiler takes what the processor has"
            raise broken_rule("finetune.compile", rule, self.finetune.compile)
        return self

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> TrialConfig:
        """A copy with other values, from which what follows is derived anew: pydantic's own would keep what this config has derived.
        Nothing is derived from seeds."""
        copied = super().model_copy(update=update, deep=deep)
        if not (update and update.keys() <= {"seed", "split_seed"}):
            for name, attribute in vars(type(self)).items():
                if isinstance(attribute, cached_property):
                    copied.__dict__.pop(name, None)
        return copied

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
