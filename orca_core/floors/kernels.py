"""Floors with a Gaussian kernel: a support-vector machine, and kernel ridge regression."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from orca_core.floors.model import EIGEN_WORK, Candidate, Centred, Examples, FloorModel, Sizes, class_logits, complete_targets


class SupportVectors(FloorModel):
    """A support-vector machine with a Gaussian kernel, by one against one."""

    name, most = "svm", 2_048
    WIDTHS = (0.3, 1.0, 3.0)
    """Of the kernel: exp(-width / features * squared distance), of inputs with a mean variance of 1."""
    PENALTIES = (1.0, 10.0, 100.0)
    SOLVER_WORK = 1_000.0
    """Multiplications of the solver for each pair of training samples."""

    def work(self, sizes: Sizes) -> float:
        n = sizes.train
        kernels = n * (n + len(self.WIDTHS) * sizes.held_out) * (sizes.features + 20 * len(self.WIDTHS))
        settings = len(self.WIDTHS) * len(self.PENALTIES)
        return kernels + settings * (self.SOLVER_WORK * n * n + 10.0 * sizes.held_out * n * sizes.outputs)

    def candidates(self, train: Examples) -> Iterator[Candidate]:
        from sklearn.svm import SVC

        assert train.num_classes is not None
        num_classes, distances = train.num_classes, Distances(train.x)
        to_training, among_training = remember_last(distances), distances(train.x)
        for width in self.WIDTHS:
            kernel = np.exp(-width * among_training)
            for penalty in self.PENALTIES:
                model = SVC(kernel="precomputed", C=penalty, decision_function_shape="ovr", cache_size=100).fit(kernel, train.y)

                def predict(x: np.ndarray, width: float = width, model: SVC = model) -> np.ndarray:
                    scores = model.decision_function(np.exp(-width * to_training(x)))
                    return class_logits(scores, model.classes_, num_classes)

                yield {"width": width, "C": penalty}, predict


class KernelRidge(FloorModel):
    """Ridge regression of all values of the target in the space of a Gaussian kernel."""

    name, most = "kernel-ridge", 2_048
    WIDTHS = (1.0, 0.1, 0.01)
    ALPHAS = (1.0, 1e-2, 1e-4, 1e-6, 1e-8)

    def work(self, sizes: Sizes) -> float:
        n = sizes.train
        kernels = n * (n + len(self.WIDTHS) * sizes.held_out) * (sizes.features + 20 * len(self.WIDTHS))
        each = len(self.ALPHAS) * sizes.outputs * (n * n + sizes.held_out * n)
        return kernels + len(self.WIDTHS) * (EIGEN_WORK * n**3 + n * n * sizes.outputs + each)

    def candidates(self, train: Examples) -> Iterator[Candidate]:
        distances, shape, y = Distances(train.x), train.y.shape[1:], complete_targets(train.y)
        to_training, among_training = remember_last(distances), distances(train.x)
        mean = y.mean(0)
        for width in self.WIDTHS:
            solver = KernelSolver(np.exp(-width * among_training), y - mean)
            for alpha in self.ALPHAS:
                weights = solver.solve(alpha)

                def predict(x: np.ndarray, width: float = width, weights: np.ndarray = weights) -> np.ndarray:
                    return (np.exp(-width * to_training(x)) @ weights + mean).reshape(len(x), *shape)

                yield {"width": width, "alpha": alpha}, predict


class Distances:
    """Squared distances to the training inputs, divided by the number of features, of inputs with a mean variance of 1."""

    def __init__(self, x: np.ndarray) -> None:
        self._scale = Centred(x)
        self._train = self._scale(x)
        self._norms = np.square(self._train).sum(1)

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """(n, ...) inputs -> (n, training samples)."""
        rows = self._scale(x)
        squares = np.square(rows).sum(1)[:, None] + self._norms - 2 * (rows @ self._train.T)
        distances: np.ndarray = np.maximum(squares, 0) / rows.shape[1]
        return distances


class KernelSolver:
    """Solutions of (matrix + penalty) weights = targets for one penalty after another, by one decomposition.

    Args:
        matrix: (m, m), symmetric, without negative eigenvalues but for rounding.
        targets: (m, values).
    """

    def __init__(self, matrix: np.ndarray, targets: np.ndarray) -> None:
        eigenvalues, self._vectors = np.linalg.eigh(matrix)
        self._eigenvalues = np.maximum(eigenvalues, 0)
        self._targets = self._vectors.T @ targets

    def solve(self, alpha: float) -> np.ndarray:
        """(m, values) weights for a penalty of `alpha` times the mean eigenvalue."""
        penalty = alpha * (self._eigenvalues.mean() or 1.0)
        weights: np.ndarray = self._vectors @ (self._targets / (self._eigenvalues + penalty)[:, None])
        return weights


def remember_last(function: Callable[[np.ndarray], np.ndarray]) -> Callable[[np.ndarray], np.ndarray]:
    """The same function, which returns its last result again if it is called with the same array."""
    last: list[np.ndarray] = []

    def call(x: np.ndarray) -> np.ndarray:
        if not last or last[0] is not x:
            last[:] = [x, function(x)]
        return last[1]

    return call
