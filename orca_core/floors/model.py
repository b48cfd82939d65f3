"""What a floor model is: settings to choose from, how it is fitted, and what it costs on a task of some size."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

Predict = Callable[[np.ndarray], np.ndarray]
"""(n, *input) inputs -> (n, classes) logits, or (n, *target) predicted targets."""

Candidate = tuple[Mapping[str, Any], Predict]
"""Settings, and the model fitted with them."""

EIGEN_WORK = 10.0
"""Multiplications of an eigenvalue decomposition of a symmetric matrix, in units of its size cubed."""


@dataclass(frozen=True)
class Examples:
    """Training samples.

    Args:
        x: (n, channels, ...) float32 inputs as a transformer's embedder gets them.
        y: (n,) class ids, or (n, ...) targets; NaN where a position does not count.
        num_classes: Number of classes; None if the task is not a classification.
    """

    x: np.ndarray
    y: np.ndarray
    num_classes: int | None


@dataclass(frozen=True)
class Sizes:
    """The size of a task, from which the work of a model is estimated.

    Args:
        train, valid, test: Numbers of samples.
        input_shape: Of one input: (channels, ...).
        output_shape: Of one output: (classes,) or the shape of a target.
    """

    train: int
    valid: int
    test: int
    input_shape: tuple[int, ...]
    output_shape: tuple[int, ...]

    @property
    def held_out(self) -> int:
        """Samples to predict."""
        return self.valid + self.test

    @property
    def features(self) -> int:
        """Values of one input."""
        return int(np.prod(self.input_shape))

    @property
    def outputs(self) -> int:
        """Values of one output."""
        return int(np.prod(self.output_shape))

    @property
    def positions(self) -> int:
        """Positions of a dense target."""
        return int(np.prod(self.output_shape[1:]))


class FloorModel(ABC):
    """A model that needs no transformer."""

    name: ClassVar[str]
    most: ClassVar[int | None] = 16_384
    """Largest number of training samples on any task; None = all, however many there are."""

    @abstractmethod
    def work(self, sizes: Sizes) -> float:
        """Estimate of what fitting and predicting take with all settings, in multiplications of a matrix product."""

    def fits(self, sizes: Sizes) -> bool:
        """Whether the model is defined for a task of these shapes."""
        return True

    @abstractmethod
    def candidates(self, train: Examples) -> Iterator[Candidate]:
        """Fit with each of the settings in turn; of equal ones the first is chosen, so the simplest come first."""


class Centred:
    """Inputs flattened, centred at the training mean, and divided by one number, so that their mean variance is 1.

    Distances and directions stay as they are: features are not scaled one by one, as loaders have scaled channels already.
    """

    def __init__(self, x: np.ndarray) -> None:
        rows = flatten(x)
        self._mean = rows.mean(0)
        deviation = float(np.sqrt(rows.var(0).mean()))
        self._deviation = deviation if deviation > 0 else 1.0

    def __call__(self, x: np.ndarray) -> np.ndarray:
        return (flatten(x) - self._mean) / self._deviation


def flatten(x: np.ndarray) -> np.ndarray:
    """(n, ...) -> (n, features) float64."""
    return np.asarray(x, dtype=np.float64).reshape(len(x), -1)


def mean_target(y: np.ndarray) -> np.ndarray:
    """(n, ...) targets -> their mean over the samples in which a position counts, float64; 0 where there are none."""
    sums, counts = np.zeros(y.shape[1:]), np.zeros(y.shape[1:])
    for first in range(0, len(y), 256):
        block = np.asarray(y[first : first + 256], dtype=np.float64)
        counted = ~np.isnan(block)
        sums += np.where(counted, block, 0.0).sum(0)
        counts += counted.sum(0)
    return sums / np.maximum(counts, 1)


def complete_targets(y: np.ndarray) -> np.ndarray:
    """(n, ...) targets -> (n, values) float64, with the mean of a position wherever it does not count."""
    values = flatten(y)
    missing = np.isnan(values)
    return np.where(missing, mean_target(y).ravel(), values) if missing.any() else values


def class_logits(scores: np.ndarray, classes: np.ndarray, num_classes: int) -> np.ndarray:
    """Scores of the classes that were in the training samples -> (n, num_classes), with a low score for the others.

    Args:
        scores: (n, k) scores, or (n,) scores of the second of two classes.
        classes: (k,) class ids.
        num_classes: Number of classes.
    """
    if scores.ndim == 1:
        scores = np.stack([np.zeros_like(scores), scores], axis=1)
    logits = np.full((len(scores), num_classes), UNSEEN)
    logits[:, classes] = scores
    return logits


UNSEEN = -50.0
"""Logit of a class that was in no training sample."""
