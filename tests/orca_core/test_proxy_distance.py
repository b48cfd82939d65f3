"""How far a proxy is before any training: closed forms, what the numbers depend on and what not, and their way into a trial's columns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from orca_core.alignment.proxy_distance import MAX_SAMPLES, AtStart, measure_at_start, proxy_distances
from orca_core.bodies import find_body
from orca_core.bodies.loading import random_body
from orca_core.config.knobs import TrialConfig
from orca_core.errors import NotFiniteError
from orca_core.model.cross_modal import CrossModalModel
from orca_core.pipeline import measure_proxy, run_trial
from orca_core.rows import EpochRow, Row, StageRow
from orca_core.settings import Settings
from orca_core.store import Store
from orca_core.tasks import TaskData, find_task

CPU = torch.device("cpu")
COLUMNS = AtStart._fields


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def number_labels(samples: int, classes: int, width: int) -> tuple[Tensor, Tensor]:
    y = torch.arange(samples) % classes
    return normal(samples, width) + 2 * normal(classes, width, seed=1)[y], y


# Closed forms

CLASSES = pytest.mark.parametrize(
    ("samples", "classes", "width"), [(60, 3, 4), (60, 20, 32), (200, 100, 8)], ids=["few", "smaller than d", "100 of them"]
)


@CLASSES
def test_a_cloud_is_at_distance_0_from_itself(samples, classes, width):
    x, y = number_labels(samples, classes, width)
    assert proxy_distances(x, y, x, y) == pytest.approx((0, 0), abs=1e-6)


@CLASSES
def test_a_shift_by_v_is_half_v_squared_and_as_much_again_for_the_labels(samples, classes, width):
    # Features: |x - x' - v|^2 / 2 = |x - x'|^2 / 2 - <x - x', v> + |v|^2 / 2, where the middle vanishes in the mean over any plan, as both
    # sides have the same mean. Classes: W[y, y'] is the squared distance of their means plus that of their covariances, and the first
    # becomes |m - m' - v|^2: half of it gains |v|^2 / 2 in the same way.
    x, y = number_labels(samples, classes, width)
    v = normal(width, seed=2)
    v *= 6 / v.norm()
    assert proxy_distances(x, y, x + v, y) == pytest.approx((36, 18), rel=1e-6)


def test_two_pairs_of_clusters_worked_by_hand():
    # Clusters 3 and 4 apart, 100 from the other pair: half of the mean of 9 and 16. Each class moves as its cluster does.
    source = torch.tensor([[0.0, 0.0], [0.0, 0.0], [100.0, 0.0], [100.0, 0.0]])
    target = torch.tensor([[0.0, 3.0], [0.0, 3.0], [100.0, 4.0], [100.0, 4.0]])
    y = torch.tensor([0, 0, 1, 1])
    assert proxy_distances(source, y, target, y) == pytest.approx((6.25 + 6.25, 6.25), rel=1e-6)
    # All of the target as one class: mean (50, 3.5), and a variance of (4 x 50^2 + 4 x 0.5^2) / 3, which the source's classes lack.
    to_class = 50**2 + 3.5**2 + 4 * (50**2 + 0.5**2) / 3
    assert proxy_distances(source, y, target, torch.zeros(4).long()) == pytest.approx((6.25 + to_class / 2, 6.25), rel=1e-6)


def test_labels_count_in_the_one_distance_only():
    (x, y), target, target_y = number_labels(60, 3, 4), normal(40, 4, seed=3), torch.arange(40) % 4
    order = torch.randperm(60, generator=torch.Generator().manual_seed(0))
    before, after = proxy_distances(x, y, target, target_y), proxy_distances(x, y[order], target, target_y.flip(0) // 2)
    assert before.proxy_distance_unlabelled == after.proxy_distance_unlabelled
    assert abs(before.proxy_distance - after.proxy_distance) > 0.1


def test_a_class_of_one_sample_counts_without_labels_only():
    (x, y), target = number_labels(60, 3, 4), number_labels(40, 2, 4)
    alone = proxy_distances(torch.cat([x, x[:1] + 50]), torch.cat([y, torch.tensor([9])]), *target)
    without = proxy_distances(x, y, *target)
    assert alone.proxy_distance == without.proxy_distance
    assert alone.proxy_distance_unlabelled > without.proxy_distance_unlabelled + 1


def test_features_that_are_not_finite_are_refused():
    x, y = number_labels(6, 2, 3)
    with pytest.raises(NotFiniteError, match="target_x: every feature must be finite"):
        proxy_distances(x, y, x / 0, y)


# What they depend on


@pytest.fixture
def at_start(quick):
    """`at_start(source_x, source_y, ...)` are the distances of digits, as the embedder of a random mini-swin starts."""
    data = find_task("digits").load()
    body = random_body(find_body("mini-swin"), seed=0)
    config = quick("digits", {"body.weights": "random", "align.epochs": 1})
    embedder = CrossModalModel(Settings.of(config, "finetune"), body, data.input_shape, data.output_shape).embedder

    def distances(x: Tensor, y: Tensor, *, data: TaskData = data, seed: int = 0) -> AtStart:
        return measure_at_start(embedder, data, data.train.y, x, y, seed=seed, device=CPU)

    distances.embedder = embedder  # type: ignore[attr-defined]
    return distances


def test_at_most_so_many_samples_of_either_side_are_drawn_by_the_seed(at_start):
    (x, y), seen = number_labels(2 * MAX_SAMPLES, 4, 32), []
    hook = at_start.embedder.register_forward_pre_hook(lambda embedder, inputs: seen.append(inputs[0]))
    first = at_start(x, y)
    hook.remove()
    rows = torch.cat(seen).flatten(1)
    assert len(rows) == MAX_SAMPLES == len(rows.unique(dim=0))
    assert at_start(x, y) == first != at_start(x, y, seed=1)
    # Half of the source is not looked at: what stands there is of no account.
    moved = [at_start(torch.where(torch.arange(len(x))[:, None] == row, x + 100, x), y) != first for row in range(8)]
    assert set(moved) == {True, False}


def test_other_labels_of_the_source_leave_the_label_free_distance_as_it_is(at_start):
    x, y = number_labels(2 * MAX_SAMPLES, 4, 32)
    before, after = at_start(x, y), at_start(x, y.flip(0) // 2)
    assert before.proxy_distance_unlabelled == after.proxy_distance_unlabelled
    assert before.proxy_distance != after.proxy_distance


def test_every_class_of_the_target_takes_part_also_one_of_a_single_sample(at_start):
    data = find_task("digits").load()
    alone, seen = data.train.x[0], []
    labels = np.r_[1, np.zeros(len(data.train) - 1, np.int64)]
    at_start.embedder.register_forward_pre_hook(
        lambda embedder, inputs: seen.extend(np.array_equal(row, alone) for row in inputs[0].numpy())
    )
    for seed in range(8):
        measure_at_start(at_start.embedder, data, labels, *number_labels(10, 2, 32), seed=seed, device=CPU)
    assert sum(seen) == 8


def test_validation_and_test_data_are_never_seen(at_start):
    x, y = number_labels(100, 4, 32)
    data = find_task("digits").load()
    blind = replace(data, valid=replace(data.valid, x=data.valid.x * np.nan), test=replace(data.test, x=data.test.x * np.nan))
    assert at_start(x, y, data=blind) == at_start(x, y)


def test_the_embedder_stays_as_it_is(at_start):
    before = {name: tensor.clone() for name, tensor in at_start.embedder.state_dict().items()}
    at_start(*number_labels(50, 2, 32))
    assert all(torch.equal(before[name], tensor) for name, tensor in at_start.embedder.state_dict().items())
    assert all(parameter.grad is None for parameter in at_start.embedder.parameters())


# Columns of a trial

SMALL = {"body.weights": "random", "train_samples": 60, "align.epochs": 2, "align.proxy_samples": 120}


def run(config: TrialConfig, store: Store) -> list[Row]:
    rows: list[Row] = []
    run_trial(config, store, rows.append)
    return rows


def found_in(rows: Sequence[Row]) -> AtStart:
    """The distances of a trial: those of its first epoch of alignment."""
    (first,) = (row for row in rows if isinstance(row, EpochRow) and row.stage == "align" and row.epoch == 1)
    return AtStart(*(getattr(first, name) for name in COLUMNS))


def test_the_first_epoch_of_alignment_has_them_and_no_other(quick, store):
    rows = run(quick("digits", SMALL), store)
    aligned = [row for row in rows if isinstance(row, EpochRow) and row.stage == "align"]
    assert [set(COLUMNS) <= row.cells().keys() for row in aligned] == [True, False]
    assert not any(set(COLUMNS) & row.cells().keys() for row in rows if row is not aligned[0])
    found = found_in(rows)
    assert min(found.proxy_distance, found.proxy_distance_unlabelled) > 0
    assert 0 < found.proxy_h_score < 5
    assert 0 < found.target_h_score < 9


def test_a_trial_without_alignment_has_none(quick, store):
    rows = run(quick("digits", SMALL | {"align.epochs": 0}), store)
    assert not any(set(COLUMNS) & row.cells().keys() for row in rows)


def test_arms_that_align_otherwise_have_the_same_bits(quick, tmp_path):
    def told(number: int, knobs: dict) -> AtStart:
        return found_in(run(quick("digits", {**SMALL, "align.epochs": 1, **knobs}), Store(tmp_path / str(number))))

    first = told(0, {})
    same = [
        {"align.objective": "otdd-gaussian"},
        {"align.objective": "mmd"},
        {"align.objective": "l2", "align.epochs": 2},
        {"align.entropic_reg": 5.0, "align.solver": "annealed"},
        {"align.class_samples": 3, "align.class_sampling": "batches"},
        {"align.lr": 0.5, "align.optimizer": "sgd", "freezing": "frozen-body"},
    ]
    assert [told(number, knobs) for number, knobs in enumerate(same, 1)] == [first] * len(same)
    for number, knobs in enumerate(({"proxy": "fractals"}, {"seed": 1}, {"train_samples": 50}, {"split_seed": 1}), len(same) + 1):
        assert told(number, knobs) != first, knobs


def test_shuffled_labels_change_the_one_and_leave_the_other(quick, store):
    plain, shuffled = (found_in(run(quick("digits", SMALL | {"proxy": proxy}), store)) for proxy in ("photos", "photos+shuffled"))
    assert plain.proxy_distance_unlabelled == shuffled.proxy_distance_unlabelled
    assert plain.proxy_distance != shuffled.proxy_distance


def test_resumed_and_reused_trials_have_the_same_bits(quick, rows_of_cut_runs):
    whole, cut = rows_of_cut_runs(quick("openml/187", SMALL | {"align.objective": "mmd"}), range(0, 4))
    assert set(COLUMNS) <= whole[0][0].cells().keys()
    assert all(again == whole for again in cut)


def test_arms_that_share_a_stored_alignment_share_them(quick, store):
    first, other = (run(quick("openml/187", SMALL | {"freezing": freezing}), store) for freezing in ("full", "frozen-body"))
    assert [row.seconds for row in other if isinstance(row, StageRow) and row.stage == "align"] == [0]
    assert found_in(first) == found_in(other)


@pytest.mark.parametrize(
    ("task", "knobs"),
    [
        ("digits", SMALL | {"body.weights": "pretrained"}),
        ("openml/187", SMALL | {"proxy": "pydoc+k:40"}),
        ("burgers-mini", SMALL | {"seed": 3}),
        ("darcy-mini", SMALL | {"proxy": "noise", "embedder.init": "random"}),
    ],
)
def test_without_the_alignment_they_are_the_same_to_the_bit(quick, warm_store, tmp_path, task, knobs):
    config = quick(task, knobs)
    steps = measure_proxy(config, Store(tmp_path / "asked"))
    told = set()
    while True:
        try:
            told.add(next(steps).stage)
        except StopIteration as stop:
            found: AtStart = stop.value
            break
    assert told <= {"pretrain", "source"}
    assert found == found_in(run(config, warm_store))
