"""What one step of alignment minimises: a distance to the proxy, the classes among themselves, or the task's own loss.

Every objective sees the same samples: the same draws choose them, class by class, and each class counts by its share of the training set.

    proxy       sum over classes of share * distance(features of the class, source features)
    classes     share of the features' variance that is within the classes (`orca_core.distances.dispersion`)
    nothing     sum over classes of share * the task's loss of its samples, through the frozen body and a predictor

The last two are controls. `nothing` trains the embedder on the task for as many steps: it tells what an aligned embedder owes to its
distance from what it would owe to more steps. Its predictor is drawn as fine-tuning's is and trains along; it is thrown away afterwards, so
that fine-tuning starts with the predictor of every other arm, and only the embedder differs. The body between them is the one that
fine-tuning starts with, frozen, without dropout and without an adapter.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple, Protocol

import torch
from torch import Tensor, nn

from orca_core.distances.spec import Distance, DistanceOfClasses, Separation
from orca_core.model.cross_modal import CrossModalModel
from orca_core.model.embedder import Embedder

TOGETHER_BYTES = 2**26
"""Classes are compared with the proxy together while the embedder's outputs for them take less than this."""


class ClassBatch(NamedTuple):
    """The samples of one class in one step.

    Args:
        number: Of the class, from 0.
        share: Of the training samples that are of this class.
        rows: (m,) rows of the training split.
        inputs: (m, channels, ...) inputs of the model, on the device.
    """

    number: int
    share: float
    rows: Tensor
    inputs: Tensor


class Measured(NamedTuple):
    """What a step measured before it was taken.

    Args:
        value: The objective.
        label_distances: Number of a class -> its distances to the source's classes, where the distance has them.
        batches: The samples that took part, by class.
        columns: What else a row of the metrics table has of it.
    """

    value: float
    label_distances: dict[int, list[float]]
    batches: list[ClassBatch]
    columns: Mapping[str, float] = {}


class Objective(Protocol):
    """What a step minimises."""

    @property
    def column(self) -> str:
        """Where a row of the metrics table has its value."""

    def backward(self, batches: Iterator[ClassBatch], draws: torch.Generator) -> Measured:
        """Add the objective's gradient to the parameters that train.

        Args:
            batches: The classes in their order. A class is drawn when it is asked for, from `draws`: one must be done before the next.
            draws: For distances that draw; its state moves on.
        """


class ToProxy:
    """The sum over classes of their distances to the source, weighted by their shares.

    Args:
        embedder: Which trains.
        distance: To the source.
    """

    column = "distance"

    def __init__(self, embedder: Embedder, distance: Distance) -> None:
        self.embedder, self.distance = embedder, distance

    def backward(self, batches: Iterator[ClassBatch], draws: torch.Generator) -> Measured:
        if isinstance(self.distance, DistanceOfClasses):
            return self._together(self.distance, batches)
        total, seen = 0.0, []
        label_distances: dict[int, list[float]] = {}
        for batch in batches:
            seen.append(batch)
            distance, to_source = self.distance(self.embedder(batch.inputs).mean(1), draws)
            total += self._add(batch, distance, to_source, label_distances)
        return Measured(total, label_distances, seen)

    def _together(self, distance: DistanceOfClasses, batches: Iterator[ClassBatch]) -> Measured:
        """Several classes at once: as many as what their gradient needs of the embedder takes little memory for."""
        total, seen, held = 0.0, [], 0
        label_distances: dict[int, list[float]] = {}
        waiting: list[tuple[ClassBatch, Tensor]] = []
        batch = next(batches, None)
        while batch is not None:
            seen.append(batch)
            tokens = self.embedder(batch.inputs)
            waiting.append((batch, tokens.mean(1)))
            held += tokens.numel() * tokens.element_size()
            batch = next(batches, None)
            if batch is None or held > TOGETHER_BYTES:
                found = distance.of_classes([features for _, features in waiting])
                for (one, _), (value, to_source) in zip(waiting, found, strict=True):
                    total += self._add(one, value, to_source, label_distances)
                waiting, held = [], 0
        return Measured(total, label_distances, seen)

    def _add(self, batch: ClassBatch, distance: Tensor, to_source: Tensor | None, label_distances: dict[int, list[float]]) -> float:
        """Adds the gradient of one class; returns its part of the objective."""
        loss = batch.share * distance
        loss.backward()
        if to_source is not None:
            label_distances[batch.number] = to_source[0].tolist()
        return loss.item()


class OfClasses:
    """How far the target's classes are from being apart.

    All classes enter at once. So that no more than one of them is held in memory with what its gradient needs, features are computed twice:
    first without a gradient for all classes, then class by class to pass on the gradient in its features (Gao et al. 2021, Scaling deep
    contrastive learning batch size under memory limited setup, arXiv 2101.06983). The result is the same.

    Args:
        embedder: Which trains.
        separation: Of features by class.
    """

    column = "distance"

    def __init__(self, embedder: Embedder, separation: Separation) -> None:
        self.embedder, self.separation = embedder, separation

    def backward(self, batches: Iterator[ClassBatch], draws: torch.Generator) -> Measured:
        seen = list(batches)
        with torch.no_grad():
            features = torch.cat([self.embedder(batch.inputs).mean(1) for batch in seen])
        sizes = [len(batch.rows) for batch in seen]
        labels = torch.tensor([batch.number for batch in seen]).repeat_interleave(torch.tensor(sizes)).to(features.device)
        weights = torch.tensor([batch.share / len(batch.rows) for batch in seen]).repeat_interleave(torch.tensor(sizes)).to(features)
        value = self.separation(features.requires_grad_(), labels, weights)
        (gradient,) = torch.autograd.grad(value, features)
        for batch, part in zip(seen, gradient.split(sizes), strict=True):
            self.embedder(batch.inputs).mean(1).backward(part)
        return Measured(value.item(), {}, seen)


class OfTask:
    """The task's own loss, through the frozen body and a predictor.

    Args:
        model: Embedder, body and predictor.
        loss: Of outputs and targets, both as the task's data has them.
        targets: (n, ...) of the training split.
    """

    column = "train_loss"

    def __init__(self, model: CrossModalModel, loss: Callable[[Tensor, Tensor], Tensor], targets: Tensor) -> None:
        self.model, self.loss, self.targets = model, loss, targets

    def backward(self, batches: Iterator[ClassBatch], draws: torch.Generator) -> Measured:
        total, seen = 0.0, []
        for batch in batches:
            seen.append(batch)
            loss = self.of(batch)
            loss.backward()
            total += loss.item()
        return Measured(total, {}, seen)

    def of(self, batch: ClassBatch) -> Tensor:
        """The loss of the samples of a class, weighted by its share."""
        outputs = self.model(batch.inputs).float()
        return batch.share * self.loss(outputs, self.targets[batch.rows.to(self.targets.device)].to(outputs.device))

    def gradients(self, batches: Iterable[ClassBatch]) -> list[Tensor]:
        """The gradient of the loss of some classes together in the embedder's parameters, in their order; no `grad` is touched."""
        parameters = list(self.model.embedder.parameters())
        total = [torch.zeros_like(parameter) for parameter in parameters]
        for batch in batches:
            for sum_, part in zip(total, torch.autograd.grad(self.of(batch), parameters), strict=True):
                sum_ += part
        return total


def freeze_body(model: CrossModalModel) -> None:
    """Let embedder and predictor train and nothing else; the body computes as in evaluation."""
    model.requires_grad_(False)
    model.eval()
    for part in (model.embedder, model.predictor):
        part.requires_grad_(True)
        part.train()


class Addition(Protocol):
    """What a step minimises beside its objective, on the same samples."""

    @property
    def column(self) -> str:
        """Where a row of the metrics table has its value."""

    def backward(self, batches: Sequence[ClassBatch]) -> float:
        """Add the weighted gradient to the parameters that train; returns the value, without the weight."""


class WeightedTask:
    """The task's own loss beside a distance.

    Args:
        task: The loss.
        weight: Of it.
    """

    column = "train_loss"

    def __init__(self, task: OfTask, weight: float) -> None:
        self.task, self.weight = task, weight

    def backward(self, batches: Sequence[ClassBatch]) -> float:
        total = 0.0
        for batch in batches:
            loss = self.task.of(batch)
            (self.weight * loss).backward()
            total += loss.item()
        return total


def trained_predictor(objective: Objective, additions: Sequence[Addition]) -> nn.Module | None:
    """The predictor, if it trains along: with the task's loss."""
    tasks = [*([objective] if isinstance(objective, OfTask) else []), *(one.task for one in additions if isinstance(one, WeightedTask))]
    return tasks[0].model.predictor if tasks else None
