"""How large the parts of a task are, and the error of a model that has learned nothing: the frame in which every result is read.

Both are kept in the cache root, by the content of the data, so that a plan can print them without reading the data again.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from orca_core.errors import DataError
from orca_core.tasks.spec import Split, TaskData, TaskSpec
from orca_core.tasks.validation import OWN_SHARE, Validation
from orca_core.workbench import Workbench

if TYPE_CHECKING:
    import numpy as np

VERSION = 1
"""Raised when the numbers of the same data change."""

READ_UP_TO_BYTES = 1 << 24
"""Data in files up to this size is read for its sizes alone; reading it takes a fraction of a second."""


@dataclass(frozen=True)
class PartSizes:
    """The parts of a task.

    Args:
        train, valid, test: Numbers of samples; a group of samples that are evaluated as one counts once.
        num_classes: Number of classes; None if the task is not a classification.
        valid_majority_error, majority_error: Error on validation and on test samples, in the task's score, of always answering the most
            frequent class of train, or the mean of its targets. None for dense tasks and for scores that are not defined for it.
    """

    train: int
    valid: int
    test: int
    num_classes: int | None
    valid_majority_error: float | None
    majority_error: float | None


def part_sizes(spec: TaskSpec, data: TaskData, reference: bool = False) -> PartSizes:
    """The sizes of loaded data.

    Args:
        spec: The task.
        data: Its data.
        reference: Whether they are scored as the reference does.
    """
    train, valid, test = (group_targets(part) for part in (data.train, data.valid, data.test))
    score = spec.score_name(reference)
    errors = [constant_error(score, train, y) if len(y) else None for y in (valid, test)]
    return PartSizes(len(train), len(valid), len(test), data.num_classes, errors[0], errors[1])


def group_targets(part: Split) -> np.ndarray:
    """The targets of a part, one for each group."""
    import numpy as np

    return part.y if part.group is None else part.y[np.unique(part.group, return_index=True)[1]]


def constant_error(score: str, train: np.ndarray, y: np.ndarray) -> float | None:
    """The error on targets `y` of one and the same output for every sample, the best guess by the targets of train.

    Args:
        score: Name of the score.
        train, y: (n,) class ids, (n, labels) 0 or 1, or (n, values) numbers.

    Returns:
        None for scores of dense tasks, and where the score of these targets is not defined.
    """
    import numpy as np

    if score in ("1-accuracy", "1-macro-f1"):
        if score == "1-accuracy":
            return float((y != np.bincount(train).argmax()).mean())
        share = float((y == np.bincount(train).argmax()).mean())
        num_seen = len(np.union1d(y, np.bincount(train).argmax()))
        return 1.0 - 2 * share / (1 + share) / num_seen  # its precision is the share of its class, its recall 1
    if score == "1-auroc":
        return 0.5 if len(np.unique(y)) > 1 else None
    if score in ("1-mean-auroc", "1-macro-map"):
        shares = y.mean(0, dtype="float64")
        if score == "1-mean-auroc":
            return 0.5 if ((shares > 0) & (shares < 1)).any() else None
        return float(1.0 - shares[shares > 0].mean()) if (shares > 0).any() else None
    if score == "1-r2":
        true = y.astype("float64")
        spread = np.square(true - true.mean(0)).sum(0)
        return float((np.square(true - train.mean(0, dtype="float64")).sum(0) / spread).mean()) if (spread > 0).all() else None
    return None


def find_sizes(spec: TaskSpec, split_seed: int = 0, reference: bool = False, validation: Validation = OWN_SHARE) -> PartSizes | None:
    """The sizes of a task's parts: as kept when it was last used, or by reading its data if its files are small.

    Args:
        spec: The task.
        split_seed, reference, validation: As for `TaskSpec.load`.

    Returns:
        None if they are not known: files are missing, or large and not used yet.

    Raises:
        DataError: If the data is damaged.
        ConfigError: If the task cannot hold out what is asked for.
    """
    try:
        path = _path(spec, split_seed, reference, validation)
        size = sum(file.stat().st_size for file in spec.files())
    except (DataError, OSError):
        return None  # whoever runs the task says which files are missing
    try:
        return PartSizes(**json.loads(path.read_text(encoding="ascii")))
    except (OSError, ValueError, TypeError):
        if size > READ_UP_TO_BYTES:
            return None
    return keep_sizes(spec, spec.load(split_seed, reference, validation), split_seed, reference, validation)


def keep_sizes(
    spec: TaskSpec, data: TaskData, split_seed: int = 0, reference: bool = False, validation: Validation = OWN_SHARE
) -> PartSizes:
    """The sizes of data that was loaded with these arguments, which `find_sizes` then finds."""
    sizes, path = part_sizes(spec, data, reference), _path(spec, split_seed, reference, validation)
    if path.exists():
        return sizes
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=path.parent, delete=False, encoding="ascii") as file:
            json.dump(asdict(sizes), file)
        os.replace(file.name, path)
    except OSError:
        pass  # without the cache, the data is read again
    return sizes


def _path(spec: TaskSpec, split_seed: int, reference: bool, validation: Validation) -> Path:
    identity = f"{VERSION} {spec.digest()} {split_seed} {reference} {validation}"
    return Workbench.current().cache_root / "sizes" / hashlib.sha256(identity.encode()).hexdigest()
