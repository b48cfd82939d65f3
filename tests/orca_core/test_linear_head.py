"""Linear heads on features that are computed once: their steps, written out, have the bits of autograd and of torch's optimisers."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from orca_core import Store
from orca_core.finetuning.linear_head import LinearHead
from orca_core.finetuning.loop import Finetuning
from orca_core.finetuning.regularisers import smoothed
from orca_core.model.predictor import Classifier
from orca_core.pipeline import model_before_tuning
from orca_core.settings import Settings
from orca_core.training.optimizers import make_optimizer
from orca_core.trial_stages import load_data

SIZES = [(37, 5, 2, 1), (64, 64, 10, 32), (131, 96, 17, 20), (90, 33, 100, 7), (200, 384, 3, 128)]


def optimizer_of(name, head):
    # A parameter without a gradient, as those of an embedder and a body are.
    others = [torch.nn.Parameter(torch.ones(2))]
    return make_optimizer(name, [*others, *head.parameters()], lr=0.1, weight_decay=0.01, momentum=0.9, betas=(0.9, 0.98))


@pytest.mark.parametrize("name", ["adam", "adamw", "sgd"])
@pytest.mark.parametrize(("weighted", "smoothing", "clip"), [(False, 0.0, None), (False, 0.1, 1.0), (True, 0.0, 0.05), (True, 0.2, None)])
def test_a_written_out_step_has_the_bits_of_autograd_and_optimiser(name, weighted, smoothing, clip):
    for samples, width, classes, batch_size in SIZES:
        torch.manual_seed(samples)
        x, y = torch.randn(samples, width), torch.randint(classes, (samples,))
        weights = torch.rand(classes) + 0.1 if weighted else None
        heads = [Classifier(width, classes) for _ in range(2)]
        heads[1].load_state_dict(heads[0].state_dict())
        optimizers = [optimizer_of(name, head) for head in heads]
        written_out = LinearHead(heads[0], optimizers[0], weights=weights, smoothing=smoothing, clip=clip)
        for epoch in range(2):
            order = torch.randperm(samples)
            batches = order.split(batch_size)
            rates = [0.1 / (1 + number + epoch) for number in range(len(batches))]
            found = written_out.train(x, y, order, rates, batch_size)
            for rows, rate, (loss, count) in zip(batches, rates, found, strict=True):
                optimizers[1].zero_grad()
                outputs = heads[1](x[rows])
                expected = F.cross_entropy(outputs, y[rows], weight=weights)
                if smoothing:
                    expected = smoothed(expected, outputs, smoothing)
                expected.backward()
                if clip is not None:
                    torch.nn.utils.clip_grad_norm_(heads[1].parameters(), clip)
                optimizers[1].param_groups[0]["lr"] = rate
                optimizers[1].step()
                assert torch.equal(loss, expected.detach())
                assert count == len(rows)
        for one, other in zip(heads[0].parameters(), heads[1].parameters(), strict=True):
            assert torch.equal(one, other)
            for entry, value in optimizers[0].state[one].items():
                assert value is None or torch.equal(value, optimizers[1].state[other][entry])


@pytest.mark.parametrize(
    ("knobs", "is_written_out"),
    [
        ({"finetune.layer_decay": 0.5, "finetune.label_smoothing": 0.1, "finetune.schedule": "cosine"}, True),
        ({"predictor.head": "mlp"}, False),
        ({"finetune.accum": 2}, False),
        ({"precision": "bf16"}, False),
        ({"finetune.mixup.alpha": 0.4}, False),
    ],
)
def test_a_frozen_body_trains_the_same_head_either_way(quick, tmp_path, monkeypatch, knobs, is_written_out):
    small = {"body.weights": "random", "train_samples": 50, "finetune.batch_size": 16, "finetune.clip": 0.5, "finetune.decay_epochs": 4}
    config = quick("digits", small | {"freezing": "frozen-both", "finetune.epochs": 2} | knobs)
    settings = Settings.of(config, "finetune")
    calls, train = [], LinearHead.train
    monkeypatch.setattr(LinearHead, "train", lambda self, *args: (calls.append(1), train(self, *args))[1])
    states, rows = [], []
    for _ in range(2):
        tuning = Finetuning(settings, model_before_tuning(config, Store(tmp_path)), load_data(settings), torch.device("cpu"))
        tuning.start_phase(settings)
        rows.append([tuning.run_epoch(epoch) for epoch in (1, 2)])
        states.append(tuning.state())
        monkeypatch.setattr(LinearHead, "of", lambda *args: None)
    assert len(calls) == (2 if is_written_out else 0)
    assert rows[0] == rows[1]
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())
