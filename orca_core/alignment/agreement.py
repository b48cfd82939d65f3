"""Whether two objectives pull the embedder the same way, and what is left of two gradients once neither works against the other.

References:
    Yu et al. 2020, Gradient surgery for multi-task learning (PCGrad, arXiv 2001.06782): gradients conflict where their cosine is negative
    (definition 1); each is then projected onto the plane that is normal to the other (algorithm 1).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def dot(one: Sequence[Tensor], other: Sequence[Tensor]) -> Tensor:
    """Inner product of two gradients, each given by parameter."""
    return torch.stack([(a.double() * b.double()).sum() for a, b in zip(one, other, strict=True)]).sum()


def cosine(one: Sequence[Tensor], other: Sequence[Tensor]) -> Tensor:
    """Cosine of the angle of two gradients, float64 in [-1, 1] up to rounding; 0 where one of them is 0.

    Example:
        >>> cosine([torch.tensor([1.0, 0.0])], [torch.tensor([3.0, 4.0])]).item()
        0.6
    """
    norms = (dot(one, one) * dot(other, other)).sqrt()
    return torch.where(norms > 0, dot(one, other) / norms.clamp(min=torch.finfo(torch.float64).tiny), 0.0)


def without_conflict(one: Sequence[Tensor], other: Sequence[Tensor]) -> list[Tensor]:
    """The sum of two gradients, each without what of it works against the other.

    If their inner product is negative, each gradient is replaced by its projection onto the plane normal to the other; else this is the
    sum. A step along the result lowers neither objective's descent below 0, to first order.

    Example:
        (1, 0) and (-1, 1) conflict: their inner product is -1. The first becomes (1, 0) + 1/2 (-1, 1) = (1/2, 1/2), the second
        (-1, 1) + (1, 0) = (0, 1).

        >>> without_conflict([torch.tensor([1.0, 0.0])], [torch.tensor([-1.0, 1.0])])[0].tolist()
        [0.5, 1.5]
    """
    inner = dot(one, other)
    if not inner < 0:
        return [a + b for a, b in zip(one, other, strict=True)]
    # Neither norm is 0, or the inner product would be.
    of_one, of_other = 1 - inner / dot(one, one), 1 - inner / dot(other, other)
    return [a * of_one.to(a.dtype) + b * of_other.to(b.dtype) for a, b in zip(one, other, strict=True)]
