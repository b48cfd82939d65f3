"""The state of a trajectory as one flat mapping of named tensors: parts under a prefix each."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor


def pack(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors under a prefix: `<prefix>.<name>`."""
    return {f"{prefix}.{name}": tensor for name, tensor in tensors.items()}


def unpack(prefix: str, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What `pack` put under a prefix."""
    return {name.removeprefix(f"{prefix}."): tensor for name, tensor in state.items() if name.startswith(f"{prefix}.")}
