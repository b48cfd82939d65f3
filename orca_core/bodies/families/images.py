"""Image bodies of Hugging Face: Swin, and ViT with its kin (DeiT, BEiT)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from orca_core.bodies.base import Body, Geometry, ImageEmbedding


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
    def own_tokens(self) -> int:
        return len(self.prefix)

    @property
    def takes_tokens(self) -> bool:
        return not self.is_beit  # its position biases are between patches

    @property
    def blocks(self) -> list[nn.Module]:
        return list(self.layers)

    @property
    def attention(self) -> list[nn.Module]:
        biases = [self.shared_bias, *(getattr(layer, "relative_position_bias", None) for layer in self.layers)]  # BEiT's
        return [*(layer.attention for layer in self.layers), *(bias for bias in biases if bias is not None)]

    @property
    def embedded(self) -> list[Tensor]:
        return [self.prefix]

    @property
    def qkv(self) -> list[nn.Module]:
        return [layer.attention.get_submodule(name) for layer in self.layers for name in ("q_proj", "k_proj", "v_proj")]

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

    @property
    def qkv(self) -> list[nn.Module]:
        return self.attention_parts("q_proj", "k_proj", "v_proj")

    def forward(self, tokens: Tensor) -> Tensor:
        side = self.geometry.side
        return self.layernorm(self.encoder(tokens, (side, side))[0])


def split_vit(model: Any) -> tuple[VitBody, ImageEmbedding]:
    """A ViT, DeiT or BEiT as (body, embedding)."""
    return VitBody(model), _embedding_of(model)


def split_swin(model: Any) -> tuple[SwinBody, ImageEmbedding]:
    """A Swin as (body, embedding)."""
    return SwinBody(model), _embedding_of(model)


def _embedding_of(model: Any) -> ImageEmbedding:
    embeddings, config = model.embeddings, model.config
    table = getattr(embeddings, "position_embeddings", None)
    patches = (config.image_size // config.patch_size) ** 2
    positions = None if table is None else table[0, -patches:]
    return ImageEmbedding(embeddings.patch_embeddings.projection, getattr(embeddings, "norm", None), positions, config.image_size)
