"""Stage 3: train on the task, phase by phase of the freezing schedule."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from orca_core.alignment.joint import BatchDistance
from orca_core.config.knobs import TrialConfig
from orca_core.finetuning.checkpointing import checkpoint_blocks
from orca_core.finetuning.regularisers import Mixout, layer_rates, smoothed
from orca_core.freezing.fisher import fisher_scores
from orca_core.freezing.schedule import Phase
from orca_core.memory import fits
from orca_core.model.cross_modal import CrossModalModel
from orca_core.rows import EpochRow
from orca_core.scoring import LOSSES, SCORES
from orca_core.seeding import generator, seeded
from orca_core.tasks import Split, TaskData
from orca_core.training.optimizers import (
    load_optimizer_state,
    make_optimizer,
    optimizer_state,
    reference_warmup_decay,
    warmup_cosine,
    warmup_decay,
)

SCORES_KEY = "surgical.scores"
"""Name, in a state, of the scores that `surgical` has chosen layers by."""

_RECOMPILE_LIMIT = 10_000
"""Above what the phases and batch sizes of a trial need."""


@dataclass(frozen=True)
class Weights:
    """Trained parameters of one epoch.

    Args:
        epoch: After which they were taken.
        error: On the selection split.
        tensors: By the parameter's name; on the CPU.
    """

    epoch: int
    error: float
    tensors: Mapping[str, Tensor]

    def as_tensors(self, best_by: str) -> dict[str, Tensor]:
        """For a trajectory's state, under what they are best by: trials that share it may differ in that."""
        at = torch.tensor([self.epoch, self.error], dtype=torch.float64)
        return _under(f"best-{best_by}", self.tensors) | {f"best-{best_by}-at": at}

    @classmethod
    def from_tensors(cls, best_by: str, tensors: Mapping[str, Tensor]) -> Weights | None:
        """What `as_tensors` gave, out of a state; None if it holds none."""
        at = tensors.get(f"best-{best_by}-at")
        return None if at is None else cls(int(at[0]), float(at[1]), _below(f"best-{best_by}", tensors))


class Finetuning:
    """Fine-tuning of one trial, a trajectory over the epochs of all its phases.

    One optimiser and one schedule run through all phases unless a phase restarts them. Parameters that are frozen have no
    gradient, so the optimiser passes over them and keeps no state for them.

    Args:
        config: The trial.
        model: Embedder (aligned or not), body and predictor; trained in place.
        data: The task's data.
        device: Where to train.
        keep_best: Whether to hold the weights of the best epoch on the selection split.
        distance: Of a batch to the proxy, where it is minimised too (`align.weight`).
    """

    def __init__(
        self,
        config: TrialConfig,
        model: CrossModalModel,
        data: TaskData,
        device: torch.device,
        *,
        keep_best: bool = False,
        distance: BatchDistance | None = None,
    ) -> None:
        self.config, self.device = config, device
        self.model = model.to(device)
        self.data = data
        self.train, self.valid, self.test = (_resident(device, split) for split in (data.train, data.valid, data.test))
        if config.finetune.checkpointing:
            checkpoint_blocks(model.body.blocks)
        self.distance = distance
        self.forward: Callable[..., Any] = _compiled(model) if config.finetune.compile else model
        # Small gradients vanish in fp16: the loss is multiplied, and the gradients divided again before they are used.
        self.scaler = torch.amp.GradScaler(device.type, enabled=config.precision == "fp16")
        self.loss = LOSSES[config.task_spec.loss](self.train[1])
        self.score = SCORES[config.task_spec.score_name(config.reference_data)]
        self.phase: Phase = config.phases[0]
        self.schedule_start = 0
        self.trained: set[str] = set()
        self.epoch = 0
        self.keep_best = keep_best
        self.best: Weights | None = None
        self.scores: Tensor | None = None
        self.mixout = Mixout(self.model, config.finetune.mixout) if config.finetune.mixout and not model.adapter else None
        self.optimizer = self._new_optimizer()
        self.inputs: tuple[Tensor, Tensor, Tensor] | None = None

    def start_phase(self, number: int) -> None:
        """Begin a phase: set what trains, and restart optimiser and schedule if the phase says so."""
        phases = self.config.phases
        self.phase = phases[number]
        started_by = max((n for n in range(number + 1) if phases[n].restart), default=0)
        self.schedule_start = sum(phase.epochs or 0 for phase in phases[:started_by])
        if self.phase.restart:
            self.optimizer = self._new_optimizer()
        self.inputs = None
        if not self.phase.is_surgical:
            self._freeze()  # a surgical phase waits until the weights are those it starts from

    def _freeze(self) -> None:
        """Let what the phase names train. The layers of `surgical` are chosen once, by the weights as they are now."""
        if self.phase.is_surgical and self.scores is None:
            self.scores = self._fisher_scores()
        self.model.train_only(self.phase.train, self.scores)
        self.optimizer.zero_grad()  # what has just been frozen must not move by its last gradient
        self.trained |= {name for name, parameter in self.model.named_parameters() if parameter.requires_grad}

    def _fisher_scores(self) -> Tensor:
        """Scores of the body's layers over one pass of the training set in its own order, without dropout."""
        x, y = self.train
        self.model.eval()
        self.model.requires_grad_(True)
        batches = torch.arange(len(y)).split(self.config.finetune.batch_size)

        def loss_of(batch: Tensor) -> Tensor:
            return self.loss(self._decoded(self._outputs(self._moved(x, batch))), self._decoded(self._moved(y, batch)))

        losses = (partial(loss_of, batch) for batch in batches)
        return fisher_scores(self.model.body.blocks, losses)

    def run_epoch(self, epoch: int) -> EpochRow:
        """One pass over the training set, then evaluation on validation and test set."""
        settings = self.config.finetune
        if self.inputs is None:
            if self.phase.is_surgical:
                self._freeze()
            self.inputs = self._inputs()
        train_x, train_y = self.inputs[0], self.train[1]
        order = torch.randperm(len(train_y), generator=generator(self.config.seed, "data-order", epoch))
        groups = [group.split(settings.batch_size) for group in order.split(settings.batch_size * settings.accum)]
        parameters = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        summed = settings.accumulation == "sum" and settings.accum > 1
        steps = sum(len(group) == settings.accum for group in groups) if summed else len(groups)
        total, lr = torch.zeros((), dtype=torch.float64, device=self.device), 0.0
        total_distance = torch.zeros_like(total)
        distance = self.distance if "embedder" in self.phase.train else None
        draws, distance_draws = (generator(self.config.seed, purpose, epoch) for purpose in ("augment", "joint-distance"))
        self.model.train_mode()
        with seeded(self.config.seed, "dropout", epoch):
            for number, group in enumerate(groups):
                lr = settings.lr * self.phase.lr_scale * self._rate(epoch, [len(other) for other in groups], number)
                for parameter_group in self.optimizer.param_groups:
                    parameter_group["lr"] = lr * parameter_group.get("scale", 1.0)
                for parameter in parameters:
                    parameter.grad = None
                size = sum(len(batch) for batch in group)
                for batch in group:
                    x, y = (self._moved(of, batch) for of in (train_x, train_y))
                    if self.data.augment is not None:
                        x = self.data.augment(x, draws)
                    outputs, tokens = self._outputs_and_tokens(x)
                    outputs = self._decoded(outputs)
                    loss = self.loss(outputs, self._decoded(y))
                    if settings.label_smoothing and self.config.task_spec.kind == "classification":
                        loss = smoothed(loss, outputs, settings.label_smoothing)
                    if parameters:
                        penalty = self.model.adapter.penalty() if self.model.adapter else 0.0
                        if distance is not None:
                            to_proxy = distance(tokens, batch, distance_draws)
                            penalty = penalty + self.config.align.weight * to_proxy
                            total_distance += to_proxy.detach().double() * len(batch)
                        self.scaler.scale((loss + penalty) * (1.0 if summed else len(batch) / size)).backward()
                        if summed and settings.clip is not None:
                            # The gradient goes on to be summed as it is, scaled in fp16: so the limit is scaled too.
                            nn.utils.clip_grad_norm_(parameters, settings.clip * self.scaler.get_scale())
                    total += loss.detach().double() * len(batch)
                if summed and len(group) < settings.accum:
                    continue
                if parameters and settings.clip is not None and not summed:
                    self.scaler.unscale_(self.optimizer)
                    nn.utils.clip_grad_norm_(parameters, settings.clip)
                if parameters:
                    self.scaler.step(self.optimizer)
                    self.scaler.update()
                if self.model.adapter:
                    self.model.adapter.after_step((epoch - 1) * steps + number + 1)
        self.epoch = epoch
        valid_loss, valid_error = self._evaluate(self.inputs[1], self.valid[1], self.data.valid.group)
        _, test_error = self._evaluate(self.inputs[2], self.test[1], self.data.test.group)
        error = valid_error if self.config.selection == "valid" else test_error
        ties = self.config.selection_ties == "latest"
        if self.keep_best and (self.best is None or error < self.best.error or (ties and error == self.best.error)):
            self.best = Weights(epoch, error, {name: tensor.to("cpu", copy=True) for name, tensor in self.weights().items()})
        return EpochRow(
            stage="finetune",
            epoch=epoch,
            train_loss=total.item() / len(order),
            valid_loss=valid_loss,
            valid_error=valid_error,
            test_error=test_error,
            lr=lr,
            distance=None if distance is None else total_distance.item() / len(order),
        )

    def weights(self) -> dict[str, Tensor]:
        """Every parameter that has trained so far."""
        return {name: parameter.detach() for name, parameter in self.model.named_parameters() if name in self.trained}

    def state(self) -> dict[str, Tensor]:
        """Every parameter that has trained so far, the optimiser's state, and what else the next epochs depend on."""
        state = _under("model", self.weights()) | optimizer_state(self.optimizer, self.model)
        if self.best is not None:
            state |= self.best.as_tensors(self.config.best_by)
        if self.scores is not None:
            state[SCORES_KEY] = self.scores
        if self.model.adapter:
            state |= self.model.adapter.state()
        if self.scaler.is_enabled():
            state |= {f"scaler.{name}": torch.tensor(value) for name, value in self.scaler.state_dict().items()}
        return state

    def load_state(self, tensors: Mapping[str, Tensor]) -> None:
        """Go back to a state; what has never trained keeps the weights the model was made with."""
        weights = weights_of(tensors)
        self.model.load_state_dict(weights, strict=False)
        self.trained |= set(weights)
        self.scores = tensors.get(SCORES_KEY, self.scores)
        if self.model.adapter:
            self.model.adapter.load_state(tensors)
        load_optimizer_state(self.optimizer, self.model, tensors)
        self.best = Weights.from_tensors(self.config.best_by, tensors) if self.keep_best else None
        if self.scaler.is_enabled():
            self.scaler.load_state_dict({name: value.item() for name, value in _below("scaler", tensors).items()})

    def _new_optimizer(self) -> torch.optim.Optimizer:
        settings = self.config.finetune
        return make_optimizer(
            settings.optimizer,
            self.model.parameters() if settings.layer_decay == 1 else layer_rates(self.model, settings.layer_decay),
            lr=settings.lr,
            weight_decay=settings.weight_decay,
            momentum=settings.momentum,
            betas=settings.betas,
        )

    @property
    def _features_are_fixed(self) -> bool:
        return self.phase.train == ("predictor",) and self.data.augment is None

    def _inputs(self) -> tuple[Tensor, Tensor, Tensor]:
        """Inputs of the three splits; with embedder and body frozen, the features they give, computed once."""
        if not self._features_are_fixed:
            return self.train[0], self.valid[0], self.test[0]
        self.model.eval()
        size = self.config.finetune.eval_batch_size
        with torch.no_grad(), self._autocast():
            train, valid, test = (
                torch.cat([self.model.features(self.data.inputs(part.to(self.device))).float() for part in x.split(size)])
                for x in (self.train[0], self.valid[0], self.test[0])
            )
        return train, valid, test

    def _outputs(self, x: Tensor) -> Tensor:
        return self._outputs_and_tokens(x)[0]

    def _outputs_and_tokens(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The predictor's outputs, and the embedder's; of fixed features these are the features themselves."""
        with self._autocast():
            if self._features_are_fixed:
                outputs, tokens = self.model.predictor(x), x
            elif self.mixout is not None and self.model.body.training:
                mixed = dict(self.mixout.weights(self.model))
                outputs, tokens = torch.func.functional_call(self.model, mixed, (self.data.inputs(x),), {"with_tokens": True})
            else:
                outputs, tokens = self.forward(self.data.inputs(x), with_tokens=True)
        return outputs.float(), tokens

    def _rate(self, epoch: int, group_sizes: list[int], number: int) -> float:
        """Factor on the learning rate of the step with group `number` of an epoch's groups of so many batches."""
        settings, passed = self.config.finetune, epoch - 1 - self.schedule_start
        if settings.schedule == "reference":
            batches = sum(group_sizes)
            last = passed * batches + sum(group_sizes[: number + 1]) - 1
            return reference_warmup_decay(last, batches, settings.warmup_epochs, settings.decay_epochs)
        schedule = {"linear": warmup_decay, "cosine": warmup_cosine}[settings.schedule]
        return schedule(passed + (number + 1) / len(group_sizes), settings.warmup_epochs, settings.decay_epochs)

    def _autocast(self) -> torch.autocast:
        dtype = torch.float16 if self.config.precision == "fp16" else torch.bfloat16
        return torch.autocast(self.device.type, dtype, enabled=self.config.precision != "fp32")

    def _moved(self, values: Tensor, batch: Tensor) -> Tensor:
        """Rows of a set, on the device."""
        return values[batch.to(values.device)].to(self.device)

    def _decoded(self, values: Tensor) -> Tensor:
        return values if self.data.decode is None else self.data.decode(values)

    def _evaluate(self, x: Tensor, y: Tensor, group: np.ndarray | None) -> tuple[float, float]:
        """Loss and score over a whole set, or the mean over its chunks; samples of one group taken as one."""
        settings = self.config.finetune
        self.model.eval()
        with torch.no_grad():
            parts = x.split(settings.eval_batch_size)
            # Outputs of a set that does not fit on the device do not fit there either.
            outputs = torch.cat([self._outputs(part.to(self.device)).to(y.device) for part in parts])
            if group is not None:
                outputs, y = group_means(outputs, y, group)
            outputs, y = self._decoded(outputs), self._decoded(y)
            chunk = max(1, len(y))
            if settings.scoring == "chunks" and group is None:  # the reference too takes a set of groups as a whole
                chunk = math.ceil(settings.eval_batch_size / settings.batch_size) * settings.batch_size
            pairs = list(zip(outputs.split(chunk), y.split(chunk), strict=True))
            losses = [self.loss(*pair).item() for pair in pairs]
            return sum(losses) / len(pairs), sum(self.score(part.cpu(), true.cpu()) for part, true in pairs) / len(pairs)


def _compiled(model: CrossModalModel) -> Callable[..., Any]:
    """The forward pass by torch.compile, to the same bits whatever the process has compiled before, with the dropout of the plain one."""
    # All models share what is compiled of their code, and beyond the limit torch goes back to the plain pass, silently.
    torch._dynamo.reset()
    torch._dynamo.config.recompile_limit = torch._dynamo.config.accumulated_recompile_limit = _RECOMPILE_LIMIT
    return torch.compile(model, options={"fallback_random": True})


def weights_of(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The trained parameters out of a state of the trajectory, by name."""
    return _below("model", state)


def _under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {f"{prefix}.{name}": tensor for name, tensor in tensors.items()}


def _below(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(f"{prefix}."): tensor for name, tensor in tensors.items() if name.startswith(f"{prefix}.")}


def group_means(outputs: Tensor, y: Tensor, group: np.ndarray) -> tuple[Tensor, Tensor]:
    """Mean outputs of each group, and the targets of its first sample, in the order of the groups' numbers."""
    _, first, member_of, sizes = np.unique(group, return_index=True, return_inverse=True, return_counts=True)
    sums = torch.zeros(len(first), *outputs.shape[1:], dtype=torch.float64)
    sums.index_add_(0, torch.from_numpy(member_of), outputs.double().cpu())
    means = sums / torch.from_numpy(sizes).view(-1, *[1] * (outputs.dim() - 1))
    return means.to(outputs), y[torch.from_numpy(first).to(y.device)]


def _resident(device: torch.device, split: Split) -> tuple[Tensor, Tensor]:
    """Inputs and targets, each on the device if it fits there, else on the CPU."""
    x, y = (torch.from_numpy(values) for values in (split.x, split.y))
    x, y = (values.to(device) if fits(values.nbytes, device) else values for values in (x, y))
    return x, y
