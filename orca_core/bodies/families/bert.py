"""Encoder bodies: BERT, RoBERTa, XLM-R, CamemBERT, ELECTRA, DistilBERT. Positions and LayerNorm belong to the embedding."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from orca_core.bodies.base import Body, Geometry, TextEmbedding
from orca_core.bodies.family import FAMILIES


class BertBody(Body):
    """The layers of an encoder."""

    def __init__(self, encoder: nn.Module, geometry: Geometry) -> None:
        super().__init__()
        self.encoder: Any = encoder
        self.geometry = geometry

    @property
    def blocks(self) -> list[nn.Module]:
        return list(self.encoder.layer)

    @property
    def attention(self) -> list[nn.Module]:
        return [block.attention for block in self.encoder.layer]

    @property
    def qkv(self) -> list[nn.Module]:
        is_distilbert = hasattr(self.encoder.layer[0].attention, "q_lin")
        return self.attention_parts(*(("q_lin", "k_lin", "v_lin") if is_distilbert else ("self.query", "self.key", "self.value")))

    def forward(self, tokens: Tensor) -> Tensor:
        return self.encoder(tokens)[0]


class BertEmbedding(TextEmbedding):
    """Words, positions and LayerNorm of an encoder.

    Args:
        embeddings: The family's own module.
        unused_positions: Rows of its position table before the first one that is used.
    """

    def __init__(self, embeddings: nn.Module, unused_positions: int) -> None:
        super().__init__()
        self.embeddings: Any = embeddings
        self.unused_positions = unused_positions

    @property
    def positions(self) -> Tensor:
        return self.embeddings.position_embeddings.weight[self.unused_positions :]

    @property
    def norm(self) -> nn.LayerNorm:
        return self.embeddings.LayerNorm

    def embed(self, input_ids: Tensor) -> Tensor:
        return self.embeddings(input_ids=input_ids)


def split_bert(model: Any) -> tuple[BertBody, BertEmbedding]:
    """A Hugging Face model as (body, embedding)."""
    config = model.config
    unused_positions = FAMILIES[config.model_type].unused_positions
    unused = 0 if unused_positions is None else unused_positions(config.to_dict())
    geometry = Geometry("text", config.hidden_size, config.hidden_size, max_tokens=config.max_position_embeddings - unused)
    # DistilBERT's layers go by another name than all others'.
    encoder = model.transformer if hasattr(model, "transformer") else model.encoder
    return BertBody(encoder, geometry), BertEmbedding(model.embeddings, unused)
