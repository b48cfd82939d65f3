"""Visual prompt tuning (Jia et al. 2022, arXiv 2203.12119, section 3.2): learned tokens beside the patches of a ViT.

    deep: false   p tokens go into the first block and pass through all of them: p d parameters
    deep: true    every block gets p tokens of its own in the place of those that came out of the one below: L p d parameters

They stand behind the body's class and register tokens and before the patches (equations 4 and 5), and are dropped before the last
LayerNorm; a LayerNorm before the first block, as CLIP has it, does not see them. They are drawn uniformly within
sqrt(6 / (3 s^2 + d)) of zero, s being the side of a patch in pixels, as the authors' code has it: Xavier's range of a patch projection.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from orca_core.adapters.base import Adapter
from orca_core.bodies.base import Body
from orca_core.errors import ConfigError, Fault


class Prompts(nn.Module):
    """p learned tokens for one block.

    Args:
        count: p.
        width: d.
        patch: Side of a patch, in pixels.
    """

    def __init__(self, count: int, width: int, patch: int) -> None:
        super().__init__()
        bound = math.sqrt(6 / (3 * patch**2 + width))
        self.tokens = nn.Parameter(torch.empty(count, width).uniform_(-bound, bound))


class VptAdapter(Adapter):
    """Learned tokens, each block's kept in the block.

    Args:
        body: The body.
        tokens: Learned tokens of a block.
        deep: Whether every block has its own.

    Raises:
        ConfigError: If the body has no place for tokens beside its patches.
    """

    def __init__(self, body: Body, *, tokens: int, deep: bool) -> None:
        super().__init__("vpt", body)
        if not body.takes_tokens:
            rule = "must not be vpt for a body whose blocks relate places of a grid, where a learned token has none"
            raise ConfigError([Fault("adapter", rule, type(body).__name__)])
        body.requires_grad_(False)
        start = body.own_tokens
        for number, block in enumerate(body.blocks if deep else body.blocks[:1]):
            prompts = Prompts(tokens, body.geometry.width, body.geometry.patch_size)
            block.add_module("prompts", prompts)
            block.register_forward_pre_hook(_inserting(start, start + (tokens if number else 0)))
            self.parameters.append(prompts.tokens)
        body.blocks[-1].register_forward_hook(_dropping(start, start + tokens))


def _inserting(start: int, stop: int) -> Callable[[Any, Any], Any]:
    """A hook that puts a block's tokens in the place of tokens `start` to `stop` of what comes in."""

    def insert(block: Any, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        tokens, *others = inputs
        prompts = block.prompts.tokens.to(tokens.dtype).expand(len(tokens), -1, -1)
        return torch.cat([tokens[:, :start], prompts, tokens[:, stop:]], dim=1), *others

    return insert


def _dropping(start: int, stop: int) -> Callable[[Any, Any, Any], Tensor]:
    """A hook that leaves tokens `start` to `stop` out of what a block gives."""

    def drop(block: Any, inputs: Any, output: Tensor) -> Tensor:
        return torch.cat([output[:, :start], output[:, stop:]], dim=1)

    return drop
