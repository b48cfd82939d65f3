"""A step of fine-tuning on tensors that say they are on a GPU and have no values: whatever is left on the CPU raises an error.

Torch cannot run the backward pass of such tensors where it has no GPU, so gradients are made up.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest
import torch
from torch._subclasses import FakeTensorMode
from trials import small, tiny_bodies

from orca_core.alignment.loop import Alignment
from orca_core.bodies.loading import random_body
from orca_core.config.knobs import TrialConfig
from orca_core.finetuning.loop import Finetuning
from orca_core.keeping import shapes_of
from orca_core.memory import on_device, resident
from orca_core.model.cross_modal import CrossModalModel
from orca_core.seeding import generator, seeded
from orca_core.settings import Settings
from orca_core.tasks import TaskData
from orca_core.trial_stages import load_data

GPU = torch.device("cuda")
MUCH = 10**9
BERT = {"body": "hf:tiny/bert", "body__weights": "random"}
ALL_TERMS = {"finetune__l2_sp": 0.5, "finetune__distill": 0.5, "finetune__smooth__kind": "r3f", "finetune__mixup__alpha": 0.4}


@pytest.fixture(scope="module", autouse=True)
def folder(tmp_path_factory) -> Iterator[None]:
    with tiny_bodies(tmp_path_factory.mktemp("pretend")):
        yield


@pytest.fixture
def pretend(monkeypatch) -> Iterator[Callable[..., None]]:
    """`pretend(n)`: from now on tensors can be moved to a GPU with n bytes free; `pretend(n, share)`: of which the process has a share."""
    with ExitStack() as stack:

        def start(free: int, share: float = 1.0) -> None:
            monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device=None: (free, MUCH))
            monkeypatch.setattr(torch.cuda, "get_per_process_memory_fraction", lambda device=None: share)
            monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device=None: 0)
            stack.enter_context(FakeTensorMode(allow_non_fake_inputs=True))

        yield start


def made(config: TrialConfig) -> tuple[Settings, CrossModalModel, TaskData]:
    settings = Settings.of(config, "finetune")
    data = load_data(settings)
    return settings, CrossModalModel(settings, random_body(settings.body, seed=0), *shapes_of(data)), data


@pytest.mark.parametrize(
    ("knobs", "free"),
    [
        ({"finetune__clip": 1.0}, MUCH),
        (ALL_TERMS, MUCH),
        ({}, 100),
        ({"freezing": "frozen-both"}, 100),
        ({"freezing": [{"train": ["predictor", "top-layers:1"]}], "finetune__prefix": "once"}, 100),
        ({"adapter": "side", "freezing": "frozen-embedder"}, 100),
    ],
    ids=["full", "terms", "little memory", "pooled features", "kept prefix", "ladder"],
)
def test_nothing_of_a_step_is_left_on_the_cpu(pretend, knobs, free):
    config = small("npz:tiny/series.npz", **BERT, **knobs)
    stored, parts = Finetuning(*made(config), torch.device("cpu")), made(config)
    stored.start_phase(stored.settings)
    stored.run_epoch(1)
    state = stored.state()
    pretend(free)
    tuning = Finetuning(*parts, GPU)
    tuning.start_phase(tuning.settings)
    tuning.load_state(state)
    x, valid, _ = tuning.prepare()
    assert x.device.type == ("cuda" if free == MUCH else "cpu")
    assert tuning._linear_head() is None  # which is for a CPU
    tuning.model.train_mode()
    for term in tuning.active:
        term.start_epoch(2)
    losses = tuning._losses(torch.arange(8), x, generator(0, "augment", 2), 1.0, penalised=True)
    values = [losses.task, *losses.penalties.values(), *losses.columns.values()]
    assert {value.device.type for value in values if isinstance(value, torch.Tensor)} == {"cuda"}
    parameters = [parameter for parameter in tuning.model.parameters() if parameter.requires_grad]
    for parameter in parameters:
        parameter.grad = torch.zeros_like(parameter)
    tuning.accumulation.step(1, tuning.optimizer, parameters)
    tuning.model.eval()
    assert tuning.passes.inferred(on_device(valid[:4], GPU)).device.type == "cuda"


@pytest.mark.parametrize(("free", "share"), [(4000, 1.0), (MUCH, 4000 / MUCH)], ids=["others hold the rest", "held to a share"])
def test_splits_are_on_the_device_as_far_as_they_fit_there_together(pretend, free, share):
    some, many, few = torch.zeros(100), torch.zeros(200), torch.zeros(50)
    pretend(free, share)  # 4000 bytes, of which a quarter is for data
    found = resident([some, some, many, few], GPU)
    assert [one.device.type for one in found] == ["cuda", "cuda", "cpu", "cuda"]
    assert found[0] is found[1]


def test_alignment_leaves_a_large_training_set_on_the_cpu(pretend):
    config = small("npz:tiny/series.npz", align__epochs=1, align__objective="dispersion", **BERT)  # which needs no proxy
    settings = Settings.of(config, "align")
    data = load_data(settings)
    model = CrossModalModel(settings, random_body(settings.body, seed=0), *shapes_of(data), with_adapter=False)
    pretend(100)
    alignment = Alignment(settings, model.embedder, None, None, data, GPU)
    assert alignment.x.device.type == "cpu"
    batch = next(alignment._batches(generator(0, "align-samples", 1)))
    assert (batch.inputs.device.type, batch.rows.device.type) == ("cuda", "cuda")


def test_draws_start_no_gpu_that_is_not_in_use(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 8)
    with seeded(0, "dropout", 1):
        drawn = torch.rand(2)
    with seeded(0, "dropout", 1):
        assert torch.equal(torch.rand(2), drawn)
