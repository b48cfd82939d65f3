"""How far parameters have moved, by the groups that `freezing` names."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import Tensor, nn

from orca_core.errors import ConfigError
from orca_core.freezing.groups import body_group
from orca_core.model.cross_modal import CrossModalModel
from orca_core.probing.reading import Measured, Reading

GROUPS = ("body", "attention", "non-attn", "qkv", "layernorm", "bias")
"""Groups of a body's parameters, beside its layers one by one."""


def relative_change(before: Sequence[Tensor], after: Sequence[Tensor]) -> float | None:
    """||after - before|| / ||before||, Frobenius norms over all tensors of a group together; None if all are 0 before.

    Args:
        before, after: The same tensors in the same order.
    """
    moved = sum((new.detach().double() - old.detach().double()).square().sum().item() for old, new in zip(before, after, strict=True))
    size = sum(old.detach().double().square().sum().item() for old in before)
    return None if size == 0 else float((moved / size) ** 0.5)


def changes(reading: Reading) -> Iterator[Measured]:
    """Relative change of each group: by alignment, of the embedder; by fine-tuning, of all parts."""
    if reading.moment == "aligned":
        yield from _of("embedder", list(reading.first_embedder.parameters()), list(reading.model.embedder.parameters()))
        return
    before, after = reading.before, reading.model
    for name in ("embedder", "predictor"):
        yield from _of(name, list(before.get_submodule(name).parameters()), list(after.get_submodule(name).parameters()))
    for name in GROUPS:
        try:
            yield from _of(name, _own(before, body_group(before.body, name)), _own(after, body_group(after.body, name)))
        except ConfigError:  # the body does not have the group, or does not say which parameters it is
            continue
    if before.adapter is not None and after.adapter is not None:
        yield from _of("adapter", before.adapter.parameters, after.adapter.parameters)
    for layer, (old, new) in enumerate(zip(before.body.blocks, after.body.blocks, strict=True), start=1):
        if reading.request.has_layer(layer):
            yield from _of("layers", _own(before, old.parameters()), _own(after, new.parameters()), layer)


def _own(model: CrossModalModel, parameters: Iterable[nn.Parameter]) -> list[nn.Parameter]:
    """Those of some parameters that are the body's own, without what an adapter has put into it."""
    inserted = {id(parameter) for parameter in model.adapter.parameters} if model.adapter is not None else set()
    return [parameter for parameter in parameters if id(parameter) not in inserted]


def _of(group: str, before: Sequence[Tensor], after: Sequence[Tensor], layer: int | None = None) -> Iterator[Measured]:
    with torch.no_grad():
        value = relative_change(before, after) if before else None
    if value is not None:
        yield Measured(value, layer, group)
