"""Source features: samples of the proxy, seen through the body's own embedding. Step 0 of stage 2.

One row per sample, the mean over its tokens, as the reference has it (`embedder.py:265-290`).
"""

from __future__ import annotations

import torch
from torch import Tensor

from orca_core.bodies.loading import LoadedBody
from orca_core.bodies.trunk import TextEmbedding
from orca_core.proxies import ProxySpec
from orca_core.seeding import generator

NOISE_SAMPLES, NOISE_CLASSES = 2000, 10
"""Size of the `noise` proxy before `align.proxy_samples` cuts it."""

TEXT_TOKENS = 128
"""Tokens of a proxy text that are read, at most."""

_BATCH = 256


def source_features(proxy: ProxySpec, loaded: LoadedBody, *, samples: int, seed: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Features and labels of a proxy.

    Args:
        proxy: The proxy.
        loaded: The body whose embedding is used.
        samples: Most samples; a larger proxy is cut to a sample drawn by `seed`.
        seed: The trial's seed.
        device: Where to compute.

    Returns:
        (n, d) float32 features and (n,) int64 labels, on the CPU.
    """
    if not proxy.loader:
        draws = generator(seed, "noise-proxy")
        count = min(NOISE_SAMPLES, samples)
        features = torch.randn(count, loaded.body.geometry.width, generator=draws)
        return features, torch.randint(NOISE_CLASSES, (count,), generator=draws)
    data = proxy.load()
    chosen = torch.randperm(len(data), generator=generator(seed, "proxy-sample"))[:samples].sort().values
    labels = torch.from_numpy(data.labels)[chosen]
    embedding = loaded.embedding.to(device)
    parts = []
    with torch.no_grad():
        if isinstance(embedding, TextEmbedding):
            tokenizer = loaded.tokenizer()
            most = min(TEXT_TOKENS, loaded.body.geometry.max_tokens)
            for part in chosen.split(_BATCH):
                texts = [str(data.inputs[i]) for i in part.tolist()]
                encoded = tokenizer(texts, padding=True, truncation=True, max_length=most, return_tensors="pt")
                parts.append(embedding(encoded["input_ids"].to(device), encoded["attention_mask"].to(device)))
        else:
            images = torch.as_tensor(data.inputs)
            parts = [embedding(images[part].to(device)) for part in chosen.split(_BATCH)]
    return torch.cat(parts).cpu(), labels
