"""Maximum mean discrepancy (MMD) of a target cloud and as many random source rows, with five Gaussian kernels.

Reference:
    Gretton et al. 2012, A kernel two-sample test, eq. 5 (the biased V-statistic: diagonals included).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from orca_core.distances.spec import Distance

_NUM_KERNELS = 5


def mmd(source_x: Tensor, target_x: Tensor, *, generator: torch.Generator) -> Tensor:
    """Squared MMD of the target and m source rows, drawn with replacement.

    Args:
        source_x: (n, d) features, n >= 1.
        target_x: (m, d) features, m >= 1; dtype and device of the source.
        generator: Draws the source rows; its state moves on.

    Returns:
        Scalar >= 0 up to rounding, without a unit, at most 10; differentiable in `target_x`.

    Raises:
        ValueError: On shapes, dtypes or devices that do not fit together.
    """
    check_clouds(source_x, target_x)
    rows = torch.randint(len(source_x), (len(target_x),), generator=generator, device=generator.device)
    return mmd_of_equal_size(source_x[rows.to(source_x.device)], target_x)


def mmd_of_equal_size(source_x: Tensor, target_x: Tensor) -> Tensor:
    """`mmd` of two clouds of the same shape (m, d), with nothing drawn.

    Kernel i = 0..4 is exp(-D / (b 2^i)), D the squared distances of the 2m pooled points, b a quarter of their mean off the diagonal.
    No gradient passes through b.
    """
    size = len(target_x)
    pooled = torch.cat([source_x, target_x])
    # Differences rather than products: equal points are at distance 0 exactly, also where all of them are equal.
    distances = torch.cdist(pooled, pooled, compute_mode="donot_use_mm_for_euclid_dist").square()
    bandwidth = distances.detach().sum() / (2 * size * (2 * size - 1)) / 4
    bandwidth = bandwidth.clamp(min=torch.finfo(bandwidth.dtype).tiny)
    kernel = torch.stack([torch.exp(-distances / (bandwidth * 2**i)) for i in range(_NUM_KERNELS)]).sum(0)
    sign = torch.ones(2 * size, dtype=kernel.dtype, device=kernel.device)
    sign[size:] = -1
    return sign @ kernel @ sign / size**2


def prepare(source_x: Tensor, source_y: Tensor, options: Mapping[str, Any]) -> Distance:
    """`mmd` as a distance of `align.objective`."""
    return lambda features, draws: (mmd(source_x, features, generator=draws), None)


def check_clouds(source_x: Tensor, target_x: Tensor) -> None:
    """Raises ValueError unless both are non-empty (samples, features) clouds of the same features, dtype and device."""
    for name, x in [("source_x", source_x), ("target_x", target_x)]:
        if x.ndim != 2 or 0 in x.shape:
            raise ValueError(f"{name}: must have shape (samples, features), neither of them 0, but got {tuple(x.shape)}.")
        if not x.is_floating_point():
            raise ValueError(f"{name}: must be of a floating dtype, but got {x.dtype}.")
    for what, source_has, target_has in [
        ("number of features", source_x.shape[1], target_x.shape[1]),
        ("dtype", source_x.dtype, target_x.dtype),
        ("device", source_x.device, target_x.device),
    ]:
        if source_has != target_has:
            raise ValueError(f"target_x: {what} must be that of source_x, {source_has}, but got {target_has}.")
