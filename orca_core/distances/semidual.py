"""Newton ascent on the semi-dual of entropic transport, for many problems at once.

With potentials g of the columns, the rows' optimal ones f(g) and masses a and b, the dual value is

    D(g) = <a, f(g)> + <b, g>,    f_i(g) = -eps log sum_j exp((g_j - C_ij) / eps) / m

which is concave; its gradient is b less the column masses of the plan, and Newton's system is (m, m). Epsilon is annealed; the first levels
look at some of the rows only, if there are many for each column. Sinkhorn iterations and steps with an old Newton system take two products
with a kernel and no exponentials, so they are taken while they help. Nearly all steps are in float32, on costs from which the potentials
were taken in float64 first; the last ones are in float64, on the costs themselves.

Problems of unlike sizes are solved together, padded: padded columns have infinite costs, padded rows no mass.

References:
    Cuturi & Peyré 2018, Semidual regularized optimal transport (semi-dual, its gradient and Hessian).
    Schmitzer 2019, Stabilized sparse scaling algorithms for entropy regularized transport problems, arXiv 1610.06519 (potentials taken into
    the kernel).
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

_COARSE_TOLERANCE, _CAREFUL_TOLERANCE = 1e-2, 1e-4  # L1 error of a plan's column masses at levels above the last
_FINAL_TOLERANCE = 1e-7  # the same at the last level in float64, for the plan's single entries
_FINE_TOLERANCE = 1e-4  # the same at the last level before it is solved in float64
_FIRST_LEVEL = 32.0  # annealing starts at the spread of the costs over this
_ANNEALING_FACTOR = 8.0
_COARSE_SHARE = 2e-4  # of the spread of the costs: at levels below it costs are reduced anew before they are rounded to float32
_COARSE_ROWS = 8  # rows for each column that the first one or two levels look at
_SMALLEST = {torch.float32: -30.0, torch.float64: -100.0}  # logarithm of the least weight beside that of a row's best column
_MAX_NEWTON_STEPS = 100  # per level; two are usual
_MAX_STEP = 3.0  # longest step in any entry of g, in units of epsilon
_MIN_STEP = 1e-6  # shortest fraction of a Newton step that backtracking tries
_FAR = 10.0  # in units of epsilon: potentials farther than this from those of the kernel get a kernel of their own
_CLOSE = 0.1  # Newton systems made at a larger error than this are not used in float64
_FAST = 2.0  # after a step that divided the error by this, the next one takes the same Newton system
_SCALED = 0.1  # above this error, Sinkhorn iterations are tried before Newton steps
_WORTH_SCALING = 2.0  # and go on while each divides the error by this
_WORTH_CHOOSING = 0.9  # share of the rows below which they are
_CONCENTRATED = 0.1  # times the error: rows of a plan with less than this outside of one column are left out of a Newton system


class Problems(NamedTuple):
    """Costs between uniform clouds, padded to a common size, of which the columns are the smaller side."""

    cost: Tensor  # (problems, n, m) float64, in cost units; infinite in padded columns, anything finite in padded rows
    rows: Tensor | None  # (problems,) int64 numbers of rows that are not padded; None for all of them
    columns: Tensor | None  # the same of columns

    def some(self, which: Tensor) -> Problems:
        """Those of some numbers."""
        return Problems(*(None if part is None else part[which] for part in self))  # type: ignore[arg-type]


class Solution(NamedTuple):
    """Plans and what they cost."""

    value: Tensor  # (problems,) dual values, in cost units
    plan: Tensor  # (problems, n, m), 0 or next to it where padded
    error: Tensor  # (problems,) L1 errors of the plans' column masses


class _Masses(NamedTuple):
    """Masses of some rows and of all columns; 0 where padded."""

    row: Tensor  # (problems, n) or (problems, 1)
    column: Tensor  # (problems, m) or (problems, 1)
    log_columns: Tensor  # (problems, 1) log of the number of columns

    @classmethod
    def of(cls, problems: Problems, stride: int, dtype: torch.dtype) -> _Masses:
        """Of every row whose number is a multiple of the stride."""
        cost = problems.cost
        n, m = cost.shape[1:]
        log_columns = (
            cost.new_full((len(cost), 1), math.log(m)) if problems.columns is None else problems.columns.double().log().unsqueeze(1)
        )
        row = _uniform(None if problems.rows is None else -(-problems.rows // stride), -(-n // stride), cost)
        return cls(row.to(dtype), _uniform(problems.columns, m, cost).to(dtype), log_columns.to(dtype))


def _uniform(counts: Tensor | None, most: int, like: Tensor) -> Tensor:
    if counts is None:
        return like.new_full((len(like), 1), 1 / most)
    counts = counts.unsqueeze(1)
    return (torch.arange(most, device=like.device) < counts) / counts.to(like.dtype)


class _Kernel(NamedTuple):
    """Semi-dual problems near potentials g of the columns. The dual at g + eps w takes no exponentials of the costs, but two products:

    s = K e^w,    f(g + eps w) = f(g) - eps log s,    column masses  e^w * (K^T (a / s))
    """

    masses: _Masses
    potential: Tensor  # (problems, m) g, in cost units
    row_potential: Tensor  # (problems, n) f(g), optimal for g, in cost units
    conditional: Tensor  # (problems, n, m) K, the plans at g over a: each row sums to 1
    epsilon: float

    def at(self, shift: Tensor) -> _DualPoint:
        """The dual at g + eps w, with w (problems, m) as the shift."""
        scale = shift.exp()
        sums = torch.bmm(scale.unsqueeze(1), self.conditional.mT).squeeze(1)
        column_mass = torch.bmm((self.masses.row / sums).unsqueeze(1), self.conditional).squeeze(1).mul_(scale)
        of_rows = torch.add(self.row_potential, sums.log(), alpha=-self.epsilon).mul_(self.masses.row).sum(1)
        potential = torch.add(self.potential, shift, alpha=self.epsilon)
        return _DualPoint(potential, shift, scale, sums, (potential * self.masses.column).sum(1).add_(of_rows), column_mass)


class _DualPoint(NamedTuple):
    """Semi-dual problems at one potential of the columns each; the potentials of the rows are optimal for it."""

    potential: Tensor  # (problems, m), in cost units
    shift: Tensor  # (problems, m) w: its distance from the kernel's, in units of epsilon
    scale: Tensor  # (problems, m) e^w
    sums: Tensor  # (problems, n) s
    value: Tensor  # (problems,) dual values, in cost units
    column_mass: Tensor  # (problems, m) column sums of the plans


def solve(problems: Problems, epsilon: float, *, careful: bool = False) -> Solution:
    """The solution at `epsilon`, approached through levels above it.

    Args:
        problems: The costs; levels are those of the largest spread among them.
        epsilon: In cost units.
        careful: Solve the levels above the last with all rows, and more closely: for problems that were led astray without.
    """
    tolerance = _CAREFUL_TOLERANCE if careful else _COARSE_TOLERANCE
    cost, columns = problems.cost, problems.columns
    n, m = cost.shape[1:]
    stride = 1 if careful else max(1, n // (_COARSE_ROWS * m))
    padded = None if columns is None else torch.arange(m, device=cost.device) >= columns.unsqueeze(1)
    some = cost[:, ::stride]
    potential = some.mean(1)  # what the optimal one tends to, but for a constant, as epsilon grows
    if padded is not None:
        potential.masked_fill_(padded, 0)
    reduced = _reduced_cost(some, potential)
    highest = reduced.amax(1)
    spread = (highest if padded is None else highest.masked_fill_(padded, 0)).max().item()
    first = max(epsilon, spread / _FIRST_LEVEL) if math.isfinite(spread) else epsilon
    # Levels are evenly spaced on a logarithmic scale: none lies close above the last.
    num_levels = math.ceil(math.log(first / epsilon, _ANNEALING_FACTOR))
    levels = [epsilon * (first / epsilon) ** (1 - k / num_levels) for k in range(num_levels)] + [epsilon]
    coarse_levels = min(max(1, len(levels) - 2), 2)  # further ones would lead astray
    coarse, fine = _Masses.of(problems, stride, torch.float32), _Masses.of(problems, 1, torch.float32)
    origin, drift, higher = potential, torch.zeros_like(potential), levels[0]
    for number, level in enumerate(levels):
        # The optimal potential is smooth in epsilon: start each level on the secant through the last two.
        start = potential + drift * (level - higher)
        last = level == epsilon
        if stride > 1 and number == coarse_levels:
            some, coarse, stride = cost, fine, 1
            origin, reduced = start, _reduced_cost(cost, start)
        if last or (level != levels[0] and level <= _COARSE_SHARE * spread):
            origin, reduced = start, _reduced_cost(cost if last else some, start)
        shift = (start - origin).float()
        kernel, point, factors = _newton(reduced, fine if last else coarse, shift, level, _FINE_TOLERANCE if last else tolerance)
        found = origin + point.potential
        if level < higher:
            drift = (found - potential) / (level - higher)
        potential, higher = found, level
    if factors is None or factors.which is not None or factors.error > _CLOSE:
        expected = point.value.new_full((len(cost),), _FINE_TOLERANCE / 10)
        factors = _factors(kernel, point, expected, list(range(len(cost))))
    del reduced
    kernel, point, _ = _newton(cost, _Masses.of(problems, 1, torch.float64), potential, epsilon, _FINAL_TOLERANCE, factors)
    error = (kernel.masses.column - point.column_mass).abs().sum(1)
    plan = kernel.conditional.mul_(point.scale.unsqueeze(1)).mul_((kernel.masses.row / point.sums).unsqueeze(2))
    return Solution(point.value, plan, error)


def _reduced_cost(cost: Tensor, potential: Tensor) -> Tensor:
    """(problems, n, m) float32 costs less the columns' potentials and each row's least: hardly rounded where a plan has its mass."""
    reduced = cost - potential.unsqueeze(1)
    return reduced.sub_(reduced.amin(2, keepdim=True)).float()


class _Factors(NamedTuple):
    """Newton systems of some problems, factorised: LU and pivots as LAPACK has them."""

    which: Tensor | None  # numbers of the problems; None for all of them
    lower_upper: Tensor
    pivots: Tensor
    error: float  # largest L1 error of the column masses where they were made


def _newton(
    cost: Tensor, masses: _Masses, potential: Tensor, epsilon: float, tolerance: float, factors: _Factors | None = None
) -> tuple[_Kernel, _DualPoint, _Factors | None]:
    """Maximises concave semi-duals from `potential` by regularised Newton steps with backtracking.

    The problems take their steps together; one that has reached the tolerance, or that no step improves, stays where it is. Newton systems
    are kept while the error falls (Shamanskii's method): a step without a new one takes a tenth of the time.

    Args:
        cost: (problems, n, m).
        masses: Of rows and columns.
        potential: (problems, m), where to start.
        epsilon: In cost units.
        tolerance: L1 error of the column masses at which to stop.
        factors: Newton systems of a point close by, in any dtype.

    Returns:
        The last kernel, point and Newton systems.
    """
    kernel = _kernel(cost, masses, potential, epsilon)
    point = kernel.at(torch.zeros_like(potential))
    stuck = [False] * len(cost)
    before, scaling = [math.inf] * len(cost), factors is None
    for _ in range(_MAX_NEWTON_STEPS):
        residual = masses.column - point.column_mass
        error = residual.abs().sum(1)
        errors = error.tolist()
        moving = [k for k, (value, ends) in enumerate(zip(errors, stuck, strict=True)) if value > tolerance and not ends]
        if not moving:
            break
        if point.shift.abs().max() > _FAR:
            kernel = _kernel(cost, masses, point.potential, epsilon)
            point = kernel.at(torch.zeros_like(potential))
        scaling = scaling and max(errors) > _SCALED and not any(errors[k] > before[k] / _WORTH_SCALING for k in moving)
        if scaling:  # a Sinkhorn iteration
            direction = torch.nan_to_num((masses.column / point.column_mass).log_(), 0, 0, 0)
        else:
            if factors is None or any(errors[k] > before[k] / _FAST for k in moving):
                factors = _factors(kernel, point, error, moving)
            direction = _direction(factors, residual)
            if not math.isfinite(direction.sum().item()):  # a system that is singular to rounding, which float32 has more of
                factors = _factors(kernel, point, error, moving)
                direction = torch.nan_to_num(_direction(factors, residual), 0, 0, 0)
        before = errors
        # The dual is a sum of log-sum-exps of g / eps: its quadratic model holds over a few units of that.
        direction = direction.clamp_(-_MAX_STEP, _MAX_STEP)
        step = torch.ones_like(error)
        if len(moving) < len(cost):
            step = torch.zeros_like(step).index_fill_(0, _numbers(moving, cost), 1)
        slope = (residual * direction).sum(1).mul_(epsilon)
        rounding = 500 * torch.finfo(cost.dtype).eps * (point.value.abs() + epsilon)
        while True:
            trial = kernel.at(torch.addcmul(point.shift, direction, step.unsqueeze(1)))
            worse = (step > 0) & ~(trial.value - point.value >= 1e-4 * step * slope - rounding)
            if not worse.any():
                break
            step = torch.where(worse, step / 2, step)
            step = torch.where(step > _MIN_STEP, step, 0)
            if not step.all():
                for k in moving:
                    stuck[k] = stuck[k] or not step[k] > 0
        point = trial
    return kernel, point, factors


def _numbers(which: list[int], like: Tensor) -> Tensor:
    return torch.tensor(which, device=like.device)


def _factors(kernel: _Kernel, point: _DualPoint, error: Tensor, which: list[int]) -> _Factors:
    """The Newton systems of some problems at a point with an L1 error (problems,) of its column masses.

    A row of the plan adds diag(p) - p p^T, which vanishes where nearly all of its mass is in one column. Such rows are left out as long as
    together they add less than the ridge, which fixes the constant, along which a dual is flat, and itself vanishes with the error.
    """
    conditional, scale, sums, mass, numbers = kernel.conditional, point.scale, point.sums, kernel.masses.row, None
    rows, columns = conditional.shape[1:]
    if len(which) < len(conditional):
        numbers = _numbers(which, conditional)
        conditional, scale, sums, mass, error = (part[numbers] for part in (conditional, scale, sums, mass, error))
    plan = conditional * scale.unsqueeze(1)  # times the sums
    largest = error.max().item()
    error, present = error.unsqueeze(1), (mass > 0).to(plan.dtype).expand_as(sums)
    spread_out = (1 - plan.amax(2) / sums).mul_(present)
    count = max(1, int((spread_out > _CONCENTRATED * error).sum(1).max()))
    if count < _WORTH_CHOOSING * rows:
        chosen = spread_out.topk(count, dim=1).indices
        sums, present = sums.gather(1, chosen), present.gather(1, chosen)
        chosen = chosen + rows * torch.arange(len(plan), device=plan.device).unsqueeze(1)
        plan = plan.view(-1, columns).index_select(0, chosen.flatten()).view(len(plan), count, columns)
    plan.mul_((present / sums).unsqueeze(2))
    hessian = torch.bmm(plan.mT, plan).neg_()
    hessian.diagonal(dim1=1, dim2=2).add_(plan.sum(1))
    hessian.mul_(mass.amax(1)[:, None, None])
    # Residuals sum to 0: a constant changes no step, but without it elimination makes denormal numbers, which are many times slower.
    hessian.add_(1 / columns**2)
    least = 10 * torch.finfo(torch.float32).eps if plan.dtype == torch.float32 else 1e-10  # below, rounding makes a system singular
    hessian.diagonal(dim1=1, dim2=2).add_((0.1 * error + least) / columns)
    # By LU: at these sizes LAPACK's takes half the time of its Cholesky.
    lower_upper, pivots, _ = torch.linalg.lu_factor_ex(hessian)
    return _Factors(numbers, lower_upper, pivots, largest)


def _direction(factors: _Factors, residual: Tensor) -> Tensor:
    """(problems, m) steps in units of epsilon, in the dtype of the residual; 0 where there is no system."""
    right = residual if factors.which is None else residual[factors.which]
    right = right.to(factors.lower_upper.dtype).unsqueeze(2)
    found = torch.linalg.lu_solve(factors.lower_upper, factors.pivots, right).squeeze(2).to(residual.dtype)
    return found if factors.which is None else torch.zeros_like(residual).index_copy_(0, factors.which, found)


def _kernel(cost: Tensor, masses: _Masses, potential: Tensor, epsilon: float) -> _Kernel:
    """The kernel at potentials: rows of exp((g_j - C_ij) / eps), divided by their sums."""
    weights = torch.add((potential / epsilon).unsqueeze(1), cost, alpha=-1 / epsilon)
    top = weights.amax(2, keepdim=True)
    # Smaller weights count for nothing, but products of them are denormal numbers, twenty times slower.
    weights.sub_(top).clamp_(min=_SMALLEST[cost.dtype]).exp_()
    total = weights.sum(2, keepdim=True)
    row_potential = (top + total.log()).squeeze(2).sub_(masses.log_columns).mul_(-epsilon)
    return _Kernel(masses, potential, row_potential, weights.mul_(total.reciprocal_()), epsilon)
