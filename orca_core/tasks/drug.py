"""Response of cancer cells to drugs, CTRP and GDSC, in the reference's form: a fingerprint and mutations in a row."""

from __future__ import annotations

from functools import partial
from typing import Any

from orca_core.datafiles.decoding import Decoding, decode_once, refuse_not_finite
from orca_core.datafiles.expected import ArrayForm, ExpectedFile, refuse
from orca_core.datafiles.unpickling import read_object_npy
from orca_core.errors import Fault
from orca_core.tasks.builtin import laptop_recipe
from orca_core.tasks.recipes import published_recipe
from orca_core.tasks.spec import Split, TaskData, TaskSpec
from orca_core.tasks.splitting import hold_out, take_rows

PARTS = ("train", "test")


def load_drug(spec: TaskSpec, split_seed: int, reference: bool) -> TaskData:
    """x (n, 1, length), y (n, 1): the area under the curve of response; a tenth of train is validation, by the seed."""
    arrays, _ = decode_once(spec, partial(_decode, files=spec.expects))
    x, y, test = arrays["train_x"], arrays["train_y"], Split(arrays["test_x"], arrays["test_y"])
    if reference:
        return TaskData(Split(x, y), test, test, None)
    train, valid = hold_out(y, 0.1, split_seed)
    return TaskData(take_rows(x, y, train), take_rows(x, y, valid), test, None)


def _decode(out: Decoding, files: tuple[ExpectedFile, ...]) -> None:
    length = None
    for part, file, label in zip(PARTS, files[::2], files[1::2], strict=True):
        x, y = read_object_npy(file.find()), read_object_npy(label.find())
        length = length or x.shape[2]
        if x.shape[2] != length:
            refuse([Fault("", f"must have rows of length {length} like the training part", x.shape[2]).text(str(file.find()))])
        if len(y) != len(x):
            refuse([Fault("", f"must have the {len(x)} rows of {file.find().name}", len(y)).text(str(label.find()))])
        refuse_not_finite(file.find(), "", x)
        refuse_not_finite(label.find(), "", y)
        out.save(f"{part}_x", x)
        out.save(f"{part}_y", y)


def _make_spec(key: str, recipe: dict[str, Any]) -> TaskSpec:
    files = tuple(
        ExpectedFile(f"drug_sep/{key}_{part}_{name}.npy", "npy", (form,), "", "", "made by ORCA's authors from DrugCell's data")
        for part in PARTS
        for name, form in (
            ("feat", ArrayForm("", "n 1 length", "fiub", "float, length = 3840")),
            ("label", ArrayForm("", "n 1", "f", "float")),
        )
    )
    return TaskSpec(
        name=f"drug/{key}",
        summary=f"response of cells to drugs, {key.upper()}, from fingerprint and mutations in a row",
        dims=1,
        kind="regression",
        loss="mse",
        score="1-r2",
        loader="orca_core.tasks.drug:load_drug",
        recipes={"laptop": laptop_recipe(1, epochs=8, batch_size=32), "published": recipe},
        licence="as DrugCell's page says",
        source="DrugCell (Kuenzi et al. 2020), in the form of ORCA's repository",
        expects=files,
        reference="train and validation are one, validation = test",
        variant=key,
    )


_COMMON: dict[str, Any] = {"batch_size": 16, "optimizer": "adamw", "lr": 1e-5, "momentum": 0.99, "class_samples": 256}

DRUG_TASKS: tuple[TaskSpec, ...] = (
    _make_spec("ctrp", published_recipe(1, epochs=100, tokens=32, clip=5.0, weight_decay=1e-5, warmup=10, decay=100, **_COMMON)),
    _make_spec("gdsc", published_recipe(1, epochs=20, tokens=8, weight_decay=1e-3, warmup=5, decay=60, **_COMMON)),
)
