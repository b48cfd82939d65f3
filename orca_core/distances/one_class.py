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

from collections.abc import Sequence
from itertools import accumulate

import torch
from torch import Tensor

from orca_core.distances.label_distances import Cloud, ExactLabels, LabelDistance, scale_gradient
from orca_core.distances.sinkhorn import self_transport_cost, squared_distances, transport_plans, with_gradient

_COSTS = 2**19
"""Number of costs that are worked on at once, or those of one target: more would not fit into a processor's cache."""

_ALIKE = 0.75
"""Clouds are padded to a common size if the smaller has at least this share of the larger one's samples."""


class OneClassDistances:
    """Distances of a source to targets of one class.

    Args:
        source: Its samples, float64.
        norms: (n,) their squared norms.
        labels: How classes are compared.
        described: What `labels` makes of the source's classes.
        self_cost: Transport cost of the source to itself.
        epsilon: Entropic regularisation.
    """

    def __init__(self, source: Cloud, norms: Tensor, labels: LabelDistance, described: Sequence, self_cost: Tensor, epsilon: float) -> None:
        self.source, self.norms, self.self_cost, self.epsilon = source, norms, self_cost, epsilon
        self.labels, self.described = labels, described
        self.shares = source.membership.mean(0)

    def __call__(self, targets: Sequence[Tensor], label_gradient: float) -> list[tuple[Tensor, Tensor]]:
        """Scalar distance and (C,) label distances of each target, the latter without a gradient.

        Args:
            targets: (m, d) samples, float64.
            label_gradient: Factor on the gradient that passes through the label distances.
        """
        found: list[tuple[Tensor, Tensor]] = [(self.norms, self.norms)] * len(targets)
        for group in alike([len(x) for x in targets], _COSTS // len(self.source.x)):
            for number, result in zip(group, self._of_alike([targets[k] for k in group], label_gradient), strict=True):
                found[number] = result
        return found

    def _of_alike(self, targets: list[Tensor], label_gradient: float) -> list[tuple[Tensor, Tensor]]:
        sizes = [len(x) for x in targets]
        squared, columns = self._squared_distances(targets, max(sizes))
        value, plan = transport_plans(squared, 2 * self.epsilon, columns=columns)
        fixed = value / 2
        exact = self.labels if isinstance(self.labels, ExactLabels) else None
        if exact is not None:
            costs, label_plan = self._label_transport(exact, squared, columns)
            from_source = costs - torch.stack([one.self_cost for one in self.described]) / 2
            fixed = fixed + from_source @ self.shares / 2
            if label_gradient:
                plan = plan.add(label_plan, alpha=label_gradient)
        results = []
        for k, (x, size) in enumerate(zip(targets, sizes, strict=True)):
            within = squared_distances(x, x)
            distance = with_gradient(fixed[k], self._gradient(plan[k, :, :size], x), x) - self.self_cost / 2
            distance = distance - self_transport_cost(within, 2 * self.epsilon) / 4
            if exact is not None:
                self_cost = self_transport_cost(within, self.epsilon)
                distance = distance - scale_gradient(self_cost, label_gradient) / 4
                across = from_source[k] - self_cost.detach() / 2
            else:
                across = self.labels.across(self.described, self.labels.describe(Cloud.of_one_class(x)), squared[k]).squeeze(1)
                distance = distance + scale_gradient(across, label_gradient) @ self.shares / 2
            results.append((distance, across.detach()))
        return results

    def _squared_distances(self, targets: list[Tensor], most: int) -> tuple[Tensor, Tensor | None]:
        """(T, n, m) squared distances, infinite where padded, and the (T,) numbers of columns that are not."""
        source = self.source.x
        with torch.no_grad():
            if all(len(x) == most for x in targets):
                together = squared_distances(source, torch.cat(targets), self.norms)
                return together.view(len(source), len(targets), most).transpose(0, 1).contiguous(), None
            squared = source.new_full((len(targets), len(source), most), torch.inf)
            for part, x in zip(squared, targets, strict=True):
                part[:, : len(x)] = squared_distances(source, x.detach(), self.norms)
        return squared, torch.tensor([len(x) for x in targets], device=source.device)

    def _label_transport(self, labels: ExactLabels, squared: Tensor, columns: Tensor | None) -> tuple[Tensor, Tensor]:
        """(T, C) transport costs of the source's classes, and (T, n, m) their plans, weighted by the classes' shares."""
        sizes, (num_targets, _, most) = self.source.class_sizes, squared.shape
        starts = [0, *accumulate(sizes)]
        costs, plans = squared.new_empty(num_targets, len(sizes)), torch.empty_like(squared)
        for group in alike(sizes, None):
            tallest = max(sizes[k] for k in group)
            # Padded rows are copies of the class's last one.
            rows = torch.tensor([min(starts[k] + i, starts[k + 1] - 1) for k in group for i in range(tallest)], device=squared.device)
            kept = torch.tensor([i < sizes[k] for k in group for i in range(tallest)], device=squared.device)
            problems = squared.index_select(1, rows).view(-1, tallest, most)
            heights = None if bool(kept.all()) else torch.tensor([sizes[k] for k in group], device=squared.device).repeat(num_targets)
            widths = None if columns is None else columns.repeat_interleave(len(group))
            value, plan = transport_plans(problems, labels.epsilon, heights, widths)
            costs[:, group] = value.view(num_targets, -1)
            weighted = plan.reshape(num_targets, len(group), tallest, most) * self.shares[group][:, None, None]
            plans[:, rows[kept]] = weighted.reshape(num_targets, -1, most)[:, kept]
        return costs, plans

    def _gradient(self, plan: Tensor, x: Tensor) -> Tensor:
        """(m, d) gradient of the sum of the plan (n, m) times half the squared distances, in the samples `x`."""
        if not (x.requires_grad and torch.is_grad_enabled()):
            return x
        return x.detach() * plan.sum(0).unsqueeze(1) - plan.mT @ self.source.x


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
