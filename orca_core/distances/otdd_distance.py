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
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from orca_core.distances.annealed import annealed_divergence, diameter_of
from orca_core.distances.label_distances import (
    AnnealedLabels,
    Cloud,
    ExactLabels,
    GaussianLabels,
    LabelDistance,
    Pairs,
    scale_gradient,
)
from orca_core.distances.one_class import OneClassDistances
from orca_core.distances.sinkhorn import (
    near_samples,
    reach,
    self_transport_cost,
    self_transport_of_blocks,
    squared_distances,
    squared_distances_above,
    transport_cost,
    with_isolated,
)
from orca_core.distances.spec import Distance
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
        self._labels: LabelDistance[Any] = _LABEL_DISTANCES[inner, solver](entropic_reg)
        self._solver = _SOLVERS[solver](entropic_reg)
        with torch.no_grad():
            self._cloud = Cloud.of(source_x, source_y, self._solver.dtype(self._dtype))
            self._norms = self._cloud.x.square().sum(1)
            self._classes = self._labels.describe(self._cloud)
            self._prepared = self._solver.prepare(self._cloud, partial(self._labels.within, self._classes, self._cloud))
            self._one_class = None
            if solver == "converged":
                self._one_class = OneClassDistances(self._cloud, self._labels, self._classes, self._prepared, entropic_reg, self._dtype)

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
        if self._one_class is not None and len(target.class_sizes) == 1:
            return self.distances_and_labels([target_x], label_gradient=label_gradient)[0]
        squared = squared_distances(self._cloud.x, target.x, self._norms)
        weight = self._label_weight(label_gradient)
        with torch.set_grad_enabled(torch.is_grad_enabled() and weight > 0):
            classes = self._labels.describe(target)
            across = scale_gradient(self._labels.across(self._classes, classes, squared), weight)
            within = scale_gradient(self._labels.within(classes, target), weight)
        distance = self._solver.distance(self._cloud, target, across, within, squared, self._prepared)
        return distance.to(self._dtype), across.detach().mT.to(self._dtype)

    def distances_and_labels(self, classes: Sequence[Tensor], *, label_gradient: str = "true") -> list[tuple[Tensor, Tensor]]:
        """`distance_and_labels` of several targets of one class each, which takes less time for all of them together.

        Args:
            classes: (m, d) features of each, as `target_x` of `distance`.
            label_gradient: As there.
        """
        _check_choice("label_gradient", label_gradient, LABEL_GRADIENTS)
        if self._one_class is None:
            return [self.distance_and_labels(x, label_gradient=label_gradient) for x in classes]
        targets = [self._target_cloud(x, None).x for x in classes]
        found = self._one_class(targets, self._label_weight(label_gradient))
        return [(distance.to(self._dtype), across.unsqueeze(0).to(self._dtype)) for distance, across in found]

    def _label_weight(self, label_gradient: str) -> float:
        return {"true": 1.0, "none": 0.0, "reference": self._labels.reference_gradient}[label_gradient]

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
        return self._labels.across(self._classes, self._labels.describe(target), squared).mT.to(self._dtype)

    def _target_cloud(self, target_x: Tensor, target_y: Tensor | None) -> Cloud:
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
        return Cloud.of(target_x, target_y, self._solver.dtype(self._dtype))


def prepare_exact(source_x: Tensor, source_y: Tensor, options: Mapping[str, Any]) -> Distance:
    """OTDD with exact label distances as a distance of `align.objective`; reads `label_gradient`, `entropic_reg`, `solver`."""
    return _prepare("exact", source_x, source_y, options)


def prepare_gaussian(source_x: Tensor, source_y: Tensor, options: Mapping[str, Any]) -> Distance:
    """OTDD with Gaussian label distances as a distance of `align.objective`; reads `label_gradient`, `entropic_reg`, `solver`."""
    return _prepare("gaussian", source_x, source_y, options)


def _prepare(inner: str, source_x: Tensor, source_y: Tensor, options: Mapping[str, Any]) -> Distance:
    source = OtddSource(source_x, source_y, inner=inner, entropic_reg=options["entropic_reg"], solver=options["solver"])
    return _ToSource(source, options["label_gradient"])


class _ToSource:
    """OTDD to a source as a distance of `align.objective`, of one class or of several at once."""

    def __init__(self, source: OtddSource, label_gradient: str) -> None:
        self.source, self.label_gradient = source, label_gradient

    def __call__(self, features: Tensor, draws: torch.Generator, /) -> tuple[Tensor, Tensor]:
        return self.of_classes([features])[0]

    def of_classes(self, classes: Sequence[Tensor], /) -> list[tuple[Tensor, Tensor]]:
        return self.source.distances_and_labels(classes, label_gradient=self.label_gradient)


Within = Callable[[Pairs, Sequence[Tensor] | None], Tensor]


class _Solver(ABC):
    """How transport between clouds is solved, at `epsilon`.

    Args:
        epsilon: Entropic regularisation, in squared feature units.
    """

    def __init__(self, epsilon: float) -> None:
        self.epsilon = epsilon

    @abstractmethod
    def dtype(self, features: torch.dtype) -> torch.dtype:
        """What it computes in, for features of a dtype."""

    @abstractmethod
    def prepare(self, source: Cloud, within: Within) -> Tensor:
        """What depends on the source alone.

        Args:
            source: The cloud, n samples.
            within: From pairs of its classes, and squared distances of its samples where they are known, to the (C, C) label distances.
        """

    @abstractmethod
    def distance(self, source: Cloud, target: Cloud, across: Tensor, within: Tensor, squared: Tensor, prepared: Tensor) -> Tensor:
        """Scalar distance of two clouds.

        Args:
            source, target: The clouds, n and m samples.
            across: (C_source, C_target) label distances.
            within: (C_target, C_target) label distances.
            squared: (n, m) squared distances of the samples.
            prepared: What `prepare` returned for the source.
        """


class _Converged(_Solver):
    """To convergence, in float64; of the source its transport cost to itself is prepared."""

    def dtype(self, features: torch.dtype) -> torch.dtype:
        return torch.float64

    def prepare(self, source: Cloud, within: Within) -> Tensor:
        """Label distances are never negative: between classes whose samples are all too far apart to exchange mass they do not matter."""
        num_samples = len(source.x)
        near = near_samples(source.x, 2 * reach(self.epsilon, num_samples))
        if near.which is None or near.pairs is None:
            squared = squared_distances_above(source.classes)
            return self._self_cost(squared, within(None, squared))
        if not len(near.which):
            return with_isolated(source.x.new_zeros(()), 0, num_samples, self.epsilon)
        classes = source.membership.argmax(1)
        pairs = {(i, j) for i, j in classes[near.pairs].unique(dim=0).tolist() if i < j}
        sizes = source.membership[near.which].sum(0).long().tolist()
        squared = squared_distances_above(source.x[near.which].split(sizes))
        return with_isolated(self._self_cost(squared, within(pairs, None)), len(near.which), num_samples, self.epsilon)

    def _self_cost(self, squared: Sequence[Tensor], within: Tensor) -> Tensor:
        """Transport cost to itself of a cloud with these squared distances, from each class on, and (C, C) label distances."""
        sizes = torch.tensor([len(rows) for rows in squared], device=within.device)
        for k, rows in enumerate(squared):
            torch.add(within[k, k:].repeat_interleave(sizes[k:]) / 2, rows, alpha=0.5, out=rows)
        return self_transport_of_blocks(squared, self.epsilon)

    def distance(self, source: Cloud, target: Cloud, across: Tensor, within: Tensor, squared: Tensor, prepared: Tensor) -> Tensor:
        cross_cost = transport_cost(_cost(source, target, across, squared), self.epsilon)
        target_self_cost = self_transport_cost(_cost(target, target, within), self.epsilon)
        return cross_cost - (prepared + target_self_cost) / 2


class _Annealed(_Solver):
    """Annealed once, in the dtype of the features. Where annealing starts depends on the target too, so costs are all that is prepared."""

    def dtype(self, features: torch.dtype) -> torch.dtype:
        return features

    def prepare(self, source: Cloud, within: Within) -> Tensor:
        return _cost(source, source, within(None, None))

    def distance(self, source: Cloud, target: Cloud, across: Tensor, within: Tensor, squared: Tensor, prepared: Tensor) -> Tensor:
        # As `annealed_divergence` has it, features pass their gradient once, from the side of the target, and label distances twice.
        across, within = scale_gradient(across, 0.5), scale_gradient(within, 0.5)
        fixed = target._replace(x=target.x.detach())
        return annealed_divergence(
            _cost(source, fixed, across, squared.detach()),
            _cost(target, source, across.mT, squared.mT),
            prepared,
            _cost(target, fixed, within),
            diameter=diameter_of(source.with_labels(0), fixed.with_labels(len(source.class_sizes))),
            epsilon=self.epsilon,
        )


_SOLVERS: Mapping[str, type[_Solver]] = {"converged": _Converged, "annealed": _Annealed}

_LABEL_DISTANCES: Mapping[tuple[str, str], Callable[[float], LabelDistance[Any]]] = {
    ("exact", "converged"): ExactLabels,
    ("exact", "annealed"): AnnealedLabels,
    ("gaussian", "converged"): lambda epsilon: GaussianLabels(),
    ("gaussian", "annealed"): lambda epsilon: GaussianLabels(),
}
"""(inner, solver) -> from epsilon to the label distance."""


def _cost(first: Cloud, second: Cloud, label_distances: Tensor, squared: Tensor | None = None) -> Tensor:
    """(n1, n2) outer cost, half the squared distance of the features and half that of the labels, (C1, C2)."""
    # A product with 0s and 1s, rather than indexing: its backward is deterministic on every device.
    features = squared_distances(first.x, second.x) if squared is None else squared
    return torch.addmm(features, first.membership @ label_distances, second.membership.mT, beta=0.5, alpha=0.5)


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
