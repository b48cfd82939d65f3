"""Training of a linear head on features that are computed once, with its step written out.

The arithmetic of such a step takes a few microseconds, and the Python code of autograd and the optimiser around it several hundred. Here
the kernels that they call are called directly, in their order and on the same numbers, so that weights, losses and the optimiser's state
have the same bits. `LinearHead.of` says for what this holds; all else trains in the ordinary loop.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Self

import torch
from torch import Tensor

from orca_core.finetuning.heads import is_linear_head
from orca_core.model.predictor import Classifier
from orca_core.scoring.losses import class_weights
from orca_core.settings import Settings
from orca_core.tasks import TaskData

SPAN_NUMBERS = 2**22
"""Most numbers of features that are gathered at once in the order of an epoch, before they are cut into batches."""

_MEAN, _NO_CLASS = 1, -100
"""For torch's kernels of the cross-entropy: the loss is a mean, and no class is left out."""


class LinearHead:
    """A linear classifier with the cross-entropy as its loss, weighted by class or smoothed, and its optimiser.

    Args:
        head: The classifier; trained in place.
        optimizer: Over its parameters. It may have others, which have no gradient.
        weights: (c,) of the classes in the loss; None = all alike.
        smoothing: Share of the uniform distribution in the targets, in [0, 1).
        clip: Maximum norm of a step's gradient; None = no clipping.
    """

    def __init__(
        self, head: Classifier, optimizer: torch.optim.Optimizer, *, weights: Tensor | None, smoothing: float, clip: float | None
    ) -> None:
        self.parameters = [head.linear.weight, head.linear.bias]
        self.optimizer, self.weights, self.smoothing, self.clip = optimizer, weights, smoothing, clip
        groups = optimizer.param_groups
        self.group = next(group for group in groups if any(parameter is head.linear.weight for parameter in group["params"]))
        one = head.linear.weight.new_ones(())
        # The gradients of a smoothed loss by its two parts, see `orca_core.finetuning.regularisers.smoothed`.
        self.by_classes, self.by_all = one * (1 - smoothing), -one * smoothing

    @classmethod
    def of(cls, head: Any, settings: Settings, data: TaskData, targets: Tensor, optimizer: torch.optim.Optimizer) -> Self | None:
        """The head of a trial whose features are computed once; None where its steps are not written out.

        Args:
            head: The predictor, which alone trains, without further terms.
            settings: Of fine-tuning.
            data: The task's data.
            targets: (n, ...) of the training set.
            optimizer: The trial's.
        """
        losses: dict[str, Callable[[Tensor], Tensor | None]] = {
            "cross-entropy": lambda targets: None,
            "balanced-cross-entropy": class_weights,
        }
        is_linear = is_linear_head(head) and data.decode is None and settings.task.loss in losses
        if not is_linear or settings["finetune.accum"] != 1 or settings["precision"] != "fp32":
            return None
        if head.linear.weight.device.type != "cpu":  # of a trial on a GPU, data that does not fit there is on the CPU, too
            return None
        smoothing, clip = settings["finetune.label_smoothing"], settings["finetune.clip"]
        return cls(head, optimizer, weights=losses[settings.task.loss](targets), smoothing=smoothing, clip=clip)

    @torch.no_grad()
    def train(self, x: Tensor, y: Tensor, order: Tensor, rates: Sequence[float], batch_size: int) -> list[tuple[Tensor, int]]:
        """Train for an epoch.

        Args:
            x: (n, d) features.
            y: (n,) classes.
            order: The rows as the epoch takes them.
            rates: Learning rate of each step.
            batch_size: Samples of a step; the last one may have fewer.

        Returns:
            The mean loss of each batch and its number of samples.
        """
        losses, numbers = [], iter(rates)
        step = self._kernel()
        for rows in order.split(batch_size * max(1, SPAN_NUMBERS // (batch_size * x.shape[1]))):
            for features, classes in zip(x[rows].split(batch_size), y[rows].split(batch_size), strict=True):
                loss, gradients = self._gradients(features, classes)
                if self.clip is not None:
                    _clip(gradients, self.clip)
                if step is None:
                    self._step(gradients, next(numbers))
                    step = self._kernel()
                else:
                    step(gradients, next(numbers))
                losses.append((loss, len(features)))
        return losses

    def _gradients(self, x: Tensor, y: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Mean loss of a batch, and its gradients by weight and bias."""
        weight, bias = self.parameters
        aten: Any = torch.ops.aten
        log_p = torch.addmm(bias, x, weight.t()).log_softmax(1)
        loss, total = aten.nll_loss_forward.default(log_p, y, self.weights, _MEAN, _NO_CLASS)
        by_log_p = aten.nll_loss_backward.default(self.by_classes, log_p, y, self.weights, _MEAN, _NO_CLASS, total)
        by_logits = torch._log_softmax_backward_data(by_log_p, log_p, 1, log_p.dtype)
        if self.smoothing:
            loss = (1 - self.smoothing) * loss - self.smoothing * log_p.mean()
            by_mean = (self.by_all / log_p.numel()).expand_as(log_p)
            by_logits += torch._log_softmax_backward_data(by_mean, log_p, 1, log_p.dtype)
        return loss, [by_logits.t().mm(x), by_logits.sum(0)]

    def _step(self, gradients: list[Tensor], rate: float) -> None:
        """The optimiser's own step."""
        self.group["lr"] = rate
        for parameter, gradient in zip(self.parameters, gradients, strict=True):
            parameter.grad = gradient
        self.optimizer.step()
        for parameter in self.parameters:
            parameter.grad = None

    def _kernel(self) -> Callable[[list[Tensor], float], None] | None:
        """What the step of Adam and AdamW comes down to; None for another optimiser, and until it has made its state in a first step."""
        states = [self.optimizer.state.get(parameter, {}) for parameter in self.parameters]
        if not self.group.get("fused") or not all(states):
            return None
        steps, means, squares = ([state[name] for state in states] for name in ("step", "exp_avg", "exp_avg_sq"))
        kernel: Any = torch._fused_adamw_ if isinstance(self.optimizer, torch.optim.AdamW) else torch._fused_adam_
        betas = dict(zip(("beta1", "beta2"), self.group["betas"], strict=True))
        options = betas | {name: self.group[name] for name in ("weight_decay", "eps", "amsgrad", "maximize")}

        def step(gradients: list[Tensor], rate: float) -> None:
            torch._foreach_add_(steps, 1)
            kernel(self.parameters, gradients, means, squares, [], steps, lr=rate, grad_scale=None, found_inf=None, **options)

        return step


def _clip(gradients: list[Tensor], limit: float) -> None:
    """`torch.nn.utils.clip_grad_norm_` of gradients."""
    norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients, 2.0)), 2.0)
    torch._foreach_mul_(gradients, (limit / (norm + 1e-6)).clamp(max=1.0))
