"""How rows are split into train, valid and test, and how inputs are standardised by the statistics of train alone."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from orca_core.datafiles.room import require_memory
from orca_core.tasks.preparation import Scale
from orca_core.tasks.raw_arrays import ArrayInputs
from orca_core.tasks.spec import Split, TaskData

if TYPE_CHECKING:
    import numpy as np

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

    A channel that is constant in train is only centred. If the data says how raw samples are prepared, this becomes a step of it.
    """
    scale = scale_of_channels(data.train.x)
    train, valid, test = (replace(part, x=scale.encode(part.x)) for part in (data.train, data.valid, data.test))
    preparation = data.preparation
    if preparation is not None and isinstance(preparation.inputs, ArrayInputs):
        inputs = replace(preparation.inputs, steps=(*preparation.inputs.steps, scale))
        preparation = replace(preparation, inputs=inputs)
    return replace(data, train=train, valid=valid, test=test, preparation=preparation)


def scale_of_channels(values: np.ndarray) -> Scale:
    """The scale at which each channel has mean 0 and variance 1 over all samples and positions, in float64; a constant one is centred.

    Args:
        values: (n, channels, ...) training values.
    """
    axes = (0, *range(2, values.ndim))
    mean = values.mean(axis=axes, keepdims=True, dtype="float64")
    deviation = values.std(axis=axes, keepdims=True, dtype="float64")
    deviation[deviation == 0] = 1.0
    return Scale(mean, deviation)


def scale_of_points(values: np.ndarray) -> Scale:
    """The scale at which each point has mean 0 and deviation 1, in float32.

    Args:
        values: (n, ...) training values, n >= 2.
    """
    mean = values.mean(0, dtype="float64").astype("float32")
    return Scale(mean, (values.std(0, ddof=1, dtype="float64") + EPSILON).astype("float32"))
