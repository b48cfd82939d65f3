"""NinaPro, Satellite and DeepSEA: arrays of numpy, by split."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from orca_core.datafiles.arrays import select_arrays
from orca_core.datafiles.decoding import Decoding, decode_once, refuse_not_finite, to_class_ids
from orca_core.datafiles.expected import ArrayForm, ExpectedFile, refuse
from orca_core.datafiles.npz import Header, read_npz_rows, scan_npz
from orca_core.datafiles.reading import reading
from orca_core.datafiles.unpickling import read_object_npy
from orca_core.errors import DataError, Fault
from orca_core.tasks.preparation import Answers, Preparation
from orca_core.tasks.raw_arrays import ArrayInputs, Reorder, array_range
from orca_core.tasks.spec import Split, TaskData, TaskSpec
from orca_core.tasks.splitting import hold_out, take_rows

if TYPE_CHECKING:
    import numpy as np

PARTS = ("train", "val", "test")

NINAPRO_CLASSES, SATELLITE_CLASSES = 18, 24

NINAPRO_FILES = tuple(
    ExpectedFile(f"ninaPro/{name}_{part}.npy", "npy", (form,), "", size, "NAS-Bench-360")
    for name, form, size in (
        ("ninapro", ArrayForm("", "n t c", "fO", "float, 52 times of 16 channels", (52, 16)), "about 30 MB in all"),
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
                ArrayForm(f"x_{part}", f"{part} l 4", "fiub", "one-hot, l = 1000"),
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
        if data.shape[1] <= data.shape[2]:
            refuse([Fault("", "must have more times than channels", data.shape, "Are its axes in another order?").text(str(file.find()))])
        out.save(f"{part}_x", _windows(*data.shape[1:]).transform(data))
        ids = to_class_ids(label_file.find(), "", ids, classes, most=NINAPRO_CLASSES)
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
        ids = to_class_ids(file.find(), "label", arrays["label"], classes, first=1, most=SATELLITE_CLASSES)
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
    path = file.find()
    with reading(path, "a complete .npz file"):
        headers = scan_npz(path)
    out.require_room(sum(4 * _count_values(headers[form.key]) for form in file.arrays))
    for part in PARTS:
        n, length, bases = headers[f"x_{part}"].shape
        for key, target in (
            (f"x_{part}", out.empty(f"{part}_x", (n, bases, length))),
            (f"y_{part}", out.empty(f"{part}_y", headers[f"y_{part}"].shape)),
        ):
            start = 0
            for block in read_npz_rows(path, key):
                refuse_not_finite(path, key, block, first=start)
                if key.startswith("y") and not np.isin(block, (0, 1)).all():
                    refuse([Fault(key, "must be 0 or 1", Fault.ABSENT, "Is it another version of the data?").text(str(path))])
                if key.startswith("x") and not (block.min() >= 0 and block.sum(2).max() < 1.001):
                    refuse([Fault(key, "must be one-hot: 0 or 1, one base at a position", Fault.ABSENT).text(str(path))])
                target[start : start + len(block)] = _bases(length, bases).transform(block) if block.ndim == 3 else block
                start += len(block)


def _count_values(header: Header) -> int:
    return math.prod(header.shape)
