"""LogME and H-score: how well labels can be read from features by a linear model, without training one.

Both score (n, d) features with (n,) labels; higher is better. Each trial that aligns has them twice, of the samples of `proxy_distance`:

    target_logme, target_h_score   the target's training samples through the embedder as it starts, with the target's labels: the same for
                                   every proxy; they compare bodies and embedder starts, what both scores were made for
    proxy_logme, proxy_h_score     the proxy's source features with the proxy's labels: what can be read from the body's own embedding; the
                                   same for every target; they rank proxies

Features are means over the embedder's tokens; the body's layers are not run, which keeps the scores cheap. Of a target without classes the
labels are the pseudo labels of alignment. Between data sets of different numbers of classes the scores are not on one scale: H-score lies
between 0 and classes - 1, and LogME rises as classes get rarer. Whether a ranking by them is any good is what Regret@k in `findings` says.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

RANK_TOLERANCE = 1e-6
"""Singular values below this share of the largest are rounding of float32 features and count as 0 in the H-score."""

_GRID = 121
"""Number of values of alpha / beta that are looked at first, over ten decades on either side of the largest eigenvalue."""

_DECADES = 10.0
_GOLDEN_STEPS = 60


class Transferability(NamedTuple):
    """The two scores; None for labels of a single class."""

    logme: float | None
    h_score: float | None


def transferability(features: Tensor, labels: Tensor) -> Transferability:
    """LogME and H-score of (n, d) features with (n,) integer labels."""
    if len(labels.unique()) < 2:
        return Transferability(None, None)
    return Transferability(logme(features, labels), h_score(features, labels))


def logme(features: Tensor, labels: Tensor) -> float:
    """Logarithm of the maximum evidence, per sample, averaged over classes; natural logarithms.

    Of each class the 0-1 vector y is explained as y = F w + noise, with w ~ N(0, 1/alpha), noise ~ N(0, 1/beta). The score is the log of
    p(y | F, alpha, beta), maximised over alpha and beta, divided by n. For a ratio t = alpha / beta and F = U S V^T the best beta is in
    closed form, so that one dimension is left to maximise over:

        log p = -n/2 (log(2 pi R / n) + 1) + 1/2 sum_i log(t / (t + s_i^2)),   R = sum_i z_i^2 t / (t + s_i^2) + |y|^2 - |z|^2,   z = U^T y

    Args:
        features: (n, d).
        labels: (n,) integers.

    Reference:
        You, Liu, Wang & Long 2021, LogME: Practical assessment of pre-trained models for transfer learning (arXiv 2102.11005), section 4.
        Differs: they take at most eleven steps of a fixed-point iteration; here the maximum is searched within ten decades around the
        largest eigenvalue.
    """
    x = features.double()
    left, singular, _ = torch.linalg.svd(x, full_matrices=False)
    eigenvalues = singular.square()
    centre = math.log10(max(eigenvalues.max().item(), torch.finfo(torch.float64).tiny))
    grid = torch.linspace(centre - _DECADES, centre + _DECADES, _GRID, dtype=torch.float64)
    total, classes = 0.0, labels.unique()
    for label in classes:
        y = (labels == label).double()
        inside = (left.mT @ y).square()
        outside = (y.square().sum() - inside.sum()).clamp(min=0)

        def evidence(
            logarithm: Tensor, inside: Tensor = inside, outside: Tensor = outside, eigenvalues: Tensor = eigenvalues, n: int = len(y)
        ) -> Tensor:
            ratio = (10**logarithm).unsqueeze(-1)
            kept = ratio / (ratio + eigenvalues)
            residual = (inside * kept).sum(-1) + outside
            return -n / 2 * ((2 * math.pi * residual / n).log() + 1) + kept.log().sum(-1) / 2

        total += _maximum(evidence, grid) / len(y)
    return total / len(classes)


def _maximum(function: Callable[[Tensor], Tensor], grid: Tensor) -> float:
    """The largest value of a function of one number: the best of a grid, then golden section between its neighbours."""
    values = function(grid)
    best = int(values.argmax())
    low, high = grid[max(best - 1, 0)], grid[min(best + 1, len(grid) - 1)]
    ratio = (math.sqrt(5) - 1) / 2
    for _ in range(_GOLDEN_STEPS):
        one, other = high - ratio * (high - low), low + ratio * (high - low)
        if function(one) < function(other):
            low = one
        else:
            high = other
    return max(values[best].item(), function((low + high) / 2).item())


def h_score(features: Tensor, labels: Tensor) -> float:
    """tr(cov(f)^-1 cov(E[f | y])): the share of the features' variance between classes, summed over whitened directions.

    Args:
        features: (n, d). With n <= d + 1 the inverse is the pseudo inverse, and the score tends to classes - 1 whatever the labels are.
        labels: (n,) integers.

    Returns:
        From 0 to min(d, classes - 1).

    Reference:
        Bao et al. 2019, An information-theoretic approach to transferability in task transfer learning, definition 2.
    """
    x = features.double()
    left, singular, _ = torch.linalg.svd(x - x.mean(0), full_matrices=False)
    # With x = U S V^T, cov^-1 = n V S^-2 V^T whitens the mean of a class into that of its rows of U.
    whitened = left[:, singular > RANK_TOLERANCE * singular.max()]
    return sum(whitened[labels == label].sum(0).square().sum().item() / int((labels == label).sum()) for label in labels.unique())
