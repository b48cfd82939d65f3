"""Entropy of attention by layer, for every body that asks torch for its attention, whichever library it is of.

Nothing is read from a body's own modules: while a block runs, calls of torch's scaled dot-product attention and of a softmax over scores
(n, heads, queries, keys) are seen on their way. So Hugging Face's and timm's encoders, decoders and vision bodies need no other attention
than the one they run with, and so does a body of another package that computes its attention by one of the two.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from orca_core.probing.layers import watched
from orca_core.probing.reading import Measured, Reading, UnfitError

_SOFTMAX = (torch.softmax, torch.Tensor.softmax, F.softmax)


def entropy(weights: Tensor) -> Tensor:
    """(...) entropies in nats of (..., keys) weights that sum to 1: -sum p ln p."""
    return -torch.xlogy(weights, weights).sum(-1)


def attention_weights(
    query: Tensor,
    key: Tensor,
    attn_mask: Tensor | None = None,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """(n, heads, queries, keys) weights of torch's scaled dot-product attention for the same arguments."""
    if enable_gqa:
        key = key.repeat_interleave(query.shape[-3] // key.shape[-3], -3)
    scores = query.double() @ key.double().transpose(-2, -1) * (1 / math.sqrt(query.shape[-1]) if scale is None else scale)
    if is_causal:
        seen = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).tril()
        scores = scores.masked_fill(~seen, -math.inf)
    if attn_mask is not None:
        scores = scores.masked_fill(~attn_mask, -math.inf) if attn_mask.dtype == torch.bool else scores + attn_mask
    return scores.softmax(-1)


class _Watching(TorchFunctionMode):
    """Adds up the entropies of attention by the layer in which it is computed."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = 0
        self.sums: dict[int, float] = {}
        self.counts: dict[int, int] = {}

    def __torch_function__(
        self, func: Any, types: Sequence[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        given = dict(kwargs or {})
        if not self.layer:
            return func(*args, **given)
        if func is F.scaled_dot_product_attention:
            named = dict(zip(("query", "key", "value", "attn_mask", "dropout_p", "is_causal"), args, strict=False)) | given
            left_out = ("value", "dropout_p")
            self._add(attention_weights(**{name: value for name, value in named.items() if name not in left_out}))
            return func(*args, **given)
        result = func(*args, **given)
        if func in _SOFTMAX and result.dim() == 4:
            self._add(result.double())
        return result

    def _add(self, weights: Tensor) -> None:
        found = entropy(weights)
        self.sums[self.layer] = self.sums.get(self.layer, 0.0) + found.sum().item()
        self.counts[self.layer] = self.counts.get(self.layer, 0) + found.numel()

    def enter(self, layer: int) -> None:
        self.layer = layer

    def leave(self) -> None:
        self.layer = 0


def entropies_of(body: Any, tokens: Iterator[Tensor]) -> dict[int, float]:
    """Layer, from 1 -> mean entropy in nats of its attention, over samples, heads and queries.

    Args:
        body: In eval mode.
        tokens: Batches of (n, l, d).
    """
    watching = _Watching()
    run: Callable[[Tensor], Any] = body
    with torch.no_grad(), watched(body, watching.enter, watching.leave):
        for batch in tokens:
            with watching:
                run(batch)
    return {layer: watching.sums[layer] / watching.counts[layer] for layer in sorted(watching.sums)}


def entropies(reading: Reading) -> Iterator[Measured]:
    """Mean entropy of attention at each layer, for training samples."""
    with torch.no_grad():
        found = entropies_of(reading.model.body, (reading.model.embedder(inputs) for inputs in reading.parts("train")))
    if not found:
        raise UnfitError(f"{reading.loaded.spec.name} does not compute its attention by a function of torch that shows the weights.")
    for layer, value in found.items():
        if reading.request.has_layer(layer):
            yield Measured(value, layer, split="train", samples=len(reading.rows("train")))
