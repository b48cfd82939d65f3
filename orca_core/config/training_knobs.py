"""Knobs of what fine-tuning minimises or mixes besides the task's loss, and of the predictor: parts of a `TrialConfig`."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from orca_core.config.part import NonNegative, Part, Positive


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
