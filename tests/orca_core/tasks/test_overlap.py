"""Samples that two parts of a task share are counted."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
from published import WRITERS

from orca_core.tasks import find_task
from orca_core.tasks.overlap import count_overlap, describe_overlap


def copy_part(root, first: str, second: str) -> None:
    for name in ("ninapro", "label"):
        shutil.copy(root / f"ninaPro/{name}_{first}.npy", root / f"ninaPro/{name}_{second}.npy")


def test_parts_that_share_nothing_say_nothing(data):
    for name in ("nb360/ninapro", "nb360/psicov", "nb360/cosmic", "nb360/fsd50k", "pdebench/rd"):
        assert describe_overlap(find_task(name).load(0)) == "", name


def test_a_validation_part_that_is_the_test_part_is_told(root):
    WRITERS["nb360/ninapro"](root)
    copy_part(root, "val", "test")
    data = find_task("nb360/ninapro").load(0)
    assert count_overlap(data) == {("valid", "test"): 18}
    assert describe_overlap(data) == "18 of the 18 test samples are also in validation. Scores on them say little about new samples."
    assert count_overlap(find_task("nb360/ninapro").load(0, reference=True)) == {("train", "test"): 18}  # it trains on both other parts


def test_a_protein_of_test_in_train_is_told_whatever_it_is_called(root):
    WRITERS["nb360/psicov"](root)
    protein = root / "protein"
    for kind, suffix in (("features", ".pkl"), ("distance", "-cb.npy")):
        shutil.copy(protein / f"psicov/{kind}/psicov1{suffix}", protein / f"deepcov/{kind}/other{suffix}")
    (protein / "deepcov.lst").write_text((protein / "deepcov.lst").read_text() + "other 30\n")
    counts = count_overlap(find_task("nb360/psicov").load(0))
    assert counts in ({("train", "test"): 1}, {("valid", "test"): 1})


def test_an_image_of_test_in_train_is_told_under_any_sky(root):
    WRITERS["nb360/cosmic"](root)
    image = "cosmic/npy_{}/f435w/1000/with_sky/1_j8x.npy"
    shutil.copy(root / image.format("test"), root / image.format("train"))
    data = find_task("nb360/cosmic").load(0)
    assert sum(count_overlap(data).values()) == 1
    assert not any(np.array_equal(x, y) for x in data.train.x for y in data.test.x)


def test_sounds_of_another_part_are_told(root):
    WRITERS["nb360/fsd50k"](root)
    (root / "chunks/eval.csv").write_text((root / "chunks/tr.csv").read_text())
    counts = count_overlap(find_task("nb360/fsd50k").load(0))
    assert counts == {("train", "test"): 4}  # one chunk of each clip trains


@pytest.mark.parametrize("shared", [1, 5])
def test_series_that_train_and_are_tested_are_counted(root, shared):
    rng = np.random.default_rng(0)
    folder = root / "ucr/Mine"
    folder.mkdir(parents=True)
    lines = ["\t".join(map(str, [i % 2, *rng.normal(size=8)])) for i in range(40)]
    (folder / "Mine_TRAIN.tsv").write_text("\n".join(lines[:30]))
    (folder / "Mine_TEST.tsv").write_text("\n".join(lines[30:] + lines[:shared]))
    assert sum(number for (_, part), number in count_overlap(find_task("ucr/Mine").load(0)).items() if part == "test") == shared
