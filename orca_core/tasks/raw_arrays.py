"""Raw samples that are arrays of numbers, and the steps by which they become rows of a task."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orca_core.datafiles.decoding import iterate_blocks
from orca_core.datafiles.npz import read_npz
from orca_core.datafiles.unpickling import read_object_npy
from orca_core.errors import DataError, Fault
from orca_core.tasks.preparation import Described, RawInputs, Samples, Scale

if TYPE_CHECKING:
    import numpy as np

FAR = 10
"""How many times the range of the training rows a value may lie beyond that range."""

MUCH_NARROWER = 100
"""By how many times the range of some samples may be narrower than that of the training rows before a warning asks for their unit."""


@dataclass(frozen=True)
class Divide(Described):
    """Values divided by a number, in float32."""

    TYPE = "divide"

    by: float

    def encode(self, values: np.ndarray) -> np.ndarray:
        """(n, ...) -> (n, ...) float32."""
        import numpy as np

        return values.astype(np.float32, copy=False) / np.float32(self.by)


@dataclass(frozen=True)
class Reorder(Described):
    """Axes in another order, and brought to a shape.

    Args:
        axes: The order; 0 is the axis of the samples.
        shape: Of a row afterwards.
    """

    TYPE = "reorder"

    axes: tuple[int, ...]
    shape: tuple[int, ...]

    def encode(self, values: np.ndarray) -> np.ndarray:
        """(n, ...) -> (n, *shape)."""
        import numpy as np

        return np.ascontiguousarray(values.transpose(self.axes)).reshape(len(values), *self.shape)


@dataclass(frozen=True, eq=False)
class Coordinates(Described):
    """Fields that are the same in each row, added as channels behind the others.

    Args:
        fields: (k, height, width).
    """

    TYPE = "coordinates"

    fields: np.ndarray

    def encode(self, values: np.ndarray) -> np.ndarray:
        """(n, c, height, width) -> (n, c + k, height, width) float32."""
        import numpy as np

        grid = np.broadcast_to(self.fields, (len(values), *self.fields.shape))
        return np.concatenate([values, grid], axis=1).astype(np.float32)


Step = Divide | Reorder | Coordinates | Scale


@dataclass(frozen=True)
class ArrayInputs(RawInputs):
    """Arrays of numbers.

    Args:
        shape: Of one sample, with its channels. Axes of length 1 may be left out: `(n, 64)` is taken for `(n, 1, 64)`.
        steps: What is done to arrays of that shape.
        low, high: Range of the training samples; values far outside are refused, as they are likely to be in another unit. None = any.
        dtype: In which the steps compute.
        about: What the values are, as a phrase; may be empty.
    """

    TYPE = "arrays"

    shape: tuple[int, ...]
    steps: tuple[Step, ...] = ()
    low: float | None = None
    high: float | None = None
    dtype: str = "float32"
    about: str = ""

    @property
    def expected(self) -> str:
        shapes = dict.fromkeys((_without_ones(self.shape), self.shape))
        text = f"arrays of shape {' or '.join(str(('n', *shape)) for shape in shapes)}".replace("'", "")
        text += f", {self.about}" if self.about else ""
        if self.low is not None and self.high is not None:
            text += f", values {self.low:g} to {self.high:g} in training"
        return f"{text}; or an .npy file of such an array, or an .npz file with it as x"

    def encode(self, samples: Any) -> np.ndarray:
        return self.transform(self.check(samples))

    def transform(self, samples: np.ndarray) -> np.ndarray:
        """(n, *shape) samples -> (n, ...) rows. What loaders call: the samples of a task are not held against the training range."""
        rows = as_rows(samples, self.shape, self.dtype)
        for step in self.steps:
            rows = step.encode(rows)
        return rows

    def check(self, samples: Any) -> np.ndarray:
        """The samples as an array (n, *shape) of `dtype`.

        Raises:
            DataError: If they are of another shape, not numbers, not finite or far outside of the training samples' range.
        """
        import numpy as np

        try:
            array = np.asarray(samples)
        except (ValueError, TypeError, RuntimeError) as error:  # rows of different lengths; a tensor on a GPU or with a gradient
            raise DataError(self._fault(f"must be one array ({error})", Fault.ABSENT)) from None
        if array.dtype.kind not in "biuf":
            raise DataError(self._fault("must be an array of real numbers", str(array.dtype)))
        if not array.ndim or (array.shape[1:] != self.shape and _without_ones(array.shape[1:]) != _without_ones(self.shape)):
            raise DataError(self._fault("must have another shape", array.shape))
        if not len(array):
            raise DataError(self._fault("must have samples", array.shape))
        rows = as_rows(array, self.shape, self.dtype)
        if bad := int(rows.size - np.isfinite(rows).sum()):
            raise DataError(self._fault("must have no NaN and no infinite value", bad))
        self._check_range(rows)
        return rows

    def in_any_range(self) -> ArrayInputs:
        return replace(self, low=None, high=None)

    def _check_range(self, rows: np.ndarray) -> None:
        if self.low is None or self.high is None:
            return
        room = FAR * ((self.high - self.low) or max(1.0, abs(self.high)))
        low, high = float(rows.min()), float(rows.max())
        if low < self.low - room or high > self.high + room:
            rule = f"must be in the unit of the training samples ({self.low:g} to {self.high:g})"
            remedy = "If they are, load the model with any_range=True, or use --any-range."
            raise DataError(Fault("samples", rule, (low, high), remedy).text())
        if high - low < (self.high - self.low) / MUCH_NARROWER:
            said = f"the samples are {low:g} to {high:g}, and the training samples {self.low:g} to {self.high:g}"
            warnings.warn(f"{said}. Are they in the same unit?", stacklevel=2)

    def _fault(self, rule: str, value: object) -> str:
        return Fault("samples", rule, value, f"Expected {self.expected}.").text()

    def read(self, path: Path) -> Samples:
        return read_array_file(path, self.expected)


def as_rows(array: np.ndarray, shape: tuple[int, ...], dtype: str = "float32") -> np.ndarray:
    """An array (n, ...) as contiguous rows of a shape; values that are too large for float32 become infinite."""
    import numpy as np

    with np.errstate(over="ignore"):
        return np.ascontiguousarray(array.reshape(len(array), *shape), dtype=dtype)


def array_range(*arrays: np.ndarray) -> tuple[float, float]:
    """The least and the largest value of some arrays."""
    blocks = [array[rows] for array in arrays for rows in iterate_blocks(array)]
    return min(float(block.min()) for block in blocks), max(float(block.max()) for block in blocks)


def read_array_file(path: Path, expected: str) -> Samples:
    """The array of an .npy file; of an .npz file x and y, or else x_test and y_test.

    Raises:
        DataError: If it cannot be read, or has no such arrays.
    """
    if not path.is_file():
        raise DataError(Fault("", "must be an existing file", Fault.ABSENT, f"Expected {expected}.").text(str(path)))
    if path.suffix == ".npz":
        arrays = read_npz(path, "an .npz file of numbers", f"Expected {expected}.")
    elif path.suffix == ".npy":
        arrays = {"x": read_object_npy(path)}
    else:
        raise DataError(Fault("", "must be an .npy or .npz file", path.suffix, f"Expected {expected}.").text(str(path)))
    suffix = next((suffix for suffix in ("", "_test") if f"x{suffix}" in arrays), None)
    if suffix is None:
        raise DataError(Fault("x", "must be in the file", sorted(arrays), f"Expected {expected}.").text(str(path)))
    return Samples(arrays[f"x{suffix}"], arrays.get(f"y{suffix}"))


def _without_ones(shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(size for size in shape if size != 1)
