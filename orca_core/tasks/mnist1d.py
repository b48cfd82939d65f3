"""MNIST-1D: ten short templates, each drawn padded, stretched, moved, sheared and noisy.

Source: Greydanus & Kobak, "Scaling down deep learning with MNIST-1D", ICML 2024, arXiv 2011.14439; templates and constants are
those of github.com/greydanus/mnist1d (Apache-2.0). Differs: all 5000 series are drawn at once from a PCG64 generator, so they are
another sample of the same distribution, not the rows of the authors' file; and series are standardised by the training rows alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from orca_core.tasks.preparation import Answers, Preparation
from orca_core.tasks.raw_arrays import ArrayInputs, array_range
from orca_core.tasks.spec import Split, TaskData, TaskSpec
from orca_core.tasks.splitting import deal, standardise

if TYPE_CHECKING:
    import numpy as np

NUM_TRAIN, NUM_VALID, NUM_TEST = 3600, 400, 1000
SEED = 42
TEMPLATE_LENGTH, FULL_LENGTH, LENGTH = 12, 72, 40
"""Points of a template; of a padded series, to which every one is stretched; of the series as given."""

TEMPLATES = (
    (5, 6, 6.5, 6.75, 7, 7, 7, 7, 6.75, 6.5, 6, 5),
    (5, 3, 3, 3.4, 3.8, 4.2, 4.6, 5, 5.4, 5.8, 5, 5),
    (5, 6, 6.5, 6.5, 6, 5.25, 4.75, 4, 3.5, 3.5, 4, 5),
    (5, 6, 6.5, 6.5, 6, 5, 5, 6, 6.5, 6.5, 6, 5),
    (5, 4.4, 3.8, 3.2, 2.6, 2.6, 5, 5, 5, 5, 5, 5),
    (5, 3, 3, 3, 3, 5, 6, 6.5, 6.5, 6, 4.5, 5),
    (5, 4, 3.5, 3.25, 3, 3, 3, 3, 3.25, 3.5, 4, 5),
    (5, 7, 7, 6.6, 6.2, 5.8, 5.4, 5, 4.6, 4.2, 5, 5),
    (5, 4, 3.5, 3.5, 4, 5, 5, 4, 3.5, 3.5, 4, 5),
    (5, 4, 3.5, 3.5, 4, 5, 5, 5, 5, 4.7, 4.3, 5),
)
"""One row per digit, as the authors drew them; `templates()` scales them."""


def load_mnist1d(spec: TaskSpec, split_seed: int) -> TaskData:
    """4000 series of which `split_seed` draws 400 for validation, and always the same 1000 for the test; x (n, 1, 40)."""
    import numpy as np

    x, y = draw(NUM_TRAIN + NUM_VALID + NUM_TEST, np.random.Generator(np.random.PCG64(SEED)))
    train, valid, _ = deal(x[:-NUM_TEST], y[:-NUM_TEST], split_seed, num_valid=NUM_VALID)
    inputs = ArrayInputs((1, LENGTH), (), *array_range(train.x), about="series as they are drawn")
    preparation = Preparation(inputs, Answers("classification", tuple(range(len(TEMPLATES)))))
    test = Split(x[-NUM_TEST:], y[-NUM_TEST:])
    return standardise(TaskData(train, valid, test, num_classes=len(TEMPLATES), preparation=preparation))


def templates() -> np.ndarray:
    """(10, 12) float64, each of variance 1/36 and starting at 0."""
    import numpy as np

    raw = np.array(TEMPLATES, dtype=np.float64)
    scaled = (raw - raw.mean(axis=1, keepdims=True)) / raw.std(axis=1, keepdims=True)
    return (scaled - scaled[:, :1]) / 6


def draw(samples: int, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Series with equally many of each digit, in random order.

    Args:
        samples: A multiple of 10.
        generator: Where every random number comes from.

    Returns:
        (samples, 1, 40) float64, and (samples,) int64 digits.
    """
    import numpy as np
    from scipy.ndimage import gaussian_filter1d

    digits = generator.permutation(np.repeat(np.arange(len(TEMPLATES)), samples // len(TEMPLATES)))

    # 36 to 60 zeros behind the template; the whole then stretched to 72 points, so that the template's width varies.
    padding = generator.integers(36, 60, size=(samples, 1), endpoint=True)
    padded = np.pad(templates(), ((0, 0), (0, 60 + 1)))[digits]
    at = np.linspace(0, 1, FULL_LENGTH) * (TEMPLATE_LENGTH + padding - 1)
    series = _interpolate(padded, at)

    series *= 1 + 0.4 * generator.uniform(-0.5, 0.5, size=(samples, 1))
    moved = (np.arange(FULL_LENGTH) - generator.integers(0, 48, size=(samples, 1))) % FULL_LENGTH
    series = np.take_along_axis(series, moved, axis=1)
    on_template = np.take_along_axis(at < TEMPLATE_LENGTH, moved, axis=1)

    # Smooth noise fills only the rest of the series, so that smoothness does not give the template away.
    smooth_noise = gaussian_filter1d(0.25 * generator.standard_normal(series.shape), sigma=2, axis=1)
    series = np.where(on_template, series, smooth_noise) + 0.02 * generator.standard_normal(series.shape)
    series -= 0.75 * generator.uniform(-0.5, 0.5, size=(samples, 1)) * np.linspace(-0.5, 0.5, FULL_LENGTH)

    series = _interpolate(series, np.broadcast_to(np.linspace(0, FULL_LENGTH - 1, LENGTH), (samples, LENGTH)))
    return series[:, None], digits.astype(np.int64)


def _interpolate(series: np.ndarray, at: np.ndarray) -> np.ndarray:
    """Linear interpolation of each row of `series` (n, m) at its own positions (n, k), in points from the row's first."""
    import numpy as np

    before = np.minimum(at.astype(np.int64), series.shape[1] - 2)
    weight = at - before
    left, right = np.take_along_axis(series, before, axis=1), np.take_along_axis(series, before + 1, axis=1)
    return (1 - weight) * left + weight * right
