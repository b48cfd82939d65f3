"""A body's lowest blocks, which do not train: what the last of them gives, and the body's forward pass from there on."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
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
        companions: What it gives beside tokens, the same for all samples: None, or (1, ...), as T5's position biases.
    """

    readings: Sequence[Tensor]
    companions: tuple[Tensor | None, ...] = ()


def prefix_outputs(body: Body, tokens: Tensor, lowest: int) -> Given | None:
    """What the last of the `lowest` blocks gives; None if it gives more than tokens and what is the same for all samples.

    The blocks above compute nothing. Of a single sample it cannot be told what is the same for all: ask with two first.

    Args:
        body: In eval mode.
        tokens: (n, l, d) of the embedder.
        lowest: Number of blocks, at least 1.
    """
    readings: list[Tensor] = []
    companions: tuple[Tensor | None, ...] = ()

    def note(block: nn.Module, inputs: Any, output: Any) -> None:
        nonlocal companions
        read, *others = output if isinstance(output, tuple) else (output,)
        readings.append(read)
        companions = tuple(others)

    def hand_on(*inputs: Tensor, **options: Any) -> Any:
        return _output(_tokens_of(inputs, options), companions)

    blocks = body.blocks
    hook = blocks[lowest - 1].register_forward_hook(note)
    try:
        with _replaced(dict.fromkeys(blocks[lowest:], hand_on)):
            body(tokens)
    finally:
        hook.remove()
    if any(more is not None and (not isinstance(more, Tensor) or len(more) != 1) for more in companions):
        return None
    return Given(readings, companions)


@contextmanager
def replaced_blocks(body: Body, lowest: int, given: Given) -> Iterator[None]:
    """Within: the `lowest` blocks compute nothing, and the last of them gives what `prefix_outputs` noted.

    Args:
        body: The body.
        lowest: Number of blocks, at least 1.
        given: Of `prefix_outputs`.
    """
    readings = iter(given.readings)

    def hand_on(*inputs: Tensor, **options: Any) -> Any:
        return _output(_tokens_of(inputs, options), given.companions)

    def give(*inputs: Tensor, **options: Any) -> Any:
        return _output(next(readings), given.companions)

    *below, last = body.blocks[:lowest]
    with _replaced({**dict.fromkeys(below, hand_on), last: give}):
        yield


def _tokens_of(inputs: Sequence[Tensor], options: Mapping[str, Any]) -> Tensor:
    """The tokens that a block is called with."""
    return inputs[0] if inputs else options["hidden_states"]


def _output(tokens: Tensor, companions: tuple[Tensor | None, ...]) -> Any:
    """What a block returns."""
    return (tokens, *companions) if companions else tokens


@contextmanager
def _replaced(forwards: Mapping[nn.Module, Callable[..., Any]]) -> Iterator[None]:
    """Within: these modules compute something else."""
    before = {module: vars(module).get("forward") for module in forwards}  # a wrapped block has a forward of its own
    try:
        for module, forward in forwards.items():
            module.forward = forward
        yield
    finally:
        for module, own in before.items():
            if own is None:
                del module.forward
            else:
                module.forward = own
