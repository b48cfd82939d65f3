"""Fine-tuning: the learning rate of every step, accumulation, clipping, and the choice of the best epoch."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch._dynamo.utils import counters

from orca_core.bodies import find_body
from orca_core.bodies.loading import random_body
from orca_core.errors import ConfigError
from orca_core.finetuning.linear_head import LinearHead
from orca_core.finetuning.loop import Finetuning
from orca_core.model.cross_modal import CrossModalModel
from orca_core.pipeline import run_trial
from orca_core.rows import EpochRow, TrialResult, best_row
from orca_core.settings import Settings
from orca_core.tasks import Split, TaskData, find_task
from orca_core.training.optimizers import make_optimizer, step_decay, warmup_decay

CPU = torch.device("cpu")
CONSTANT = {"finetune.optimizer": "sgd", "finetune.momentum": 0.0, "finetune.weight_decay": 0.0, "finetune.lr": 0.1, "finetune.clip": None}


def rates(tuning: Finetuning) -> list[list[float]]:
    """The learning rate of every step, epoch by epoch, over all phases; a head on fixed features takes the optimiser's own steps."""
    epochs: list[list[float]] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(LinearHead, "of", lambda *_: None)
        for number, phase in enumerate(tuning.config.phases):
            tuning.start_phase(Settings.of(tuning.config, "finetune", number))
            hook = tuning.optimizer.register_step_pre_hook(lambda optimizer, *_: epochs[-1].append(optimizer.param_groups[0]["lr"]))
            for _ in range(phase.epochs):
                epochs.append([])
                tuning.run_epoch(len(epochs))
            hook.remove()
    return epochs


def approx(epochs: list[list[float]]) -> list:
    return [pytest.approx(steps) for steps in epochs]


# The learning rate: 8 samples in batches of 4 are two steps an epoch.

SCHEDULE = {
    "finetune.lr": 1.0,
    "finetune.epochs": 4,
    "finetune.warmup_epochs": 1,
    "finetune.decay_epochs": 3,
    "finetune.optimizer": "adamw",
}


def test_the_rate_warms_up_from_the_first_step_and_decays_to_zero(tune):
    assert rates(tune(SCHEDULE)) == approx([[0.5, 1.0], [0.75, 0.5], [0.25, 0.0], [0.0, 0.0]])


def test_the_rate_is_constant_without_warm_up_and_decay(tune):
    assert rates(tune(SCHEDULE | {"finetune.warmup_epochs": 0, "finetune.decay_epochs": None, "finetune.epochs": 2})) == [[1.0, 1.0]] * 2


def test_accumulated_batches_are_one_step_of_the_schedule(tune):
    assert rates(tune(SCHEDULE | {"finetune.batch_size": 2, "finetune.accum": 2})) == rates(tune(SCHEDULE))


@pytest.mark.parametrize(
    ("second", "expected"),
    [
        ({}, [[0.5, 1.0], [0.75, 0.5], [0.25, 0.0], [0.0, 0.0]]),
        ({"lr_scale": 0.1}, [[0.5, 1.0], [0.75, 0.5], [0.025, 0.0], [0.0, 0.0]]),
        ({"restart": True}, [[0.5, 1.0], [0.75, 0.5], [0.5, 1.0], [0.75, 0.5]]),
        ({"restart": True, "lr_scale": 0.1}, [[0.5, 1.0], [0.75, 0.5], [0.05, 0.1], [0.075, 0.05]]),
    ],
)
def test_a_later_phase_goes_on_with_the_schedule_or_restarts_and_scales_it(tune, second, expected):
    freezing = [{"train": ["predictor"], "epochs": 2}, {"train": "all", **second}]
    assert rates(tune(SCHEDULE | {"freezing": freezing})) == approx(expected)


def test_a_restart_is_counted_from_its_own_phase_also_after_equal_phases(tune):
    freezing = [{"train": ["predictor"], "epochs": 1}, {"train": "all", "epochs": 1}] * 2 + [{"train": ["predictor"], "restart": True}]
    knobs = SCHEDULE | {"finetune.epochs": 6, "freezing": freezing}
    assert rates(tune(knobs)) == approx([[0.5, 1.0], [0.75, 0.5], [0.25, 0.0], [0.0, 0.0], [0.5, 1.0], [0.75, 0.5]])


@pytest.mark.parametrize(("position", "factor"), [(0.5, 0.25), (2, 1.0), (3, 0.75), (6, 0.0), (100, 0.0)])
def test_warm_up_and_decay_by_hand(position, factor):
    assert warmup_decay(position, warmup_epochs=2, decay_epochs=6) == factor


@pytest.mark.parametrize(("epoch", "factor"), [(1, 1.0), (20, 1.0), (21, 0.2), (40, 0.2), (41, 0.04)])
def test_the_rate_of_alignment_falls_after_the_epochs_named(epoch, factor):
    assert step_decay(epoch, (20, 40)) == pytest.approx(factor)


@pytest.mark.parametrize(("restart", "kept"), [(True, False), (False, True)])
def test_moments_run_through_the_phases_unless_one_restarts_the_optimiser(tune, restart, kept):
    tuning = tune(SCHEDULE | {"freezing": [{"train": ["predictor"], "epochs": 1}, {"train": "all", "restart": restart}]})
    tuning.run_epoch(1)
    tuning.start_phase(Settings.of(tuning.config, "finetune", 1))
    assert bool(tuning.optimizer.state) == kept


# Optimisers, one step by hand: weight 1, gradient 2, rate 0.1, weight decay 0.5


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("sgd", 1 - 0.1 * (2 + 0.5)),
        ("adam", 1 - 0.1),  # the first step of Adam is the rate, whatever the gradient with its penalty is
        ("adamw", (1 - 0.1 * 0.5) - 0.1),
    ],
)
def test_weight_decay_is_a_penalty_in_sgd_and_adam_and_decoupled_in_adamw(name, expected):
    weight = torch.nn.Parameter(torch.ones(1))
    optimizer = make_optimizer(name, [weight], lr=0.1, weight_decay=0.5, momentum=0.0, betas=(0.9, 0.98))
    (2 * weight).backward()
    optimizer.step()
    assert weight.item() == pytest.approx(expected)


# Steps


def change_of(tuning: Finetuning) -> torch.Tensor:
    """How one epoch moves all parameters."""
    before = torch.nn.utils.parameters_to_vector(tuning.model.parameters()).clone()
    tuning.run_epoch(1)
    return torch.nn.utils.parameters_to_vector(tuning.model.parameters()) - before


def test_accumulated_batches_are_one_large_batch_for_a_mean_loss(tune):
    accumulated = tune(CONSTANT | {"finetune.batch_size": 3, "finetune.accum": 3})  # 3 + 3 + 2
    at_once = tune(CONSTANT | {"finetune.batch_size": 8})
    for tuning in (accumulated, at_once):
        tuning.loss = torch.nn.functional.cross_entropy
    torch.testing.assert_close(change_of(accumulated), change_of(at_once), rtol=1e-4, atol=1e-6)


def test_clipping_bounds_the_step_of_accumulated_batches_as_a_whole(tune):
    knobs = CONSTANT | {"finetune.batch_size": 2, "finetune.accum": 4}
    unclipped = change_of(tune(knobs))
    clipped = change_of(tune(knobs | {"finetune.clip": 0.05}))
    assert unclipped.norm() > 0.1 * 0.05
    assert clipped.norm().item() == pytest.approx(0.1 * 0.05, rel=1e-3)
    assert torch.cosine_similarity(clipped, unclipped, dim=0) > 0.9999


def test_every_sample_is_seen_once_an_epoch_in_an_order_of_its_own(tune):
    tuning, batches = tune({"finetune.batch_size": 3}), []
    tuning.model.embedder.register_forward_pre_hook(lambda module, inputs: batches.append(inputs[0]) if module.training else None)
    for epoch in (1, 2):
        tuning.run_epoch(epoch)
    assert [len(batch) for batch in batches] == [3, 3, 2] * 2
    first, second = torch.cat(batches[:3]), torch.cat(batches[3:])
    assert not torch.equal(first, second)
    for seen in (first, second):
        assert sorted(seen.flatten(1).tolist()) == sorted(tuning.train[0].flatten(1).tolist())


def test_dropout_is_drawn_anew_in_every_epoch_and_alike_in_every_run(tune):
    # With equal samples and a rate of next to nothing, the training loss changes by what is dropped alone.
    knobs = CONSTANT | {"finetune.dropout": 0.5, "finetune.lr": 1e-12, "finetune.batch_size": 8}
    first, again = tune(knobs), tune(knobs)
    for tuning in (first, again):
        tuning.train = tuple(part[:1].repeat_interleave(8, 0) for part in tuning.train)
    losses = [first.run_epoch(epoch).train_loss for epoch in (1, 2)]
    assert losses[0] != pytest.approx(losses[1], rel=1e-4)
    assert [again.run_epoch(epoch).train_loss for epoch in (1, 2)] == losses


def test_bfloat16_changes_the_numbers_and_not_the_format_of_weights(tune):
    single, half = tune({}), tune({"precision": "bf16"})
    assert single.run_epoch(1).train_loss != half.run_epoch(1).train_loss
    assert {parameter.dtype for parameter in half.model.parameters()} == {torch.float32}


def test_evaluation_is_over_the_whole_set_whatever_its_batches(tune):
    small, large = tune({"finetune.eval_batch_size": 5}), tune({"finetune.eval_batch_size": 100})
    first, second = small.run_epoch(1), large.run_epoch(1)
    assert first.valid_error == second.valid_error
    assert first.valid_loss == pytest.approx(second.valid_loss, rel=1e-5)


@pytest.mark.parametrize("freezing", ["full", "frozen-both"])
def test_where_validation_is_the_test_set_an_epoch_evaluates_once_to_the_same_row(quick, freezing, monkeypatch):
    config = quick("openml/187", {"body.weights": "random", "finetune.epochs": 1, "freezing": freezing})
    data = find_task("openml/187").load()
    same = replace(data, valid=Split(data.test.x.copy(), data.test.y.copy()))  # as loaders return it: the rows, in arrays of their own
    evaluated = []
    evaluate = Finetuning._evaluate
    monkeypatch.setattr(Finetuning, "_evaluate", lambda self, x, *more: evaluated.append(len(x)) or evaluate(self, x, *more))

    def epoch(data: TaskData) -> EpochRow:
        loaded = random_body(find_body("mini-roberta"), seed=0)
        settings = Settings.of(config, "finetune")
        tuning = Finetuning(settings, CrossModalModel(settings, loaded, data.input_shape, data.output_shape), data, CPU)
        tuning.start_phase(settings)
        return tuning.run_epoch(1)

    apart, together = epoch(data), epoch(same)
    assert evaluated == [len(data.valid), len(data.test), len(data.test)]
    assert together.test_error == apart.test_error == together.valid_error
    assert (together.train_loss, together.lr) == (apart.train_loss, apart.lr)


def test_parts_are_equal_if_rows_order_and_groups_are():
    rng = np.random.default_rng(0)
    part = Split(rng.normal(size=(40, 1, 3)).astype("float32"), np.full((40, 1, 3), np.nan, "float32"), np.arange(40) // 2)
    assert part.equals(replace(part, x=part.x.copy(), y=part.y.copy(), group=part.group.copy()))
    late = part.x.copy()
    late[-1] += 1
    others = [replace(part, x=late), replace(part, x=part.x[::-1]), replace(part, group=None), Split(part.x[:-1], part.y[:-1])]
    assert not any(part.equals(other) or other.equals(part) for other in others)


def test_training_rows_are_taken_in_the_given_order_on_demand(tune):
    seen = {}
    for order in ("given", "shuffled"):
        tuning = tune({"finetune.data_order": order})
        batches = seen[order] = []
        losses = tuning._losses
        tuning._losses = lambda batch, *more, told=batches, losses=losses, **named: told.append(batch) or losses(batch, *more, **named)
        tuning.run_epoch(1)
        tuning.run_epoch(2)
    rows = {order: torch.cat(batches).tolist() for order, batches in seen.items()}
    assert rows["given"] == [*range(8), *range(8)]
    assert rows["shuffled"][:8] != rows["shuffled"][8:]


def test_a_model_learns_the_wines(quick, store):
    config = quick("openml/187", {"body.weights": "random", "finetune.epochs": 4})
    assert run_trial(config, store, lambda row: None).test_error < 0.1


# The best epoch


def epochs_with(valid: list[float], test: list[float]) -> list[EpochRow]:
    return [
        EpochRow(stage="finetune", epoch=epoch, valid_error=v, test_error=t, valid_loss=10 * v, train_loss=0.0)
        for epoch, (v, t) in enumerate(zip(valid, test, strict=True), start=1)
    ]


@pytest.mark.parametrize(("selection", "epoch", "test_error"), [("valid", 2, 0.5), ("test", 3, 0.1)])
def test_the_best_epoch_is_the_earliest_of_equals_on_the_split_that_selects(selection, epoch, test_error):
    rows = epochs_with(valid=[0.3, 0.2, 0.2, 0.4], test=[0.6, 0.5, 0.1, 0.1])
    result = TrialResult.of(best_row(rows, selection), rows[-1], params_total=9, params_trained=[9])
    assert (result.best_epoch, result.test_error) == (epoch, test_error)
    assert (result.last_valid_error, result.last_test_error) == (0.4, 0.1)


# Memory and number formats.


@pytest.mark.parametrize("body", ["mini-roberta", "mini-swin"])
def test_checkpointing_changes_no_bit_of_what_is_trained(body, quick):
    def weights(checkpointing: bool) -> dict[str, torch.Tensor]:
        knobs = {"body": body, "body.weights": "random", "finetune.dropout": 0.1, "finetune.checkpointing": checkpointing}
        config = quick("openml/187", knobs)
        data = find_task("openml/187").load()
        loaded = random_body(find_body(body), seed=0, dropout=0.1)
        tuning = Finetuning(
            Settings.of(config, "finetune"),
            CrossModalModel(Settings.of(config, "finetune"), loaded, data.input_shape, data.output_shape),
            data,
            CPU,
        )
        tuning.start_phase(tuning.settings)
        tuning.run_epoch(1)
        return tuning.weights()

    kept, again = weights(False), weights(True)
    assert all(torch.equal(kept[name], again[name]) for name in kept)


def test_checkpointed_blocks_keep_fewer_tensors_for_the_backward_pass(tune):
    def kept(knobs: dict) -> int:
        sizes: list[int] = []
        tuning = tune(knobs)
        with torch.autograd.graph.saved_tensors_hooks(lambda tensor: sizes.append(tensor.nbytes) or tensor, lambda tensor: tensor):
            tuning.model(tuning.train[0])
        return sum(sizes)

    assert kept({"finetune.checkpointing": True}) < 0.7 * kept({})


def test_fp16_scales_the_loss_and_a_resumed_run_goes_on_with_the_scale(tune):
    def half() -> Finetuning:
        tuning = tune({"precision": "fp16", "finetune.epochs": 2})
        tuning.scaler.load_state_dict(tuning.scaler.state_dict() | {"scale": 128.0})  # with the usual 65536 the first steps overflow
        return tuning

    whole, cut = half(), half()
    expected = [whole.run_epoch(1), whole.run_epoch(2)]
    single = tune({"finetune.epochs": 2}).run_epoch(1)
    assert expected[0].train_loss == pytest.approx(single.train_loss, rel=0.01)
    assert expected[0].train_loss != single.train_loss
    cut.scaler.load_state_dict(cut.scaler.state_dict() | {"scale": 1024.0, "_growth_tracker": 7})
    state = cut.state()
    cut.scaler.load_state_dict(cut.scaler.state_dict() | {"scale": 1.0, "_growth_tracker": 0})
    cut.load_state(state)
    assert (cut.scaler.get_scale(), cut.scaler.state_dict()["_growth_tracker"]) == (1024.0, 7)
    first, second = half(), half()
    first.run_epoch(1)
    second.load_state(first.state())
    assert second.run_epoch(2) == expected[1]


@pytest.mark.slow
def test_a_compiled_forward_pass_trains_to_nearly_the_same_numbers_whatever_was_compiled_before(tune):
    plain = tune({"finetune.dropout": 0.3}).run_epoch(1)
    other = tune({}).model
    again = torch.compile(other, backend="eager", dynamic=False)
    for size in range(2, torch._dynamo.config.recompile_limit + 4):  # more often than torch compiles a function before it gives up
        again(torch.randn(size, *other.input_shape))
    counters.clear()
    compiled = tune({"finetune.compile": "default", "finetune.dropout": 0.3}).run_epoch(1)
    assert counters["stats"]["unique_graphs"] > 0
    assert compiled.train_loss == pytest.approx(plain.train_loss, rel=1e-4)


def test_mixout_does_not_go_with_what_needs_the_weights_again(quick):
    with pytest.raises(ConfigError, match=r"finetune\.mixout: must be 0 with checkpointing or compile"):
        quick("digits", {"finetune.mixout": 0.5, "finetune.checkpointing": True})
