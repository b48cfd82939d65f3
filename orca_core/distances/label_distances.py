"""How far the classes of two clouds are apart: the label distances W of OTDD.

Each strategy describes the classes of a cloud once, then compares descriptions:

    ExactLabels             converged Sinkhorn divergence of the classes' samples
    AnnealedLabels          the same divergence, annealed once
    GaussianLabels          squared 2-Wasserstein distance of fitted Gaussians, all source classes at once, in float64
    PairedGaussianLabels    the same, pair by pair, in the dtype of the features

Shapes: n samples, d features, C classes; all distances are in squared feature units.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Sequence
from functools import cached_property
from typing import Generic, NamedTuple, TypeVar

import torch
from torch import Tensor

from orca_core.distances.annealed import annealed_divergences, annealing_schedule, diameter_of
from orca_core.distances.sinkhorn import self_transport_of, squared_distances, transport_cost, transport_costs, with_gradient
from orca_core.numerics import square_root

Classes = TypeVar("Classes")
"""What a strategy keeps of the classes of a cloud."""

Pairs = Collection[tuple[int, int]] | None
"""Pairs of classes whose distances are asked for; None is all of them."""


class Cloud(NamedTuple):
    """Features in the dtype of the solver, sorted by class."""

    x: Tensor  # (n, d)
    membership: Tensor  # (n, C), 1 where the sample is of the class, else 0
    class_sizes: list[int]

    @classmethod
    def of(cls, x: Tensor, y: Tensor, dtype: torch.dtype) -> Cloud:
        """Features (n, d) with labels (n,); classes of one sample are dropped unless there are no others."""
        _, index, sizes = y.unique(return_inverse=True, return_counts=True)
        repeated = sizes[index] > 1
        if repeated.any():
            x, y = x[repeated], y[repeated]
            _, index, sizes = y.unique(return_inverse=True, return_counts=True)
        order = index.argsort(stable=True)
        membership = torch.nn.functional.one_hot(index[order], len(sizes)).to(dtype)
        return cls(x[order].to(dtype), membership, sizes.tolist())

    @classmethod
    def of_one_class(cls, x: Tensor) -> Cloud:
        """Features (n, d) that are all of one class."""
        return cls(x, x.new_ones(len(x), 1), [len(x)])

    @property
    def classes(self) -> Sequence[Tensor]:
        """The features of each class."""
        return self.x.split(self.class_sizes)

    def with_labels(self, first: int) -> Tensor:
        """(n, d + 1) features, and as the last one the number of the class, counted from `first`."""
        numbers = self.membership.argmax(1, keepdim=True) + first
        return torch.cat([self.x, numbers.to(self.x)], 1)


class LabelDistance(ABC, Generic[Classes]):
    """Distances between classes.

    Attributes:
        reference_gradient: What the release passes of the gradient of label distances, as a factor on the true one.
    """

    reference_gradient: float

    @abstractmethod
    def describe(self, cloud: Cloud) -> Classes:
        """What the distances of a cloud's classes are computed from."""

    @abstractmethod
    def across(self, source: Classes, target: Classes, squared: Tensor) -> Tensor:
        """(C_source, C_target) distances; `squared` are the squared distances of the samples, in the order of both clouds."""

    @abstractmethod
    def within(self, classes: Classes, cloud: Cloud, pairs: Pairs = None, squared: Tensor | None = None) -> Tensor:
        """(C, C) distances of the classes of one cloud, symmetric, zero diagonal; 0 for pairs i < j that are not among `pairs`.

        `squared` are the (n, n) squared distances of the samples, where they are known.
        """


class _Samples(NamedTuple):
    """A class as the cloud of its samples."""

    num_samples: int
    self_cost: Tensor  # scalar transport cost of the class to itself


class ExactLabels(LabelDistance[Sequence[_Samples]]):
    """Sinkhorn divergence of the classes' samples at `epsilon`, solved to convergence."""

    reference_gradient = 0.0

    def __init__(self, epsilon: float) -> None:
        self.epsilon = epsilon

    def describe(self, cloud: Cloud) -> Sequence[_Samples]:
        return [_Samples(len(x), self_transport_of(x, self.epsilon)) for x in cloud.classes]

    def across(self, source: Sequence[_Samples], target: Sequence[_Samples], squared: Tensor) -> Tensor:
        rows = squared.split([one.num_samples for one in source])
        sizes = sorted({one.num_samples for one in source})
        columns = []
        for j, other in enumerate(target):
            start = sum(before.num_samples for before in target[:j])
            distances: list[Tensor] = [other.self_cost] * len(source)
            for size in sizes:  # source classes of one size together
                which = [k for k, one in enumerate(source) if one.num_samples == size]
                costs = transport_costs(torch.stack([rows[k][:, start : start + other.num_samples] for k in which]), self.epsilon)
                for k, cost in zip(which, costs.unbind(), strict=True):
                    distances[k] = cost - (source[k].self_cost + other.self_cost) / 2
            columns.append(torch.stack(distances))
        return torch.stack(columns, 1)

    def within(self, classes: Sequence[_Samples], cloud: Cloud, pairs: Pairs = None, squared: Tensor | None = None) -> Tensor:
        clouds, sizes = cloud.classes, cloud.class_sizes

        def between(i: int, j: int) -> Tensor:
            if squared is None:
                return self._between(classes[i], classes[j], squared_distances(clouds[i], clouds[j]))
            return self._between(classes[i], classes[j], squared.split(sizes)[i].split(sizes, 1)[j])

        return _symmetric(between, len(classes), cloud.x, pairs)

    def _between(self, one: _Samples, other: _Samples, squared: Tensor) -> Tensor:
        cross_cost = transport_cost(squared, self.epsilon)
        return cross_cost - (one.self_cost + other.self_cost) / 2


class AnnealedLabels(LabelDistance[Sequence[Tensor]]):
    """The same divergence by the annealed solver: annealing starts at the diameter of both classes."""

    reference_gradient = 0.0

    def __init__(self, epsilon: float) -> None:
        self.epsilon = epsilon

    def describe(self, cloud: Cloud) -> Sequence[Tensor]:
        return cloud.classes

    def across(self, source: Sequence[Tensor], target: Sequence[Tensor], squared: Tensor) -> Tensor:
        return torch.stack([self._to_one(source, y) for y in target], 1)

    def _to_one(self, source: Sequence[Tensor], y: Tensor) -> Tensor:
        """(C,) distances of source classes to one class. Classes of one size whose annealing takes as many steps are compared together."""
        schedules = [annealing_schedule(diameter_of(x, y), self.epsilon) for x in source]
        alike: dict[tuple[int, int], list[int]] = {}
        for k, (x, schedule) in enumerate(zip(source, schedules, strict=True)):
            alike.setdefault((len(x), len(schedule)), []).append(k)
        distances: dict[int, Tensor] = {}
        for which in alike.values():
            x = torch.stack([source[k] for k in which])
            found = self._between(x, y.expand(len(which), -1, -1), [schedules[k] for k in which])
            distances.update(zip(which, found.unbind(), strict=True))
        return torch.stack([distances[k] for k in range(len(source))])

    def within(self, classes: Sequence[Tensor], cloud: Cloud, pairs: Pairs = None, squared: Tensor | None = None) -> Tensor:
        return _symmetric(lambda i, j: self._to_one([classes[i]], classes[j]).squeeze(0), len(classes), cloud.x, pairs)

    def _between(self, x: Tensor, y: Tensor, schedules: Sequence[Sequence[float]]) -> Tensor:
        """(pairs,) divergences of the clouds `x` (pairs, n, d) and `y` (pairs, m, d)."""
        # Not from the squared distances of the whole clouds: their gradient is that of both sides in one.
        sides = [(x, y), (y, x), (x, x), (y, y)]
        costs = (torch.stack([squared_distances(a, b) for a, b in zip(one, other.detach(), strict=True)]) for one, other in sides)
        return annealed_divergences(*costs, schedules=schedules)


class _Gaussian:
    """A class as the Gaussian with its mean and covariance F F^T; a single sample has covariance 0.

    The cross term tr (S1^1/2 S2 S1^1/2)^1/2 of the Bures distance is the sum of the singular values of F1^T F2 for any factors F, so
    neither d x d covariances nor their square roots are formed.
    """

    def __init__(self, x: Tensor) -> None:
        self.mean = x.mean(0)
        self.rank = min(len(x) - 1, x.shape[1])  # unless samples are in special position
        self.factor = (x - self.mean).mT / max(len(x) - 1, 1) ** 0.5
        self.trace = self.factor.square().sum()
        if not x.requires_grad and len(x) > x.shape[1]:
            # A (d, d) factor of the same covariance makes every later cross term smaller.
            self.factor = torch.linalg.qr(self.factor.mT, mode="r").R.mT

    def distance_to(self, other: _Gaussian) -> Tensor:
        """Scalar squared 2-Wasserstein distance."""
        cross_term = _nuclear_norm(self.factor.mT @ other.factor)
        return (self.mean - other.mean).square().sum() + self.trace + other.trace - 2 * cross_term


class _Gaussians:
    """The classes of a cloud as Gaussians; what comparing them all with another one needs is computed once, when first asked for."""

    def __init__(self, classes: Sequence[_Gaussian]) -> None:
        self.classes = classes

    @cached_property
    def means(self) -> Tensor:
        """(C, d)."""
        return torch.stack([one.mean for one in self.classes])

    @cached_property
    def traces(self) -> Tensor:
        """(C,) traces of the covariances."""
        return torch.stack([one.trace for one in self.classes])

    @cached_property
    def covariances(self) -> Tensor:
        """(C, d, d)."""
        return torch.stack([one.factor @ one.factor.mT for one in self.classes])

    def distances_to(self, other: _Gaussian) -> Tensor:
        """(C,) distances, as `_Gaussian.distance_to` has them."""
        return (self.means - other.mean).square().sum(1) + self.traces + other.trace - 2 * self._cross_terms(other)

    def _cross_terms(self, other: _Gaussian) -> Tensor:
        """(C,) cross terms: singular values of F1^T F2 are the roots of the eigenvalues of G = F2^T S1 F2, a third of the work.

        The gradient in F2 is S1 F2 G^(-1/2). Taking roots halves the digits of small eigenvalues: where one that should not vanish is
        small, and where F2 is wider than F1, singular values are computed after all.
        """
        samples = other.factor.shape[1]
        ranks = [min(one.rank, other.rank) for one in self.classes]
        accurate = [False] * len(ranks)
        if samples <= max(one.rank for one in self.classes):
            # As one product: a product of many matrices with one takes three times as long.
            images = (self.covariances.flatten(0, 1) @ other.factor.detach()).unflatten(0, self.covariances.shape[:2])
            values, vectors = torch.linalg.eigh(other.factor.detach().mT @ images)
            roots = torch.zeros_like(values)
            for root, value, rank in zip(roots, values, ranks, strict=True):
                root[samples - rank :] = square_root(value[samples - rank :].clamp(min=0))
            # In ascending order: of `rank` eigenvalues, the smallest stands at -rank.
            accurate = [rank > 0 and bool(root[-rank] > 1e-5 * root[-1]) for root, rank in zip(roots, ranks, strict=True)]
            inverse = torch.where(roots > 0, 1 / roots, 0)
            gradients = images @ (vectors * inverse.unsqueeze(1) @ vectors.mT)
        return torch.stack(
            [
                with_gradient(roots[k].sum(), gradients[k], other.factor) if accurate[k] else _nuclear_norm(one.factor.mT @ other.factor)
                for k, one in enumerate(self.classes)
            ]
        )


class PairedGaussianLabels(LabelDistance[_Gaussians]):
    """Squared 2-Wasserstein distance of the Gaussians fitted to the classes, each pair by itself."""

    reference_gradient = 2.0

    def describe(self, cloud: Cloud) -> _Gaussians:
        return _Gaussians([_Gaussian(x) for x in cloud.classes])

    def across(self, source: _Gaussians, target: _Gaussians, squared: Tensor) -> Tensor:
        return _stack([[one.distance_to(other) for other in target.classes] for one in source.classes])

    def within(self, classes: _Gaussians, cloud: Cloud, pairs: Pairs = None, squared: Tensor | None = None) -> Tensor:
        return _symmetric(lambda i, j: classes.classes[i].distance_to(classes.classes[j]), len(classes.classes), cloud.x, pairs)


class GaussianLabels(PairedGaussianLabels):
    """The same in float64, where all source classes can be compared with a target class at once."""

    def across(self, source: _Gaussians, target: _Gaussians, squared: Tensor) -> Tensor:
        return torch.stack([source.distances_to(other) for other in target.classes], 1)


def scale_gradient(tensor: Tensor, weight: float) -> Tensor:
    """`tensor` as it is, its gradient times `weight`."""
    return tensor if weight == 1 else tensor.detach() + weight * (tensor - tensor.detach())


def _nuclear_norm(matrix: Tensor) -> Tensor:
    """Sum of singular values, with the gradient U V^T of the non-zero ones: that of torch is not finite where they repeat or vanish."""
    left, values, right = torch.linalg.svd(matrix.detach(), full_matrices=False)
    kept = values > values.max() * max(matrix.shape) * torch.finfo(values.dtype).eps
    return with_gradient(values.sum(), (left * kept) @ right, matrix)


def _stack(rows: Sequence[Sequence[Tensor]]) -> Tensor:
    """(C1, C2) out of scalars."""
    return torch.stack([torch.stack(list(row)) for row in rows])


def _symmetric(between: Callable[[int, int], Tensor], count: int, like: Tensor, pairs: Pairs) -> Tensor:
    """(C, C) distances of all pairs, zero on the diagonal; each pair is computed once. `like` has their dtype and device."""
    zero = like.new_zeros(())
    asked = [[j > i and (pairs is None or (i, j) in pairs) for j in range(count)] for i in range(count)]
    distances = _stack([[between(i, j) if asked[i][j] else zero for j in range(count)] for i in range(count)])
    return distances + distances.mT
