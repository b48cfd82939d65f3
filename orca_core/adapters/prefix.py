"""Prefix tuning: learned keys and values in every layer (Li & Liang 2021, arXiv 2101.00190; P-tuning v2, Liu et al. 2021, 2110.07602).

The attention of every block looks at p further places, whose keys and values are learned: 2 p k h parameters in a block of k heads of
keys and values, each h wide. Queries, and what the blocks pass on, are the body's: a sequence is as long as before. Every token sees all
p places, in a decoder and in local attention, too; they have no position and no position bias, and the positions of all other tokens
stay what they are. They are drawn with standard deviation 0.02, and trained as they are: Li & Liang train them through a network that
they throw away afterwards, which P-tuning v2 found to help on some tasks only.

peft's `prefix_tuning` does not fit: it hands the prefix to a whole model of transformers as a cache of generated tokens, and a body
stands without its embedding; encoders take no cache. Here the attention itself is extended, at the place that transformers has for this
(`AttentionInterface`), so that one code serves every family.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from orca_core.adapters.base import Adapter, own_parameters
from orca_core.bodies.base import Body
from orca_core.errors import ConfigError, Fault

_NAME = "orca_prefix"
"""Under which transformers knows the attention of this module."""


class Prefix(nn.Module):
    """Keys and values of one layer.

    Args:
        shape: (heads of keys and values, their width).
        count: p.
    """

    def __init__(self, shape: tuple[int, int], count: int) -> None:
        super().__init__()
        heads, width = shape
        self.keys = nn.Parameter(torch.empty(heads, count, width).normal_(std=0.02))
        self.values = nn.Parameter(torch.empty(heads, count, width).normal_(std=0.02))


class PrefixAdapter(Adapter):
    """Learned keys and values, each block's kept in its attention.

    Args:
        body: Of text.
        tokens: Places of the prefix.

    Raises:
        ConfigError: If the body's attention is not one that transformers lets be extended.
    """

    def __init__(self, body: Body, *, tokens: int) -> None:
        super().__init__("prefix", body)
        if body.geometry.modality != "text":
            raise ConfigError([Fault("adapter", "must not be prefix for a body that reads images", type(body).__name__)])
        body.requires_grad_(False)
        shapes = _extend_attention(body)
        if len(shapes) != len(body.blocks):
            rule = "must not be prefix but for a body whose every block has one attention of transformers"
            raise ConfigError([Fault("adapter", rule, type(body).__name__)])
        for attention, shape in shapes.items():
            prefix = Prefix(shape, tokens)
            attention.add_module("prefix", prefix)
            self.parameters += own_parameters(prefix)


def _extend_attention(body: Body) -> dict[nn.Module, tuple[int, int]]:
    """Make a body's attention look for a prefix. Returns (heads, width) of the keys of each attention module, as one pass shows them."""
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import sdpa_mask

    AttentionInterface.register(_NAME, attend)
    AttentionMaskInterface.register(_NAME, sdpa_mask)
    for config in {id(config): config for part in body.modules() if (config := getattr(part, "config", None)) is not None}.values():
        config._attn_implementation = _NAME
    shapes: dict[nn.Module, tuple[int, int]] = {}
    _SEEN.append(shapes)
    try:
        with torch.no_grad():
            body(torch.zeros(1, 1, body.geometry.width))
    finally:
        _SEEN.pop()
    return shapes


_SEEN: list[dict[nn.Module, tuple[int, int]]] = []
"""Where the pass that is under way notes the shapes of keys, if one is."""


def attend(module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **options: Any) -> Any:
    """Scaled dot-product attention with the module's prefix, if it has one, before its keys and values.

    Args:
        module: The attention module.
        query: (n, heads, l, width).
        key, value: (n, heads of keys and values, l, width).
        attention_mask: (n or 1, heads or 1, l, l), bool or added to the scores; None for none but that of a decoder.
        options: Of transformers' attention.
    """
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    if _SEEN:
        _SEEN[-1][module] = (key.shape[1], key.shape[3])
    prefix = getattr(module, "prefix", None)
    if prefix is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **options)
    count = prefix.keys.shape[1]
    is_causal = options.pop("is_causal", None)
    if attention_mask is None and (getattr(module, "is_causal", True) if is_causal is None else is_causal):
        attention_mask = torch.ones(query.shape[2], key.shape[2], dtype=torch.bool, device=query.device).tril()[None, None]
    if attention_mask is not None:
        attention_mask = F.pad(attention_mask, (count, 0), value=True if attention_mask.dtype == torch.bool else 0.0)
    if (bias := options.get("position_bias")) is not None:
        options["position_bias"] = F.pad(bias, (count, 0))
    key, value = (
        torch.cat([learned.to(own.dtype).expand(len(own), -1, -1, -1), own], dim=2)
        for learned, own in ((prefix.keys, key), (prefix.values, value))
    )
    return sdpa_attention_forward(module, query, key, value, attention_mask, is_causal=False, **options)
