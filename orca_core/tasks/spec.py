"""A task without its data (`TaskSpec`) and with it (`TaskData`).

A loader is `load(spec, split_seed) -> TaskData`. It reads the whole data set, gives float32 inputs and splits them by
`split_seed` alone.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from orca_core.errors import ConfigError, DataError, Fault

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True)
class Split:
    """One part of a data set.

    Args:
        x: (n, channels, length) or (n, channels, height, width), float32.
        y: (n,) int64 class ids from 0; or (n, channels, length) / (n, channels, height, width) float32 for a dense task.
    """

    x: np.ndarray
    y: np.ndarray

    def __len__(self) -> int:
        return len(self.x)


@dataclass(frozen=True)
class TaskData:
    """A data set with its three splits, that share no row.

    Args:
        train, valid, test: The parts; valid is never empty, as the best epoch is chosen on it.
        num_classes: Number of classes, or None for a dense task.
    """

    train: Split
    valid: Split
    test: Split
    num_classes: int | None

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one input: (channels, length) or (channels, height, width)."""
        return tuple(self.train.x.shape[1:])

    @property
    def output_shape(self) -> tuple[int, ...]:
        """Shape of one output of the model: (num_classes,), or the shape of one dense target."""
        return (self.num_classes,) if self.num_classes is not None else tuple(self.train.y.shape[1:])


@dataclass(frozen=True)
class TaskSpec:
    """One task, described without its data.

    Args:
        name: As written in a config.
        summary: One line for `sweeper tasks`.
        dims: 1 for series, 2 for images and fields.
        kind: What the predictor gives: one class, or one value per position.
        loss: Name in `orca_core.scoring.LOSSES`.
        score: Name in `orca_core.scoring.SCORES`; every score is an error, lower is better.
        loader: `"module:function"`, called as `load(spec, split_seed) -> TaskData`.
        recipes: Defaults by recipe name. `laptop` fits the mini bodies; `published` is the reference configuration.
        files: The files whose content defines the data. Empty for data that code alone defines (then `version` counts).
        version: Raised when the loader gives other arrays than before from the same files.
        licence, source: Where the data comes from and on what terms.
    """

    name: str
    summary: str
    dims: Literal[1, 2]
    kind: Literal["classification", "dense"]
    loss: str
    score: str
    loader: str
    recipes: Mapping[str, Mapping[str, Any]]
    files: Callable[[], tuple[Path, ...]] = field(default=tuple)
    version: int = 1
    licence: str = ""
    source: str = ""

    def digest(self) -> str:
        """SHA-256 over loader, version, loss, score and the content of the files; paths do not enter."""
        files = self.files()
        # What code alone defines has no content to tell it from another task of the same loader: its name does.
        label = f"task {self.loader} {self.version} {self.loss} {self.score}" + ("" if files else f" {self.name}")
        return content_digest(label, files)

    def load(self, split_seed: int = 0) -> TaskData:
        """The data, split by `split_seed`.

        Raises:
            DataError: If a file is missing, damaged or not of the documented form.
        """
        return resolve(self.loader)(self, split_seed)


def check_train_samples(data: TaskData, train_samples: int, task: str) -> None:
    """That so many training samples can be drawn, one of each class at least.

    Raises:
        ConfigError: If not.
    """
    if train_samples > len(data.train):
        rule = f"must be at most the {len(data.train)} training samples of {task}"
        raise ConfigError([Fault("train_samples", rule, train_samples)])
    if train_samples < (data.num_classes or 1):
        rule = f"must be at least the {data.num_classes} classes of {task}"
        raise ConfigError([Fault("train_samples", rule, train_samples)])


def content_digest(label: str, files: tuple[Path, ...]) -> str:
    """SHA-256 over a label and the bytes of some files, in order."""
    digest = hashlib.sha256(label.encode())
    for path in files:
        digest.update(_file_digest(path, *_identity(path)).encode())
    return digest.hexdigest()


def _identity(path: Path) -> tuple[int, int]:
    try:
        stat = path.stat()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from None
    return stat.st_size, stat.st_mtime_ns


@lru_cache(maxsize=256)
def _file_digest(path: Path, size: int, mtime_ns: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def resolve(reference: str) -> Callable[..., Any]:
    """The function that `"module:function"` names."""
    module, _, name = reference.partition(":")
    return getattr(importlib.import_module(module), name)


@lru_cache(maxsize=256)
def package_file(package: str, *parts: str) -> Path:
    """A file inside an installed package, found without importing it."""
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise DataError(f"{package}: is not installed, and {'/'.join(parts)} comes with it")
    return Path(spec.submodule_search_locations[0]).joinpath(*parts)
