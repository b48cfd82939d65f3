"""OTDD of targets that are one class each, as alignment asks for them: many at once, with gradients in closed form.

With a single target class t, label distances add a constant to every row of the cost, W[k, t] / 2 to those of the source's class k.
That changes no plan, and the distance falls apart into

    OT_2eps(D) / 2 + 1/2 sum over k of n_k / n W[k, t] - (OT(source, source) + OT_2eps(D') / 2) / 2

where D are the squared distances between the samples of both sides, and D' those within the target. The label distances of `exact` are
transport costs of the rows of D of each class, at eps. So all plans are for the same matrix D, and the gradient in the target's samples
is one product of their weighted sum with the source's samples.

Shapes: n source samples in C classes, T targets of at most m samples, d features.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import accumulate
from typing import NamedTuple

import torch
from torch import Tensor

from orca_core.distances.label_distances import Cloud, ExactLabels, LabelDistance, nuclear_norms
from orca_core.distances.sinkhorn import self_transport_plans, squared_distances, transport_plans, with_gradient

_COSTS = 2**19
"""Number of costs that are worked on at once, or those of one target: more would not fit into a processor's cache."""

_ALIKE = 0.75
"""Clouds are padded to a common size if the smaller has at least this share of the larger one's samples."""


class _Targets(NamedTuple):
    """Targets padded to one size, less the mean of the source."""

    x: Tensor  # (T, m, d), 0 where padded
    sizes: list[int]
    columns: Tensor | None  # (T,) numbers of samples that are not padded; None for all of them
    means: Tensor  # (T, d)
    deviations: Tensor  # (T, m, d) from the means, 0 where padded

    @classmethod
    def of(cls, targets: Sequence[Tensor], origin: Tensor) -> _Targets:
        sizes = [len(x) for x in targets]
        most = max(sizes)
        x = torch.nn.utils.rnn.pad_sequence([x.detach() - origin for x in targets], batch_first=True)
        means = x.sum(1) / x.new_tensor(sizes).unsqueeze(1)
        deviations = x - means.unsqueeze(1)
        columns = None
        if min(sizes) < most:
            columns = torch.tensor(sizes, device=x.device)
            deviations.masked_fill_((torch.arange(most, device=x.device) >= columns.unsqueeze(1)).unsqueeze(2), 0)
        return cls(x, sizes, columns, means, deviations)


class _Block(NamedTuple):
    """Classes of the source of similar sizes, padded to one height: padded rows are copies of the class's last one."""

    classes: list[int]
    rows: Tensor  # (classes * height,) numbers of samples
    kept: Tensor | None  # (classes * height,) where they are not padded; None for all of them
    heights: Tensor  # (classes,) numbers of samples

    def of_rows(self, matrices: Tensor) -> Tensor:
        """(T, classes, height, m), of (T, n, m)."""
        some = matrices if self.all_in_order(matrices) else matrices.index_select(1, self.rows)
        return some.unflatten(1, (len(self.classes), -1))

    def add_to(self, matrices: Tensor, added: Tensor) -> None:
        """Adds (T, classes, height, m) to the rows of (T, n, m)."""
        added = added.flatten(1, 2)
        if self.all_in_order(matrices):
            matrices.add_(added)
        else:
            rows = self.rows if self.kept is None else self.rows[self.kept]
            matrices.index_add_(1, rows, added if self.kept is None else added[:, self.kept])

    def all_in_order(self, matrices: Tensor) -> bool:
        """Whether the block has all rows and none is padded."""
        return self.kept is None and len(self.rows) == matrices.shape[1]


class OneClassDistances:
    """Distances of a source to targets of one class.

    Args:
        source: Its samples, float64.
        labels: How classes are compared.
        described: What `labels` makes of the source's classes.
        self_cost: Transport cost of the source to itself.
        epsilon: Entropic regularisation.
        dtype: That of the features, in which gradients are computed.
    """

    def __init__(
        self, source: Cloud, labels: LabelDistance, described: Sequence, self_cost: Tensor, epsilon: float, dtype: torch.dtype
    ) -> None:
        self.self_cost, self.epsilon = self_cost, epsilon
        self.shares, self.classes = source.membership.mean(0), source.membership.argmax(1)
        self.sizes = source.class_sizes
        # Products with samples less their class's mean are rounded less than those with the samples.
        self.origin = source.x.mean(0)
        self.means = torch.stack([x.mean(0) for x in source.classes]) - self.origin
        self.deviations = source.x - self.origin
        of_means = []
        for x, mean in zip(self.deviations.split(self.sizes), self.means, strict=True):
            of_means.append(x.sub_(mean) @ mean)
        norms = torch.linalg.vector_norm(self.deviations, dim=1).square()
        self.of_rows = torch.cat(of_means).mul_(2).add_(norms)
        self.rounded = self.deviations.to(dtype)
        self.traces = torch.stack([of_class.sum() / max(len(of_class) - 1, 1) for of_class in norms.split(self.sizes)])
        self.blocks = self._blocks()
        self.labels = labels if isinstance(labels, ExactLabels) else None
        if self.labels is not None:
            self.class_costs = torch.stack([one.self_cost for one in described])

    def _blocks(self) -> list[_Block]:
        sizes, device, blocks = self.sizes, self.means.device, []
        starts = [0, *accumulate(sizes)]
        for group in alike(sizes, None):
            height = max(sizes[k] for k in group)
            rows = [min(starts[k] + i, starts[k + 1] - 1) for k in group for i in range(height)]
            kept = [i < sizes[k] for k in group for i in range(height)]
            heights = torch.tensor([sizes[k] for k in group], device=device)
            blocks.append(
                _Block(group, torch.tensor(rows, device=device), None if all(kept) else torch.tensor(kept, device=device), heights)
            )
        return blocks

    def __call__(self, targets: Sequence[Tensor], label_gradient: float) -> list[tuple[Tensor, Tensor]]:
        """Scalar distance and (C,) label distances of each target, the latter without a gradient.

        Args:
            targets: (m, d) samples, float64.
            label_gradient: Factor on the gradient that passes through the label distances.
        """
        found: list[tuple[Tensor, Tensor]] = [(self.self_cost, self.shares)] * len(targets)
        for group in alike([len(x) for x in targets], _COSTS // len(self.classes)):
            for number, result in zip(group, self._of_alike([targets[k] for k in group], label_gradient), strict=True):
                found[number] = result
        return found

    def _of_alike(self, targets: list[Tensor], label_gradient: float) -> list[tuple[Tensor, Tensor]]:
        padded = _Targets.of(targets, self.origin)
        products, squared = self._products(padded)
        value, plan = transport_plans(squared, 2 * self.epsilon, columns=padded.columns)
        norms = padded.deviations.square().sum(2)
        pairs = norms.unsqueeze(1) + norms.unsqueeze(2)
        within = pairs.baddbmm_(padded.deviations, padded.deviations.mT, alpha=-2).clamp_(min=0)
        own_value, own_plan = self_transport_plans(within, 2 * self.epsilon, padded.columns)
        if self.labels is None:
            across, shift = self._gaussian_labels(padded, products, plan, label_gradient)
        else:
            costs = self._label_transport(self.labels, squared, padded.columns, plan, label_gradient)
            own_label_value, own_label_plan = self_transport_plans(within, self.epsilon, padded.columns)
            across = costs - (self.class_costs + own_label_value.unsqueeze(1)) / 2
            own_plan = own_plan.add_(own_label_plan, alpha=label_gradient)
            shift = None
        values = value / 2 + across @ self.shares / 2 - self.self_cost / 2 - own_value / 4
        if not (torch.is_grad_enabled() and any(x.requires_grad for x in targets)):
            return list(zip(values.unbind(), across.unbind(), strict=True))
        gradients = self._gradients(padded, plan, own_plan)
        if shift is not None:
            gradients.add_(shift, alpha=label_gradient)
        sizes = padded.sizes
        return [(with_gradient(values[k], gradients[k, : sizes[k]], x), across[k]) for k, x in enumerate(targets)]

    def _products(self, targets: _Targets) -> tuple[Tensor, Tensor]:
        """(T, n, m) products of the source's deviations from its classes' means with the targets, and squared distances of the samples.

        The latter are infinite where padded: |u + c - y|^2 = |u|^2 + 2 <u, c> + |c - y|^2 - 2 <u, y>, with samples c + u of a class.
        """
        count, most, width = targets.x.shape
        flat = targets.x.view(-1, width)
        # One product for all targets, and from their side: several with few rows, or one with few columns, take twice as long.
        products = (flat @ self.deviations.mT).view(count, most, -1).mT
        to_means = squared_distances(self.means, flat).view(-1, count, most).transpose(0, 1)
        if targets.columns is not None:
            padded = torch.arange(most, device=flat.device) >= targets.columns.unsqueeze(1)
            to_means = to_means.masked_fill(padded.unsqueeze(1), math.inf)
        squared = to_means.index_select(1, self.classes).add_(self.of_rows.unsqueeze(1))
        return products, squared.sub_(products, alpha=2).clamp_(min=0)

    def _label_transport(self, labels: ExactLabels, squared: Tensor, columns: Tensor | None, plan: Tensor, label_gradient: float) -> Tensor:
        """(T, C) transport costs of the source's classes; adds their plans, weighted by the classes' shares, to `plan` (T, n, m)."""
        count = len(squared)
        costs = squared.new_empty(count, len(self.sizes))
        for block in self.blocks:
            problems = block.of_rows(squared)
            heights = None if block.kept is None else block.heights.repeat(count)
            widths = None if columns is None else columns.repeat_interleave(len(block.classes))
            value, of_classes = transport_plans(problems.flatten(0, 1), labels.epsilon, heights, widths)
            costs[:, block.classes] = value.view(count, -1)
            if label_gradient:
                weights = self.shares[block.classes] * label_gradient
                block.add_to(plan, of_classes.reshape(problems.shape).mul_(weights[:, None, None]))
        return costs

    def _gaussian_labels(self, targets: _Targets, products: Tensor, plan: Tensor, label_gradient: float) -> tuple[Tensor, Tensor]:
        """(T, C) distances of the classes' Gaussians to the targets', and (T, m, d) what half their mean passes to the targets.

        With deviations U of a class and V of a target, the cross term of the Bures distance is the sum of the singular values of U V^T /
        sqrt((n - 1) (m - 1)). Its gradient is one more plan, of products with U, and goes to `plan`.
        """
        width = targets.x.shape[2]
        degrees = self.traces.new_tensor([max(size - 1, 1) for size in targets.sizes])
        own_traces = targets.deviations.square().sum((1, 2)) / degrees
        across = squared_distances(targets.means, self.means) + self.traces + own_traces.unsqueeze(1)
        for k, size in enumerate(targets.sizes):
            some = products[k, :, :size]
            some = (some - some.mean(1, keepdim=True)).contiguous().unsqueeze(0)
            for block in self.blocks:
                matrices = block.of_rows(some).squeeze(0)
                if block.kept is not None:
                    matrices = matrices * block.kept.view(len(block.classes), -1, 1)
                ranks = (block.heights - 1).clamp(max=min(size - 1, width))
                scales = (block.heights - 1).clamp(min=1).to(degrees).mul_(degrees[k]).rsqrt_()
                sums, gradients = nuclear_norms(matrices * scales[:, None, None], ranks)
                across[k, block.classes] -= 2 * sums
                if label_gradient:
                    weights = self.shares[block.classes] * label_gradient * scales
                    block.add_to(plan[k : k + 1, :, :size], gradients.mul(weights[:, None, None]).unsqueeze(0))
        counts = degrees.new_tensor(targets.sizes)
        return across, targets.deviations / degrees[:, None, None] + (targets.means / counts.unsqueeze(1)).unsqueeze(1)

    def _gradients(self, targets: _Targets, plan: Tensor, own_plan: Tensor) -> Tensor:
        """(T, m, d) gradients in the targets' samples.

        Args:
            targets: The samples.
            plan: (T, n, m) coefficients of half the squared distances to the source.
            own_plan: (T, m, m) coefficients of minus a quarter of those within a target, each of them there and back.
        """
        of_classes = torch.stack([rows.sum(1) for rows in plan.split(self.sizes, dim=1)], 1)
        own = (own_plan + own_plan.mT) / 2
        mass = of_classes.sum(1) - own.sum(1)
        to_samples = torch.bmm(plan.to(self.rounded.dtype).mT, self.rounded.expand(len(plan), -1, -1))
        gradients = targets.x * mass.unsqueeze(2) + own @ targets.x - of_classes.mT @ self.means
        return gradients.sub_(to_samples)


def alike(sizes: Sequence[int], total: int | None) -> list[list[int]]:
    """Numbers of clouds in groups of similar sizes, of at most `total` samples, padded ones included, or of one cloud.

    >>> alike([10, 3, 9, 8, 4], None), alike([10, 3, 9, 8, 4], 20)
    ([[0, 2, 3], [4, 1]], [[0, 2], [3], [4, 1]])
    """
    groups: list[list[int]] = []
    for number in sorted(range(len(sizes)), key=lambda k: -sizes[k]):
        most = sizes[groups[-1][0]] if groups else 0
        if groups and sizes[number] >= _ALIKE * most and (total is None or most * (len(groups[-1]) + 1) <= total):
            groups[-1].append(number)
        else:
            groups.append([number])
    return groups
