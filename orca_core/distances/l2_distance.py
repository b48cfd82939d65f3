"""Mean pairwise L2 distance of a target cloud and random source batches of its size; rows are paired as they come, not matched.

Reference:
    The release of Shen et al. 2023, Cross-modal fine-tuning: align then refine. Differs: it counts the incomplete last batch as a distance
    of 0, so its value is too low unless the sizes divide; `count_partial=True` gives that value.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from orca_core.distances.mmd_distance import check_clouds
from orca_core.distances.spec import Distance

_OFFSET = 1e-6  # of torch.nn.PairwiseDistance: added to every difference, keeps the gradient finite at 0


def l2(source_x: Tensor, target_x: Tensor, *, generator: torch.Generator, count_partial: bool = False) -> Tensor:
    """Mean distance of target row i and row i of every full batch of the shuffled source.

    Args:
        source_x: (n, d) features, n >= 1.
        target_x: (m, d) features, m >= 1; dtype and device of the source.
        generator: Shuffles the source; its state moves on.
        count_partial: Divide by ceil(n / m) batches, as the release does, instead of the floor(n / m) that are full.

    Returns:
        Scalar > 0 in feature units; differentiable in `target_x`. If n < m, the source is compared with the first n target rows.

    Raises:
        ValueError: On shapes, dtypes or devices that do not fit together.
    """
    check_clouds(source_x, target_x)
    order = torch.randperm(len(source_x), generator=generator, device=generator.device)
    return l2_in_order(source_x[order.to(source_x.device)], target_x, count_partial=count_partial)


def l2_in_order(source_x: Tensor, target_x: Tensor, *, count_partial: bool = False) -> Tensor:
    """`l2` with the source rows taken in the order given."""
    batch_size = min(len(source_x), len(target_x))
    num_full, left_over = divmod(len(source_x), batch_size)
    batches = source_x[: num_full * batch_size].unflatten(0, (num_full, batch_size))
    mean = (target_x[:batch_size] - batches + _OFFSET).norm(dim=2).mean()
    if count_partial and left_over:
        return mean * (num_full / (num_full + 1))
    return mean


def prepare(source_x: Tensor, source_y: Tensor, options: Mapping[str, Any]) -> Distance:
    """`l2` as a distance of `align.objective`; reads `l2_batches`."""
    count_partial = options["l2_batches"] == "all"
    return lambda features, draws: (l2(source_x, features, generator=draws, count_partial=count_partial), None)
