"""Knobs of fine-tuning, of what it minimises or mixes besides the task's loss, and of the predictor: parts of a `TrialConfig`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, model_validator

from orca_core.config.faults import broken_rule
from orca_core.config.part import FROM_LIST, Below1, Count, NonNegative, Optimizer, Part, Positive, Share
from orca_core.config.spellings import COMPILE_BEFORE

Compile = Annotated[
    Literal["none", "default", "reduce-overhead"],
    BeforeValidator(lambda value: COMPILE_BEFORE.get(str(value).lower(), value)),
]
"""The earlier spellings are taken, too."""


class PredictorConfig(Part):
    """The new output layer, for tasks with one answer per sample."""

    pool: Literal["mean", "attention", "max"] = Field(
        "mean",
        description="How the body's tokens become one: their `mean`; their `max`, entry by entry; or `attention`, a mean by learned "
        "weights, which starts as the plain one (Ilse et al. 2018, arXiv 1802.04712, eq. 7 and 8).",
    )
    head: Literal["linear", "mlp"] = Field(
        "linear",
        description="What maps it to the answer: a `linear` layer, or an `mlp` with one hidden layer, as wide as the tokens, and GELU.",
    )


class SmoothConfig(Part):
    """A penalty on outputs that change if the embedder's tokens are perturbed."""

    kind: Literal["none", "r3f", "smart"] = Field(
        "none",
        description="How tokens are perturbed: `r3f`, by noise (arXiv 2008.03156); `smart`, by noise and a step in the direction in which "
        "the outputs change most (arXiv 1911.03437). A second, or a second and a third pass through the body.",
    )
    weight: Positive = Field(1.0, description="Weight of the penalty.")
    noise: Positive = Field(
        0.1,
        description="Standard deviation of the normal noise. The papers' 1e-5 matters only where dropout differs between the passes, too.",
    )
    radius: Positive = Field(0.1, description="Of `smart`: the longest step, and the limit on each entry of the perturbation.")


class MixupConfig(Part):
    """Training on mixtures of two samples and their targets."""

    alpha: NonNegative = Field(
        0.0,
        description="Shares of a mixture are drawn from Beta(alpha, alpha), one pair for each batch (arXiv 1710.09412). 0 = no mixtures.",
    )
    place: Literal["inputs", "tokens"] = Field(
        "inputs", description="What is mixed: the task's `inputs`, or the embedder's `tokens` (manifold mixup, arXiv 1806.05236)."
    )


class FinetuneConfig(Part):
    """Stage 3: train on the task."""

    epochs: Count = Field(10, description="Passes over the training set.")
    lr: Positive = Field(1e-4, description="Peak learning rate.")
    optimizer: Optimizer = Field("adamw", description="Optimiser.")
    weight_decay: NonNegative = Field(0.0, description="Weight decay.")
    momentum: Below1 = Field(0.9, description="Momentum.")
    betas: Annotated[tuple[Below1, Below1], FROM_LIST] = Field((0.9, 0.98), description="Decay rates of the moments.")
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
    test: Literal["each-epoch", "best-and-last"] = Field(
        "each-epoch",
        description="After which epochs the test set is evaluated: every one, or the last one and those whose validation error is as low "
        "as that of any before, among which is the one that a trial is judged by. `test_error` is null after the others, and trials of "
        "different `finetune.epochs` no longer share the epochs that they have in common.",
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
    prefix: Literal["recomputed", "once"] = Field(
        "recomputed",
        description="Where the embedder does not train: what the body's lowest frozen layers give is computed anew for every batch, or "
        "once a phase, which costs an epoch less and may change the last bits. Whatever cannot be kept, or would need more than 2 GiB, "
        "is computed anew.",
    )
    compile: Compile = Field(
        "none",
        description="Compile the forward pass by torch.compile, which takes a minute at the start of a trial: `none`; `default`; or "
        "`reduce-overhead`, on a GPU only, where training on whole batches is replayed from CUDA graphs, and a short last batch and "
        "evaluation are not compiled. `false` and `true`, as in version 0.1, mean `none` and `default`.",
    )
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
    fused: Annotated[int, Field(ge=0, le=256)] = Field(
        0,
        description="Train as one of this many models in one batched computation, together with trials that differ in seed, learning rate, "
        "schedule, weight decay or label smoothing; models that are missing are made up. 0 = on its own. The bits depend on the "
        "number, not on the trials beside it.",
    )
    smooth: SmoothConfig = SmoothConfig()
    mixup: MixupConfig = MixupConfig()

    @model_validator(mode="after")
    def _check_rules(self) -> FinetuneConfig:
        if self.decay_epochs is not None and self.decay_epochs <= self.warmup_epochs:
            raise broken_rule("decay_epochs", f"must be greater than warmup_epochs ({self.warmup_epochs:g})", self.decay_epochs)
        if self.schedule == "cosine" and self.decay_epochs is None:
            raise broken_rule("decay_epochs", "must be a number if the schedule is cosine", None)
        if self.mixout and (self.checkpointing or self.compile != "none"):
            rule = "must be 0 with checkpointing or compile: its weights exist in the forward pass only"
            raise broken_rule("mixout", rule, self.mixout)
        return self
