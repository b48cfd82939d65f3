"""Ladder side-tuning (Sung et al. 2022, arXiv 2206.06522, section 3.2): a small network beside the body, which reads from its layers.

Tokens h_0 that the embedder made, h_i of the i-th layer that is tapped, and h of the body become

    s_0 = F_0 h_0,    s_i = block_i(mu_i F_i h_i + (1 - mu_i) s_(i-1)),    mu_i = sigmoid(a_i / 0.1),    result: h + U norm(s_last)

with linear F_i to the side's width w and U back from it, a_i = 0 at the start, and block_i a transformer block of width w (LayerNorm
before each sublayer, heads of 16 or more, feed-forward network of 4 w, causal where the body is). The result is a sum with what the
body gives, as in side-tuning (Zhang et al. 2019, arXiv 1912.13503), and U starts at zero: training starts at the body, to the bit. The
paper reads U s alone, and cuts the start of the side out of the body's weights; here it is drawn.

No gradient passes through the body. Where embedder and body stay as they are (the side is what `body` stands for in a freezing
schedule), h_0, h_i and h are computed once. An embedder that trains learns through s_0 alone, so `freezing: frozen-embedder`, with or
without an alignment before it, is what this adapter is made for.

Parameters, of a body of width D with taps of width d_i: (w d_0 + w) + sum (w d_i + w + 1 + 12 w^2 + 13 w) + 2 w + (D w + D).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from orca_core.adapters.base import Adapter, own_parameters
from orca_core.bodies.base import Body
from orca_core.bodies.families.decoders import DecoderBody
from orca_core.errors import ConfigError, Fault
from orca_core.model.pooling import pooling_matrix

TEMPERATURE = 0.1
"""Of the gates, as the paper has it."""

_HEAD = 16
"""Least width of a head of the side's attention."""


class SideBlock(nn.Module):
    """A transformer block, (n, l, w) -> (n, l, w)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.heads = next(heads for heads in range(max(1, width // _HEAD), 0, -1) if width % heads == 0)
        self.attention_norm, self.norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, s: Tensor, *, causal: bool) -> Tensor:
        query, key, value = self.qkv(self.attention_norm(s)).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        seen = F.scaled_dot_product_attention(query, key, value, is_causal=causal)
        s = s + self.out(seen.transpose(1, 2).flatten(2))
        return s + self.down(F.gelu(self.up(self.norm(s))))


class SideNetwork(nn.Module):
    """The ladder: h_0, taps and output of a body -> what takes the output's place.

    Args:
        widths: Of h_0 and of the taps, from the bottom.
        output_width: Of the body's output.
        width: w.
    """

    def __init__(self, widths: Sequence[int], output_width: int, width: int) -> None:
        super().__init__()
        self.first, *rungs = (nn.Linear(given, width) for given in widths)
        self.rungs, self.blocks = nn.ModuleList(rungs), nn.ModuleList(SideBlock(width) for _ in rungs)
        self.gates = nn.Parameter(torch.zeros(len(rungs)))
        self.norm, self.up = nn.LayerNorm(width), nn.Linear(width, output_width)
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)

    def forward(self, read: Sequence[Tensor], *, causal: bool) -> Tensor:
        """(n, l_i, d_i) h_0, taps and output -> (n, l', D)."""
        start, *taps, output = read
        s: Tensor = self.first(start)
        for rung, block, gate, tap in zip(self.rungs, self.blocks, torch.sigmoid(self.gates / TEMPERATURE), taps, strict=True):
            s = block(gate * rung(tap) + (1 - gate) * _with_length(s, tap.shape[1]), causal=causal)
        return output + self.up(self.norm(_with_length(s, output.shape[1])))


class SideAdapter(Adapter):
    """A ladder beside a body, which the body keeps and whose result it gives.

    Args:
        body: The body.
        taps: Layers to read, from 0 at the bottom.
        width: w; None for an eighth of the width of the body's output, and at least 8.

    Raises:
        ConfigError: If the body has no such layers.
    """

    def __init__(self, body: Body, *, taps: list[int], width: int | None) -> None:
        super().__init__("side", body)
        if not body.blocks or max(taps) >= len(body.blocks):
            raise ConfigError([Fault("adapter.taps", f"must name layers below {len(body.blocks)}, those of the body", max(taps))])
        body.requires_grad_(False)
        self.reads: list[Tensor] = []
        for tap in taps:
            body.blocks[tap].register_forward_hook(self._note)
        self.own_forward: Callable[[Tensor], Tensor] = body.forward
        self.shapes: list[torch.Size] = []
        geometry = body.geometry
        length = geometry.side**2 if geometry.modality == "images" else min(4, geometry.max_tokens // 2)
        self.read(torch.zeros(1, length, geometry.width))
        side = SideNetwork([shape[1] for shape in self.shapes[:-1]], geometry.output_width, width or max(8, geometry.output_width // 8))
        body.add_module("side", side)
        body.forward = self.forward  # type: ignore[method-assign]
        self.side, self.parameters = side, own_parameters(side)

    def train_mode(self) -> None:
        """The body is read as it is, without dropout, whatever trains beside it."""
        trains = any(parameter.requires_grad for parameter in self.parameters)
        self.body.eval()
        self.side.train(trains)

    def forward(self, tokens: Tensor) -> Tensor:
        """In the place of the body's own: (n, l, d) -> (n, l', D)."""
        return self.combine(self.read(tokens))

    def read(self, tokens: Tensor) -> list[Tensor]:
        """(n, l, d) tokens -> h_0 with its gradient, and taps and output of the body without any."""
        with torch.no_grad():
            self.reads.clear()
            output = self.own_forward(tokens)
            noted = [self._aligned(noted) for noted in self.reads]
            self.reads.clear()
        taps = noted
        if isinstance(self.body, DecoderBody) and self.body.flipped:  # two readings, the second of the reversed sequence
            half = len(noted) // 2
            taps = [(one + other.flip(1)) / 2 for one, other in zip(noted[:half], noted[half:], strict=True)]
        if isinstance(self.body, DecoderBody) and self.body.doubled:
            taps = [tap[:, -tokens.shape[1] :] for tap in taps]
        read = [tokens, *taps, output]
        self.shapes = [part.shape[1:] for part in read]
        return read

    def combine(self, read: Sequence[Tensor]) -> Tensor:
        """What `read` gave -> (n, l', D)."""
        is_decoder = isinstance(self.body, DecoderBody)
        result: Tensor = self.side(read, causal=is_decoder and not (self.body.flipped or self.body.doubled))
        return result

    def pack(self, read: Sequence[Tensor]) -> Tensor:
        """What `read` gave as one tensor: (n, numbers of a sample)."""
        return torch.cat([part.flatten(1) for part in read], dim=1)

    def unpack(self, packed: Tensor) -> list[Tensor]:
        """What `pack` packed, of the shapes of the last reading."""
        parts = packed.split([math.prod(shape) for shape in self.shapes], dim=1)
        return [part.unflatten(1, tuple(shape)) for part, shape in zip(parts, self.shapes, strict=True)]

    def _note(self, block: Any, inputs: Any, output: Any) -> None:
        self.reads.append(output[0] if isinstance(output, tuple) else output)

    def _aligned(self, tokens: Tensor) -> Tensor:
        """(n, l, d) of what a block gave: timm's Swin gives a grid, and class and register tokens are left out."""
        return (tokens.flatten(1, 2) if tokens.dim() == 4 else tokens)[:, self.body.own_tokens :]


def _with_length(s: Tensor, length: int) -> Tensor:
    """The side's tokens as many as the layer beside them has: Swin halves its grid between stages, and here the mean is taken."""
    if s.shape[1] == length:
        return s
    matrix = pooling_matrix(math.isqrt(s.shape[1]), math.isqrt(length)).to(s)
    grid = s.unflatten(1, (matrix.shape[1], matrix.shape[1]))
    return torch.einsum("ia,jb,nabw->nijw", matrix, matrix, grid).flatten(1, 2)
