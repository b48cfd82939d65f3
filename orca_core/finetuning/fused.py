"""Fused fine-tuning: several trials train as one batched model (`finetune.fused`).

Small models spend much of a step on starting operations rather than on arithmetic. Here the weights of several models lie stacked, and one
forward and backward pass and one optimiser step train them all; each has a learning rate, a weight decay and draws of its own. A *group*
always has `finetune.fused` members: copies of the first, whose results are thrown away, fill it up. There are three forms of a pass: for
linear heads on features that are computed once the gradient is written out (`heads`); members are folded into the batch where every layer
with weights has a batched counterpart (`folded`); else the model is vectorised by `torch.func`.

A fused step does not have the bits of a single one, so the knob is in ids and keys. But a member's bits depend neither on the trials beside
it, nor on its place among them, nor on who else is finished:

- every operation has one shape for a given number of members, and treats each of them by itself;
- a member's rows of a stacked tensor start at the same offset within a cache line, and have a multiple of 32 numbers, so that vector
  instructions cut every member alike;
- orders and augmentations are drawn from each member's own generators, outside the batched computation;
- after each epoch weights and the optimiser's state go back to the members, so any other group may follow. A group whose members stay the
  same goes on with what it has.

The second holds for what is stacked here; tensors inside the model are laid out by torch. That bits do not depend on the place is shown by
tests, on odd sizes, too. Linear heads are evaluated together; other models one by one, as arithmetic limits it. What has no such
independence is refused in `orca_core.config.training_faults`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from time import perf_counter
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel

from orca_core.finetuning.fixed_features import FixedFeatures, PooledFeatures
from orca_core.finetuning.folded import FoldedFeatures, FoldedModel, parts_of
from orca_core.finetuning.heads import StackedHeads, cross_entropies, is_plain_head
from orca_core.finetuning.loop import Finetuning
from orca_core.finetuning.rates import schedule
from orca_core.finetuning.regularisers import smoothed
from orca_core.finetuning.stacked import MemberRows, Stack, StackedOptimizer, laid_out, stack
from orca_core.fusing import shared_settings, smooths_labels
from orca_core.model.cross_modal import CrossModalModel
from orca_core.rows import EpochRow
from orca_core.scoring.scores import one_minus_accuracy
from orca_core.seeding import generator
from orca_core.settings import Settings

T = TypeVar("T")

Scores = tuple[float | None, float | None, float | None]
"""Validation loss and error, and test error; None for a set without samples."""

SPAN_NUMBERS = 2**22
"""Most numbers that are gathered at once from the inputs of a group, before they are cut into batches."""


class FusedFinetuning(Finetuning):
    """Fine-tuning of one trial as a member of a group. `train_together` trains it beside others; otherwise it trains among copies.

    Attributes:
        share_s: Seconds of the latest epoch's training that fall to it: those of its group over the number of members.
        place: The group that has its weights and the optimiser's state as they are now, and its number there; None if there is none.
    """

    share_s = 0.0
    place: tuple[_Group, int] | None = None
    _trained: tuple[float, float] | Exception | None = None
    _scored: Scores | None = None
    _of_phase: tuple[bool, str] | None = None

    def start_phase(self, settings: Settings) -> None:
        """Begin a phase, see `Finetuning.start_phase`."""
        super().start_phase(settings)
        self._of_phase = self.place = None

    def run_epoch(self, epoch: int) -> EpochRow:
        """The epoch that `train_together` has trained, else one that is trained now."""
        self.prepare()
        if not self.fuses:
            return super().run_epoch(epoch)
        if self._trained is None:
            train_together([(self, epoch)])
            self.share_s = 0.0  # the caller of this function has seen it pass
        trained, self._trained = self._trained, None
        if isinstance(trained, Exception):
            raise trained
        assert trained is not None
        return self.row_after(epoch, *trained)

    @property
    def is_ahead(self) -> bool:
        """Whether its next epoch has been trained by `train_together`."""
        return self._trained is not None

    def prepare_beside(self, others: Sequence[FusedFinetuning]) -> None:
        """As `prepare`, but take features that are computed once from another trial if they are the same ones.

        Args:
            others: Trials that have been prepared.
        """
        if self.inputs is None and self.phase.train == ("predictor",):
            for other in others:
                if isinstance(other.fixed, PooledFeatures) and other.inputs is not None and self._has_features_of(other):
                    self.inputs, self.fixed = other.inputs, PooledFeatures(self.model)
                    return
        self.prepare()

    def _fixed_features(self) -> FixedFeatures | None:
        fixed = super()._fixed_features()
        folded = FoldedModel.of(self.model) if isinstance(fixed, PooledFeatures) and self.settings.body.pretrained_here else None
        return fixed if folded is None else FoldedFeatures(self.model, folded)

    def _has_features_of(self, other: FusedFinetuning) -> bool:
        if shared_settings(self.settings) != shared_settings(other.settings):
            return False
        parts = ("embedder",) if self.model.body is other.model.body else ("embedder", "body")
        for part in parts:
            own, its = (model.get_submodule(part).state_dict() for model in (self.model, other.model))
            if own.keys() != its.keys() or not all(torch.equal(tensor, its[name]) for name, tensor in own.items()):
                return False
        return True

    @property
    def fuses(self) -> bool:
        """Whether its phase trains in a group: if anything trains, and, of a body that is not a mini body, the predictor alone."""
        return self._describe_phase()[0]

    @property
    def signature(self) -> Hashable:
        """Trials of one signature can be members of one group in their next epoch."""
        return self._describe_phase()[1], self._steps_differ()

    def _describe_phase(self) -> tuple[bool, str]:
        """Whether its phase trains in a group, and what members of one have in common. After `prepare`."""
        if self._of_phase is None:
            state = [(name, tensor.shape) for name, tensor in self.model.state_dict().items()]
            trained = [name for name, parameter in self.model.named_parameters() if parameter.requires_grad]
            is_fixed = self.fixed is not None
            fuses = bool(trained) and (is_fixed or self.settings.body.pretrained_here)
            self._of_phase = fuses, repr((shared_settings(self.settings), smooths_labels(self.settings), state, trained, is_fixed))
        return self._of_phase

    def _steps_differ(self) -> bool:
        """Whether parameters that train have seen different numbers of steps, as after the thawing of layers."""
        if self.settings["finetune.optimizer"] == "sgd":
            return False
        trained = [parameter for group in self.optimizer.param_groups for parameter in group["params"] if parameter.requires_grad]
        return len({float(self.optimizer.state.get(parameter, {}).get("step", 0)) for parameter in trained}) > 1

    def hold(self, trained: tuple[float, float] | Exception, scores: Scores | None = None, seconds: float = 0.0) -> None:
        """Take what training it in a group has come to, for its next `run_epoch`.

        Args:
            trained: Mean loss and last learning rate, or what went wrong.
            scores: What the group has found on validation and test set; None if it is evaluated on its own.
            seconds: Its share of the time.
        """
        self._trained, self._scored, self.share_s = trained, scores, seconds

    def load_state(self, tensors: Mapping[str, Tensor]) -> None:
        """Go back to a state, see `Finetuning.load_state`."""
        super().load_state(tensors)
        self.place = None

    def _scores(
        self, inputs: tuple[Tensor, Tensor, Tensor], tests: Callable[[float | None], bool] = lambda error: True
    ) -> tuple[float | None, float | None, float | None]:
        scored, self._scored = self._scored, None
        return super()._scores(inputs, tests) if scored is None else scored

    def asks_test(self, epoch: int, valid_error: float | None) -> bool:
        """Whether the test error of its latest epoch is asked for."""
        return self.tested.asks(epoch, valid_error)

    def scores_of(self, outputs: Tensor, place: int) -> tuple[float, float] | Exception:
        """Loss and score of the outputs for its validation set (1) or test set (2), or what went wrong."""
        (_, y), group = (self.valid, self.data.valid.group) if place == 1 else (self.test, self.data.test.group)
        try:
            return self._scores_of(outputs.float(), y, group)
        except Exception as error:
            return error


def train_together(due: Sequence[tuple[FusedFinetuning, int]]) -> None:
    """Train each of some trials for its next epoch, in groups of those that can. Their next `run_epoch` evaluates it and returns its row.

    An error in what belongs to one of them, such as its augmentation, is raised by its `run_epoch` alone.

    Args:
        due: Trials, each with the number of its next epoch; on the same device, with the same `finetune.fused` or not.
    """
    groups: defaultdict[Hashable, list[tuple[FusedFinetuning, int]]] = defaultdict(list)
    for member, epoch in due:
        try:
            member.prepare_beside([other for other, _ in due if other is not member])
        except Exception as error:
            member.hold(error)
            continue
        if member.fuses:
            groups[member.signature].append((member, epoch))
    for members in groups.values():
        width = members[0][0].settings["finetune.fused"]
        for start in range(0, len(members), width):
            _train_group(members[start : start + width], width)


def _train_group(members: Sequence[tuple[FusedFinetuning, int]], width: int) -> None:
    """Train the members of one group for an epoch each."""
    started = perf_counter()
    tunings = [member for member, _ in members]
    group = _group_of(tunings, width)
    for tuning in tunings:
        tuning.place = None  # if the epoch fails, what the group has is nobody's
    scores: Sequence[Scores | Exception | None] = [None] * len(members)
    try:
        group.run(members)
        scores = group.scores(members)
    except Exception as error:
        group.failed |= dict.fromkeys(range(len(members)), error)
    whole = [number for number in range(len(tunings)) if number not in group.failed]
    if whole:
        group.give_back(whole)
        losses, rates = group.mean_losses(), group.rates[-1].tolist()
    seconds = (perf_counter() - started) / len(members)
    for number, (tuning, scored) in enumerate(zip(tunings, scores, strict=True)):
        if number in group.failed:
            tuning.hold(group.failed[number], seconds=seconds)
        elif isinstance(scored, Exception):
            tuning.hold(scored, seconds=seconds)
        else:
            tuning.place = group, number
            tuning.hold((losses[number], rates[number]), scored, seconds)


def _group_of(tunings: Sequence[FusedFinetuning], width: int) -> _Group:
    """The group that trained these trials in their latest epoch, if it did so in these places; else a new one."""
    found = tunings[0].place
    if found is not None and found[0].count == len(tunings) and all(one.place == (found[0], n) for n, one in enumerate(tunings)):
        return found[0]
    return _Group([*tunings, *[tunings[0]] * (width - len(tunings))], len(tunings))


class _Group:
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
        self.is_whole = not isinstance(first.fixed, PooledFeatures)  # else the predictor is all that is left of the model
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
        if first.fixed is not None:
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
        own if one.fixed is not None else one.data.inputs(own) for one, own in list(zip(tunings, rows, strict=True))[: 1 if alike else None]
    ]
    return read[0].expand(len(rows), *read[0].shape) if alike else torch.stack(read)
