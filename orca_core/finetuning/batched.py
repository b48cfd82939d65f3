"""Layers of several models at once, one batched product each, with gradients that are written out where that saves passes over the data.

Shapes: m members, t tokens of each, d and o widths.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

Pair = tuple[Tensor, Tensor | None]
"""Weight and bias of a layer, of all members."""


def linear(x: Tensor, layer: Pair, beside: Tensor | None = None) -> Tensor:
    """Linear layers: (m, t, d) by (m, o, d) and (m, o) -> (m, t, o).

    Args:
        x: What goes in.
        layer: The weights.
        beside: (m, t, o) to which the result is added, as around a block.
    """
    weight, bias = layer
    if beside is not None:  # the product is added in place, where `baddbmm` would copy what it is added to
        if bias is None:
            return torch.baddbmm(beside, x, weight.transpose(1, 2))
        return (beside + bias.unsqueeze(1)).baddbmm_(x, weight.transpose(1, 2))
    if bias is None:
        return torch.bmm(x, weight.transpose(1, 2))
    return torch.baddbmm(bias.unsqueeze(1), x, weight.transpose(1, 2))


def layer_norm(x: Tensor, norm: Pair, eps: float) -> Tensor:
    """LayerNorms over the last axis: (m, t, d) by (m, d) and (m, d) -> (m, t, d)."""
    values: Tensor = _LayerNorm.apply(x, *norm, eps)
    return values


def normed_linear(x: Tensor, norm: Pair, layer: Pair, eps: float) -> Tensor:
    """LayerNorms and the linear layers that read them: (m, t, d) -> (m, t, o). The norm's affine map enters the layer's weights."""
    values: Tensor = _NormedLinear.apply(x, *norm, *layer, eps)
    return values


def _normalised(x: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    """Values of mean 0 and variance 1 over the last axis, and what their gradient needs."""
    width = x.shape[-1]
    # The kernel takes half as long again without an affine map as with one that changes nothing.
    return torch.native_layer_norm(x, (width,), x.new_ones(width), x.new_zeros(width), eps)


def _by_input(gradient: Tensor, x: Tensor, mean: Tensor, scale: Tensor) -> Tensor:
    """The gradient by `x` from that by its normalised values."""
    width = x.shape[-1]
    one, zero, kernel = x.new_ones(width), x.new_zeros(width), torch.ops.aten.native_layer_norm_backward
    found: Tensor = kernel(gradient, x, (width,), mean, scale, one, zero, (True, False, False))[0]
    return found


class _LayerNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, eps: float) -> Tensor:
        values, mean, scale = _normalised(x, eps)
        ctx.save_for_backward(x, weight, values, mean, scale)
        if bias is None:
            return values * weight.unsqueeze(1)
        return torch.addcmul(bias.unsqueeze(1), values, weight.unsqueeze(1))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, values, mean, scale = ctx.saved_tensors
        by_x, by_weight, by_bias, _ = ctx.needs_input_grad
        return (
            _by_input(gradient * weight.unsqueeze(1), x, mean, scale) if by_x else None,
            (gradient * values).sum(1) if by_weight else None,
            gradient.sum(1) if by_bias else None,
            None,
        )


class _NormedLinear(torch.autograd.Function):
    """With values v of mean 0 and variance 1: (v w + b) A' + c = v (A w)' + (A b + c)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, w: Tensor, b: Tensor | None, a: Tensor, c: Tensor | None, eps: float) -> Tensor:
        values, mean, scale = _normalised(x, eps)
        both = a * w.unsqueeze(1)
        ctx.save_for_backward(x, w, b, a, both, values, mean, scale)
        shift = None if b is None else torch.bmm(a, b.unsqueeze(2)).squeeze(2)
        if shift is not None and c is not None:
            shift.add_(c)
        return linear(values, (both, c if shift is None else shift))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, w, b, a, both, values, mean, scale = ctx.saved_tensors
        by_x, by_w, by_b, by_a, by_c, _ = ctx.needs_input_grad
        of_x = _by_input(torch.bmm(gradient, both), x, mean, scale) if by_x else None
        of_w = of_b = of_a = None
        of_shift = gradient.sum(1)
        if by_w or by_a:
            of_both = torch.bmm(gradient.transpose(1, 2), values)
            of_w = (of_both * a).sum(1)
            of_a = of_both * w.unsqueeze(1)
            if b is not None:
                of_a = torch.baddbmm(of_a, of_shift.unsqueeze(2), b.unsqueeze(1))
        if by_b:
            of_b = torch.bmm(of_shift.unsqueeze(1), a).squeeze(1)
        return of_x, of_w, of_b, of_a, of_shift if by_c else None, None
