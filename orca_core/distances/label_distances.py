"""How far the classes of two clouds are apart: the label distances W of OTDD.

Each strategy describes the classes of a cloud once, then compares descriptions:

    ExactLabels             converged Sinkhorn divergence of the classes' samples
    AnnealedLabels          the same divergence, annealed once
    GaussianLabels          squared 2-Wasserstein distance of fitted Gaussians

Shapes: n samples, d features, C classes; all distances are in squared feature units.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Sequence
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
    def within(self, classes: Classes, cloud: Cloud, pairs: Pairs = None, squared: Sequence[Tensor] | None = None) -> Tensor:
        """(C, C) distances of the classes of one cloud, symmetric, zero diagonal; 0 for pairs i < j that are not among `pairs`.

        `squared` are the squared distances of the samples, where they are known, as `squared_distances_above` has them.
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

    def within(self, classes: Sequence[_Samples], cloud: Cloud, pairs: Pairs = None, squared: Sequence[Tensor] | None = None) -> Tensor:
        clouds, sizes = cloud.classes, cloud.class_sizes

        def between(i: int, j: int) -> Tensor:
            if squared is None:
                return self._between(classes[i], classes[j], squared_distances(clouds[i], clouds[j]))
            return self._between(classes[i], classes[j], squared[i].split(sizes[i:], 1)[j - i])

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

    def within(self, classes: Sequence[Tensor], cloud: Cloud, pairs: Pairs = None, squared: Sequence[Tensor] | None = None) -> Tensor:
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
        cross_term = _nuclear_norm(self.factor.mT @ other.factor, min(self.rank, other.rank))
        return (self.mean - other.mean).square().sum() + self.trace + other.trace - 2 * cross_term


class GaussianLabels(LabelDistance[Sequence[_Gaussian]]):
    """Squared 2-Wasserstein distance of the Gaussians fitted to the classes, in the dtype of the features."""

    reference_gradient = 2.0

    def describe(self, cloud: Cloud) -> Sequence[_Gaussian]:
        return [_Gaussian(x) for x in cloud.classes]

    def across(self, source: Sequence[_Gaussian], target: Sequence[_Gaussian], squared: Tensor) -> Tensor:
        return _stack([[one.distance_to(other) for other in target] for one in source])

    def within(self, classes: Sequence[_Gaussian], cloud: Cloud, pairs: Pairs = None, squared: Sequence[Tensor] | None = None) -> Tensor:
        return _symmetric(lambda i, j: classes[i].distance_to(classes[j]), len(classes), cloud.x, pairs)


def scale_gradient(tensor: Tensor, weight: float) -> Tensor:
    """`tensor` as it is, its gradient times `weight`."""
    return tensor if weight == 1 else tensor.detach() + weight * (tensor - tensor.detach())


def nuclear_norms(matrices: Tensor, ranks: Tensor) -> tuple[Tensor, Tensor]:
    """Sums of the singular values of several matrices, and their gradients U V^T: torch's are not finite where values repeat or vanish.

    Singular values are the roots of the eigenvalues of M^T M, a third of the work. Taking roots halves the digits of small eigenvalues:
    where one that should not vanish is small, and in float32, the singular value decomposition is computed after all.

    Args:
        matrices: (K, a, b), without a gradient.
        ranks: (K,) int64, unless rows or columns are in special position.

    Returns:
        (K,) sums, and (K, a, b) gradients.
    """
    if matrices.shape[1] < matrices.shape[2]:
        sums, gradients = nuclear_norms(matrices.mT, ranks)
        return sums, gradients.mT
    size, ranks = matrices.shape[2], ranks.unsqueeze(1)
    if matrices.dtype == torch.float64:
        values, vectors = torch.linalg.eigh(matrices.mT @ matrices)  # in ascending order
        roots = square_root(values.clamp(min=0)).mul_(torch.arange(size, device=ranks.device) >= size - ranks)
        inverse = torch.where(roots > 0, 1 / roots, 0)
        sums, gradients = roots.sum(1), matrices @ ((vectors * inverse.unsqueeze(1)) @ vectors.mT)
        smallest = roots.gather(1, (size - ranks).clamp(max=size - 1))
        others = (~(smallest > 1e-5 * roots[:, -1:])).flatten().nonzero().flatten().tolist()
    else:
        sums, gradients, others = matrices.new_empty(len(matrices)), torch.empty_like(matrices), list(range(len(matrices)))
    for k in others:
        left, values, right = torch.linalg.svd(matrices[k], full_matrices=False)
        kept = values > values.max() * len(matrices[k]) * torch.finfo(values.dtype).eps
        sums[k], gradients[k] = values.sum(), (left * kept) @ right
    return sums, gradients


def _nuclear_norm(matrix: Tensor, rank: int) -> Tensor:
    """Sum of singular values, differentiable."""
    if not (matrix.requires_grad and torch.is_grad_enabled()):
        return torch.linalg.svdvals(matrix).sum()
    sums, gradients = nuclear_norms(matrix.detach().unsqueeze(0), torch.tensor([rank], device=matrix.device))
    return with_gradient(sums[0], gradients[0], matrix)


def _stack(rows: Sequence[Sequence[Tensor]]) -> Tensor:
    """(C1, C2) out of scalars."""
    return torch.stack([torch.stack(list(row)) for row in rows])


def _symmetric(between: Callable[[int, int], Tensor], count: int, like: Tensor, pairs: Pairs) -> Tensor:
    """(C, C) distances of all pairs, zero on the diagonal; each pair is computed once. `like` has their dtype and device."""
    zero = like.new_zeros(())
    asked = [[j > i and (pairs is None or (i, j) in pairs) for j in range(count)] for i in range(count)]
    distances = _stack([[between(i, j) if asked[i][j] else zero for j in range(count)] for i in range(count)])
    return distances + distances.mT
