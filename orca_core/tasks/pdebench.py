"""PDEBench (Takamoto et al. 2022, arXiv 2210.07182) as the reference poses it: from the state at the start to the state at one later time.

Files are up to 52 GB large, but only two times of each sample are used: files are read in blocks of samples, at these times alone.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from orca_core.datafiles.decoding import Decoding, decode_once, refuse_not_finite
from orca_core.datafiles.expected import ArrayForm, ExpectedFile, refuse
from orca_core.datafiles.hdf5 import find_array, list_arrays, list_groups, open_hdf5
from orca_core.datafiles.npz import BLOCK_BYTES
from orca_core.datafiles.room import require_memory
from orca_core.errors import Fault
from orca_core.tasks.builtin import laptop_recipe
from orca_core.tasks.preparation import Answers, Preparation, Samples
from orca_core.tasks.raw_arrays import ArrayInputs, array_range, read_array_file
from orca_core.tasks.recipes import published_recipe
from orca_core.tasks.spec import Split, TaskData, TaskSpec
from orca_core.tasks.splitting import hold_out, scale_of_points, take_rows

if TYPE_CHECKING:
    import h5py
    import numpy as np

MIN_SAMPLES = 10
"""A tenth of the samples is the test part."""

REFERENCE_TEST_TIMES = 100
"""The reference does not pass the number of times to its test part, so this default applies there (`data_loaders.py:855`)."""

SCALED_BY = 100
"""Samples that the reference computes the scales of 2dcfd from."""


@dataclass(frozen=True)
class Equation:
    """How a file becomes pairs of states.

    Args:
        fields: The arrays of a state, in the order of channels; of a file with a group for each sample, `data` alone.
        every_point, every_time: Strides over points and times, from the first on.
        times: The target is the last of this many times that are used, or the last one of the file.
        test: Which tenth of the samples is the test part.
        x_of: The array of the inputs, where they are not the state at the start.
        channels: Which channel of `data` is the input and which the target; None = all are both.
        flat: Fields are concatenated into one channel.
        published: Sizes of times and points as published.
        scale: Points are scaled: inputs and targets by the inputs' statistics (`input`), each by their own (`each`), or not at all.
    """

    fields: tuple[str, ...]
    every_point: int = 1
    every_time: int = 1
    times: int = 1000
    test: Literal["first", "last"] = "first"
    x_of: str = ""
    channels: tuple[int, int] | None = None
    flat: bool = False
    published: tuple[int, ...] = ()
    scale: Literal["", "input", "each"] = ""

    @property
    def grouped(self) -> bool:
        """Whether each sample has a group of its own in the file."""
        return self.fields == ("data",)


EQUATIONS: dict[str, Equation] = {
    "pdebench/advection": Equation(("tensor",), every_point=4, every_time=5, published=(201, 1024)),
    "pdebench/burgers": Equation(("tensor",), every_time=5, published=(201, 1024)),
    "pdebench/1dcfd": Equation(("density", "pressure", "Vx"), every_time=5, flat=True, scale="input", published=(101, 1024)),
    "pdebench/ds": Equation(("data",), times=101, test="last", published=(101, 1024, 1)),
    "pdebench/rd": Equation(("tensor",), times=30, published=(101, 1024)),
    "pdebench/darcy": Equation(("tensor",), every_point=2, x_of="nu"),
    "pdebench/rd2d": Equation(("data",), times=101, test="last", channels=(0, 1), published=(101, 128, 128, 2)),
    "pdebench/sw": Equation(("data",), times=101, test="last", published=(101, 128, 128, 1)),
    "pdebench/2dcfd": Equation(
        ("density", "pressure", "Vx", "Vy"), every_point=2, times=21, test="last", scale="each", published=(21, 128, 128)
    ),
}


def load_pdebench(spec: TaskSpec, split_seed: int, reference: bool) -> TaskData:
    """x and y (n, channels, length) or (n, channels, height, width): the states at the start and at the target time.

    A tenth is the test part, the first or the last; a ninth of the rest is validation, by the seed. If points are scaled, the
    score is of scaled values, as in the reference.
    """
    equation = EQUATIONS[spec.name]
    arrays, facts = decode_once(spec, partial(_decode, spec, equation))
    x, y, number = arrays["x"], arrays["y"], facts["test"]
    test_rows, rest = (slice(0, number), slice(number, None)) if equation.test == "first" else (slice(-number, None), slice(0, -number))
    test = Split(x[test_rows], arrays["y_reference"] if reference and "y_reference" in arrays else y[test_rows])
    x, y = x[rest], y[rest]
    if reference:
        train, valid = Split(x, y), test
    else:
        rows, held = hold_out(y, 1 / 9, split_seed)
        train, valid = take_rows(x, y, rows), take_rows(x, y, held)
    inputs = StateInputs(tuple(train.x.shape[1:]), (), *array_range(train.x), about=_ABOUT, task=spec.name)
    answers = Answers("dense", unit=f"in the units of the file's {', '.join(equation.fields)}")
    if equation.scale:
        fitted = slice(0, SCALED_BY if reference and equation.scale == "each" else None)
        scale_x = scale_of_points(train.x[fitted])
        scale_y = scale_x if equation.scale == "input" else scale_of_points(train.y[fitted])
        inputs, answers = replace(inputs, steps=(scale_x,)), replace(answers, scale=scale_y, scored_scaled=True)
        train, valid, test = (Split(inputs.transform(part.x), answers.encode(part.y)) for part in (train, valid, test))
    return TaskData(train, valid, test, None, preparation=Preparation(inputs, answers))


_ABOUT = "states at the start, at the points that the task uses"


@dataclass(frozen=True)
class StateInputs(ArrayInputs):
    """States at the start: as arrays, or out of a file of PDEBench.

    Args:
        task: Whose files are read.
    """

    TYPE = "states"

    task: str = ""

    @property
    def expected(self) -> str:
        return f"{super().expected}; or a file of PDEBench for {self.task} (.hdf5, .h5)"

    def read(self, path: Path) -> Samples:
        if path.suffix not in (".hdf5", ".h5"):
            return read_array_file(path, self.expected)
        import numpy as np

        equation = EQUATIONS[self.task]
        with open_hdf5(path, f"a file of PDEBench for {self.task}") as file:
            number, _, frame = _read_sizes(path, file, equation, least=1)
            require_memory(path, "", number * _kept_bytes(equation, frame))
            frames = _open_frames(path, file, equation, frame, 1)
            blocks = [block for _, block in _read_frames(frames, equation, 0, 0, range(number), frame)]
        return Samples(np.concatenate(blocks))


def _decode(spec: TaskSpec, equation: Equation, out: Decoding) -> None:
    (expected,) = spec.expects
    path = expected.find()
    with open_hdf5(path, f"a complete {expected.form} file") as file:
        number, times, frame = _read_sizes(path, file, equation)
        used = range(0, times, equation.every_time)
        target, of_test = (used[min(most, len(used)) - 1] for most in (equation.times, REFERENCE_TEST_TIMES))
        if target == 0 and not equation.x_of:
            refuse([Fault("", "must have a later time than the first", times, "Is it another version?").text(str(path))])
        test = number - int(number * 0.9) if equation.test == "last" else int(number * 0.1)
        out.facts["test"] = test
        parts = [("x", 0, 0, number), ("y", 1, target, number)]
        if of_test != target and not equation.x_of:
            parts.append(("y_reference", 1, of_test, test))
        frames = _open_frames(path, file, equation, frame, target + 1)
        out.require_room(sum(count for _, _, _, count in parts) * _kept_bytes(equation, frame))
        for name, side, time, count in parts:
            array = None
            start = number - count if equation.test == "last" else 0
            for first, block in _read_frames(frames, equation, side, time, range(start, start + count), frame):
                key = equation.x_of if not side and equation.x_of else ", ".join(equation.fields)
                refuse_not_finite(path, key, block, "sample", first)
                if array is None:
                    array = out.empty(name, (count, *block.shape[1:]))
                array[first - start : first - start + len(block)] = block


def _read_sizes(path: Path, file: h5py.File, equation: Equation, least: int = MIN_SAMPLES) -> tuple[int, int, tuple[int, ...]]:
    """Samples, times of each, and the shape of a state as it is stored."""
    if equation.grouped:
        names = _list_samples(path, file)
        number, (times, *frame) = len(names), find_array(file[names[0]], "data").shape
    else:
        number, times, *frame = find_array(file, equation.fields[0]).shape
        _check_coordinates(path, file, frame)
    if number < least:
        refuse([Fault("", f"must have at least {least} samples", number, "Is it truncated?").text(str(path))])
    return number, times, tuple(frame)


def _list_samples(path: Path, file: h5py.File) -> list[str]:
    """The groups of samples, whose names are numbers; each has its states."""
    groups = list_groups(file)
    names, others = [name for name in groups if name.isdigit()], [name for name in groups if not name.isdigit()]
    if bare := [name for name in names if "data" not in file[name]]:
        refuse([Fault("data", "must be in the group of every sample", f"none in {bare[:5]}", "Is it truncated?").text(str(path))])
    if extra := [name for name in others if "data" in file[name]]:
        refuse([Fault("", "must have its samples in groups whose names are numbers", extra[:5]).text(str(path))])
    if not names:
        refuse([Fault("", "must have a group for each sample, whose name is its number", groups[:5]).text(str(path))])
    return names


def _check_coordinates(path: Path, file: h5py.File, frame: Sequence[int]) -> None:
    """Hold the sizes of a state against the coordinates that the file has for its axes: swapped axes would be read as another equation."""
    for name, size in zip(("x-coordinate", "y-coordinate"), frame, strict=False):
        header = list_arrays(file).get(name)
        if header is not None and len(header.shape) == 1 and header.shape[0] not in (size, size + 1):
            rule = f"must have as many points as the states, {size}"
            refuse([Fault(name, rule, header.shape[0], "Are the axes in another order?").text(str(path))])


def _kept_bytes(equation: Equation, frame: tuple[int, ...]) -> int:
    """Bytes of a decoded state, whose points are every so many of the stored ones."""
    *points, channels = frame if equation.grouped else (*frame, len(equation.fields))
    kept = math.prod(-(-size // equation.every_point) for size in points)
    return 4 * kept * (1 if equation.channels is not None else channels)


def _open_frames(path: Path, file: h5py.File, equation: Equation, frame: tuple[int, ...], times: int) -> dict[str, Any]:
    """The arrays of a file by name of the field, those of samples by number; all are written, and a state of theirs fits into memory."""
    if equation.grouped:
        arrays = {name: find_array(file[name], "data") for name in _list_samples(path, file)}
        for name, array in arrays.items():
            if array.shape[1:] != frame or array.shape[0] < times:
                rule = f"must have {times} states of the shape {frame}, like the first sample"
                refuse([Fault(f"{name}/data", rule, array.shape, "Is it truncated?").text(str(path))])
    else:
        arrays = {name: find_array(file, name) for name in filter(None, (*equation.fields, equation.x_of))}
    require_memory(path, "", max(array.dtype.itemsize for array in arrays.values()) * math.prod(frame) * len(equation.fields))
    return arrays


def _read_frames(
    arrays: dict[str, Any], equation: Equation, side: int, time: int, rows: range, frame: tuple[int, ...]
) -> Iterator[tuple[int, np.ndarray]]:
    """Blocks of states (n, channels, ...) at one time, each with the number of its first sample.

    Args:
        arrays: By name of the field or sample.
        side: 0 for inputs, 1 for targets.
        time: Index in the file.
        rows: Samples.
        frame: Shape of a state as it is stored.
    """
    import numpy as np

    step = max(1, BLOCK_BYTES // (4 * math.prod(frame) * len(equation.fields)))
    point = slice(None, None, equation.every_point)
    samples = list(arrays.values())
    for start in range(rows.start, rows.stop, step):
        stop = min(start + step, rows.stop)
        if equation.grouped:
            block = np.moveaxis(np.stack([data[time] for data in samples[start:stop]]), -1, 1)  # channels are last in the file
            if equation.channels is not None:
                block = block[:, equation.channels[side]][:, None]
        elif equation.x_of and side == 0:
            block = arrays[equation.x_of][start:stop][:, None]
        else:
            block = np.stack([arrays[field][start:stop, time] for field in equation.fields], axis=1)
        # A stride is taken here, not in the file: HDF5 reads strided selections point by point.
        block = block[(slice(None), slice(None), *(point for _ in block.shape[2:]))]
        yield start, block.reshape(len(block), 1, -1) if equation.flat else block


PDEBENCH = "PDEBench, darus.uni-stuttgart.de, file"


def _make_spec(key: str, summary: str, dims: Literal[1, 2], path: str, darus: int, size: str, recipe: dict[str, Any]) -> TaskSpec:
    name = f"pdebench/{key}"
    equation = EQUATIONS[name]
    line = "x" if dims == 1 else "h w"
    if equation.grouped:
        about = "2" if equation.channels else "1"
        forms: tuple[ArrayForm, ...] = (
            ArrayForm("data", f"t {line} {about}", "f", "float, in a group for each sample", equation.published),
        )
    else:
        forms = tuple(
            ArrayForm(field, f"n {'1' if equation.x_of else 't'} {line}", "f", "float", equation.published) for field in equation.fields
        )
        forms += (ArrayForm(equation.x_of, f"n {line}", "f", "float"),) if equation.x_of else ()
    files = (
        ExpectedFile(
            path,
            "hdf5 groups" if equation.grouped else "hdf5",
            forms,
            size=size,
            where=f"{PDEBENCH} {darus}",
            instead=(f"pdebench/{path}",),
        ),
    )
    other_target = equation.times in (30, 101)
    return TaskSpec(
        name=name,
        summary=summary,
        dims=dims,
        kind="dense",
        loss="rmse" if key in ("burgers", "1dcfd") else "nrmse",
        score="nrmse",
        loader="orca_core.tasks.pdebench:load_pdebench",
        recipes={
            "laptop": laptop_recipe(dims, epochs=15 if dims == 1 else 10, batch_size=8, lr=2e-3),
            "published": recipe,
        },
        licence="as the data set's page says",
        source="PDEBench (Takamoto et al. 2022, arXiv 2210.07182)",
        expects=files,
        reference="train and validation are one, validation = test"
        + ("; test targets are at time index 99" if other_target else "")
        + ("; scales are of the first 100 samples" if equation.scale == "each" else ""),
        variant=key,
    )


# Common to the reference's YAML files for PDEBench.
_COMMON: dict[str, Any] = {"batch_size": 4, "momentum": 0.99, "warmup": 5, "decay": 200}

PDEBENCH_TASKS: tuple[TaskSpec, ...] = (
    _make_spec(
        "advection",
        "10000 waves that move at speed 0.4, 256 points, and where they are at t = 2",
        1,
        "1D_Advection_Sols_beta0.4.hdf5",
        133110,
        "7.7 GB",
        published_recipe(1, epochs=200, clip=1.0, optimizer="adam", lr=1e-4, weight_decay=1e-5, **_COMMON),
    ),
    _make_spec(
        "burgers",
        "10000 states of Burgers' equation, nu 1, 1024 points, and what they are at t = 2",
        1,
        "1D_Burgers_Sols_Nu1.0.hdf5",
        133142,
        "7.7 GB",
        published_recipe(1, epochs=200, tokens=128, clip=1.0, optimizer="adam", lr=1e-5, weight_decay=1e-5, **_COMMON),
    ),
    _make_spec(
        "1dcfd",
        "10000 states of a compressible fluid on a line: density, pressure and speed of 1024 points, end to end",
        1,
        "1D_CFD_Rand_Eta0.1_Zeta0.1_periodic_Train.hdf5",
        164668,
        "12 GB",
        published_recipe(1, epochs=200, tokens=128, clip=1.0, optimizer="adamw", lr=1e-4, weight_decay=1e-3, **_COMMON),
    ),
    _make_spec(
        "ds",
        "10000 states of diffusion and sorption, 1024 points, and what they are at the end",
        1,
        "1D_diff-sorp_NA_NA.h5",
        133020,
        "4.0 GB",
        published_recipe(1, epochs=200, tokens=32, clip=1.0, optimizer="adamw", lr=1e-4, weight_decay=0.0, **_COMMON),
    ),
    _make_spec(
        "rd",
        "10000 states of a reaction with diffusion, 1024 points, and what they are 29 steps later",
        1,
        "ReacDiff_Nu0.5_Rho1.0.hdf5",
        133177,
        "3.9 GB",
        published_recipe(1, epochs=200, tokens=256, clip=1.0, optimizer="sgd", lr=1e-3, weight_decay=1e-5, **_COMMON),
    ),
    _make_spec(
        "darcy",
        "10000 squares of two kinds of rock, 64 x 64 points, and the pressure of water that seeps through",
        2,
        "2D_DarcyFlow_beta0.1_Train.hdf5",
        133218,
        "1.3 GB",
        published_recipe(2, epochs=100, tokens=64, score_chunk=100, optimizer="adamw", lr=1e-4, weight_decay=1e-5, **_COMMON),
    ),
    _make_spec(
        "rd2d",
        "1000 squares of a reaction with diffusion, 128 x 128 points: one substance at the start, the other at the end",
        2,
        "2D_diff-react_NA_NA.h5",
        133017,
        "about 13 GB",
        published_recipe(2, epochs=200, tokens=64, clip=1.0, optimizer="adam", lr=1e-4, weight_decay=1e-3, **_COMMON),
    ),
    _make_spec(
        "sw",
        "1000 squares of shallow water after a dam has burst, 128 x 128 points, at the start and at the end",
        2,
        "2D_rdb_NA_NA.h5",
        133021,
        "6.2 GB",
        published_recipe(2, epochs=200, tokens=64, clip=1.0, optimizer="adamw", lr=1e-4, weight_decay=0.0, **_COMMON | {"warmup": 10}),
    ),
    _make_spec(
        "2dcfd",
        "10000 squares of a compressible fluid, 4 fields of 64 x 64 points, at the start and at the end",
        2,
        "2D_CFD_Rand_M1.0_Eta0.1_Zeta0.1_periodic_128_Train.hdf5",
        164691,
        "52 GB",
        published_recipe(2, epochs=200, tokens=64, clip=1.0, optimizer="adamw", lr=1e-3, weight_decay=1e-3, **_COMMON),
    ),
)
