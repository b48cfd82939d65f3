"""Stage 2: one step an epoch over all classes, class shares as weights, and pseudo-labels where there are no classes."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from orca_core.alignment.loop import Alignment, class_labels
from orca_core.alignment.source import source_features
from orca_core.bodies import find_body
from orca_core.bodies.loading import random_body
from orca_core.distances import DISTANCES
from orca_core.model.cross_modal import CrossModalModel
from orca_core.proxies import find_proxy
from orca_core.settings import Settings
from orca_core.tasks import Split, TaskData, find_task

CPU = torch.device("cpu")
both_bodies = pytest.mark.parametrize("task", ["digits", "openml/187"])


@pytest.fixture
def align(quick) -> Callable[..., Alignment]:
    """`align(task, knobs)` is an alignment of the task's embedder for a random mini body."""

    def make(task: str, knobs: dict, data: TaskData | None = None) -> Alignment:
        knobs = {"body.weights": "random", "align.epochs": 10, "align.class_samples": 16, "align.proxy_samples": 100, **knobs}
        config = quick(task, knobs)
        data = data or find_task(task).load()
        loaded = random_body(find_body(config.body.name), seed=0)
        features = source_features(find_proxy(config.proxy), loaded, samples=config.align.proxy_samples, seed=0, device=CPU)
        model = CrossModalModel(Settings.of(config, "finetune"), loaded, data.input_shape, data.output_shape)
        return Alignment(Settings.of(config, "align"), model.embedder, *features, data, CPU)

    return make


@pytest.mark.parametrize("objective", DISTANCES)
@both_bodies
def test_the_distance_falls_over_ten_epochs(align, task, objective):
    alignment = align(task, {"align.objective": objective})
    distances = [alignment.run_epoch(epoch).distance for epoch in range(1, 11)]
    assert distances[-1] < 0.98 * distances[0]


def test_an_epoch_is_one_step_over_all_classes(align):
    alignment, steps = align("digits", {}), []
    alignment.optimizer.register_step_pre_hook(lambda *_: steps.append(1))
    for epoch in (1, 2, 3):
        alignment.run_epoch(epoch)
    assert len(alignment.classes) == 10
    assert len(steps) == 3


def test_the_loss_is_the_sum_of_class_share_times_distance(align):
    x = np.random.Generator(np.random.PCG64(0)).normal(size=(8, 13, 1)).astype(np.float32)
    y = np.array([0, 0, 0, 0, 0, 0, 1, 1])
    alignment = align("openml/187", {}, TaskData(Split(x, y), Split(x, y), Split(x, y), 3))
    means, seen = [5.0, 9.0], []

    def distance(features, draws):
        seen.append(len(features))
        return features.sum() * 0 + means[len(seen) - 1], None

    alignment.objective.distance = distance
    assert alignment.run_epoch(1).distance == pytest.approx(6 / 8 * 5 + 2 / 8 * 9)
    assert seen == [6, 2]


def test_every_epoch_draws_its_own_samples_of_a_class(align):
    alignment, seen = align("digits", {"align.class_samples": 4, "align.lr": 1e-12}), []
    alignment.embedder.register_forward_pre_hook(lambda embedder, inputs: seen.append(inputs[0]))
    for epoch in (2, 3):  # the first also looks at the start
        alignment.run_epoch(epoch)
    assert [len(samples) for samples in seen] == [4] * 20
    assert not torch.equal(torch.cat(seen[:10]), torch.cat(seen[10:]))


def test_class_shares_count_the_whole_training_set_and_not_the_sample(align):
    few = align("digits", {"align.class_samples": 4})
    few.objective.distance = lambda features, draws: (features.sum() * 0 + len(features), None)
    assert few.run_epoch(1).distance == pytest.approx(4.0)


def test_the_rate_falls_after_the_epochs_named(align):
    alignment = align("openml/187", {"align.lr": 1.0, "align.lr_steps": [1, 2], "align.optimizer": "sgd", "align.objective": "mmd"})
    assert [alignment.run_epoch(epoch).lr for epoch in (1, 2, 3)] == pytest.approx([1.0, 0.2, 0.04])


def test_every_parameter_of_the_embedder_trains_and_nothing_else(align):
    alignment = align("digits", {"align.objective": "mmd"})
    before = {name: tensor.clone() for name, tensor in alignment.embedder.state_dict().items()}
    alignment.run_epoch(1)
    # The distance sees means over tokens, so LayerNorm's bias gets a gradient too.
    assert [name for name, tensor in alignment.embedder.state_dict().items() if torch.equal(tensor, before[name])] == []
    in_optimizer = {parameter for group in alignment.optimizer.param_groups for parameter in group["params"]}
    assert in_optimizer == set(alignment.embedder.parameters())


@pytest.mark.parametrize("objective", DISTANCES)
def test_a_class_of_one_sample_is_aligned_too(align, objective):
    data = find_task("openml/187").load()
    keep = np.concatenate([np.flatnonzero(data.train.y == 0)[:9], np.flatnonzero(data.train.y == 1)[:1]])
    data = TaskData(Split(data.train.x[keep], data.train.y[keep]), data.valid, data.test, 3)
    alignment = align("openml/187", {"align.objective": objective}, data)
    assert all(np.isfinite(alignment.run_epoch(epoch).distance) for epoch in (1, 2))


@pytest.mark.parametrize("proxy", ["photos", "fractals", "noise"])
def test_the_proxy_decides_where_the_embedder_goes(align, proxy):
    other = "noise" if proxy != "noise" else "photos"
    ends = []
    for name in (proxy, other):
        alignment = align("digits", {"proxy": name})
        alignment.run_epoch(1)
        ends.append(alignment.embedder.projection.weight.detach())
    assert not torch.equal(*ends)


@pytest.mark.parametrize(("objective", "same"), [("otdd-exact", False), ("otdd-gaussian", False), ("mmd", True)])
def test_the_label_gradient_steers_transport_only(align, objective, same):
    ends = []
    for mode in ("true", "none"):
        alignment = align("openml/187", {"align.objective": objective, "align.label_gradient": mode, "align.optimizer": "sgd"})
        alignment.run_epoch(1)
        ends.append(alignment.embedder.projection.weight.detach())
    assert torch.equal(*ends) == same


# Labels


def test_labels_of_a_classification_are_its_classes(quick):
    data = find_task("digits").load()
    assert class_labels(data, 0, 1) is data.train.y


def test_dense_targets_get_pseudo_labels_that_the_seed_decides(quick):
    data = find_task("burgers-mini").load()
    first, again = (class_labels(data, 0, 1) for _ in range(2))
    assert first.dtype == np.int64
    assert np.unique(first).tolist() == list(range(10))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, class_labels(data, 1, 1))


def test_pseudo_labels_are_clusters_of_the_targets(quick):
    groups = np.arange(40) % 10
    y = (100.0 * groups[:, None, None] + np.random.Generator(np.random.PCG64(0)).normal(size=(40, 1, 6))).astype(np.float32)
    part = Split(y, y)
    labels = class_labels(TaskData(part, part, part, None), 0, 1)
    assert len(set(zip(labels.tolist(), groups.tolist(), strict=True))) == 10


def test_fewer_targets_than_pseudo_labels_are_one_cluster_each(quick):
    y = np.arange(18, dtype=np.float32).reshape(3, 1, 6)
    part = Split(y, y)
    assert sorted(class_labels(TaskData(part, part, part, None), 0, 1)) == [0, 1, 2]
