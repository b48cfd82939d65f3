"""How rows are split into train, valid and test, and how inputs are standardised by the statistics of train alone."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from orca_core.datafiles.room import require_memory
from orca_core.tasks.spec import Split, TaskData

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

EPSILON = 1e-5
"""Added to deviations before dividing by them, as in the reference."""


def stratified_order(labels: np.ndarray, seed: int) -> np.ndarray:
    """An order of all rows in which every prefix has the classes in their proportions.

    The r-th of a class's n rows, in random order, gets the rank r/n; rows are sorted by rank, ties in random order. So the last rows
    are one of each class: however many rows are cut from the front, the rest keeps every class as long as it has as many rows as there
    are classes. Unlike scikit-learn's stratified splits, it needs no minimum number of rows per class.

    Args:
        labels: (n,) integers.
        seed: >= 0.

    Returns:
        (n,) int64 row numbers, a permutation.
    """
    import numpy as np

    order = np.random.Generator(np.random.PCG64(seed)).permutation(len(labels))
    _, class_of, counts = np.unique(labels[order], return_inverse=True, return_counts=True)
    rank_in_class = np.empty(len(labels), dtype=np.int64)
    rank_in_class[np.argsort(class_of, kind="stable")] = np.concatenate([np.arange(1, count + 1) for count in counts])
    return order[np.argsort(rank_in_class / counts[class_of], kind="stable")]


def deal(x: np.ndarray, y: np.ndarray, seed: int, *, num_valid: int, num_test: int = 0) -> tuple[Split, Split, Split]:
    """Train, valid and test out of one pool of rows: stratified if `y` holds class ids, otherwise at random.

    Args:
        x: (n, ...) inputs.
        y: (n,) class ids, or (n, ...) dense targets.
        seed: >= 0; the only source of chance.
        num_valid, num_test: Rows of those parts; train has the others.
    """
    import numpy as np

    strata = y if y.ndim == 1 else np.zeros(len(y), dtype=np.int64)
    test, valid, train = np.split(stratified_order(strata, seed), [num_test, num_test + num_valid])
    return Split(x[train], y[train]), Split(x[valid], y[valid]), Split(x[test], y[test])


def hold_out(y: np.ndarray, share: float, split_seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows of train and of a validation part split off by the seed, each in ascending order; stratified if y is (n,).

    At least one row is held out, and at least one is left.
    """
    import numpy as np

    strata = y if y.ndim == 1 else np.zeros(len(y), dtype=np.int64)
    order = stratified_order(strata, split_seed)
    number = min(max(1, round(share * len(y))), len(y) - 1)
    return np.sort(order[number:]), np.sort(order[:number])


def take_rows(x: np.ndarray, y: np.ndarray, rows: np.ndarray) -> Split:
    """Some rows, copied into memory.

    Raises:
        DataError: If they do not fit there.
    """
    require_memory("the rows of a part", "", len(rows) * (x.nbytes // max(1, len(x)) + y.nbytes // max(1, len(y))))
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
