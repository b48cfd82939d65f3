"""Bodiless arms: what takes the place of the body when an ablation leaves the pretrained transformer out.

    none            nothing: tokens pass through                        "w/o LLM"
    attention-1     one layer of self-attention                         "LLM2Attn"
    transformer-1   one transformer layer                               "LLM2Trsf"
    cnn             four residual blocks of convolutions, 1D or 2D

The names in quotes are those of Tan et al., "Are language models actually useful for time series forecasting?", NeurIPS 2024, arXiv
2406.16964, where these three did as well as the language models whose place they took. Xu et al., "Specialized foundation models struggle
to beat supervised baselines", ICLR 2025, arXiv 2411.02796, found the same of tuned convolutional networks; `cnn` is one such network at a
fixed size, not their architecture search.

Layers add to their input and normalise only what they add, so that the size of a value reaches the predictor: in dense tasks it is part of
the answer. Weights are drawn by the trial's seed and always train. Shapes: n samples, l tokens, d width.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

from torch import Tensor, nn
from torch.nn import functional as F

from orca_core.bodies.base import Body, Geometry
from orca_core.bodies.spec import BodySpec

WIDTH, HEADS, MAX_TOKENS = 64, 4, 512
"""Of `none`, `attention-1` and `transformer-1`: mini-roberta's width and heads, RoBERTa's tokens."""

CHANNELS, PIXELS, DILATIONS = 32, 1024, (1, 2, 4, 8)
"""Of `cnn`: channels; most points or pixels, larger inputs are cut into patches; of each block, which together see 61 points at once."""


class SelfAttention(nn.Module):
    """x + attention(LayerNorm(x)), with dropout on what is added: (n, l, d) -> (n, l, d)."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.output = nn.Linear(width, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = self.qkv(self.norm(x)).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)
        return x + self.dropout(self.output(mixed))


class TransformerLayer(nn.Module):
    """Self-attention, then x + feed-forward(LayerNorm(x)), pre-norm (Xiong et al. 2020): (n, l, d) -> (n, l, d)."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.attention = SelfAttention(width, heads, dropout)
        self.feed_forward = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width), nn.Dropout(dropout)
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.attention(x)
        return x + self.feed_forward(x)


class ResidualBlock(nn.Module):
    """x + conv(GELU(norm(conv(GELU(norm(x)))))), kernels of 3, zero padding (He et al. 2016, "Identity mappings"): (n, c, ...) -> same.

    Norms are over channels and places of a sample, not over a batch: what a sample gives must not depend on the others.
    """

    def __init__(self, channels: int, dims: int, dilation: int, dropout: float) -> None:
        super().__init__()
        convolution = {1: nn.Conv1d, 2: nn.Conv2d}[dims]
        self.layers = nn.Sequential(
            nn.GroupNorm(1, channels),
            nn.GELU(),
            convolution(channels, channels, 3, padding=dilation, dilation=dilation),
            nn.GroupNorm(1, channels),
            nn.GELU(),
            nn.Dropout(dropout),
            convolution(channels, channels, 3, padding=dilation, dilation=dilation),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layers(x)


class SequenceLayers(Body):
    """Layers that take and give a sequence of tokens; with none of them tokens pass through."""

    def __init__(self, layers: list[nn.Module]) -> None:
        super().__init__()
        self.geometry = Geometry("none", WIDTH, WIDTH, MAX_TOKENS)
        self.layers = nn.ModuleList(layers)

    @property
    def blocks(self) -> list[nn.Module]:
        return list(self.layers)

    @property
    def attention(self) -> list[nn.Module]:
        return [module for module in self.modules() if isinstance(module, SelfAttention)]

    def forward(self, tokens: Tensor) -> Tensor:
        for layer in self.layers:
            tokens = layer(tokens)
        return tokens


class ConvolutionalNetwork(Body):
    """Residual blocks over the places where the tokens lie.

    Args:
        dims: 1 for a line, 2 for a grid.
        dropout: Rate inside each block.

    Attributes:
        grid: Number of tokens along each axis, set by the model; empty for a line, or for as many tokens as fill a square.
    """

    def __init__(self, dims: int, dropout: float) -> None:
        super().__init__()
        self.geometry = Geometry("none", CHANNELS, CHANNELS, PIXELS, linear_embedder=True)
        self.dims, self.grid = dims, ()
        self.layers = nn.ModuleList(ResidualBlock(CHANNELS, dims, dilation, dropout) for dilation in DILATIONS)

    grid: tuple[int, ...]

    @property
    def blocks(self) -> list[nn.Module]:
        return list(self.layers)

    @property
    def attention(self) -> list[nn.Module]:
        return []

    def forward(self, tokens: Tensor) -> Tensor:
        length = tokens.shape[1]
        grid = self.grid or ((length,) if self.dims == 1 else (math.isqrt(length),) * 2)
        x = tokens.transpose(1, 2).unflatten(2, grid)
        for layer in self.layers:
            x = layer(x)
        return x.flatten(2).transpose(1, 2)


_MAKERS: Mapping[str, Callable[[int, float], Body]] = {
    "none": lambda dims, dropout: SequenceLayers([]),
    "attention": lambda dims, dropout: SequenceLayers([SelfAttention(WIDTH, HEADS, dropout)]),
    "transformer": lambda dims, dropout: SequenceLayers([TransformerLayer(WIDTH, HEADS, dropout)]),
    "cnn": ConvolutionalNetwork,
}


def bodiless(spec: BodySpec, dropout: float = 0.0) -> Body:
    """What takes the body's place, drawn from torch's global generator.

    Args:
        spec: Of `orca_core.bodies.BODILESS`, for the dimensions of a task.
        dropout: Rate inside its layers.
    """
    return _MAKERS[spec.model_type](spec.dims, dropout)
