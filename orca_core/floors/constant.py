"""The floors that learn next to nothing: one answer for every sample, or the input itself."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from orca_core.floors.model import Candidate, Examples, FloorModel, Sizes, mean_target


class Majority(FloorModel):
    """The most frequent class of the training samples."""

    name, most = "majority", None

    def work(self, sizes: Sizes) -> float:
        return 0.0

    def candidates(self, train: Examples) -> Iterator[Candidate]:
        counts = np.bincount(train.y, minlength=train.num_classes or 0)
        logits = np.log(np.maximum(counts, 1e-12) / counts.sum())
        yield {}, lambda x: np.tile(logits, (len(x), 1))


class Mean(FloorModel):
    """The mean of the training targets, at each position of a field."""

    name, most = "mean", None

    def work(self, sizes: Sizes) -> float:
        return 0.0

    def candidates(self, train: Examples) -> Iterator[Candidate]:
        mean = mean_target(train.y)
        yield {}, lambda x: np.broadcast_to(mean, (len(x), *mean.shape))


class Persistence(FloorModel):
    """The input field itself as the answer, times a factor and plus a constant, fitted for each channel by least squares.

    The two numbers undo that loaders scale inputs and targets differently. Of inputs with more channels than targets, such as coordinates,
    the first count.
    """

    name = "persistence"

    def fits(self, sizes: Sizes) -> bool:
        return sizes.input_shape[1:] == sizes.output_shape[1:] and sizes.input_shape[0] >= sizes.output_shape[0]

    def work(self, sizes: Sizes) -> float:
        return float(10 * (sizes.train + sizes.held_out) * sizes.outputs)

    def candidates(self, train: Examples) -> Iterator[Candidate]:
        channels = train.y.shape[1]
        lines = [_line(train.x[:, channel], train.y[:, channel]) for channel in range(channels)]

        def predict(x: np.ndarray) -> np.ndarray:
            return np.stack([slope * x[:, channel].astype(np.float64) + level for channel, (slope, level) in enumerate(lines)], axis=1)

        yield {}, predict


def _line(x: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    """Slope and level of the least-squares line through all positions that count."""
    counts = ~np.isnan(y)
    inputs, targets = x[counts].astype(np.float64), y[counts].astype(np.float64)
    spread = inputs - inputs.mean()
    variance = float(spread @ spread)
    slope = float(spread @ targets) / variance if variance > 0 else 0.0
    return slope, float(targets.mean() - slope * inputs.mean())
