"""The forward pass by torch.compile."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

_RECOMPILE_LIMIT = 10_000
"""Above what the phases and batch sizes of a trial need."""


def compiled(model: nn.Module) -> Callable[..., Any]:
    """The forward pass by torch.compile, to the same bits whatever the process has compiled before, with the dropout of the plain one."""
    # All models share what is compiled of their code, and beyond the limit torch goes back to the plain pass, silently.
    torch._dynamo.reset()
    torch._dynamo.config.recompile_limit = torch._dynamo.config.accumulated_recompile_limit = _RECOMPILE_LIMIT
    return torch.compile(model, options={"fallback_random": True})
