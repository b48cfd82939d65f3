"""A body as ORCA uses it: a transformer cut off from its embedding.

`Body` takes tokens that an embedder made and gives tokens back; `BodyEmbedding` is what was cut off, and makes source features
from proxy samples. Joined again they are the family's own model, bit for bit. Shapes: n samples, l tokens, d width.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

from torch import Tensor, nn

from orca_core.errors import ConfigError, Fault

NORMS: tuple[type[nn.Module], ...] = (nn.LayerNorm, nn.RMSNorm)
"""torch's own layers that normalise a token; a family that has one of its own adds it in `Body.norm_types`."""

IMAGE_MEAN, IMAGE_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Statistics of ImageNet's channels, by which proxy images are normalised for every image body."""


@dataclass(frozen=True)
class Geometry:
    """Shapes of a body that embedders and predictors are built to.

    Args:
        modality: `text` bodies take a sequence, `images` bodies a square grid; `none` is for bodiless arms, which take a sequence, or the
            tokens of a grid in raster order.
        width: d of the tokens it takes.
        output_width: d of the tokens it returns.
        max_tokens: Longest sequence; not for images.
        image_size: Side of the image that is cut into patches, in pixels; images only.
        patch_size: Side of a patch, in pixels; images only.
        output_side: Side of the grid it returns, in tokens; images only.
        linear_embedder: Whether its embedder is a projection alone, without the LayerNorm that takes the size of a value from it, and
            without positions.
    """

    modality: str
    width: int
    output_width: int
    max_tokens: int = 0
    image_size: int = 0
    patch_size: int = 0
    output_side: int = 0
    linear_embedder: bool = False

    @property
    def side(self) -> int:
        """Side of the grid it takes, in tokens."""
        return self.image_size // self.patch_size


class Body(nn.Module, ABC):
    """Tokens (n, l, width) -> tokens (n, l', output_width)."""

    geometry: Geometry

    @property
    def own_tokens(self) -> int:
        """Class and register tokens that pass through the blocks before the patches, and are dropped at the end."""
        return 0

    @property
    def takes_tokens(self) -> bool:
        """Whether learned tokens may pass through the blocks beside its own: not where blocks relate places of a grid."""
        return False

    @property
    @abstractmethod
    def blocks(self) -> list[nn.Module]:
        """The transformer blocks, counted from the bottom; Swin's over all its stages. Of a bodiless arm whatever layers it has."""

    @property
    @abstractmethod
    def attention(self) -> list[nn.Module]:
        """The attention modules of all blocks: projections to queries, keys and values, output projection, position biases."""

    @property
    def qkv(self) -> list[nn.Module]:
        """The layers that project to queries, keys and values, of all blocks.

        Raises:
            ConfigError: If the body does not say which they are; only the freezing groups `qkv` and `non-qkv` need them.
        """
        raise ConfigError([Fault("freezing", "must not name qkv or non-qkv for a body that has no `qkv`", type(self).__name__)])

    @property
    def embedded(self) -> list[Tensor]:
        """Parameters that the family's own model has in its embedding and that stay in the body here: position tables, class tokens."""
        return [part.weight for part in self.modules() if isinstance(part, nn.Embedding)]

    @property
    def norm_types(self) -> tuple[type[nn.Module], ...]:
        """Types of the layers that normalise tokens. The freezing group `layernorm` trains them, whether or not they subtract a mean."""
        return NORMS

    def attention_parts(self, *names: str) -> list[nn.Module]:
        """Parts of every block's attention, by the path at which its library keeps them; a path that is not there raises AttributeError."""
        return [module.get_submodule(name) for module in self.attention for name in names]


class TextEmbedding(nn.Module, ABC):
    """A text body's own embedding.

    Attributes:
        unused_positions: Rows of its position table before the first one that is used; 0 where the body adds positions itself.
    """

    unused_positions: int = 0

    @property
    @abstractmethod
    def positions(self) -> Tensor | None:
        """(max_tokens, d) position table, without rows that no token uses; None where the body adds positions itself."""

    @property
    @abstractmethod
    def norm(self) -> nn.LayerNorm | None:
        """LayerNorm over d; None if there is none."""

    @abstractmethod
    def embed(self, input_ids: Tensor) -> Tensor:
        """(n, l) token ids -> (n, l, d)."""

    def forward(self, input_ids: Tensor, mask: Tensor) -> Tensor:
        """(n, l) token ids and (n, l) bool mask -> (n, d) means over the tokens that are not padding."""
        embedded = self.embed(input_ids)
        weights = mask.to(embedded.dtype).unsqueeze(-1)
        return (embedded * weights).sum(1) / weights.sum(1).clamp(min=1)


class ImageEmbedding(nn.Module):
    """An image body's own patch embedding.

    Args:
        projection: Conv2d(3, d), kernel = stride = patch.
        norm: LayerNorm over d, or None (ViT has none).
        positions: (l, d) position table of the patches, or None (Swin has none).
        image_size: Side of the image, in pixels.
    """

    def __init__(self, projection: nn.Conv2d, norm: nn.LayerNorm | None, positions: Tensor | None, image_size: int) -> None:
        super().__init__()
        self.projection, self.norm, self.image_size = projection, norm, image_size
        self.positions = None if positions is None else nn.Parameter(positions.detach().clone())

    def embed(self, images: Tensor) -> Tensor:
        """(n, 3, image_size, image_size), normalised -> (n, l, d)."""
        tokens = self.projection(images).flatten(2).transpose(1, 2)
        if self.norm is not None:
            tokens = self.norm(tokens)
        return tokens if self.positions is None else tokens + self.positions

    def tokens(self, images: Tensor) -> Tensor:
        """(n, 3, h, w) in [0, 1] -> (n, l, d), of the resized, normalised images."""
        mean = images.new_tensor(IMAGE_MEAN).view(3, 1, 1)
        std = images.new_tensor(IMAGE_STD).view(3, 1, 1)
        resized = nn.functional.interpolate(images, (self.image_size, self.image_size), mode="bilinear", align_corners=False)
        return self.embed((resized - mean) / std)

    def forward(self, images: Tensor) -> Tensor:
        """(n, 3, h, w) in [0, 1] -> (n, d) means over the patches of the resized, normalised images."""
        return self.tokens(images).mean(1)


BodyEmbedding = TextEmbedding | ImageEmbedding


def rows_before_third(embedding: BodyEmbedding | None) -> int:
    """Rows of its position table that a text body uses before row 2, which is where RoBERTa starts; 0 without such a table."""
    if not isinstance(embedding, TextEmbedding) or embedding.positions is None:
        return 0
    return max(0, 2 - embedding.unused_positions)
