"""What came after ORCA in alignment: MoNA's bi-level objective, RECRAFT's entropy of labels, L2G's loss of the task beside the distance."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from trials import tiny_bodies

from orca_core.alignment.bilevel import Bilevel, tightness_and_spread
from orca_core.alignment.label_entropy import LabelEntropy, label_entropy
from orca_core.alignment.loop import Alignment
from orca_core.alignment.objectives import ClassBatch, freeze_body
from orca_core.alignment.source import source_features
from orca_core.alignment.source_head import PENALTY, fit_head, source_head
from orca_core.alignment.source_tokens import SourceTokens
from orca_core.bodies import find_body
from orca_core.bodies.loading import random_body
from orca_core.config.resolve import resolve_config
from orca_core.errors import ConfigError
from orca_core.identity import trial_id, unread_knobs
from orca_core.model.cross_modal import CrossModalModel
from orca_core.pipeline import run_trial
from orca_core.proxies import find_proxy
from orca_core.rows import EpochRow
from orca_core.settings import Settings
from orca_core.store import Store
from orca_core.trial_stages import load_data

CPU = torch.device("cpu")

QUICK = {
    "body.weights": "random",
    "proxy": "noise",
    "align.proxy_samples": 20,
    "align.class_samples": 6,
    "align.inner_samples": 12,
    "align.epochs": 3,
    "finetune.epochs": 1,
    "train_samples": 24,
}


# ----------------------------------------------------------------------------------------------------------- closed forms


def test_tightness_and_spread_by_hand():
    """e1 and e2 of one class, -e1 of another: squared distances 2, 4 and 2, of which the first is within a class."""
    points = torch.tensor([[2.0, 0.0], [0.0, 3.0], [-1.0, 0.0]])  # brought to length 1
    value = tightness_and_spread(points, torch.tensor([0, 0, 1]))
    assert value.item() == pytest.approx(2 + math.log((2 * math.exp(-4) + math.exp(-8)) / 3), rel=1e-6)
    assert tightness_and_spread(points, torch.tensor([0, 1, 2])).item() == pytest.approx(value.item() - 2, rel=1e-6)


def test_entropy_of_labels_by_hand():
    certain, split = torch.tensor([[1.0, 0.0], [1.0, 0.0]]), torch.tensor([[0.0, 1.0]])
    assert label_entropy([certain, split], [0.5, 0.5], "conditional").item() == pytest.approx(0.0, abs=1e-6)
    assert label_entropy([certain, split], [0.5, 0.5], "information").item() == pytest.approx(-math.log(2), rel=1e-6)
    # The entropy is of the mean over the class: two sure samples that disagree are one class that is split.
    mixed = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    assert label_entropy([mixed, split], [3.0, 1.0], "conditional").item() == pytest.approx(0.75 * math.log(2), rel=1e-6)
    marginal = -(0.375 * math.log(0.375) + 0.625 * math.log(0.625))
    assert label_entropy([mixed, split], [3.0, 1.0], "information").item() == pytest.approx(0.75 * math.log(2) - marginal, rel=1e-6)


def test_the_classifier_of_the_proxy_is_at_its_minimum():
    draws = torch.Generator().manual_seed(0)
    labels = torch.arange(60) % 3
    features = 5 + 0.1 * torch.randn(60, 4, generator=draws) + F.one_hot(labels, 4)
    head = fit_head(features, labels, 3)
    assert not any(parameter.requires_grad for parameter in head.parameters())
    assert (head(features).argmax(1) == labels).all()
    x = features.double()
    scale = x.std(0, correction=0)
    x = (x - x.mean(0)) / scale
    weight = (head.weight.double() * scale).requires_grad_()
    bias = (head.bias.double() + head.weight.double() @ features.double().mean(0)).requires_grad_()
    loss = F.cross_entropy(F.linear(x, weight, bias), labels) + PENALTY / 2 * weight.square().sum()
    assert all(gradient.abs().max() < 1e-4 for gradient in torch.autograd.grad(loss, (weight, bias)))


# -------------------------------------------------------------------------------------------------------------- gradients


def parts(config):
    """A model in evaluation mode, the batch of each class, and the proxy's tokens."""
    settings = Settings.of(config, "align")
    data = load_data(settings)
    loaded = random_body(find_body(config.body.name), seed=0)
    model = CrossModalModel(settings, loaded, data.input_shape, data.output_shape, with_adapter=False)
    freeze_body(model)
    length = model.embedder(data.inputs(torch.from_numpy(data.train.x[:1]))).shape[1]
    source = SourceTokens(find_proxy(config.proxy), loaded, samples=config.align.proxy_samples, length=length, seed=0, device=CPU)
    y = torch.from_numpy(data.train.y)
    batches = []
    for number in y.unique().tolist():
        rows = (y == number).nonzero()[:, 0]
        batches.append(ClassBatch(number, len(rows) / len(y), rows, data.inputs(torch.from_numpy(data.train.x)[rows])))
    return model, data, source, batches, y


class InDouble:
    """Tokens in float64."""

    def __init__(self, source):
        self.source, self.labels = source, source.labels

    def __len__(self):
        return len(self.source)

    def __call__(self, rows):
        return self.source(rows).double()


@pytest.mark.parametrize("task_weight", [0.0, 0.5])
def test_the_outer_gradient_is_that_of_what_the_inner_step_leads_to(quick, task_weight):
    """Against finite differences of the whole step, in float64: the embedder matters to the proxy's features by the inner steps alone."""
    config = quick("mnist1d", {**QUICK, "align.objective": "bilevel"})
    model, _, source, batches, y = parts(config)
    model.double()
    batches = [batch._replace(inputs=batch.inputs.double()) for batch in batches]
    options = {"inner_lr": 0.5, "inner_steps": 2, "inner_samples": 10, "warmup_epochs": 0, "task_weight": task_weight}
    objective = Bilevel(model, F.cross_entropy, y, InDouble(source), options)
    objective.epoch = 1

    def run():
        model.zero_grad()
        measured = objective.backward(iter(batches), torch.Generator().manual_seed(3))
        return measured

    measured = run()
    assert set(measured.columns) == {"train_loss"}
    weight = model.embedder.projection.weight
    gradient, place = weight.grad.clone(), weight.grad.abs().argmax().item()
    assert gradient.abs().max() > 0
    assert all(parameter.grad is None for parameter in model.body.parameters()), "the body starts every step from where it was"

    def outer():
        seen = run()
        total = seen.value
        if task_weight:
            inputs, targets = objective._draw(batches, torch.Generator().manual_seed(3))
            _, stepped = objective._inner(inputs, targets)
            total += task_weight * objective._loss(stepped, inputs, targets).item()
        return total

    step, values = 1e-5, []
    for sign in (1, -1):
        with torch.no_grad():
            weight.view(-1)[place] += sign * step
        values.append(outer())
        with torch.no_grad():
            weight.view(-1)[place] -= sign * step
    assert gradient.view(-1)[place].item() == pytest.approx((values[0] - values[1]) / (2 * step), rel=1e-3)


def test_the_entropys_gradient_is_that_of_all_classes_at_once(quick):
    model, _, source, batches, _ = parts(quick("mnist1d", {**QUICK, "align.label_entropy": 1.0}))
    head = source_head(model.body, source)
    value = LabelEntropy(model, head, 0.7, "information").backward(batches)
    found = [parameter.grad.clone() for parameter in model.embedder.parameters()]
    model.zero_grad()
    by_class = [torch.softmax(head(model.body(model.embedder(batch.inputs)).mean(1)), 1) for batch in batches]
    whole = label_entropy(by_class, [batch.share for batch in batches], "information")
    (0.7 * whole).backward()
    assert value == pytest.approx(whole.item(), rel=1e-5)
    for one, parameter in zip(found, model.embedder.parameters(), strict=True):
        torch.testing.assert_close(one, parameter.grad, rtol=1e-4, atol=1e-6)


def test_with_a_task_weight_the_step_is_that_of_both(quick):
    """One step of plain gradient descent: of the distance, of the task's loss, and of the sum."""
    plain = {**QUICK, "align.optimizer": "sgd", "align.momentum": 0.0, "align.lr": 0.01, "align.epochs": 1, "align.class_samples": 1000}
    arms = {"distance": {"align.objective": "mmd"}, "task": {"align.objective": "none"}}
    arms["both"] = {"align.objective": "mmd", "align.task_weight": 0.25}
    moved, rows = {}, {}
    for arm, more in arms.items():
        config = quick("mnist1d", {**plain, **more})
        settings = Settings.of(config, "align")
        data, loaded = load_data(settings), random_body(find_body(config.body.name), seed=0)
        source = source_features(find_proxy("noise"), loaded, samples=20, seed=0, device=CPU)
        model = CrossModalModel(settings, loaded, data.input_shape, data.output_shape, with_adapter=False)
        before = nn.utils.parameters_to_vector(model.embedder.parameters()).detach().clone()
        rows[arm] = Alignment(settings, model.embedder, *source, data, CPU, model).run_epoch(1)
        moved[arm] = nn.utils.parameters_to_vector(model.embedder.parameters()).detach() - before
    torch.testing.assert_close(moved["both"], moved["distance"] + 0.25 * moved["task"], rtol=1e-2, atol=1e-6)
    assert rows["both"].train_loss == pytest.approx(rows["task"].train_loss, rel=1e-6)
    assert rows["both"].distance == rows["distance"].distance


# ----------------------------------------------------------------------------------------------------------------- trials


def rows_of(config, folder):
    rows = []
    run_trial(config, Store(folder), rows.append)
    return [row for row in rows if isinstance(row, EpochRow) and row.stage == "align"]


def tiny(**knobs):
    """A trial of a tiny BERT on sixty series, in the working folder that `tiny_bodies` sets."""
    fixed = {"task": "npz:tiny/series.npz", "recipe": "laptop", "body": "hf:tiny/bert", "finetune.decay_epochs": None}
    return resolve_config({**QUICK, **fixed, **{name.replace("__", "."): value for name, value in knobs.items()}})


def test_the_warm_up_is_the_control_of_steps_on_the_task(tmp_path):
    with tiny_bodies(tmp_path):
        warm = rows_of(tiny(align__objective="bilevel", align__warmup_epochs=2), tmp_path / "bilevel")
        control = rows_of(tiny(align__objective="none"), tmp_path / "none")
    assert [row.train_loss for row in warm[:2]] == [row.train_loss for row in control[:2]]
    assert [row.knowledge_loss is None for row in warm] == [True, True, False]


def test_minimising_them_brings_them_down(tmp_path):
    more = {"align__epochs": 8, "align__lr": 0.01, "align__class_samples": 20}
    with tiny_bodies(tmp_path):
        entropies = [row.label_entropy for row in rows_of(tiny(**more, align__label_entropy=10.0), tmp_path / "entropy")]
        bilevel = {"align__objective": "bilevel", "align__inner_lr": 1.0, "align__inner_samples": 60}
        knowledge = [row.knowledge_loss for row in rows_of(tiny(**more, **bilevel), tmp_path / "bilevel")]
    assert entropies[-1] < entropies[0]
    assert knowledge[-1] < knowledge[0]


METHODS = {
    "bilevel": {"align.objective": "bilevel", "align.warmup_epochs": 1, "align.task_weight": 1.0},
    "entropy": {"align.objective": "l2", "align.label_entropy": 1.0, "align.label_entropy_form": "information", "align.task_weight": 0.1},
}


@pytest.mark.parametrize("family", ["bert", "gpt2", "swin"])
@pytest.mark.parametrize("method", METHODS)
def test_they_work_on_encoders_decoders_and_vision_bodies(tmp_path, family, method):
    with tiny_bodies(tmp_path, with_images=family == "swin"):
        task = "npz:tiny/images.npz" if family == "swin" else "npz:tiny/series.npz"
        knobs = {**QUICK, "task": task, "recipe": "laptop", "body": f"hf:tiny/{family}", "finetune.decay_epochs": None}
        rows = rows_of(resolve_config(knobs | {"align.epochs": 2} | METHODS[method]), tmp_path / "store")
    assert all(row.train_loss is not None for row in rows)
    assert (rows[-1].knowledge_loss is not None) == (method == "bilevel")
    assert (rows[-1].label_entropy is not None) == (method == "entropy")


@pytest.mark.parametrize("method", METHODS)
def test_a_cut_run_goes_on_bit_for_bit(quick, rows_of_cut_runs, method):
    task = "openml/187" if method == "bilevel" else "burgers-mini"  # dense: clusters are the classes
    whole, again = rows_of_cut_runs(quick(task, {**QUICK, **METHODS[method], "align.epochs": 2, "train_samples": 12}), [1])
    assert all(run == whole for run in again)


def test_what_is_read_and_what_is_refused(quick):
    aligned = {"align.epochs": 2, "proxy": "photos"}
    assert {"align.inner_lr", "align.label_entropy_form", "predictor.pool"} - unread_knobs(quick("digits", aligned)) == {"predictor.pool"}
    assert not {"align.inner_lr", "align.task_weight"} & unread_knobs(quick("digits", {**aligned, "align.objective": "bilevel"}))
    assert "align.label_entropy" in unread_knobs(quick("digits", {**aligned, "align.objective": "bilevel"}))
    entropy = {**aligned, "align.label_entropy": 1.0}
    assert trial_id(quick("digits", entropy)) != trial_id(quick("digits", aligned))
    assert "align.label_entropy_form" not in unread_knobs(quick("digits", entropy))
    refused = {
        "align.weight": {"align.objective": "bilevel", "align.weight": 0.1},
        "align.task_weight": {"align.objective": "none", "align.task_weight": 0.1},
        "align.label_entropy": {"align.objective": "dispersion", "align.label_entropy": 0.1},
        "proxy": {"align.label_entropy": 0.1, "proxy": "noise-matched:photos"},
    }
    for proxy in ("photos+near:20", "photos*0.5+fractals*0.5"):
        with pytest.raises(ConfigError, match="proxy: must be one proxy"):
            quick("digits", {**aligned, "align.objective": "bilevel", "proxy": proxy})
    for path, knobs in refused.items():
        with pytest.raises(ConfigError) as raised:
            quick("digits", {**aligned, **knobs})
        assert [fault.path for fault in raised.value.faults] == [path]
