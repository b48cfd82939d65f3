"""Pools and heads of the predictor: by hand, with frozen features, kept and loaded again."""

from __future__ import annotations

import math

import pytest
import torch
from sklearn.metrics import accuracy_score

from orca_core.export import export_model, load_model
from orca_core.finetuning import fixed_features
from orca_core.model.predictor import AttentionPool, Classifier
from orca_core.pipeline import run_trial
from orca_core.rows import EpochRow, Row
from orca_core.store import Store

TOKENS = torch.tensor([[[1.0, 4.0], [3.0, 0.0]]])


def test_attention_weighs_tokens_by_hand():
    pool = AttentionPool(2)
    torch.testing.assert_close(pool(TOKENS), TOKENS.mean(1))  # as it starts
    with torch.no_grad():
        pool.hidden.weight.zero_()[0, 0] = 1.0  # the first hidden unit is tanh of the first entry: tanh 1 and tanh 3
        pool.weight.weight[0, 0] = 2.0
    odds = math.exp(2 * (math.tanh(3.0) - math.tanh(1.0)))
    weights = torch.tensor([1 / (1 + odds), odds / (1 + odds)])
    torch.testing.assert_close(pool(TOKENS)[0], weights @ TOKENS[0])


def test_maximum_and_head_by_hand():
    torch.manual_seed(0)
    predictor = Classifier(2, 3, "max", "mlp")
    torch.testing.assert_close(predictor.pool(TOKENS), torch.tensor([[3.0, 4.0]]))
    hidden = torch.tensor([[3.0, 4.0]]) @ predictor.hidden[0].weight.T + predictor.hidden[0].bias
    gelu = hidden * 0.5 * (1 + torch.erf(hidden / math.sqrt(2)))
    torch.testing.assert_close(predictor(predictor.pool(TOKENS)), gelu @ predictor.linear.weight.T + predictor.linear.bias)


def test_arms_of_a_seed_share_the_last_layer():
    drawn = []
    for pool, head in (("mean", "linear"), ("attention", "mlp"), ("max", "linear")):
        torch.manual_seed(3)
        drawn.append(Classifier(8, 3, pool, head).linear.weight)
    assert all(torch.equal(drawn[0], other) for other in drawn[1:])


SMALL = {"body.weights": "random", "train_samples": 24, "finetune.epochs": 2, "finetune.lr": 0.01, "predictor.pool": "attention"}


def rows_of(config, folder) -> list[EpochRow]:
    rows: list[Row] = []
    run_trial(config, Store(folder), rows.append)
    return [row for row in rows if isinstance(row, EpochRow)]


def test_tokens_that_are_computed_once_train_as_those_that_are_computed_anew(quick, tmp_path, monkeypatch):
    config = quick("digits", SMALL | {"freezing": "frozen-both"})
    once = rows_of(config, tmp_path / "once")
    monkeypatch.setattr(fixed_features, "MOST_NUMBERS", 0)
    anew = rows_of(config, tmp_path / "anew")
    assert [row.train_loss for row in once] == pytest.approx([row.train_loss for row in anew], rel=1e-5)
    assert [row.valid_loss for row in once] == pytest.approx([row.valid_loss for row in anew], rel=1e-5)
    mean = rows_of(quick("digits", SMALL | {"freezing": "frozen-both", "predictor.pool": "mean"}), tmp_path / "mean")
    assert mean[0].train_loss == pytest.approx(once[0].train_loss, rel=1e-2)
    assert mean[-1].train_loss != once[-1].train_loss, "the attention has learned something"


def test_an_exported_model_pools_as_the_trained_one(quick, tmp_path):
    config = quick("digits", SMALL | {"predictor.head": "mlp"})
    store, rows = Store(tmp_path / "store"), []
    result = run_trial(config, store, rows.append, keep="best")
    export_model(config, store, tmp_path / "model")
    model = load_model(tmp_path / "model")
    assert {"predictor.attention.weight.weight", "predictor.hidden.0.bias"} <= set(model.model.state_dict())
    assert model.model.predictor.attention.weight.weight.abs().sum() > 0
    from orca_core.tasks import find_task

    test = find_task("digits").load(0).test
    with torch.no_grad():
        answers = model.model.eval()(torch.from_numpy(test.x)).argmax(1).numpy()
    assert 1 - accuracy_score(test.y, answers) == pytest.approx(result.test_error)
