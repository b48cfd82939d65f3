"""Adaptive average pooling as a product with a fixed matrix: its backward is deterministic on every device, unlike the built-in's."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def pooling_matrix(size: int, output: int) -> Tensor:
    """(output, size) matrix whose row i averages entries floor(i size / output) to ceil((i + 1) size / output).

    >>> pooling_matrix(4, 2).tolist()
    [[0.5, 0.5, 0.0, 0.0], [0.0, 0.0, 0.5, 0.5]]
    """
    matrix = torch.zeros(output, size)
    for i in range(output):
        start, stop = i * size // output, -(-(i + 1) * size // output)
        matrix[i, start:stop] = 1 / (stop - start)
    return matrix


class FixedPool(nn.Module):
    """Pool one axis of a tensor to a fixed size, as `nn.AdaptiveAvgPool` does.

    Args:
        size: Entries of the axis that come in.
        output: Entries that go out.
        dim: The axis.
    """

    matrix: Tensor

    def __init__(self, size: int, output: int, dim: int) -> None:
        super().__init__()
        self.dim = dim
        self.identity = size == output
        self.register_buffer("matrix", pooling_matrix(size, output), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        if self.identity:
            return x
        return (x.transpose(self.dim, -1) @ self.matrix.T.to(x.dtype)).transpose(self.dim, -1)
