"""Correlation alignment: how far the means and the covariances of two clouds are apart.

    |m_s - m_t|^2 / d  +  |C_s - C_t|_F^2 / (4 d^2)

m are the means and C the covariances of n samples, with n - 1 below the sum; d is the width of the features. The second term is the CORAL
loss. It does not see means: in the paper both clouds pass one network with one classifier. Here a class that lies anywhere with the right
covariance would be at distance 0, so the means are added, each coordinate counted as often as in a mean over the coordinates.

A class of one sample has no covariance: its distance is that of the means and of a covariance of 0.

Reference:
    Sun & Saenko 2016, Deep CORAL: correlation alignment for deep domain adaptation (arXiv 1607.01719), eqs. 1-3.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from orca_core.distances.mmd_distance import check_clouds
from orca_core.distances.spec import Distance


def moments(x: Tensor) -> tuple[Tensor, Tensor]:
    """(d,) mean and (d, d) covariance of (n, d) samples, with n - 1 below the sum; of one sample the covariance is 0."""
    mean = x.mean(0)
    centred = x - mean
    return mean, centred.mT @ centred / max(1, len(x) - 1)


def coral(source_x: Tensor, target_x: Tensor) -> Tensor:
    """Difference of the means and covariances of two clouds.

    Args:
        source_x: (n, d) features, n >= 1.
        target_x: (m, d) features, m >= 1; dtype and device of the source.

    Returns:
        Scalar >= 0, a sum of squared feature units and their squares; differentiable in `target_x`.

    Raises:
        ValueError: On shapes, dtypes or devices that do not fit together.
    """
    check_clouds(source_x, target_x)
    return _between(moments(source_x), moments(target_x))


def _between(source: tuple[Tensor, Tensor], target: tuple[Tensor, Tensor]) -> Tensor:
    (mean, covariance), (other_mean, other_covariance) = source, target
    width = len(mean)
    return (mean - other_mean).square().sum() / width + (covariance - other_covariance).square().sum() / (4 * width**2)


def prepare(source_x: Tensor, source_y: Tensor, options: Mapping[str, Any]) -> Distance:
    """`coral` as a distance of `align.objective`."""
    source = moments(source_x)

    def distance(features: Tensor, draws: object) -> tuple[Tensor, Tensor | None]:
        check_clouds(source_x, features)
        return _between(source, moments(features)), None

    return distance
