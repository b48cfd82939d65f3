"""The floor of gradient-boosted trees; on fields, of trees that see the patch round a position and where it is."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Any, ClassVar

import numpy as np

from orca_core.floors.linear import patches
from orca_core.floors.model import Candidate, Examples, FloorModel, Predict, Sizes, class_logits, flatten

LEAVES, ROUNDS = (7, 31), (20, 50, 100)
"""Leaves of a tree, and rounds of boosting, from which validation chooses. The learning rate is 0.1."""

BINS = 63
"""Bins into which the values of a feature are sorted before trees are grown; histograms over them take most of the time."""

TREE_WORK, LEAF_WORK, VALUE_WORK, PREDICTION_WORK = 2e7, 200.0 * BINS, 20.0, 1500.0
"""Work for a tree, for each feature in each of its leaves, for each value of its training samples, and for each of its predictions, in
multiplications of a matrix product; measured with scikit-learn 1.9."""


def _tree_work(samples: int, features: int) -> float:
    """Work for a tree with the mean number of leaves."""
    leaves = sum(min(most, samples) for most in LEAVES) / len(LEAVES)
    return TREE_WORK + LEAF_WORK * features * leaves + VALUE_WORK * samples * features


class Boosting(FloorModel):
    """Gradient-boosted trees on the flattened input: one series of trees for each class but in pairs, or for each value."""

    name = "boosting"

    def work(self, sizes: Sizes) -> float:
        trees = sizes.outputs * ROUNDS[-1] * len(LEAVES)
        predicted = sizes.outputs * (sum(ROUNDS) * len(LEAVES) * sizes.valid + ROUNDS[-1] * sizes.test)
        return trees * _tree_work(sizes.train, sizes.features) + PREDICTION_WORK * predicted

    def candidates(self, train: Examples) -> Iterator[Candidate]:
        from sklearn.ensemble import HistGradientBoostingClassifier

        x = flatten(train.x)
        for leaves in LEAVES:
            if train.num_classes is None:
                series = [_fit_series(x, values, leaves) for values in flatten(train.y).T]
                for rounds in ROUNDS:
                    yield {"leaves": leaves, "rounds": rounds}, _predict_series(series, rounds, train.y.shape[1:])
                continue
            model = HistGradientBoostingClassifier(**_options(leaves)).fit(x, train.y)
            for rounds in ROUNDS:
                yield {"leaves": leaves, "rounds": rounds}, _predict_classes(model, rounds, train.num_classes)


def _predict_classes(model: Any, rounds: int, num_classes: int) -> Predict:
    def predict(x: np.ndarray) -> np.ndarray:
        scores = _after(model.staged_decision_function(flatten(x)), rounds)
        return class_logits(scores[:, 0] if scores.shape[1:] == (1,) else scores, model.classes_, num_classes)

    return predict


def _fit_series(x: np.ndarray, values: np.ndarray, leaves: int) -> Any:
    """Trees for one value of the target, of the samples in which it counts."""
    from sklearn.ensemble import HistGradientBoostingRegressor

    counts = ~np.isnan(values)
    return HistGradientBoostingRegressor(**_options(leaves)).fit(x[counts], values[counts])


def _options(leaves: int) -> dict[str, Any]:
    return {"max_iter": ROUNDS[-1], "max_leaf_nodes": leaves, "max_bins": BINS, "early_stopping": False, "random_state": 0}


def _predict_series(series: list[Any], rounds: int, shape: tuple[int, ...]) -> Predict:
    def predict(x: np.ndarray) -> np.ndarray:
        rows = flatten(x)
        return np.stack([_after(model.staged_predict(rows), rounds) for model in series], axis=1).reshape(len(x), *shape)

    return predict


def _after(stages: Iterator[np.ndarray], rounds: int) -> np.ndarray:
    """What comes after so many rounds of boosting."""
    return next(islice(stages, rounds - 1, None))


class PatchBoosting(FloorModel):
    """Gradient-boosted trees for a field: each position from the patch round it and from where it is, one series for each channel."""

    name = "boosting"
    RADII: ClassVar = {1: 4, 2: 1}
    POSITIONS = 20_000
    """Largest number of positions that trees are fitted to, taken from all training samples at equal steps."""

    def fits(self, sizes: Sizes) -> bool:
        return sizes.input_shape[1:] == sizes.output_shape[1:]

    def work(self, sizes: Sizes) -> float:
        dims, channels = len(sizes.input_shape) - 1, sizes.output_shape[0]
        width = sizes.input_shape[0] * (2 * self.RADII[dims] + 1) ** dims + dims
        trees = channels * ROUNDS[-1] * len(LEAVES)
        positions = min(self.POSITIONS, sizes.train * sizes.positions)
        predicted = channels * sizes.positions * (sum(ROUNDS) * len(LEAVES) * sizes.valid + ROUNDS[-1] * sizes.test)
        patching = 4.0 * width * sizes.positions * (sizes.train + len(LEAVES) * len(ROUNDS) * sizes.valid + sizes.test)
        return trees * _tree_work(positions, width) + PREDICTION_WORK * predicted + patching

    def candidates(self, train: Examples) -> Iterator[Candidate]:
        radius, shape = self.RADII[train.x.ndim - 2], train.y.shape[1:]
        x, y = self._sample(train, radius)
        for leaves in LEAVES:
            series = [_fit_series(x, values, leaves) for values in y.T]
            for rounds in ROUNDS:
                yield {"leaves": leaves, "rounds": rounds}, _predict_fields(series, rounds, radius, shape)

    def _sample(self, train: Examples, radius: int) -> tuple[np.ndarray, np.ndarray]:
        """Values round some positions, and their targets."""
        step = max(1, -(-len(train.x) * int(np.prod(train.y.shape[2:])) // self.POSITIONS))
        step += step % 2 == 0  # an odd step visits every column of fields whose sides are powers of 2
        inputs, targets, offset = [], [], 0
        for rows, of_rows in _located_patches(train.x, radius):
            values = np.moveaxis(train.y[rows], 1, -1).reshape(-1, train.y.shape[1])
            inputs.append(of_rows[offset::step])
            targets.append(values[offset::step])
            offset = (offset - len(of_rows)) % step
        return np.concatenate(inputs), np.concatenate(targets).astype(np.float64)


def _located_patches(x: np.ndarray, radius: int) -> Iterator[tuple[slice, np.ndarray]]:
    """As `patches`, with the coordinates of the position as further columns."""
    places = np.stack(np.meshgrid(*(np.arange(size, dtype=np.float64) for size in x.shape[2:]), indexing="ij"), axis=-1)
    flat = places.reshape(-1, x.ndim - 2)
    for rows, of_rows in patches(x, radius):
        yield rows, np.concatenate([of_rows, np.tile(flat, (len(of_rows) // len(flat), 1))], axis=1)


def _predict_fields(series: list[Any], rounds: int, radius: int, shape: tuple[int, ...]) -> Predict:
    def predict(x: np.ndarray) -> np.ndarray:
        found = np.empty((len(x), *shape))
        for rows, of_rows in _located_patches(x, radius):
            values = np.stack([_after(model.staged_predict(of_rows), rounds) for model in series], axis=-1)
            found[rows] = np.moveaxis(values.reshape(-1, *shape[1:], shape[0]), -1, 1)
        return found

    return predict
