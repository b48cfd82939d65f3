"""A task without its data (`TaskSpec`) and with it (`TaskData`).

A loader is `load(spec, split_seed) -> TaskData`. It reads the whole data set, returns float32 inputs and splits them by
`split_seed` alone. A task that also has the splits and scores of the reference code (`TaskSpec.reference`) is loaded by
`load(spec, split_seed, reference)`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, Protocol

from orca_core.datafiles.expected import refuse
from orca_core.datafiles.spec import DataSpec
from orca_core.errors import ConfigError, Fault
from orca_core.plugins import resolve
from orca_core.tasks.preparation import Answers, Kind, Preparation
from orca_core.tasks.raw_arrays import ArrayInputs, array_range
from orca_core.tasks.validation import OWN_SHARE, Validation

if TYPE_CHECKING:
    import numpy as np
    import torch
    from torch import Tensor

    from orca_core.tasks.encoding import TableEncoding


class Prepare(Protocol):
    """How stored rows become inputs of the model, where the inputs themselves would take too much space."""

    shape: tuple[int, ...]
    """Shape of one prepared input."""

    def __call__(self, rows: Tensor) -> Tensor:
        """(n, ...) stored rows -> (n, *shape)."""


@dataclass(frozen=True)
class Split:
    """One part of a data set.

    Args:
        x: (n, channels, length) or (n, channels, height, width), float32.
        y: (n,) int64 class ids from 0; (n, labels) float32 0 or 1 for a multi-label task; (n, values) float32 for a regression;
            (n, channels, length) / (n, channels, height, width) float32 for a dense task, where NaN marks a position that neither
            loss nor score sees.
        group: (n,) int64, samples of one group are evaluated as one: their outputs are averaged. None if each sample is its own group.
        content: (n, ...) what tells samples apart that are made of the same data, where `x` does not. Only compared, see
            `orca_core.tasks.overlap`.
    """

    x: np.ndarray
    y: np.ndarray
    group: np.ndarray | None = None
    content: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.x)

    def equals(self, other: Split) -> bool:
        """Whether the other part has the same rows, in the same order, and the same groups of them."""
        pairs = [(self.x, other.x), (self.y, other.y)]
        if self.group is not None and other.group is not None:
            pairs.append((self.group, other.group))
        elif self.group is not None or other.group is not None:
            return False
        return all(_are_equal(*pair) for pair in pairs)


_LOOK = 16
"""Rows that are compared first: parts that differ mostly differ in these."""


def _are_equal(one: np.ndarray, other: np.ndarray) -> bool:
    import numpy as np

    if one is other:
        return True
    some = one[:_LOOK], other[:_LOOK]
    return one.shape == other.shape and all(np.array_equal(*pair, equal_nan=True) for pair in (some, (one, other)))


@dataclass(frozen=True)
class TaskData:
    """A data set in three parts that share no row.

    Args:
        train, valid, test: The parts; valid is empty only where folds choose the epoch (`Validation.is_empty`).
        num_classes: Number of classes, or None if the task is not a classification.
        augment: Applied to training batches of fine-tuning: (n, ...) rows and the epoch's generator -> rows.
        prepare: How stored rows become inputs of the model; None if they are.
        decode: (n, ...) outputs or targets -> the same in the unit of loss and score; None if they have it already.
        encoding: How the rows of a table became inputs; None if the task is not made of a table.
        preparation: How raw samples become rows, and outputs answers. If a loader leaves it out, `TaskSpec.load` takes the encoding of a
            table, and else fills in that a model takes inputs as the loader makes them.
    """

    train: Split
    valid: Split
    test: Split
    num_classes: int | None
    augment: Callable[[Tensor, torch.Generator], Tensor] | None = None
    prepare: Prepare | None = None
    decode: Callable[[Tensor], Tensor] | None = None
    encoding: TableEncoding | None = None
    preparation: Preparation | None = None

    def inputs(self, rows: Tensor) -> Tensor:
        """Inputs of the model for stored rows."""
        return rows if self.prepare is None else self.prepare(rows)

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one input: (channels, length) or (channels, height, width)."""
        return tuple(self.train.x.shape[1:]) if self.prepare is None else self.prepare.shape

    @property
    def output_shape(self) -> tuple[int, ...]:
        """Shape of one output of the model: (num_classes,), or the shape of one target."""
        return (self.num_classes,) if self.num_classes is not None else tuple(self.train.y.shape[1:])


@dataclass(frozen=True)
class EpochSize:
    """What passes the model in an epoch of fine-tuning on published data, as far as it is known without them.

    Args:
        train, valid, test: Samples; those that are scored as one are counted one by one.
        length: Positions of a series; None for images and fields.
    """

    train: int
    valid: int
    test: int
    length: int | None = None


@dataclass(frozen=True, kw_only=True)
class TaskSpec(DataSpec):
    """One task, described without its data.

    Args:
        name, summary, files, version, licence, source, expects: As for `DataSpec`.
        loader: `"module:function"`, called as `load(spec, split_seed) -> TaskData`.
        dims: 1 for series, 2 for images and fields.
        kind: What the predictor returns: one class, yes or no for each of several labels, numbers, or one value per position.
        loss: Name in `orca_core.scoring.LOSSES`.
        score: Name in `orca_core.scoring.SCORES`; every score is an error, lower is better.
        recipes: Defaults by recipe name. `laptop` fits the mini bodies; `published` is the reference configuration.
        reference: What `reference_data` changes, in a line; empty if the task has no such form.
        reference_score: Name of the score under `reference_data`, if it is another.
        variant: What the loader makes of the same files, where name and argument decide that: part of the data's identity.
        notes: What the user should know before a run, in a sentence each: columns that are left out.
        fixed_validation: Why the validation part cannot be chosen, as a sentence without its full stop; empty if `split_seed` draws it.
        epoch: The size of an epoch, by which its duration is estimated; None if it is not known ahead.
    """

    dims: Literal[1, 2]
    kind: Kind
    loss: str
    score: str
    recipes: Mapping[str, Mapping[str, Any]]
    reference: str = ""
    reference_score: str = ""
    variant: str = ""
    notes: tuple[str, ...] = ()
    fixed_validation: str = ""
    epoch: EpochSize | None = None

    def score_name(self, reference: bool) -> str:
        """Name of the score, with or without `reference_data`."""
        return self.reference_score if reference and self.reference_score else self.score

    def _label(self, has_content: bool) -> str:
        label = f"task {_MOVED_LOADERS.get(self.loader, self.loader)} {self.version} {self.loss} {self.score}"
        if not has_content:  # then only its name tells it from another task of the same loader
            label += f" {self.name}"
        return label + (f" {self.variant}" if self.variant else "")

    def load(self, split_seed: int = 0, reference: bool = False, validation: Validation = OWN_SHARE) -> TaskData:
        """The data, split by `split_seed`; with `reference` as the reference code has them, where the task knows that form.

        Args:
            split_seed: Draws what the split leaves to chance.
            reference: Whether the reference code's splits and scores are wanted.
            validation: Which rows validate. If it `is_empty`, all rows outside the test part train, and `valid` has no rows.

        Raises:
            DataError: If a file is missing, damaged or not of the documented form.
            ConfigError: If the task cannot hold out what is asked for.
        """
        self.check_files()
        load, options = resolve(self.loader, self.name), [reference] if self.reference else []
        if validation.is_default:
            data: TaskData = load(self, split_seed, *options)
        else:
            with validation.use() as request:
                data = load(self, split_seed, *options)
            if not request.is_met:
                raise ConfigError([validation.fault(f"must be null for {self.name}", f"{self.fixed_validation or _OWN_PART}.")])
        refuse(f"{self.name}: {self.loader}: {broken}" for broken in broken_promises(self, data, validation))
        _check_classes(self, data, validation)
        return data if data.preparation is not None else replace(data, preparation=_prepared(self, data))


_OWN_PART = "Its loader brings a validation part of its own"


def _check_classes(spec: TaskSpec, data: TaskData, validation: Validation) -> None:
    """Check that enough rows are left to train on: a row of each class, where rows are held out otherwise than the task does."""
    import numpy as np

    if not validation.is_default and data.num_classes is not None and len(np.unique(data.train.y)) < data.num_classes:
        raise ConfigError([validation.fault(f"must leave a row of each of the {data.num_classes} classes of {spec.name} in train")])


_MOVED_LOADERS = {
    "orca_core.tasks.own.arrays:load_npz": "orca_core.tasks.arrays:load_npz",
    "orca_core.tasks.own.images:load_domainnet": "orca_core.tasks.pictures:load_domainnet",
    "orca_core.tasks.own.images:load_images": "orca_core.tasks.pictures:load_images",
    "orca_core.tasks.own.tables:load_csv": "orca_core.tasks.own_tables:load_csv",
}
"""Loaders whose module was renamed -> their first name, which stays in digests so that stored results remain valid."""


def broken_promises(spec: TaskSpec, data: TaskData, validation: Validation = OWN_SHARE) -> list[str]:
    """Which promises of `TaskData` and `Split` a loader's data break, as far as shapes, dtypes and class ids tell; a line each."""
    if not isinstance(data, TaskData):
        return [f"must return TaskData, but returned {type(data).__name__}."]
    lines = []
    if (data.num_classes is not None) != (spec.kind == "classification"):
        lines.append(f"num_classes must be {'a number' if spec.kind == 'classification' else 'None'} for {spec.kind}.")
    if len(data.input_shape) != spec.dims + 1:
        lines.append(f"inputs must have channels and {spec.dims} dimensions, but have the shape {data.input_shape}.")
    axes = {"classification": 1, "dense": spec.dims + 2}.get(spec.kind, 2)
    kind = "int64" if spec.kind == "classification" else "float32"
    for name in ("train", "test") if validation.is_empty else ("train", "valid", "test"):
        part = getattr(data, name)
        if len(part.x) != len(part.y) or not len(part.x):
            lines.append(f"{name} must have as many y as x, at least one, but has {len(part.y)} and {len(part.x)}.")
        elif part.x.shape[1:] != data.train.x.shape[1:] or (part.x.dtype != "float32" and data.prepare is None):
            lines.append(f"{name}.x must be float32 of rows {data.train.x.shape[1:]}, but is {part.x.dtype} of rows {part.x.shape[1:]}.")
        elif part.y.dtype != kind or part.y.ndim != axes or part.y.shape[1:] != data.train.y.shape[1:]:
            lines.append(f"{name}.y must be {kind} with {axes} axes for {spec.kind}, but is {part.y.dtype} of the shape {part.y.shape}.")
        elif axes == 1 and data.num_classes is not None and not 0 <= part.y.min() <= part.y.max() < data.num_classes:
            lines.append(f"{name}.y must be class ids below {data.num_classes}, but has {part.y.min()} to {part.y.max()}.")
    return lines


def _prepared(spec: TaskSpec, data: TaskData) -> Preparation:
    """How raw samples are prepared, where the loader does not say: by the encoding of a table; else a model takes what the loader made."""
    if data.encoding is not None:
        from orca_core.tasks.raw_tables import prepared_by

        return prepared_by(data.encoding)
    names: tuple[int, ...] = ()
    if spec.kind in ("classification", "multilabel"):
        names = tuple(range(data.output_shape[0]))
    about = f"inputs as the loader of {spec.name} makes them"
    low, high = array_range(data.train.x) if data.prepare is None else (None, None)
    answers = Answers(spec.kind, names, are_logits=spec.kind == "dense" and spec.loss.startswith("bce"))
    return Preparation(ArrayInputs(data.input_shape, (), low, high, about=about), answers)


def check_train_samples(data: TaskData, train_samples: int, task: str) -> None:
    """Check that this many training samples can be drawn, with at least one of each class.

    Raises:
        ConfigError: If they cannot.
    """
    if train_samples > len(data.train):
        rule = f"must be at most the {len(data.train)} training samples of {task}"
        raise ConfigError([Fault("train_samples", rule, train_samples)])
    if train_samples < (data.num_classes or 1):
        rule = f"must be at least the {data.num_classes} classes of {task}"
        raise ConfigError([Fault("train_samples", rule, train_samples)])
