"""The parts of the tasks of a plan, and warnings of validation parts that are too small to tell arms or epochs apart."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from orca_core.config.knobs import TrialConfig
from orca_core.errors import ConfigError, DataError
from orca_core.tasks.sizes import PartSizes, find_sizes

SMALL_BELOW = 50
"""Number of validation samples below which a warning is given: one sample more or less is then 2 % of the error, or more."""


@dataclass(frozen=True)
class TaskParts:
    """The parts of a task, as some trials of a plan use them.

    Args:
        config: One of these trials.
        sizes: None if they are not known: the data is missing, or large and was not read yet.
    """

    config: TrialConfig
    sizes: PartSizes | None

    @property
    def valid_samples(self) -> int | None:
        """Number of samples that validate, in all folds together."""
        if self.sizes is None:
            return None
        return self.sizes.train if self.config.is_cross_validated else self.sizes.valid

    def line(self) -> str:
        """The parts in one line."""
        if self.sizes is None:
            return f"{self.config.task}: the sizes of its parts are unknown until its data has been read once"
        train, folds = self.sizes.train, self.config.validation.folds
        if self.config.is_cross_validated and folds:
            low, high = train // folds, -(-train // folds)
            valid = f"validated in {folds} folds of {low}" + (f" or {high}" if high > low else "")
        else:
            valid = f"{self.sizes.valid} validation"
        limit = self.config.train_samples
        used = f" ({limit} of them used)" if limit is not None and limit < train else ""
        numbers = f"{train} train{used}, {valid}, {self.sizes.test} test samples"
        return f"{self.config.task}: {numbers}{describe_majority(self.sizes, self._score)}"

    def warning(self) -> str:
        """What the validation part is too small for; empty if it is not, if it chooses nothing, or if its size is unknown."""
        number, config = self.valid_samples, self.config
        if number is None or number >= SMALL_BELOW or config.selection == "test":
            return ""
        shows = f", so {1 / number:.2g} is the least difference in error that they can show" if self._score == "1-accuracy" else ""
        if config.is_cross_validated or config.task_spec.fixed_validation or (config.reference_data and config.task_spec.reference):
            remedy = "Do not read much into small differences."
        else:
            remedy = "Set validation.folds, for example to 5, or a larger valid_share."
        return f"{config.task} has only {number} validation sample{'' if number == 1 else 's'}{shows}. {remedy}"

    @property
    def _score(self) -> str:
        return self.config.task_spec.score_name(self.config.reference_data)


def describe_majority(sizes: PartSizes, score: str) -> str:
    """Classes, and the errors of a model that has learned nothing, to follow the numbers of samples."""
    text = f", {sizes.num_classes} classes" if sizes.num_classes is not None else ""
    errors = {"validation": sizes.valid_majority_error, "test": sizes.majority_error}
    known = [f"{error:.3g} in {part}" for part, error in errors.items() if error is not None]
    what = "majority class" if sizes.num_classes is not None else "mean of the targets"
    return f"{text}; {score} of the {what}: {', '.join(known)}" if known else text


def parts_of(configs: Iterable[TrialConfig]) -> list[TaskParts]:
    """The parts of each task, for every way in which trials divide it; of several values of `split_seed`, by the first."""
    distinct: dict[tuple[object, ...], TrialConfig] = {}
    for config in configs:
        shown = config.held_out if config.is_cross_validated or config.validation.folds is None else config.validation.folds
        distinct.setdefault((config.task, config.reference_data, config.train_samples, shown), config)
    found = []
    for config in distinct.values():
        try:
            reference = config.reference_data and bool(config.task_spec.reference)
            sizes = find_sizes(config.task_spec, config.split_seed, reference, config.held_out)
        except (DataError, ConfigError):
            sizes = None  # reported by the checks of the data
        found.append(TaskParts(config, sizes))
    return found


def warn_of_small_parts(configs: Iterable[TrialConfig]) -> list[str]:
    """A warning for each validation part that is too small."""
    return [warning for parts in parts_of(configs) if (warning := parts.warning())]
