"""What the layers of a body give: features of a sample, the mean over its tokens, at every layer in one pass.

Layer 0 is what enters the body, layer k what its block k returns. The predictor also takes the mean over tokens, of the last layer.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor

from orca_core.alignment.source import as_reals, max_proxy_tokens
from orca_core.bodies.base import Body, BodyEmbedding, TextEmbedding
from orca_core.bodies.bodiless import ConvolutionalNetwork
from orca_core.bodies.loading import LoadedBody
from orca_core.proxies import ProxyData

BATCH = 32
"""Samples of a pass."""


def layer_means(body: Body, tokens: Tensor, weights: Tensor | None = None) -> list[Tensor]:
    """Features of some samples at every layer.

    Args:
        body: In eval mode.
        tokens: (n, l, d) what enters the body.
        weights: (n, l) of each token in the mean; None = all alike.

    Returns:
        For each layer from 0 on (n, width of the layer), on the CPU, float64. Of a body that reads a sequence in two directions the mean is
        over both; with `weights` over the first alone, as the tokens of the other stand in another order.
    """
    found: list[list[Tensor]] = [[] for _ in body.blocks]

    def keep(layer: int, output: Any) -> None:
        if weights is None or not found[layer]:
            found[layer].append(_mean(_tokens_of(output, body, tokens.shape[1]), weights))

    with ExitStack() as hooks:
        for layer, block in enumerate(body.blocks):
            hooks.callback(block.register_forward_hook(lambda _, __, output, layer=layer: keep(layer, output)).remove)
        body(tokens)
    return [_mean(tokens, weights), *(torch.stack(means).mean(0) for means in found)]


def _tokens_of(output: Any, body: Body, length: int) -> Tensor:
    """(n, l', d) of what a block returned."""
    hidden: Tensor = output if isinstance(output, Tensor) else output[0]
    if isinstance(body, ConvolutionalNetwork):  # (n, d, ...)
        return hidden.flatten(2).transpose(1, 2)
    if hidden.dim() == 4:  # timm's Swin keeps the grid: (n, height, width, d)
        hidden = hidden.flatten(1, 2)
    return hidden[:, -length:]  # class tokens stand before the patches; the second half of a doubled sequence is the one that is read


def _mean(tokens: Tensor, weights: Tensor | None) -> Tensor:
    if weights is None:
        return tokens.double().mean(1).cpu()
    shares = (weights / weights.sum(1, keepdim=True)).to(tokens.device)
    return (tokens.double() * shares.double().unsqueeze(-1)).sum(1).cpu()


def proxy_tokens(
    data: ProxyData, loaded: LoadedBody, embedding: BodyEmbedding, chosen: Sequence[int], *, most: int, device: torch.device
) -> Iterator[tuple[list[int], Tensor, Tensor | None]]:
    """Samples of a proxy as a body's own embedding reads them, batch by batch.

    A body has no mask for padding here, so texts of one length in tokens make a batch.

    Args:
        data: The proxy.
        loaded: The body.
        embedding: Its own embedding, on `device`.
        chosen: Numbers of the samples.
        most: Maximum number of tokens of a text.
        device: Where to compute.

    Yields:
        Positions in `chosen`, (n, l, d) tokens, and (n, l) weights: which tokens a sample is about, where that is not all of them.
    """
    if not isinstance(embedding, TextEmbedding):
        images = torch.as_tensor(data.inputs)
        for batch in torch.arange(len(chosen)).split(BATCH):
            pixels = as_reals(images[[chosen[i] for i in batch.tolist()]]).to(device)
            yield batch.tolist(), embedding.tokens(pixels), None
        return
    texts, has_spans = [str(data.inputs[number]) for number in chosen], data.spans is not None
    encoded = loaded.tokenizer()(texts, truncation=True, max_length=min(most, max_proxy_tokens(loaded)), return_offsets_mapping=has_spans)
    ids: list[list[int]] = encoded["input_ids"]
    by_length: dict[int, list[int]] = {}
    for position, tokens in enumerate(ids):
        if tokens:
            by_length.setdefault(len(tokens), []).append(position)
    for positions in by_length.values():
        for start in range(0, len(positions), BATCH):
            some = positions[start : start + BATCH]
            weights = None
            if data.spans is not None:
                weights = torch.stack([_inside(encoded["offset_mapping"][i], data.spans[chosen[i]]) for i in some])
            yield some, embedding.embed(torch.tensor([ids[i] for i in some], device=device)), weights


def _inside(offsets: Sequence[tuple[int, int]], span: tuple[int, int]) -> Tensor:
    """(l,) 1 for tokens that overlap a span of characters, else 0; all 1 if none does, as where the text was cut before it."""
    inside = torch.tensor([float(first < last and first < span[1] and last > span[0]) for first, last in offsets])
    return inside if inside.any() else torch.ones(len(offsets))


@contextmanager
def watched(body: Body, enter: Any, leave: Any) -> Iterator[None]:
    """Within: `enter(layer)` is called before each block, counted from 1, and `leave()` after it."""
    with ExitStack() as hooks:
        for layer, block in enumerate(body.blocks, start=1):
            hooks.callback(block.register_forward_pre_hook(lambda *_, layer=layer: enter(layer)).remove)
            hooks.callback(block.register_forward_hook(lambda *_: leave()).remove)
        yield
