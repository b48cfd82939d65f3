"""Sliced Wasserstein distance: the mean, over random directions, of the transport cost of two clouds seen along them.

    d * mean over directions u of W_2^2(<u, x>, <u, y>)

u is uniform on the unit sphere. On a line, optimal transport pairs quantiles: with sorted values a of n and b of m samples, W_2^2 is the
integral over t in (0, 1) of (a(t) - b(t))^2, where a(t) is the value whose share of the samples holds t. It is exact for clouds of any two
sizes. Along a direction, a difference of width d shows 1 / d of its squared length on average; times d, clouds that differ by a shift are
as far apart as it is long, squared, whatever the width.

References:
    Bonneel et al. 2015, Sliced and Radon Wasserstein barycenters of measures, section 2 (transport on lines by sorting, means over them).
    Kolouri et al. 2019, Generalized sliced Wasserstein distances (arXiv 1902.00434), eqs. 4-7 (Monte Carlo over directions).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from orca_core.distances.mmd_distance import check_clouds
from orca_core.distances.spec import Distance


def sliced_wasserstein(source_x: Tensor, target_x: Tensor, projections: int = 100, *, generator: torch.Generator) -> Tensor:
    """Squared sliced 2-Wasserstein distance of two uniform clouds, times their width.

    Args:
        source_x: (n, d) features, n >= 1.
        target_x: (m, d) features, m >= 1; dtype and device of the source.
        projections: Number of directions.
        generator: Draws them; its state moves on.

    Returns:
        Scalar >= 0 in squared feature units; differentiable in `target_x`.

    Raises:
        ValueError: On shapes, dtypes or devices that do not fit together.
    """
    check_clouds(source_x, target_x)
    directions = torch.randn(source_x.shape[1], projections, generator=generator)
    directions = (directions / directions.norm(dim=0)).to(source_x)
    return source_x.shape[1] * transport_on_lines(source_x @ directions, target_x @ directions).mean()


def transport_on_lines(x: Tensor, y: Tensor) -> Tensor:
    """(p,) squared 2-Wasserstein distances of the columns of `x` (n, p) and `y` (m, p), each a uniform cloud on a line.

    Example:
        Half of the mass at 0 stays, half goes to 2: 1/2 * 4.

        >>> transport_on_lines(torch.zeros(1, 1), torch.tensor([[2.0], [0.0]])).item()
        2.0
    """
    n, m = len(x), len(y)
    first, second = x.sort(0).values, y.sort(0).values
    if n == m:
        return (first - second).square().mean(0)
    # The breaks of both step functions, in units of 1 / (n m), whole numbers: between two of them neither changes.
    breaks = torch.cat([torch.arange(n + 1) * m, torch.arange(m + 1) * n]).unique()
    lengths = breaks.diff().to(x) / (n * m)
    left = breaks[:-1].to(x.device)
    return (lengths.unsqueeze(1) * (first[left // m] - second[left // n]).square()).sum(0)


def prepare(source_x: Tensor, source_y: Tensor, options: Mapping[str, Any]) -> Distance:
    """`sliced_wasserstein` as a distance of `align.objective`; reads `projections`."""
    return lambda features, draws: (sliced_wasserstein(source_x, features, options["projections"], generator=draws), None)
