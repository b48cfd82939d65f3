"""Knobs of the body, its pretraining, and the embedder: parts of a `TrialConfig`."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, WithJsonSchema, field_validator

from orca_core.bodies.keep import RULE as KEEP_RULE
from orca_core.bodies.keep import KeepError, spell_keep
from orca_core.config.faults import broken_rule
from orca_core.config.part import Count, Part, Seed, Share


class BodyConfig(Part):
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
        try:
            return spell_keep(value)
        except KeepError as error:
            raise broken_rule("", KEEP_RULE, value, str(error)) from None


class PretrainConfig(Part):
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


class EmbedderConfig(Part):
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
