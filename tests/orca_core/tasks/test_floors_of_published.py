"""Floors of the published tasks, on small files in their formats: every kind of target, score, group and unit has a number."""

from __future__ import annotations

import math

import pytest
from published import WRITERS

from orca_core.floors.compute import compute_floors
from orca_core.floors.rows import MODELS, FloorCase
from orca_core.tasks import TASKS, find_task
from orca_core.tasks.sizes import find_sizes

NAMES = sorted(name for name in TASKS if name in WRITERS)


@pytest.mark.usefixtures("data")
@pytest.mark.parametrize("name", NAMES)
def test_every_floor_of_a_published_task_is_a_number_or_says_why_not(name):
    spec, rows = find_task(name), {row.model: row for row in compute_floors(FloorCase(name))}
    assert list(rows) == list(MODELS[spec.kind])
    failed = {row.model: row.cause for row in rows.values() if row.status == "FAIL"}
    assert not failed
    for row in rows.values():
        assert (row.test_error is not None and math.isfinite(row.test_error)) == (row.status == "COMPLETE"), row
    sizes = find_sizes(spec)
    if sizes is not None and sizes.majority_error is not None:
        constant = rows[MODELS[spec.kind][0]]
        assert [constant.valid_error, constant.test_error] == pytest.approx([sizes.valid_majority_error, sizes.majority_error], rel=1e-5)
