"""What a group of trials computes (`orca_core.finetuning.fused`): their weights lie stacked, and one pass and one step train them all."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel

from orca_core.finetuning.fixed_features import PooledFeatures
from orca_core.finetuning.folded import FoldedModel, parts_of
from orca_core.finetuning.heads import StackedHeads, cross_entropies, is_plain_head
from orca_core.finetuning.rates import schedule
from orca_core.finetuning.regularisers import smoothed
from orca_core.finetuning.stacked import MemberRows, Stack, StackedOptimizer, laid_out, stack
from orca_core.model.cross_modal import CrossModalModel
from orca_core.scoring.scores import one_minus_accuracy
from orca_core.seeding import generator

if TYPE_CHECKING:
    from orca_core.finetuning.fused import FusedFinetuning

T = TypeVar("T")

Scores = tuple[float | None, float | None, float | None]
"""Validation loss and error, and test error; None for a set without samples."""

SPAN_NUMBERS = 2**22
"""Most numbers that are gathered at once from the inputs of a group, before they are cut into batches."""


class Group:
    """Trials whose weights lie stacked, for as long as they train together. Members get back what is theirs after each epoch.

    Args:
        tunings: The members, as many as the group is wide.
        count: How many of them are real; the others are copies.
    """

    def __init__(self, tunings: Sequence[FusedFinetuning], count: int) -> None:
        self.count, self.width = count, len(tunings)
        first = tunings[0]
        self.settings = first.settings
        self.batch_size: int = self.settings["finetune.batch_size"]
        self.clip: float | None = self.settings["finetune.clip"]
        self.is_whole = not isinstance(first.passes.fixed, PooledFeatures)  # else the predictor is all that is left of the model
        self.module: nn.Module = first.model if self.is_whole else first.model.predictor
        self.loss, self.decode = first.loss, first.data.decode
        self.failed: dict[int, Exception] = {}
        self.is_plain_head = is_plain_head(self.module, self.settings.task.loss, first.data)
        self.folded = None if self.is_plain_head else FoldedModel.of(self.module)
        self.parts = parts_of(self.width, self.width if self.folded is None else self.folded.at_once)
        modules = [member.model if self.is_whole else member.model.predictor for member in tunings]
        self.parameters = [dict(module.named_parameters()) for module in modules]
        self.optimizers = [member.optimizer for member in tunings]
        buffers = [dict(module.named_buffers()) for module in modules]
        names = [name for name, parameter in self.parameters[0].items() if parameter.requires_grad]
        self.frozen = {
            **{n: stack([p[n].detach() for p in self.parameters]) for n, p in self.parameters[0].items() if not p.requires_grad},
            **{n: stack([b[n] for b in buffers]) for n, b in buffers[0].items() if b.is_floating_point()},
        }
        self.start = [(name, [own[name] for own in self.parameters]) for name in names]
        self._stack(names)
        self.decays = torch.tensor([member.settings["finetune.weight_decay"] for member in tunings], dtype=torch.float64)
        smoothing = [member.settings["finetune.label_smoothing"] for member in tunings]
        self.smoothing = torch.tensor(smoothing) if any(smoothing) else None
        self.samples = len(first.train[1])
        self.sums = torch.zeros(self.width, dtype=torch.float64)
        self.features: tuple[MemberRows, MemberRows] | None = None
        if first.passes.fixed is not None:
            change = self.heads.with_one if self.heads is not None else None
            self.features = MemberRows([one.prepare()[0] for one in tunings], change), MemberRows([one.train[1] for one in tunings])

    def _stack(self, names: Sequence[str]) -> None:
        """Stack the parameters of these names, with the optimiser's state; the others count as frozen."""
        for name, tensors in self.start:
            if name not in names:
                self.frozen[name] = stack([tensor.detach() for tensor in tensors])
        kept = [(name, tensors) for name, tensors in self.start if name in names]
        self.heads = StackedHeads(kept) if self.is_plain_head else None
        self.weights = self.heads or Stack(kept)
        self.optimizer = StackedOptimizer(self.settings, self.weights, self.optimizers)

    def run(self, members: Sequence[tuple[FusedFinetuning, int]]) -> None:
        """Train the members, each with the number of its epoch."""
        if isinstance(self.module, CrossModalModel):
            self.module.train_mode()
        self.rates = self._rates(members, -(-self.samples // self.batch_size))
        self.optimizer.start_epoch(self.rates, self.decays)
        orders = torch.stack(self._filled([member.order(epoch) for member, epoch in members]))
        if self.heads is not None and self.features is not None:
            with torch.no_grad():
                self.sums = self.heads.train(*self.features, orders, self.batch_size, self.smoothing, self._update)
            return
        self.sums.zero_()
        for x, y in self._batches(members, orders):
            losses, gradient = self._gradient(x, y)
            with torch.no_grad():
                self._update(gradient)
            self.sums += losses.double() * x.shape[1]

    def _batches(self, members: Sequence[tuple[FusedFinetuning, int]], orders: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Inputs and targets of each step, laid out by member: (members, n, ...)."""
        if self.features is not None:
            steps = max(1, SPAN_NUMBERS // (self.width * self.batch_size * self.features[0].tensors[0][0].numel()))
            pieces = (part.batches(orders, self.batch_size, steps) for part in self.features)
            yield from ((laid_out(x), laid_out(y)) for xs, ys in zip(*pieces, strict=True) for x, y in zip(xs, ys, strict=True))
            return
        draws = [generator(member.seed, "augment", epoch) for member, epoch in members]
        tunings = [member for member, _ in members]
        size = tunings[0].prepare()[0][0].numel()
        span = self.batch_size * max(1, SPAN_NUMBERS // max(1, self.width * self.batch_size * size))
        for begin in range(0, self.samples, span):
            inputs, targets = self._gather(tunings, [order[begin : begin + span] for order in orders], draws)
            for offset in range(0, inputs.shape[1], self.batch_size):
                batch = slice(offset, offset + self.batch_size)
                yield laid_out(inputs[:, batch]), laid_out(targets[:, batch])

    def _filled(self, values: Sequence[T]) -> list[T]:
        """What the real members have, and for each copy that of the first."""
        return [*values, *[values[0]] * (self.width - self.count)]

    def _gather(
        self, tunings: Sequence[FusedFinetuning], rows: Sequence[Tensor], draws: Sequence[torch.Generator]
    ) -> tuple[Tensor, Tensor]:
        """Inputs and targets of each member's rows: (members, n, ...). Of one that fails, and of copies, those of another."""
        found: list[tuple[Tensor, Tensor] | None] = []
        for number, member in enumerate(tunings):
            try:
                found.append(self._rows_of(member, rows[number], draws[number]))
            except Exception as error:
                self.failed.setdefault(number, error)
                found.append(None)
        whole = next((pair for pair in found if pair is not None), None)
        if whole is None:
            raise self.failed[0]
        inputs, targets = zip(*self._filled([pair or whole for pair in found]), strict=True)
        return torch.stack(inputs), torch.stack(targets)

    def _rows_of(self, member: FusedFinetuning, rows: Tensor, draws: torch.Generator) -> tuple[Tensor, Tensor]:
        """One member's inputs, as its model reads them, and targets."""
        x, y = member.prepare()[0], member.train[1]
        if member.data.augment is None:
            return member.data.inputs(x[rows]), y[rows]
        batches = [member.data.inputs(member.data.augment(x[batch], draws)) for batch in rows.split(self.batch_size)]
        return torch.cat(batches), y[rows]

    def _rates(self, members: Sequence[tuple[FusedFinetuning, int]], steps: int) -> Tensor:
        """(steps, members) learning rates of an epoch, in float64."""
        columns, ones = [], [1] * steps
        factors: dict[Hashable, list[float]] = {}
        for member, epoch in members:
            passed = epoch - 1 - member.schedule_start
            of = passed, *(member.settings[f"finetune.{name}"] for name in ("schedule", "warmup_epochs", "decay_epochs"))
            if of not in factors:
                factor = schedule(member.settings)
                factors[of] = [factor(passed, ones, number) for number in range(steps)]
            peak = member.settings["finetune.lr"] * member.phase.lr_scale
            columns.append([peak * value for value in factors[of]])
        return torch.tensor(self._filled(columns), dtype=torch.float64).T.contiguous()

    def _update(self, gradient: Tensor) -> None:
        """Take a step by the gradient of all members, of the shape of their weights; it is changed."""
        if self.clip is not None:
            norms = torch.linalg.vector_norm(gradient, dim=1, keepdim=True)
            gradient.mul_((self.clip / norms.add_(1e-6)).clamp_(max=1.0))
        self.optimizer.step(gradient)

    def _gradient(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Losses (members,), and the gradient of their weights (members, weights)."""
        found = [self._gradient_of(part, x, y) for part in self.parts]
        losses, gradient = x.new_empty(self.width), torch.zeros_like(self.weights.flat)
        for part, (own, gradients) in zip(self.parts, found, strict=True):
            if len(gradients) < len(self.weights.views):  # as in a single step, what the outputs do not depend on is left as it is
                self._stack(list(gradients))
                self.optimizer.start_epoch(self.rates, self.decays)
                return self._gradient(x, y)
            losses[part] = own
            torch.cat([*(tensor.flatten(1) for tensor in gradients.values())], 1, out=gradient[part, : self.weights.used])
        return losses, gradient

    def _gradient_of(self, part: slice, x: Tensor, y: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Losses of some members, and the gradients of those of their weights that the losses depend on."""
        views = {name: view[part].detach().requires_grad_() for name, view in self.weights.views.items()}
        losses = self._losses(part, views, x[part], y[part])
        gradients = torch.autograd.grad(losses.sum(), list(views.values()), allow_unused=True)
        return losses.detach(), {name: tensor for name, tensor in zip(views, gradients, strict=True) if tensor is not None}

    def _losses(self, part: slice, views: Mapping[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
        outputs = self._outputs(part, views, x)
        smoothing = None if self.smoothing is None else self.smoothing[part]
        if self.settings.task.loss == "cross-entropy" and self.decode is None:
            return cross_entropies(outputs, y, smoothing)
        decode: Callable[[Tensor], Tensor] = self.decode or (lambda values: values)

        def loss_of(outputs: Tensor, y: Tensor, smoothing: Any) -> Tensor:
            outputs = decode(outputs.float())
            loss = self.loss(outputs, decode(y))
            return loss if smoothing is None else smoothed(loss, outputs, smoothing)

        losses: Tensor = vmap(loss_of, (0, 0, None if smoothing is None else 0))(outputs, y, smoothing)
        return losses

    def _outputs(self, part: slice, views: Mapping[str, Tensor], x: Tensor) -> Tensor:
        """(members, n, ...) outputs of some members."""
        weights = {**views, **{name: tensor[part] for name, tensor in self.frozen.items()}}
        if self.folded is not None:
            return self.folded(weights, x)

        def outputs_of(weights: dict[str, Tensor], x: Tensor) -> Tensor:
            outputs: Tensor = functional_call(self.module, weights, (x,))
            return outputs

        with sdpa_kernel(SDPBackend.MATH):  # the fused kernels have no gradient of a mask, and are not batched over models
            outputs: Tensor = vmap(outputs_of)(weights, x)
        return outputs

    @torch.no_grad()
    def scores(self, members: Sequence[tuple[FusedFinetuning, int]]) -> list[Scores | Exception | None]:
        """Validation loss and error of each real member, and its test error if that is asked for; or what went wrong with them.

        None where members are evaluated one by one.
        """
        tunings = [member for member, _ in members]
        if self.folded is None and not self._scores_heads(tunings[0]):
            return [None] * self.count
        found: dict[int, Scores | Exception] = {}
        for part in self.parts:
            own = [number for number in range(*part.indices(self.count)) if number not in found]
            valid = self._scores_on(1, part, own, tunings)
            asking = [n for n, one in valid.items() if not isinstance(one, Exception) and tunings[n].asks_test(members[n][1], one[1])]
            test = valid if tunings[0].valid_is_test else self._scores_on(2, part, asking, tunings)
            for number, scores in valid.items():
                tested = test.get(number, (None, None))
                error = next((one for one in (scores, tested) if isinstance(one, Exception)), None)
                found[number] = error or (*scores, tested[1])
        return [found[number] for number in range(self.count)]

    def _scores_heads(self, first: FusedFinetuning) -> bool:
        """Whether plain heads are scored together: by the error rate of single samples."""
        has_groups = first.data.valid.group is not None or first.data.test.group is not None
        by_chunks = self.settings["finetune.scoring"] == "chunks"
        return self.heads is not None and first.score is one_minus_accuracy and not by_chunks and not has_groups

    def _scores_on(self, place: int, part: slice, numbers: Sequence[int], tunings: Sequence[FusedFinetuning]) -> dict[int, Any]:
        """Loss and score of some members of a part on a set, or what went wrong; None for a set without samples.

        The members of a part are evaluated together, copies too, and what is not asked for is left out afterwards.

        Args:
            place: Of the set among the inputs: 1 = validation, 2 = test.
            part: The part.
            numbers: The members that are asked for.
            tunings: All real members.
        """
        sets = [(one.prepare()[place], (one.valid if place == 1 else one.test)[1]) for one in tunings]
        if not numbers or not len(sets[0][1]):
            return dict.fromkeys(numbers, (None, None))
        if self.heads is not None:
            scores = self.heads.scores(sets)
            return {number: scores[number] for number in numbers}
        views, filled = {name: view[part] for name, view in self.weights.views.items()}, self._filled(tunings)[part]
        pieces = zip(*(one.prepare()[place].split(self.batch_size) for one in filled), strict=True)
        outputs = torch.cat([self._outputs(part, views, _side_by_side(filled, piece)) for piece in pieces], 1)
        return {number: tunings[number].scores_of(outputs[number - part.start], place) for number in numbers}

    def mean_losses(self) -> list[float]:
        """The mean training loss of each member over its samples."""
        means: list[float] = (self.sums / self.samples).tolist()
        return means

    def give_back(self, numbers: Sequence[int]) -> None:
        """Give members their weights and the optimiser's state."""
        self.weights.give_back(numbers)
        self.optimizer.give_back(numbers)


def _side_by_side(tunings: Sequence[FusedFinetuning], rows: Sequence[Tensor]) -> Tensor:
    """Rows of each member's set -> (members, n, ...) as models read them. Where members have the same set, it is read once."""
    alike = len({(id(tuning.data), own.data_ptr()) for tuning, own in zip(tunings, rows, strict=True)}) == 1
    read = [
        own if one.passes.fixed is not None else one.data.inputs(own)
        for one, own in list(zip(tunings, rows, strict=True))[: 1 if alike else None]
    ]
    return read[0].expand(len(rows), *read[0].shape) if alike else torch.stack(read)
