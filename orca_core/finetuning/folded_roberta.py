"""The folded form of a RoBERTa (`orca_core.finetuning.folded`): one product for queries, keys and values, and attention written out.

Shapes: m members, n samples of each, l tokens of a sample, h heads of size s, d = h s.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from orca_core.bodies.families.bert import BertBody
from orca_core.finetuning.batched import Pair, layer_norm, linear
from orca_core.finetuning.stacked import LINE, round_up

AT_ONCE = 12
"""Most members of one pass. In one of 24 results no longer stay in the processor's cache; with few what is between operations counts."""

MOST_TOKENS = 32
"""Longest sequence whose attention is written out; torch's own kernel is faster for longer ones, and holds no scores."""


class FoldedRoberta(nn.Module):
    """The layers of all members: (m n, l, d) -> (m n, l, d).

    Args:
        name: Of the body in the model.
        weights: Of the pass, by name.
        body: Of one member, see `is_roberta`.
    """

    at_once = AT_ONCE

    def __init__(self, name: str, weights: Mapping[str, Tensor], body: Any) -> None:
        super().__init__()
        self.layers = [_Layer(f"{name}.encoder.layer.{number}", weights, layer) for number, layer in enumerate(body.blocks)]

    def forward(self, tokens: Tensor) -> Tensor:
        length, width = tokens.shape[1:]
        x = tokens.view(self.layers[0].members(), -1, width)
        for layer in self.layers:
            x = layer(x, length)
        return x.view(-1, length, width)


def is_roberta(body: nn.Module) -> bool:
    """Whether a body is a RoBERTa, which here is a mini one."""
    return type(body) is BertBody and all(type(layer).__name__ == "RobertaLayer" and not layer.is_decoder for layer in body.blocks)


class _Layer:
    """One layer of all members.

    Args:
        name: Of the layer in the model.
        weights: Of the pass, by name.
        layer: Of one member.
    """

    def __init__(self, name: str, weights: Mapping[str, Tensor], layer: Any) -> None:
        self.name, self.weights = name, weights
        self.heads: int = layer.attention.self.num_attention_heads
        self.activation = layer.intermediate.intermediate_act_fn
        self.eps = layer.attention.output.LayerNorm.eps, layer.output.LayerNorm.eps

    def members(self) -> int:
        """Number of models in the pass."""
        return len(self.own("output.dense")[0])

    def own(self, name: str) -> Pair:
        """Weight and bias of a part, of all members."""
        return self.weights[f"{self.name}.{name}.weight"], self.weights[f"{self.name}.{name}.bias"]

    def __call__(self, x: Tensor, length: int) -> Tensor:
        """(m, n l, d) -> (m, n l, d), samples of `length` tokens."""
        weights, biases = zip(*(self.own(f"attention.self.{part}") for part in ("query", "key", "value")), strict=True)
        read = linear(x, (torch.cat(weights, 1), torch.cat(biases, 1)))
        attended = attend(read, self.heads, length)
        x = layer_norm(linear(attended, self.own("attention.output.dense"), beside=x), self.own("attention.output.LayerNorm"), self.eps[0])
        hidden = self.activation(linear(x, self.own("intermediate.dense")))
        return layer_norm(linear(hidden, self.own("output.dense"), beside=x), self.own("output.LayerNorm"), self.eps[1])


def attend(read: Tensor, heads: int, length: int, most: int = MOST_TOKENS) -> Tensor:
    """Attention within samples: (m, n l, 3 d) queries, keys and values -> (m, n l, d). Of up to `most` tokens it is written out."""
    if length <= most:
        attended: Tensor = _Attention.apply(read, heads, length)
        return attended
    query, key, value = read.view(-1, length, 3, heads, read.shape[-1] // (3 * heads)).permute(2, 0, 3, 1, 4)
    return nn.functional.scaled_dot_product_attention(query, key, value).transpose(1, 2).reshape(*read.shape[:2], -1)


class _Attention(torch.autograd.Function):
    """See `attend`.

    Scores are (keys, queries): over a last axis of ten numbers torch's softmax takes ten times as long. Queries are filled up to whole
    vectors.
    """

    @staticmethod
    def forward(ctx: Any, read: Tensor, heads: int, length: int) -> Tensor:
        members, tokens, width = read.shape
        samples, size = members * tokens // length, width // (3 * heads)
        parts = _laid_out(read.view(samples, length, 3, heads, size).permute(2, 0, 3, 1, 4)).flatten(1, 2)
        query, key, value = parts[0], parts[1, :, :length], parts[2, :, :length]
        shares = torch.bmm(key, query.transpose(1, 2)).mul_(size**-0.5).softmax(1)
        ctx.save_for_backward(parts, shares)
        ctx.shape, ctx.length = read.shape, length
        attended = torch.bmm(shares.transpose(1, 2), value)
        return attended.view(samples, heads, -1, size)[:, :, :length].transpose(1, 2).reshape(members, tokens, -1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        parts, shares = ctx.saved_tensors
        query, key, value = parts[0], parts[1, :, : ctx.length], parts[2, :, : ctx.length]
        size = parts.shape[-1]
        heads = gradient.shape[-1] // size
        own = _laid_out(gradient.view(-1, ctx.length, heads, size).transpose(1, 2)).flatten(0, 1)
        of_shares = torch.bmm(value, own.transpose(1, 2))
        of_scores = torch._softmax_backward_data(of_shares, shares, 1, shares.dtype).mul_(size**-0.5)
        of_parts = gradient.new_empty(len(own) // heads, ctx.length, 3, heads, size)
        products = (of_scores.transpose(1, 2), key), (of_scores, query), (shares, own)
        for number, product in enumerate(products):
            of_part = torch.bmm(*product).unflatten(0, (-1, heads))
            of_parts[:, :, number].copy_(of_part[:, :, : ctx.length].transpose(1, 2))
        return of_parts.view(ctx.shape), None, None


def _laid_out(parts: Tensor) -> Tensor:
    """(..., l, s) -> (..., l', s), contiguous and with zeros up to a multiple of the numbers of a vector."""
    *front, length, size = parts.shape
    if length % (LINE // 2) == 0:
        return parts.contiguous()
    filled = parts.new_zeros(*front, round_up(length, LINE // 2), size)
    filled[..., :length, :].copy_(parts)
    return filled
