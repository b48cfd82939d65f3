"""NinaPro, Satellite and DeepSEA: arrays of numpy, by split."""

from __future__ import annotations

from typing import TYPE_CHECKING

from orca_core.errors import Fault
from orca_core.tasks.decoded import Decoding, decoded, labels, refuse_not_finite
from orca_core.tasks.files import ArrayForm, ExpectedFile, refuse
from orca_core.tasks.spec import Split, TaskData, TaskSpec
from orca_core.tasks.unpickling import read_object_npy

if TYPE_CHECKING:
    import numpy as np

PARTS = ("train", "val", "test")

NINAPRO_FILES = tuple(
    ExpectedFile(f"ninaPro/{name}_{part}.npy", "npy", (form,), "", size, "NAS-Bench-360")
    for name, form, size in (
        ("ninapro", ArrayForm("", "n t c", "f", "float, 52 times of 16 channels"), "about 26 MB in all"),
        ("label", ArrayForm("", "n", "iuf", "0-17"), ""),
    )
    for part in PARTS
)


def load_ninapro(spec: TaskSpec, split_seed: int, reference: bool) -> TaskData:
    """x (n, 1, channels, times); the published parts, whatever the seed."""
    arrays, facts = decoded(spec, _decode_ninapro)
    return _published_parts(arrays, facts["classes"], reference)


def _published_parts(arrays: dict[str, np.ndarray], num_classes: int | None, reference: bool) -> TaskData:
    """The parts as they are published; for the reference, training and validation part as one, and the test part for validation."""
    import numpy as np

    train, valid, test = (Split(arrays[f"{part}_x"], arrays[f"{part}_y"]) for part in PARTS)
    if reference:
        train, valid = Split(np.concatenate([train.x, valid.x]), np.concatenate([train.y, valid.y])), test
    return TaskData(train, valid, test, num_classes)


def _decode_ninapro(out: Decoding) -> None:
    import numpy as np

    classes, row = None, None
    for number, part in enumerate(PARTS):
        file, label_file = NINAPRO_FILES[number], NINAPRO_FILES[number + len(PARTS)]
        data, ids = read_object_npy(file.place), read_object_npy(label_file.place)
        row = row or data.shape[1:]
        if data.shape[1:] != row:
            refuse([Fault("", f"must have rows of shape {row} as the training part has", data.shape[1:]).text(str(file.place))])
        if len(ids) != len(data):
            refuse([Fault("", f"must have the {len(data)} rows of {file.place.name}", len(ids)).text(str(label_file.place))])
        refuse_not_finite(file.place, "", data)
        out.save(f"{part}_x", np.ascontiguousarray(data.transpose(0, 2, 1))[:, None])
        ids = labels(label_file.place, "", ids, classes)
        classes = classes or range(int(ids.max()) + 1)
        out.save(f"{part}_y", ids, "int64")
    out.facts["classes"] = len(classes or ())
