"""Pictures of fractals: the attractors of ten iterated function systems, each perturbed and turned at random, in light ink
on a dark ground.

A map of a system is z -> s z + t in the complex plane, so a system is a list of pairs (s, t). Fractals as pretraining data:
Kataoka et al. 2020, "Pre-training without natural images", ACCV. Differs: known systems with small perturbations, so that the
labels have names; they draw random systems.
"""

from __future__ import annotations

import cmath
import math
from typing import TYPE_CHECKING

from orca_core.proxies.spec import ProxyData, ProxySpec

if TYPE_CHECKING:
    import numpy as np

SEED = 7
IMAGES_PER_SYSTEM = 240
SIDE = 32
DARKEST, LIGHTEST = 0.3, 0.7
"""The ground is a grey below the first, the ink one above the second: with random colours mini-swin learns no shapes in its epochs."""
PARTICLES, SETTLING_STEPS, DRAWN_STEPS = 256, 12, 24
"""Points per picture that move at once; steps until they are on the attractor (the largest |s| is 0.71); steps that are drawn."""

Maps = tuple[tuple[complex, complex], ...]


def _flake(corners: int, ratio: float, centre: bool = False) -> Maps:
    """A polygon's corners, each with a copy of the whole shrunk by `ratio`; one more in the centre if asked."""
    around = [(ratio + 0j, (1 - ratio) * cmath.exp(2j * math.pi * k / corners)) for k in range(corners)]
    return (*around, (ratio + 0j, 0j)) if centre else tuple(around)


_TURN = cmath.exp(1j * math.pi / 3)

SYSTEMS: dict[str, Maps] = {
    "sierpinski-triangle": _flake(3, 1 / 2),
    "cantor-dust": _flake(4, 2 / 5),
    "pentaflake": _flake(5, 0.382),
    "hexaflake": _flake(6, 1 / 3, centre=True),
    "vicsek-cross": _flake(4, 1 / 3, centre=True),
    "sierpinski-carpet": tuple((1 / 3 + 0j, complex(i, j) / 3) for i in range(3) for j in range(3) if (i, j) != (1, 1)),
    "koch-curve": ((1 / 3 + 0j, 0j), (_TURN / 3, 1 / 3 + 0j), (1 / _TURN / 3, (1 + _TURN) / 3), (1 / 3 + 0j, 2 / 3 + 0j)),
    "heighway-dragon": (((1 + 1j) / 2, 0j), ((-1 + 1j) / 2, 1 + 0j)),
    "levy-curve": (((1 + 1j) / 2, 0j), ((1 - 1j) / 2, (1 + 1j) / 2)),
    "twindragon": (((1 + 1j) / 2, 0j), ((-1 - 1j) / 2, 1 + 0j)),
}


def load_fractals(spec: ProxySpec) -> ProxyData:
    """2400 pictures (n, 3, 32, 32), 240 of each system, labels in turn."""
    import numpy as np

    generator = np.random.Generator(np.random.PCG64(SEED))
    labels = np.tile(np.arange(len(SYSTEMS)), IMAGES_PER_SYSTEM)
    density = _density(_wander(labels, generator))

    # Both greys are random, so only the shape tells the system.
    ground, ink = generator.uniform((0, LIGHTEST), (DARKEST, 1), size=(len(labels), 2)).T.reshape(2, -1, 1, 1)
    images = np.repeat((ground + (ink - ground) * density)[:, None], 3, axis=1)
    return ProxyData(images.astype(np.float32), labels.astype(np.int64), tuple(SYSTEMS))


def _wander(labels: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Chaos game on a perturbed and turned system per label: (n, DRAWN_STEPS * PARTICLES) complex points."""
    import numpy as np

    most_maps = max(map(len, SYSTEMS.values()))
    padded = np.array([(maps * most_maps)[:most_maps] for maps in SYSTEMS.values()])  # (systems, most_maps, 2)
    num_maps = np.array([len(maps) for maps in SYSTEMS.values()])[labels, None]

    noise = generator.standard_normal((2, len(labels), most_maps, 2))
    scale, shift = np.moveaxis(padded[labels], -1, 0)
    scale = scale * (1 + 0.03 * (noise[0, ..., 0] + 1j * noise[0, ..., 1]))
    shift = shift + 0.03 * (noise[1, ..., 0] + 1j * noise[1, ..., 1])
    turn = np.exp(2j * np.pi * generator.uniform(size=(len(labels), 1)))

    points = np.zeros((len(labels), PARTICLES), dtype=np.complex128)
    drawn = []
    for step in range(SETTLING_STEPS + DRAWN_STEPS):
        choice = (generator.uniform(size=points.shape) * num_maps).astype(np.int64)
        points = np.take_along_axis(scale, choice, axis=1) * points + np.take_along_axis(shift, choice, axis=1)
        if step >= SETTLING_STEPS:
            drawn.append(turn * points)
    return np.concatenate(drawn, axis=1)


def _density(points: np.ndarray) -> np.ndarray:
    """Points per pixel on a log scale, each picture filling its frame: (n, SIDE, SIDE) in [0, 1]."""
    import numpy as np

    pixel = []
    for coordinate in (points.imag, points.real):
        low, high = coordinate.min(axis=1, keepdims=True), coordinate.max(axis=1, keepdims=True)
        pixel.append(np.minimum((SIDE * (coordinate - low) / (high - low)).astype(np.int64), SIDE - 1))
    flat = (np.arange(len(points))[:, None] * SIDE + pixel[0]) * SIDE + pixel[1]
    counts = np.bincount(flat.ravel(), minlength=len(points) * SIDE * SIDE).reshape(len(points), SIDE, SIDE)
    density = np.log1p(counts)
    return density / density.max(axis=(1, 2), keepdims=True)
