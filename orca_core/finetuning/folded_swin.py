"""The folded form of a Swin (`orca_core.finetuning.folded`): its tokens lie in Z-order, and attention is written out.

In the Z-order of a grid every aligned square whose side is a power of 2 lies in one piece. So windows and the patches that are merged are
views, and nothing is cut or put together between the first layer and the last. Windows are not shifted: the mini Swin has one block a
stage, and shifts are for every second.

Shapes: m members, n samples of each, t tokens of all samples of a member, a tokens of a window, h heads of size s, d = h s.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from orca_core.bodies.families.images import SwinBody
from orca_core.finetuning.batched import Pair, layer_norm, linear, normed_linear

AT_ONCE = 8
"""Most members of one pass: a third of the memory for results of one of 24. A step of 24 mini-swin in batches of 32 takes 2 % longer in one
pass, in which fewer results stay in the processor's cache, and 3 % longer in passes of 4."""


def is_foldable(body: nn.Module) -> bool:
    """Whether a body is a Swin without shifted windows and stochastic depth, whose sides are powers of 2."""
    if type(body) is not SwinBody:
        return False
    blocks: list[Any] = body.blocks
    sides = [body.geometry.side, body.geometry.output_side, *(block.window_size for block in blocks)]
    are_plain = all(block.shift_size == 0 and isinstance(block.drop_path, nn.Identity) for block in blocks)
    return are_plain and all(side & (side - 1) == 0 for side in sides)


def z_order(side: int) -> Tensor:
    """Place in raster order of each token of a square in Z-order. Of four neighbours columns come first, as where patches are merged.

    >>> z_order(4).tolist()
    [0, 4, 1, 5, 8, 12, 9, 13, 2, 6, 3, 7, 10, 14, 11, 15]
    """
    order = torch.zeros(1, dtype=torch.int64)
    block = 1
    while block < side:
        order = torch.cat([order + block * (row * side + column) for column in range(2) for row in range(2)])
        block *= 2
    return order


class FoldedSwin(nn.Module):
    """The Swins of all members: (m n, l, d) -> (m n, l', d').

    Args:
        name: Of the body in the model.
        weights: Of the pass, by name.
        body: Of one member, see `is_foldable`.
    """

    at_once = AT_ONCE

    def __init__(self, name: str, weights: Mapping[str, Tensor], body: Any) -> None:
        super().__init__()
        self.name, self.weights, self.eps = name, weights, body.layernorm.eps
        self.orders = z_order(body.geometry.side), z_order(body.geometry.output_side).argsort()
        side = body.geometry.side
        self.layers: list[_Block | _Merging] = []
        for number, stage in enumerate(body.encoder.layers):
            place = f"encoder.layers.{number}"
            self.layers += [
                _Block(self, f"{place}.blocks.{n}", block, min(side, block.window_size)) for n, block in enumerate(stage.blocks)
            ]
            if stage.downsample is not None:
                self.layers.append(_Merging(self, f"{place}.downsample", stage.downsample))
                side //= 2

    def own(self, name: str) -> Pair:
        """Weight and bias of a layer, of all members."""
        return self.weights[f"{self.name}.{name}.weight"], self.weights.get(f"{self.name}.{name}.bias")

    def forward(self, tokens: Tensor) -> Tensor:
        norm, (there, back) = self.own("layernorm"), self.orders
        x = _Ordered.apply(tokens, there).view(len(norm[0]), -1, tokens.shape[-1])
        for layer in self.layers:
            x = layer(x)
        x = layer_norm(x, norm, self.eps)
        ordered: Tensor = _Ordered.apply(x.view(len(tokens), -1, x.shape[-1]), back)
        return ordered


class _Ordered(torch.autograd.Function):
    """Tokens (m n, l, d) in another order. Its gradient is read in the order back, where autograd would add into zeros."""

    @staticmethod
    def forward(ctx: Any, tokens: Tensor, order: Tensor) -> Tensor:
        ctx.order = order
        return tokens.index_select(1, order)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient.index_select(1, ctx.order.argsort()), None


class _Merging:
    """The merging of four neighbours to a token: (m, t, d) -> (m, t / 4, 2 d).

    Args:
        swin: Where weights are found.
        name: Of the layer in the body.
        layer: Of one member.
    """

    def __init__(self, swin: FoldedSwin, name: str, layer: Any) -> None:
        self.swin, self.name, self.eps = swin, name, layer.norm.eps

    def __call__(self, x: Tensor) -> Tensor:
        norm, reduction = (self.swin.own(f"{self.name}.{part}") for part in ("norm", "reduction"))
        return normed_linear(x.view(len(x), -1, 4 * x.shape[-1]), norm, reduction, self.eps)


class _Block:
    """Attention within windows, then a layer for each token: (m, t, d) -> (m, t, d).

    Args:
        swin: Where weights are found.
        name: Of the block in the body.
        block: Of one member.
        window: Side of its windows.
    """

    def __init__(self, swin: FoldedSwin, name: str, block: Any, window: int) -> None:
        self.swin, self.name = swin, name
        self.eps = block.layernorm_before.eps, block.layernorm_after.eps
        self.activation, self.scale = block.mlp.activation_fn, block.attention.scaling
        self.area, order = window * window, z_order(window)
        index: Tensor = block.attention.relative_position_bias.relative_position_index
        self.index = index.view(self.area, self.area)[order][:, order].flatten()

    def own(self, name: str) -> Pair:
        """Weight and bias of a layer, of all members."""
        return self.swin.own(f"{self.name}.{name}")

    def __call__(self, x: Tensor) -> Tensor:
        weights, biases = zip(*(self.own(f"attention.{part}_proj") for part in "qkv"), strict=True)
        together = torch.cat(weights, 1), None if biases[0] is None else torch.cat(biases, 1)
        read = normed_linear(x, self.own("layernorm_before"), together, self.eps[0])
        attended: Tensor = _WindowAttention.apply(read, self._biases(), self.scale)
        x = linear(attended, self.own("attention.o_proj"), beside=x)
        hidden = self.activation(normed_linear(x, self.own("layernorm_after"), self.own("mlp.fc1"), self.eps[1]))
        return linear(hidden, self.own("mlp.fc2"), beside=x)

    def _biases(self) -> Tensor:
        """(m, h, a, a) that attention adds by the relative position of two tokens."""
        table = self.swin.weights[f"{self.swin.name}.{self.name}.attention.relative_position_bias.relative_position_bias_table"]
        return table.transpose(1, 2).index_select(2, self.index).view(len(table), -1, self.area, self.area)


class _WindowAttention(torch.autograd.Function):
    """(m, t, 3 d) queries, keys and values, and (m, h, a, a) biases -> (m, t, d).

    Each head reads its part of a product of all heads where it lies, so nothing is copied on the way in.
    """

    @staticmethod
    def forward(ctx: Any, read: Tensor, biases: Tensor, scale: float) -> Tensor:
        heads, area = biases.shape[1], biases.shape[-1]
        shares, attended = [], []
        for head, (query, key, value) in enumerate(_heads(read, heads, area)):
            scores = torch.bmm(query, key.transpose(1, 2)).view(len(read), -1, area * area)
            added = biases[:, head].reshape(len(read), 1, area * area)
            share = torch.add(added, scores, alpha=scale).view(-1, area, area).softmax(-1)
            shares.append(share)
            attended.append(torch.bmm(share, value))
        ctx.save_for_backward(read, *shares)
        ctx.scale = scale
        return torch.cat(attended, -1).view(*read.shape[:2], -1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        read, *shares = ctx.saved_tensors
        heads, area = len(shares), shares[0].shape[-1]
        of_queries, of_keys, of_values, of_biases = [], [], [], []
        of_heads = gradient.view(-1, area, gradient.shape[-1]).chunk(heads, -1)
        for share, own, (query, key, value) in zip(shares, of_heads, _heads(read, heads, area), strict=True):
            of_values.append(torch.bmm(share.transpose(1, 2), own))
            of_scores = torch._softmax_backward_data(torch.bmm(own, value.transpose(1, 2)), share, -1, share.dtype)
            of_biases.append(of_scores.view(len(read), -1, area * area).sum(1))
            of_scores *= ctx.scale
            of_queries.append(torch.bmm(of_scores, key))
            of_keys.append(torch.bmm(of_scores.transpose(1, 2), query))
        of_read = torch.cat([*of_queries, *of_keys, *of_values], -1).view(read.shape)
        return of_read, torch.stack(of_biases, 1).view(len(read), heads, area, area), None


def _heads(read: Tensor, heads: int, area: int) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Query, key and value of each head: (m t / a, a, s) views."""
    parts = read.view(-1, area, read.shape[-1]).chunk(3 * heads, -1)
    return [(parts[head], parts[heads + head], parts[2 * heads + head]) for head in range(heads)]
