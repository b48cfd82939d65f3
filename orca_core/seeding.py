"""Random numbers by (seed, purpose, epoch).

A generator depends on these three alone: never on a config, a stage key, or on what ran before in the process. So all arms of a
seed share their draws, a shorter trajectory is a prefix of a longer one, and going on in mid-stage needs no generator state.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import torch

Purpose = Literal[
    "body-init",
    "body-shuffle",
    "embedder-init",
    "predictor-init",
    "adapter-init",
    "proxy-sample",
    "noise-proxy",
    "proxy-labels",
    "proxy-distance",
    "proxy-choice",
    "k-means",
    "align-samples",
    "train-subset",
    "floor-subset",
    "data-order",
    "augment",
    "adapt-init",
    "adapt-order",
    "adapt-mask",
    "joint-distance",
    "mix-init",
    "mix",
    "mixup",
    "smooth",
    "data-draws",
    "dropout",
    "pretrain-subset",
    "pretrain-order",
    "pretrain-mask",
    "pretrain-init",
    "pretrain-label-noise",
    "search",
    "probe-samples",
    "probe-inputs",
]


def derive(seed: int, purpose: Purpose, epoch: int = 0, detail: str = "") -> int:
    """A seed below 2**32 for one purpose in one epoch.

    >>> derive(0, "data-order", 1) == derive(0, "data-order", 1) != derive(0, "data-order", 2)
    True
    """
    digest = hashlib.sha256(f"{seed}/{purpose}/{epoch}/{detail}".encode()).digest()
    return int.from_bytes(digest[:4], "big")


def generator(seed: int, purpose: Purpose, epoch: int = 0) -> torch.Generator:
    """A CPU generator for one purpose in one epoch. Draws are made on the CPU, so that every device sees the same ones."""
    import torch

    return torch.Generator().manual_seed(derive(seed, purpose, epoch))


@contextmanager
def seeded(seed: int, purpose: Purpose, epoch: int = 0) -> Iterator[None]:
    """Within: torch's global generators are seeded for one purpose. For code that draws from them, as layers and dropout do."""
    import torch

    number = derive(seed, purpose, epoch)
    if torch.accelerator.is_available():
        # Of the GPUs the one in use, if it has been used: by default torch would start every one of the machine.
        with torch.random.fork_rng([torch.cuda.current_device()] if torch.cuda.is_initialized() else []):
            torch.manual_seed(number)
            yield
        return
    before = torch.get_rng_state()  # without a device there is one generator, and looking for others takes 80 times as long
    torch.default_generator.manual_seed(number)
    try:
        yield
    finally:
        torch.set_rng_state(before)
