"""Linear floors: logistic regression, ridge regression, and ridge regression from the patch round each position of a field."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import ClassVar

import numpy as np

from orca_core.floors.kernels import KernelSolver, remember_last
from orca_core.floors.model import EIGEN_WORK, Candidate, Centred, Examples, FloorModel, Sizes, class_logits, complete_targets, mean_target

ALPHAS = (100.0, 1.0, 1e-2, 1e-4, 1e-6, 1e-8)
"""Penalties of ridge regression, in units of the mean eigenvalue of what is inverted."""


class Logistic(FloorModel):
    """Multinomial logistic regression with a squared penalty, by at most `STEPS` steps of L-BFGS.

    With more features than samples, inputs are first turned into the space that the training inputs span. That leaves the solution as it
    is, since weights outside of that space would only add to the penalty.
    """

    name = "logistic"
    INVERSE_PENALTIES = (0.01, 0.1, 1.0, 10.0, 100.0)
    STEPS = 100

    def work(self, sizes: Sizes) -> float:
        n, d = sizes.train, sizes.features
        turning = (n + sizes.held_out) * n * (d + n) + EIGEN_WORK * n**3 if n < d else 0.0
        return turning + 5.0 * self.STEPS * len(self.INVERSE_PENALTIES) * n * min(n, d) * sizes.outputs

    def candidates(self, train: Examples) -> Iterator[Candidate]:
        from sklearn.linear_model import LogisticRegression

        assert train.num_classes is not None
        scale, num_classes = Centred(train.x), train.num_classes
        x = scale(train.x)
        features = remember_last(scale)
        if len(x) < x.shape[1]:
            axes = _span(x)
            features = remember_last(lambda x_new: (scale(x_new) @ x.T) @ axes)
        rows = features(train.x)
        for inverse in self.INVERSE_PENALTIES:
            model = LogisticRegression(C=inverse, max_iter=self.STEPS).fit(rows, train.y)

            def predict(x: np.ndarray, model: LogisticRegression = model) -> np.ndarray:
                return class_logits(model.decision_function(features(x)), model.classes_, num_classes)

            yield {"C": inverse}, predict


def _span(x: np.ndarray) -> np.ndarray:
    """(n, m) matrix A such that `rows @ x.T @ A` are coordinates of rows along orthogonal axes of the space that the rows of x span."""
    eigenvalues, vectors = np.linalg.eigh(x @ x.T)
    is_there = eigenvalues > 1e-10 * eigenvalues[-1]
    axes: np.ndarray = vectors[:, is_there] / np.sqrt(eigenvalues[is_there])
    return axes


class Ridge(FloorModel):
    """Ridge regression of all values of the target on all values of the input."""

    name = "ridge"

    def work(self, sizes: Sizes) -> float:
        n, d = sizes.train, sizes.features
        least = min(n, d)
        of_settings = len(ALPHAS) * sizes.outputs * (least * least + sizes.held_out * least)
        return n * d * least + EIGEN_WORK * least**3 + n * least * sizes.outputs + sizes.held_out * n * d * (n < d) + of_settings

    def candidates(self, train: Examples) -> Iterator[Candidate]:
        scale, shape = Centred(train.x), train.y.shape[1:]
        x, y = scale(train.x), complete_targets(train.y)
        mean = y.mean(0)
        if len(x) >= x.shape[1]:  # the same solution from the smaller of two matrices
            features, solver = remember_last(scale), KernelSolver(x.T @ x, x.T @ (y - mean))
        else:
            features, solver = remember_last(lambda x_new: scale(x_new) @ x.T), KernelSolver(x @ x.T, y - mean)
        for alpha in ALPHAS:
            weights = solver.solve(alpha)

            def predict(x: np.ndarray, weights: np.ndarray = weights) -> np.ndarray:
                return (features(x) @ weights + mean).reshape(len(x), *shape)

            yield {"alpha": alpha}, predict


class PatchRidge(FloorModel):
    """Ridge regression of each position of a field on the patch of the input round it, with the same weights everywhere.

    It predicts what is left of the target after the mean field. Inputs are continued beyond their border by its values.
    """

    name = "patch-ridge"
    RADII: ClassVar = {1: (0, 2, 8, 32), 2: (0, 1, 3)}
    ALPHAS = (1e-2, 1e-6)

    def fits(self, sizes: Sizes) -> bool:
        return sizes.input_shape[1:] == sizes.output_shape[1:]

    def work(self, sizes: Sizes) -> float:
        dims, channels, positions = len(sizes.input_shape) - 1, sizes.input_shape[0], sizes.positions
        widths = [channels * (2 * radius + 1) ** dims for radius in self.RADII[dims]]
        fitting = sum(sizes.train * positions * width * width + EIGEN_WORK * width**3 for width in widths)
        predicting = sum(sizes.valid * positions * width * (4 + len(self.ALPHAS) * sizes.output_shape[0]) for width in widths)
        return 2.0 * (fitting + predicting + sizes.test * positions * max(widths) * (4 + sizes.output_shape[0]))

    def candidates(self, train: Examples) -> Iterator[Candidate]:
        centre = train.x.mean(0, dtype=np.float64)
        deviation = float(train.x.std(dtype=np.float64)) or 1.0
        mean = mean_target(train.y)
        for radius in self.RADII[train.x.ndim - 2]:

            def patches_of(x: np.ndarray, radius: int = radius) -> Iterator[tuple[slice, np.ndarray]]:
                return patches((x - centre) / deviation, radius)

            gram, moment = _normal_equations(patches_of(train.x), train.y, mean)
            solver = KernelSolver(gram, moment)
            for alpha in self.ALPHAS:
                yield {"radius": radius, "alpha": alpha}, _PatchPredictor(patches_of, solver.solve(alpha), mean)


PatchesOf = Callable[[np.ndarray], Iterator[tuple[slice, np.ndarray]]]
"""Inputs -> rows and their patches, as `patches` yields them."""


class _PatchPredictor:
    def __init__(self, patches_of: PatchesOf, weights: np.ndarray, mean: np.ndarray) -> None:
        self._patches_of, self._weights, self._mean = patches_of, weights, mean

    def __call__(self, x: np.ndarray) -> np.ndarray:
        found = np.empty((len(x), *self._mean.shape))
        for rows, of_rows in self._patches_of(x):
            values = of_rows @ self._weights  # (rows * positions, channels)
            found[rows] = np.moveaxis(values.reshape(-1, *self._mean.shape[1:], self._mean.shape[0]), -1, 1) + self._mean
        return found


def _normal_equations(blocks: Iterator[tuple[slice, np.ndarray]], y: np.ndarray, mean: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sums of products of patch values with each other, and with targets less their mean, over all positions that count."""
    gram, moment = np.zeros((1, 1)), np.zeros((1, 1))
    for rows, of_rows in blocks:
        left = y[rows] - mean
        targets = np.moveaxis(left, 1, -1).reshape(-1, left.shape[1])
        counts = ~np.isnan(targets).any(1)
        known = of_rows if counts.all() else of_rows[counts]
        gram = gram + known.T @ known
        moment = moment + known.T @ targets[counts]
    return gram, moment


PATCH_FLOATS = 1 << 22
"""How many values of patches are in memory at once."""


def patches(x: np.ndarray, radius: int) -> Iterator[tuple[slice, np.ndarray]]:
    """The patch round each position, a few samples at a time.

    Args:
        x: (n, channels, length) or (n, channels, height, width).
        radius: A patch has 2 radius + 1 positions along each axis; beyond the border the values of the border count.

    Yields:
        The rows of x, and (rows * positions, channels * patch) their patches.
    """
    dims = x.ndim - 2
    side, axes = 2 * radius + 1, tuple(range(2, x.ndim))
    each = int(np.prod(x.shape[1:])) * side**dims
    rows = max(1, PATCH_FLOATS // each)
    for first in range(0, len(x), rows):
        part = np.pad(x[first : first + rows], [(0, 0), (0, 0), *[(radius, radius)] * dims], mode="edge")
        windows = np.lib.stride_tricks.sliding_window_view(part, (side,) * dims, axis=axes)  # (rows, channels, *positions, *patch)
        by_position = np.moveaxis(windows, 1, dims + 1)
        yield slice(first, first + rows), by_position.reshape(-1, x.shape[1] * side**dims)
