"""NinaPro, Satellite and DeepSEA: arrays of numpy, by split."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from orca_core.datafiles.arrays import select_arrays
from orca_core.datafiles.decoding import BLOCK_BYTES, Decoding, decode_once, refuse_not_finite, to_class_ids
from orca_core.datafiles.expected import ArrayForm, ExpectedFile, read_headers, refuse
from orca_core.datafiles.unpickling import read_npy_header, read_object_npy
from orca_core.errors import DataError, Fault
from orca_core.tasks.preparation import Answers, Preparation
from orca_core.tasks.raw_arrays import ArrayInputs, Reorder, array_range
from orca_core.tasks.spec import Split, TaskData, TaskSpec
from orca_core.tasks.splitting import hold_out, take_rows

if TYPE_CHECKING:
    import numpy as np

PARTS = ("train", "val", "test")

NINAPRO_FILES = tuple(
    ExpectedFile(f"ninaPro/{name}_{part}.npy", "npy", (form,), "", size, "NAS-Bench-360")
    for name, form, size in (
        ("ninapro", ArrayForm("", "n t c", "fO", "float, 52 times of 16 channels"), "about 30 MB in all"),
        ("label", ArrayForm("", "n", "iufO", "0-17"), ""),
    )
    for part in PARTS
)

SATELLITE_ARRAYS = (ArrayForm("data", "n l", "fiu", "float, l = 46"), ArrayForm("label", "n", "iuf", "1-24"))
SATELLITE_FILES = tuple(
    ExpectedFile(f"satellite_{part}.npy", "npy of objects", SATELLITE_ARRAYS, "in one mapping", size, "NAS-Bench-360")
    for part, size in (("train", "322 MB"), ("test", "35 MB"))
)

DEEPSEA_FILES = (
    ExpectedFile(
        "deepsea_filtered.npz",
        "npz",
        tuple(
            form
            for part in PARTS
            for form in (
                ArrayForm(f"x_{part}", f"{part} l c", "fiub", "one-hot, l = 1000, c = 4"),
                ArrayForm(f"y_{part}", f"{part} labels", "fiub", "0 or 1, 36 labels"),
            )
        ),
        "",
        "860 MB",
        "NAS-Bench-360",
    ),
)


def load_ninapro(spec: TaskSpec, split_seed: int, reference: bool) -> TaskData:
    """x (n, 1, channels, times); the published parts, whatever the seed."""
    arrays, facts = decode_once(spec, _decode_ninapro)
    x = arrays["train_x"]
    low, high = array_range(x)
    inputs = replace(_windows(x.shape[3], x.shape[2]), low=low, high=high)
    preparation = Preparation(inputs, Answers("classification", tuple(range(facts["classes"]))))
    return _split_as_published(arrays, facts["classes"], preparation, reference)


def _windows(times: int, channels: int) -> ArrayInputs:
    """NinaPro's windows as published, (times, channels) -> (1, channels, times)."""
    steps = (Reorder((0, 2, 1), (1, channels, times)),)
    return ArrayInputs((times, channels), steps, about="windows of muscle signals, times before channels, as published")


def _split_as_published(arrays: dict[str, np.ndarray], num_classes: int | None, preparation: Preparation, reference: bool) -> TaskData:
    """The published parts; for the reference, training and validation part together, and the test part for validation."""
    import numpy as np

    train, valid, test = (Split(arrays[f"{part}_x"], arrays[f"{part}_y"]) for part in PARTS)
    if reference:
        train, valid = Split(np.concatenate([train.x, valid.x]), np.concatenate([train.y, valid.y])), test
    return TaskData(train, valid, test, num_classes, preparation=preparation)


def _decode_ninapro(out: Decoding) -> None:
    classes, row = None, None
    for number, part in enumerate(PARTS):
        file, label_file = NINAPRO_FILES[number], NINAPRO_FILES[number + len(PARTS)]
        data, ids = read_numbers(file.find()), read_numbers(label_file.find())
        row = row or data.shape[1:]
        if data.shape[1:] != row:
            refuse([Fault("", f"must have rows of shape {row} like the training part", data.shape[1:]).text(str(file.find()))])
        if len(ids) != len(data):
            refuse([Fault("", f"must have the {len(data)} rows of {file.find().name}", len(ids)).text(str(label_file.find()))])
        refuse_not_finite(file.find(), "", data)
        out.save(f"{part}_x", _windows(*data.shape[1:]).encode(data))
        ids = to_class_ids(label_file.find(), "", ids, classes)
        classes = classes or range(int(ids.max()) + 1)
        out.save(f"{part}_y", ids, "int64")
    out.facts["classes"] = len(classes or ())


def read_numbers(path: Path) -> np.ndarray:
    """The numbers of an .npy file, even of one that was saved as Python objects.

    Raises:
        DataError: If it holds anything else.
    """
    import numpy as np

    array = read_object_npy(path)
    if array.dtype.kind != "O":
        return array
    try:
        return np.array(array.tolist(), dtype=np.float32)
    except (TypeError, ValueError) as error:
        raise DataError(f"{path}: must hold numbers, but does not ({error}).") from None


def load_satellite(spec: TaskSpec, split_seed: int, reference: bool) -> TaskData:
    """x (n, 1, times), as published, not normalised; a ninth of train is validation, stratified."""
    arrays, facts = decode_once(spec, _decode_satellite)
    x, y, test = arrays["train_x"], arrays["train_y"], Split(arrays["test_x"], arrays["test_y"])
    inputs = ArrayInputs(tuple(x.shape[1:]), (), *array_range(x), about="series as published")
    preparation = Preparation(inputs, Answers("classification", tuple(range(1, facts["classes"] + 1))))
    if reference:
        return TaskData(Split(x, y), test, test, facts["classes"], preparation=preparation)
    train, valid = hold_out(y, 1 / 9, split_seed)
    return TaskData(take_rows(x, y, train), take_rows(x, y, valid), test, facts["classes"], preparation=preparation)


def _decode_satellite(out: Decoding) -> None:
    classes, row = None, None
    for part, file in zip(("train", "test"), SATELLITE_FILES, strict=True):
        arrays = select_arrays(file.find(), read_object_npy(file.find())[()], file.arrays)
        refuse_not_finite(file.find(), "data", arrays["data"])
        row = row or arrays["data"].shape[1:]
        if arrays["data"].shape[1:] != row:
            rule = f"must have rows of shape {row} like the training part"
            refuse([Fault("data", rule, arrays["data"].shape[1:]).text(str(file.find()))])
        ids = to_class_ids(file.find(), "label", arrays["label"], classes, first=1)
        classes = classes or range(int(ids.max()) + 1)
        out.save(f"{part}_x", arrays["data"][:, None])
        out.save(f"{part}_y", ids, "int64")
    out.facts["classes"] = len(classes or ())


def load_deepsea(spec: TaskSpec, split_seed: int, reference: bool) -> TaskData:
    """x (n, bases, length) one-hot, y (n, labels) 0 or 1; the published parts, whatever the seed."""
    arrays, _ = decode_once(spec, _decode_deepsea)
    preparation = Preparation(_bases(arrays["train_x"].shape[2], arrays["train_x"].shape[1]), _labels(arrays["train_y"].shape[1]))
    return _split_as_published(arrays, None, preparation, reference)


def _bases(length: int, bases: int) -> ArrayInputs:
    """DeepSEA's pieces as published, (length, bases) one-hot -> (bases, length)."""
    return ArrayInputs((length, bases), (Reorder((0, 2, 1), (bases, length)),), 0, 1, about="one-hot bases along the piece, as published")


def _labels(number: int) -> Answers:
    return Answers("multilabel", tuple(range(number)))


def _decode_deepsea(out: Decoding) -> None:
    import numpy as np

    (file,) = DEEPSEA_FILES
    shapes = {form.key: shape for form, shape in zip(file.arrays, read_npz_shapes(file), strict=True)}
    for part in PARTS:
        n, length, bases = shapes[f"x_{part}"]
        if (length, bases) != shapes["x_train"][1:] or shapes[f"y_{part}"][1:] != shapes["y_train"][1:]:
            rule = f"must have rows of shape {shapes['x_train'][1:]} and {shapes['y_train'][1:]} like the training part"
            refuse([Fault(f"x_{part}, y_{part}", rule, (shapes[f"x_{part}"], shapes[f"y_{part}"])).text(str(file.find()))])
        for key, target in (
            (f"x_{part}", out.empty(f"{part}_x", (n, bases, length))),
            (f"y_{part}", out.empty(f"{part}_y", shapes[f"y_{part}"])),
        ):
            start = 0
            for block in read_npz_rows(file.find(), key):
                refuse_not_finite(file.find(), key, block)
                if key.startswith("y") and not np.isin(block, (0, 1)).all():
                    refuse([Fault(key, "must be 0 or 1", Fault.ABSENT, "Is it another version of the data?").text(str(file.find()))])
                target[start : start + len(block)] = _bases(length, bases).encode(block) if block.ndim == 3 else block
                start += len(block)


def read_npz_shapes(file: ExpectedFile) -> list[tuple[int, ...]]:
    """Shapes of the expected arrays of an .npz, in their order."""
    headers = read_headers(file.find(), "npz") or {}
    return [headers[form.key].shape for form in file.arrays]


def read_npz_rows(path: Path, key: str) -> Iterator[np.ndarray]:
    """The rows of one array of an .npz in blocks, without loading all of it.

    Raises:
        DataError: If the archive is damaged, or the array is in Fortran order.
    """
    import numpy as np

    try:
        with zipfile.ZipFile(path) as archive, archive.open(f"{key}.npy") as stream:
            shape, fortran, dtype = read_npy_header(stream)
            if fortran:
                raise DataError(f"{path}: {key}: must be in C order, not Fortran order. Save it as numpy.ascontiguousarray(array).")
            row_bytes = dtype.itemsize * int(np.prod(shape[1:]))
            left = shape[0]
            while left:
                rows = min(left, max(1, BLOCK_BYTES // row_bytes))
                content = stream.read(rows * row_bytes)
                if len(content) != rows * row_bytes:
                    raise EOFError(f"{key} ends early")
                yield np.frombuffer(content, dtype).reshape(rows, *shape[1:])
                left -= rows
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(f"{path}: must be a complete .npz file, but cannot be read ({error}). Get it again.") from None
