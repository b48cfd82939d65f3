"""Tables of OpenML: the 42 that the reference is configured for, from its own split file or from the table, and any other table by its id.

    <id>_dev_test_split.npy          saved by the reference: its split, and its columns as numbers
    openml/<id>.csv .arff .parquet   the table, or a folder `openml/<id>/` with one; the target is the column `class`, else the last

With the package `openml`, `sweeper tasks openml/<id> --fetch` writes the table there (`orca_core.tasks.fetching`). Earlier downloads
of the package are in such folders already: its `org/openml/www/datasets/<id>` may be linked as `openml/<id>`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orca_core.datafiles.arrays import select_arrays
from orca_core.datafiles.decoding import Decoding, decode_once, refuse_not_finite
from orca_core.datafiles.expected import ArrayForm, ExpectedFile, refuse
from orca_core.datafiles.unpickling import read_object_npy
from orca_core.errors import ConfigError, Fault
from orca_core.tasks.builtin import BUILTIN_TASKS, laptop_recipe
from orca_core.tasks.encoding import ColumnEncoding, TableEncoding, TargetEncoding, encode_as, number_faults, split_complete
from orca_core.tasks.entries import TEXT
from orca_core.tasks.recipes import published_recipe
from orca_core.tasks.spec import Split, TaskData, TaskSpec
from orca_core.tasks.splitting import hold_out, scale_of_points, stratified_order
from orca_core.tasks.tables import SUFFIXES, number_classes, read_table, split_target

if TYPE_CHECKING:
    import numpy as np

SCALED_AGAIN = (12, 54, 1068, 1494)
"""Tables of numbers that the reference scales a second time, by its training rows."""

SCORED_IN_LARGE_CHUNKS = (15, 54, 61, 1050)
"""Tables whose test rows the reference scores in chunks of 10000, not of 1000."""

COLUMNS_1464 = (0, 1, 3)
"""Columns of 1464 that the reference keeps."""

MIN_ROWS = 10
"""A tenth of the rows is the test part."""

SPLIT_ARRAYS = (
    ArrayForm("y_dev", "dev", "iuf", "class codes"),
    ArrayForm("y_test", "test", "iuf", "class codes"),
    ArrayForm("X_norm_dev", "dev F m", "f", "float, standardised"),
    ArrayForm("X_norm_test", "test F m", "f", "float"),
)


def load_openml(spec: TaskSpec, split_seed: int, reference: bool = False) -> TaskData:
    """x (n, F, 1) of numbers alone, else (n, m, F); see `orca_core.tasks.encoding`.

    Test and validation are a tenth each, stratified, by the seed; a split file keeps its own test part. Numbers are
    standardised by the training rows (reference: by all rows).
    """
    import numpy as np

    number = int(spec.name.partition("/")[2])
    arrays, facts = decode_once(spec, partial(_decode, path=spec.expects[0].find()))
    x, y, dev = arrays["x"], arrays["y"], facts["dev"]
    if dev is not None:
        rest, test = np.arange(dev), np.arange(dev, len(y))
    else:
        order = stratified_order(y, split_seed)
        tenth = max(1, round(0.1 * len(y)))
        rest, test = np.sort(order[tenth:]), np.sort(order[:tenth])
    train, valid = rest, test
    if not reference:
        train, valid = (rest[rows] for rows in hold_out(y[rest], 1 / 9, split_seed))
    encoding = TableEncoding.from_json(facts["encoding"]).fit(x, np.arange(len(y)) if reference else train)
    inputs = encoding.arrange(x)
    is_plain = not facts["is_split_file"]  # whether rows of the table, as they are, can be encoded in the same way
    if reference and x.shape[2] == 1:
        if number in SCALED_AGAIN:
            inputs, is_plain = scale_of_points(inputs[train]).encode(inputs), False
        if number == 1464:
            inputs = np.ascontiguousarray(inputs[:, [column for column in COLUMNS_1464 if column < inputs.shape[1]]])
            is_plain = False
    parts = [Split(inputs[rows], y[rows]) for rows in (train, valid, test)]
    return TaskData(parts[0], parts[1], parts[2], facts["classes"], encoding=encoding if is_plain else None)


def _decode(out: Decoding, path: Path) -> None:
    x, y, encoding = _decode_split(out, path) if path.suffix == ".npy" else _decode_table(path)
    out.facts.setdefault("dev", None)
    out.save("x", x, "float64")
    out.save("y", y, "int64")
    out.facts |= {"encoding": encoding.to_json(), "classes": len(encoding.target.classes), "is_split_file": path.suffix == ".npy"}


def _decode_split(out: Decoding, path: Path) -> tuple[np.ndarray, np.ndarray, TableEncoding]:
    """x (n, F, m) and y (n,) of the reference's split file, its test rows last; columns are known by their numbers."""
    import numpy as np

    arrays = select_arrays(path, read_object_npy(path)[()], SPLIT_ARRAYS)
    for key in ("X_norm_dev", "X_norm_test", "y_dev", "y_test"):
        refuse_not_finite(path, key, arrays[key])
    x = np.concatenate([arrays["X_norm_dev"], arrays["X_norm_test"]])
    dev, names = number_classes(path, "y_dev", arrays["y_dev"])
    test = np.searchsorted(np.unique(arrays["y_dev"]), arrays["y_test"])
    if absent := np.setdiff1d(arrays["y_test"], arrays["y_dev"]).tolist():
        refuse([Fault("y_test", "must have only classes of y_dev", absent).text(str(path))])
    out.facts["dev"] = len(dev)
    # A numeric column holds its number in the first of its m entries, and in some row it is neither 0 nor 1.
    forms = ["number" if not np.isin(x[:, column, 0], (0, 1)).all() else TEXT for column in range(x.shape[1])]
    columns = tuple(ColumnEncoding(str(number), form) for number, form in enumerate(forms))
    return x, np.concatenate([dev, test]), TableEncoding(columns, TargetEncoding("y", TEXT, names))


def _decode_table(path: Path) -> tuple[np.ndarray, np.ndarray, TableEncoding]:
    """x (n, F, m) and y (n,) of the rows of a table that have a target."""
    inputs, target = split_target(read_table(path), ("class",))
    known = ~target.missing
    target = (target if target.form == "number" else target.as_text()).take(known)
    if not target.is_text and (fractions := target.values[target.values % 1 != 0]).size:
        remedy = f"Name the column of classes `class`, or take a regression as csv:{path}."
        refuse([Fault(target.name, "must hold classes, texts or whole numbers", fractions[:3].tolist(), remedy).text(str(path))])
    if not inputs:
        refuse([Fault("", "must have a column beside the target", Fault.ABSENT).text(str(path))])
    used, left_out = split_complete([column.take(known) for column in inputs])
    if not used:
        refuse([Fault("", "must have an input column without missing entries", [column.name for column in inputs]).text(str(path))])
    refuse(fault.text(str(path)) for column in used for fault in number_faults(column))
    y, names = number_classes(path, target.name, target.values)
    if len(y) < MIN_ROWS:
        refuse([Fault(target.name, f"must have at least {MIN_ROWS} rows", len(y)).text(str(path))])
    encoding = TableEncoding(tuple(map(encode_as, used)), TargetEncoding(target.name, target.form, names), left_out)
    return encoding.design({column.name: column for column in used}, str(path)), y, encoding


# Of the reference's yamls: id, tokens, samples of a class, epochs, dropout, batch size, clip, optimiser, learning rate, weight decay,
# momentum, epochs of warm-up and of decay.
_PUBLISHED: tuple[tuple[int, int, int, int, float, int, float | None, str, float, float, float, int, int], ...] = (
    (11, 16, 128, 60, 0.0, 4, 1.0, "adamw", 1e-06, 1e-05, 0.99, 5, 60),
    (12, 8, 128, 60, 0.05, 64, 1.0, "adamw", 1e-05, 1e-05, 0.99, 5, 60),
    (14, 512, 128, 25, 0.05, 4, None, "adam", 1e-05, 1e-05, 0.99, 5, 60),
    (15, 512, 128, 20, 0.05, 4, 1.0, "sgd", 0.0001, 0.1, 0.99, 5, 60),
    (16, 512, 128, 60, 0.05, 64, None, "adamw", 1e-05, 1e-05, 0.999, 5, 60),
    (18, 512, 128, 60, 0.05, 4, None, "adam", 1e-05, 0.001, 0.999, 5, 60),
    (22, 512, 128, 60, 0.0, 32, None, "sgd", 0.0001, 0.1, 0.99, 5, 60),
    (23, 4, 64, 25, 0.1, 64, 1.0, "adam", 1e-05, 0.0, 0.999, 5, 60),
    (28, 512, 128, 60, 0.0, 4, 1.0, "sgd", 0.0001, 0.0, 0.999, 5, 60),
    (29, 4, 128, 12, 0.05, 64, 1.0, "adamw", 1e-05, 1e-05, 0.999, 5, 60),
    (31, 8, 128, 20, 0.05, 64, 1.0, "adam", 1e-05, 0.001, 0.999, 5, 20),
    (37, 512, 128, 20, 0.1, 64, 1.0, "adam", 1e-05, 0.0, 0.999, 5, 60),
    (44, 512, 128, 40, 0.05, 4, 1.0, "adamw", 1e-06, 1e-05, 0.999, 10, 100),
    (48, 4, 128, 60, 0.05, 64, 1.0, "adamw", 1e-05, 1e-05, 0.999, 5, 60),
    (50, 512, 128, 30, 0.05, 64, 1.0, "adam", 1e-06, 0.0, 0.999, 5, 60),
    (54, 512, 128, 60, 0.05, 4, 1.0, "adam", 0.001, 0.001, 0.999, 5, 60),
    (61, 512, 128, 60, 0.05, 4, 1.0, "adam", 0.001, 0.001, 0.999, 5, 60),
    (188, 16, 128, 60, 0.05, 64, 1.0, "adam", 0.0001, 0.1, 0.99, 5, 60),
    (458, 512, 128, 60, 0.0, 32, None, "sgd", 0.0001, 1e-05, 0.99, 10, 60),
    (469, 512, 128, 10, 0.05, 64, 1.0, "adam", 1e-06, 0.0, 0.999, 5, 60),
    (882, 512, 128, 60, 0.0, 4, 1.0, "sgd", 0.001, 0.001, 0.99, 5, 60),
    (1049, 512, 512, 60, 0.0, 32, None, "sgd", 0.0001, 0.1, 0.99, 10, 60),
    (1050, 512, 128, 60, 0.05, 64, 1.0, "adam", 1e-05, 0.0, 0.999, 5, 60),
    (1063, 16, 128, 40, 0.1, 64, 1.0, "adam", 0.0001, 0.1, 0.99, 5, 60),
    (1068, 512, 128, 44, 0.0, 32, None, "sgd", 0.0001, 1e-05, 0.99, 5, 60),
    (1462, 512, 128, 60, 0.0, 32, None, "sgd", 0.0001, 1e-05, 0.99, 5, 60),
    (1464, 16, 128, 60, 0.05, 64, 0.1, "adamw", 1e-05, 0.001, 0.999, 5, 60),
    (1479, 16, 128, 60, 0.0, 4, 1.0, "adamw", 1e-06, 1e-05, 0.99, 5, 60),
    (1480, 512, 128, 60, 0.05, 64, 1.0, "adamw", 1e-06, 1e-05, 0.99, 5, 60),
    (1491, 512, 128, 30, 0.0, 16, 1.0, "adam", 0.0001, 0.001, 0.99, 5, 60),
    (1493, 512, 128, 30, 0.0, 16, 1.0, "adam", 0.0001, 0.001, 0.99, 5, 60),
    (1494, 512, 128, 60, 0.05, 4, None, "adam", 1e-06, 0.001, 0.99, 5, 60),
    (1511, 512, 128, 60, 0.05, 4, 1.0, "adamw", 1e-06, 1e-05, 0.999, 5, 60),
    (6332, 16, 128, 60, 0.05, 64, 1.0, "adamw", 1e-05, 0.001, 0.999, 5, 60),
    (23381, 16, 128, 25, 0.05, 32, 1.0, "sgd", 1e-05, 0.001, 0.99, 5, 60),
    (40496, 512, 128, 30, 0.05, 4, 1.0, "adamw", 1e-06, 1e-05, 0.999, 5, 60),
    (40966, 8, 128, 60, 0.05, 64, 1.0, "adamw", 0.0001, 0.0, 0.99, 5, 60),
    (40975, 16, 128, 60, 0.05, 64, 1.0, "adamw", 0.0001, 0.0, 0.99, 5, 60),
    (40982, 512, 128, 60, 0.05, 16, 1.0, "sgd", 0.0001, 1e-05, 0.999, 5, 60),
    (40994, 512, 128, 60, 0.0, 32, None, "sgd", 0.0001, 0.1, 0.99, 5, 60),
)


def _files(number: int) -> tuple[ExpectedFile, ...]:
    split = f"{number}_dev_test_split.npy"
    tables = (*(f"openml/{number}{suffix}" for suffix in SUFFIXES), *(f"openml/{number}/*{suffix}" for suffix in SUFFIXES))
    about = f"npy of objects: {'; '.join(array.text for array in SPLIT_ARRAYS)}; or a table whose target is the column class, else the last"
    return (ExpectedFile(split, "table", (), about, "", f"openml.org, data set {number}", (f"openml/{split}", *tables)),)


def _make_spec(number: int, recipes: Mapping[str, Mapping[str, Any]] = {}) -> TaskSpec:
    files = _files(number)
    return TaskSpec(
        name=f"openml/{number}",
        summary=f"table {number} of OpenML, its columns as channels or as points",
        dims=1,
        kind="classification",
        loss="balanced-cross-entropy",
        score="1-auroc",
        loader="orca_core.tasks.openml:load_openml",
        version=3,
        recipes={"laptop": laptop_recipe(1, epochs=8, batch_size=32, lr=3e-3), **recipes},
        licence="as its page says",
        source=f"openml.org, data set {number}",
        expects=files,
        reference="train and validation are one, validation = test; numbers are standardised by all rows"
        + ("; and again by the training rows" if number in SCALED_AGAIN else "; three of its columns are used" if number == 1464 else ""),
        variant=str(number),
    )


def _make_published(row: tuple[int, int, int, int, float, int, float | None, str, float, float, float, int, int]) -> TaskSpec:
    number, tokens, class_samples, epochs, dropout, batch_size, clip, optimizer, lr, weight_decay, momentum, warmup, decay = row
    recipe = published_recipe(
        1,
        epochs=epochs,
        batch_size=batch_size,
        optimizer=optimizer,
        lr=lr,
        weight_decay=weight_decay,
        momentum=momentum,
        warmup=warmup,
        decay=decay,
        clip=clip,
        align_epochs=20,
        class_samples=class_samples,
        tokens=tokens,
        dropout=dropout,
        score_chunk=10_000 if number in SCORED_IN_LARGE_CHUNKS else 1000,
    )
    return _make_spec(number, {"published": recipe})


def openml_task(number: str) -> TaskSpec:
    """A table that the reference is not configured for, by its id; whether its file exists is checked when it is used.

    Raises:
        ConfigError: If it is not an id.
    """
    if not re.fullmatch(r"[1-9]\d{0,8}", number):
        raise ConfigError(
            [Fault("task", "must be openml/ID with the number of a data set of openml.org", f"openml/{number}", "As in openml/61.")]
        )
    return _make_spec(int(number))


OPENML_TASKS: tuple[TaskSpec, ...] = tuple(map(_make_published, _PUBLISHED))
"""The reference's 42 tables without 187 and 1510, which come with scikit-learn."""

_OWN_FILES: Mapping[str, TaskSpec] = {
    spec.name: replace(
        _make_spec(int(spec.name.removeprefix("openml/"))), summary=spec.summary, recipes=spec.recipes, licence=spec.licence, reference=""
    )
    for spec in BUILTIN_TASKS
    if spec.name.startswith("openml/")
}
"""The tables that come with scikit-learn, as read from files below the data root."""


def prefer_own_file(spec: TaskSpec) -> TaskSpec:
    """The task itself; or, of a table that comes with scikit-learn, the task in its file below the data root, if there is one."""
    own = _OWN_FILES.get(spec.name)
    return own if own is not None and own.has_files() else spec
