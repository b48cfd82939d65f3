"""LogME against a brute-force maximisation of the evidence, H-score against its formula, and both by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from scipy.stats import multivariate_normal

from orca_core.alignment.transferability import h_score, logme, transferability


def cloud(n: int, d: int, classes: int, apart: float, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    rng = np.random.default_rng(seed)
    y = np.arange(n) % classes
    x = rng.normal(size=(n, d)) + apart * rng.normal(size=(classes, d))[y]
    return torch.from_numpy(x), torch.from_numpy(y)


def brute_force(x: np.ndarray, y: np.ndarray) -> float:
    """Mean over classes of the largest log density of y ~ N(0, F F^T / alpha + 1 / beta), per sample: the definition."""

    def minus_evidence(logs: np.ndarray, target: np.ndarray) -> float:
        covariance = x @ x.T / math.exp(logs[0]) + np.eye(len(x)) / math.exp(logs[1])
        return -float(multivariate_normal.logpdf(target, np.zeros(len(x)), covariance, allow_singular=True))

    scores = []
    for label in np.unique(y):
        target = (y == label).astype(float)
        starts = [minimize(minus_evidence, start, (target,), method="Nelder-Mead") for start in ([0, 0], [5, 2], [-3, 4])]
        scores.append(-min(found.fun for found in starts) / len(x))
    return float(np.mean(scores))


@pytest.mark.parametrize(("n", "d", "classes", "apart"), [(12, 3, 2, 2.0), (15, 4, 3, 1.0), (8, 10, 2, 0.5)])
def test_logme_is_the_maximum_of_the_evidence(n, d, classes, apart):
    x, y = cloud(n, d, classes, apart)
    assert logme(x, y) == pytest.approx(brute_force(x.numpy(), y.numpy()), abs=1e-6)


def test_logme_of_features_that_say_nothing_is_that_of_noise_alone():
    """Of features that are orthogonal to the labels no weight is best: log density of n/2 ones and zeros at variance 1/2, by hand."""
    x = torch.tensor([[1.0], [-1.0], [1.0], [-1.0]])
    y = torch.tensor([0, 0, 1, 1])
    assert logme(x, y) == pytest.approx(-(math.log(2 * math.pi * 0.5) + 1) / 2, abs=1e-6)


def test_logme_ranks_features_by_what_can_be_read_from_them():
    scores = [logme(*cloud(200, 6, 4, apart)) for apart in (0.0, 0.5, 1.0, 3.0)]
    assert scores == sorted(scores)
    x, y = cloud(200, 6, 4, 1.0)
    assert logme(7 * x, y) == pytest.approx(logme(x, y), abs=1e-9), "it does not depend on the scale"


def test_h_score_is_its_formula():
    x, y = cloud(60, 5, 3, 1.0)
    f, g = x.numpy(), np.zeros((60, 5))
    for label in range(3):
        g[y.numpy() == label] = f[y.numpy() == label].mean(0)
    by_formula = np.trace(np.linalg.inv(np.cov(f.T, bias=True)) @ np.cov(g.T, bias=True))
    assert h_score(x, y) == pytest.approx(by_formula, rel=1e-10)
    rotation = torch.linalg.qr(torch.randn(5, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))).Q
    assert h_score(3 * x @ rotation + 1, y) == pytest.approx(by_formula, rel=1e-9), "it is of whitened features"


def test_h_score_by_hand_and_at_its_bounds():
    """One dimension, classes at 0, 0, 2 and 2, 4, 4: means 2/3 and 10/3, variance between them 16/9, in all 24/9."""
    x, y = torch.tensor([[0.0], [0.0], [2.0], [2.0], [4.0], [4.0]]), torch.tensor([0, 0, 0, 1, 1, 1])
    assert h_score(x, y) == pytest.approx((16 / 9) / (16 / 6))
    far, labels = cloud(300, 6, 4, 1e4)
    assert h_score(far, labels) == pytest.approx(3, abs=1e-3)
    few, others = cloud(6, 10, 3, 0.0)
    assert h_score(few, others) == pytest.approx(2), "with fewer samples than dimensions every labelling can be read"


def test_constant_directions_and_single_classes():
    x, y = cloud(60, 5, 3, 1.0)
    flat = torch.cat([x, torch.ones(60, 1), x[:, :1]], 1).float()
    assert h_score(flat, y) == pytest.approx(h_score(x, y), rel=1e-4)
    assert transferability(x, torch.zeros(60).long()) == (None, None)
    assert transferability(x, y) == (logme(x, y), h_score(x, y))
