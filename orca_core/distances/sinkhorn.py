"""Entropic optimal transport between uniform clouds, solved to convergence and differentiable in the cost.

    OT(C) = min_P <P, C> + eps KL(P | a b^T),   P >= 0, P 1 = a, P^T 1 = b,   a = 1/n, b = 1/m

is what the Sinkhorn divergence is made of. The problem is solved without autograd; its gradient in the cost is the plan P itself
(envelope theorem), which `with_gradient` attaches to the value.

Two solvers, both ending in float64 whatever the inputs are: with costs of hundreds and eps = 0.1 the rounding of a float32 potential alone
moves plan entries by parts in a thousand.

- `transport_cost`: Newton ascent on the semi-dual, annealed in eps (`semidual.py`). Plain Sinkhorn needs a number of iterations that grows
  like max(C) / eps; some ten to twenty Newton steps reach the solution at max(C) / eps = 1e4. Newton's system is (n, n) or (m, m),
  whichever is smaller: time O(n m min(n, m)) a step at most, less where rows of the plan have all their mass in one column.
  `transport_costs` and `transport_plans` solve several problems at once.
- `self_transport_cost`: a cloud against itself, one potential, found by some ten iterations that are products with a fixed kernel. Samples
  too far from all others to exchange mass are left out and added in closed form (`with_isolated`).

Both stop when the plan's L1 marginal error is at most 1e-6, or at an iteration cap; the value's error is of second order in it. A problem
that ends with a larger error is counted (`count_unconverged`), and the first one of a process warns.
Nothing is kept between calls: a result is a pure function of its arguments. A cost that is not finite gives a value that is not.

References:
    Feydy et al. 2019, Interpolating between optimal transport and MMD using Sinkhorn divergences (divergence; one potential for a cloud and
    itself, section 3).
    Golub & Varga 1961, Chebyshev semi-iterative methods, successive overrelaxation iterative methods, and second order Richardson iterative
    methods.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from orca_core.distances.semidual import Problems, solve

_TOLERANCE = 1e-6  # L1 error of the plan's marginals, of a total mass of 1
_RICHARDSON_STEP = 4 / (math.sqrt(2) + 1) ** 2
_RICHARDSON_MEMORY = ((math.sqrt(2) - 1) / (math.sqrt(2) + 1)) ** 2
_MAX_SELF_ITERATIONS = 1000  # some ten are usual
_LEAST_EXPONENT = -100.0  # a kernel's smaller entries count for nothing, but products of them are denormal numbers, many times slower
_NEGLIGIBLE = 40.0  # exp(-40) of a sample's mass moves neither a value nor a plan
_BLOCK = 256  # rows whose neighbours are looked for at once


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
    squared = torch.addmm(norms, x, y.mT, alpha=-2)
    return squared.clamp(min=0) if squared.requires_grad else squared.clamp_(min=0)


def squared_distances_above(classes: Sequence[Tensor]) -> list[Tensor]:
    """Squared distances of the samples of each class (n_k, d) to its own and to those of all later classes; without a gradient."""
    x = torch.cat([one.detach() for one in classes])
    norms = x.square().sum(1)
    blocks, start = [], 0
    for one in classes:
        rows = slice(start, start + len(one))
        block = norms[rows].unsqueeze(1) + norms[start:]
        blocks.append(block.addmm_(x[rows], x[start:].mT, alpha=-2).clamp_(min=0))
        start += len(one)
    return blocks


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

    Stopping rule: epsilon is annealed from a fraction of the spread of the costs down by a factor of at most 8, each level to an L1
    marginal error of 1e-2, the last to 1e-4 in float32 and then to 1e-7 in float64, with at most 100 steps each; a level also ends when no
    step raises the dual value any more. A problem that this leaves with an error above 1e-6 is solved again with 1e-4 instead of 1e-2.
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
    return with_gradient(*transport_plans(cost.detach(), epsilon), cost)


def transport_plans(cost: Tensor, epsilon: float, rows: Tensor | None = None, columns: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Values and plans of several problems, padded to one size where they differ.

    Args:
        cost: (problems, n, m) float64, without a gradient; infinite in padded columns, anything finite in padded rows.
        epsilon: As of `transport_cost`.
        rows, columns: (problems,) int64 numbers of rows and columns that are not padded; None for all of them.

    Returns:
        (problems,) values in cost units, and (problems, n, m) plans; what a plan has in padded places does not count.
    """
    if cost.shape[1] < cost.shape[2]:  # Newton's systems are on the side of the columns
        if columns is not None or rows is not None:
            cost = _with_infinite_rows(cost, rows, columns)
        value, plan = transport_plans(cost.mT.contiguous(), epsilon, columns, rows)
        return value, plan.mT
    problems = Problems(cost, rows, columns)
    value, plan, error = solve(problems, epsilon)
    again = (error > _TOLERANCE).nonzero().squeeze(1)
    if len(again):
        value[again], plan[again], error[again] = solve(problems.some(again), epsilon, careful=True)
    for one in error.tolist():
        _check_convergence(one, "transport_cost")
    return value, plan


def _with_infinite_rows(cost: Tensor, rows: Tensor | None, columns: Tensor | None) -> Tensor:
    """Padding as transposed problems have it: infinite costs in padded rows, finite ones in padded columns."""
    n, m = cost.shape[1:]
    if columns is not None:
        cost = cost.masked_fill((torch.arange(m, device=cost.device) >= columns.unsqueeze(1)).unsqueeze(1), 0)
    if rows is not None:
        cost = cost.masked_fill((torch.arange(n, device=cost.device) >= rows.unsqueeze(1)).unsqueeze(2), math.inf)
    return cost


def self_transport_cost(cost: Tensor, epsilon: float) -> Tensor:
    """Entropic transport cost of a uniform cloud to itself.

    With costs >= 0 and a zero diagonal the potential f lies within epsilon log(n) / 2 of zero, so no annealing is needed, and exponentials
    are taken once, of K = exp(-C / eps): f = -eps log(K e^(f / eps) / n). Where K is positive definite, the derivative of f less the right
    side has eigenvalues from 1 to 2; for these, second-order Richardson iterations contract the error best, by 0.17 each.

    Args:
        cost: (n, n) float64, symmetric, >= 0, zero diagonal, in cost units.
        epsilon: Entropic regularisation > 0, in cost units.

    Returns:
        Scalar in cost units; its gradient in `cost` is the optimal plan.

    Stopping rule: L1 marginal error at most 1e-6, or 1000 iterations.
    """
    values, plans = self_transport_plans(cost.detach().unsqueeze(0), epsilon)
    return with_gradient(values.squeeze(0), plans.squeeze(0), cost)


def self_transport_plans(cost: Tensor, epsilon: float, sizes: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """`self_transport_cost` of several clouds at once, padded to one size where they differ, and the plans.

    Args:
        cost: (clouds, n, n) as there, without a gradient; anything in padded rows and columns.
        epsilon: As there.
        sizes: (clouds,) int64 numbers of samples that are not padded; None for all of them.

    Returns:
        (clouds,) values in cost units, and (clouds, n, n) plans, 0 where padded.
    """
    kernel = cost.mul(-1 / epsilon).clamp_(min=_LEAST_EXPONENT).exp_()
    present = None
    if sizes is not None:  # what is padded exchanges mass with itself alone
        present = (torch.arange(kernel.shape[1], device=kernel.device) < sizes.unsqueeze(1)).to(kernel.dtype)
        kernel.mul_(present.unsqueeze(1)).mul_(present.unsqueeze(2))
        kernel.diagonal(dim1=1, dim2=2).add_(1 - present)
    balanced = _balance(lambda scale: torch.bmm(kernel, scale.unsqueeze(2)).squeeze(2), kernel.sum(2), epsilon, sizes, present)
    rows = 1 / balanced.masses if present is None else present / balanced.masses
    return balanced.value, kernel.mul_(balanced.scale.unsqueeze(1)).mul_(rows.unsqueeze(2))


class _Balanced(NamedTuple):
    """Clouds with the potentials of their transport to themselves."""

    value: Tensor  # (clouds,) in cost units
    scale: Tensor  # (clouds, n) e^(f / eps)
    masses: Tensor  # (clouds, n) n K e^(f / eps): what the rows of a plan are divided by


def _balance(
    product: Callable[[Tensor], Tensor], sums: Tensor, epsilon: float, sizes: Tensor | None = None, present: Tensor | None = None
) -> _Balanced:
    """Solves f = -eps log(K e^(f / eps) / n) for each cloud.

    Args:
        product: From (clouds, n) vectors v to K v.
        sums: (clouds, n) row sums of K.
        epsilon: In cost units.
        sizes, present: Numbers of samples and (clouds, n) 1 where they are, 0 where they are padded; None without padding.
    """
    count = sums.new_tensor(sums.shape[1]) if sizes is None else sizes.unsqueeze(1).to(sums.dtype)

    def mean(of_samples: Tensor) -> Tensor:
        return of_samples.mean(1) if present is None else of_samples.mul(present).sum(1) / count.squeeze(1)

    potential = sums.div(count).log_().div_(-2)  # in units of epsilon; the solution where all samples are isolated
    before = potential
    for _ in range(_MAX_SELF_ITERATIONS):
        scale = potential.exp()
        sums = product(scale)
        update = sums.div(count).log_().neg_()
        residual = update - potential
        error = mean(residual.neg().expm1_().abs_())
        if not (error > _TOLERANCE).any():
            break
        potential, before = potential + _RICHARDSON_STEP * residual + _RICHARDSON_MEMORY * (potential - before), potential
    for one in error.tolist():
        _check_convergence(one, "self_transport_cost")
    return _Balanced(mean(update + potential).mul_(epsilon), scale, sums * count)


def self_transport_of_blocks(costs: Sequence[Tensor], epsilon: float) -> Tensor:
    """`self_transport_cost` of a cloud whose costs are given once for each pair, without a gradient.

    Args:
        costs: For each part of the cloud, (n_k, n - n_1 - ... - n_(k-1)) float64 costs to itself and to all later parts; overwritten.
        epsilon: As there.
    """
    kernels = [cost.mul_(-1 / epsilon).clamp_(min=_LEAST_EXPONENT).exp_() for cost in costs]

    def product(scale: Tensor) -> Tensor:
        right = scale.squeeze(0)
        found, start = torch.zeros_like(right), 0
        for kernel in kernels:
            end = start + len(kernel)
            found[start:end].addmv_(kernel, right[start:])
            found[end:].addmv_(kernel[:, len(kernel) :].mT, right[start:end])
            start = end
        return found.unsqueeze(0)

    ones = costs[0].new_ones(1, costs[0].shape[1])
    return _balance(product, product(ones), epsilon).value.squeeze(0)


def self_transport_of(x: Tensor, epsilon: float) -> Tensor:
    """`self_transport_cost` of the samples `x` (n, d), float64, at the cost |x - x'|^2.

    Where n exp(-C / eps) is nothing, a sample keeps its mass: only samples with others near by enter a matrix of costs.
    """
    near = near_samples(x.detach(), reach(epsilon, len(x))).which
    if near is None:
        return self_transport_cost(squared_distances(x, x), epsilon)
    some = x[near]
    value = self_transport_cost(squared_distances(some, some), epsilon) if len(some) else some.sum()
    return with_isolated(value, len(some), len(x), epsilon)


def with_isolated(value: Tensor, num_near: int, num_samples: int, epsilon: float) -> Tensor:
    """Entropic transport cost of a uniform cloud to itself where all but some of its samples are isolated.

    A part of k of n samples that exchanges no mass with the others adds k / n (OT + eps log(n / k)); one sample alone has OT = 0.

    Args:
        value: Transport cost to themselves of the samples that are not isolated, as a cloud of their own; 0 if there are none.
        num_near: k, their number.
        num_samples: n.
        epsilon: As of `self_transport_cost`.
    """
    isolated = (num_samples - num_near) / num_samples * epsilon * math.log(num_samples)
    if not num_near:
        return value + isolated
    return num_near / num_samples * (value + epsilon * math.log(num_samples / num_near)) + isolated


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
        count += int(close.count_nonzero())
        if count > len(x) ** 2 / 32 or not math.isfinite(margin):
            return Near(None, None)
        pairs.append(close.nonzero() + start)
    joined = torch.cat(pairs)
    return Near(joined.unique(), joined)
