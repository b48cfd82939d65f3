"""A body as ORCA uses it: a transformer cut off from its embedding.

`Body` takes tokens that an embedder made and gives tokens back; `BodyEmbedding` is what was cut off, and makes source features
from proxy samples. Joined again they are the family's own model, bit for bit. Shapes: n samples, l tokens, d width.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from orca_core.errors import ConfigError, Fault

IMAGE_MEAN, IMAGE_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Statistics of ImageNet's channels, by which proxy images are normalised for every image body."""


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


class Body(nn.Module, ABC):
    """Tokens (n, l, width) -> tokens (n, l', output_width)."""

    geometry: Geometry

    @property
    @abstractmethod
    def blocks(self) -> list[nn.Module]:
        """The transformer blocks, counted from the bottom; Swin's over all its stages."""

    @property
    @abstractmethod
    def attention(self) -> list[nn.Module]:
        """The attention modules of all blocks: projections to queries, keys and values, output projection, position biases."""


class BertBody(Body):
    """BERT, RoBERTa, XLM-R, CamemBERT, ELECTRA, DistilBERT."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        config = model.config
        self.encoder = model.transformer if config.model_type == "distilbert" else model.encoder
        offset = position_offset(config)
        self.geometry = Geometry("text", config.hidden_size, config.hidden_size, max_tokens=config.max_position_embeddings - offset)

    @property
    def blocks(self) -> list[nn.Module]:
        return list(self.encoder.layer)

    @property
    def attention(self) -> list[nn.Module]:
        return [block.attention for block in self.encoder.layer]

    def forward(self, tokens: Tensor) -> Tensor:
        return self.encoder(tokens)[0]


class VitBody(Body):
    """ViT, DeiT, BEiT.

    Class and distillation tokens go in with the patches and come out dropped: the predictor pools the patches, as it does for every body.

    Attributes:
        prefix: (k, d) class and distillation tokens, their positions added.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        config, embeddings = model.config, model.embeddings
        tokens = [getattr(embeddings, name, None) for name in ("cls_token", "distillation_token")]
        prefix = torch.cat([token.detach()[0] for token in tokens if token is not None])
        if embeddings.position_embeddings is not None:
            prefix = prefix + embeddings.position_embeddings.detach()[0, : len(prefix)]
        self.prefix = nn.Parameter(prefix.clone())
        self.layers, self.layernorm = model.layers, model.layernorm
        self.shared_bias: nn.Module | None = getattr(model, "shared_position_bias", None)
        self.is_beit = config.model_type == "beit"
        side = config.image_size // config.patch_size
        self.geometry = Geometry(
            "images", config.hidden_size, config.hidden_size, image_size=config.image_size, patch_size=config.patch_size, output_side=side
        )

    @property
    def blocks(self) -> list[nn.Module]:
        return list(self.layers)

    @property
    def attention(self) -> list[nn.Module]:
        biases = [self.shared_bias, *(getattr(layer, "relative_position_bias", None) for layer in self.layers)]  # BEiT's
        return [*(layer.attention for layer in self.layers), *(bias for bias in biases if bias is not None)]

    def forward(self, tokens: Tensor) -> Tensor:
        tokens = torch.cat([self.prefix.expand(len(tokens), -1, -1), tokens], dim=1)
        more: dict[str, Any] = {}
        if self.is_beit:  # its position biases are between patches, so every layer asks for the grid
            side = self.geometry.side
            bias = None if self.shared_bias is None else self.shared_bias((side, side), dim_size=tokens.shape[1])
            more = {"attention_mask": bias, "resolution": (self.geometry.image_size,) * 2}
        for layer in self.layers:
            tokens = layer(tokens, **more)
        return self.layernorm(tokens)[:, len(self.prefix) :]


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

    @property
    def blocks(self) -> list[nn.Module]:
        return [block for stage in self.encoder.layers for block in stage.blocks]

    @property
    def attention(self) -> list[nn.Module]:
        return [block.attention for stage in self.encoder.layers for block in stage.blocks]

    def forward(self, tokens: Tensor) -> Tensor:
        side = self.geometry.side
        return self.layernorm(self.encoder(tokens, (side, side))[0])


class TextEmbedding(nn.Module):
    """A text body's own embedding.

    Attributes:
        pad_token_id: What padded positions hold.
        positions: (max_tokens, d) position table, without rows that no token uses; None where the body adds positions itself.
        norm: LayerNorm over d; None if the family has none.
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
    def positions(self) -> Tensor | None:
        return self.embeddings.position_embeddings.weight[self.offset :]

    @property
    def norm(self) -> nn.LayerNorm | None:
        return self.embeddings.LayerNorm

    def embed(self, input_ids: Tensor) -> Tensor:
        """(n, l) token ids -> (n, l, d)."""
        return self.embeddings(input_ids=input_ids)

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

    @classmethod
    def of(cls, model: Any) -> ImageEmbedding:
        """Cut off a Hugging Face model."""
        embeddings, config = model.embeddings, model.config
        table = getattr(embeddings, "position_embeddings", None)
        patches = (config.image_size // config.patch_size) ** 2
        positions = None if table is None else table[0, -patches:]
        return cls(embeddings.patch_embeddings.projection, getattr(embeddings, "norm", None), positions, config.image_size)

    def embed(self, images: Tensor) -> Tensor:
        """(n, 3, image_size, image_size), normalised -> (n, l, d)."""
        tokens = self.projection(images).flatten(2).transpose(1, 2)
        if self.norm is not None:
            tokens = self.norm(tokens)
        return tokens if self.positions is None else tokens + self.positions

    def forward(self, images: Tensor) -> Tensor:
        """(n, 3, h, w) in [0, 1] -> (n, d) means over the patches of the resized, normalised images."""
        mean = images.new_tensor(IMAGE_MEAN).view(3, 1, 1)
        std = images.new_tensor(IMAGE_STD).view(3, 1, 1)
        resized = nn.functional.interpolate(images, (self.image_size, self.image_size), mode="bilinear", align_corners=False)
        return self.embed((resized - mean) / std).mean(1)


BodyEmbedding = TextEmbedding | ImageEmbedding


def position_offset(config: Any) -> int:
    """Rows of the position table before the first one that is used: RoBERTa's ids start after its padding id."""
    return (config.pad_token_id or 0) + 1 if config.model_type in ("roberta", "xlm-roberta", "camembert") else 0


def rows_before_third(embedding: BodyEmbedding) -> int:
    """Positions that a text body has before the third row of its table: 0 in RoBERTa's, 2 in BERT's; 0 where there is no such table."""
    if not isinstance(embedding, TextEmbedding) or embedding.positions is None:
        return 0
    return max(0, 2 - embedding.offset)


def split_model(model: Any) -> tuple[Body, BodyEmbedding]:
    """A model of Hugging Face or timm as (body, embedding)."""
    from orca_core.bodies.families.decoders import DecoderBody, WordEmbedding

    match getattr(getattr(model, "config", None), "model_type", None):
        case None:
            from orca_core.bodies.families.timm import split_timm

            return split_timm(model)
        case "gpt2" | "gpt_neox":
            embedding = WordEmbedding(model)  # first: the body leaves the word table to it
            return DecoderBody(model), embedding
        case "swin":
            return SwinBody(model), ImageEmbedding.of(model)
        case "vit" | "deit" | "beit":
            return VitBody(model), ImageEmbedding.of(model)
        case _:
            return BertBody(model), TextEmbedding(model)
