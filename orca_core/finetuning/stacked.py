"""Weights of several models stacked in one tensor, and their optimiser.

Each model's numbers start at a multiple of `LINE`: vector instructions and matrix products then
treat every place of the stack alike, see `orca_core.finetuning.fused`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

LINE = 32
"""Numbers of 4 bytes to a multiple of which a model's part of a stacked tensor is extended: two vectors of 512 bits."""

EPSILON = 1e-8
"""Of Adam and AdamW, torch's default."""

MOST_JOINED = 2**26
"""Most numbers of different features of a group that are copied into one tensor, from which a batch is gathered in one piece."""


def round_up(count: int, multiple: int) -> int:
    """The least multiple that is no less."""
    return -(-count // multiple) * multiple


def stack(tensors: Sequence[Tensor]) -> Tensor:
    """(members, *shape) of tensors of one shape; each starts at a multiple of `LINE` numbers."""
    return laid_out(torch.stack(list(tensors)))


def laid_out(values: Tensor) -> Tensor:
    """(members, *shape) values, laid out so that each member's start at a multiple of `LINE` numbers."""
    members, *shape = values.shape
    size = values[0].numel()
    if size % LINE == 0:
        return values.contiguous()
    flat = values.new_zeros(members, round_up(size, LINE))
    flat[:, :size].copy_(values.reshape(members, size))
    return flat[:, :size].unflatten(1, shape) if shape else flat[:, 0]


class Stack:
    """The weights that train, of all members: one row each.

    Args:
        parameters: Name -> the members' parameters of that name, in the order of members.
    """

    def __init__(self, parameters: Sequence[tuple[str, Sequence[Tensor]]]) -> None:
        self.parameters = parameters
        self.members = len(parameters[0][1])
        self.sizes = [tensors[0].numel() for _, tensors in parameters]
        self.used = sum(self.sizes)
        self.flat = torch.zeros(self.members, self.length())
        self.fill(self.flat, [[tensor.detach() for tensor in tensors] for _, tensors in parameters])
        self.rows = [self.parts(row) for row in self.flat]
        self.views: Mapping[str, Tensor] = {
            name: part.unflatten(1, tensors[0].shape)
            for (name, tensors), part in zip(parameters, self.flat[:, : self.used].split(self.sizes, dim=1), strict=True)
        }

    def length(self) -> int:
        """Numbers of a row."""
        return round_up(self.used, LINE)

    def fill(self, flat: Tensor, columns: Sequence[Sequence[Tensor]]) -> None:
        """Write tensors, by parameter and member, into a tensor of the shape of `flat`."""
        for row, tensors in zip(flat, zip(*columns, strict=True), strict=True):
            torch._foreach_copy_(self.parts(row), list(tensors))

    def parts(self, row: Tensor) -> list[Tensor]:
        """One member's row of a tensor of the shape of `flat` -> its tensors, in the shapes of the parameters."""
        cut = row[: self.used].split(self.sizes)
        return [part.view(tensors[0].shape) for (_, tensors), part in zip(self.parameters, cut, strict=True)]

    @torch.no_grad()
    def give_back(self, numbers: Sequence[int]) -> None:
        """Write the weights of some members into their parameters."""
        own = [tensors[number] for number in numbers for _, tensors in self.parameters]
        torch._foreach_copy_(own, [part for number in numbers for part in self.rows[number]])


class StackedOptimizer:
    """SGD, Adam or AdamW of stacked weights: torch's own steps up to rounding, with a learning rate and a weight decay for each member.

    Args:
        settings: `finetune.optimizer`, `finetune.momentum`, `finetune.betas`, which all members share.
        weights: Changed in place.
        optimizers: Each member's own, from which the state comes and to which it returns.
    """

    def __init__(self, settings: Mapping[str, Any], weights: Stack, optimizers: Sequence[torch.optim.Optimizer]) -> None:
        self.kind, self.momentum, self.betas = (settings[f"finetune.{name}"] for name in ("optimizer", "momentum", "betas"))
        self.weights, self.optimizers = weights, optimizers
        self.entries = ("exp_avg", "exp_avg_sq") if self.kind != "sgd" else ("momentum_buffer",) if self.momentum else ()
        self.state = {entry: torch.zeros_like(weights.flat) for entry in self.entries}
        self.rows = {entry: [weights.parts(row) for row in flat] for entry, flat in self.state.items()}
        for entry, flat in self.state.items():
            weights.fill(flat, [self._states(tensors, entry) for _, tensors in weights.parameters])
        self.steps = torch.tensor(
            [[float(one.state.get(own[n], {}).get("step", 0)) for _, own in weights.parameters] for n, one in enumerate(optimizers)]
        )
        self.change = torch.zeros_like(weights.flat)
        # Torch's kernel takes one number of steps for each tensor.
        differ = bool((self.steps != self.steps[:, :1]).any())
        if differ:
            self.piece_steps = list(self.steps.flatten().unbind())
        else:
            alike = bool((self.steps == self.steps[0, 0]).all())
            self.piece_steps = list(self.steps[:1, 0].unbind() if alike else self.steps[:, 0].unbind())
        self.pieces = [self._pieces(flat) for flat in (self.change, *self.state.values())]

    def _states(self, tensors: Sequence[Tensor], entry: str) -> list[Tensor]:
        found = (optimizer.state.get(tensor, {}).get(entry) for optimizer, tensor in zip(self.optimizers, tensors, strict=True))
        return [torch.zeros_like(tensor) if state is None else state for tensor, state in zip(tensors, found, strict=True)]

    def start_epoch(self, rates: Tensor, decays: Tensor) -> None:
        """Compute ahead what the steps of an epoch multiply by.

        Args:
            rates: (steps, members) learning rates, in float64.
            decays: (members,) weight decays, in float64.
        """
        lr = rates.unsqueeze(2)  # (steps, members, 1)
        self.number, self.rates = 0, lr.float().unbind()
        self.kept, self.decays = (1 - lr * decays.unsqueeze(1)).float().unbind(), decays.unsqueeze(1).float()

    def step(self, gradient: Tensor) -> None:
        """Take the next step of an epoch.

        Args:
            gradient: (members, numbers) of the weights; may be changed.
        """
        weights, number = self.weights.flat, self.number
        self.number += 1
        if self.kind == "adamw":
            weights.mul_(self.kept[number])
        else:
            gradient = gradient.addcmul_(weights, self.decays)
        if self.kind == "sgd":
            if self.momentum:
                gradient = self.state["momentum_buffer"].mul_(self.momentum).add_(gradient)
            weights.addcmul_(gradient, self.rates[number], value=-1)
            return
        # The kernel has one learning rate, too: at a rate of 1 it finds what the members' rates are multiplied by.
        self.steps += 1
        self.change.zero_()
        change, *state = self.pieces
        (means, squares), (first, second) = state, self.betas
        torch._fused_adam_(
            change,
            self._pieces(gradient),
            means,
            squares,
            [],
            self.piece_steps,
            lr=1.0,
            beta1=first,
            beta2=second,
            weight_decay=0.0,
            eps=EPSILON,
            amsgrad=False,
            maximize=False,
        )
        weights.addcmul_(self.change, self.rates[number])

    def _pieces(self, flat: Tensor) -> list[Tensor]:
        """A tensor of the shape of the weights, cut where numbers of steps differ: between members, or between all parameters."""
        if len(self.piece_steps) == 1:
            return [flat]
        if len(self.piece_steps) == self.weights.members:
            return list(flat.unbind())
        return [part for row in flat for part in self.weights.parts(row)]

    @torch.no_grad()
    def give_back(self, numbers: Sequence[int]) -> None:
        """Write the state of some members into their own optimisers."""
        if not self.entries:
            return
        targets, sources = [], []
        steps = self.steps.flatten().unbind()
        for number in numbers:
            for place, (_, tensors) in enumerate(self.weights.parameters):
                own = self.optimizers[number].state[tensors[number]]
                found = {entry: rows[number][place] for entry, rows in self.rows.items()}
                if self.kind != "sgd":
                    found["step"] = steps[number * len(self.weights.parameters) + place]
                for entry, value in found.items():
                    if own.get(entry) is None:
                        own[entry] = torch.empty_like(value, memory_format=torch.contiguous_format)
                    targets.append(own[entry])
                    sources.append(value)
        torch._foreach_copy_(targets, sources)


class MemberRows:
    """Features that are computed once, or targets, of all members: (n, ...) each. Those that members share are there once.

    Args:
        tensors: One for each member.
        change: What is done to them, row by row.
    """

    def __init__(self, tensors: Sequence[Tensor], change: Callable[[Tensor], Tensor] | None = None) -> None:
        self.tensors, self.change = tensors, change
        different = {tensor.data_ptr(): tensor for tensor in tensors}
        begins = {pointer: number * len(tensors[0]) for number, pointer in enumerate(different)}
        self.begins = torch.tensor([[begins[tensor.data_ptr()]] for tensor in tensors])
        self.joined: Tensor | None = None
        if len(different) == 1 and change is None:
            self.joined = tensors[0]
        elif len(different) * tensors[0].numel() <= MOST_JOINED:
            self.joined = self._changed(torch.cat(list(different.values())))

    def _changed(self, rows: Tensor) -> Tensor:
        return rows if self.change is None else self.change(rows)

    def batches(self, rows: Tensor, size: int, steps: int) -> Iterator[Tensor]:
        """(members, n) rows -> (steps or fewer, members, size, ...) of them, piece by piece; last the rest, (1, members, fewer, ...)."""
        whole = rows.shape[1] // size * size
        for part in [*rows[:, :whole].split(size * max(1, steps), 1), rows[:, whole:]]:
            if part.shape[1]:
                yield self._gathered(part.unflatten(1, (-1, min(size, part.shape[1]))).transpose(0, 1))

    def _gathered(self, rows: Tensor) -> Tensor:
        """(steps, members, n) rows -> (steps, members, n, ...)."""
        if self.joined is not None:
            return self.joined.index_select(0, (rows + self.begins).flatten()).unflatten(0, rows.shape)
        return self._changed(torch.stack([tensor[own] for tensor, own in zip(self.tensors, rows.unbind(1), strict=True)], 1))
