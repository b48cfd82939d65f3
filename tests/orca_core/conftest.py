"""What the tests of the core share."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from orca_core.bodies import find_body
from orca_core.bodies.loading import random_body
from orca_core.finetuning.loop import Finetuning
from orca_core.model.cross_modal import CrossModalModel
from orca_core.settings import Settings
from orca_core.tasks import Split, TaskData, find_task


@pytest.fixture
def tune(quick) -> Callable[..., Finetuning]:
    """`tune(knobs)` is a fine-tuning of a random mini-roberta on the first 8 wines."""

    def make(knobs: dict) -> Finetuning:
        config = quick("openml/187", {"body.weights": "random", "finetune.batch_size": 4, **knobs})
        data = find_task("openml/187").load()
        data = TaskData(Split(data.train.x[:8], data.train.y[:8]), data.valid, data.test, data.num_classes)
        body = random_body(find_body("mini-roberta"), seed=0, dropout=config.finetune.dropout)
        model = CrossModalModel(Settings.of(config, "finetune"), body, data.input_shape, data.output_shape)
        tuning = Finetuning(Settings.of(config, "finetune"), model, data, torch.device("cpu"))
        tuning.start_phase(tuning.settings)
        tuning.config = config
        return tuning

    return make
