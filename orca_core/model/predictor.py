"""Predictors: the new output layer of stage 1, from the body's tokens to the task's outputs.

A predictor works in two steps: `pool`, which has no parameters, reduces tokens to features; `forward` maps features to outputs. With
embedder and body frozen, the features never change and are computed once. Pooling that is learned belongs to the second step: the
features are then the tokens themselves, and the predictor `pools_late`.

Shapes: n samples, l tokens, d width of the body's output tokens.
"""

from __future__ import annotations

import math

from torch import Tensor, nn

from orca_core.bodies.base import Geometry
from orca_core.model.embedder import Embedder, FieldEmbedder, ImageEmbedder, SeriesEmbedder, fold_side
from orca_core.model.pooling import FixedPool

ATTENTION_WIDTH = 128
"""Hidden units of the attention that pools."""


class AttentionPool(nn.Module):
    """A mean over tokens by learned weights (Ilse et al. 2018, arXiv 1802.04712, eq. 7 and 8): (n, l, d) -> (n, d).

    The weights are the softmax over tokens of w' tanh(V token). w starts at 0, so the pool starts as the mean.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.hidden = nn.Linear(width, ATTENTION_WIDTH, bias=False)
        self.weight = nn.Linear(ATTENTION_WIDTH, 1, bias=False)
        nn.init.zeros_(self.weight.weight)

    def forward(self, tokens: Tensor) -> Tensor:
        weights = self.weight(self.hidden(tokens).tanh()).softmax(1)
        return (weights * tokens).sum(1)


class Classifier(nn.Module):
    """Tokens pooled to one, then linear or with a hidden layer: (n, l, d) -> (n, num_classes).

    Args:
        width: Of the tokens, d.
        num_classes: Number of outputs.
        pool: `mean`, `max` or `attention`.
        head: `linear`, or `mlp`, with d hidden units.
    """

    def __init__(self, width: int, num_classes: int, pool: str = "mean", head: str = "linear") -> None:
        super().__init__()
        # The last layer first: all arms of a seed draw the same one.
        self.linear = nn.Linear(width, num_classes)
        self.hidden = nn.Sequential(nn.Linear(width, width), nn.GELU()) if head == "mlp" else nn.Identity()
        self.attention = AttentionPool(width) if pool == "attention" else nn.Identity()
        self.by_maximum, self.pools_late = pool == "max", pool == "attention"

    def pool(self, tokens: Tensor) -> Tensor:
        """(n, l, d) -> (n, d), or as it is where the pool is learned."""
        if self.pools_late:
            return tokens
        return tokens.amax(1) if self.by_maximum else tokens.mean(1)

    def forward(self, features: Tensor) -> Tensor:
        return self.linear(self.hidden(self.attention(features)))


class DenseSeries(nn.Module):
    """Each token's width pooled to the s positions it stands for: (n, l, d) -> (n, channels, l s). No parameters, as in the reference."""

    pools_late = False

    def __init__(self, width: int, channels: int, stride: int) -> None:
        super().__init__()
        self.channels, self.stride = channels, stride
        self.width_pool = FixedPool(width, channels * stride, dim=2)

    def pool(self, tokens: Tensor) -> Tensor:
        """(n, l, d) -> (n, channels, l s)."""
        values = self.width_pool(tokens).unflatten(2, (self.channels, self.stride))
        return values.permute(0, 2, 1, 3).flatten(2)

    def forward(self, features: Tensor) -> Tensor:
        return features


class DenseField(nn.Module):
    """Each token's width pooled to the patch it stands for: (n, l, d) -> (n, channels, height, width). No parameters."""

    pools_late = False

    def __init__(self, width: int, output_shape: tuple[int, int, int], grid: tuple[int, int], patch: int) -> None:
        super().__init__()
        self.output_shape, self.grid = output_shape, grid
        self.width_pool = FixedPool(width, output_shape[0] * patch * patch, dim=2)
        self.shuffle = nn.PixelShuffle(patch)

    def pool(self, tokens: Tensor) -> Tensor:
        """(n, l, d) -> (n, channels, height, width)."""
        field = self.shuffle(self.width_pool(tokens).transpose(1, 2).unflatten(2, self.grid))
        return field[:, :, : self.output_shape[1], : self.output_shape[2]]

    def forward(self, features: Tensor) -> Tensor:
        return features


class DenseImage(nn.Module):
    """Swin's masked-image decoder (1x1 convolution, pixel shuffle), then channels and sides pooled to the target's.

    (n, l, d) -> (n, channels, height, width), or (n, channels, length) for a series that was folded into a square.
    """

    pools_late = False

    def __init__(self, geometry: Geometry, output_shape: tuple[int, ...]) -> None:
        super().__init__()
        self.output_shape = output_shape
        self.side = geometry.output_side
        upscale = geometry.image_size // geometry.output_side
        colours = 3
        channels, *sizes = output_shape
        height, width = sizes if len(sizes) == 2 else (fold_side(sizes[0]),) * 2
        self.decoder = nn.Sequential(nn.Conv2d(geometry.output_width, upscale * upscale * colours, 1), nn.PixelShuffle(upscale))
        self.pools = nn.Sequential(
            FixedPool(colours, channels, dim=1), FixedPool(geometry.image_size, height, dim=2), FixedPool(geometry.image_size, width, dim=3)
        )

    def pool(self, tokens: Tensor) -> Tensor:
        """(n, l, d) -> (n, d, side, side)."""
        return tokens.transpose(1, 2).unflatten(2, (self.side, self.side))

    def forward(self, features: Tensor) -> Tensor:
        field = self.pools(self.decoder(features))
        return field if len(self.output_shape) == 3 else field.flatten(2)[:, :, : math.prod(self.output_shape[1:])]


Predictor = Classifier | DenseSeries | DenseField | DenseImage


def make_predictor(
    output_shape: tuple[int, ...], geometry: Geometry, embedder: Embedder, pool: str = "mean", head: str = "linear"
) -> Predictor:
    """The predictor for an output shape, drawn from torch's global generator.

    Args:
        output_shape: (num_classes,), (channels, length) or (channels, height, width).
        geometry: Of the body.
        embedder: The trial's embedder: dense predictors undo what it did to the input's shape.
        pool, head: As of `Classifier`; dense predictors have neither.
    """
    if len(output_shape) == 1:
        return Classifier(geometry.output_width, output_shape[0], pool, head)
    if isinstance(embedder, ImageEmbedder):
        return DenseImage(geometry, output_shape)
    if isinstance(embedder, SeriesEmbedder):
        return DenseSeries(geometry.output_width, output_shape[0], embedder.stride)
    assert isinstance(embedder, FieldEmbedder)
    channels, height, width = output_shape
    return DenseField(geometry.output_width, (channels, height, width), embedder.grid, embedder.patch)
