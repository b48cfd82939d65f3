"""CORAL, sliced Wasserstein and dispersion against closed forms."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from orca_core.distances import find_distance
from orca_core.distances.coral_distance import coral, moments
from orca_core.distances.dispersion import dispersion
from orca_core.distances.sliced_wasserstein import sliced_wasserstein, transport_on_lines


def draws(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def cloud(mean: torch.Tensor, covariance: torch.Tensor, count: int, seed: int) -> torch.Tensor:
    """Samples whose mean and covariance are these, to rounding."""
    x = torch.randn(count, len(mean), generator=draws(seed), dtype=torch.float64)
    x = x - x.mean(0)
    white = torch.linalg.solve_triangular(torch.linalg.cholesky(x.mT @ x / (count - 1)), x.mT, upper=False).mT
    return white @ torch.linalg.cholesky(covariance).mT + mean


def test_coral_of_two_gaussians_is_the_difference_of_their_moments():
    source = cloud(torch.tensor([1.0, 2.0]).double(), torch.tensor([[4.0, 1.0], [1.0, 2.0]]).double(), 50, 0)
    target = cloud(torch.tensor([0.0, 4.0]).double(), torch.tensor([[1.0, 0.0], [0.0, 5.0]]).double(), 30, 1)
    # Means: (1 + 4) / 2. Covariances: (9 + 1 + 1 + 9) / (4 * 4).
    assert coral(source, target).item() == pytest.approx(2.5 + 1.25, abs=1e-12)
    assert coral(source, source).item() == 0


def test_the_covariance_of_one_sample_is_0():
    mean, covariance = moments(torch.tensor([[3.0, -1.0]]))
    assert mean.tolist() == [3.0, -1.0]
    assert covariance.tolist() == [[0.0, 0.0], [0.0, 0.0]]


def test_transport_on_a_line_pairs_quantiles():
    # (0, 1) against (0, 0, 3): from 1/2 to 2/3 the pairs are 1 and 0, from there on 1 and 3.
    x, y = torch.tensor([[1.0], [0.0]]), torch.tensor([[3.0], [0.0], [0.0]])
    assert transport_on_lines(x, y).item() == pytest.approx(1 / 6 * 1 + 1 / 3 * 4)
    assert transport_on_lines(y, x).item() == pytest.approx(1 / 6 * 1 + 1 / 3 * 4)


def test_transport_on_a_line_is_that_of_the_optimal_plan_of_copies():
    """Clouds of 4 and 6 points are clouds of 12, each point taken 3 and 2 times, of which the best pairing is by order."""
    x, y = torch.randn(4, 5, generator=draws()), torch.randn(6, 5, generator=draws(1))
    pairs = np.sort(x.numpy(), 0).repeat(3, 0) - np.sort(y.numpy(), 0).repeat(2, 0)
    assert np.allclose(transport_on_lines(x, y).numpy(), (pairs**2).mean(0), atol=1e-6)


def test_in_one_dimension_no_direction_is_drawn_in_vain():
    x, y = torch.randn(7, 1, generator=draws()), torch.randn(3, 1, generator=draws(1))
    assert sliced_wasserstein(x, y, 4, generator=draws()).item() == pytest.approx(transport_on_lines(x, y).item(), rel=1e-6)


def test_gaussians_that_differ_in_place_and_size_are_as_far_apart_as_the_closed_form_says():
    """Along each direction u: W^2 = <u, shift>^2 + (2 - 1)^2 <u, C u>. On average over u, times d: |shift|^2 + trace C."""
    covariance = torch.diag(torch.tensor([1.0, 2.0, 0.5])).double()
    x, shift = cloud(torch.zeros(3).double(), covariance, 400, 0), torch.tensor([3.0, 0.0, -1.0]).double()
    expected = 10.0 + 3.5 * 399 / 400
    assert sliced_wasserstein(x, 2 * x + shift, 4000, generator=draws()).item() == pytest.approx(expected, rel=0.04)


def test_directions_are_drawn_by_the_generator_and_their_number_is_a_knob():
    x, y = torch.randn(20, 4, generator=draws()), torch.randn(9, 4, generator=draws(1))
    spec = find_distance("sliced-wasserstein")
    few, many = (spec.prepared(x, torch.zeros(20).long(), {"projections": count}) for count in (1, 50))
    first, again, other = (few(y, draws(seed))[0].item() for seed in (2, 2, 3))
    assert first == again != other
    u = torch.randn(4, 1, generator=draws(2))
    assert first == pytest.approx(4 * transport_on_lines(x @ u / u.norm(), y @ u / u.norm()).item(), rel=1e-5)
    assert many(y, draws(2))[0].item() != first


def test_dispersion_is_the_share_of_variance_within_classes():
    # Three points of one class at 0, 1, 2 and one of another at 9: means 1 and 9, of all 3. Within: 2; all: 9 + 4 + 1 + 36.
    x, labels = torch.tensor([[0.0], [1.0], [2.0], [9.0]]), torch.tensor([7, 7, 7, 2])
    assert dispersion(x, labels, torch.ones(4)).item() == pytest.approx(2 / 50)
    # The second class weighs as much as the first: the mean of all is 5. Within: 2 / 6; all: (25 + 16 + 9) / 6 + 16 / 2.
    assert dispersion(x, labels, torch.tensor([1.0, 1.0, 1.0, 3.0])).item() == pytest.approx((2 / 6) / (50 / 6 + 8), rel=1e-5)


def test_dispersion_knows_no_unit_and_no_place():
    x, labels, weights = torch.randn(12, 5, generator=draws()), torch.arange(12) % 3, torch.rand(12, generator=draws(1)) + 0.1
    assert dispersion(100 * x + 7, labels, weights).item() == pytest.approx(dispersion(x, labels, weights).item(), rel=1e-4)


def test_dispersion_ends_where_nothing_is_left_to_separate():
    labels = torch.tensor([0, 0, 1, 1])
    points = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.0, 1.0]])
    assert dispersion(points, labels, torch.ones(4)).item() == 0
    assert dispersion(torch.ones(4, 2, requires_grad=True), labels, torch.ones(4)).item() == 1
