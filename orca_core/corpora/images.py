"""Corpora for image bodies: pictures in [0, 1]."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from orca_core.corpora import Corpus
from orca_core.proxies import find_proxy
from orca_core.proxies.fractals import IMAGES_PER_SYSTEM, SYSTEMS
from orca_core.workbench import memoize

NOISE_SEED, NOISE_COUNT, NOISE_CLASSES, NOISE_SIDE = 17, 2400, 10, 16
"""As many pictures and classes as `fractals` has, at the size that mini-swin reads."""


@dataclass(frozen=True)
class Pictures:
    """A corpus for image bodies.

    Args:
        images: (n, 3, height, width) float32 in [0, 1].
        labels: (n,) int64 from 0.
        num_labels: How many labels there are.
    """

    images: np.ndarray
    labels: np.ndarray
    num_labels: int


@memoize(maxsize=1)
def load_pictures(corpus: Corpus) -> Pictures:
    """A corpus for image bodies; kept in the process between trials."""
    if corpus.name == "noise":
        draws = np.random.Generator(np.random.PCG64(NOISE_SEED))
        images = draws.random((NOISE_COUNT, 3, NOISE_SIDE, NOISE_SIDE), dtype=np.float32)
        return Pictures(images, draws.integers(0, NOISE_CLASSES, NOISE_COUNT), NOISE_CLASSES)
    data = find_proxy(corpus.name).load()
    return Pictures(np.asarray(data.inputs), data.labels, len(data.label_names))


def count_pictures(corpus: Corpus) -> int:
    """How many pictures a corpus has, without drawing them."""
    return NOISE_COUNT if corpus.name == "noise" else len(SYSTEMS) * IMAGES_PER_SYSTEM
