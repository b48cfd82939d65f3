"""What a task promises."""

from __future__ import annotations

import json
import pickle
from typing import ClassVar

import numpy as np

from orca_core.config.paths import flatten, unknown_knobs
from orca_core.errors import ConfigError
from orca_core.scoring.losses import LOSSES
from orca_core.scoring.scores import SCORES
from orca_core.tasks import TASK_CATALOGUE, Split, TaskData, TaskSpec
from orca_core.tasks.preparation import from_json
from orca_core.tasks.validation import Validation

_loaded: dict[tuple[str, int], tuple[TaskSpec, TaskData]] = {}


class TaskContract:
    """Checks of a `TaskSpec` and the data that its loader returns.

    Attributes:
        spec: The task; its files must be there.
        splits_by_seed: Whether `split_seed` decides which samples validate; False for a data set with a split of its own.
    """

    spec: TaskSpec
    splits_by_seed: ClassVar[bool] = True

    def data(self, split_seed: int = 0) -> TaskData:
        """The task's data, loaded once."""
        spec, data = _loaded.get((self.spec.name, split_seed), (None, None))
        if data is None or spec is not self.spec:
            data = self.spec.load(split_seed)
            _loaded[self.spec.name, split_seed] = self.spec, data
        return data

    def test_an_entry_point_can_register_it(self) -> None:
        TASK_CATALOGUE.check(self.spec)

    def test_loss_and_scores_are_known(self) -> None:
        assert self.spec.loss in LOSSES, f"loss must be one of {', '.join(LOSSES)}, but is {self.spec.loss!r}"
        for score in filter(None, (self.spec.score, self.spec.reference_score)):
            assert score in SCORES, f"scores must be among {', '.join(SCORES)}, but one is {score!r}"

    def test_recipes_set_known_knobs(self) -> None:
        for name, recipe in self.spec.recipes.items():
            faults = unknown_knobs(flatten(recipe))
            assert not faults, f"recipe {name}: {'; '.join(fault.text() for fault in faults)}"
            assert "body.name" in flatten(recipe), f"recipe {name}: must name a body"

    def test_inputs_are_finite_and_stored_in_order(self) -> None:
        for name, part in _parts(self.data()).items():
            assert part.x.flags.c_contiguous, f"{name}.x must be C-contiguous"
            assert part.y.flags.c_contiguous, f"{name}.y must be C-contiguous"
            assert np.isfinite(part.x).all(), f"{name}.x must be finite"
            assert not np.isinf(part.y).any(), f"{name}.y must not be infinite"

    def test_training_sees_every_class(self) -> None:
        data = self.data()
        if data.num_classes is not None:
            missing = set(range(data.num_classes)) - set(data.train.y.tolist())
            assert not missing, f"train.y must hold every class, but lacks {sorted(missing)}"

    def test_parts_share_no_row(self) -> None:
        rows = {name: _rows(part) for name, part in _parts(self.data()).items()}
        for one, other in (("train", "valid"), ("train", "test"), ("valid", "test")):
            shared = len(rows[one] & rows[other])
            assert not shared, f"{one} and {other} must share no row, but share {shared}"

    def test_the_same_split_seed_gives_the_same_bits(self) -> None:
        again = _parts(self.spec.load(0))
        for name, part in _parts(self.data()).items():
            same = part.x.tobytes() == again[name].x.tobytes() and part.y.tobytes() == again[name].y.tobytes()
            assert same, f"{name} must be the same each time it is loaded"

    def test_another_split_seed_validates_on_other_rows_of_the_same_number(self) -> None:
        data, other = self.data(), self.data(1)
        sizes, other_sizes = ({name: len(part) for name, part in _parts(found).items()} for found in (data, other))
        assert sizes == other_sizes, f"sizes must not depend on split_seed, but are {sizes} and {other_sizes}"
        same = data.valid.x.tobytes() == other.valid.x.tobytes()
        assert same != self.splits_by_seed, f"with splits_by_seed {self.splits_by_seed}, valid.x must {'not ' if same else ''}be the same"

    def test_folds_hold_rows_out_or_are_refused(self) -> None:
        folds = Validation(folds=2, fold=0), Validation(folds=2, fold=1), Validation(folds=2)
        try:
            first, second, final = (self.spec.load(0, validation=validation) for validation in folds)
        except ConfigError:
            return  # its validation part is fixed, or there is only one row of a class
        assert not self.spec.fixed_validation, "a task with fixed_validation must not change its validation part"
        assert len(final.valid) == 0, "valid must be empty if no fold validates"
        for data in (first, second):
            shared = len(_rows(data.train) & _rows(data.valid))
            assert not shared, f"train and valid of a fold must share no row, but share {shared}"
        shared = len(_rows(first.valid) & _rows(second.valid))
        assert not shared, f"the validation parts of two folds must share no row, but share {shared}"

    def test_a_model_of_it_says_what_it_takes_and_what_it_answers(self) -> None:
        preparation = self.data().preparation
        assert preparation is not None, "TaskSpec.load must say how raw samples are prepared"
        again = from_json(json.loads(json.dumps(preparation.to_json())))
        assert again.to_json() == preparation.to_json(), "the preparation must survive JSON"
        assert preparation.inputs.expected, "the preparation must say what it expects"
        if self.spec.kind in ("classification", "multilabel"):
            found, expected = len(preparation.answers.names), self.data().output_shape[0]
            assert found == expected, f"the preparation must name {expected} classes or labels, but names {found}"

    def test_it_can_be_sent_to_a_worker(self) -> None:
        assert pickle.loads(pickle.dumps(self.spec)).digest() == self.spec.digest(), "the digest must survive pickling"


def _rows(part: Split) -> set[bytes]:
    return {row.tobytes() for row in part.x}


def _parts(data: TaskData) -> dict[str, Split]:
    return {"train": data.train, "valid": data.valid, "test": data.test}
