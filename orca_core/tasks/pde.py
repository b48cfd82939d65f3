"""Small solution sets of three equations, solved here: advection and Burgers on a circle, Darcy flow in a square.

A sample's input is the state at the start (or the coefficient), its target the state at the end (or the solution), as in PDEBench
and in NAS-Bench-360's Darcy flow. The samples are drawn from fixed seeds; `split_seed` only chooses the validation rows.

Sources: Takamoto et al. 2022, PDEBench, arXiv 2210.07182, appendix D; Li et al. 2021, Fourier Neural Operator, arXiv 2010.08895,
appendix A.3; Kassam & Trefethen 2005, SIAM J. Sci. Comput. 26(4), for the integrating factor.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

from orca_core.tasks.preparation import Answers, Preparation
from orca_core.tasks.raw_arrays import ArrayInputs, Coordinates, array_range
from orca_core.tasks.spec import Split, TaskData, TaskSpec
from orca_core.tasks.splitting import deal, standardise

if TYPE_CHECKING:
    import numpy as np

GRID = 128
"""Points on the circle of circumference 1."""

ADVECTION_SPEED, ADVECTION_TIME = 0.4, 2.0
"""ORCA's PDE-ADV: beta 0.4, one jump to t = 2."""

BURGERS_VISCOSITY, BURGERS_TIME, BURGERS_STEPS = 0.04 / math.pi, 0.5, 100
"""nu / pi with one of PDEBench's nu. ORCA's PDE-Burgers has nu 1, under which a state has almost vanished by t = 2."""

DARCY_SIDE, DARCY_SCALE = 32, 100.0
"""Cells on a side of the unit square in `darcy-mini`; what pressures of about 0.01 are multiplied by."""


def load_advection(spec: TaskSpec, split_seed: int) -> TaskData:
    """600 / 100 / 100 states with waves up to the eighth; x and y (n, 1, 128)."""
    import numpy as np

    start = random_waves(np.random.Generator(np.random.PCG64(1)), samples=800, modes=8, points=GRID)
    end = advect(start, ADVECTION_SPEED * ADVECTION_TIME)
    return _split(ArrayInputs((1, GRID)), start[:, None], end[:, None], split_seed, num_held_out=100)


def load_burgers(spec: TaskSpec, split_seed: int) -> TaskData:
    """600 / 100 / 100 states with waves up to the fourth; x and y (n, 1, 128)."""
    import numpy as np

    start = random_waves(np.random.Generator(np.random.PCG64(2)), samples=800, modes=4, points=GRID)
    end = solve_burgers(start, BURGERS_VISCOSITY, BURGERS_TIME, BURGERS_STEPS)
    return _split(ArrayInputs((1, GRID)), start[:, None], end[:, None], split_seed, num_held_out=100)


def load_darcy(spec: TaskSpec, split_seed: int) -> TaskData:
    """400 / 50 / 50 squares of 32 x 32 cells, see `_darcy`."""
    return _darcy(DARCY_SIDE, split_seed, draws=3)


def load_darcy_16(spec: TaskSpec, split_seed: int) -> TaskData:
    """The same of 16 x 16 cells, other squares: as fine as mini-swin's answers."""
    return _darcy(16, split_seed, draws=5)


def _darcy(side: int, split_seed: int, draws: int) -> TaskData:
    """400 / 50 / 50 squares; y is 100 times the pressure, (n, 1, side, side).

    x is (n, 3, side, side): the standardised coefficient and, as in the reference's Darcy Flow, the two coordinates of each cell,
    also standardised. A Swin knows no absolute position by itself, and the pressure is zero on the boundary.
    """
    import numpy as np

    coefficients = random_coefficients(np.random.Generator(np.random.PCG64(draws)), samples=500, side=side)
    pressures = np.stack([solve_darcy(coefficient) for coefficient in coefficients])
    centres = (np.arange(side) + 0.5) / side
    grid = np.stack(np.meshgrid(centres, centres, indexing="ij"))
    inputs = ArrayInputs((1, side, side), (Coordinates(grid),), about="coefficients")
    unit = f"{DARCY_SCALE:g} times the pressure"
    return standardise(_split(inputs, coefficients[:, None], DARCY_SCALE * pressures[:, None], split_seed, num_held_out=50, unit=unit))


def _split(inputs: ArrayInputs, raw: np.ndarray, y: np.ndarray, split_seed: int, num_held_out: int, unit: str = "") -> TaskData:
    """float32; the last `num_held_out` rows are the test, as many others the validation."""
    x, y = inputs.transform(raw), y.astype("float32")
    train, valid, _ = deal(x[:-num_held_out], y[:-num_held_out], split_seed, num_valid=num_held_out)
    low, high = array_range(raw[:-num_held_out])
    preparation = Preparation(replace(inputs, low=low, high=high), Answers("dense", unit=unit))
    return TaskData(train, valid, Split(x[-num_held_out:], y[-num_held_out:]), num_classes=None, preparation=preparation)


def random_waves(generator: np.random.Generator, samples: int, modes: int, points: int) -> np.ndarray:
    """Sums of one sine per wave number 1..modes, amplitude in [0, 1) and phase uniform: (samples, points) at x = i / points.

    PDEBench adds two sines of random wave numbers. Here all take part, so that under viscosity no target decays to nothing.
    """
    import numpy as np

    wave = np.arange(1, modes + 1)[:, None]
    amplitude = generator.uniform(0, 1, size=(samples, modes, 1))
    phase = generator.uniform(0, 2 * np.pi, size=(samples, modes, 1))
    return (amplitude * np.sin(2 * np.pi * wave * np.arange(points) / points + phase)).sum(axis=1)


def advect(u: np.ndarray, distance: float) -> np.ndarray:
    """The states (..., points) moved right by `distance` on the circle: u_t + beta u_x = 0 after distance / beta; exact."""
    import numpy as np

    wave = np.arange(u.shape[-1] // 2 + 1)
    return np.fft.irfft(np.exp(-2j * np.pi * wave * distance) * np.fft.rfft(u), n=u.shape[-1])


def solve_burgers(u: np.ndarray, viscosity: float, time: float, steps: int) -> np.ndarray:
    """States of u_t + u u_x = viscosity * u_xx on the circle of circumference 1.

    Pseudo-spectral: diffusion exactly by an integrating factor, the flux u^2 / 2 on the grid with the upper third of the waves cut
    off against aliasing (the 2/3 rule), fourth-order Runge-Kutta in time.

    Args:
        u: (..., points) states at time 0.
        viscosity: > 0.
        time: When to stop.
        steps: Equal time steps until then.

    Returns:
        (..., points) states at `time`.
    """
    import numpy as np

    points, dt = u.shape[-1], time / steps
    wave = np.arange(points // 2 + 1)
    minus_half_gradient = np.where(wave < points / 3, -1j * np.pi * wave, 0)
    half_decay = np.exp(-viscosity * (2 * np.pi * wave) ** 2 * dt / 2)

    def rate(spectrum: np.ndarray) -> np.ndarray:
        return minus_half_gradient * np.fft.rfft(np.fft.irfft(spectrum, n=points) ** 2)

    spectrum = np.fft.rfft(u)
    for _ in range(steps):
        halfway = half_decay * spectrum
        first = rate(spectrum)
        second = rate(halfway + dt / 2 * half_decay * first)
        third = rate(halfway + dt / 2 * second)
        fourth = rate(half_decay * (halfway + dt * third))
        spectrum = half_decay**2 * (spectrum + dt / 6 * first) + dt / 3 * half_decay * (second + third) + dt / 6 * fourth
    return np.fft.irfft(spectrum, n=points)


def random_coefficients(generator: np.random.Generator, samples: int, side: int) -> np.ndarray:
    """Permeabilities (samples, side, side): 12 where a Gaussian field is positive, 3 elsewhere.

    The field has covariance (-Laplacian + 9)^-2 with zero flux through the boundary and mean 0 over the square, drawn by its
    cosine series (Li et al., A.3.2).
    """
    import numpy as np
    from scipy.fft import idctn

    wave = np.arange(side)
    deviation = 1 / (np.pi**2 * (wave[:, None] ** 2 + wave**2) + 9)
    deviation[0, 0] = 0
    field = idctn(deviation * generator.standard_normal((samples, side, side)), axes=(1, 2), norm="ortho")
    return np.where(field >= 0, 12.0, 3.0)


def solve_darcy(coefficient: np.ndarray) -> np.ndarray:
    """The pressure u of -div(a grad u) = 1 in the unit square, u = 0 on its boundary.

    Finite volumes with u at the cells' centres; between two centres flow meets half a cell of each in series, which is the harmonic
    mean of their a. The system is banded and positive definite, and is solved directly, by banded Cholesky.

    Args:
        coefficient: (rows, columns) a > 0, one value per cell; rows = columns, at least 2.

    Returns:
        (rows, columns) u at the centres.
    """
    import numpy as np
    from scipy.linalg import solveh_banded

    side = len(coefficient)
    resistance = np.pad(0.5 / coefficient, 1)  # from a cell's centre to its face; none beyond the boundary
    above = 1 / (resistance[:-1, 1:-1] + resistance[1:, 1:-1])  # (side + 1, side) conductances of the faces above and below cells
    left = 1 / (resistance[1:-1, :-1] + resistance[1:-1, 1:])  # (side, side + 1) of those to their left and right

    bands = np.zeros((side + 1, side * side))  # band k holds the matrix entries (p + k, p), cells p counted row by row
    bands[0] = (above[:-1] + above[1:] + left[:, :-1] + left[:, 1:]).ravel()
    bands[1] = np.pad(-left[:, 1:-1], ((0, 0), (0, 1))).ravel()
    bands[side] = np.pad(-above[1:-1], ((0, 1), (0, 0))).ravel()
    load = np.full(side * side, 1 / side**2)
    return solveh_banded(bands, load, lower=True).reshape(side, side)
