"""Published tasks by folds and by another share of validation rows, or the reason why not."""

from __future__ import annotations

import pytest
from published import WRITERS

from orca_core.config.resolve import resolve_config
from orca_core.errors import ConfigError
from orca_core.tasks import find_task
from orca_core.tasks.validation import Validation
from orca_core.testing import TaskContract

FIXED = {"nb360/ninapro", "nb360/darcy", "nb360/fsd50k", "nb360/deepsea"}


@pytest.mark.parametrize("name", WRITERS)
def test_a_task_is_divided_by_folds_unless_its_validation_part_is_published(name, root):
    WRITERS[name](root)
    suite = TaskContract()
    suite.spec = spec = find_task(name)
    if name in FIXED:
        with pytest.raises(ConfigError, match=r"validation\.folds: must be null"):
            resolve_config({"task": name, "validation.folds": 2})
        with pytest.raises(ConfigError, match="The benchmark says which samples validate"):
            spec.load(0, validation=Validation(0.5))
        return
    suite.test_folds_hold_rows_out_or_are_refused()
    sizes = [len(spec.load(0, validation=Validation(folds=2, fold=fold)).valid) for fold in (0, 1)]
    final = spec.load(0, validation=Validation(folds=2))
    if name != "nb360/ecg":  # whose records are cut into windows otherwise for training
        assert sum(sizes) == len(final.train)
        assert abs(sizes[0] - sizes[1]) <= (final.num_classes or 1)
    assert len(spec.load(0, validation=Validation(0.5)).valid) > len(spec.load(0).valid)
