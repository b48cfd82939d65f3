"""Entropic optimal transport between uniform clouds, solved to convergence and differentiable in the cost.

    OT(C) = min_P <P, C> + eps KL(P | a b^T),   P >= 0, P 1 = a, P^T 1 = b,   a = 1/n, b = 1/m

is what the Sinkhorn divergence is made of. The problem is solved without autograd; its gradient in the cost is the plan P itself
(envelope theorem), which `with_gradient` attaches to the value.

Two solvers, both ending in float64 whatever the inputs are: with costs of hundreds and eps = 0.1 the rounding of a float32 potential alone
moves plan entries by parts in a thousand.

- `transport_cost`: Newton ascent on the semi-dual, annealed in eps. Plain Sinkhorn needs a number of iterations that grows like
  max(C) / eps; some ten to twenty Newton steps reach the solution at max(C) / eps = 1e4. Newton's system is (n, n) or (m, m), whichever is
  smaller: time O(n m min(n, m)) a step at most, less where rows of the plan have all their mass in one column. The dual near a potential
  takes two products with the kernel there and no new exponentials, so Sinkhorn iterations and steps with an old Newton system cost little
  and are taken while they help. Nearly all steps are in float32, on costs from which the potentials were taken in float64 first; the last
  one or two are in float64, on the costs themselves. `transport_costs` solves several problems of one size at once.
- `self_transport_cost`: a cloud against itself, where the averaged Sinkhorn update about halves the error at every iteration. Samples too
  far from all others to exchange mass are left out and added in closed form (`with_isolated`).

Both stop when the plan's L1 marginal error is at most 1e-6, or at an iteration cap; the value's error is of second order in it. A problem
that ends with a larger error is counted (`count_unconverged`), and the first one of a process warns.
Nothing is kept between calls: a result is a pure function of its arguments. A cost that is not finite gives a value that is not.

References:
    Feydy et al. 2019, Interpolating between optimal transport and MMD using Sinkhorn divergences (divergence; averaged update, section 3).
    Schmitzer 2019, Stabilized sparse scaling algorithms for entropy regularized transport problems, arXiv 1610.06519 (potentials taken into
    the kernel; kernels truncated where they are nothing).
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
_ANNEALING_TOLERANCES = 1e-2, 1e-4  # the same at a level that only prepares the next; the second where the first leads nowhere
_FINAL_TOLERANCE = 1e-7  # the same of a transport's last level in float64: below what is promised, for the plan's single entries
_FINE_TOLERANCE = 1e-5  # the same at the last level before it is solved in float64, which mostly takes one step more
_FIRST_LEVEL = 32.0  # annealing starts at the spread of the costs over this
_ANNEALING_FACTOR = 4.0
_COARSE_SHARE = 2e-4  # of the spread of the costs: at levels below it costs are reduced anew before they are rounded to float32
_MAX_NEWTON_STEPS = 100  # per level; two are usual
_MAX_STEP = 3.0  # longest first step in any entry of g, in units of epsilon
_MIN_STEP = 1e-6  # shortest fraction of a Newton step that backtracking tries
_FAR = 10.0  # in units of epsilon: potentials farther than this from those of the kernel get a kernel of their own
_FAST = 4.0  # after a step that divided the error by this, the next one takes the same Newton system
_SCALED = 0.1  # above this error, Sinkhorn iterations are tried before Newton steps
_WORTH_SCALING = 1.3  # and go on while each divides the error by this
_CONCENTRATED = 0.1  # times the error: rows of a plan with less than this outside of one column are left out of a Newton system
_MAX_SELF_ITERATIONS = 1000  # some twenty are usual
_NEGLIGIBLE = 40.0  # exp(-40) of a sample's mass moves neither a value nor a plan
_BLOCK = 1024  # rows whose neighbours are looked for at once


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
        value: Scalar, or one value for each entry of the first dimension of `variable`; no gradient passes through it.
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
        return None, None, gradient.view(gradient.shape + (1,) * (coefficients.ndim - gradient.ndim)) * coefficients


def transport_cost(cost: Tensor, epsilon: float) -> Tensor:
    """Entropic transport cost of two uniform clouds.

    Args:
        cost: (n, m) float64, any finite sign and size, in cost units.
        epsilon: Entropic regularisation > 0, in cost units.

    Returns:
        Scalar in cost units; its gradient in `cost` is the optimal plan.

    Stopping rule: epsilon is annealed from a fraction of the spread of the costs down by a factor of 4, each level to an L1 marginal error
    of 1e-2, the last to 1e-5 in float32 and then to 1e-7 in float64, with at most 100 steps each; a level also ends when no step raises
    the dual value any more. Where this leaves an error above 1e-6, all is done again with 1e-4 instead of 1e-2.
    """
    return transport_costs(cost.unsqueeze(0), epsilon).squeeze(0)


def transport_costs(cost: Tensor, epsilon: float) -> Tensor:
    """`transport_cost` of several problems of one size at once, which saves most of what a step of a small one costs.

    Args:
        cost: (problems, n, m) float64. The levels of epsilon are those of the largest spread among them.
        epsilon: As there.

    Returns:
        (problems,) in cost units.
    """
    constant = cost.detach()
    if cost.shape[1] < cost.shape[2]:
        value, plan = _solve(constant.mT.contiguous(), epsilon)
        return with_gradient(value, plan.mT, cost)
    return with_gradient(*_solve(constant.contiguous(), epsilon), cost)


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
        update, conditional = (part.squeeze(0) for part in _soft_minimum(constant.unsqueeze(0), potential.unsqueeze(0), epsilon))
        error = ((potential - update) / epsilon).expm1().abs().mean()
        if not error > _TOLERANCE:
            break
    _check_convergence(error.item(), "self_transport_cost")
    return with_gradient(update.mean() + potential.mean(), conditional / len(constant), cost)


def self_transport_of(x: Tensor, epsilon: float) -> Tensor:
    """`self_transport_cost` of the samples `x` (n, d), float64, at the cost |x - x'|^2.

    Where n exp(-C / eps) is nothing, a sample keeps its mass: only samples with others near by enter a matrix of costs.
    """
    near = near_samples(x.detach(), reach(epsilon, len(x))).which
    if near is None:
        return self_transport_cost(squared_distances(x, x), epsilon)
    some = x[near]
    return with_isolated(squared_distances(some, some), len(x), epsilon)


def with_isolated(cost: Tensor, num_samples: int, epsilon: float) -> Tensor:
    """Entropic transport cost of a uniform cloud to itself where all but some of its samples are isolated.

    A part of k of n samples that exchanges no mass with the others adds k / n (OT + eps log(n / k)); one sample alone has OT = 0.

    Args:
        cost: (k, k) as `self_transport_cost` takes it, of the samples that are not isolated; k may be 0.
        num_samples: n.
        epsilon: As there.
    """
    isolated = (num_samples - len(cost)) / num_samples * epsilon * math.log(num_samples)
    if not len(cost):
        return cost.sum() + isolated
    return len(cost) / num_samples * (self_transport_cost(cost, epsilon) + epsilon * math.log(num_samples / len(cost))) + isolated


def reach(epsilon: float, num_samples: int) -> float:
    """The cost above which n samples exchange no mass in a transport of their cloud to itself; its potentials are <= eps log(n) / 2."""
    return epsilon * (_NEGLIGIBLE + math.log(num_samples))


class Near(NamedTuple):
    """Which samples of a cloud have others near by; None where they are too many for this to save anything."""

    which: Tensor | None  # (k,) their numbers, ascending
    pairs: Tensor | None  # (pairs, 2) numbers of two samples that may be near, the first below the second


def near_samples(x: Tensor, limit: float) -> Near:
    """Samples `x` (n, d) with another one at a squared distance of at most `limit`, and possibly some a little farther apart.

    Distances are taken in float32, with a margin for its rounding.
    """
    centred = (x - x.mean(0)).float()
    norms = centred.square().sum(1)
    margin = 4 * (x.shape[1] + 4) * torch.finfo(torch.float32).eps * norms.max().item()
    pairs, count = [], 0
    for start in range(0, len(x), _BLOCK):
        rows, others = slice(start, start + _BLOCK), centred[start:]
        close = torch.triu(torch.addmm(norms[start:], centred[rows], others.mT, alpha=-2).add_(norms[rows, None]) <= limit + margin, 1)
        found = close.nonzero()
        pairs.append(found + start)
        count += len(found)
        if count > len(x) ** 2 / 32 or not math.isfinite(margin):
            return Near(None, None)
    joined = torch.cat(pairs)
    return Near(joined.unique(), joined)


class _Kernel(NamedTuple):
    """Semi-dual problems near potentials g of the columns. The dual at g + eps w takes no exponentials of the costs, but two products:

    s = K e^w,    f(g + eps w) = f(g) - eps log s,    column masses  e^w * (K^T (1 / s)) / n
    """

    potential: Tensor  # (problems, m) g, in cost units
    row_potential: Tensor  # (problems, n) f(g), optimal for g, in cost units
    conditional: Tensor  # (problems, n, m) K, the plans at g times n: each row sums to 1
    epsilon: float

    def at(self, shift: Tensor) -> _DualPoint:
        """The dual at g + eps w, with w (problems, m) as the shift."""
        scale = shift.exp()
        sums = (scale.unsqueeze(1) @ self.conditional.mT).squeeze(1)
        masses = scale * ((1 / sums).unsqueeze(1) @ self.conditional).squeeze(1) / sums.shape[1]
        potential = self.potential + self.epsilon * shift
        value = (self.row_potential - self.epsilon * sums.log()).mean(1) + potential.mean(1)
        return _DualPoint(potential, shift, scale, sums, value, masses)


class _DualPoint(NamedTuple):
    """Semi-dual problems at one potential of the columns each; the potentials of the rows are optimal for it."""

    potential: Tensor  # (problems, m), in cost units
    shift: Tensor  # (problems, m) w: its distance from the kernel's, in units of epsilon
    scale: Tensor  # (problems, m) e^w
    sums: Tensor  # (problems, n) s
    value: Tensor  # (problems,) dual values, in cost units
    column_mass: Tensor  # (problems, m) column sums of the plans


def _solve(cost: Tensor, epsilon: float) -> tuple[Tensor, Tensor]:
    """Values and (problems, n, m) plans of tall problems, n >= m: the Newton systems are on the small side."""
    for tolerance in _ANNEALING_TOLERANCES:
        kernel, point = _annealed_newton(cost, epsilon, tolerance)
        errors = (1 / cost.shape[2] - point.column_mass).abs().sum(1)
        if not (errors > _TOLERANCE).any():
            break
    for error in errors.tolist():
        _check_convergence(error, "transport_cost")
    return point.value, kernel.conditional.mul_(point.scale.unsqueeze(1)).mul_((1 / cost.shape[1] / point.sums).unsqueeze(2))


def _annealed_newton(cost: Tensor, epsilon: float, tolerance: float) -> tuple[_Kernel, _DualPoint]:
    """The solution at `epsilon`, approached through levels above it that are solved to a tolerance."""
    potential = cost.mean(1)  # what the optimal one tends to, but for a constant, as epsilon grows
    reduced = _reduced_cost(cost, potential)
    spread = reduced.max().item()
    first = max(epsilon, spread / _FIRST_LEVEL) if math.isfinite(spread) else epsilon
    # Levels are evenly spaced on a logarithmic scale: none lies close above the last.
    num_levels = math.ceil(math.log(first / epsilon, _ANNEALING_FACTOR))
    levels = [epsilon * (first / epsilon) ** (1 - n / num_levels) for n in range(num_levels)] + [epsilon]
    origin, drift, higher = potential, torch.zeros_like(potential), levels[0]
    for level in levels:
        # The optimal potential is smooth in epsilon: start each level on the secant through the last two.
        start = potential + drift * (level - higher)
        last = level == epsilon
        if level != levels[0] and (last or level <= _COARSE_SHARE * spread):
            origin, reduced = start, _reduced_cost(cost, start)
        kernel, point = _newton(reduced, (start - origin).float(), level, _FINE_TOLERANCE if last else tolerance)
        found = origin + point.potential
        if level < higher:
            drift = (found - potential) / (level - higher)
        potential, higher = found, level
    fine = point.value.new_full((len(cost),), _FINE_TOLERANCE / 10)
    factors = _factors(kernel, point, fine, torch.arange(len(cost), device=cost.device))
    return _newton(cost, potential, epsilon, _FINAL_TOLERANCE, factors)


def _reduced_cost(cost: Tensor, potential: Tensor) -> Tensor:
    """(problems, n, m) float32 costs less the columns' potentials and each row's least: hardly rounded where a plan has its mass."""
    reduced = cost - potential.unsqueeze(1)
    return reduced.sub_(reduced.amin(2, keepdim=True)).float()


class _Factors(NamedTuple):
    """Newton systems of some problems, factorised: LU and pivots as LAPACK has them."""

    which: Tensor  # numbers of the problems
    lower_upper: Tensor
    pivots: Tensor


def _newton(
    cost: Tensor, potential: Tensor, epsilon: float, tolerance: float, factors: _Factors | None = None
) -> tuple[_Kernel, _DualPoint]:
    """Maximises concave semi-duals from `potential` by regularised Newton steps with backtracking.

    The problems take their steps together; one that has reached the tolerance, or that no step improves, stays where it is. Newton systems
    are kept while the error falls fast (Shamanskii's method): a step without a new one takes a tenth of the time.

    Args:
        cost: (problems, n, m).
        potential: (problems, m), where to start.
        epsilon: In cost units.
        tolerance: L1 error of the column masses at which to stop.
        factors: Newton systems of a point close by, in any dtype.
    """
    target_mass = 1 / cost.shape[2]
    kernel = _kernel(cost, potential, epsilon)
    point = kernel.at(torch.zeros_like(potential))
    improves = torch.ones(len(cost), dtype=torch.bool, device=cost.device)
    before, scaling = torch.full_like(point.value, math.inf), factors is None
    for _ in range(_MAX_NEWTON_STEPS):
        residual = target_mass - point.column_mass
        error = residual.abs().sum(1)
        moving = improves & (error > tolerance)
        if not moving.any():
            break
        if point.shift.abs().max() > _FAR:
            kernel = _kernel(cost, point.potential, epsilon)
            point = kernel.at(torch.zeros_like(potential))
        scaling = scaling and bool((error > _SCALED).any()) and not (moving & (error > before / _WORTH_SCALING)).any()
        if scaling:  # a Sinkhorn iteration
            direction = (target_mass / point.column_mass).log()
        else:
            if factors is None or (moving & (error > before / _FAST)).any():
                factors = _factors(kernel, point, error, moving.nonzero().squeeze(1))
            direction = _direction(factors, residual)
            if not direction.isfinite().all():  # a system that is singular to rounding, which float32 has more of
                factors = _factors(kernel, point, error, moving.nonzero().squeeze(1))
                direction = torch.nan_to_num(_direction(factors, residual), 0, 0, 0)
        before = error
        slope = epsilon * (residual * direction).sum(1)
        # The dual is a sum of log-sum-exps of g / eps: its quadratic model holds over a few units of that.
        step = torch.where(moving, (_MAX_STEP / direction.abs().amax(1)).clamp(max=1), 0)
        rounding = 500 * torch.finfo(cost.dtype).eps * (point.value.abs() + epsilon)
        while True:
            trial = kernel.at(point.shift + step.unsqueeze(1) * direction)
            worse = (step > 0) & ~(trial.value - point.value >= 1e-4 * step * slope - rounding)
            if not worse.any():
                break
            step = torch.where(worse, step / 2, step)
            step = torch.where(step > _MIN_STEP, step, 0)
        improves &= (step > 0) | ~moving
        point = trial
    return kernel, point


def _factors(kernel: _Kernel, point: _DualPoint, error: Tensor, which: Tensor) -> _Factors:
    """The Newton systems of some problems at a point with an L1 error (problems,) of its column masses.

    A row of the plan adds diag(p) - p p^T, which vanishes where nearly all of its mass is in one column. Such rows are left out as long as
    together they add less than the ridge, which fixes the constant, along which a dual is flat, and itself vanishes with the error.
    """
    _, rows, columns = kernel.conditional.shape
    error, scale, sums = error[which], point.scale[which].unsqueeze(1), point.sums[which]
    conditional = kernel.conditional if len(which) == len(kernel.conditional) else kernel.conditional[which]
    spread_out = 1 - (conditional * scale).amax(2) / sums
    count = max(1, int((spread_out > _CONCENTRATED * error.unsqueeze(1)).sum(1).max()))
    if count < rows:
        chosen = spread_out.topk(count, dim=1).indices
        sums = sums.gather(1, chosen)
        chosen = chosen + rows * torch.arange(len(which), device=which.device).unsqueeze(1)
        conditional = conditional.reshape(-1, columns).index_select(0, chosen.flatten()).reshape(len(which), count, columns)
    plan = (conditional * scale).div_(sums.unsqueeze(2))
    hessian = plan.mT @ plan / -rows
    least = 10 * torch.finfo(torch.float32).eps if plan.dtype == torch.float32 else 1e-10  # below, rounding makes a system singular
    hessian.diagonal(dim1=1, dim2=2).add_(plan.sum(1) / rows + (0.1 * error.unsqueeze(1) + least) / columns)
    # By LU: at these sizes LAPACK's takes half the time of its Cholesky.
    lower_upper, pivots, _ = torch.linalg.lu_factor_ex(hessian)
    return _Factors(which, lower_upper, pivots)


def _direction(factors: _Factors, residual: Tensor) -> Tensor:
    """(problems, m) steps in units of epsilon, in the dtype of the residual; 0 where there is no system."""
    right = residual[factors.which].to(factors.lower_upper.dtype).unsqueeze(2)
    found = torch.linalg.lu_solve(factors.lower_upper, factors.pivots, right).squeeze(2).to(residual.dtype)
    return torch.zeros_like(residual).index_copy_(0, factors.which, found)


def _kernel(cost: Tensor, potential: Tensor, epsilon: float) -> _Kernel:
    return _Kernel(potential, *_soft_minimum(cost, potential, epsilon), epsilon)


def _soft_minimum(cost: Tensor, potential: Tensor, epsilon: float) -> tuple[Tensor, Tensor]:
    """-eps log mean_j exp((g_j - C_ij) / eps), (problems, n), and the (problems, n, m) softmax that goes with it."""
    exponent = torch.add((potential / epsilon).unsqueeze(1), cost, alpha=-1 / epsilon)
    top = exponent.amax(2, keepdim=True)
    # A weight of exp(-40) counts for nothing, but products of smaller ones are denormal numbers in float32, twenty times slower.
    weights = exponent.sub_(top).clamp_(min=-40 if cost.dtype == torch.float32 else -100).exp_()
    total = weights.sum(2, keepdim=True)
    soft_minimum = -epsilon * (top + (total / cost.shape[2]).log()).squeeze(2)
    return soft_minimum, weights.div_(total)
