"""Knobs of alignment and of adaptation to the target: parts of a `TrialConfig`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, WithJsonSchema, create_model, field_validator

from orca_core.config.faults import broken_rule
from orca_core.config.part import FROM_LIST, Below1, Count, Epochs, NonNegative, Optimizer, Part, Positive
from orca_core.distances import DISTANCE_CATALOGUE, distance_knobs, find_distance
from orca_core.errors import ConfigError


class CommonAlignConfig(Part):
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
    betas: Annotated[tuple[Below1, Below1], FROM_LIST] = Field((0.9, 0.98), description="Decay rates of the moments in alignment.")
    lr_steps: Annotated[tuple[Count, ...], FROM_LIST] = Field(
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


class AdaptConfig(Part):
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
