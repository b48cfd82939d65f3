"""Stage 3: train on the task, phase by phase of the freezing schedule."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from orca_core.config import TrialConfig
from orca_core.finetuning.fisher import fisher_scores
from orca_core.finetuning.freezing import Phase
from orca_core.finetuning.optimizers import load_optimizer_state, make_optimizer, optimizer_state, warmup_decay
from orca_core.finetuning.regularisers import Mixout, layer_rates, smoothed
from orca_core.model.cross_modal import CrossModalModel
from orca_core.scoring import LOSSES, SCORES
from orca_core.seeding import generator, seeded
from orca_core.tasks import Split, TaskData

SCORES_KEY = "surgical.scores"
"""Name, in a state, of the scores that `surgical` has chosen layers by."""


class Finetuning:
    """Fine-tuning of one trial, a trajectory over the epochs of all its phases.

    One optimiser and one schedule run through all phases unless a phase restarts them. Parameters that are frozen have no
    gradient, so the optimiser passes over them and keeps no state for them.

    Args:
        config: The trial.
        model: Embedder (aligned or not), body and predictor; trained in place.
        data: The task's data.
        device: Where to train.
    """

    def __init__(self, config: TrialConfig, model: CrossModalModel, data: TaskData, device: torch.device) -> None:
        self.config, self.device = config, device
        self.model = model.to(device)
        self.train, self.valid, self.test = (_on(device, split) for split in (data.train, data.valid, data.test))
        self.loss = LOSSES[config.task_spec.loss](self.train[1])
        self.score = SCORES[config.task_spec.score]
        self.phase: Phase = config.phases[0]
        self.schedule_start = 0
        self.trained: set[str] = set()
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
        self.trained |= {name for name, parameter in self.model.named_parameters() if parameter.requires_grad}

    def _fisher_scores(self) -> Tensor:
        """Scores of the body's layers over one pass of the training set in its own order, without dropout."""
        x, y = self.train
        self.model.eval()
        self.model.requires_grad_(True)
        batches = torch.arange(len(y), device=self.device).split(self.config.finetune.batch_size)
        losses = (lambda batch=batch: self.loss(self._outputs(x[batch]), y[batch]) for batch in batches)
        return fisher_scores(self.model.body.blocks, losses)

    def run_epoch(self, epoch: int) -> dict[str, float]:
        """One pass over the training set, then evaluation on validation and test set."""
        settings = self.config.finetune
        if self.inputs is None:
            if self.phase.is_surgical:
                self._freeze()
            self.inputs = self._inputs()
        train_x, train_y = self.inputs[0], self.train[1]
        order = torch.randperm(len(train_y), generator=generator(self.config.seed, "data-order", epoch)).to(self.device)
        groups = [group.split(settings.batch_size) for group in order.split(settings.batch_size * settings.accum)]
        parameters = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        total, lr = torch.zeros((), dtype=torch.float64, device=self.device), 0.0
        self.model.train_mode()
        with seeded(self.config.seed, "dropout", epoch):
            for number, group in enumerate(groups):
                position = epoch - 1 - self.schedule_start + (number + 1) / len(groups)
                lr = settings.lr * self.phase.lr_scale * warmup_decay(position, settings.warmup_epochs, settings.decay_epochs)
                for parameter_group in self.optimizer.param_groups:
                    parameter_group["lr"] = lr * parameter_group.get("scale", 1.0)
                self.optimizer.zero_grad()
                size = sum(len(batch) for batch in group)
                for batch in group:
                    outputs = self._outputs(train_x[batch])
                    loss = self.loss(outputs, train_y[batch])
                    if settings.label_smoothing and self.config.task_spec.kind == "classification":
                        loss = smoothed(loss, outputs, settings.label_smoothing)
                    if parameters:
                        penalty = self.model.adapter.penalty() if self.model.adapter else 0.0
                        ((loss + penalty) * (len(batch) / size)).backward()
                    total += loss.detach().double() * len(batch)
                if parameters and settings.clip is not None:
                    nn.utils.clip_grad_norm_(parameters, settings.clip)
                self.optimizer.step()
                if self.model.adapter:
                    self.model.adapter.after_step((epoch - 1) * len(groups) + number + 1)
        valid_loss, valid_error = self._evaluate(self.inputs[1], self.valid[1])
        _, test_error = self._evaluate(self.inputs[2], self.test[1])
        return {
            "train_loss": total.item() / len(order),
            "valid_loss": valid_loss,
            "valid_error": valid_error,
            "test_error": test_error,
            "lr": lr,
        }

    def state(self) -> dict[str, Tensor]:
        """Every parameter that has trained so far, and the optimiser's state."""
        weights = {name: parameter for name, parameter in self.model.named_parameters() if name in self.trained}
        chosen = {} if self.scores is None else {SCORES_KEY: self.scores}
        tensors = {f"model.{name}": parameter.detach() for name, parameter in weights.items()}
        if self.model.adapter:
            chosen |= self.model.adapter.state()
        return tensors | chosen | optimizer_state(self.optimizer, self.model)

    def load_state(self, tensors: Mapping[str, Tensor]) -> None:
        """Go back to a state; what has never trained keeps the weights the model was made with."""
        weights = {name.removeprefix("model."): tensor for name, tensor in tensors.items() if name.startswith("model.")}
        self.model.load_state_dict(weights, strict=False)
        self.trained |= set(weights)
        self.scores = tensors.get(SCORES_KEY, self.scores)
        if self.model.adapter:
            self.model.adapter.load_state(tensors)
        load_optimizer_state(self.optimizer, self.model, tensors)

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
        return self.phase.train == ("predictor",)

    def _inputs(self) -> tuple[Tensor, Tensor, Tensor]:
        """Inputs of the three splits; with embedder and body frozen, the features they give, computed once."""
        if not self._features_are_fixed:
            return self.train[0], self.valid[0], self.test[0]
        self.model.eval()
        with torch.no_grad(), self._autocast():
            train, valid, test = (
                torch.cat([self.model.features(part).float() for part in x.split(self.config.finetune.eval_batch_size)])
                for x in (self.train[0], self.valid[0], self.test[0])
            )
        return train, valid, test

    def _outputs(self, x: Tensor) -> Tensor:
        with self._autocast():
            if self._features_are_fixed:
                outputs: Tensor = self.model.predictor(x)
            elif self.mixout is not None and self.model.body.training:
                outputs = torch.func.functional_call(self.model, dict(self.mixout.weights(self.model)), (x,))
            else:
                outputs = self.model(x)
        return outputs.float()

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.config.precision == "bf16")

    def _evaluate(self, x: Tensor, y: Tensor) -> tuple[float, float]:
        """Loss and score over a whole set."""
        self.model.eval()
        with torch.no_grad():
            outputs = torch.cat([self._outputs(part) for part in x.split(self.config.finetune.eval_batch_size)])
            return self.loss(outputs, y).item(), self.score(outputs.cpu(), y.cpu())


def _on(device: torch.device, split: Split) -> tuple[Tensor, Tensor]:
    return torch.from_numpy(split.x).to(device), torch.from_numpy(split.y).to(device)
