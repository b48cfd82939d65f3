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

import torch
from torch import Tensor

_BLOCK = 2**17
"""Number of costs that are worked on at once: they stay in a processor's cache."""


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
        first_self_cost, second_self_cost: (n, n) and (m, m).
        diameter: Where annealing starts, in units of the square root of the cost; see `diameter_of`.
        epsilon: Where it ends, > 0, in cost units.

    Returns:
        Scalar in cost units.
    """
    costs = (cost, cost_back, first_self_cost, second_self_cost)
    starts_from = (1, 0, 2, 3)  # the potential that the update of each one reads
    schedule = annealing_schedule(diameter, epsilon)
    with torch.no_grad():
        potentials = [_soft_minimum(c, c.new_zeros(c.shape[1]), schedule[0]) for c in costs]
        for level in schedule:
            updates = [_soft_minimum(c, potentials[k], level) for c, k in zip(costs, starts_from, strict=True)]
            potentials = [(old + new) / 2 for old, new in zip(potentials, updates, strict=True)]
    there, back, first, second = (_soft_minimum(c, potentials[k], epsilon) for c, k in zip(costs, starts_from, strict=True))
    return (there - first).mean() + (back - second).mean()


def _soft_minimum(cost: Tensor, potential: Tensor, epsilon: float) -> Tensor:
    """(n,) -eps log mean_j exp((g_j - C_ij) / eps)."""
    weights = potential / epsilon - math.log(cost.shape[1])
    if torch.is_grad_enabled() and cost.requires_grad:
        return -epsilon * (weights - cost / epsilon).logsumexp(1)
    blocks = cost.split(max(1, _BLOCK // cost.shape[1]))
    return -epsilon * torch.cat([_log_sums(weights, block, epsilon) for block in blocks])


def _log_sums(weights: Tensor, cost: Tensor, epsilon: float) -> Tensor:
    """(n,) log of the row sums of exp(w_j - C_ij / eps), as `logsumexp` has them to the last bit, in an eighth of its time."""
    exponent = cost / epsilon
    torch.sub(weights, exponent, out=exponent)
    top = exponent.amax(1, keepdim=True)
    # Smaller terms do not change a sum of at least 1 in either dtype; but exponentials that underflow are many times slower.
    return exponent.sub_(top).clamp_(min=-80).exp_().sum(1).log_().add_(top.squeeze(1))
