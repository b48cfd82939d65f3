"""A body as ORCA uses it: a transformer encoder cut off from its embedding.

`Body` takes tokens that an embedder made and gives tokens back; `BodyEmbedding` is what was cut off, and makes source features
from proxy samples. Shapes: n samples, l tokens, d width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from orca_core.errors import ConfigError, Fault

IMAGE_MEAN, IMAGE_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Statistics of ImageNet's channels: what the image families here were pretrained with."""


@dataclass(frozen=True)
class Geometry:
    """Shapes of a body that embedders and predictors are built to.

    Args:
        modality: `text` bodies take a sequence, `images` bodies a square grid.
        width: d of the tokens it takes.
        output_width: d of the tokens it gives.
        max_tokens: Longest sequence; text only.
        image_size: Side of the image that is cut into patches, in pixels; images only.
        patch_size: Side of a patch, in pixels; images only.
        output_side: Side of the grid it gives, in tokens; images only.
    """

    modality: str
    width: int
    output_width: int
    max_tokens: int = 0
    image_size: int = 0
    patch_size: int = 0
    output_side: int = 0

    @property
    def side(self) -> int:
        """Side of the grid it takes, in tokens."""
        return self.image_size // self.patch_size


class Body(nn.Module):
    """Tokens (n, l, width) -> tokens (n, l', output_width)."""

    geometry: Geometry


class BertBody(Body):
    """BERT, RoBERTa, XLM-R, CamemBERT, ELECTRA, DistilBERT."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        config = model.config
        self.encoder = model.transformer if config.model_type == "distilbert" else model.encoder
        offset = position_offset(config)
        self.geometry = Geometry("text", config.hidden_size, config.hidden_size, max_tokens=config.max_position_embeddings - offset)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.encoder(tokens)[0]


class VitBody(Body):
    """ViT and DeiT without class token: the predictor pools all patch tokens, as it does for every body."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        config = model.config
        self.layers, self.layernorm = model.layers, model.layernorm
        side = config.image_size // config.patch_size
        self.geometry = Geometry(
            "images", config.hidden_size, config.hidden_size, image_size=config.image_size, patch_size=config.patch_size, output_side=side
        )

    def forward(self, tokens: Tensor) -> Tensor:
        for layer in self.layers:
            tokens = layer(tokens)
        return self.layernorm(tokens)


class SwinBody(Body):
    """Swin: halves the grid and doubles the width between its stages."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        config = model.config
        self.encoder, self.layernorm = model.encoder, model.layernorm
        side = config.image_size // config.patch_size
        self.geometry = Geometry(
            "images",
            config.embed_dim,
            model.num_features,
            image_size=config.image_size,
            patch_size=config.patch_size,
            output_side=side // 2 ** (len(config.depths) - 1),
        )

    def forward(self, tokens: Tensor) -> Tensor:
        side = self.geometry.side
        return self.layernorm(self.encoder(tokens, (side, side))[0])


class TextEmbedding(nn.Module):
    """A text body's own embedding.

    Attributes:
        positions: (max_tokens, d) position table, without rows that no token uses; None if the family has none.
        norm: LayerNorm over d.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        if getattr(model, "embeddings_project", None) is not None:
            rule = "must have an embedding as wide as its layers"
            raise ConfigError([Fault("body.name", rule, model.config.name_or_path or model.config.model_type)])
        self.embeddings = model.embeddings
        self.offset = position_offset(model.config)
        self.pad_token_id = model.config.pad_token_id or 0

    @property
    def positions(self) -> Tensor:
        return self.embeddings.position_embeddings.weight[self.offset :]

    @property
    def norm(self) -> nn.LayerNorm:
        return self.embeddings.LayerNorm

    def forward(self, input_ids: Tensor, mask: Tensor) -> Tensor:
        """(n, l) token ids and (n, l) bool mask -> (n, d) means over the tokens that are not padding."""
        embedded = self.embeddings(input_ids=input_ids)
        weights = mask.to(embedded.dtype).unsqueeze(-1)
        return (embedded * weights).sum(1) / weights.sum(1).clamp(min=1)


class ImageEmbedding(nn.Module):
    """An image body's own patch embedding.

    Attributes:
        projection: Conv2d(3, d), kernel = stride = patch.
        norm: LayerNorm over d, or None (ViT has none).
        positions: (l, d) position table of the patches, or None (Swin has none).
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        embeddings = model.embeddings
        self.projection: nn.Conv2d = embeddings.patch_embeddings.projection
        self.norm: nn.LayerNorm | None = getattr(embeddings, "norm", None)
        self.image_size: int = model.config.image_size
        table = getattr(embeddings, "position_embeddings", None)
        patches = (self.image_size // model.config.patch_size) ** 2
        self.positions = None if table is None else nn.Parameter(table.detach()[0, -patches:].clone())

    def forward(self, images: Tensor) -> Tensor:
        """(n, 3, h, w) in [0, 1] -> (n, d) means over the patches of the resized, normalised images."""
        mean = images.new_tensor(IMAGE_MEAN).view(3, 1, 1)
        std = images.new_tensor(IMAGE_STD).view(3, 1, 1)
        resized = nn.functional.interpolate(images, (self.image_size, self.image_size), mode="bilinear", align_corners=False)
        tokens = self.projection((resized - mean) / std).flatten(2).transpose(1, 2)
        if self.norm is not None:
            tokens = self.norm(tokens)
        if self.positions is not None:
            tokens = tokens + self.positions
        return tokens.mean(1)


BodyEmbedding = TextEmbedding | ImageEmbedding


def position_offset(config: Any) -> int:
    """Rows of the position table before the first one that is used: RoBERTa's ids start after its padding id."""
    return (config.pad_token_id or 0) + 1 if config.model_type in ("roberta", "xlm-roberta", "camembert") else 0


def split_model(model: Any) -> tuple[Body, BodyEmbedding]:
    """A Hugging Face encoder as (body, embedding)."""
    match model.config.model_type:
        case "swin":
            return SwinBody(model), ImageEmbedding(model)
        case "vit" | "deit":
            return VitBody(model), ImageEmbedding(model)
        case _:
            return BertBody(model), TextEmbedding(model)


def layer_norms(module: nn.Module) -> list[nn.Parameter]:
    """Parameters of all LayerNorms inside a module, by module type."""
    return [p for part in module.modules() if isinstance(part, nn.LayerNorm) for p in part.parameters(recurse=False)]


def count_parameters(module: nn.Module) -> int:
    """Number of scalars in the parameters of a module."""
    return sum(p.numel() for p in module.parameters())
