"""The sizes of a task's parts, and the error of a model that has learned nothing."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from orca_core.scoring import SCORES
from orca_core.tasks import Split, TaskData, TaskSpec, find_task
from orca_core.tasks import sizes as sizes_module
from orca_core.tasks.sizes import PartSizes, constant_error, find_sizes, keep_sizes, part_sizes

CLASSES = np.array([0, 0, 0, 1, 1, 2])


def constant_outputs(score: str, train: np.ndarray, rows: int) -> torch.Tensor:
    """The same output for every sample: logits of the classes' or labels' shares, or the mean."""
    if train.ndim == 1:
        return torch.from_numpy(np.log(np.bincount(train) / len(train))).expand(rows, -1)
    mean = torch.from_numpy(train.mean(0))
    return (torch.logit(mean) if score != "1-r2" else mean).expand(rows, -1)


@pytest.mark.parametrize(
    ("score", "train", "y"),
    [
        ("1-accuracy", CLASSES, np.array([0, 1, 2, 0])),
        ("1-macro-f1", CLASSES, np.array([0, 1, 1, 0, 0])),
        ("1-macro-f1", CLASSES, np.array([1, 2])),  # the most frequent class of train is not among them
        ("1-auroc", CLASSES, np.array([0, 1, 1, 0])),
        ("1-mean-auroc", np.array([[1.0, 0], [0, 1], [0, 0]]), np.array([[1.0, 0], [0, 0], [0, 0]])),
        ("1-macro-map", np.array([[1.0, 0], [0, 1], [0, 0]]), np.array([[1.0, 0], [0, 0], [1, 0], [0, 0]])),
        ("1-r2", np.array([[1.0, 2], [3, 0]]), np.array([[0.0, 1], [4, 2], [2, 0]])),
    ],
)
def test_the_error_of_a_constant_answer_is_what_the_score_gives_it(score, train, y):
    expected = SCORES[score](constant_outputs(score, train, len(y)).double(), torch.from_numpy(y))
    assert constant_error(score, train, y) == pytest.approx(expected, abs=1e-6)


def test_it_is_unknown_where_the_score_is_not_defined():
    assert constant_error("1-auroc", CLASSES, np.array([1, 1])) is None
    assert constant_error("1-r2", np.ones((2, 1)), np.ones((3, 1))) is None
    assert constant_error("nrmse", np.ones((2, 1, 4)), np.ones((3, 1, 4))) is None


def test_sizes_by_hand():
    def part(*labels: int) -> Split:
        return Split(np.zeros((len(labels), 1, 4), "float32"), np.array(labels))

    data = TaskData(part(0, 0, 1), part(1), part(0, 1, 1, 1), num_classes=2)
    assert part_sizes(find_task("mnist1d"), data) == PartSizes(3, 1, 4, 2, 1.0, 0.75)


def test_a_group_counts_once():
    one = Split(np.zeros((4, 1, 4), "float32"), np.array([0, 0, 1, 1]), group=np.array([5, 5, 7, 7]))
    sizes = part_sizes(find_task("mnist1d"), TaskData(one, one, one, num_classes=2))
    assert (sizes.train, sizes.valid, sizes.test, sizes.majority_error) == (2, 2, 2, 0.5)


def write(path, rows: int) -> TaskSpec:
    np.savez(path, x=np.zeros((rows, 4), "float32"), y=np.arange(rows) % 2)
    return find_task(f"npz:{path}")


def test_sizes_are_kept_by_content(tmp_path, use_data, monkeypatch):
    use_data(tmp_path, tmp_path / "cache")
    spec = write(tmp_path / "a.npz", 20)
    expected = PartSizes(14, 2, 4, 2, 0.5, 0.5)
    assert find_sizes(spec) == expected
    monkeypatch.setattr(sizes_module, "part_sizes", lambda *_: pytest.fail("the data is read again"))
    assert find_sizes(spec) == expected
    monkeypatch.undo()
    assert find_sizes(write(tmp_path / "a.npz", 40)).train == 28


def test_large_files_are_not_read_for_their_sizes(tmp_path, use_data, monkeypatch):
    use_data(tmp_path, tmp_path / "cache")
    monkeypatch.setattr(sizes_module, "READ_UP_TO_BYTES", 0)
    spec = write(tmp_path / "a.npz", 20)
    assert find_sizes(spec) is None
    kept = keep_sizes(spec, spec.load())  # what a trial does
    assert find_sizes(spec) == kept


def test_sizes_of_missing_data_are_unknown(tmp_path, use_data):
    use_data(tmp_path / "nothing")
    assert find_sizes(find_task("ucr/Absent")) is None
