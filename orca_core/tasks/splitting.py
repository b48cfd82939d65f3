"""How rows are dealt to train, valid and test, and inputs standardised by what train alone tells."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from orca_core.tasks.spec import Split, TaskData

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

EPSILON = 1e-5
"""What the reference adds to the deviations that it divides by."""


def stratified_order(labels: np.ndarray, seed: int) -> np.ndarray:
    """An order of all rows of which every prefix holds the classes in their proportions.

    The r-th of a class's n rows, in random order, stands at r/n; rows are sorted by that, ties in random order. So the last rows
    are one of each class: whatever is cut from the front, no class is lost from the rest while as many rows remain as there are
    classes. It needs no minimum of rows per class, which scikit-learn's stratified splits do.

    Args:
        labels: (n,) integers.
        seed: >= 0.

    Returns:
        (n,) int64 row numbers, a permutation.
    """
    import numpy as np

    order = np.random.Generator(np.random.PCG64(seed)).permutation(len(labels))
    _, class_of, counts = np.unique(labels[order], return_inverse=True, return_counts=True)
    place_in_class = np.empty(len(labels), dtype=np.int64)
    place_in_class[np.argsort(class_of, kind="stable")] = np.concatenate([np.arange(1, count + 1) for count in counts])
    return order[np.argsort(place_in_class / counts[class_of], kind="stable")]


def deal(x: np.ndarray, y: np.ndarray, seed: int, *, num_valid: int, num_test: int = 0) -> tuple[Split, Split, Split]:
    """Train, valid and test out of one pool of rows: stratified if `y` holds class ids, otherwise at random.

    Args:
        x: (n, ...) inputs.
        y: (n,) class ids, or (n, ...) dense targets.
        seed: >= 0; decides alone which row goes where.
        num_valid, num_test: Rows of those parts; train has the others.
    """
    import numpy as np

    strata = y if y.ndim == 1 else np.zeros(len(y), dtype=np.int64)
    test, valid, train = np.split(stratified_order(strata, seed), [num_test, num_test + num_valid])
    return Split(x[train], y[train]), Split(x[valid], y[valid]), Split(x[test], y[test])


def held_out(y: np.ndarray, share: float, split_seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows of train and of a validation part that is split off by the seed, each in ascending order; stratified if y is (n,).

    At least one row is held out, and one is left.
    """
    import numpy as np

    strata = y if y.ndim == 1 else np.zeros(len(y), dtype=np.int64)
    order = stratified_order(strata, split_seed)
    number = min(max(1, round(share * len(y))), len(y) - 1)
    return np.sort(order[number:]), np.sort(order[:number])


def rows_of(x: np.ndarray, y: np.ndarray, rows: np.ndarray) -> Split:
    """Some rows, copied into memory."""
    return Split(x[rows], y[rows])


def standardise(data: TaskData) -> TaskData:
    """The same data with each input channel at mean 0 and variance 1 over the training rows and all positions.

    A channel that is constant in train is only centred.
    """
    axes = (0, *range(2, data.train.x.ndim))
    mean = data.train.x.mean(axis=axes, keepdims=True, dtype="float64")
    deviation = data.train.x.std(axis=axes, keepdims=True, dtype="float64")
    deviation[deviation == 0] = 1.0

    def scaled(part: Split) -> Split:
        return replace(part, x=((part.x - mean) / deviation).astype("float32", order="C"))

    return replace(data, train=scaled(data.train), valid=scaled(data.valid), test=scaled(data.test))


class PointwiseScale:
    """Values at mean 0 and deviation 1, point by point, and back.

    Args:
        values: (n, ...) training values, n >= 2.
    """

    def __init__(self, values: np.ndarray) -> None:
        self.mean = values.mean(0, dtype="float64").astype("float32")
        self.deviation = (values.std(0, ddof=1, dtype="float64") + EPSILON).astype("float32")

    def encode(self, values: np.ndarray) -> np.ndarray:
        """(n, ...) values -> (n, ...) scaled."""
        scaled: np.ndarray = (values - self.mean) / self.deviation
        return scaled

    def __call__(self, scaled: Tensor) -> Tensor:
        """(n, ...) scaled -> (n, ...) values."""
        import torch

        return scaled * torch.from_numpy(self.deviation).to(scaled) + torch.from_numpy(self.mean).to(scaled)
