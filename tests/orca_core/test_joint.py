"""The joint form: the distance to the proxy is minimised in fine-tuning, beside the task's loss."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from orca_core.alignment.joint import BatchDistance
from orca_core.alignment.loop import Alignment
from orca_core.alignment.source import source_features
from orca_core.bodies import find_body
from orca_core.bodies.loading import random_body
from orca_core.finetuning.loop import Finetuning
from orca_core.identity import canonical_knobs, trial_id, unread_knobs
from orca_core.model.cross_modal import CrossModalModel
from orca_core.pipeline import run_trial
from orca_core.proxies import find_proxy
from orca_core.rows import EpochRow, Row
from orca_core.settings import Settings
from orca_core.stages import stages_of
from orca_core.store import Store
from orca_core.tasks import find_task

CPU = torch.device("cpu")
ONE_STEP = {  # of plain gradient descent, on the whole training set
    "body.weights": "random",
    "proxy": "noise",
    "align.proxy_samples": 60,
    "align.optimizer": "sgd",
    "align.lr": 0.1,
    "align.momentum": 0.0,
    "finetune.optimizer": "sgd",
    "finetune.lr": 0.1,
    "finetune.momentum": 0.0,
    "finetune.batch_size": 10_000,
    "finetune.weight_decay": 0.0,
    "finetune.clip": None,
}


def one_step(quick, task: str, knobs: dict[str, Any], align: bool = False) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The row of one epoch, and by how much each parameter of the embedder moved in it."""
    config = quick(task, {**ONE_STEP, **knobs})
    data = find_task(task).load()
    loaded = random_body(find_body(config.body.name), seed=0)
    model = CrossModalModel(Settings.of(config, "finetune"), loaded, data.input_shape, data.output_shape)
    source = source_features(find_proxy(config.proxy), loaded, samples=config.align.proxy_samples, seed=0, device=CPU)
    before = {name: parameter.detach().clone() for name, parameter in model.embedder.named_parameters()}
    if align:
        row = Alignment(Settings.of(config, "align"), model.embedder, *source, data, CPU).run_epoch(1)
    else:
        tuning = Finetuning(
            Settings.of(config, "finetune"), model, data, CPU, distance=BatchDistance(Settings.of(config, "finetune"), *source, data, CPU)
        )
        tuning.start_phase(tuning.settings)
        row = tuning.run_epoch(1)
    return row, {name: parameter.detach() - before[name] for name, parameter in model.embedder.named_parameters()}


@pytest.mark.parametrize(
    ("task", "objective"),
    [("openml/187", "otdd-exact"), ("openml/187", "otdd-gaussian"), ("openml/187", "l2"), ("burgers-mini", "otdd-exact")],
)
def test_the_step_is_that_of_the_task_and_a_share_of_that_of_alignment(quick, task, objective):
    knobs = {"align.objective": objective, "align.class_samples": 10_000, "align.l2_batches": "full"}
    aligned, by_alignment = one_step(quick, task, {**knobs, "align.epochs": 1}, align=True)
    plain, by_task = one_step(quick, task, {**knobs, "align.weight": 1e-30})
    joint, by_both = one_step(quick, task, {**knobs, "align.weight": 0.5})
    if objective != "l2":  # which draws its batches
        assert joint.distance == pytest.approx(aligned.distance, rel=1e-5)
        for name, moved in by_both.items():
            torch.testing.assert_close(moved, by_task[name] + 0.5 * by_alignment[name], rtol=1e-3, atol=1e-6)
    assert any(not torch.equal(moved, by_task[name]) for name, moved in by_both.items())
    assert joint.train_loss == plain.train_loss, "the loss of the task alone, before the step"


def test_phases_that_freeze_the_embedder_leave_the_distance_out(quick, tmp_path):
    knobs = {**ONE_STEP, "freezing": "frozen-embedder:1", "finetune.epochs": 2, "finetune.batch_size": 64, "align.weight": 0.5}
    rows: list[Row] = []
    run_trial(quick("openml/187", knobs), Store(tmp_path), rows.append)
    assert [row.distance is not None for row in rows if isinstance(row, EpochRow)] == [False, True]


def test_minimising_the_distance_brings_it_down(quick, tmp_path):
    knobs = {**ONE_STEP, "align.weight": 10.0, "finetune.lr": 0.01, "finetune.batch_size": 64, "finetune.epochs": 4}
    rows: list[Row] = []
    run_trial(quick("openml/187", knobs), Store(tmp_path), rows.append)
    distances = [row.distance for row in rows if isinstance(row, EpochRow)]
    assert distances[-1] < distances[0]


@pytest.mark.parametrize("objective", ["otdd-gaussian", "mmd"])
def test_a_cut_run_goes_on_bit_for_bit(quick, rows_of_cut_runs, objective):
    knobs = {**ONE_STEP, "align.objective": objective, "finetune.batch_size": 32, "finetune.epochs": 3, "align.weight": 0.3}
    whole, again = rows_of_cut_runs(quick("openml/187", knobs), range(1, 3))
    assert all(run == whole for run in again)


def test_it_goes_with_mixout_and_checkpointing(quick, tmp_path):
    results = {}
    for name, more in {"plain": {}, "checkpointing": {"finetune.checkpointing": True}, "mixout": {"finetune.mixout": 0.5}}.items():
        knobs = {**ONE_STEP, "body.weights": "pretrained", "finetune.batch_size": 64, "align.weight": 0.3, **more}
        results[name] = run_trial(quick("openml/187", knobs), Store(tmp_path / name), lambda row: None)
    assert results["plain"].valid_loss == results["checkpointing"].valid_loss != results["mixout"].valid_loss


def test_what_is_read_depends_on_the_weight_and_on_whether_the_embedder_trains(quick):
    joint = {"align.weight": 0.5}
    assert trial_id(quick("digits", {"proxy": "noise"})) == trial_id(quick("digits"))
    assert trial_id(quick("digits", {**joint, "proxy": "noise"})) != trial_id(quick("digits", joint)) != trial_id(quick("digits"))
    frozen = {"freezing": "frozen-both"}
    assert trial_id(quick("digits", {**joint, **frozen})) == trial_id(quick("digits", frozen))
    assert canonical_knobs(quick("digits", {**joint, **frozen}))["align.weight"] == 0
    unread = unread_knobs(quick("digits", joint))
    assert {"align.lr", "align.class_samples", "align.lr_steps"} <= unread
    assert not {"align.objective", "align.proxy_samples", "proxy", "align.weight"} & unread


def test_alignment_is_shared_by_all_weights_and_fine_tuning_is_not(quick):
    def keys(weight: float, **more: Any) -> dict[str, str]:
        return {stage.kind: stage.key for stage in stages_of(quick("digits", {"align.weight": weight, "align.epochs": 2, **more}))}

    none, some, more = keys(0.0), keys(0.5), keys(1.0)
    assert {none[kind] == some[kind] == more[kind] for kind in ("pretrain", "source", "align")} == {True}
    assert len({none["finetune"], some["finetune"], more["finetune"]}) == 3
    only = keys(0.5, **{"align.epochs": 0})
    assert list(only) == ["pretrain", "source", "finetune"]
    assert only["finetune"] != keys(0.5, **{"align.epochs": 0, "proxy": "noise"})["finetune"]
