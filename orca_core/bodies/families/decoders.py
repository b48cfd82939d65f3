"""Decoder bodies: GPT-2, Pythia with the other models of the GPT-NeoX family, Llama, Qwen. Each token sees only those before it.

Positions stay in the body, where the family's own model adds them: GPT-2's table, the rotations of all others. So a sequence that is
turned round or fed twice has the positions of any other sequence of its length.

Two cures for reading one way only (García-de-Herreros et al. 2025, arXiv 2510.05278, "Parallel Flipping" and "Sequence Doubling"):

    flip      read the sequence and the reversed sequence, turn the second result back, take the mean of the two
    double    read the sequence twice in a row, at twice the positions, and keep the second half: each of its tokens has seen all

The paper's flip is another thing: its code turns the data round, so that a second model is trained on it, and the results of the two are
combined afterwards; how, the released code does not show. That is the knob `reversed`. Here one model reads both ways and takes the mean,
which keeps the width and treats both alike. With both, each of the two readings is doubled.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from orca_core.bodies.base import NORMS, Body, Geometry, TextEmbedding

_LLAMA = ("layers", "self_attn", ("q_proj", "k_proj", "v_proj"))

_PARTS = {"gpt2": ("h", "attn", ("c_attn",)), "gpt_neox": ("layers", "attention", ("query_key_value",))}
"""Where a family keeps its blocks, the attention of a block, and the projections to queries, keys and values; Llama's kin keep to one."""


class DecoderBody(Body):
    """A decoder without its word table.

    Attributes:
        flipped, doubled: How it reads; see the module's docstring. Both start off.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        config = model.config
        self.blocks_at, self.attention_at, self.qkv_at = _PARTS.get(config.model_type, _LLAMA)
        self.flipped = self.doubled = False
        # The family's own forward makes the causal mask; it only needs words if it is given ids.
        model.set_input_embeddings(None)
        self.model = model
        self.geometry = Geometry("text", config.hidden_size, config.hidden_size, max_tokens=config.max_position_embeddings)

    @property
    def blocks(self) -> list[nn.Module]:
        return list(self.model.get_submodule(self.blocks_at).children())

    @property
    def attention(self) -> list[nn.Module]:
        return [block.get_submodule(self.attention_at) for block in self.blocks]

    @property
    def qkv(self) -> list[nn.Module]:
        return self.attention_parts(*self.qkv_at)

    @property
    def norm_types(self) -> tuple[type[nn.Module], ...]:
        own = getattr(self.model, "norm", None)  # Llama and Qwen have RMSNorms of types of their own, the last one stands here
        return NORMS if own is None else (*NORMS, type(own))

    def forward(self, tokens: Tensor) -> Tensor:
        if not self.flipped:
            return self._read(tokens)
        return (self._read(tokens) + self._read(tokens.flip(1)).flip(1)) / 2

    def _read(self, tokens: Tensor) -> Tensor:
        given = torch.cat([tokens, tokens], dim=1) if self.doubled else tokens
        return self.model(inputs_embeds=given, use_cache=False)[0][:, -tokens.shape[1] :]


class WordEmbedding(TextEmbedding):
    """A decoder's word table: no LayerNorm, and its positions are the body's."""

    def __init__(self, words: nn.Module) -> None:
        super().__init__()
        self.embeddings = words

    @property
    def positions(self) -> None:
        return None

    @property
    def norm(self) -> None:
        return None

    def embed(self, input_ids: Tensor) -> Tensor:
        return self.embeddings(input_ids)


def split_decoder(model: Any) -> tuple[DecoderBody, WordEmbedding]:
    """A Hugging Face model as (body, embedding)."""
    embedding = WordEmbedding(model.get_input_embeddings())  # first: the body leaves the word table to it
    return DecoderBody(model), embedding
