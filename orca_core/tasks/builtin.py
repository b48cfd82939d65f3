"""The tasks that need no download: the table of them, and the loaders of those whose rows scikit-learn ships."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orca_core.datafiles.packaged import find_package_file
from orca_core.errors import DataError
from orca_core.tasks.preparation import Answers, Preparation
from orca_core.tasks.raw_arrays import ArrayInputs, Divide, array_range
from orca_core.tasks.spec import Split, TaskData, TaskSpec
from orca_core.tasks.splitting import deal, standardise

if TYPE_CHECKING:
    import numpy as np


FIELD_SIDE, SHIFTS = 16, 9
"""Side of the fields of `digits-shifted`, and the places of an 8 x 8 digit along it."""


def laptop_recipe(
    dims: int, *, epochs: int, batch_size: int, lr: float = 1e-3, tokens: int = 16, decay_epochs: int | None = None
) -> dict[str, Any]:
    """Knobs that suit a mini body of the task's dimension on one core.

    Args:
        dims: 1 for series (text body and proxy), 2 for images and fields (image body and proxy).
        epochs, batch_size, lr: Of fine-tuning.
        decay_epochs: Epoch at which the rate is 0; None = one and a half times the epochs. Recipes that were tuned
            (`benchmarks/recipes.py`) are at 0 with the last epoch.
        tokens: Largest number of tokens of a sequence; mini-roberta learns more from few long patches than from many short ones.
    """
    body, proxy = {1: ("mini-roberta", "pydoc"), 2: ("mini-swin", "photos")}[dims]
    optimizer = {"optimizer": "adamw", "weight_decay": 1e-5}
    return {
        "body": {"name": body},
        "proxy": proxy,
        "embedder": {"target_seq_len": tokens},
        "align": {"epochs": 10, "lr": 1e-3, **optimizer, "class_samples": 128},
        "finetune": {
            "epochs": epochs,
            "lr": lr,
            **optimizer,
            "batch_size": batch_size,
            "clip": 1.0,
            "warmup_epochs": 1,
            "decay_epochs": decay_epochs or epochs + epochs // 2,
        },
    }


# Common to the reference's YAML files of 1510 and 187. Of stage 2 they set only the epochs; its learning rate is ten times stage 3's.
_OPENML_ALIGN = {"epochs": 20, "optimizer": "adamw", "weight_decay": 1e-5, "momentum": 0.999, "class_samples": 128}
_OPENML_FINETUNE = {
    "optimizer": "adamw",
    "weight_decay": 1e-5,
    "momentum": 0.999,
    "betas": [0.9, 0.98],
    "eval_batch_size": 1000,
    "score_chunk": 1000,
    "accum": 1,
    "warmup_epochs": 5,
    "decay_epochs": 60,
}
_PUBLISHED_1510 = {
    "body": {"name": "hf:roberta-base"},
    "embedder": {"target_seq_len": 16},
    "align": {**_OPENML_ALIGN, "lr": 1e-4},
    "finetune": {**_OPENML_FINETUNE, "epochs": 60, "lr": 1e-5, "batch_size": 64, "clip": 0.1, "dropout": 0.0},
}
_PUBLISHED_187 = {
    "body": {"name": "hf:roberta-base"},
    "embedder": {"target_seq_len": 512},
    "align": {**_OPENML_ALIGN, "lr": 1e-5},
    "finetune": {**_OPENML_FINETUNE, "epochs": 20, "lr": 1e-6, "batch_size": 4, "clip": 1.0, "dropout": 0.05},
}


def _shipped(name: str) -> tuple[Path, ...]:
    return (find_package_file("sklearn", "datasets", "data", name),)


BUILTIN_TASKS: tuple[TaskSpec, ...] = (
    TaskSpec(
        name="digits",
        summary="1797 handwritten digits of 8 x 8 pixels, 10 classes",
        dims=2,
        kind="classification",
        loss="cross-entropy",
        score="1-accuracy",
        loader="orca_core.tasks.builtin:load_digits",
        recipes={"laptop": laptop_recipe(2, epochs=12, batch_size=32, lr=3e-3, decay_epochs=12)},
        files=partial(_shipped, "digits.csv.gz"),
        licence="CC BY 4.0",
        source="UCI, Optical Recognition of Handwritten Digits (test part), as scikit-learn ships it",
    ),
    TaskSpec(
        name="digits-shifted",
        summary="3594 fields of 16 x 16 pixels with one of these digits anywhere, 10 classes",
        dims=2,
        kind="classification",
        loss="cross-entropy",
        score="1-accuracy",
        loader="orca_core.tasks.builtin:load_shifted_digits",
        recipes={"laptop": laptop_recipe(2, epochs=16, batch_size=32, lr=3e-3, decay_epochs=16)},
        files=partial(_shipped, "digits.csv.gz"),
        licence="CC BY 4.0",
        source="the digits of `digits`, each at two places",
    ),
    TaskSpec(
        name="openml/1510",
        summary="569 breast tumours (wdbc), 30 measurements as channels, 2 classes",
        dims=1,
        kind="classification",
        loss="balanced-cross-entropy",
        score="1-auroc",
        loader="orca_core.tasks.builtin:load_table",
        recipes={"laptop": laptop_recipe(1, epochs=8, batch_size=32, lr=3e-3), "published": _PUBLISHED_1510},
        files=partial(_shipped, "breast_cancer.csv"),
        licence="CC BY 4.0",
        source="UCI, Breast Cancer Wisconsin (Diagnostic), as scikit-learn ships it; OpenML 1510",
    ),
    TaskSpec(
        name="openml/187",
        summary="178 wines, 13 measurements as channels, 3 classes",
        dims=1,
        kind="classification",
        loss="balanced-cross-entropy",
        score="1-auroc",
        loader="orca_core.tasks.builtin:load_table",
        recipes={"laptop": laptop_recipe(1, epochs=8, batch_size=32, lr=3e-3), "published": _PUBLISHED_187},
        files=partial(_shipped, "wine_data.csv"),
        licence="CC BY 4.0",
        source="UCI, Wine, as scikit-learn ships it; OpenML 187",
    ),
    TaskSpec(
        name="mnist1d",
        summary="5000 generated series of 40 points, 10 classes",
        dims=1,
        kind="classification",
        loss="cross-entropy",
        score="1-accuracy",
        loader="orca_core.tasks.mnist1d:load_mnist1d",
        version=2,  # standardised by training rows since version 2
        recipes={"laptop": laptop_recipe(1, epochs=8, batch_size=32, lr=3e-3, tokens=10, decay_epochs=8)},
        licence="Apache-2.0",
        source="Greydanus & Kobak, arXiv 2011.14439, drawn anew by its recipe",
    ),
    TaskSpec(
        name="advection-mini",
        summary="800 waves on a circle of 128 points, and where they have moved by t = 2",
        dims=1,
        kind="dense",
        loss="nrmse",
        score="nrmse",
        loader="orca_core.tasks.pde:load_advection",
        recipes={"laptop": laptop_recipe(1, epochs=15, batch_size=8, lr=2e-3)},
        licence="Apache-2.0",
        source="solved here, in the form of PDEBench 1D advection, beta 0.4",
        notes=("the target is a linear function of the input, which a ridge regression has without error; burgers-mini is not linear",),
    ),
    TaskSpec(
        name="burgers-mini",
        summary="800 states of Burgers' equation on a circle of 128 points, at t = 0 and t = 0.5",
        dims=1,
        kind="dense",
        loss="nrmse",
        score="nrmse",
        loader="orca_core.tasks.pde:load_burgers",
        recipes={"laptop": laptop_recipe(1, epochs=15, batch_size=8, lr=2e-3)},
        licence="Apache-2.0",
        source="solved here, in the form of PDEBench 1D Burgers, nu 0.04",
    ),
    TaskSpec(
        name="darcy-mini",
        summary="500 squares of two kinds of rock, 32 x 32, and the pressure of water that seeps through",
        dims=2,
        kind="dense",
        loss="relative-l2",
        score="relative-l2",
        loader="orca_core.tasks.pde:load_darcy",
        recipes={"laptop": laptop_recipe(2, epochs=10, batch_size=16, lr=3e-3)},
        licence="Apache-2.0",
        source="solved here, in the form of Li et al., arXiv 2010.08895 (NAS-Bench-360's Darcy flow)",
        notes=("mini-swin answers in 16 x 16 blocks, which alone is an error of 0.076 here; in darcy-16 they are as fine as the target",),
    ),
    TaskSpec(
        name="darcy-16",
        summary="500 squares of two kinds of rock, 16 x 16, and the pressure of water that seeps through",
        dims=2,
        kind="dense",
        loss="relative-l2",
        score="relative-l2",
        loader="orca_core.tasks.pde:load_darcy_16",
        recipes={"laptop": laptop_recipe(2, epochs=20, batch_size=16, lr=3e-3, decay_epochs=20)},
        licence="Apache-2.0",
        source="solved here, as darcy-mini",
    ),
)


def load_digits(spec: TaskSpec, split_seed: int) -> TaskData:
    """x (n, 1, 8, 8) in [0, 1]; test 20 %, validation 10 %, stratified."""
    table = _read(spec)
    inputs = ArrayInputs((1, 8, 8), (Divide(16),), 0, 16, about="pixels")
    x, y = inputs.transform(table[:, :-1].reshape(-1, 1, 8, 8)), table[:, -1].astype("int64")
    parts = deal(x, y, split_seed, num_valid=round(0.1 * len(y)), num_test=round(0.2 * len(y)))
    preparation = Preparation(inputs, Answers("classification", tuple(range(10))))
    return TaskData(*parts, num_classes=10, preparation=preparation)


def load_shifted_digits(spec: TaskSpec, split_seed: int) -> TaskData:
    """x (n, 1, 16, 16) in [0, 1]: every image of `digits` at two different places of an empty field, drawn from a fixed seed.

    Where the digit lies says nothing of its class, so a model has to recognise it wherever it is: what convolutions and attention are for,
    and methods that compare pixel by pixel are not. Both fields of an image are in the same part; parts are those of `digits`.
    """
    import numpy as np

    table = _read(spec)
    images, y = table[:, :-1].reshape(-1, 8, 8), table[:, -1].astype("int64")
    generator = np.random.Generator(np.random.PCG64(4))
    places = generator.integers(SHIFTS**2, size=len(images))
    places = np.stack([places, (places + generator.integers(1, SHIFTS**2, size=len(images))) % SHIFTS**2], axis=1)
    fields = np.zeros((len(images), 2, 1, FIELD_SIDE, FIELD_SIDE))
    for field, image, corners in zip(fields, images, places, strict=True):
        for copy, corner in zip(field, corners, strict=True):
            row, column = divmod(corner, SHIFTS)
            copy[0, row : row + 8, column : column + 8] = image
    inputs = ArrayInputs(fields.shape[2:], (Divide(16),), 0, 16, about="pixels")
    x = inputs.transform(fields.reshape(-1, *fields.shape[2:])).reshape(fields.shape)
    pairs = deal(x, y, split_seed, num_valid=round(0.1 * len(y)), num_test=round(0.2 * len(y)))
    train, valid, test = (Split(pair.x.reshape(-1, *fields.shape[2:]), pair.y.repeat(2)) for pair in pairs)
    return TaskData(train, valid, test, num_classes=10, preparation=Preparation(inputs, Answers("classification", tuple(range(10)))))


def load_table(spec: TaskSpec, split_seed: int) -> TaskData:
    """x (n, F, 1): each of the F columns is a channel of one point, as the reference lays out an all-numeric table.

    Test and validation 10 % each, stratified. Differs from the reference, which standardises by the statistics of all rows, test
    too, and has no seed: columns are standardised by train alone. The last column is the class id.
    """
    table = _read(spec, header_lines=1)
    y = table[:, -1].astype("int64")
    num_held_out = round(0.1 * len(y))
    parts = deal(table[:, :-1, None], y, split_seed, num_valid=num_held_out, num_test=num_held_out)
    classes = int(y.max()) + 1
    about = "the columns of the table in their order"
    inputs = ArrayInputs((table.shape[1] - 1, 1), (), *array_range(parts[0].x), dtype="float64", about=about)
    preparation = Preparation(inputs, Answers("classification", tuple(range(classes))))
    return standardise(TaskData(*parts, num_classes=classes, preparation=preparation))


def _read(spec: TaskSpec, header_lines: int = 0) -> np.ndarray:
    """The numbers of the task's one CSV file, plain or gzipped: (rows, columns) float64."""
    import numpy as np

    (path,) = spec.files()
    try:
        return np.loadtxt(path, delimiter=",", skiprows=header_lines, ndmin=2)
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read as a table of numbers ({error}). Reinstall scikit-learn, which ships it.") from None
