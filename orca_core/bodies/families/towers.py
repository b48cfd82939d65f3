"""Image bodies of Hugging Face that were trained without labels or with texts: DINOv2, and the vision towers of CLIP and SigLIP.

    family    own tokens                   before the blocks    after the blocks
    dinov2    class token; 0 or more       -                    LayerNorm
              register tokens
    clip      class token                  LayerNorm            nothing: CLIP normalises only the class token, for its own head
    siglip    none                         -                    LayerNorm; its head, an attention pooling, is not used

Class and register tokens go in with the patches and come out dropped: the predictor pools the patches, as it does for every body.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from orca_core.bodies.base import Body, Geometry, ImageEmbedding


class TowerBody(Body):
    """A sequence of blocks between two optional LayerNorms.

    Attributes:
        prefix: (k, d) class and register tokens, their positions added.

    Args:
        config: Of the tower.
        prefix: (k, d), as above.
        before, after: LayerNorms around the blocks; `nn.Identity` where there is none.
        layers: The blocks.
    """

    def __init__(self, config: Any, prefix: Tensor, before: nn.Module, layers: nn.ModuleList, after: nn.Module) -> None:
        super().__init__()
        self.prefix = nn.Parameter(prefix.detach().clone())
        self.before, self.layers, self.after = before, layers, after
        image, patch = config.image_size, config.patch_size
        self.geometry = Geometry(
            "images", config.hidden_size, config.hidden_size, image_size=image, patch_size=patch, output_side=image // patch
        )

    @property
    def own_tokens(self) -> int:
        return len(self.prefix)

    @property
    def takes_tokens(self) -> bool:
        return True

    @property
    def blocks(self) -> list[nn.Module]:
        return list(self.layers)

    @property
    def attention(self) -> list[nn.Module]:
        return [layer.get_submodule("attention" if hasattr(layer, "attention") else "self_attn") for layer in self.layers]

    @property
    def qkv(self) -> list[nn.Module]:
        return self.attention_parts("q_proj", "k_proj", "v_proj")

    def forward(self, tokens: Tensor) -> Tensor:
        tokens = self.before(torch.cat([self.prefix.expand(len(tokens), -1, -1), tokens], dim=1))
        for layer in self.layers:
            tokens = layer(tokens, attention_mask=None)
        return self.after(tokens)[:, len(self.prefix) :]


def split_dinov2(model: Any) -> tuple[TowerBody, ImageEmbedding]:
    """DINOv2, with or without registers, as (body, embedding). Only the class token has a position, registers have none."""
    embeddings = model.embeddings
    positions = embeddings.position_embeddings[0]
    prefix = embeddings.cls_token[0] + positions[:1]
    if hasattr(embeddings, "register_tokens"):
        prefix = torch.cat([prefix, embeddings.register_tokens[0]])
    body = TowerBody(model.config, prefix, nn.Identity(), model.encoder.layer, model.layernorm)
    return body, ImageEmbedding(embeddings.patch_embeddings.projection, None, positions[1:], model.config.image_size)


def split_clip(model: Any) -> tuple[TowerBody, ImageEmbedding]:
    """CLIP's vision tower as (body, embedding)."""
    embeddings, positions = model.embeddings, model.embeddings.position_embedding.weight
    prefix = embeddings.class_embedding[None] + positions[:1]
    body = TowerBody(model.config, prefix, model.pre_layrnorm, model.encoder.layers, nn.Identity())
    return body, ImageEmbedding(embeddings.patch_embedding, None, positions[1:], model.config.image_size)


def split_siglip(model: Any) -> tuple[TowerBody, ImageEmbedding]:
    """SigLIP's vision tower as (body, embedding)."""
    embeddings, positions = model.embeddings, model.embeddings.position_embedding.weight
    body = TowerBody(model.config, positions[:0], nn.Identity(), model.encoder.layers, model.post_layernorm)
    return body, ImageEmbedding(embeddings.patch_embedding, None, positions, model.config.image_size)
