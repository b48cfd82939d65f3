"""Optimal transport dataset distance (OTDD): how far two labelled clouds of features are apart.

    OTDD(source, target) = Sinkhorn divergence at eps with the cost  C = 1/2 |x - x'|^2 + 1/2 W[y, y']

where W[y, y'] is the distance of the classes y and y' as clouds of features:

- `exact`: their Sinkhorn divergence at the same eps with the cost |x - x'|^2 (not halved);
- `gaussian`: the squared 2-Wasserstein distance of the Gaussians fitted to them (covariance with n - 1).

A Sinkhorn divergence is OT(a, b) - OT(a, a) / 2 - OT(b, b) / 2, so d(X, X) = 0. Differs from the release `microsoft/otdd`: both levels are
solved to convergence unless `solver` is `annealed`, and label distances pass their true gradient unless `label_gradient` says otherwise.

References:
    Alvarez-Melis & Fusi 2020, Geometric dataset distances via optimal transport (eq. 4; Gaussian label distances, section 4).
    Feydy et al. 2019, Interpolating between optimal transport and MMD using Sinkhorn divergences (debiasing).
    Peyré & Cuturi 2019, Computational optimal transport, remark 2.31 (Gaussians).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from orca_core.distances.annealed import annealed_divergence, diameter_of
from orca_core.distances.sinkhorn import self_transport_cost, squared_distances, transport_cost, with_gradient
from orca_core.errors import NotFiniteError

INNER_DISTANCES = ("exact", "gaussian")
LABEL_GRADIENTS = ("true", "none", "reference")
SOLVERS = ("converged", "annealed")


def otdd(
    source_x: Tensor,
    source_y: Tensor,
    target_x: Tensor,
    target_y: Tensor | None = None,
    *,
    inner: str = "exact",
    entropic_reg: float = 0.1,
    label_gradient: str = "true",
    solver: str = "converged",
) -> Tensor:
    """Distance of two labelled clouds: `OtddSource(...).distance(...)`, where arguments and errors are documented.

    Example:
        Two points 5 apart: half of 25 from the features, half of 25 from the labels.

        >>> otdd(torch.tensor([[0.0, 0.0]]), torch.tensor([7]), torch.tensor([[3.0, 4.0]]))
        tensor(25.)
    """
    source = OtddSource(source_x, source_y, inner=inner, entropic_reg=entropic_reg, solver=solver)
    return source.distance(target_x, target_y, label_gradient=label_gradient)


class OtddSource:
    """The source side of OTDD, with everything that depends on the source alone computed once.

    Labels with a single sample are dropped with that sample, on either side, as the release does; where that would leave nothing, all are
    kept. Labels are names only: gaps are fine, and source and target need not share any.

    Args:
        source_x: (n, d) features, float32 or float64, n >= 1; no gradient is followed into them.
        source_y: (n,) integer labels.
        inner: Distance of classes, one of `INNER_DISTANCES`.
        entropic_reg: Epsilon of both levels, > 0, in squared feature units.
        solver: One of `SOLVERS`: `converged`, in float64; `annealed`, as the release does it, in the dtype of the features. Where annealing
            starts depends on the target too, so of the source alone only costs and label distances are kept.

    Raises:
        ValueError: On a wrong shape, dtype, `inner`, `entropic_reg` or `solver`.
        NotFiniteError: If a feature is NaN or infinite.
    """

    def __init__(
        self, source_x: Tensor, source_y: Tensor, inner: str = "exact", entropic_reg: float = 0.1, solver: str = "converged"
    ) -> None:
        _check_choice("inner", inner, INNER_DISTANCES)
        _check_choice("solver", solver, SOLVERS)
        if not 0 < entropic_reg < math.inf:
            raise ValueError(f"entropic_reg: must be a finite number greater than 0, but got {entropic_reg!r}.")
        _check_cloud("source", source_x, source_y)
        self._dtype, self._device, self._num_features = source_x.dtype, source_x.device, source_x.shape[1]
        self._epsilon = entropic_reg
        self._inner, self._annealed = inner, solver == "annealed"
        with torch.no_grad():
            self._cloud = _sort_by_class(source_x, source_y, self._working_dtype)
            self._norms = self._cloud.x.square().sum(1)
            self._classes = self._describe(self._cloud)
            self._gaussians = None if self._annealed else _gaussians_of(self._classes)
            costs = _cost(self._cloud, self._cloud, _distances_within(self._classes, self._cloud))
            # The transport cost, or what it is made of where it depends on the target as well.
            self._self_cost = costs if self._annealed else self_transport_cost(costs, self._epsilon)

    def distance(self, target_x: Tensor, target_y: Tensor | None = None, *, label_gradient: str = "true") -> Tensor:
        """Distance of the source to a target cloud, differentiable in `target_x`.

        Args:
            target_x: (m, d) features, m >= 1; dtype and device of the source.
            target_y: (m,) integer labels; None is one class.
            label_gradient: What passes through the label distances W: `true`, their gradient; `none`, nothing; `reference`, what the
                release passes: nothing for `exact`, twice the gradient for `gaussian`.

        Returns:
            Scalar in squared feature units, in the dtype of `target_x`; >= 0 up to rounding where the cost is a negative definite kernel.

        Raises:
            ValueError: On a wrong shape, dtype, device or `label_gradient`.
            NotFiniteError: If a feature is NaN or infinite.
        """
        return self.distance_and_labels(target_x, target_y, label_gradient=label_gradient)[0]

    def distance_and_labels(
        self, target_x: Tensor, target_y: Tensor | None = None, *, label_gradient: str = "true"
    ) -> tuple[Tensor, Tensor]:
        """`distance`, and the label distances it was made with: those of `label_distances`, without a gradient."""
        _check_choice("label_gradient", label_gradient, LABEL_GRADIENTS)
        target = self._target_cloud(target_x, target_y)
        squared = squared_distances(self._cloud.x, target.x, self._norms)
        weight = {"true": 1.0, "none": 0.0, "reference": 2.0 if self._inner == "gaussian" else 0.0}[label_gradient]
        with torch.set_grad_enabled(torch.is_grad_enabled() and weight > 0):
            classes = self._describe(target)
            across = _scale_gradient(self._across(classes, target, squared), weight)
            within = _scale_gradient(_distances_within(classes, target), weight)
        if self._annealed:
            distance = self._annealed_distance(target, across, within, squared)
        else:
            cross_cost = transport_cost(_cost(self._cloud, target, across, squared), self._epsilon)
            target_self_cost = self_transport_cost(_cost(target, target, within), self._epsilon)
            distance = cross_cost - (self._self_cost + target_self_cost) / 2
        return distance.to(self._dtype), across.detach().mT.to(self._dtype)

    def _annealed_distance(self, target: _Cloud, across: Tensor, within: Tensor, squared: Tensor) -> Tensor:
        # As `annealed_divergence` has it, features pass their gradient once, from the side of the target, and label distances twice.
        across, within = _scale_gradient(across, 0.5), _scale_gradient(within, 0.5)
        fixed = target._replace(x=target.x.detach())
        return annealed_divergence(
            _cost(self._cloud, fixed, across, squared.detach()),
            _cost(target, self._cloud, across.mT, squared.mT),
            self._self_cost,
            _cost(target, fixed, within),
            diameter=diameter_of(self._cloud.with_labels(0), fixed.with_labels(len(self._classes))),
            epsilon=self._epsilon,
        )

    def label_distances(self, target_x: Tensor, target_y: Tensor | None = None) -> Tensor:
        """Distances W of target classes to source classes.

        Args:
            target_x, target_y: As in `distance`.

        Returns:
            (C_target, C_source) in squared feature units, rows and columns in ascending order of the labels that were kept.

        Raises:
            ValueError, NotFiniteError: As in `distance`.
        """
        target = self._target_cloud(target_x, target_y)
        squared = squared_distances(self._cloud.x, target.x, self._norms)
        return self._across(self._describe(target), target, squared).mT.to(self._dtype)

    def _across(self, classes: Sequence[_Class], target: _Cloud, squared: Tensor) -> Tensor:
        """(C_source, C_target) label distances; the classes' clouds are as far apart as their blocks of `squared` say."""
        if self._gaussians is not None:
            return torch.stack([self._gaussians.distances_to(one) for one in classes if isinstance(one, _GaussianClass)], 1)
        rows = squared.split(self._cloud.class_sizes)
        return _distances_between(self._classes, classes, [row.split(target.class_sizes, 1) for row in rows])

    def _target_cloud(self, target_x: Tensor, target_y: Tensor | None) -> _Cloud:
        if target_y is None:
            target_y = target_x.new_zeros(target_x.shape[:1], dtype=torch.long)
        _check_cloud("target", target_x, target_y)
        for name, value, expected in [
            ("number of features", target_x.shape[1], self._num_features),
            ("dtype", target_x.dtype, self._dtype),
            ("device", target_x.device, self._device),
        ]:
            if value != expected:
                raise ValueError(f"target_x: {name} must be that of source_x, {expected}, but got {value}.")
        return _sort_by_class(target_x, target_y, self._working_dtype)

    @property
    def _working_dtype(self) -> torch.dtype:
        return self._dtype if self._annealed else torch.float64

    def _describe(self, cloud: _Cloud) -> Sequence[_Class]:
        clouds = cloud.x.split(cloud.class_sizes)
        if self._inner == "exact":
            return [(_AnnealedClass if self._annealed else _ExactClass)(x, self._epsilon) for x in clouds]
        return [_GaussianClass(x) for x in clouds]


class _Cloud(NamedTuple):
    """Features in the dtype of the solver, sorted by class."""

    x: Tensor  # (n, d)
    membership: Tensor  # (n, C), 1 where the sample is of the class, else 0
    class_sizes: list[int]

    def with_labels(self, first: int) -> Tensor:
        """(n, d + 1) features, and as the last one the number of the class, counted from `first`."""
        numbers = self.membership.argmax(1, keepdim=True) + first
        return torch.cat([self.x, numbers.to(self.x)], 1)


class _Class(ABC):
    """What is needed of one class to tell its distance to another of the same kind."""

    @abstractmethod
    def distance_to(self, other: _Class, squared: Tensor) -> Tensor:
        """Scalar distance between the two classes, in squared feature units; `squared` are the (n, n') distances of their samples."""


class _ExactClass(_Class):
    """A class as the cloud of its samples, (n, d)."""

    def __init__(self, x: Tensor, epsilon: float) -> None:
        self.epsilon = epsilon
        self.self_cost = self_transport_cost(squared_distances(x, x), epsilon)

    def distance_to(self, other: _Class, squared: Tensor) -> Tensor:
        assert isinstance(other, _ExactClass)
        cross_cost = transport_cost(squared, self.epsilon)
        return cross_cost - (self.self_cost + other.self_cost) / 2


class _AnnealedClass(_Class):
    """A class as the cloud of its samples, (n, d), for the annealed solver: annealing starts at the diameter of both classes."""

    def __init__(self, x: Tensor, epsilon: float) -> None:
        self.x = x
        self.epsilon = epsilon

    def distance_to(self, other: _Class, squared: Tensor) -> Tensor:
        assert isinstance(other, _AnnealedClass)
        x, y = self.x, other.x
        # Not `squared`: its gradient is that of both sides in one.
        pairs = [(x, y), (y, x), (x, x), (y, y)]
        costs = (squared_distances(first, second.detach()) for first, second in pairs)
        return annealed_divergence(*costs, diameter=diameter_of(x, y), epsilon=self.epsilon)


class _GaussianClass(_Class):
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
            vectors, values, _ = torch.linalg.svd(self.factor, full_matrices=False)
            self.factor = vectors * values

    def distance_to(self, other: _Class, squared: Tensor) -> Tensor:
        assert isinstance(other, _GaussianClass)
        cross_term = _nuclear_norm(self.factor.mT @ other.factor)
        return (self.mean - other.mean).square().sum() + self.trace + other.trace - 2 * cross_term


class _Gaussians:
    """The classes of a prepared source, in float64: their distances to a class of the target are computed at once."""

    def __init__(self, classes: Sequence[_GaussianClass]) -> None:
        self.classes = classes
        self.means = torch.stack([one.mean for one in classes])
        self.traces = torch.stack([one.trace for one in classes])
        self.covariances = torch.stack([one.factor @ one.factor.mT for one in classes])

    def distances_to(self, other: _GaussianClass) -> Tensor:
        """(C,) distances, as `_GaussianClass.distance_to` has them."""
        return (self.means - other.mean).square().sum(1) + self.traces + other.trace - 2 * self._cross_terms(other)

    def _cross_terms(self, other: _GaussianClass) -> Tensor:
        """(C,) cross terms: singular values of F1^T F2 are the roots of the eigenvalues of G = F2^T S1 F2, a third of the work.

        The gradient in F2 is S1 F2 G^(-1/2). Taking roots halves the digits of small eigenvalues: where one that should not vanish is
        small, and where F2 is wider than F1, singular values are computed after all.
        """
        samples = other.factor.shape[1]
        ranks = [min(one.rank, other.rank) for one in self.classes]
        accurate = [False] * len(ranks)
        if samples <= max(one.rank for one in self.classes):
            images = self.covariances @ other.factor.detach()
            values, vectors = torch.linalg.eigh(other.factor.detach().mT @ images)
            roots = torch.zeros_like(values)
            for root, value, rank in zip(roots, values, ranks, strict=True):
                root[samples - rank :] = value[samples - rank :].clamp(min=0).sqrt()
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


def _gaussians_of(classes: Sequence[_Class]) -> _Gaussians | None:
    gaussians = [one for one in classes if isinstance(one, _GaussianClass)]
    return _Gaussians(gaussians) if gaussians else None


def _nuclear_norm(matrix: Tensor) -> Tensor:
    """Sum of singular values, with the gradient U V^T of the non-zero ones: that of torch is not finite where they repeat or vanish."""
    left, values, right = torch.linalg.svd(matrix.detach(), full_matrices=False)
    kept = values > values.max() * max(matrix.shape) * torch.finfo(values.dtype).eps
    return with_gradient(values.sum(), (left * kept) @ right, matrix)


def _distances_between(first: Sequence[_Class], second: Sequence[_Class], squared: Sequence[Sequence[Tensor]]) -> Tensor:
    """(C1, C2) label distances, from the squared distances of the samples in blocks."""
    return torch.stack(
        [
            torch.stack([one.distance_to(other, block) for other, block in zip(second, row, strict=True)])
            for one, row in zip(first, squared, strict=True)
        ]
    )


def _distances_within(classes: Sequence[_Class], cloud: _Cloud) -> Tensor:
    """(C, C) label distances of the classes of `cloud`, symmetric, zero diagonal."""
    zero = cloud.x.new_zeros(())
    clouds = cloud.x.split(cloud.class_sizes)

    def between(i: int, j: int) -> Tensor:
        return classes[i].distance_to(classes[j], squared_distances(clouds[i], clouds[j])) if j > i else zero

    upper = [[between(i, j) for j in range(len(classes))] for i in range(len(classes))]
    distances = torch.stack([torch.stack(row) for row in upper])
    return distances + distances.mT


def _scale_gradient(tensor: Tensor, weight: float) -> Tensor:
    """`tensor` as it is, its gradient times `weight`."""
    return tensor if weight == 1 else tensor.detach() + weight * (tensor - tensor.detach())


def _cost(first: _Cloud, second: _Cloud, label_distances: Tensor, squared: Tensor | None = None) -> Tensor:
    """(n1, n2) outer cost, half the squared distance of the features and half that of the labels, (C1, C2)."""
    # A product with 0s and 1s, rather than indexing: its backward is deterministic on every device.
    features = squared_distances(first.x, second.x) if squared is None else squared
    return torch.addmm(features, first.membership @ label_distances, second.membership.mT, beta=0.5, alpha=0.5)


def _sort_by_class(x: Tensor, y: Tensor, dtype: torch.dtype) -> _Cloud:
    _, index, sizes = y.unique(return_inverse=True, return_counts=True)
    repeated = sizes[index] > 1
    if repeated.any():
        x, y = x[repeated], y[repeated]
        _, index, sizes = y.unique(return_inverse=True, return_counts=True)
    order = index.argsort(stable=True)
    membership = torch.nn.functional.one_hot(index[order], len(sizes)).to(dtype)
    return _Cloud(x[order].to(dtype), membership, sizes.tolist())


def _check_choice(name: str, value: str, choices: Sequence[str]) -> None:
    if value not in choices:
        raise ValueError(f"{name}: must be one of {', '.join(choices)}, but got {value!r}.")


def _check_cloud(side: str, x: Tensor, y: Tensor) -> None:
    if x.ndim != 2 or 0 in x.shape:
        raise ValueError(f"{side}_x: must have shape (samples, features), neither of them 0, but got {tuple(x.shape)}.")
    if x.dtype not in (torch.float32, torch.float64):
        raise ValueError(f"{side}_x: must be float32 or float64, but got {x.dtype}.")
    if y.shape != x.shape[:1]:
        raise ValueError(f"{side}_y: must have one label per sample, shape ({len(x)},), but got {tuple(y.shape)}.")
    if y.is_floating_point() or y.is_complex():
        raise ValueError(f"{side}_y: must hold integer labels, but got {y.dtype}.")
    if y.device != x.device:
        raise ValueError(f"{side}_y: must be on the device of {side}_x, {x.device}, but got {y.device}.")
    if not torch.isfinite(x).all():
        raise NotFiniteError(f"{side}_x: every feature must be finite, but {int((~torch.isfinite(x)).sum())} of {x.numel()} are not.")
