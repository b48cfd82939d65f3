"""Text encoders that add positions inside their attention: ModernBERT by rotations, T5's encoder by biases. So there is no position table.

ModernBERT has a LayerNorm without bias after its word table: it belongs to the embedding. T5 has none there.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from orca_core.bodies.base import NORMS, Body, Geometry, TextEmbedding

T5_TOKENS = 512
"""Longest sequence of a T5 whose configuration states none: what it was pretrained on. Its biases go on for longer ones."""


class RotaryEncoderBody(Body):
    """ModernBERT without its words: its own forward makes the masks of its local attention and the rotations."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        config = model.config
        model.embeddings = _Given()
        self.model = model
        self.geometry = Geometry("text", config.hidden_size, config.hidden_size, max_tokens=config.max_position_embeddings)

    @property
    def blocks(self) -> list[nn.Module]:
        return list(self.model.layers)

    @property
    def attention(self) -> list[nn.Module]:
        return [block.attn for block in self.model.layers]

    @property
    def qkv(self) -> list[nn.Module]:
        return self.attention_parts("Wqkv")

    def forward(self, tokens: Tensor) -> Tensor:
        return self.model(inputs_embeds=tokens)[0]


class RelativeEncoderBody(Body):
    """The encoder of T5. The table of its position biases is held by the first block, and used by all."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        config, self.encoder = model.config, model.encoder
        self.encoder.set_input_embeddings(None)
        longest = getattr(config, "n_positions", None) or T5_TOKENS
        self.geometry = Geometry("text", config.d_model, config.d_model, max_tokens=longest)

    @property
    def norm_types(self) -> tuple[type[nn.Module], ...]:
        return (*NORMS, type(self.encoder.final_layer_norm))

    @property
    def blocks(self) -> list[nn.Module]:
        return list(self.encoder.block)

    @property
    def attention(self) -> list[nn.Module]:
        return [block.get_submodule("layer.0.SelfAttention") for block in self.blocks]

    @property
    def qkv(self) -> list[nn.Module]:
        return self.attention_parts("q", "k", "v")

    def forward(self, tokens: Tensor) -> Tensor:
        return self.encoder(inputs_embeds=tokens)[0]


class NormedWords(TextEmbedding):
    """A word table and the LayerNorm behind it, as ModernBERT has them."""

    def __init__(self, embeddings: Any) -> None:
        super().__init__()
        self.embeddings = embeddings

    @property
    def positions(self) -> None:
        return None

    @property
    def norm(self) -> nn.LayerNorm:
        return self.embeddings.norm

    def embed(self, input_ids: Tensor) -> Tensor:
        return self.embeddings(input_ids=input_ids)


class _Given(nn.Module):
    """In the place of an embedding: gives back what comes in embedded."""

    def forward(self, input_ids: Tensor | None = None, inputs_embeds: Tensor | None = None) -> Tensor | None:
        return inputs_embeds


def split_modernbert(model: Any) -> tuple[RotaryEncoderBody, NormedWords]:
    """A ModernBERT as (body, embedding)."""
    embedding = NormedWords(model.embeddings)  # first: the body puts something else in its place
    return RotaryEncoderBody(model), embedding


def split_t5(model: Any) -> tuple[RelativeEncoderBody, TextEmbedding]:
    """The encoder of a T5 as (body, embedding)."""
    from orca_core.bodies.families.decoders import WordEmbedding

    embedding = WordEmbedding(model.get_input_embeddings())
    return RelativeEncoderBody(model), embedding
