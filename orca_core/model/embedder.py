"""Embedders: the new input layer of stage 1, from target inputs to the body's tokens.

    SeriesEmbedder      1D input -> text body: convolution with kernel = stride = s, LayerNorm, positions (unless the body adds them)
    FieldEmbedder       2D input -> text body: patches in raster order, LayerNorm, positions (likewise)
    ImageEmbedder       2D input -> image body: resize to the body's image size, patches, LayerNorm, positions
                        1D input -> image body: the series folded into a square, row by row, then the same

Bodiless arms have the first two. That of `cnn` is a projection alone: of a single value, LayerNorm leaves little but the sign.

`embedder.init: matched` gives all of them the mean and covariance of the proxy's features, see `orca_core.model.matching`.

Each embedder works in two steps: `pixels` brings inputs into the form that is cut into patches, without parameters; `tokens` makes
tokens of it. `unit` is the side of a patch there, so that patch (i, j) of `grid` is rows i unit to (i + 1) unit, and columns likewise.

Shapes: n samples, l tokens, d width of the body's tokens.
"""

from __future__ import annotations

import math
from collections.abc import Collection

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from orca_core.bodies.base import BodyEmbedding, Geometry, ImageEmbedding, TextEmbedding
from orca_core.bodies.keep import OF_EMBEDDING
from orca_core.datafiles.embedder_weights import check_weights_file
from orca_core.datafiles.expected import refuse
from orca_core.errors import Fault
from orca_core.workbench import Workbench


def series_stride(length: int, max_tokens: int) -> int:
    """Kernel and stride for a series: the smallest divisor s of its length with length / s <= max_tokens (reference: `embedder.py:228`).

    A length without such a divisor, a large prime, becomes one token; pad such a series.

    >>> series_stride(46, 512), series_stride(1000, 64), series_stride(997, 512)
    (1, 20, 997)
    """
    return next(s for s in range(1, length + 1) if length % s == 0 and length // s <= max_tokens)


def fold_side(length: int) -> int:
    """Side of the square that a series is folded into."""
    return math.isqrt(length - 1) + 1


class Colouring(nn.Module):
    """A fixed affine map of tokens (n, l, d), after LayerNorm and before positions: by what `matching` finds, at first the identity.

    It is state, not parameters: it never trains, and an embedder that has it trains as many numbers as one that has not.
    """

    weight: Tensor
    bias: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        self.register_buffer("weight", torch.eye(width))
        self.register_buffer("bias", torch.zeros(width))

    def forward(self, tokens: Tensor) -> Tensor:
        return nn.functional.linear(tokens, self.weight, self.bias)


def _finish(embedder: Embedder, tokens: Tensor) -> Tensor:
    """Colouring and positions, where the embedder has them."""
    if embedder.colouring is not None:
        tokens = embedder.colouring(tokens)
    return tokens if embedder.positions is None else tokens + embedder.positions


class PatchEmbedder(nn.Module):
    """An embedder of a text body: a convolution makes one token of each patch, LayerNorm and positions follow.

    Args:
        projection: The convolution; it is initialised anew.
        num_tokens: Number of patches.
        geometry: What the body takes.
        positions: Whether the embedder adds positions.
    """

    unit: int
    grid: tuple[int, ...]

    def __init__(self, projection: nn.Conv1d | nn.Conv2d, num_tokens: int, geometry: Geometry, positions: bool) -> None:
        super().__init__()
        self.projection = projection
        self.norm = nn.Identity() if geometry.linear_embedder else nn.LayerNorm(geometry.width)
        self.colouring: Colouring | None = None
        self.positions = _fresh_positions(num_tokens, geometry.width) if positions else None
        # Xavier with gain sqrt 2 and bias 0, as the reference has it.
        nn.init.xavier_uniform_(self.projection.weight, gain=math.sqrt(2))
        nn.init.zeros_(_bias(self.projection))

    def copy_pretrained(self, embedding: TextEmbedding, kept: Collection[str] = OF_EMBEDDING) -> None:
        """Take LayerNorm and positions from the body's own embedding, if it has them; the projection has no counterpart there.

        Args:
            embedding: The body's own embedding.
            kept: The parts of it that are pretrained; of the others nothing is taken.
        """
        if embedding.norm is not None and isinstance(self.norm, nn.LayerNorm) and "layernorm" in kept:
            _copy_norm(self.norm, embedding.norm)
        if "embeddings" in kept:
            _copy_positions(self, embedding)

    def pixels(self, x: Tensor) -> Tensor:
        """The inputs themselves."""
        return x

    def tokens(self, pixels: Tensor) -> Tensor:
        """Tokens of what `pixels` gave."""
        return _finish(self, self.norm(self.projection(pixels).flatten(2).transpose(1, 2)))

    def forward(self, x: Tensor) -> Tensor:
        return self.tokens(self.pixels(x))


class SeriesEmbedder(PatchEmbedder):
    """(n, channels, length) -> (n, l, d), l = length / s."""

    def __init__(self, channels: int, length: int, geometry: Geometry, target_seq_len: int, positions: bool = True) -> None:
        stride = series_stride(length, min(target_seq_len, geometry.max_tokens))
        num_tokens = length // stride
        super().__init__(nn.Conv1d(channels, geometry.width, stride, stride), num_tokens, geometry, positions)
        self.stride = self.unit = stride
        self.num_tokens, self.grid = num_tokens, (num_tokens,)


class FieldEmbedder(PatchEmbedder):
    """(n, channels, height, width) -> (n, l, d): square patches in raster order, as small as the maximum number of tokens allows."""

    grid: tuple[int, int]

    def __init__(self, channels: int, height: int, width: int, geometry: Geometry, target_seq_len: int, positions: bool = True) -> None:
        limit = min(target_seq_len, geometry.max_tokens)
        patch = next(p for p in range(1, max(height, width) + 1) if math.ceil(height / p) * math.ceil(width / p) <= limit)
        grid = (math.ceil(height / patch), math.ceil(width / patch))
        super().__init__(nn.Conv2d(channels, geometry.width, patch, patch), grid[0] * grid[1], geometry, positions)
        self.patch = self.unit = patch
        self.grid, self.padding = grid, (0, grid[1] * patch - width, 0, grid[0] * patch - height)

    def pixels(self, x: Tensor) -> Tensor:
        """(n, channels, height', width'): padded with 0 to whole patches."""
        return nn.functional.pad(x, self.padding)


class ImageEmbedder(nn.Module):
    """(n, channels, height, width) or (n, channels, length) -> (n, l, d), l = (image_size / patch_size)^2."""

    def __init__(self, channels: int, geometry: Geometry, embedding: ImageEmbedding) -> None:
        super().__init__()
        self.image_size, self.unit = geometry.image_size, geometry.patch_size
        self.grid = (geometry.side, geometry.side)
        self.projection = nn.Conv2d(channels, geometry.width, geometry.patch_size, geometry.patch_size)
        nn.init.trunc_normal_(self.projection.weight, std=0.02)
        nn.init.zeros_(_bias(self.projection))
        # As the body's own embedding: Swin has a LayerNorm, ViT has positions.
        self.norm = None if embedding.norm is None else nn.LayerNorm(geometry.width)
        self.colouring: Colouring | None = None
        self.positions = None if embedding.positions is None else nn.Parameter(torch.empty_like(embedding.positions).normal_(std=0.02))

    def copy_pretrained(self, embedding: ImageEmbedding, kept: Collection[str] = OF_EMBEDDING) -> None:
        """Take the patch projection, repeated over the input channels and cut to their number, bias, LayerNorm and positions.

        Args:
            embedding: The body's own embedding.
            kept: The parts of it that are pretrained; of the others nothing is taken.
        """
        if self.norm is not None and embedding.norm is not None and "layernorm" in kept:
            _copy_norm(self.norm, embedding.norm)
        if "embeddings" not in kept:
            return
        weight, channels = embedding.projection.weight, self.projection.in_channels
        repeats = math.ceil(channels / weight.shape[1])
        self.projection.weight.data.copy_(weight.repeat(1, repeats, 1, 1)[:, :channels])
        if embedding.projection.bias is not None:
            _bias(self.projection).data.copy_(embedding.projection.bias)
        _copy_positions(self, embedding)

    def pixels(self, x: Tensor) -> Tensor:
        """(n, channels, image_size, image_size): folded if it is a series, and resized."""
        if x.dim() == 3:
            side = fold_side(x.shape[2])
            x = nn.functional.pad(x, (0, side * side - x.shape[2])).unflatten(2, (side, side))
        if x.shape[2:] != (self.image_size, self.image_size):
            x = nn.functional.interpolate(x, (self.image_size, self.image_size), mode="bilinear", align_corners=False)
        return x

    def tokens(self, pixels: Tensor) -> Tensor:
        """Tokens of what `pixels` gave."""
        tokens = self.projection(pixels).flatten(2).transpose(1, 2)
        if self.norm is not None:
            tokens = self.norm(tokens)
        return _finish(self, tokens)

    def forward(self, x: Tensor) -> Tensor:
        return self.tokens(self.pixels(x))


Embedder = PatchEmbedder | ImageEmbedder


def make_embedder(
    input_shape: tuple[int, ...],
    geometry: Geometry,
    embedding: BodyEmbedding | None,
    *,
    target_seq_len: int,
    pretrained: bool,
    positions_from: int | None = None,
    kept: Collection[str] = OF_EMBEDDING,
) -> Embedder:
    """The embedder for an input shape and a body, drawn from torch's global generator.

    Args:
        input_shape: (channels, length) or (channels, height, width).
        geometry: Of the body.
        embedding: The body's own embedding; None for a bodiless arm.
        target_seq_len: Maximum number of tokens; not for image bodies.
        pretrained: Copy what fits from `embedding`; not for a bodiless arm.
        positions_from: Copy its positions from this row on, even if nothing else.
        kept: The parts of `embedding` that are pretrained, of `layernorm` and `embeddings`; of the others nothing is copied.
    """
    embedder: Embedder
    if isinstance(embedding, ImageEmbedding):
        embedder = ImageEmbedder(input_shape[0], geometry, embedding)
        if pretrained:
            embedder.copy_pretrained(embedding, kept)
    else:
        channels, *sizes = input_shape
        positions = not geometry.linear_embedder if embedding is None else embedding.positions is not None
        if len(sizes) == 1:
            embedder = SeriesEmbedder(channels, sizes[0], geometry, target_seq_len, positions)
        else:
            embedder = FieldEmbedder(channels, sizes[0], sizes[1], geometry, target_seq_len, positions)
        if pretrained and embedding is not None:
            embedder.copy_pretrained(embedding, kept)
    if positions_from is not None and embedding is not None and "embeddings" in kept:
        _copy_positions(embedder, embedding, positions_from)
    return embedder


def check_shapes(embedder: Embedder, path: str) -> None:
    """Check that a file holds the tensors of an embedder, all of them and in their shapes.

    Raises:
        DataError: With a line for each tensor that is missing, of another shape or not the embedder's.
    """
    found = check_weights_file(path)
    needed = {name: tuple(tensor.shape) for name, tensor in embedder.state_dict().items()}
    faults = [Fault(name, f"must be in the file, of shape {needed[name]}", Fault.ABSENT) for name in needed if name not in found]
    faults += [
        Fault(name, "must not be in the file: the embedder has no such tensor", Fault.ABSENT) for name in found if name not in needed
    ]
    both = [name for name in needed if name in found and found[name] != needed[name]]
    faults += [Fault(name, f"must have the shape {needed[name]}", found[name]) for name in both]
    refuse(fault.text(path) for fault in faults)


def load_weights(embedder: Embedder, path: str) -> None:
    """Give an embedder the weights in a file, as float32.

    Raises:
        DataError: As `check_shapes`; or if a number is not finite.
    """
    check_shapes(embedder, path)
    tensors = {name: tensor.to(torch.float32) for name, tensor in load_file(Workbench.current().locate(path)).items()}
    broken = [name for name, tensor in tensors.items() if not torch.isfinite(tensor).all()]
    refuse(Fault(name, "must hold finite numbers", Fault.ABSENT).text(path) for name in broken)
    embedder.load_state_dict(tensors)


def _fresh_positions(count: int, width: int) -> nn.Parameter:
    return nn.Parameter(torch.empty(count, width).normal_(std=0.02))


def _copy_positions(embedder: Embedder, embedding: BodyEmbedding, start: int = 0) -> None:
    if embedder.positions is not None and embedding.positions is not None:
        embedder.positions.data.copy_(embedding.positions[start:][: len(embedder.positions)])


def _copy_norm(target: nn.LayerNorm, source: nn.LayerNorm) -> None:
    target.weight.data.copy_(source.weight)
    if source.bias is None:  # ModernBERT's: the embedder's starts at none
        target.bias.data.zero_()
    else:
        target.bias.data.copy_(source.bias)


def _bias(layer: nn.Conv1d | nn.Conv2d) -> Tensor:
    assert layer.bias is not None
    return layer.bias
