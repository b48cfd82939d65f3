"""The bi-level objective (MoNA): an embedder through which training on the task changes least what the body knows.

With embedder f, body g and predictor h, one step of alignment is

    inner    (g', h') = (g, h) - align.inner_lr * gradient of the task's loss of target samples in (g, h), `align.inner_steps` times
    outer    f moves by the gradient, through the inner steps, of K(g') + align.task_weight * (task's loss of these samples by g', h')

g starts from the body as it is in every step; f and h alone keep what they learn. K says how well the body still tells the proxy's classes
apart: of its tokens of labelled samples of the proxy, averaged and brought to length 1 (z),

    K = mean over pairs of one class of |z_i - z_j|^2  +  log of the mean over all pairs of exp(-2 |z_i - z_j|^2)

The first is alignment and the second uniformity (Wang & Isola 2020, arXiv 2005.10242, section 4.1). In the first `align.warmup_epochs`
epochs the task's loss alone is minimised, through the body as it is.

Reference:
    Ma et al. 2024, Learning modality knowledge alignment for cross-modality transfer, ICML (arXiv 2406.18864). There is no public code. How
    sure it is that this is the paper's form: docs/successors.md.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.func import functional_call
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from orca_core.alignment.objectives import ClassBatch, Measured, OfTask
from orca_core.alignment.source_tokens import SourceTokens
from orca_core.model.cross_modal import CrossModalModel

SHARPNESS = 2.0
"""t of uniformity."""


def tightness_and_spread(features: Tensor, labels: Tensor) -> Tensor:
    """Alignment plus uniformity of labelled features: lower where classes are tight and all features spread over the sphere.

    Args:
        features: (m, d), m > 1.
        labels: (m,).

    Returns:
        Scalar; without a pair of one class, uniformity alone.
    """
    z = F.normalize(features, dim=1)
    first, second = torch.triu_indices(len(z), len(z), offset=1, device=z.device)
    squared = (z[first] - z[second]).square().sum(1)
    same = squared[labels[first] == labels[second]]
    uniform = torch.logsumexp(-SHARPNESS * squared, 0) - torch.log(squared.new_tensor(float(len(squared))))
    return uniform + same.mean() if len(same) else uniform


class Bilevel(OfTask):
    """One step of the bi-level objective.

    Args:
        model: Embedder, frozen body and predictor.
        loss, targets: As of `OfTask`.
        source: The proxy's tokens.
        options: `inner_lr`, `inner_steps`, `inner_samples`, `warmup_epochs` and `task_weight`.
    """

    def __init__(
        self,
        model: CrossModalModel,
        loss: Callable[[Tensor, Tensor], Tensor],
        targets: Tensor,
        source: SourceTokens,
        options: Mapping[str, Any],
    ) -> None:
        super().__init__(model, loss, targets)
        self.source, self.options, self.epoch = source, options, 0

    @property
    def is_warming_up(self) -> bool:
        """Whether the task's loss alone is minimised in this epoch."""
        return self.epoch <= self.options["warmup_epochs"]

    @property
    def column(self) -> str:  # type: ignore[override]
        """Where a row has the value."""
        return "train_loss" if self.is_warming_up else "knowledge_loss"

    def backward(self, batches: Iterator[ClassBatch], draws: torch.Generator) -> Measured:
        if self.is_warming_up:
            return super().backward(batches, draws)
        seen = list(batches)
        inputs, targets = self._draw(seen, draws)
        rows = torch.randperm(len(self.source), generator=draws)[: self.options["inner_samples"]]
        tokens, labels = self.source(rows), self.source.labels[rows].to(inputs.device)
        with sdpa_kernel(SDPBackend.MATH):  # the other forms of attention have no second derivative
            before, stepped = self._inner(inputs, targets)
            body = {name.removeprefix("body."): value for name, value in stepped.items() if name.startswith("body.")}
            value = tightness_and_spread(functional_call(self.model.body, body, (tokens,)).mean(1), labels)
            outer = value
            if self.options["task_weight"]:
                outer = outer + self.options["task_weight"] * self._loss(stepped, inputs, targets)
            outer.backward()
        return Measured(value.item(), {}, seen, {"train_loss": before})

    def _draw(self, batches: list[ClassBatch], draws: torch.Generator) -> tuple[Tensor, Tensor]:
        """Inputs and targets of some of the samples, classes by their shares."""
        weights = torch.cat([torch.full((len(batch.rows),), batch.share / len(batch.rows)) for batch in batches])
        chosen = torch.multinomial(weights, min(self.options["inner_samples"], len(weights)), generator=draws).sort().values
        inputs = torch.cat([batch.inputs for batch in batches])[chosen.to(batches[0].inputs.device)]
        rows = torch.cat([batch.rows.cpu() for batch in batches])[chosen]
        return inputs, self.targets[rows].to(inputs.device)

    def _inner(self, inputs: Tensor, targets: Tensor) -> tuple[float, dict[str, Tensor]]:
        """The task's loss before, and body and predictor after the inner steps: functions of the embedder and of the predictor before."""
        stepped: dict[str, Tensor] = {}
        for name, parameter in self.model.named_parameters():
            if name.startswith("body."):
                stepped[name] = parameter.detach().requires_grad_()
            elif name.startswith("predictor."):
                stepped[name] = parameter
        before = 0.0
        for number in range(self.options["inner_steps"]):
            loss = self._loss(stepped, inputs, targets)
            before = before if number else loss.item()
            gradients = torch.autograd.grad(loss, list(stepped.values()), create_graph=True, allow_unused=True)
            stepped = {
                name: value if gradient is None else value - self.options["inner_lr"] * gradient
                for (name, value), gradient in zip(stepped.items(), gradients, strict=True)
            }
        return before, stepped

    def _loss(self, weights: Mapping[str, Tensor], inputs: Tensor, targets: Tensor) -> Tensor:
        return self.loss(functional_call(self.model, dict(weights), (inputs,)), targets)
