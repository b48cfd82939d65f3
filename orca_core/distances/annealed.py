"""The Sinkhorn divergence as ORCA's code has it: annealed once, not iterated to convergence.

geomloss 0.2.6 (`sinkhorn_divergence`, tensorised, p = 2, scaling 0.5), which the release of ORCA calls at both levels of OTDD: epsilon
falls from the squared diameter of the two clouds by a factor of 4 a step down to its end. Every step is one averaged update of all
potentials; one more update at the end, not averaged, is the value, and what gradients pass through (envelope theorem: the potentials it
starts from count as constants). The value is 0.3 to 1.5 % off the converged one where costs are large against epsilon.

What is computed, is computed in the dtype of the costs, as the release does in float32.

Reference:
    Feydy et al. 2019, Interpolating between optimal transport and MMD using Sinkhorn divergences (averaged update, section 3).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

_BLOCK = 2**17
"""Number of costs that are worked on at once: they stay in a processor's cache."""

_SMALLEST = {torch.float32: -60.0, torch.float64: -200.0}
"""Logarithm of the least term beside that of the diagonal: products of smaller ones would be denormal numbers, many times slower."""


def annealing_schedule(diameter: float, epsilon: float) -> list[float]:
    """The values of epsilon, one a step: the squared diameter twice, then a quarter of the one before while above the end, then the end.

    >>> annealing_schedule(2.0, 0.2)
    [4.0, 4.0, 1.0, 0.25, 0.2]
    """
    end, start = math.log(epsilon), 2 * math.log(max(diameter, 1e-30))
    steps = math.ceil((start - end) / math.log(4))
    return [math.exp(start), *(math.exp(start) / 4**step for step in range(steps)), epsilon]


def diameter_of(*clouds: Tensor) -> float:
    """Diagonal of the box round the rows of all clouds, (n, d) each."""
    points = torch.cat([cloud.detach() for cloud in clouds])
    return (points.amax(0) - points.amin(0)).norm().item()


def annealed_divergence(
    cost: Tensor, cost_back: Tensor, first_self_cost: Tensor, second_self_cost: Tensor, *, diameter: float, epsilon: float
) -> Tensor:
    """Debiased Sinkhorn divergence of two uniform clouds.

    The release takes every cost from the rows of one cloud, with a gradient, to those of the other, without: so gradients in the points of
    the second cloud belong into `cost_back` and `second_self_cost`, once each. What depends on the points of both counts twice.

    Args:
        cost: (n, m) costs from the first cloud to the second.
        cost_back: (m, n), the same from the second to the first.
        first_self_cost, second_self_cost: (n, n) and (m, m), symmetric, >= 0 with a zero diagonal.
        diameter: Where annealing starts, in units of the square root of the cost; see `diameter_of`.
        epsilon: Where it ends, > 0, in cost units.

    Returns:
        Scalar in cost units.
    """
    costs = (part.unsqueeze(0) for part in (cost, cost_back, first_self_cost, second_self_cost))
    return annealed_divergences(*costs, schedules=[annealing_schedule(diameter, epsilon)]).squeeze(0)


def annealed_divergences(
    cost: Tensor, cost_back: Tensor, first_self_cost: Tensor, second_self_cost: Tensor, *, schedules: Sequence[Sequence[float]]
) -> Tensor:
    """`annealed_divergence` of several pairs of clouds of one size.

    Args:
        cost, cost_back, first_self_cost, second_self_cost: As there, with a first dimension of pairs.
        schedules: The values of epsilon of each pair, equally many for all.

    Returns:
        (pairs,) in cost units.
    """
    costs = (cost, cost_back, first_self_cost, second_self_cost)
    minima = (_soft_minimum, _soft_minimum, _symmetric_soft_minimum, _symmetric_soft_minimum)
    starts_from = (1, 0, 2, 3)  # the potential that the update of each one reads
    levels = cost.new_tensor(schedules).T[:, :, None]  # (steps, pairs, 1)

    def update(potentials: Sequence[Tensor], level: Tensor) -> list[Tensor]:
        return [minimum(c, potentials[k], level) for minimum, c, k in zip(minima, costs, starts_from, strict=True)]

    with torch.no_grad():
        zeros = [c.new_zeros(c.shape[::2]) for c in costs]
        potentials = update([zeros[k] for k in starts_from], levels[0])
        for level in levels:
            potentials = [(old + new) / 2 for old, new in zip(potentials, update(potentials, level), strict=True)]
    there, back, first, second = update(potentials, levels[-1])
    return (there - first).mean(1) + (back - second).mean(1)


def _soft_minimum(cost: Tensor, potential: Tensor, epsilon: Tensor) -> Tensor:
    """(pairs, n) -eps log mean_j exp((g_j - C_ij) / eps), of costs (pairs, n, m), potentials (pairs, m) and epsilons (pairs, 1)."""
    weights = (potential / epsilon - math.log(cost.shape[2])).unsqueeze(1)
    if torch.is_grad_enabled() and cost.requires_grad:
        return -epsilon * (weights - cost / epsilon.unsqueeze(2)).logsumexp(2)
    blocks = cost.split(max(1, _BLOCK // (len(cost) * cost.shape[2])), dim=1)
    return -epsilon * torch.cat([_log_sums(weights, block, epsilon.unsqueeze(2)) for block in blocks], 1)


def _log_sums(weights: Tensor, cost: Tensor, epsilon: Tensor) -> Tensor:
    """(pairs, n) log of the row sums of exp(w_j - C_ij / eps), as `logsumexp` has them to the last bit, in an eighth of its time."""
    exponent = cost / epsilon
    torch.sub(weights, exponent, out=exponent)
    top = exponent.amax(2, keepdim=True)
    # Smaller terms do not change a sum of at least 1 in either dtype; but exponentials that underflow are many times slower.
    return exponent.sub_(top).clamp_(min=-80).exp_().sum(2).log_().add_(top.squeeze(2))


def _symmetric_soft_minimum(cost: Tensor, potential: Tensor, epsilon: Tensor) -> Tensor:
    """The same for a cloud and itself: (pairs, n, n) symmetric costs >= 0 with a zero diagonal.

    Potentials within eps log(n) of 0 at one level are within 4 eps log(n) at the next: sums of e^(g / eps) exp(-C / eps) stay within the
    range of float32 without being scaled by their largest term, which is at least the diagonal's. Each exponential serves two rows.
    """
    if torch.is_grad_enabled() and cost.requires_grad:
        return _soft_minimum(cost, potential, epsilon)
    n = cost.shape[1]
    scales = (potential / epsilon).exp_().unsqueeze(2)
    sums, step = torch.zeros_like(scales), max(1, _BLOCK // (len(cost) * n))
    factor = (-1 / epsilon).unsqueeze(2)
    for start in range(0, n, step):
        end = min(start + step, n)
        kernel = (cost[:, start:end, start:] * factor).clamp_(min=_SMALLEST[cost.dtype]).exp_()
        sums[:, start:end] += kernel @ scales[:, start:]
        sums[:, end:] += kernel[:, :, end - start :].mT @ scales[:, start:end]
    return -epsilon * sums.squeeze(2).div_(n).log_()
