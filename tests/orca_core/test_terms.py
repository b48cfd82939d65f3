"""Terms of fine-tuning: each against numbers worked out by hand, and all of them in training, resumed, on every family of bodies."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from trials import small, tiny_bodies

from orca_core.config.resolve import resolve_config
from orca_core.errors import ConfigError
from orca_core.finetuning.accumulation import MeanOverSamples, SumOfMeans
from orca_core.finetuning.gradients import Losses, add_gradients
from orca_core.finetuning.terms.anchors import WeightAnchor
from orca_core.finetuning.terms.base import Batch, Combined, Step, Term
from orca_core.finetuning.terms.mixup import Mixup
from orca_core.finetuning.terms.smoothness import Smoothness, squared_difference, symmetric_kl, symmetric_kl_of_labels
from orca_core.identity import trial_id, unread_knobs
from orca_core.pipeline import run_trial
from orca_core.rows import EpochRow, Row
from orca_core.seeding import derive, generator
from orca_core.store import Store

ONE_STEP = {"finetune.optimizer": "sgd", "finetune.lr": 0.1, "finetune.momentum": 0.0, "finetune.weight_decay": 0.0, "finetune.clip": None}
"""An epoch is one step of plain gradient descent on the 8 wines of `tune`."""

EVERYTHING = {
    "finetune.l2_sp": 0.1,
    "finetune.distill": 0.5,
    "finetune.smooth.kind": "smart",
    "finetune.mixup.alpha": 0.4,
    "finetune.mixup.place": "tokens",
}


class TwoWeights(nn.Module):
    """A model of two numbers, one of which is its predictor."""

    def __init__(self, *values: float) -> None:
        super().__init__()
        self.body, self.predictor = nn.Linear(2, 1, bias=False), nn.Linear(2, 1, bias=False)
        self.set(*values)

    def set(self, *values: float) -> None:
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.copy_(torch.tensor([values]))


def step_of(model: Any = None, **parts: Any) -> Step:
    defaults = {"batch": None, "tokens": None, "body_tokens": None, "outputs": None, "run": None, "decode": None}
    return Step(model=model, change=parts.pop("change", lambda tokens: tokens), **(defaults | parts))


def tuned_once(tune, knobs: dict[str, Any]) -> Any:
    tuning = tune({**ONE_STEP, "finetune.batch_size": 8, **knobs})
    tuning.rows = [tuning.run_epoch(1)]
    return tuning


# Gradients


class Projecting(Term):
    """Leaves out the first number of the gradient of its penalty, and reports both."""

    splits_gradient = True

    def combine(self, task, own, parameters):
        (a,), (b,) = task, own
        return Combined([a + b * torch.tensor([0.0, 1.0])], {"distance": (a * b).sum()})


class Watching(Projecting):
    def combine(self, task, own, parameters):
        return Combined(None, super().combine(task, own, parameters).columns)


@pytest.mark.parametrize(("term", "expected"), [(Projecting(), [3.0, 7.0]), (Watching(), [5.0, 7.0])])
@pytest.mark.parametrize("accumulation", [MeanOverSamples, SumOfMeans])
def test_a_term_can_treat_its_gradient_apart(term, expected, accumulation):
    w = nn.Parameter(torch.tensor([1.0, 1.0]))
    other = Term()  # whose penalty, w2 squared, has the gradient (0, 2)

    def losses() -> Losses:
        return Losses(3 * w[0], {term: 2 * w[0] + 5 * w[1], other: w[1] ** 2}, {})

    adding = accumulation({"finetune.accum": 1, "finetune.clip": None}, torch.amp.GradScaler("cpu", enabled=False))
    columns = add_gradients(losses(), adding, 0.5, [w])
    scale = 0.5 if accumulation is MeanOverSamples else 1.0
    assert w.grad.tolist() == [scale * value for value in expected]
    assert columns["distance"].item() == scale**2 * 6.0
    add_gradients(losses(), adding, 0.5, [w])
    assert w.grad.tolist() == [2 * scale * value for value in expected]


def test_what_is_combined_is_clipped_after_every_batch_as_the_reference_does():
    w = nn.Parameter(torch.tensor([1.0, 1.0]))
    adding = SumOfMeans({"finetune.accum": 1, "finetune.clip": 1.0}, torch.amp.GradScaler("cpu", enabled=False))
    add_gradients(Losses(3 * w[0], {Projecting(): 0 * w[0] + 4 * w[1]}, {}), adding, 1.0, [w])
    torch.testing.assert_close(w.grad, torch.tensor([0.6, 0.8]))


# L2-SP


def test_l2_sp_is_half_its_weight_times_the_squared_distance():
    model = TwoWeights(1.0, 2.0)
    term = WeightAnchor(model, 0.2)
    model.set(4.0, -2.0)  # 3 and 4 away
    penalty = term.penalty(step_of(model))
    penalty.value.backward()
    assert penalty.value.item() == pytest.approx(0.1 * 25)
    assert penalty.columns["weight_distance"].item() == 25
    torch.testing.assert_close(model.body.weight.grad, torch.tensor([[0.6, -0.8]]))
    assert model.predictor.weight.grad is None  # it has no start to go back to
    model.body.requires_grad_(False)
    assert term.penalty(step_of(model)) is None


def test_l2_sp_pulls_each_step_back_to_the_start(tune):
    anchored, plain = tuned_once(tune, {"finetune.l2_sp": 2.0}), tuned_once(tune, {})
    start = {name: p.detach().clone() for name, p in tune({}).model.named_parameters()}
    after = {name: p.detach().clone() for name, p in plain.model.named_parameters()}
    assert all(torch.equal(p, after[name]) for name, p in anchored.model.named_parameters()), "at the start there is nothing to pull"
    assert anchored.rows[0].weight_distance == 0
    distance = sum((after[name] - value).square().sum().item() for name, value in start.items() if not name.startswith("predictor"))
    assert anchored.run_epoch(2).weight_distance == pytest.approx(distance, rel=1e-5)
    plain.run_epoch(2)
    ends = dict(plain.model.named_parameters())
    for name, p in anchored.model.named_parameters():
        pull = 0.0 if name.startswith("predictor") else 0.1 * 2.0 * (after[name] - start[name])
        torch.testing.assert_close(p.detach(), ends[name].detach() - pull, rtol=1e-4, atol=1e-6)


# Distillation from the start


@pytest.mark.parametrize("checkpointing", [False, True])
def test_the_body_is_held_to_what_it_made_of_the_data_at_the_start(tune, checkpointing):
    start = tune({}).model.eval()
    tuning = tuned_once(tune, {"finetune.distill": 1.0, "finetune.checkpointing": checkpointing})
    assert tuning.rows[0].body_distance == 0
    x = tuning.train[0]
    with torch.no_grad():
        now, then = (model.body(model.embedder(x)) for model in (tuning.model.eval(), start))
    distance = tuning.run_epoch(2).body_distance
    assert distance > 0
    assert distance == pytest.approx((now - then).square().mean().item(), rel=1e-4)


def test_the_heavier_the_anchor_the_closer_the_end(tune):
    for name, column in (("l2_sp", "weight_distance"), ("distill", "body_distance")):
        found = []
        for weight in (0.01, 10.0):
            tuning = tune({"finetune.lr": 0.01, f"finetune.{name}": weight})
            found.append(getattr([tuning.run_epoch(epoch) for epoch in (1, 2, 3)][-1], column))
        assert found[1] < 0.5 * found[0], name


# SMART and R3F


def test_divergences_by_hand():
    half, quarter = torch.tensor([[0.0, 0.0]]), torch.tensor([[0.0, math.log(3)]])  # p = (1/2, 1/2), q = (1/4, 3/4)
    assert symmetric_kl(half, quarter).item() == pytest.approx(0.25 * math.log(3))
    p, q = half.log_softmax(1), quarter.log_softmax(1)
    both = F.kl_div(p, q, log_target=True, reduction="batchmean") + F.kl_div(q, p, log_target=True, reduction="batchmean")
    assert symmetric_kl(half, quarter).item() == pytest.approx(both.item())
    labels = torch.tensor([[0.0]]), torch.tensor([[math.log(3)]])  # yes with 1/2 and with 3/4: the same two distributions
    assert symmetric_kl_of_labels(*labels).item() == pytest.approx(0.25 * math.log(3))
    assert squared_difference(torch.tensor([[1.0, 2.0]]), torch.tensor([[1.0, 5.0]])).item() == 4.5


WEIGHT = torch.tensor([2.0, -1.0])
TOKENS = torch.tensor([[[1.0, 1.0]], [[0.0, 3.0]]])


def smooth_step() -> Step:
    """Of a model that answers with 2 a - b to a token (a, b)."""

    def run(tokens: Tensor) -> Tensor:
        return tokens.flatten(1) @ WEIGHT[:, None]

    return step_of(tokens=TOKENS, outputs=run(TOKENS), run=run)


def test_r3f_is_the_mean_change_of_the_outputs_under_noise():
    term = Smoothness("mse", weight=3.0, noise=0.5, radius=None, seed=7)
    term.start_epoch(2)
    noise = 0.5 * torch.randn(2, 1, 2, generator=generator(7, "smooth", 2))
    changes = noise.flatten(1) @ WEIGHT
    penalty = term.penalty(smooth_step())
    assert penalty.columns["roughness"].item() == pytest.approx(changes.square().mean().item())
    assert penalty.value.item() == pytest.approx(3 * changes.square().mean().item())


def test_smart_steps_where_outputs_change_most_and_stays_in_its_box():
    radius = 0.2
    term = Smoothness("mse", weight=1.0, noise=0.05, radius=radius, seed=7)
    term.start_epoch(1)
    noise = 0.05 * torch.randn(2, 1, 2, generator=generator(7, "smooth", 1))
    # The squared change has the gradient 2 (w z) w: along w = (2, -1), whose largest entry becomes `radius`, to the side that z is on.
    side = (noise.flatten(1) @ WEIGHT).sign()[:, None, None]
    worst = (noise + radius * side * torch.tensor([1.0, -0.5])).clamp(-radius, radius)
    expected = (worst.flatten(1) @ WEIGHT).square().mean().item()
    assert term.penalty(smooth_step()).columns["roughness"].item() == pytest.approx(expected)


def test_the_divergence_is_that_of_the_loss():
    kinds = {"cross-entropy": symmetric_kl, "balanced-cross-entropy": symmetric_kl, "bce-weight-4": symmetric_kl_of_labels}
    kinds |= {"mse": squared_difference, "nrmse": squared_difference}
    assert {loss: Smoothness(loss, 1.0, 0.1, None, 0).divergence for loss in kinds} == kinds


def test_the_penalty_makes_outputs_smooth(tune):
    found = []
    for weight in (1e-9, 30.0):
        tuning = tuned_once(tune, {"finetune.lr": 0.02, "finetune.smooth": {"kind": "r3f", "weight": weight, "noise": 0.3}})
        found.append((tuning.rows[0].roughness, tuning.run_epoch(2).roughness))
    assert found[0][0] == found[1][0], "before the first step"
    assert found[1][1] < 0.8 * found[0][1]


# Mixup


def mixed_batch(mixes_targets: bool, targets: Tensor) -> tuple[Mixup, Batch, float, Tensor]:
    term = Mixup(0.5, mixes_tokens=False, mixes_targets=mixes_targets, seed=3)
    term.start_epoch(4)
    batch = Batch(torch.arange(4), torch.arange(8.0).reshape(4, 2), ((1.0, targets),), 0.0)
    term.before(batch)
    draws = np.random.default_rng(derive(3, "mixup", 4))
    return term, batch, draws.beta(0.5, 0.5), torch.from_numpy(draws.permutation(4))


def test_classes_are_mixed_by_their_losses_which_is_a_soft_label():
    labels = torch.tensor([0, 2, 1, 0])
    _, batch, share, partners = mixed_batch(False, labels)
    x = torch.arange(8.0).reshape(4, 2)
    torch.testing.assert_close(batch.inputs, share * x + (1 - share) * x[partners])
    logits = torch.randn(4, 3)
    loss = sum(weight * F.cross_entropy(logits, target) for weight, target in batch.targets)
    soft = share * F.one_hot(labels, 3) + (1 - share) * F.one_hot(labels[partners], 3)
    torch.testing.assert_close(loss, F.cross_entropy(logits, soft.float()))


def test_numbers_are_mixed_themselves_and_what_does_not_count_does_not_count():
    y = torch.tensor([1.0, 10.0, math.nan, 1000.0])[:, None]
    term, batch, share, partners = mixed_batch(True, y)
    ((weight, target),) = batch.targets
    assert weight == 1.0
    torch.testing.assert_close(target, share * y + (1 - share) * y[partners], equal_nan=True)
    assert target.isnan().sum() == (1 if partners[2] == 2 else 2)
    tokens = torch.randn(4, 5, 6)
    torch.testing.assert_close(term.between(tokens, batch), share * tokens + (1 - share) * tokens[partners])


@pytest.mark.parametrize("place", ["inputs", "tokens"])
def test_the_loss_of_a_step_is_that_of_the_mixtures(tune, place):
    start = tune({}).model
    tuning = tuned_once(tune, {"finetune.mixup": {"alpha": 1.0, "place": place}, "finetune.data_order": "given"})
    draws = np.random.default_rng(derive(0, "mixup", 1))
    share, partners = draws.beta(1.0, 1.0), torch.from_numpy(draws.permutation(8))
    x, y = tuning.train
    with torch.no_grad():
        if place == "inputs":
            outputs = start(share * x + (1 - share) * x[partners])
        else:
            tokens = start.embedder(x)
            outputs = start(share * tokens + (1 - share) * tokens[partners], from_tokens=True)
    expected = share * tuning.loss(outputs, y) + (1 - share) * tuning.loss(outputs, y[partners])
    assert tuning.rows[0].train_loss == pytest.approx(expected.item(), rel=1e-5)


# All of them


@pytest.mark.parametrize(
    "knobs",
    [
        {"precision": "bf16", "freezing": "frozen-both:1", "finetune.accum": 2, "finetune.mixout": 0.3},
        {"precision": "fp16", "finetune.smooth.kind": "r3f", "finetune.checkpointing": True, "predictor.pool": "attention"},
    ],
)
def test_a_run_that_is_cut_short_goes_on_to_the_same_bits(quick, rows_of_cut_runs, knobs):
    base = {"body.weights": "random", "train_samples": 24, "finetune.epochs": 3, "finetune.dropout": 0.1, "finetune.batch_size": 8}
    whole, again = rows_of_cut_runs(quick("openml/187", {**base, **EVERYTHING, **knobs}), range(2, 3))  # in the second phase
    assert again == [whole] * len(again)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("terms")
    with tiny_bodies(folder):
        yield folder


@pytest.mark.parametrize(
    ("task", "body"),
    [("npz:tiny/series.npz", "hf:tiny/bert"), ("npz:tiny/series.npz", "hf:tiny/gpt2"), ("npz:tiny/images.npz", "mini-swin")],
)
def test_every_knob_works_on_encoders_decoders_and_vision_bodies(folder, tmp_path, task, body):
    knobs = EVERYTHING | {"predictor.pool": "attention", "predictor.head": "mlp", "body.weights": "random"}
    rows: list[Row] = []
    config = small(task, body=body, **{name.replace(".", "__"): value for name, value in knobs.items()})
    run_trial(config, Store(tmp_path), rows.append)
    last = [row for row in rows if isinstance(row, EpochRow)][-1]
    assert min(last.weight_distance, last.body_distance, last.roughness) > 0


def test_the_kind_of_smoothing_stands_for_its_section(quick):
    whole = quick("digits", {"finetune": {"smooth": {"kind": "r3f"}}})
    assert whole == quick("digits", {"finetune.smooth": "r3f"}) == quick("digits", {"finetune": {"smooth": "r3f"}})


def test_what_has_no_part_in_a_trial_is_not_read(quick):
    knobs = {"finetune.l2_sp": 0.1, "finetune.distill": 0.1, "finetune.smooth.noise": 0.2, "finetune.mixup.place": "tokens"}
    unread = unread_knobs(quick("digits", knobs))
    assert {"finetune.smooth.noise", "finetune.mixup.place"} <= set(unread)
    assert not {"finetune.l2_sp", "finetune.distill"} & set(unread)
    assert "finetune.l2_sp" in unread_knobs(quick("digits", knobs | {"adapter": "lora"}))
    assert {"finetune.l2_sp", "finetune.distill"} <= set(unread_knobs(quick("digits", knobs | {"freezing": "frozen-both"})))
    assert {"predictor.pool", "predictor.head"} <= set(unread_knobs(quick("burgers-mini")))
    assert trial_id(quick("openml/187", {"body": "none", "finetune.distill": 0.1})) == trial_id(quick("openml/187", {"body": "none"}))


@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        ({"finetune.smooth": {"kind": "r3f", "noise": 1e-5}, "precision": "bf16"}, r"finetune\.smooth\.noise: must be at least 0\.01 with"),
        ({"finetune.smooth.kind": "smart", "precision": "fp16"}, r"precision: must not be fp16 with finetune\.smooth\.kind: smart"),
        ({"finetune.smooth.kind": "r3f", "finetune.compile": "default"}, r"finetune\.compile: must be none with finetune\.smooth, but"),
        ({"finetune.mixup.alpha": 0.4, "align.weight": 0.1}, r"finetune\.mixup\.place: must be tokens with align\.weight"),
        ({"finetune.mixup": {"alpha": 1, "place": "tokens"}, "finetune.compile": "default"}, r"compile: must be none with finetune\.mixup"),
        ({"task": "burgers-mini", "predictor.pool": "max"}, r"predictor\.pool: must be mean for burgers-mini, a dense task, but got 'max'"),
        ({"finetune.mixup": 0.4}, r"finetune\.mixup: must be a mapping of finetune\.mixup\.alpha, finetune\.mixup\.place, but got 0\.4"),
        ({"finetune.smooth.kind": "smrt"}, r"finetune\.smooth\.kind: must be one of none, r3f, smart, but got 'smrt'"),
    ],
)
def test_what_does_not_go_together_is_refused(knobs, message):
    with pytest.raises(ConfigError, match=message):
        resolve_config({"task": "digits", "body": "mini-roberta" if "align.weight" in knobs else "mini-swin", **knobs})
