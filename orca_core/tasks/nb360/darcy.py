"""Darcy flow (Li et al. 2021): from the permeability of a square to the pressure in it, in MATLAB files."""

from __future__ import annotations

from typing import TYPE_CHECKING

from orca_core.datafiles.decoding import Decoding, decode_once, refuse_not_finite
from orca_core.datafiles.expected import ArrayForm, ExpectedFile
from orca_core.datafiles.matlab import read_mat
from orca_core.tasks.preparation import Answers, Preparation, Scale
from orca_core.tasks.raw_arrays import ArrayInputs, Coordinates, Reorder, array_range
from orca_core.tasks.spec import Split, TaskData, TaskSpec
from orca_core.tasks.splitting import scale_of_points

if TYPE_CHECKING:
    import numpy as np

STRIDE = 5
"""Stride over the points of the published grid: 85 of 421 are used."""

MAX_SAMPLES = {"train": 1000, "test": 100}
"""How many samples of each file are used, from the first on."""

FILES = tuple(
    ExpectedFile(
        f"piececonst_r421_N1024_smooth{number}.mat",
        "mat",
        tuple(ArrayForm(key, "n side side", "f", "float, (1024, 421, 421)") for key in ("coeff", "sol")),
        "MATLAB v5 or v7.3",
        "1.6 GB",
        "NAS-Bench-360",
    )
    for number in (1, 2)
)


def load_darcy(spec: TaskSpec, split_seed: int, reference: bool) -> TaskData:
    """x (n, 3, side, side): scaled permeability and two coordinates; y (n, 1, side, side): scaled pressure.

    The last tenth of the training samples is validation, whatever the seed, as in the benchmark. Loss and score are of pressures,
    not of scaled ones. Scales are fitted on train alone.
    """
    arrays, _ = decode_once(spec, _decode)
    x, y = arrays["train_coeff"], arrays["train_sol"]
    number = len(x) if reference else len(x) - max(1, round(0.1 * len(x)))
    parts = {"train": (x[:number], y[:number]), "test": (arrays["test_coeff"], arrays["test_sol"])}
    parts["valid"] = parts["test"] if reference else (x[number:], y[number:])
    scale_x, scale_y = scale_of_points(parts["train"][0]), scale_of_points(parts["train"][1])
    inputs = _inputs(parts["train"][0], scale_x)
    train, valid, test = (
        Split(inputs.transform(parts[part][0]), scale_y.encode(parts[part][1])[:, None]) for part in ("train", "valid", "test")
    )
    answers = Answers("dense", scale=Scale(scale_y.mean[None], scale_y.deviation[None]), unit="pressures at the points of the input")
    return TaskData(train, valid, test, None, decode=scale_y, preparation=Preparation(inputs, answers))


def _inputs(x: np.ndarray, scale: Scale) -> ArrayInputs:
    """From permeabilities (n, side, side) to scaled ones and two coordinates."""
    import numpy as np

    line = np.linspace(0, 1, x.shape[1], dtype=np.float32)
    steps = (scale, Reorder((0, 1, 2), (1, *x.shape[1:])), Coordinates(np.stack(np.meshgrid(line, line))))
    low, high = array_range(x)
    about = f"permeabilities at every {STRIDE}th point of the published grid"
    return ArrayInputs(tuple(x.shape[1:]), steps, low, high, about=about)


def _decode(out: Decoding) -> None:
    for part, file in zip(("train", "test"), FILES, strict=True):
        for form in file.arrays:
            values = read_mat(file.find(), form.key, MAX_SAMPLES[part], STRIDE)
            refuse_not_finite(file.find(), form.key, values, "sample")
            out.save(f"{part}_{form.key}", values)
