"""Subsets of tokens: drawn by scores with a gradient in these, and put together from two sequences.

Shapes: n sequences, l tokens, d width.

Reference:
    Xie & Ermon 2019, Reparameterizable subset sampling via continuous relaxations (arXiv 1901.10517), section 3.
    Cai et al. 2024, PaRe (arXiv 2406.09003); code: BIT-DA/PaRe, `src/main_PaRe.py`, `SubsetOperator` and `mixup_embedding_gate`.
"""

from __future__ import annotations

import torch
from torch import Tensor

_TINY = torch.finfo(torch.float32).tiny


def gumbel(shape: torch.Size, draws: torch.Generator) -> Tensor:
    """Standard Gumbel draws: the k largest of scores plus these are k draws without replacement by softmax(scores)."""
    uniform = torch.rand(shape, generator=draws).clamp(min=_TINY)
    return -torch.log((-torch.log(uniform)).clamp(min=_TINY))


def draw_subset(scores: Tensor, noise: Tensor, k: int, temperature: float) -> Tensor:
    """A subset of size k of each sequence, 0 or 1 for each token, whose gradient in the scores is that of its relaxation.

    The relaxation adds up k softmaxes; before each, a token's logit falls by log(1 - what it has had).

    Args:
        scores: (n, l).
        noise: (n, l) Gumbel draws.
        k: Size of the subset, 0 to l.
        temperature: Of the softmaxes; towards 0 the relaxation becomes the subset.

    Returns:
        (n, l) of 0 and 1: the k tokens of which the relaxation has most, in case of ties the first ones.
    """
    logits = scores + noise
    relaxed, share = torch.zeros_like(logits), torch.zeros_like(logits)
    for _ in range(k):
        logits = logits + torch.log((1 - share).clamp(min=_TINY))
        share = torch.softmax(logits / temperature, 1)
        relaxed = relaxed + share
    return top(relaxed.detach(), k) + (relaxed - relaxed.detach())


def top(scores: Tensor, k: int) -> Tensor:
    """(n, l) scores -> (n, l) of 0 and 1: the k highest of each sequence, in case of ties the first ones."""
    order = torch.argsort(scores, dim=1, descending=True, stable=True)
    ranks = torch.argsort(order, dim=1, stable=True)
    return (ranks < k).to(scores.dtype)


def replace_tokens(target: Tensor, source: Tensor, keep: Tensor, take: Tensor) -> Tensor:
    """Sequences in which the tokens that are not kept are replaced, in their order, by those that are taken from other sequences.

    Each token is multiplied by its entry of the mask, which is 1: so the masks have a gradient.

    Args:
        target, source: (n, l, d).
        keep, take: (n, l) of 0 and 1; a row of `take` has as many ones as the row of `keep` has zeros, the same number in every row.

    >>> one = torch.tensor([[[1.0], [2.0], [3.0]]])
    >>> replace_tokens(one, 10 * one, torch.tensor([[1.0, 0.0, 0.0]]), torch.tensor([[1.0, 0.0, 1.0]])).flatten().tolist()
    [1.0, 10.0, 30.0]
    """
    free = (keep.detach() == 0).nonzero()  # in the order of sequences, then of tokens
    taken = (take.detach() > 0).nonzero()
    mixed = target * keep.unsqueeze(-1)
    values = source[taken[:, 0], taken[:, 1]] * take[taken[:, 0], taken[:, 1]].unsqueeze(-1)
    return mixed.index_put((free[:, 0], free[:, 1]), values)
