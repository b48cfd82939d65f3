"""The floor of nearest neighbours: the mean answer of the training samples that are closest."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from orca_core.floors.kernels import remember_last
from orca_core.floors.model import Candidate, Centred, Examples, FloorModel, Sizes, complete_targets


class Neighbours(FloorModel):
    """The mean target, or the shares of classes, of the nearest training samples by Euclidean distance."""

    name = "neighbours"
    NUMBERS = (1, 3, 5, 10, 20)

    def work(self, sizes: Sizes) -> float:
        outputs = sum(self.NUMBERS) * sizes.outputs
        return 3.0 * sizes.held_out * sizes.train * (sizes.features + 20) + 5.0 * sizes.held_out * outputs

    def candidates(self, train: Examples) -> Iterator[Candidate]:
        from sklearn.neighbors import NearestNeighbors

        scale = Centred(train.x)
        numbers = [number for number in self.NUMBERS if number <= len(train.x)]
        search = NearestNeighbors(n_neighbors=numbers[-1], algorithm="brute").fit(scale(train.x))
        nearest = remember_last(lambda x: search.kneighbors(scale(x), return_distance=False))
        shape: tuple[int, ...] = train.y.shape[1:]
        if train.num_classes is None:
            targets = complete_targets(train.y)
        else:
            targets, shape = np.eye(train.num_classes)[train.y], (train.num_classes,)
        for number in numbers:

            def predict(x: np.ndarray, number: int = number) -> np.ndarray:
                found = nearest(x)
                sums = np.zeros((len(x), targets.shape[1]))
                for rank in range(number):
                    sums += targets[found[:, rank]]
                means = sums / number
                if train.num_classes is not None:
                    return np.log(np.maximum(means, 1e-12))
                return means.reshape(len(x), *shape)

            yield {"neighbours": number}, predict
