"""Entropic optimal transport between uniform clouds, solved to convergence and differentiable in the cost.

    OT(C) = min_P <P, C> + eps KL(P | a b^T),   P >= 0, P 1 = a, P^T 1 = b,   a = 1/n, b = 1/m

is what the Sinkhorn divergence is made of. The problem is solved without autograd; its gradient in the cost is the plan P itself
(envelope theorem), which `with_gradient` attaches to the value.

Two solvers, both ending in float64 whatever the inputs are: with costs of hundreds and eps = 0.1 the rounding of a float32 potential alone
moves plan entries by parts in a thousand.

- `transport_cost`: Newton ascent on the semi-dual, annealed in eps. Plain Sinkhorn needs a number of iterations that grows like
  max(C) / eps; a Newton step costs about two of them, and some twenty to forty of them reach the solution at max(C) / eps = 1e4.
  Newton's system is (n, n) or (m, m), whichever is smaller: time O(n m min(n, m)) a step. Nearly all steps are in float32, on costs from
  which the potentials were taken in float64 first; the last one or two are in float64, on the costs themselves.
- `self_transport_cost`: a cloud against itself, where the averaged Sinkhorn update about halves the error at every iteration.

Both stop when the plan's L1 marginal error is at most 1e-6, or at an iteration cap; the value's error is of second order in it. A problem
that ends with a larger error is counted (`count_unconverged`), and the first one of a process warns.
Nothing is kept between calls: a result is a pure function of its arguments. A cost that is not finite gives a value that is not.

References:
    Feydy et al. 2019, Interpolating between optimal transport and MMD using Sinkhorn divergences (divergence; averaged update, section 3).
    Cuturi & Peyré 2018, Semidual regularized optimal transport (semi-dual, its gradient and Hessian).
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

_TOLERANCE = 1e-6  # L1 error of the plan's marginals, of a total mass of 1
_ANNEALING_TOLERANCE = 1e-3  # the same at a level that only prepares the next; a coarser one costs more steps below than it saves
_FINAL_TOLERANCE = 1e-7  # the same of a transport's last level in float64: below what is promised, for the plan's single entries
_FINE_TOLERANCE = 1e-5  # the same at the last level before it is solved in float64, which mostly takes one step more
_FIRST_LEVEL = 32.0  # annealing starts at the spread of the costs over this
_ANNEALING_FACTOR = 4.0
_COARSE_SHARE = 2e-4  # of the spread of the costs: at levels below it costs are reduced anew before they are rounded to float32
_MAX_NEWTON_STEPS = 100  # per level; two are usual
_MAX_STEP = 3.0  # longest first step in any entry of g, in units of epsilon
_MIN_STEP = 1e-6  # shortest fraction of a Newton step that backtracking tries
_MAX_SELF_ITERATIONS = 1000  # some twenty are usual


@dataclass
class Unconverged:
    """How many transport problems ended with plans whose marginals are off by more than 1e-6."""

    count: int = 0


_counters: ContextVar[tuple[Unconverged, ...]] = ContextVar("counters", default=())
_warned = False


@contextmanager
def count_unconverged() -> Iterator[Unconverged]:
    """Counts the transport problems inside the `with` that did not converge; may be nested, and each level counts.

    >>> with count_unconverged() as unconverged:
    ...     cost = transport_cost(torch.ones(2, 3, dtype=torch.float64), 0.1)
    >>> unconverged.count
    0
    """
    counter = Unconverged()
    token = _counters.set((*_counters.get(), counter))
    try:
        yield counter
    finally:
        _counters.reset(token)


def _check_convergence(error: float, solver: str) -> None:
    """Counts a problem whose plan has an L1 marginal error above the tolerance. NaN is left to whoever reads the value."""
    global _warned
    if not error > _TOLERANCE:
        return
    for counter in _counters.get():
        counter.count += 1
    if not _warned:
        _warned = True
        reached = f"{solver} stopped at an error of {error:.1e} in the plan's marginals, above {_TOLERANCE:g}"
        remedy = "A larger epsilon converges faster. Further problems are counted without a warning."
        warnings.warn(f"{reached}. {remedy}", RuntimeWarning, stacklevel=4)


def squared_distances(x: Tensor, y: Tensor, x_norms: Tensor | None = None) -> Tensor:
    """(n, m) squared Euclidean distances of the rows of `x` (n, d) and `y` (m, d), in their dtype; never below 0.

    `x_norms` are the (n,) squared norms of `x` where they are known.
    """
    norms = (x.square().sum(1) if x_norms is None else x_norms).unsqueeze(1) + y.square().sum(1)
    return torch.addmm(norms, x, y.mT, alpha=-2).clamp(min=0)


def with_gradient(value: Tensor, coefficients: Tensor, variable: Tensor) -> Tensor:
    """`value` as it is, with `coefficients` as its gradient in `variable`.

    Args:
        value: Scalar; no gradient passes through it.
        coefficients: Shape of `variable`; d value / d variable, taken as constant.
        variable: The tensor that autograd follows on to the features.
    """
    if not (variable.requires_grad and torch.is_grad_enabled()):
        return value.detach()
    result: Tensor = _WithGradient.apply(value.detach(), coefficients.detach(), variable)
    return result


class _WithGradient(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, value: Tensor, coefficients: Tensor, variable: Tensor) -> Tensor:
        context.save_for_backward(coefficients)
        return value.clone()

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> tuple[None, None, Tensor]:
        (coefficients,) = context.saved_tensors
        return None, None, gradient * coefficients


def transport_cost(cost: Tensor, epsilon: float) -> Tensor:
    """Entropic transport cost of two uniform clouds.

    Args:
        cost: (n, m) float64, any finite sign and size, in cost units.
        epsilon: Entropic regularisation > 0, in cost units.

    Returns:
        Scalar in cost units; its gradient in `cost` is the optimal plan.

    Stopping rule: epsilon is annealed from a fraction of the spread of the costs down by a factor of 4, each level to an L1 marginal error
    of 1e-3, the last to 1e-5 in float32 and then to 1e-7 in float64, with at most 100 Newton steps each; a level also ends when no step
    raises the dual value any more.
    """
    constant = cost.detach()
    if cost.shape[0] < cost.shape[1]:
        value, plan = _solve(constant.mT.contiguous(), epsilon)
        return with_gradient(value, plan.mT, cost)
    return with_gradient(*_solve(constant, epsilon), cost)


def self_transport_cost(cost: Tensor, epsilon: float) -> Tensor:
    """Entropic transport cost of a uniform cloud to itself.

    With costs >= 0 and a zero diagonal the potential lies within epsilon log(n) / 2 of zero, so no annealing is needed. Half the sum of
    the old and the new potential contracts the error by 1/2 an iteration where exp(-C / eps) is a positive definite kernel.

    Args:
        cost: (n, n) float64, symmetric, >= 0, zero diagonal, in cost units.
        epsilon: Entropic regularisation > 0, in cost units.

    Returns:
        Scalar in cost units; its gradient in `cost` is the optimal plan.

    Stopping rule: L1 marginal error at most 1e-6, or 1000 iterations.
    """
    constant = cost.detach()
    potential = update = constant.new_zeros(len(constant))
    for _ in range(_MAX_SELF_ITERATIONS):
        potential = (potential + update) / 2
        update, conditional = _soft_minimum(constant, potential, epsilon)
        error = ((potential - update) / epsilon).expm1().abs().mean()
        if not error > _TOLERANCE:
            break
    _check_convergence(error.item(), "self_transport_cost")
    return with_gradient(update.mean() + potential.mean(), conditional / len(constant), cost)


class _DualPoint(NamedTuple):
    """The semi-dual problem at one potential g of the columns; the potential of the rows is optimal for g."""

    potential: Tensor  # (m,) g, in cost units
    value: Tensor  # scalar dual value, in cost units
    conditional: Tensor  # (n, m) plan times n: each row sums to 1
    column_mass: Tensor  # (m,) column sums of the plan


def _solve(cost: Tensor, epsilon: float) -> tuple[Tensor, Tensor]:
    """Value and (n, m) plan of a tall problem, n >= m: the Newton system is on the small side."""
    spread = (cost.max() - cost.min()).item()
    first = max(epsilon, spread / _FIRST_LEVEL) if math.isfinite(spread) else epsilon
    # Levels are evenly spaced on a logarithmic scale: none lies close above the last.
    num_levels = math.ceil(math.log(first / epsilon, _ANNEALING_FACTOR))
    levels = [epsilon * (first / epsilon) ** (1 - n / num_levels) for n in range(num_levels)] + [epsilon]
    potential = cost.mean(0)  # what the optimal one tends to, but for a constant, as epsilon grows
    drift = torch.zeros_like(potential)
    higher = levels[0]
    for level in levels:
        # The optimal potential is smooth in epsilon: start each level on the secant through the last two.
        start = potential + drift * (level - higher)
        if level in (levels[0], epsilon) or level <= _COARSE_SHARE * spread:
            origin, reduced = start, _reduced_cost(cost, start)
        found = (
            origin
            + _newton(reduced, (start - origin).float(), level, _FINE_TOLERANCE if level == epsilon else _ANNEALING_TOLERANCE).potential
        )
        if level < higher:
            drift = (found - potential) / (level - higher)
        potential, higher = found, level
    point = _newton(cost, potential, epsilon, _FINAL_TOLERANCE)
    _check_convergence((1 / cost.shape[1] - point.column_mass).abs().sum().item(), "transport_cost")
    return point.value, point.conditional.div_(len(cost))


def _reduced_cost(cost: Tensor, potential: Tensor) -> Tensor:
    """(n, m) float32 costs less the columns' potentials and each row's least: near 0 and hardly rounded where the plan has its mass."""
    reduced = cost - potential
    return reduced.sub_(reduced.amin(1, keepdim=True)).float()


def _newton(cost: Tensor, potential: Tensor, epsilon: float, tolerance: float) -> _DualPoint:
    """Maximises the concave semi-dual from `potential` by regularised Newton steps with backtracking."""
    target_mass = 1 / cost.shape[1]
    point = _dual_point(cost, potential, epsilon)
    for _ in range(_MAX_NEWTON_STEPS):
        residual = target_mass - point.column_mass
        error = residual.abs().sum().item()
        if not error > tolerance:
            break
        direction = _newton_direction(point, residual, ridge=target_mass * (0.1 * error + 1e-10))
        slope = epsilon * (residual @ direction).item()
        # The dual is a sum of log-sum-exps of g / eps: its quadratic model holds over a few units of that.
        step = min(1.0, _MAX_STEP / direction.abs().max().item())
        rounding = 500 * torch.finfo(cost.dtype).eps * (point.value.abs().item() + epsilon)
        while step > _MIN_STEP:
            trial = _dual_point(cost, point.potential + step * epsilon * direction, epsilon)
            if (trial.value - point.value).item() >= 1e-4 * step * slope - rounding:
                break
            step /= 2
        else:
            break
        point = trial
    return point


def _newton_direction(point: _DualPoint, residual: Tensor, ridge: float) -> Tensor:
    """(m,) step in units of epsilon. The ridge fixes the constant, along which the dual is flat, and vanishes with the error."""
    conditional = point.conditional
    hessian = conditional.mT @ conditional / -len(conditional)
    hessian.diagonal().add_(point.column_mass + ridge)
    # By LU: at these sizes LAPACK's takes half the time of its Cholesky.
    direction, _ = torch.linalg.solve_ex(hessian, residual)
    return direction


def _dual_point(cost: Tensor, potential: Tensor, epsilon: float) -> _DualPoint:
    row_potential, conditional = _soft_minimum(cost, potential, epsilon)
    return _DualPoint(potential, row_potential.mean() + potential.mean(), conditional, conditional.mean(0))


def _soft_minimum(cost: Tensor, potential: Tensor, epsilon: float) -> tuple[Tensor, Tensor]:
    """-eps log mean_j exp((g_j - C_ij) / eps), (n,), and the (n, m) softmax that goes with it."""
    exponent = torch.add(potential / epsilon, cost, alpha=-1 / epsilon)
    top = exponent.amax(1, keepdim=True)
    # A weight of exp(-40) counts for nothing, but products of smaller ones are denormal numbers in float32, twenty times slower.
    weights = exponent.sub_(top).clamp_(min=-40 if cost.dtype == torch.float32 else -100).exp_()
    total = weights.sum(1, keepdim=True)
    soft_minimum = -epsilon * (top + (total / cost.shape[1]).log()).squeeze(1)
    return soft_minimum, weights.div_(total)
