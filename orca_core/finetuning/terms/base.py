"""What fine-tuning does beside minimising the task's loss: each such thing is a `Term`, and the loop knows no other way to be extended.

A term can, each by one method that it overrides:

    start_epoch     seed its draws: a generator of the epoch, by a purpose of its own
    before          change a batch before the forward pass: its inputs, its targets (mixup)
    between         change the embedder's tokens before the body reads them; set `changes_tokens`, too
    penalty         add to the loss, and report columns: means over the samples of an epoch
    combine         treat the gradient of its penalty and that of the task's loss in its own way; set `splits_gradient`, too
    after_step      act after an optimiser step
    state           what of it the next epoch depends on, beside weights and draws; `load_state` goes back to it

How to add one: a class in a module of this package, a function that makes it from a `Start` (None where its knob is off) in `make_terms`
of `orca_core/finetuning/terms/__init__.py`, and a field of `EpochRow` for each column. A term that needs what only another stage has,
such as the proxy's features, is made in `orca_core/trial_stages.py` and handed to `Finetuning(terms=...)`.

Terms act in training alone: validation, test, the Fisher scores of `surgical` and exported models never see them. They are made when
the model has the weights that fine-tuning starts with, also where a later phase goes on from a stored state: what a term copies then is
the start.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from orca_core.alignment.joint import BatchDistance
from orca_core.freezing.schedule import Phase
from orca_core.model.cross_modal import CrossModalModel
from orca_core.settings import Settings
from orca_core.tasks import TaskData


@dataclass(frozen=True)
class Start:
    """What terms are made of.

    Args:
        settings: Of the first phase of fine-tuning.
        model: With the weights that fine-tuning starts with, on the device.
        data: The task's data.
        device: Where it trains.
        distance: Of a batch to the proxy, where it is minimised too.
    """

    settings: Settings
    model: CrossModalModel
    data: TaskData
    device: torch.device
    distance: BatchDistance | None = None


@dataclass
class Batch:
    """A batch of n training samples on its way to the forward pass; `Term.before` may replace inputs and targets.

    Args:
        rows: (n,) rows of the training split, on the CPU.
        inputs: (n, channels, ...) as the embedder reads them, augmented if the task augments; or features that were computed once.
        targets: Weights that add up to 1, each with (n, ...) targets: the loss is the weighted sum of the losses to each.
        passed: Epochs of fine-tuning before this batch, with the share of the present one.
    """

    rows: Tensor
    inputs: Tensor
    targets: Sequence[tuple[float, Tensor]]
    passed: float


@dataclass(frozen=True)
class Step:
    """A batch after its forward pass, in train mode.

    Args:
        batch: What went in.
        model: In the state of the step.
        tokens: (n, l, d) the embedder's output, before `Term.between`; with embedder and body frozen, the features.
        body_tokens: (n, l', d') the body's output; None unless a term `reads_body`.
        outputs: (n, ...) of the predictor, in float32, as the model gives them: not yet in the unit of the loss.
        change: Of the embedder's tokens by all terms (`Term.between`), as for this batch: what the body has read is `change(tokens)`.
        run: (n, l, d) tokens for the body -> outputs, by the model in its present mode and number format; dropout draws anew.
        decode: Outputs or targets -> the unit of the loss.
    """

    batch: Batch
    model: CrossModalModel
    tokens: Tensor
    body_tokens: Tensor | None
    outputs: Tensor
    change: Callable[[Tensor], Tensor]
    run: Callable[[Tensor], Tensor]
    decode: Callable[[Tensor], Tensor]


class Penalty(NamedTuple):
    """What a term adds to the loss of a batch.

    Args:
        value: Scalar, weighted, differentiable; or a number.
        columns: By field of `EpochRow`: detached scalars, of which the row has the mean over the samples of the epoch.
    """

    value: Tensor | float
    columns: Mapping[str, Tensor] = {}


Gradients = Sequence[Tensor | None]
"""One for each parameter that trains; None where it has no part."""


class Combined(NamedTuple):
    """What `Term.combine` makes of two gradients.

    Args:
        gradients: What the step takes for both together; None = their sum, to the bits that it has without the term's looking at it.
        columns: As of `Penalty`.
    """

    gradients: Gradients | None
    columns: Mapping[str, Tensor] = {}


class Term:
    """Something that fine-tuning does beside minimising the task's loss. The defaults do nothing."""

    changes_tokens = False
    """Whether it overrides `between`."""

    reads_body = False
    """Whether `penalty` reads `Step.body_tokens`."""

    needs_forward = False
    """Whether it needs the pass through embedder and body in phases that freeze both, whose features are else computed once."""

    splits_gradient = False
    """Whether it overrides `combine`. Of the terms of a phase at most one may."""

    def is_active(self, phase: Phase) -> bool:
        """Whether it takes part in a phase of the freezing schedule."""
        return True

    def start_epoch(self, epoch: int) -> None:
        """Called before each epoch, from 1, and never in the middle of one."""

    def before(self, batch: Batch) -> None:
        """Change inputs or targets of a batch in place of the old ones."""

    def between(self, tokens: Tensor, batch: Batch) -> Tensor:
        """Change tokens for the body. A function of its arguments alone, called more than once for a batch: draws belong in `before`."""
        return tokens

    def penalty(self, step: Step) -> Penalty | None:
        """What is added to the loss of a batch. Not called in phases in which nothing trains."""
        return None

    def combine(self, task: Gradients, own: Gradients, parameters: Sequence[nn.Parameter]) -> Combined:
        """Put together the gradients of the task's loss and of the own penalty, of one batch.

        In fp16 both are scaled by one factor, and may not be finite: the step is then left out.

        Args:
            task, own: Of one batch.
            parameters: Those that train.
        """
        return Combined(None)

    def after_step(self, step: int) -> None:
        """Called after an optimiser step, before the next gradients. `step` counts through all of fine-tuning, from 1."""

    def state(self) -> dict[str, Tensor]:
        """What the next epoch depends on, under names that no other term has."""
        return {}

    def load_state(self, tensors: Mapping[str, Tensor]) -> None:
        """Go back to a state of the whole trajectory."""
