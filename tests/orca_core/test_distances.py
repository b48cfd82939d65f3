"""Distances of the alignment stage: closed forms, fixtures of the reference, POT as a second road, finite differences."""

from __future__ import annotations

import math
import warnings
from pathlib import Path

import numpy as np
import ot
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from orca_core.distances import annealed, otdd_distance, semidual, sinkhorn
from orca_core.distances.annealed import annealed_divergence, annealing_schedule
from orca_core.distances.l2_distance import l2, l2_in_order
from orca_core.distances.label_distances import nuclear_norms
from orca_core.distances.mmd_distance import mmd, mmd_of_equal_size
from orca_core.distances.otdd_distance import OtddSource, otdd
from orca_core.distances.sinkhorn import (
    Near,
    near_samples,
    reach,
    self_transport_cost,
    self_transport_of,
    self_transport_of_blocks,
    self_transport_plans,
    squared_distances,
    squared_distances_above,
    transport_cost,
    transport_costs,
    transport_plans,
)
from orca_core.errors import NotFiniteError

FIXTURES = Path(__file__).parents[1] / "fixtures" / "otdd"
OTDD_FIXTURES = ["c01_small", "c02_medium", "c05_tinyclass_m2", "c12_whole_small"]
KEY = {"exact": "exact", "gaussian": "gauss"}
both_inners = pytest.mark.parametrize("inner", ["exact", "gaussian"])


def fixture(name: str) -> dict[str, Tensor]:
    with np.load(FIXTURES / f"{name}.npz") as file:
        return {key: torch.as_tensor(file[key]) for key in file.files}


def normal(*shape: int, seed: int = 0, scale: float = 1.0, shift: float = 0.0, dtype: torch.dtype = torch.float64) -> Tensor:
    return (torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * scale + shift).to(dtype)


def number_labels(num_samples: int = 30, num_features: int = 4) -> tuple[Tensor, Tensor]:
    y = torch.arange(num_samples) % 3
    return normal(num_samples, num_features) + normal(3, num_features, seed=1)[y], y


def one_class(x: Tensor) -> Tensor:
    return torch.zeros(len(x), dtype=torch.long)


def value_and_gradient(source: OtddSource, x: Tensor, y: Tensor | None = None, label_gradient: str = "true") -> tuple[float, Tensor]:
    x = x.clone().requires_grad_()
    value = source.distance(x, y, label_gradient=label_gradient)
    return value.item(), torch.autograd.grad(value, x)[0]


def cosine(a: Tensor, b: Tensor) -> float:
    return torch.nn.functional.cosine_similarity(a.flatten().double(), b.flatten().double(), dim=0).item()


# Transport


def test_transport_cost_of_a_two_by_two_problem_worked_by_hand() -> None:
    # By symmetry P = [[p, q], [q, p]] / 2 with p = 1 / (1 + exp(-1 / eps)); the cost is q plus eps times KL to the uniform plan.
    epsilon = 0.5
    p = 1 / (1 + np.exp(-1 / epsilon))
    expected = (1 - p) + epsilon * (p * np.log(2 * p) + (1 - p) * np.log(2 * (1 - p)))
    cost = torch.tensor([[0.0, 1.0], [1.0, 0.0]], dtype=torch.float64)
    assert transport_cost(cost, epsilon).item() == pytest.approx(expected, rel=1e-9)
    assert self_transport_cost(cost, epsilon).item() == pytest.approx(expected, rel=1e-9)


def test_transport_cost_and_plan_agree_with_pot() -> None:
    cost = squared_distances(normal(20, 3), normal(13, 3, seed=1)).requires_grad_()
    value = transport_cost(cost, 0.5)
    (plan,) = torch.autograd.grad(value, cost)
    a, b = np.full(20, 1 / 20), np.full(13, 1 / 13)
    expected = ot.sinkhorn(a, b, cost.detach().numpy(), 0.5, method="sinkhorn_log", numItermax=20_000, stopThr=1e-12)
    np.testing.assert_allclose(plan.numpy(), expected, atol=1e-8)
    divergence = (expected * np.log(expected / np.outer(a, b))).sum()
    assert value.item() == pytest.approx((expected * cost.detach().numpy()).sum() + 0.5 * divergence, rel=1e-8)


@pytest.mark.parametrize("scale", [1.0, 10.0, 100.0])
def test_transport_with_costs_far_above_epsilon_nears_the_linear_programme(scale: float) -> None:
    cost = squared_distances(normal(60, 16, scale=scale), normal(25, 16, seed=1, scale=scale))
    unregularised = ot.emd2([], [], cost.numpy())
    # The plan's entropy relative to the product of the masses lies between 0 and log(25).
    assert 0 <= transport_cost(cost, 0.1).item() - unregularised <= 0.1 * np.log(25)


def test_transport_plan_has_the_masses_asked_for_between_far_clusters() -> None:
    x, y = normal(40, 2), normal(30, 2, seed=1)
    x[20:] += 1000
    y[9:] += 1000
    cost = squared_distances(x, y).requires_grad_()
    (plan,) = torch.autograd.grad(transport_cost(cost, 0.1), cost)
    assert (plan.sum(1) - 1 / 40).abs().sum() < 1e-6
    assert (plan.sum(0) - 1 / 30).abs().sum() < 1e-6


def test_transport_plan_has_the_masses_asked_for_where_costs_are_heavy_tailed_and_far_above_epsilon() -> None:
    spread = torch.logspace(1.5, -2, 64, dtype=torch.float64)
    x, y = (1 + normal(400, 1).abs()) * normal(400, 64, seed=1) * spread, normal(60, 64, seed=2) * spread
    cost = squared_distances(x, y).requires_grad_()
    (plan,) = torch.autograd.grad(transport_cost(cost, 0.1), cost)
    assert cost.max() > 1e4
    assert (plan.sum(1) - 1 / 400).abs().sum() < 1e-6
    assert (plan.sum(0) - 1 / 60).abs().sum() <= 1.01e-6


@pytest.mark.parametrize("shape", [(30, 8), (8, 30)])
def test_problems_solved_together_have_the_values_and_plans_of_each(shape: tuple[int, int]) -> None:
    n, m = shape
    costs = torch.stack([squared_distances(normal(n, 4, seed=k, scale=1 + 9 * k), normal(m, 4, seed=9)) for k in range(3)]).requires_grad_()
    weights = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)
    values = transport_costs(costs, 0.1)
    (plans,) = torch.autograd.grad(values @ weights, costs)
    for cost, value, plan, weight in zip(costs, values, plans, weights, strict=True):
        alone = cost.detach().requires_grad_()
        expected = transport_cost(alone, 0.1)
        (expected_plan,) = torch.autograd.grad(expected, alone)
        assert value.item() == pytest.approx(expected.item(), rel=1e-9)
        torch.testing.assert_close(plan / weight, expected_plan, rtol=0, atol=1e-7)


@pytest.mark.parametrize("transposed", [False, True])
def test_padded_problems_have_the_values_and_plans_of_those_without(transposed: bool) -> None:
    shapes = [(30, 8), (25, 6), (28, 7)]
    clouds = [(normal(n, 4, seed=k, scale=1 + 9 * k), normal(m, 4, seed=9)) for k, (n, m) in enumerate(shapes)]
    costs = [squared_distances(*(pair[::-1] if transposed else pair)) for pair in clouds]
    rows, columns = torch.tensor([list(cost.shape) for cost in costs]).unbind(1)
    padded = torch.full((3, int(rows.max()), int(columns.max())), torch.inf, dtype=torch.float64)
    for part, cost in zip(padded, costs, strict=True):
        part[: len(cost), : cost.shape[1]] = cost
        part[len(cost) :, : cost.shape[1]] = 5
    values, plans = transport_plans(padded, 0.1, rows, columns)
    for cost, value, plan in zip(costs, values, plans, strict=True):
        alone = cost.clone().requires_grad_()
        expected = transport_cost(alone, 0.1)
        assert value.item() == pytest.approx(expected.item(), rel=1e-9)
        torch.testing.assert_close(plan[: len(cost), : cost.shape[1]], torch.autograd.grad(expected, alone)[0], rtol=0, atol=1e-7)


def test_rows_left_out_at_first_change_neither_value_nor_plan(monkeypatch: pytest.MonkeyPatch) -> None:
    cost = squared_distances(normal(400, 8, scale=3), normal(6, 8, seed=1, scale=3))
    value, plan = transport_plans(cost.unsqueeze(0), 0.1)
    monkeypatch.setattr(semidual, "_COARSE_ROWS", 400)
    expected, expected_plan = transport_plans(cost.unsqueeze(0), 0.1)
    assert value.item() == pytest.approx(expected.item(), rel=1e-12)
    torch.testing.assert_close(plan, expected_plan, rtol=0, atol=1e-8)


def test_few_columns_and_costs_ten_million_times_epsilon_converge_by_finer_annealing() -> None:
    cost = squared_distances(normal(150, 64, scale=108), normal(7, 64, seed=1, scale=108))
    unregularised = ot.emd2([], [], cost.numpy())
    with sinkhorn.count_unconverged() as unconverged:
        assert 0 <= transport_cost(cost, 0.1).item() - unregularised <= 0.1 * np.log(7)
    assert unconverged.count == 0


def test_transport_of_a_cloud_to_itself_without_its_isolated_samples_is_that_of_all() -> None:
    x = normal(60, 3)
    x[20:] *= 50  # at eps = 0.1 a sample exchanges mass up to a distance of 2.1
    leaf, dense = x.clone().requires_grad_(), x.clone().requires_grad_()
    near = near_samples(x, reach(0.1, 60)).which
    assert near is not None
    assert 20 <= len(near) < 40
    value, expected = self_transport_of(leaf, 0.1), self_transport_cost(squared_distances(dense, dense), 0.1)
    assert value.item() == pytest.approx(expected.item(), rel=1e-12)
    gradient, expected_gradient = torch.autograd.grad(value, leaf)[0], torch.autograd.grad(expected, dense)[0]
    torch.testing.assert_close(gradient, expected_gradient, rtol=0, atol=1e-7)  # the iterations may end one apart


def test_samples_that_are_all_alone_keep_their_mass() -> None:
    # The plan is the identity over n: its entropy relative to the product of the masses is log n.
    x = 100 * torch.arange(8, dtype=torch.float64).unsqueeze(1)
    assert self_transport_of(x, 0.5).item() == pytest.approx(0.5 * math.log(8), rel=1e-12)


@both_inners
def test_a_source_of_which_some_classes_touch_is_prepared_as_if_all_did(inner: str, monkeypatch: pytest.MonkeyPatch) -> None:
    y = torch.arange(60) % 4
    x = normal(60, 3) + torch.tensor([0.0, 1.0, 200.0, 400.0], dtype=torch.float64)[y].unsqueeze(1)  # classes 0 and 1 touch
    target = normal(9, 3, seed=1)
    value = otdd(x, y, target, inner=inner).item()
    monkeypatch.setattr(otdd_distance, "near_samples", lambda x, limit: Near(None, None))
    monkeypatch.setattr(sinkhorn, "near_samples", lambda x, limit: Near(None, None))
    assert value == pytest.approx(otdd(x, y, target, inner=inner).item(), rel=1e-12)


def test_transport_of_a_cloud_to_itself_from_costs_given_once_is_that_from_all() -> None:
    x = normal(60, 3)
    blocks = squared_distances_above(x.split([25, 0, 1, 34]))
    expected = self_transport_cost(squared_distances(x, x), 0.1).item()
    assert self_transport_of_blocks(blocks, 0.1).item() == pytest.approx(expected, rel=1e-12)


def test_clouds_of_unlike_sizes_have_the_transports_to_themselves_of_each() -> None:
    clouds = [normal(size, 3, seed=size) for size in (12, 1, 9)]
    cost = torch.stack([F.pad(squared_distances(x, x), (0, 12 - len(x)) * 2, value=7.0) for x in clouds])
    values, plans = self_transport_plans(cost, 0.5, torch.tensor([12, 1, 9]))
    for value, plan, x in zip(values, plans, clouds, strict=True):
        own = squared_distances(x, x).requires_grad_()
        expected = self_transport_cost(own, 0.5)
        assert value.item() == pytest.approx(expected.item(), rel=1e-10, abs=1e-12)
        expected_plan = F.pad(torch.autograd.grad(expected, own)[0], (0, 12 - len(x)) * 2)
        torch.testing.assert_close(plan, expected_plan, rtol=0, atol=1e-7)


@pytest.mark.parametrize("shape", [(9, 5), (5, 9)])
def test_nuclear_norms_and_their_gradients_are_those_of_singular_values(shape: tuple[int, int]) -> None:
    full, low = normal(*shape), normal(shape[0], 3) @ normal(3, shape[1], seed=1)
    matrices = torch.stack([full, low, torch.zeros_like(full)])
    sums, gradients = nuclear_norms(matrices, torch.tensor([5, 3, 0]))
    torch.testing.assert_close(sums, torch.linalg.svdvals(matrices).sum(1))
    for matrix, gradient, rank in zip(matrices, gradients, (5, 3, 0), strict=True):
        left, _, right = torch.linalg.svd(matrix, full_matrices=False)
        torch.testing.assert_close(gradient, left[:, :rank] @ right[:rank], rtol=0, atol=1e-9)


@pytest.mark.parametrize("bad", [torch.inf, torch.nan])
def test_transport_cost_that_is_not_finite_ends_and_shows(bad: float) -> None:
    cost = torch.full((4, 3), bad, dtype=torch.float64)
    assert not transport_cost(cost, 0.1).isfinite()


# OTDD against the reference's numbers


@both_inners
@pytest.mark.parametrize("name", OTDD_FIXTURES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_otdd_agrees_with_the_converged_reference(name: str, inner: str, dtype: torch.dtype) -> None:
    data, key = fixture(name), KEY[inner]
    source = OtddSource(data["xs"].to(dtype), data["ys"], inner=inner)
    value, gradient = value_and_gradient(source, data["xt"].to(dtype), data.get("yt"), "reference")
    still_moving = name == "c12_whole_small"
    assert value == pytest.approx(data[f"{key}_value_converged"].item(), rel=3e-3 if still_moving else 1e-5)
    assert cosine(gradient, data[f"{key}_grad_converged"]) > (0.99 if still_moving else 0.9999)


@both_inners
@pytest.mark.parametrize("name", OTDD_FIXTURES)
def test_label_distances_agree_with_the_reference(name: str, inner: str) -> None:
    data = fixture(name)
    reference = data[f"{KEY[inner]}_W_f64"]
    source = OtddSource(data["xs"], data["ys"], inner=inner)
    found = source.label_distances(data["xt"], data.get("yt")).double()
    num_source = found.shape[1]
    tolerance = {"exact": 5e-3, "gaussian": 1e-4}[inner] * reference.max().item()
    torch.testing.assert_close(found, reference[num_source:, :num_source], atol=tolerance, rtol=0)


@pytest.mark.parametrize("name", OTDD_FIXTURES)
def test_gaussian_label_gradients_split_the_references_converged_gradient(name: str) -> None:
    data = fixture(name)
    source = OtddSource(data["xs"].double(), data["ys"], inner="gaussian")
    _, true = value_and_gradient(source, data["xt"].double(), data.get("yt"), "true")
    _, none = value_and_gradient(source, data["xt"].double(), data.get("yt"), "none")
    # The reference counts the label term twice. Its two split gradients are of the value before convergence: less close.
    assert cosine(2 * true - none, data["gauss_grad_converged"]) > 0.99
    assert cosine(true, data["gauss_grad_true_f64"]) > 0.97
    assert cosine(none, data["gauss_grad_featureonly_f64"]) > 0.95


@both_inners
@pytest.mark.parametrize("name", OTDD_FIXTURES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_annealed_otdd_is_the_reference_as_it_runs(name: str, inner: str, dtype: torch.dtype) -> None:
    data, key = fixture(name), KEY[inner]
    suffix = "" if dtype == torch.float32 else "_f64"
    source = OtddSource(data["xs"].to(dtype), data["ys"], inner=inner, solver="annealed")
    target = data["xt"].to(dtype)
    value, gradient = value_and_gradient(source, target, data.get("yt"), "reference")
    assert gradient.dtype == dtype
    assert value == pytest.approx(data[f"{key}_value{suffix}"].item(), rel=1e-6 if dtype == torch.float32 else 1e-12)
    assert cosine(gradient, data[f"{key}_grad"]) > 0.999999
    assert gradient.norm().item() == pytest.approx(data[f"{key}_grad"].norm().item(), rel=1e-4)
    reference = data[f"{key}_W{suffix}"]
    found = source.label_distances(target, data.get("yt"))
    num_source = found.shape[1]
    torch.testing.assert_close(found, reference[num_source:, :num_source], atol=1e-6 * reference.max().item(), rtol=0)


@pytest.mark.parametrize("name", OTDD_FIXTURES)
def test_annealed_gaussian_label_gradients_are_the_references_parts(name: str) -> None:
    data = fixture(name)
    source = OtddSource(data["xs"].double(), data["ys"], inner="gaussian", solver="annealed")
    for label_gradient, key in [("true", "gauss_grad_true_f64"), ("none", "gauss_grad_featureonly_f64")]:
        _, gradient = value_and_gradient(source, data["xt"].double(), data.get("yt"), label_gradient)
        assert cosine(gradient, data[key]) > 0.999999


def test_annealed_divergence_of_two_points_worked_by_hand() -> None:
    # One point a side: the soft minimum is C less the other potential. Starting from C both become C / 2, and stay; the value is their sum.
    cost, zero = torch.full((1, 1), 7.0), torch.zeros(1, 1)
    assert annealed_divergence(cost, cost, zero, zero, diameter=7**0.5, epsilon=0.1).item() == pytest.approx(7)


@pytest.mark.parametrize("solver", ["converged", "annealed"])
@pytest.mark.parametrize("epsilon", [50.0, 500.0])
def test_both_solvers_agree_where_epsilon_is_far_above_the_costs(solver: str, epsilon: float) -> None:
    # As eps grows, all plans become the product of the masses: mean C_xy - (mean C_xx + mean C_yy) / 2.
    x, y = normal(30, 3, scale=0.2), normal(20, 3, seed=1, scale=0.2, shift=1)
    costs = [squared_distances(*pair).mean().item() for pair in [(x, y), (x, x), (y, y)]]
    found = OtddSource(x, one_class(x), entropic_reg=epsilon, solver=solver).label_distances(y).item()
    assert found == pytest.approx(costs[0] - (costs[1] + costs[2]) / 2, rel=2 / epsilon)


def test_soft_minima_in_blocks_are_those_of_logsumexp_to_the_last_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(annealed, "_BLOCK", 1000)
    clouds = [normal(90, 8, seed=seed, scale=5, dtype=torch.float32) for seed in range(3)]
    cost, potential = torch.stack([squared_distances(x, clouds[0]) for x in clouds]), normal(3, 90, dtype=torch.float32)
    for epsilon in torch.tensor([[100.0, 30, 10], [3, 1, 0.3], [0.1, 0.03, 0.01]]).unsqueeze(2):
        exponents = (potential / epsilon - math.log(90)).unsqueeze(1) - cost / epsilon.unsqueeze(2)
        assert torch.equal(annealed._soft_minimum(cost, potential, epsilon), -epsilon * exponents.logsumexp(2))


def test_annealing_starts_twice_at_the_squared_diameter_and_ends_at_epsilon() -> None:
    assert annealing_schedule(8.0, 0.1) == pytest.approx([64, 64, 16, 4, 1, 0.25, 0.1])
    assert annealing_schedule(0.1, 0.1) == pytest.approx([0.01, 0.1])  # a cloud smaller than epsilon is warmed up, as in the release
    assert annealing_schedule(0.0, 0.1)[-1] == 0.1


@both_inners
def test_the_distance_comes_with_the_label_distances_it_was_made_with(inner: str) -> None:
    x, y = normal(6, 4, seed=3), torch.arange(6) % 2
    for solver in ("converged", "annealed"):
        source = OtddSource(*number_labels(), inner=inner, solver=solver)
        value, distances = source.distance_and_labels(x, y)
        assert value.item() == source.distance(x, y).item()
        assert torch.equal(distances, source.label_distances(x, y))
        assert distances.shape == (2, 3)


# OTDD in closed form and by its properties


@both_inners
def test_otdd_of_single_points_is_their_squared_distance(inner: str) -> None:
    # |x - x'|^2 = 25 for the features; the label distance of two Dirac masses is 25 too; both are halved.
    source_x, target_x = torch.tensor([[0.0, 0.0]]), torch.tensor([[3.0, 4.0]])
    assert otdd(source_x, torch.tensor([0]), target_x, inner=inner).item() == pytest.approx(25, rel=1e-6)


@both_inners
@pytest.mark.parametrize("shift", [10.0, 1000.0])
def test_otdd_of_a_class_and_its_shifted_copy_is_the_squared_shift(inner: str, shift: float) -> None:
    x = normal(40, 3)
    moved = x + torch.tensor([shift, 0, 0])
    assert otdd(x, one_class(x), moved, inner=inner).item() == pytest.approx(shift**2, rel=1e-6)


def test_gaussian_label_distance_of_two_unit_gaussians_ten_apart_is_100() -> None:
    # Whitened to covariance I exactly, so that the closed form |m1 - m2|^2 = 100 holds exactly.
    def unit(x: Tensor) -> Tensor:
        centred = x - x.mean(0)
        return centred @ torch.linalg.inv(torch.linalg.cholesky(torch.cov(centred.mT))).mT

    x, y = unit(normal(50, 4)), unit(normal(31, 4, seed=1)) + torch.tensor([10.0, 0, 0, 0])
    assert OtddSource(x, one_class(x), inner="gaussian").label_distances(y).item() == pytest.approx(100, rel=1e-9)


@pytest.mark.parametrize(("n", "m", "d"), [(40, 25, 5), (15, 70, 12)])
def test_gaussian_label_distance_agrees_with_pot(n: int, m: int, d: int) -> None:
    x, y = normal(n, d), normal(m, d, seed=1, scale=2, shift=1)
    mean_x, mean_y, cov_x, cov_y = (z.numpy() for z in (x.mean(0), y.mean(0), torch.cov(x.mT), torch.cov(y.mT)))
    expected = ot.gaussian.bures_wasserstein_distance(mean_x, mean_y, cov_x, cov_y) ** 2
    assert OtddSource(x, one_class(x), inner="gaussian").label_distances(y).item() == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(("n", "m", "d"), [(6, 30, 12), (9, 5, 64), (30, 2, 8)])
def test_gaussian_label_distance_with_covariances_of_low_rank(n: int, m: int, d: int) -> None:
    x, y = normal(n, d), normal(m, d, seed=1, scale=2, shift=1)
    cov_x, cov_y = torch.cov(x.mT), torch.cov(y.mT)
    # The eigenvalues of S1 S2 are those of S1^1/2 S2 S1^1/2.
    cross_term = torch.linalg.eigvals(cov_x @ cov_y).real.clamp(min=0).sqrt().sum()
    expected = (x.mean(0) - y.mean(0)).square().sum() + cov_x.trace() + cov_y.trace() - 2 * cross_term
    assert OtddSource(x, one_class(x), inner="gaussian").label_distances(y).item() == pytest.approx(expected.item(), rel=1e-5)


@pytest.mark.parametrize("smallest", [1e-2, 1e-8])  # above and below what eigenvalues resolve
def test_gaussian_label_distances_with_a_graded_spectrum_and_their_gradient(smallest: float) -> None:
    spread = torch.logspace(0, np.log10(smallest), 20, dtype=torch.float64)
    x, y, target = normal(60, 20) * spread, torch.arange(60) % 2, normal(9, 20, seed=1) * spread
    source = OtddSource(x, y, inner="gaussian")

    def expected(target: Tensor) -> Tensor:
        factors = [(z - z.mean(0)).mT / (len(z) - 1) ** 0.5 for z in (x[y == 0], x[y == 1], target)]
        means = [x[y == 0].mean(0), x[y == 1].mean(0)]
        traces = [factor.square().sum() for factor in factors]
        cross_terms = [torch.linalg.svdvals(factor.mT @ factors[2]).sum() for factor in factors[:2]]
        return torch.stack([(means[k] - target.mean(0)).square().sum() + traces[k] + traces[2] - 2 * cross_terms[k] for k in range(2)])

    torch.testing.assert_close(source.label_distances(target)[0], expected(target), rtol=1e-9, atol=1e-12)
    # Along the widest features, where finite differences are not all rounding.
    leaf, direction, step = target.clone().requires_grad_(), normal(9, 20, seed=2) * spread, 1e-4
    (gradient,) = torch.autograd.grad(source.label_distances(leaf).sum(), leaf)
    ahead, behind = (expected(target + sign * step * direction).sum().item() for sign in (1, -1))
    assert (gradient * direction).sum().item() == pytest.approx((ahead - behind) / (2 * step), rel=1e-5)


def test_exact_label_distance_agrees_with_pots_sinkhorn_divergence() -> None:
    x, y = normal(15, 2), normal(12, 2, seed=1, shift=1)
    found = OtddSource(x, one_class(x), inner="exact", entropic_reg=0.5).label_distances(y).item()

    def cost(x: Tensor, y: Tensor) -> float:
        c, mass = squared_distances(x, y).numpy(), 1 / (len(x) * len(y))
        plan = ot.sinkhorn([], [], c, 0.5, method="sinkhorn_log", numItermax=20_000, stopThr=1e-12)
        return float((plan * c + 0.5 * plan * np.log(plan / mass)).sum())

    assert found == pytest.approx(cost(x, y) - (cost(x, x) + cost(y, y)) / 2, rel=1e-7)


@both_inners
@pytest.mark.parametrize("n", [1, 2, 3, 7, 60])
def test_otdd_of_a_cloud_to_itself_is_zero(inner: str, n: int) -> None:
    x, y = normal(n, 5), torch.arange(n) % 3 * 7
    assert otdd(x, y, x, y, inner=inner).item() == pytest.approx(0, abs=1e-7)
    value, gradient = value_and_gradient(OtddSource(x, one_class(x), inner=inner), x)
    assert value == pytest.approx(0, abs=1e-7)
    assert gradient.abs().max() < 1e-5


@both_inners
@pytest.mark.parametrize("target_y", [None, torch.arange(6) % 2])
def test_true_gradient_agrees_with_finite_differences(inner: str, target_y: Tensor | None) -> None:
    source = OtddSource(*number_labels(), inner=inner)
    x, direction, step = normal(6, 4, seed=3), normal(6, 4, seed=4), 1e-4
    _, gradient = value_and_gradient(source, x, target_y)
    ahead, behind = (source.distance(x + sign * step * direction, target_y).item() for sign in (1, -1))
    assert (gradient * direction).sum().item() == pytest.approx((ahead - behind) / (2 * step), rel=1e-4)


def test_reference_label_gradient_is_none_for_exact_and_double_for_gaussian() -> None:
    x = normal(6, 4, seed=3)
    exact, gaussian = (OtddSource(*number_labels(), inner=inner) for inner in ("exact", "gaussian"))
    assert torch.equal(value_and_gradient(exact, x, None, "reference")[1], value_and_gradient(exact, x, None, "none")[1])
    true, none, reference = (value_and_gradient(gaussian, x, None, kind)[1] for kind in ("true", "none", "reference"))
    torch.testing.assert_close(reference - none, 2 * (true - none))


@both_inners
def test_label_gradient_leaves_the_value_alone(inner: str) -> None:
    source, x = OtddSource(*number_labels(), inner=inner), normal(6, 4, seed=3)
    assert len({value_and_gradient(source, x, None, kind)[0] for kind in ("true", "none", "reference")}) == 1


@both_inners
def test_otdd_does_not_depend_on_sample_order_or_label_names(inner: str) -> None:
    (x, y), target = number_labels(), normal(8, 4, seed=3)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(5))
    expected = otdd(x, y, target, inner=inner).item()
    assert otdd(x[order], y[order], target.flip(0), inner=inner).item() == pytest.approx(expected, rel=1e-9)
    assert otdd(x, torch.tensor([40, -3, 1000])[y], target, inner=inner).item() == pytest.approx(expected, rel=1e-9)


@both_inners
def test_otdd_is_symmetric(inner: str) -> None:
    (x, y), target, target_y = number_labels(), normal(8, 4, seed=3), torch.arange(8) % 2
    there, back = otdd(x, y, target, target_y, inner=inner), otdd(target, target_y, x, y, inner=inner)
    assert there.item() == pytest.approx(back.item(), rel=1e-7)


@both_inners
def test_singleton_classes_are_dropped_on_either_side_unless_nothing_remains(inner: str) -> None:
    (x, y), target, target_y = number_labels(), normal(6, 4, seed=3), torch.tensor([0, 0, 0, 1, 1, 9])
    with_single = torch.cat([x, normal(1, 4, seed=6, shift=50)]), torch.cat([y, torch.tensor([77])])
    expected = otdd(x, y, target[:5], target_y[:5], inner=inner).item()
    assert otdd(*with_single, target, target_y, inner=inner).item() == expected
    assert OtddSource(*with_single, inner=inner).label_distances(target, target_y).shape == (2, 3)
    value, gradient = value_and_gradient(OtddSource(x, y, inner=inner), target[:1])
    assert value > 0
    assert gradient.isfinite().all()


@both_inners
@pytest.mark.parametrize("scale", [0.1, 10.0, 100.0])
def test_scaled_features_scale_the_distance_once_epsilon_goes_along(inner: str, scale: float) -> None:
    (x, y), target = number_labels(60, 16), normal(20, 16, seed=3, shift=0.3)
    expected = scale**2 * otdd(x, y, target, inner=inner).item()
    assert otdd(scale * x, y, scale * target, inner=inner, entropic_reg=0.1 * scale**2).item() == pytest.approx(expected, rel=1e-6)


@both_inners
@pytest.mark.parametrize("scale", [0.1, 10.0, 100.0])
def test_otdd_of_scaled_features_at_a_fixed_epsilon_is_positive_and_finite(inner: str, scale: float) -> None:
    x, y = number_labels(60, 16)
    value, gradient = value_and_gradient(OtddSource(scale * x, y, inner=inner), normal(20, 16, seed=3, scale=scale))
    assert 0 < value < np.inf
    assert gradient.isfinite().all()


@both_inners
def test_target_equal_to_a_source_class_has_label_distance_zero_to_it(inner: str) -> None:
    x, y = number_labels(60, 16)
    source = OtddSource(x, y, inner=inner)
    target = x[y == 1]
    distances = source.label_distances(target)[0]
    assert distances[1].item() == pytest.approx(0, abs=1e-6)
    assert (distances[[0, 2]] > 1).all()
    assert value_and_gradient(source, target)[1].isfinite().all()


@both_inners
def test_float32_is_close_to_float64(inner: str) -> None:
    (x, y), target = number_labels(60, 16), normal(20, 16, seed=3, scale=3)
    value, gradient = value_and_gradient(OtddSource(x, y, inner=inner), target)
    value_32, gradient_32 = value_and_gradient(OtddSource(x.float(), y, inner=inner), target.float())
    assert gradient_32.dtype == torch.float32
    assert value_32 == pytest.approx(value, rel=1e-6)
    torch.testing.assert_close(gradient_32.double(), gradient, rtol=1e-4, atol=1e-6)


@both_inners
@pytest.mark.parametrize("label_gradient", ["true", "none", "reference"])
def test_classes_together_have_the_distances_and_gradients_of_the_general_form(inner: str, label_gradient: str) -> None:
    y = torch.arange(60) % 4 % 3  # classes of 30, 15 and 15: neither all alike nor all apart
    x = normal(60, 6) + normal(3, 6, seed=1)[y]
    source, general = OtddSource(x, y, inner=inner), OtddSource(x, y, inner=inner)
    general._one_class = None
    leaves = [normal(m, 6, seed=m, shift=0.3).requires_grad_() for m in (9, 1, 12, 20, 11)]
    for leaf, (value, labels) in zip(leaves, source.distances_and_labels(leaves, label_gradient=label_gradient), strict=True):
        expected, expected_labels = general.distance_and_labels(leaf, label_gradient=label_gradient)
        assert value.item() == pytest.approx(expected.item(), rel=1e-8)
        torch.testing.assert_close(labels, expected_labels, rtol=1e-8, atol=1e-10)
        gradients = [torch.autograd.grad(one, leaf)[0] for one in (value, expected)]
        torch.testing.assert_close(*gradients, rtol=1e-5, atol=1e-6)


@both_inners
def test_repeated_calls_give_the_same_bits_whatever_was_called_between(inner: str) -> None:
    source, x = OtddSource(*number_labels(), inner=inner), normal(8, 4, seed=3)
    value, gradient = value_and_gradient(source, x)
    source.distance(normal(5, 4, seed=9))
    again, gradient_again = value_and_gradient(source, x)
    fresh, gradient_fresh = value_and_gradient(OtddSource(*number_labels(), inner=inner), x)
    assert value == again == fresh
    assert torch.equal(gradient, gradient_again)
    assert torch.equal(gradient, gradient_fresh)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"inner": "exakt"}, "inner: must be one of exact, gaussian, but got 'exakt'"),
        ({"label_gradient": "half"}, "label_gradient: must be one of true, none, reference, but got 'half'"),
        ({"solver": "anealed"}, "solver: must be one of converged, annealed, but got 'anealed'"),
        ({"entropic_reg": 0.0}, "entropic_reg: must be a finite number greater than 0, but got 0.0"),
        ({"entropic_reg": math.inf}, "entropic_reg: must be a finite number greater than 0, but got inf"),
        ({"source_x": torch.ones(4)}, r"source_x: must have shape \(samples, features\), neither of them 0, but got \(4,\)"),
        ({"source_x": torch.ones(4, 2).int()}, "source_x: must be float32 or float64, but got torch.int32"),
        ({"source_y": torch.zeros(3).long()}, r"source_y: must have one label per sample, shape \(4,\), but got \(3,\)"),
        ({"source_y": torch.zeros(4)}, "source_y: must hold integer labels, but got torch.float32"),
        ({"target_x": torch.ones(3, 5)}, "target_x: number of features must be that of source_x, 2, but got 5"),
        ({"target_x": torch.ones(3, 2).double()}, "target_x: dtype must be that of source_x, torch.float32, but got torch.float64"),
        ({"target_x": torch.ones(0, 2)}, r"target_x: must have shape \(samples, features\), neither of them 0, but got \(0, 2\)"),
    ],
)
def test_otdd_refuses_what_it_cannot_use_and_says_why(changes: dict[str, object], message: str) -> None:
    arguments = {"source_x": torch.ones(4, 2), "source_y": torch.zeros(4).long(), "target_x": torch.ones(3, 2), **changes}
    with pytest.raises(ValueError, match=message):
        otdd(**arguments)


def test_otdd_refuses_features_that_are_not_finite() -> None:
    x, y = number_labels()
    x[2, 1] = torch.nan
    with pytest.raises(NotFiniteError, match="source_x: every feature must be finite, but 1 of 120 are not"):
        otdd(x, y, normal(5, 4))


# MMD and l2


@pytest.mark.parametrize("name", ["mmd_l2_m01_small", "mmd_l2_m02_medium"])
def test_mmd_and_l2_agree_with_the_reference(name: str) -> None:
    data = fixture(name)
    for distance, rows, key in [(mmd_of_equal_size, "mmd_indices", "mmd"), (l2_in_order, "l2_order", "l2")]:
        x = data["xt"].clone().requires_grad_()
        options = {"count_partial": True} if key == "l2" else {}
        value = distance(data["xs"][data[rows]], x, **options)
        (gradient,) = torch.autograd.grad(value, x)
        assert value.item() == pytest.approx(data[f"{key}_value"].item(), rel=1e-5)
        torch.testing.assert_close(gradient, data[f"{key}_grad"], rtol=1e-4, atol=1e-7)


def test_mmd_of_two_points_worked_by_hand() -> None:
    # D = 1 both ways, so b = 2 / 2 / 4 and MMD = sum over i of 1 + 1 - 2 exp(-4 / 2^i).
    expected = sum(2 - 2 * np.exp(-4 / 2**i) for i in range(5))
    assert mmd_of_equal_size(torch.zeros(1, 1), torch.ones(1, 1)).item() == pytest.approx(expected, rel=1e-6)


def test_mmd_of_a_cloud_to_itself_is_zero_even_where_all_points_are_one() -> None:
    for x in (normal(9, 4), torch.ones(9, 4)):
        target = x.clone().requires_grad_()
        value = mmd_of_equal_size(x, target)
        (gradient,) = torch.autograd.grad(value, target)
        assert value.item() == pytest.approx(0, abs=1e-12)
        assert gradient.isfinite().all()


def test_l2_counts_full_batches_only_unless_told() -> None:
    # Batches of 2 out of 5 rows: distances 5, 5 and 10, 10; the fifth row is left over.
    source = torch.tensor([[3.0, 4.0], [3.0, 4.0], [6.0, 8.0], [6.0, 8.0], [0.0, 0.0]])
    target = torch.zeros(2, 2)
    assert l2_in_order(source, target).item() == pytest.approx(7.5, rel=1e-5)
    assert l2_in_order(source, target, count_partial=True).item() == pytest.approx(5.0, rel=1e-5)


def test_l2_with_fewer_source_rows_than_target_rows_uses_the_first_target_rows() -> None:
    source, target = torch.tensor([[3.0, 4.0]]), torch.tensor([[0.0, 0.0], [100.0, 100.0]])
    assert l2_in_order(source, target).item() == pytest.approx(5.0, rel=1e-5)
    assert l2_in_order(source, target, count_partial=True).item() == pytest.approx(5.0, rel=1e-5)


@pytest.mark.parametrize("distance", [mmd, l2])
def test_drawn_distances_depend_on_the_generator_alone(distance) -> None:  # type: ignore[no-untyped-def]
    source, target = normal(20, 3), normal(6, 3, seed=1)
    first, second, other = (distance(source, target, generator=torch.Generator().manual_seed(seed)).item() for seed in (1, 1, 2))
    assert first == second != other
    with pytest.raises(ValueError, match="target_x: number of features must be that of source_x, 3, but got 2"):
        distance(source, target[:, :2], generator=torch.Generator())


# Problems that do not converge


@pytest.fixture
def small_caps(monkeypatch):
    """Both solvers give up at once, as if in a process that has not warned yet."""
    for name, value in {"_MAX_SELF_ITERATIONS": 1, "_MAX_NEWTON_STEPS": 0, "_warned": False}.items():
        monkeypatch.setattr(semidual if hasattr(semidual, name) else sinkhorn, name, value)


def test_a_problem_that_stops_at_its_cap_is_counted_and_the_first_one_warns(small_caps) -> None:
    x = torch.linspace(0, 3, 12, dtype=torch.float64).reshape(6, 2)
    cost = squared_distances(x, x)
    with sinkhorn.count_unconverged() as outer:
        with pytest.warns(RuntimeWarning, match=r"self_transport_cost stopped at an error of .* A larger epsilon converges faster"):
            self_transport_cost(cost, 0.1)
        with sinkhorn.count_unconverged() as inner, warnings.catch_warnings():
            warnings.simplefilter("error")
            transport_cost(cost[:4], 0.1)
            transport_cost(cost, 0.1)
    assert (outer.count, inner.count) == (3, 2)


def test_a_problem_outside_of_any_count_is_not_lost_on_the_next_one(small_caps) -> None:
    cost = torch.tensor([[0.0, 2.0], [1.0, 0.0], [4.0, 0.5]], dtype=torch.float64)
    with pytest.warns(RuntimeWarning, match="transport_cost stopped"):
        transport_cost(cost, 0.1)
    with sinkhorn.count_unconverged() as unconverged:
        pass
    assert unconverged.count == 0


@pytest.mark.parametrize("inner", ["exact", "gaussian"])
def test_ordinary_problems_converge(inner: str) -> None:
    draws = torch.Generator().manual_seed(0)
    x, y = torch.randn(80, 8, generator=draws) * 5, torch.arange(80) % 4
    with sinkhorn.count_unconverged() as unconverged:
        otdd(x, y, torch.randn(30, 8, generator=draws) * 5, inner=inner)
    assert unconverged.count == 0
