"""Outputs of samples that are scored as one, such as the windows of one recording."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def group_means(outputs: Tensor, y: Tensor, group: np.ndarray) -> tuple[Tensor, Tensor]:
    """Mean outputs of each group, and the targets of its first sample, in the order of the groups' numbers."""
    _, first, member_of, sizes = np.unique(group, return_index=True, return_inverse=True, return_counts=True)
    sums = torch.zeros(len(first), *outputs.shape[1:], dtype=torch.float64)
    sums.index_add_(0, torch.from_numpy(member_of), outputs.double().cpu())
    means = sums / torch.from_numpy(sizes).view(-1, *[1] * (outputs.dim() - 1))
    return means.to(outputs), y[torch.from_numpy(first).to(y.device)]
