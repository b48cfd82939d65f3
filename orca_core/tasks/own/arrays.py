"""`npz:PATH`, a task made of one's own arrays.

The file is what `numpy.savez` writes, with one of two sets of keys:

    x, y                                                         20 % test and 10 % validation are split off by `split_seed`
    x_train, y_train, x_test, y_test [, x_valid, y_valid]        without valid, 10 % of train are split off by `split_seed`

Where nothing is split off, training rows stay in the order of the file.

    x    (n, channels, length) or (n, channels, height, width), any real numbers; (n, length) counts as one channel
    y    integers (n,): a classification; the labels, whatever they are, become ids 0, 1, ... in sorted order
         floats of x's shape except for the number of channels: a dense task, one value per position

Headers are checked when the task is named, values when it is loaded. Either way all faults are reported at once.
Pickled objects are never read, so a file cannot run code.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from orca_core.datafiles import npz
from orca_core.datafiles.reading import reading
from orca_core.errors import DataError, Fault
from orca_core.tasks.builtin import laptop_recipe
from orca_core.tasks.preparation import Answers, Preparation
from orca_core.tasks.raw_arrays import ArrayInputs, array_range, as_rows
from orca_core.tasks.spec import Split, TaskData, TaskSpec
from orca_core.tasks.splitting import deal
from orca_core.workbench import Workbench, memoize

if TYPE_CHECKING:
    import numpy as np

WHOLE_KEYS = ("x", "y")
SPLIT_KEYS = ("x_train", "y_train", "x_test", "y_test")
VALID_KEYS = ("x_valid", "y_valid")

_KEYS_TEXT = f"The keys are either {', '.join(WHOLE_KEYS)}, or {', '.join(SPLIT_KEYS)} and optionally {', '.join(VALID_KEYS)}."


class Header(npz.Header):
    """What the task makes of an array, judging by its header."""

    @property
    def is_labels(self) -> bool:
        return self.dtype.kind in "biu" and len(self.shape) == 1

    @property
    def row(self) -> tuple[int, ...]:
        """Shape of one row in the task: () for a label, else (channels, length) or (channels, height, width)."""
        return _with_channels(self.shape)[1:]


def npz_task(path: str) -> TaskSpec:
    """The task in the file at `path`; only its headers are read.

    Raises:
        DataError: If the file is missing or is not an .npz, or its arrays' names, shapes or dtypes are not as described above; one
            fault per line.
    """
    file = Workbench.current().locate(path)
    headers = _read_headers(file)
    _refuse(file, check_headers(headers))
    suffix = _train_suffix(headers)
    x, y = headers[f"x{suffix}"], headers[f"y{suffix}"]
    kind: Literal["classification", "dense"] = "classification" if y.is_labels else "dense"
    dims: Literal[1, 2] = 1 if len(x.row) == 2 else 2
    loss, score = ("cross-entropy", "1-accuracy") if kind == "classification" else ("nrmse", "nrmse")
    return TaskSpec(
        name=f"npz:{path}",
        summary=f"{kind} of {' x '.join(map(str, x.row))} arrays",
        dims=dims,
        kind=kind,
        loss=loss,
        score=score,
        loader="orca_core.tasks.own.arrays:load_npz",
        recipes={"laptop": laptop_recipe(dims, epochs=8, batch_size=32)},
        files=partial(tuple, (file,)),
        version=2 if _is_split(headers) else 1,  # training rows of such a file keep their order since version 2
        source=str(file),
        own_path=path,
        fixed_validation="The file has x_valid and y_valid" if "x_valid" in headers else "",
    )


def load_npz(spec: TaskSpec, split_seed: int) -> TaskData:
    """The arrays of the file as float32 inputs, and int64 class ids or float32 targets, in three parts.

    Raises:
        DataError: As `npz_task`; or if values are not finite, there is only one class, there are too few rows, or validation or test have
            a class that train does not have; one fault per line.
    """
    import numpy as np

    (file,) = spec.files()
    _refuse(file, check_headers(_read_headers(file)))
    arrays = {key: _convert(array) for key, array in npz.read_npz(file, remedy="Write it again.").items()}
    _refuse(file, _value_faults(arrays))

    suffix = _train_suffix(arrays)
    num_classes, names = None, tuple[int, ...]()
    if arrays[f"y{suffix}"].ndim == 1:
        labels = np.unique(arrays[f"y{suffix}"])
        num_classes, names = len(labels), tuple(labels.tolist())
        arrays |= {key: np.searchsorted(labels, array) for key, array in arrays.items() if key.startswith("y")}

    x, y = arrays[f"x{suffix}"], arrays[f"y{suffix}"]
    num_valid = 0 if "x_valid" in arrays else max(1, round(0.1 * len(x)))
    num_test = 0 if "x_test" in arrays else max(1, round(0.2 * len(x)))
    if len(x) - num_valid - num_test < (num_classes or 1):
        rule = f"must have rows for {num_valid} of validation, {num_test} of test and one of each class in train"
        _refuse(file, [Fault(f"y{suffix}", rule, len(x), "Add rows.")])
    if _is_split(arrays):
        train, valid, test = (Split(arrays[f"x_{part}"], arrays[f"y_{part}"]) for part in ("train", "valid", "test"))
    else:
        train, valid, test = deal(x, y, split_seed, num_valid=num_valid, num_test=num_test)
        if "x_test" in arrays:
            test = Split(arrays["x_test"], arrays["y_test"])
    inputs = ArrayInputs(tuple(train.x.shape[1:]), (), *array_range(train.x))
    answers = Answers("dense" if num_classes is None else "classification", names)
    return TaskData(train, valid, test, num_classes, preparation=Preparation(inputs, answers))


def check_headers(headers: Mapping[str, Header]) -> list[Fault]:
    """What is wrong with the names, shapes and dtypes of a file's arrays; empty if nothing is."""
    faults = _key_faults(list(headers))
    for key, header in headers.items():
        faults += _array_faults(key, header)
    if faults:  # arrays are compared only if each is valid by itself
        return faults
    reference = _train_suffix(headers)
    for suffix in (key.removeprefix("x") for key in headers if key.startswith("x")):
        faults += _pair_faults(headers, suffix, reference)
    return faults


def _train_suffix(keys: Container[str]) -> str:
    """What follows x and y in the names of the arrays that training rows come from."""
    return "" if "x" in keys or "y" in keys else "_train"


def _is_split(keys: Container[str]) -> bool:
    """Whether a file has all three parts."""
    return "x_valid" in keys and "x_test" in keys


def _key_faults(found: list[str]) -> list[Fault]:
    expected: tuple[str, ...] = SPLIT_KEYS if _train_suffix(found) else WHOLE_KEYS
    if expected == SPLIT_KEYS and set(VALID_KEYS) & set(found):
        expected += VALID_KEYS
    faults = []
    if missing := [key for key in expected if key not in found]:
        faults.append(Fault(", ".join(missing), "must be in the file", found, _KEYS_TEXT))
    if unknown := [key for key in found if key not in expected]:
        faults.append(Fault(", ".join(unknown), "must not be in the file", Fault.ABSENT, _KEYS_TEXT))
    return faults


def _array_faults(key: str, header: Header) -> list[Fault]:
    """What is wrong with one array by itself."""
    shape, dtype = header
    if dtype.hasobject:
        return [Fault(key, "must be an array of numbers", str(dtype), "Pickled objects are refused. Stack them into one numeric array.")]
    if dtype.kind not in "biuf":
        return [Fault(key, "must be an array of real numbers", str(dtype), "Convert it with .astype.")]
    faults = []
    if 0 in shape:
        faults.append(Fault(key, "must not be empty", shape, "Add rows."))
    if key.startswith("x") and len(shape) not in (2, 3, 4):
        rule = "must have the shape (n, length), (n, channels, length) or (n, channels, height, width)"
        faults.append(Fault(key, rule, shape, "Reshape it."))
    if key.startswith("y") and not header.is_labels and (dtype.kind != "f" or len(shape) not in (2, 3, 4)):
        rule = "must be integer labels of shape (n,), or float targets with one value for each position of x"
        faults.append(Fault(key, rule, (str(dtype), shape), "Convert labels with .astype('int64'), targets with .astype('float32')."))
    return faults


def _pair_faults(headers: Mapping[str, Header], suffix: str, reference: str) -> list[Fault]:
    """What does not match between `x{suffix}` and `y{suffix}`, or between these and the training arrays."""
    x, y, train_x, train_y = (headers[key] for key in (f"x{suffix}", f"y{suffix}", f"x{reference}", f"y{reference}"))
    faults = []
    if y.shape[0] != x.shape[0]:
        faults.append(Fault(f"y{suffix}", f"must have the {x.shape[0]} rows of x{suffix}", y.shape[0], "Pair each x with its y."))
    if x.row != train_x.row:
        faults.append(Fault(f"x{suffix}", f"must have rows of shape {train_x.row} like x_train", x.row, "Reshape it."))
    if (y.is_labels, y.row) != (train_y.is_labels, train_y.row):
        faults.append(Fault(f"y{suffix}", f"must have rows of shape {train_y.row} like y_train", y.row, "Reshape it."))
    elif not y.is_labels and y.row[1:] != x.row[1:]:
        faults.append(Fault(f"y{suffix}", f"must have one target for each position of x{suffix}, {x.row[1:]}", y.row[1:], "Resample it."))
    return faults


def _value_faults(arrays: Mapping[str, np.ndarray]) -> list[Fault]:
    """What is wrong with the values of arrays whose headers are valid."""
    import numpy as np

    faults = []
    for key, array in arrays.items():
        if bad := int(array.size - np.isfinite(array).sum()):
            faults.append(Fault(key, "must have no NaN and no infinite value in float32", bad, "Remove or fill them."))
    train_y = arrays[f"y{_train_suffix(arrays)}"]
    if train_y.ndim == 1:
        labels = np.unique(train_y)
        if len(labels) < 2:
            faults.append(Fault(f"y{_train_suffix(arrays)}", "must have at least two classes", labels.tolist(), "Add rows of another."))
        for key in ("y_valid", "y_test"):
            absent = np.setdiff1d(arrays[key], labels).tolist() if key in arrays else []
            if absent:
                faults.append(Fault(key, "must have only labels of y_train", absent, "Add rows of it to train."))
    return faults


def _read_headers(file: Path) -> dict[str, Header]:
    """The header of every array in the file.

    Raises:
        DataError: If the file is missing or is not an .npz.
    """
    example = "Write one with numpy.savez(path, x=x, y=y)."
    if not file.exists():
        _refuse(file, [Fault("", "must be an existing file", Fault.ABSENT, f"A relative path starts in the working folder. {example}")])
    with reading(file, "an .npz file, a zip of .npy arrays", example):
        return _scan_headers(file, file.stat().st_size, file.stat().st_mtime_ns)


@memoize(maxsize=64)  # a plan names the same file in every trial
def _scan_headers(file: Path, size: int, mtime_ns: int) -> dict[str, Header]:
    return {key: Header(*header) for key, header in npz.scan_npz(file).items()}


def _with_channels(shape: tuple[int, ...]) -> tuple[int, ...]:
    return (shape[0], 1, shape[1]) if len(shape) == 2 else shape


def _convert(array: np.ndarray) -> np.ndarray:
    """Labels (n,) as int64; anything else as contiguous float32 with a channel axis."""
    return array.astype("int64") if array.ndim == 1 else as_rows(array, _with_channels(array.shape)[1:])


def _refuse(file: Path, faults: Iterable[Fault]) -> None:
    lines = [fault.text(str(file)) for fault in faults]
    if lines:
        raise DataError("\n".join(lines))
