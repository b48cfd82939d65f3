"""Groups of a body's parameters that a freezing phase can name, by the type of the module that holds them, never by their names."""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor, nn

from orca_core.bodies.base import NORMS, Body
from orca_core.freezing.fisher import highest
from orca_core.freezing.schedule import check_layers

__all__ = ["NORMS", "body_group", "norms_of"]


def body_group(body: Body, name: str, scores: Tensor | None = None) -> list[nn.Parameter]:
    """The parameters of a group.

    Args:
        body: The body.
        name: One of `GROUPS` that is part of the body, or of `LAYER_GROUPS` with its number.
        scores: (number of layers,) what `surgical` chooses by.

    Raises:
        ConfigError: If the body has no such layers.
    """
    base, _, number = name.partition(":")
    blocks = body.blocks
    check_layers(name, len(blocks))
    match base:
        case "body":
            return list(body.parameters())
        case "layernorm":  # and a position table: in other bodies the embedder has it, and trains
            return _parameters((*norms_of(body).values(), *_position_tables(body)))
        case "bias":
            return [bias for part in body.modules() if isinstance(bias := getattr(part, "bias", None), nn.Parameter)]
        case "attention":
            return _attention(body)
        case "non-attn":
            return _all_but(body, _attention(body))
        case "qkv":
            return _parameters(body.qkv)
        case "non-qkv":
            return _all_but(body, _parameters(body.qkv))
        case "layers":
            return list(blocks[int(number)].parameters())
        case "top-layers":
            return [parameter for block in blocks[-int(number) :] for parameter in block.parameters()]
        case "surgical":
            assert scores is not None
            return [parameter for layer in highest(scores, int(number)) for parameter in blocks[layer].parameters()]
    raise AssertionError(name)


def norms_of(body: Body) -> dict[str, nn.Module]:
    """The layers that normalise tokens, LayerNorm or RMSNorm, by their names in the body."""
    return {name: part for name, part in body.named_modules() if isinstance(part, body.norm_types)}


def _position_tables(body: Body) -> list[nn.Module]:
    """GPT-2's. T5's table of position biases is a part of its attention, as those of Swin and BEiT are."""
    inside = {part for module in body.attention for part in module.modules()}
    return [part for part in body.modules() if isinstance(part, nn.Embedding) and part not in inside]


def _parameters(modules: Iterable[nn.Module]) -> list[nn.Parameter]:
    return [parameter for module in modules for parameter in module.parameters()]


def _all_but(body: Body, frozen: Iterable[nn.Parameter]) -> list[nn.Parameter]:
    left_out = {id(parameter) for parameter in frozen}
    return [parameter for parameter in body.parameters() if id(parameter) not in left_out]


def _attention(body: Body) -> list[nn.Parameter]:
    """All that the attention modules hold but LayerNorms, which BERT's have inside."""
    parts = [part for module in body.attention for part in module.modules() if not isinstance(part, body.norm_types)]
    return [parameter for part in parts for parameter in part.parameters(recurse=False)]
