"""Bodies of timm: Swin and ViT, from folders that hold timm's `config.json` and weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from orca_core.bodies.base import Body, Geometry, ImageEmbedding
from orca_core.bodies.family import Family


class TimmVitBody(Body):
    """timm's VisionTransformer (ViT, DeiT); class and register tokens go in with the patches and come out dropped.

    Attributes:
        prefix: (k, d) class and register tokens, their positions added.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        tokens = [token.detach()[0] for token in (model.cls_token, model.reg_token) if token is not None]
        prefix = torch.cat(tokens) if tokens else torch.zeros(0, model.embed_dim)
        if model.pos_embed is not None and not model.no_embed_class:
            prefix = prefix + model.pos_embed.detach()[0, : len(prefix)]
        self.prefix = nn.Parameter(prefix.clone())
        self.norm_pre, self.layers, self.norm = model.norm_pre, model.blocks, model.norm
        image, patch = _sides(model)
        self.geometry = Geometry("images", model.embed_dim, model.embed_dim, image_size=image, patch_size=patch, output_side=image // patch)

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
        return [block.attn for block in self.layers]

    @property
    def embedded(self) -> list[Tensor]:
        return [self.prefix]

    @property
    def qkv(self) -> list[nn.Module]:
        return self.attention_parts("qkv")

    def forward(self, tokens: Tensor) -> Tensor:
        tokens = self.norm_pre(torch.cat([self.prefix.expand(len(tokens), -1, -1), tokens], dim=1))
        return self.norm(self.layers(tokens))[:, len(self.prefix) :]


class TimmSwinBody(Body):
    """timm's SwinTransformer."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.layers, self.norm = model.layers, model.norm
        image, patch = _sides(model)
        output_side = -(-(image // patch) // 2 ** (len(self.layers) - 1))
        width = model.patch_embed.proj.out_channels
        self.geometry = Geometry("images", width, model.num_features, image_size=image, patch_size=patch, output_side=output_side)

    @property
    def blocks(self) -> list[nn.Module]:
        return [block for stage in self.layers for block in stage.blocks]

    @property
    def attention(self) -> list[nn.Module]:
        return [block.attn for stage in self.layers for block in stage.blocks]

    @property
    def qkv(self) -> list[nn.Module]:
        return self.attention_parts("qkv")

    def forward(self, tokens: Tensor) -> Tensor:
        side = self.geometry.side
        return self.norm(self.layers(tokens.unflatten(1, (side, side)))).flatten(1, 2)


def timm_model(folder: Path, family: Family, *, dropout: float, pretrained: bool) -> tuple[nn.Module, list[str]]:
    """The model in a folder, with its weights or with ones drawn from torch's global generator.

    Returns:
        The model, and no names: timm refuses a checkpoint that lacks any weights.

    Raises:
        ValueError: If it is neither a Swin nor a ViT.
    """
    import timm
    from timm.models.swin_transformer import SwinTransformer
    from timm.models.vision_transformer import VisionTransformer

    rates: dict[str, Any] = {"proj_drop_rate": dropout, "attn_drop_rate": dropout, "drop_path_rate": 0.0}
    model: nn.Module = timm.create_model(f"local-dir:{folder}", pretrained=pretrained, **rates)
    if type(model) not in (SwinTransformer, VisionTransformer):
        raise ValueError(f"{type(model).__name__} is neither SwinTransformer nor VisionTransformer")
    return model.float(), []


def split_timm(model: Any) -> tuple[Body, ImageEmbedding]:
    """A model of `timm_model` as (body, embedding)."""
    patches = model.patch_embed
    norm = patches.norm if isinstance(patches.norm, nn.LayerNorm) else None
    table = getattr(model, "pos_embed", None)
    positions = None if table is None else table[0, -patches.num_patches :]
    embedding = ImageEmbedding(patches.proj, norm, positions, _sides(model)[0])
    return (TimmVitBody(model) if hasattr(model, "blocks") else TimmSwinBody(model)), embedding


def _sides(model: Any) -> tuple[int, int]:
    """Side of the image and of a patch, in pixels."""
    (height, width), (patch, other) = model.patch_embed.img_size, model.patch_embed.patch_size
    if (height, patch) != (width, other):
        raise ValueError(f"images of {height} x {width} in patches of {patch} x {other} are not square")
    return int(height), int(patch)
