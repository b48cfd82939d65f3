"""Which floors a kind of task has, on which data they are computed, and the row that comes of each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from typing import Annotated, Any, ClassVar, Self

from orca_core.rows import Cells
from orca_core.tasks.preparation import Kind
from orca_core.tasks.validation import OWN_SHARE, Validation

MODELS: Mapping[Kind, tuple[str, ...]] = {
    "classification": ("majority", "logistic", "neighbours", "svm", "boosting"),
    "multilabel": ("mean", "ridge", "neighbours", "kernel-ridge", "boosting"),
    "regression": ("mean", "ridge", "neighbours", "kernel-ridge", "boosting"),
    "dense": ("mean", "persistence", "ridge", "patch-ridge", "neighbours", "kernel-ridge", "boosting"),
}
"""The models for each kind of task, simple ones first. Of models with the same validation error the first counts as the best."""

VERSIONS: Mapping[str, int] = {
    "majority": 1,
    "mean": 1,
    "persistence": 1,
    "logistic": 1,
    "ridge": 1,
    "patch-ridge": 1,
    "neighbours": 1,
    "svm": 1,
    "kernel-ridge": 1,
    "boosting": 1,
}
"""Version of each model's definition, raised when its numbers change."""

SIMPLE_FIRST = tuple(VERSIONS)
"""All models, simple ones first."""

COMPLETE, TOO_LARGE, UNFIT, FAIL = "COMPLETE", "TOO_LARGE", "UNFIT", "FAIL"
"""What can become of a floor."""


def sklearn_version() -> str:
    """The installed version of scikit-learn, without importing it."""
    return version("scikit-learn")


@dataclass(frozen=True)
class FloorCase:
    """The data on which floors are computed: those of trials with the same values of these knobs.

    Args:
        task: Name of the task.
        reference_data: Whether the task has the splits and the score of the reference code.
        split_seed: Draws what the split leaves to chance.
        train_samples: Number of training samples; None = all.
        validation: Which rows validate.
    """

    task: str
    reference_data: bool = False
    split_seed: int = 0
    train_samples: int | None = None
    validation: Validation = OWN_SHARE

    def cells(self) -> dict[str, Any]:
        """The columns that tell the cases of a table apart."""
        return {
            "task": self.task,
            "reference_data": self.reference_data,
            "split_seed": self.split_seed,
            "train_samples": self.train_samples,
            "valid_share": self.validation.share,
            "validation_folds": self.validation.folds,
            "validation_fold": self.validation.fold,
        }

    @classmethod
    def of_row(cls, row: Mapping[str, Any]) -> Self:
        """The case of a row of `trials` or of `floors`. Columns that are null or absent have their defaults."""
        validation = Validation(row.get("valid_share"), row.get("validation_folds"), row.get("validation_fold"))
        return cls(row["task"], bool(row.get("reference_data")), row.get("split_seed") or 0, row.get("train_samples"), validation)

    def settings(self) -> str:
        """What differs from the defaults, as options of `sweeper floors`, each with a space before it; empty if nothing does."""
        knobs = {
            "split_seed": self.split_seed or None,
            "train_samples": self.train_samples,
            "reference_data": "true" if self.reference_data else None,
            "valid_share": self.validation.share,
            "validation.folds": self.validation.folds,
            "validation.fold": self.validation.fold,
        }
        return "".join(f" --set {knob}={value}" for knob, value in knobs.items() if value is not None)


@dataclass(frozen=True, kw_only=True)
class FloorRow(Cells):
    """What one model reaches on one task and split."""

    TABLE: ClassVar[str] = "floors"

    task: Annotated[str, "Name of the task."]
    task_digest: Annotated[str | None, "Digest of the task's data and loader; null where its files are missing."] = None
    reference_data: Annotated[bool, "Whether splits and score are those of the reference code, for tasks that have such a form."] = False
    split_seed: Annotated[int, "Seed of the split."] = 0
    train_samples: Annotated[int | None, "Training samples as in `trials`, drawn by `split_seed`; null = all."] = None
    valid_share: Annotated[float | None, "As in `trials`."] = None
    validation_folds: Annotated[int | None, "As in `trials`. Settings with the least mean error over the folds are fitted to all rows."] = (
        None
    )
    validation_fold: Annotated[int | None, "As in `trials`."] = None
    model: Annotated[str, "Name of the model; docs/floors.md describes each."]
    version: Annotated[int, "Version of the model's definition in this package, raised when its numbers change."]
    sklearn_version: Annotated[str, "Version of scikit-learn."]
    numpy_version: Annotated[str, "Version of numpy."]
    status: Annotated[str, "COMPLETE; TOO_LARGE: the task is too large for the model; UNFIT: it is not defined for such shapes; FAIL."]
    cause: Annotated[str | None, "Why there is no error, in a sentence."] = None
    score: Annotated[str, "Name of the score in which the errors are measured, as in `trials`."]
    valid_error: Annotated[float | None, "Least validation error of any of the model's settings; lower is better."] = None
    test_error: Annotated[float | None, "Test error with these settings."] = None
    settings: Annotated[str | None, "The settings that were chosen, as JSON."] = None
    selection: Annotated[
        str | None,
        "On what the settings were chosen: valid, folds, or test where the task's validation part is its test part.",
    ] = None
    cap: Annotated[int | None, "Largest number of training samples that this model is given on a task of this size; null = all."] = None
    fitted_samples: Annotated[int | None, "Number of training samples that the model was fitted to."] = None
    features: Annotated[int | None, "Values of one input, flattened."] = None
    valid_samples: Annotated[int | None, "Number of samples on which settings were chosen, of all folds together."] = None
    test_samples: Annotated[int | None, "Number of test samples; never capped."] = None
    seconds: Annotated[float | None, "Seconds of processor time that it took."] = None

    @property
    def is_complete(self) -> bool:
        """Whether it has an error."""
        return self.status == COMPLETE
