"""Gradient checkpointing: a block's activations are recomputed in the backward pass instead of being kept."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint


def checkpoint_blocks(blocks: Iterable[nn.Module]) -> None:
    """Make blocks keep only their inputs for the backward pass; on CPU, outputs and gradients stay bit-identical."""
    for block in blocks:
        _wrap(block)


def _wrap(block: nn.Module) -> None:
    forward = block.forward

    def checkpointed(*args: Any, **options: Any) -> Any:
        if not torch.is_grad_enabled():
            return forward(*args, **options)
        return checkpoint(forward, *args, use_reentrant=False, **options)

    block.forward = checkpointed
