"""What tasks ask of training besides their rows: forms of the reference, groups of samples, decoded scores, augmentation."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from orca_core.config.resolve import resolve_config
from orca_core.finetuning.loop import Finetuning
from orca_core.identity import trial_id, unread_knobs
from orca_core.scoring.groups import group_means
from orca_core.settings import Settings
from orca_core.stages import stages_of
from orca_core.tasks import find_task
from orca_core.tasks.nb360 import NB360_TASKS


@pytest.mark.parametrize("name", ["nb360/cosmic", "nb360/ninapro"])
def test_reference_data_makes_other_trials_and_other_stages(data, name):
    plain, reference = (resolve_config({"task": name, "align.epochs": 2, "reference_data": value}) for value in (False, True))
    assert trial_id(plain) != trial_id(reference)
    keys = [{stage.kind: stage.key for stage in stages_of(config)} for config in (plain, reference)]
    assert {kind for kind in keys[0] if keys[0][kind] != keys[1][kind]} == {"align", "finetune"}


def test_reference_data_is_not_read_where_a_task_has_no_such_form():
    plain, reference = (resolve_config({"task": "digits", "reference_data": value}) for value in (False, True))
    assert "reference_data" in unread_knobs(reference)
    assert trial_id(plain) == trial_id(reference)
    assert stages_of(plain) == stages_of(reference)
    assert all(spec.reference for spec in NB360_TASKS)


def test_outputs_of_a_group_are_averaged_and_its_first_target_stands_for_it():
    outputs = torch.tensor([[1.0, 0.0], [5.0, 2.0], [3.0, 4.0]])
    y = torch.tensor([[0.0, 1.0], [1.0, 1.0], [0.0, 1.0]])
    means, targets = group_means(outputs, y, np.array([7, 2, 7]))
    assert means.tolist() == [[5.0, 2.0], [2.0, 2.0]]
    assert targets.tolist() == [[1.0, 1.0], [0.0, 1.0]]


def tuning_of(quick, name: str, **knobs: object) -> Finetuning:
    from orca_core.bodies import find_body
    from orca_core.bodies.loading import random_body
    from orca_core.model.cross_modal import CrossModalModel

    config = quick(name, {"body.weights": "random", **knobs})
    loaded = find_task(name).load()
    model = CrossModalModel(
        Settings.of(config, "finetune"), random_body(find_body("mini-swin"), seed=0, dropout=0.0), loaded.input_shape, loaded.output_shape
    )
    tuning = Finetuning(Settings.of(config, "finetune"), model, loaded, torch.device("cpu"))
    tuning.start_phase(tuning.settings)
    return tuning


def test_scores_are_taken_of_decoded_values(data, quick):
    tuning = tuning_of(quick, "nb360/darcy")
    loaded = tuning.data
    scaled = torch.from_numpy(loaded.test.y)
    _, error = tuning._evaluate(torch.from_numpy(loaded.test.x), scaled, None)
    with torch.no_grad():
        outputs = tuning.model(torch.from_numpy(loaded.test.x))
    deviation, mean = (torch.from_numpy(values) for values in (loaded.decode.deviation, loaded.decode.mean))
    predicted, true = outputs * deviation + mean, scaled * deviation + mean
    expected = [(p - t).norm().item() / t.norm().item() for p, t in zip(predicted, true, strict=True)]
    assert error == pytest.approx(sum(expected) / len(expected), rel=1e-5)


def test_a_clip_is_scored_by_its_mean_logits(data, quick):
    from sklearn.metrics import average_precision_score

    tuning = tuning_of(quick, "nb360/fsd50k")
    test = tuning.data.test
    row = tuning.run_epoch(1)
    with torch.no_grad():
        logits = tuning.model(torch.from_numpy(test.x)).view(5, 2, 5).mean(1)
    truth = test.y[::2]
    expected = [average_precision_score(truth[:, label], logits[:, label]) for label in range(5)]
    assert row.test_error == pytest.approx(1 - np.mean(expected))


def test_a_predictor_that_trains_alone_sees_augmented_inputs(data, quick):
    tuning = tuning_of(quick, "nb360/cifar100", freezing="frozen-both")
    tuning.run_epoch(1)
    assert tuning.inputs[0] is tuning.train[0]  # rows, not features that were computed once
    unaugmented = tuning_of(quick, "nb360/spherical", freezing="frozen-both")
    unaugmented.run_epoch(1)
    assert unaugmented.passes.fixed is not None


def test_augmentation_is_drawn_anew_each_epoch_from_the_seed(data, quick):
    seen: list[torch.Tensor] = []

    def epoch(number: int, seed: int) -> torch.Tensor:
        tuning = tuning_of(quick, "nb360/cifar100", seed=seed)
        augment = tuning.data.augment
        object.__setattr__(tuning.data, "augment", lambda batch, draws: seen.append(augment(torch.ones_like(batch), draws)) or seen[-1])
        tuning.run_epoch(number)
        return seen[-1]

    assert torch.equal(epoch(1, 0), epoch(1, 0))
    assert not torch.equal(epoch(1, 0), epoch(2, 0))
    assert not torch.equal(epoch(1, 0), epoch(1, 1))
