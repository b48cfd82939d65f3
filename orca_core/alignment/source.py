"""Source features: samples of the proxy through the body's own embedding. Step 0 of stage 2.

One row per sample, the mean over its tokens, as in the reference (`embedder.py:265-290`).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from orca_core.alignment.choice import choose
from orca_core.bodies import BodySpec
from orca_core.bodies.base import TextEmbedding
from orca_core.bodies.loading import LoadedBody, random_body
from orca_core.errors import DataError
from orca_core.proxies import ProxyData, ProxySpec
from orca_core.proxies.mixtures import apportion
from orca_core.seeding import generator

NOISE_SAMPLES, NOISE_CLASSES = 2000, 10
"""Size of the `noise` proxy before `align.proxy_samples` cuts it."""

TEXT_TOKENS = 128
"""Maximum number of tokens of a proxy text."""

_BATCH = 256


def source_features(
    proxy: ProxySpec,
    loaded: LoadedBody,
    *,
    samples: int,
    seed: int,
    device: torch.device,
    target: Callable[[], Tensor] | None = None,
) -> tuple[Tensor, Tensor]:
    """Features and labels of a proxy.

    Args:
        proxy: The proxy.
        loaded: The body whose embedding is used.
        samples: Maximum number of samples; a larger proxy is subsampled by `seed`.
        seed: The trial's seed.
        device: Where to compute.
        target: Returns the target's features, for a proxy whose samples are chosen by them.

    Returns:
        (n, d) float32 features and (n,) int64 labels, on the CPU.
    """
    samples = min(samples, proxy.max_samples or samples)
    _check_is_complete(proxy)
    data = proxy.load() if proxy.loader and not proxy.parts else None
    features, labels = _features(proxy, data, loaded, samples, seed, device)
    if proxy.chosen is not None:
        assert target is not None, "a choice by the target needs the target's features"
        chosen = choose(proxy.chosen, features, target(), proxy.name)
        features, labels = features[chosen], labels[chosen]
    return _controlled(proxy, features, labels, seed)


def _controlled(proxy: ProxySpec, features: Tensor, labels: Tensor, seed: int) -> tuple[Tensor, Tensor]:
    """Features and labels as the controls of a proxy want them."""
    if proxy.matched:
        features = gaussian_like(features, generator(seed, "noise-proxy"))
    if proxy.shuffled:
        labels = labels[torch.randperm(len(labels), generator=generator(seed, "proxy-labels"))]
    return features, labels


def gaussian_like(features: Tensor, draws: torch.Generator) -> Tensor:
    """(n, d) Gaussian features with the mean of given (n, d) ones, and with their covariance up to the chance of n draws.

    Each is the mean plus the centred features weighted by n standard normal numbers over sqrt(n - 1): its covariance is theirs, whatever
    their rank.
    """
    mean = features.mean(0)
    centred = features - mean
    drawn = torch.cat([torch.randn(len(part), len(features), generator=draws) @ centred for part in features.split(_BATCH)])
    drawn /= math.sqrt(max(1, len(features) - 1))
    return drawn - drawn.mean(0) + mean


def _mixed_features(proxy: ProxySpec, loaded: LoadedBody, samples: int, seed: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Features of the parts of a mixture one after the other, as many as their shares say; labels of different parts are different."""
    held, shares = [part.load() for part, _ in proxy.parts], [share for _, share in proxy.parts]
    sizes = [min(len(data), part.max_samples or len(data)) for (part, _), data in zip(proxy.parts, held, strict=True)]
    if not (counts := apportion(sizes, shares, samples)):
        raise DataError(f"{proxy.name}: must have a sample of each of its proxies, but a share of {min(samples, *sizes)} samples has none.")
    features, labels, first = list[Tensor](), list[Tensor](), 0
    for (part, _), data, count in zip(proxy.parts, held, counts, strict=True):
        x, y = _controlled(part, *_features(part, data, loaded, count, seed, device), seed)
        features.append(x)
        labels.append(y + first)
        first += len(data.label_names)
    return torch.cat(features), torch.cat(labels)


def _features(
    proxy: ProxySpec, data: ProxyData | None, loaded: LoadedBody, samples: int, seed: int, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Features and labels of a proxy whose data is loaded; None for one that is drawn, or is a mixture."""
    width = loaded.body.geometry.width
    if proxy.parts:
        return _mixed_features(proxy, loaded, samples, seed, device)
    if data is None:
        draws = generator(seed, "noise-proxy")
        count = min(NOISE_SAMPLES, samples)
        features = torch.randn(count, width, generator=draws)
        return features, torch.randint(NOISE_CLASSES, (count,), generator=draws)
    chosen = torch.randperm(len(data), generator=generator(seed, "proxy-sample"))[:samples].sort().values
    labels = torch.from_numpy(np.asarray(data.labels))[chosen]
    if proxy.width is not None:
        if not proxy.fits_width(width):
            raise DataError(f"{proxy.name}: must be as wide as the tokens of {loaded.spec.name}, {width}, but is {proxy.width()} wide.")
        return torch.as_tensor(data.inputs)[chosen], labels
    assert loaded.embedding is not None, "a bodiless arm has no source features"
    embedding = loaded.embedding.to(device)
    parts = []
    with torch.no_grad():
        if isinstance(embedding, TextEmbedding):
            tokenizer, max_tokens = loaded.tokenizer(), max_proxy_tokens(loaded)
            for part in chosen.split(_BATCH):
                texts = [str(data.inputs[i]) for i in part.tolist()]
                if data.spans is not None:
                    spans = [data.spans[i] for i in part.tolist()]
                    parts.append(_of_spans(texts, spans, tokenizer, embedding, max_tokens, device))
                    continue
                encoded = tokenizer(texts, padding=True, truncation=True, max_length=max_tokens, return_tensors="pt")
                parts.append(embedding(encoded["input_ids"].to(device), encoded["attention_mask"].to(device)))
        else:
            images = torch.as_tensor(data.inputs)
            parts = [embedding(as_reals(images[part]).to(device)) for part in chosen.split(_BATCH)]
    return torch.cat(parts).cpu(), labels


def _check_is_complete(proxy: ProxySpec) -> None:
    if proxy.matched and not proxy.loader:
        raise DataError(f"{proxy.name}: must name the proxy whose features it has the moments of, as in noise-matched:photos.")


def _of_spans(
    texts: list[str], spans: list[tuple[int, int]], tokenizer: Any, embedding: TextEmbedding, max_tokens: int, device: torch.device
) -> Tensor:
    """(n, d) means over the tokens of a span of each text, in the context of the text."""
    encoded = tokenizer(texts, padding=True, truncation=True, max_length=max_tokens, return_tensors="pt", return_offsets_mapping=True)
    first, last = encoded["offset_mapping"].unbind(-1)
    start, stop = torch.tensor(spans).unsqueeze(1).unbind(-1)
    inside = encoded["attention_mask"].bool() & (first < stop) & (last > start)
    weights = inside.to(torch.float32).to(device).unsqueeze(-1)
    tokens = embedding.embed(encoded["input_ids"].to(device))
    means = (tokens * weights).sum(1) / weights.sum(1).clamp(min=1)
    for row in (~inside.any(1)).nonzero()[:, 0].tolist():
        begin, end = spans[row]
        if begin > 0:  # behind what the body reads of the text: it is read from the span on
            means[row] = _of_spans([texts[row][begin:]], [(0, end - begin)], tokenizer, embedding, max_tokens, device)[0]
        else:  # the tokenizer drops it
            means[row] = embedding(encoded["input_ids"][row : row + 1].to(device), encoded["attention_mask"][row : row + 1].to(device))[0]
    return means


def as_reals(images: Tensor) -> Tensor:
    """Bytes as [0, 1]."""
    return images.float() / 255 if images.dtype == torch.uint8 else images


def max_proxy_tokens(loaded: LoadedBody) -> int:
    """Maximum number of tokens of a proxy text that a body reads."""
    return min(TEXT_TOKENS, loaded.body.geometry.max_tokens)


class Description(NamedTuple):
    """What source features would be, without their values.

    Args:
        samples: How many there are, before `align.proxy_samples`.
        classes: Of their labels.
        width: d of a feature.
        tokens: Mean number of tokens that a feature is the mean of; None where that is not known.
    """

    samples: int
    classes: int
    width: int
    tokens: float | None


def _chosen_of(proxy: ProxySpec, samples: int) -> int:
    return samples if proxy.chosen is None else min(samples, proxy.chosen.samples)


def describe_features(proxy: ProxySpec, body: BodySpec) -> Description:
    """The form of a proxy's features by a body; the body's weights are not needed.

    Raises:
        DataError: If the proxy's files or the body's tokenizer cannot be used.
    """
    _check_is_complete(proxy)
    loaded = random_body(body, seed=0)
    width = loaded.body.geometry.width
    if not proxy.loader:
        return Description(_chosen_of(proxy, min(NOISE_SAMPLES, proxy.max_samples or NOISE_SAMPLES)), NOISE_CLASSES, width, None)
    data = proxy.load()
    samples = _chosen_of(proxy, min(len(data), proxy.max_samples or len(data)))
    if proxy.parts:
        return Description(samples, len(data.label_names), width, None)
    if proxy.width is not None:
        return Description(samples, len(data.label_names), proxy.width(), None)
    if not isinstance(loaded.embedding, TextEmbedding):
        return Description(samples, len(data.label_names), width, float(loaded.body.geometry.side**2))
    some = range(0, len(data), max(1, len(data) // 1000))
    texts = [str(data.inputs[i]) for i in some]
    encoded = loaded.tokenizer()(texts, truncation=True, max_length=max_proxy_tokens(loaded), return_offsets_mapping=True)
    if data.spans is None:
        counts = [len(ids) for ids in encoded["input_ids"]]
    else:
        spans = [data.spans[i] for i in some]
        pairs = zip(encoded["offset_mapping"], spans, strict=True)
        counts = [max(1, sum(first < stop and last > start for first, last in offsets)) for offsets, (start, stop) in pairs]
    return Description(samples, len(data.label_names), width, sum(counts) / len(counts))
