"""A body's lowest blocks, which do not train: what the last of them gives, and the body's forward pass from there on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from orca_core.bodies.base import Body


def untrained_blocks(body: Body) -> int:
    """Number of lowest blocks whose outputs stay the same while what now trains of a body trains; 0 where none can be left out.

    That is also so where something outside the blocks trains, such as a position table, or dropout acts there, as GPT-2's does below
    the first block.
    """
    inside = {part for block in body.blocks for part in block.modules()}
    for part in body.modules():
        if part in inside:
            continue
        if (isinstance(part, nn.Dropout) and part.p > 0) or any(parameter.requires_grad for parameter in part.parameters(recurse=False)):
            return 0
    trains = [any(parameter.requires_grad for parameter in block.parameters()) for block in body.blocks]
    return trains.index(True) if True in trains else 0


@dataclass(frozen=True)
class Given:
    """What the last of some blocks gives.

    Args:
        readings: (n, ...) tokens, once for each time that the body reads, which a flipped decoder does twice.
        companions: How many values the family's blocks give beside tokens, all None.
    """

    readings: Sequence[Tensor]
    companions: int


def prefix_outputs(body: Body, tokens: Tensor, lowest: int) -> Given | None:
    """What the last of the `lowest` blocks gives; None if they hand on more than tokens, as T5's first does with its position biases.

    Args:
        body: In eval mode.
        tokens: (n, l, d) of the embedder.
        lowest: Number of blocks, at least 1.
    """
    given: list[Any] = []
    hooks = [block.register_forward_hook(lambda block, inputs, output: given.append(output)) for block in body.blocks[:lowest]]
    try:
        body(tokens)
    finally:
        for hook in hooks:
            hook.remove()
    parts = [one if isinstance(one, tuple) else (one,) for one in given]
    if any(more is not None for _, *others in parts for more in others):
        return None
    return Given([tokens for tokens, *_ in parts[lowest - 1 :: lowest]], len(parts[-1]) - 1)


@contextmanager
def replaced_blocks(body: Body, lowest: int, given: Given) -> Iterator[None]:
    """Within: the `lowest` blocks compute nothing, and the last of them gives what `prefix_outputs` noted.

    Args:
        body: The body.
        lowest: Number of blocks, at least 1.
        given: Of `prefix_outputs`.
    """
    readings = iter(given.readings)

    def form(tokens: Tensor) -> Any:
        return (tokens, *[None] * given.companions) if given.companions else tokens

    def hand_on(*inputs: Tensor, **options: Any) -> Any:
        return form(inputs[0] if inputs else options["hidden_states"])

    def give(*inputs: Tensor, **options: Any) -> Any:
        return form(next(readings))

    *below, last = body.blocks[:lowest]
    before = [(block, vars(block).get("forward")) for block in (*below, last)]  # a wrapped block has a forward of its own
    try:
        for block in below:
            block.forward = hand_on
        last.forward = give
        yield
    finally:
        for block, forward in before:
            if forward is None:
                del block.forward
            else:
                block.forward = forward
