"""Source tokens: samples of the proxy as the body's own embedding gives them to the body, with their labels.

Source features (`orca_core.alignment.source`) are means over these tokens. The successors of ORCA need the tokens themselves: PaRe puts
some of them into the target's sequences, RECRAFT and MoNA let the body read them.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from orca_core.alignment.source import NOISE_CLASSES, NOISE_SAMPLES, TEXT_TOKENS
from orca_core.bodies.base import IMAGE_MEAN, IMAGE_STD, ImageEmbedding, TextEmbedding
from orca_core.bodies.loading import LoadedBody
from orca_core.errors import DataError
from orca_core.proxies import ProxySpec
from orca_core.seeding import generator

_BATCH = 256


class SourceTokens:
    """Samples of a proxy, embedded when they are asked for: all tokens of all samples would not fit into memory.

    The samples and labels are those of the source features of the same trial. The embedding is frozen; no gradient passes through it.

    Args:
        proxy: One that the body embeds, or `noise`; see `has_tokens`.
        loaded: The body.
        samples: Maximum number of samples; a larger proxy is subsampled by `seed`.
        length: l, the number of tokens of a sample. A text that has fewer begins again, one that has more is cut.
        seed: The trial's seed.
        device: Where to compute.
    """

    def __init__(self, proxy: ProxySpec, loaded: LoadedBody, *, samples: int, length: int, seed: int, device: torch.device) -> None:
        self.length, self.device, self.width = length, device, loaded.body.geometry.width
        samples = min(samples, proxy.max_samples or samples)
        self.embedding: nn.Module | None = None
        if not proxy.loader:  # noise: each token of each sample is drawn by the number of the sample
            self.labels = torch.randint(NOISE_CLASSES, (min(NOISE_SAMPLES, samples),), generator=generator(seed, "noise-proxy"))
        else:
            if not has_tokens(proxy):
                raise DataError(f"{proxy.name}: has features, but no samples whose tokens the body could read")
            assert loaded.embedding is not None, "a bodiless arm has no source tokens"
            self.embedding = loaded.embedding.to(device)
            data = proxy.load()
            chosen = torch.randperm(len(data), generator=generator(seed, "proxy-sample"))[:samples].sort().values
            self.labels = torch.from_numpy(np.asarray(data.labels))[chosen]
            if isinstance(self.embedding, TextEmbedding):
                texts = [str(data.inputs[row]) for row in chosen.tolist()]
                spans = None if data.spans is None else [data.spans[row] for row in chosen.tolist()]
                self.ids, self.places = _tokenize(texts, spans, loaded.tokenizer(), _most_tokens(loaded), length)
            else:
                self.images = torch.as_tensor(data.inputs)[chosen]
        if proxy.shuffled:
            self.labels = self.labels[torch.randperm(len(self.labels), generator=generator(seed, "proxy-labels"))]
        known, self.labels = torch.unique(self.labels, return_inverse=True)
        self.num_classes = len(known)

    def __len__(self) -> int:
        return len(self.labels)

    def __call__(self, rows: Tensor) -> Tensor:
        """(m,) rows -> (m, l, d) tokens, on the device."""
        with torch.no_grad():
            parts = [self._embed(part) for part in rows.split(_BATCH)]
        return torch.cat(parts)

    def _embed(self, rows: Tensor) -> Tensor:
        if self.embedding is None:
            drawn = (torch.randn(self.length, self.width, generator=torch.Generator().manual_seed(row)) for row in rows.tolist())
            return torch.stack(list(drawn)).to(self.device)
        if isinstance(self.embedding, TextEmbedding):
            used = int(self.places[rows].max()) + 1
            tokens = self.embedding.embed(self.ids[rows, :used].to(self.device))
            return torch.stack([of_text[place] for of_text, place in zip(tokens, self.places[rows].to(self.device), strict=True)])
        assert isinstance(self.embedding, ImageEmbedding)
        images = self.images[rows].to(self.device)
        images = images.float() / 255 if images.dtype == torch.uint8 else images
        mean, std = (images.new_tensor(values).view(3, 1, 1) for values in (IMAGE_MEAN, IMAGE_STD))
        size = self.embedding.image_size
        resized = nn.functional.interpolate(images, (size, size), mode="bilinear", align_corners=False)
        tokens = self.embedding.embed((resized - mean) / std)
        return tokens[:, torch.arange(self.length, device=self.device) % tokens.shape[1]]


def has_tokens(proxy: ProxySpec) -> bool:
    """Whether a proxy has samples whose tokens a body can read: not if it is known by its features, or by their moments, alone."""
    return not proxy.matched and proxy.width is None


def _most_tokens(loaded: LoadedBody) -> int:
    return min(TEXT_TOKENS, loaded.body.geometry.max_tokens)


def _tokenize(texts: list[str], spans: list[tuple[int, int]] | None, tokenizer: Any, most: int, length: int) -> tuple[Tensor, Tensor]:
    """(n, l') token ids, and for each of l tokens its place among them. A sample that is about a part of its text begins there."""
    options = {"padding": True, "truncation": True, "max_length": most, "return_tensors": "pt"}
    encoded = tokenizer(texts, return_offsets_mapping=spans is not None, **options)
    mask = encoded["attention_mask"].bool()
    places = torch.empty(len(texts), length, dtype=torch.long)
    for row in range(len(texts)):
        own = mask[row].nonzero()[:, 0]
        if len(own) == 0:  # an empty text, for which some tokenizers make no token
            own = torch.zeros(1, dtype=torch.long)
        start = 0
        if spans is not None:
            first, last = encoded["offset_mapping"][row][own].unbind(-1)
            inside = ((first < spans[row][1]) & (last > spans[row][0])).nonzero()[:, 0]
            start = int(inside[0]) if len(inside) else 0
        places[row] = own[(start + torch.arange(length)) % len(own)]
    return encoded["input_ids"], places
