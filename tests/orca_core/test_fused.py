"""Fused fine-tuning: a member of a group has the bits that it has alone among copies."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from trials import TINY_BODIES, small, tiny_bodies

from orca_core.config.resolve import resolve_config
from orca_core.errors import ConfigError, DataError, NotFiniteError
from orca_core.finetuning import stacked
from orca_core.finetuning.folded import FoldedFeatures, FoldedModel, parts_of
from orca_core.finetuning.folded_roberta import FoldedRoberta, attend
from orca_core.finetuning.fused import FusedFinetuning, train_together
from orca_core.finetuning.heads import StackedHeads, cross_entropies
from orca_core.finetuning.loop import Finetuning
from orca_core.finetuning.stacked import LINE, MemberRows, Stack, StackedOptimizer, stack
from orca_core.fused_trials import run_trials
from orca_core.identity import trial_id
from orca_core.pipeline import model_before_tuning, run_trial
from orca_core.rows import EpochRow, TrialResult
from orca_core.settings import Settings
from orca_core.stages import stages_of
from orca_core.store import Store
from orca_core.trial_stages import load_data

# Odd sizes, so that vector instructions have remainders: 24 samples in batches of 7, the last of 3; 3 classes.
TINY = {"body.weights": "random", "train_samples": 24, "finetune.batch_size": 7, "finetune.fused": 4, "finetune.epochs": 3}
SERIES = TINY | {"task": "npz:tiny/series.npz", "body": "mini-roberta-small"}
IMAGES = TINY | {"task": "npz:tiny/images.npz", "body": "mini-swin"}
HEADS = IMAGES | {"freezing": "frozen-both"}

CASES: dict[str, dict[str, Any]] = {
    "text": SERIES | {"finetune.warmup_epochs": 2.5, "finetune.clip": 0.5},
    "text by sgd, smoothed": SERIES | {"finetune.optimizer": "sgd", "finetune.label_smoothing": 0.1},
    "image": IMAGES | {"finetune.optimizer": "adam", "finetune.weight_decay": 0.1},
    "image on a frozen body": IMAGES | {"freezing": "frozen-body:1"},
    "image to image": TINY | {"task": "darcy-mini", "body": "mini-swin"},
    "thawing": SERIES | {"freezing": "frozen-body:1"},
    "heads": HEADS,
    "smoothed heads": HEADS | {"finetune.label_smoothing": 0.2},
    "heads with a hidden layer on attention": HEADS | {"predictor.head": "mlp", "predictor.pool": "attention"},
    "heads of a decoder": SERIES | {"body": f"hf:{TINY_BODIES['gpt2']}", "freezing": "frozen-both", "predictor.pool": "max"},
}


@pytest.fixture(scope="module", autouse=True)
def folder(tmp_path_factory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("fused")
    with tiny_bodies(folder):
        yield folder


def knobs(of: dict[str, Any], **others: Any) -> dict[str, Any]:
    constant = {"align.epochs": 0, "finetune.warmup_epochs": 0, "finetune.decay_epochs": None}
    return constant | of | {name.replace("__", "."): value for name, value in others.items()}


def tuning(of: dict[str, Any], store: Store, kind: type[Finetuning] = FusedFinetuning, **others: Any) -> Any:
    config = resolve_config(knobs(of, **others))
    settings = Settings.of(config, "finetune")
    made = kind(settings, model_before_tuning(config, store), load_data(settings), torch.device("cpu"))
    made.start_phase(settings)
    return made


def group_epoch(members: Sequence[tuple[FusedFinetuning, int]]) -> list[EpochRow]:
    train_together(members)
    return [member.run_epoch(epoch) for member, epoch in members]


def same(one: dict[str, Tensor], two: dict[str, Tensor]) -> bool:
    return one.keys() == two.keys() and all(torch.equal(tensor, two[name]) for name, tensor in one.items())


# ----------------------------------------------------------------------------------------------------------- independence


@pytest.mark.parametrize("case", [case for case in CASES if case != "thawing"])
def test_the_bits_of_a_member_depend_on_nobody_else(case, tmp_path):
    of, store = CASES[case], Store(tmp_path)
    alone = tuning(of, store, seed=1)
    rows = [alone.run_epoch(1), alone.run_epoch(2)]

    # Last of four, among others with other seeds, rates and decays; then first, beside one that is an epoch behind.
    member, late = tuning(of, store, seed=1), tuning(of, store, seed=4)
    others = [
        tuning(of, store, seed=2, finetune__lr=1e-2),
        tuning(of, store, seed=1, finetune__weight_decay=0.3),
        tuning(of, store, seed=3, finetune__warmup_epochs=1.0),
    ]
    first = group_epoch([*((other, 1) for other in others), (member, 1)])[-1]
    second = group_epoch([(member, 2), (late, 1), (others[0], 2)])[0]
    assert [first, second] == rows
    assert same(member.state(), alone.state())
    assert not same(member.state(), others[1].state())

    # Its state of epoch 1, in a model made anew, third of three.
    again = tuning(of, store, seed=1)
    before = tuning(of, store, seed=1)
    before.run_epoch(1)
    again.load_state(before.state())
    assert group_epoch([(late, 2), (others[2], 2), (again, 2)])[-1] == rows[1]
    assert same(again.state(), alone.state())


@pytest.mark.parametrize("case", ["text", "text by sgd, smoothed", "image", "smoothed heads"])
def test_a_fused_epoch_is_a_single_one_up_to_rounding(case, tmp_path):
    store = Store(tmp_path)
    fused, single = tuning(CASES[case], store), tuning(CASES[case], store, Finetuning, finetune__fused=0)
    row, other = fused.run_epoch(1), single.run_epoch(1)
    assert row.train_loss == pytest.approx(other.train_loss, rel=1e-5)
    assert row.lr == other.lr
    state, other_state = fused.state(), single.state()
    assert state.keys() == other_state.keys()
    # Adam divides by roots of second moments, which are near 0 for gradients that are rounding errors: outputs do not depend on the bias
    # of attention's keys, so it moves by up to the learning rate in each of the four steps, this way or that.
    largest = {name: float((state[name] - tensor).abs().max()) for name, tensor in other_state.items()}
    assert max(value for name, value in largest.items() if not name.endswith(("k_proj.bias", "key.bias"))) < 1e-4
    assert max(largest.values()) < 8 * row.lr


# ------------------------------------------------------------------------------------------------------------ whole trials


def rows_of(config: Any, store: Store) -> tuple[list[EpochRow], TrialResult]:
    rows: list[Any] = []
    result = run_trial(config, store, rows.append)
    return [timeless(row) for row in rows if isinstance(row, EpochRow)], result


def timeless(row: EpochRow) -> EpochRow:
    return replace(row, seconds=0.0, is_reused=False)


def together(configs: Sequence[Any], store: Store) -> tuple[list[list[EpochRow]], list[TrialResult | Exception]]:
    rows: list[list[EpochRow]] = [[] for _ in configs]
    results = run_trials(configs, store, lambda number, row: rows[number].append(timeless(row)) if isinstance(row, EpochRow) else None)
    return rows, results


@pytest.mark.parametrize("case", ["thawing", "heads"])
def test_trials_side_by_side_have_the_rows_they_have_alone(case, tmp_path):
    of = CASES[case]
    configs = [
        resolve_config(knobs(of, seed=0)),
        resolve_config(knobs(of, seed=0, finetune__lr=1e-2, finetune__epochs=2)),
        resolve_config(knobs(of, seed=1, finetune__label_smoothing=0.1)),
        resolve_config(knobs(of, seed=2, finetune__batch_size=9)),
    ]
    rows, results = together(configs, Store(tmp_path / "together"))
    for number, config in enumerate(configs):
        assert (rows[number], results[number]) == rows_of(config, Store(tmp_path / f"alone-{number}"))
        for stage in stages_of(config):
            kept = [Store(tmp_path / folder).get(stage.address) for folder in ("together", f"alone-{number}")]
            assert all(kept)
            assert same(*(artifact.tensors for artifact in kept))


def test_a_stopped_group_goes_on_with_the_same_bits(tmp_path):
    configs = [resolve_config(knobs(SERIES, seed=seed)) for seed in (0, 1)]
    expected = [rows_of(config, Store(tmp_path / f"alone-{number}")) for number, config in enumerate(configs)]
    seen = []

    def stop(number: int, row: Any) -> None:
        seen.append((number, row.epoch))
        if (number, row.epoch) == (0, 2):
            raise KeyboardInterrupt

    store = Store(tmp_path / "stopped")
    with pytest.raises(KeyboardInterrupt):
        run_trials(configs, store, stop)
    assert seen == [(0, 1), (1, 1), (0, 2)]
    # Of the second trial, epoch 2 had been trained when the first one was stopped: it is evaluated and stored.
    interim = [store.get(stages_of(config)[-1].interim) for config in configs]
    assert [len(artifact.data["rows"]) for artifact in interim if artifact is not None] == [2, 2]
    assert rows_of(configs[1], store) == expected[1]  # goes on alone
    rows, results = together(configs, store)
    assert (rows[0], results[0]) == expected[0]


def test_what_goes_wrong_in_one_member_touches_no_other(tmp_path, monkeypatch):
    configs = [resolve_config(knobs(SERIES, seed=0, finetune__lr=rate)) for rate in (1e-3, 1e30, 1e-2)]
    expected = [rows_of(configs[number], Store(tmp_path / f"alone-{number}")) for number in (0, 2)]
    rows, results = together(configs, Store(tmp_path / "together"))
    assert isinstance(results[1], NotFiniteError)
    assert [(rows[number], results[number]) for number in (0, 2)] == expected

    broken = [tuning(SERIES, Store(tmp_path / "broken"), seed=seed) for seed in (0, 0, 1)]
    alone = tuning(SERIES, Store(tmp_path / "broken"), seed=1).run_epoch(1)

    def fail(*args: Any) -> Any:
        raise DataError("no such augmentation")

    monkeypatch.setattr(broken[0], "data", replace(broken[0].data, augment=fail))
    train_together([(member, 1) for member in broken])
    with pytest.raises(DataError, match="no such augmentation"):
        broken[0].run_epoch(1)
    assert broken[2].run_epoch(1) == alone

    unscored = [tuning(SERIES, Store(tmp_path / "broken"), seed=seed) for seed in (0, 1)]
    monkeypatch.setattr(unscored[0], "score", fail)
    train_together([(member, 1) for member in unscored])
    with pytest.raises(DataError, match="no such augmentation"):
        unscored[0].run_epoch(1)
    assert unscored[1].run_epoch(1) == alone


def test_features_that_are_the_same_are_computed_once(tmp_path):
    store = Store(tmp_path)
    one, two, other = tuning(HEADS, store), tuning(HEADS, store, finetune__lr=1e-2), tuning(HEADS, store, seed=1)
    train_together([(one, 1), (two, 1), (other, 1)])
    assert two.inputs is one.inputs
    assert other.inputs is not one.inputs
    assert not torch.equal(other.inputs[0], one.inputs[0])


def test_models_share_a_body_that_never_trains(tmp_path):
    store = Store(tmp_path)
    one, two, other = tuning(HEADS, store), tuning(HEADS, store, finetune__lr=1e-2), tuning(HEADS, store, seed=1)
    assert two.model.body is one.model.body
    assert other.model.body is not one.model.body
    whole = tuning(IMAGES, store)
    assert whole.model.body is not one.model.body
    assert all(parameter.requires_grad for parameter in whole.model.body.parameters())
    decoders = CASES["heads of a decoder"]
    assert tuning(decoders, store).model.body is not tuning(decoders, store).model.body


def test_features_in_folded_form_are_those_of_the_model(tmp_path):
    store = Store(tmp_path)
    folded, single = tuning(HEADS, store), tuning(HEADS, store, Finetuning, finetune__fused=0)
    assert isinstance(folded.prepare() and folded.passes.fixed, FoldedFeatures)
    for own, other in zip(folded.prepare(), single.prepare(), strict=True):
        assert torch.allclose(own, other, atol=1e-5)


def test_trials_that_are_not_fused_are_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"finetune\.fused: must be above 0"):
        run_trials([small()], Store(tmp_path), lambda number, row: None)
    with pytest.raises(ConfigError, match=r"finetune\.fused: must be 0 on a GPU"):
        run_trial(resolve_config(knobs(SERIES)), Store(tmp_path), lambda row: None, device="cuda")


@pytest.mark.parametrize("case", ["text", "heads"])
def test_a_group_that_stays_together_is_stacked_once_and_follows_its_members(case, tmp_path):
    store = Store(tmp_path)
    alone = tuning(CASES[case], store, seed=1)
    rows = [alone.run_epoch(epoch) for epoch in (1, 2, 3)]
    member, other = tuning(CASES[case], store, seed=1), tuning(CASES[case], store, seed=2)
    assert group_epoch([(other, 1), (member, 1)])[1] == rows[0]
    group, start = member.place[0], member.state()
    start = {name: tensor.clone() for name, tensor in start.items()}
    assert group_epoch([(other, 2), (member, 2)])[1] == rows[1]
    assert member.place[0] is other.place[0] is group
    member.load_state(start)  # what the group has is not what the member has any more
    assert group_epoch([(other, 3), (member, 2)])[1] == rows[1]
    assert member.place[0] is not group
    assert group_epoch([(member, 3), (other, 4)])[0] == rows[2]


@pytest.mark.parametrize("case", ["text", "image", "image to image"])
def test_mini_bodies_are_folded_with_the_gradients_of_single_models(case, tmp_path):
    store = Store(tmp_path)
    models = [tuning(CASES[case], store, seed=seed).model.eval() for seed in (0, 1)]
    torch.manual_seed(0)
    for parameter in (parameter for model in models for parameter in model.parameters()):
        parameter.data.add_(torch.randn_like(parameter), alpha=0.1)  # biases, norms and tables of positions are no longer 0 and 1
    names = [name for name, _ in models[0].named_parameters()]
    own = [[dict(model.named_parameters())[name] for name in names] for model in models]
    weights = {name: torch.stack(of).detach().requires_grad_() for name, of in zip(names, zip(*own, strict=True), strict=True)}
    x = torch.randn(2, 5, *models[0].input_shape)
    folded = FoldedModel.of(models[0])
    assert folded is not None
    outputs, expected = folded(weights, x), [model(of) for model, of in zip(models, x, strict=True)]
    assert torch.allclose(outputs, torch.stack(expected), atol=1e-5)
    errors = torch.randn_like(outputs)
    gradients = torch.autograd.grad((outputs * errors).sum(), list(weights.values()))
    for number, of in enumerate(own):
        singles = torch.autograd.grad((expected[number] * errors[number]).sum(), of)
        for name, gradient, single in zip(names, gradients, singles, strict=True):
            assert torch.allclose(gradient[number], single, rtol=1e-4, atol=1e-4 * float(single.abs().max()) + 1e-5), name


def test_a_model_without_a_folded_form_is_vectorised(tmp_path):
    store = Store(tmp_path)
    fused, single = tuning(IMAGES, store), tuning(IMAGES, store, Finetuning, finetune__fused=0)
    for one in (fused, single):
        one.model.body.blocks[0].shift_size = 2  # windows that are shifted are not in one piece in Z-order
    assert FoldedModel.of(fused.model) is None
    assert fused.run_epoch(1).train_loss == pytest.approx(single.run_epoch(1).train_loss, rel=1e-5)


def test_text_bodies_have_the_same_bits_in_each_part_of_a_group(tmp_path, monkeypatch):
    monkeypatch.setattr(FoldedRoberta, "at_once", 3)  # of four members: two parts of two
    store = Store(tmp_path)
    row = tuning(SERIES, store, seed=1).run_epoch(1)
    others = [tuning(SERIES, store, seed=0, finetune__lr=rate) for rate in (1e-3, 2e-3, 4e-3)]
    for place in range(4):
        group = [*others[:place], tuning(SERIES, store, seed=1), *others[place:]]
        assert group_epoch([(one, 1) for one in group])[place] == row


def test_the_test_set_of_a_group_is_evaluated_where_it_is_asked_for(tmp_path):
    asked = SERIES | {"finetune.test": "best-and-last", "finetune.lr": 1e-1}
    assert tuning(asked, Store(tmp_path)).run_epoch(1).test_error is not None  # the first epoch is the best so far
    member = tuning(asked, Store(tmp_path))
    member.tested.lowest = -1.0
    assert member.run_epoch(1).test_error is None


@pytest.mark.parametrize("length", [3, 16, 40])
def test_attention_of_sequences_of_any_length_is_that_of_torch(length):
    torch.manual_seed(0)
    read = torch.randn(2, 3 * length, 3 * 8, requires_grad=True)
    found, expected = (attend(read, 2, length, most) for most in (length, length - 1))  # written out, and by torch's kernel
    errors = torch.randn_like(found)
    assert torch.allclose(found, expected, atol=1e-5)
    assert torch.allclose(*(torch.autograd.grad((of * errors).sum(), read)[0] for of in (found, expected)), atol=1e-5)


def test_members_of_a_group_pass_in_parts_of_one_size():
    assert parts_of(24, 8) == [slice(0, 8), slice(8, 16), slice(16, 24)]
    assert parts_of(12, 8) == [slice(0, 6), slice(6, 12)]
    assert parts_of(5, 4) == [slice(0, 3), slice(2, 5)]
    assert parts_of(3, 8) == [slice(0, 3)]


def test_the_bits_of_a_member_do_not_depend_on_the_part_it_is_in(tmp_path):
    store = Store(tmp_path)
    wide = {"finetune__fused": 9, "finetune__epochs": 1, "train_samples": 10}  # two parts of 5 members, of which one is in both
    alone = tuning(IMAGES, store, seed=1, **wide)
    row = alone.run_epoch(1)
    others = [tuning(IMAGES, store, seed=0, finetune__lr=rate, **wide) for rate in (1e-3, 2e-3, 4e-3, 8e-3, 1e-2, 2e-2, 3e-2, 4e-2)]
    for place in (0, 4, 8):
        member = tuning(IMAGES, store, seed=1, **wide)
        group = [*others[:place], member, *others[place:]]
        assert group_epoch([(one, 1) for one in group])[place] == row
        assert same(member.state(), alone.state())


# -------------------------------------------------------------------------------------------------------------- arithmetic


@pytest.mark.parametrize("kind", ["adamw", "adam", "sgd"])
def test_stacked_steps_are_those_of_torch(kind):
    torch.manual_seed(0)
    shapes, rates, decays = ((3, 5), (7,)), (0.1, 0.01, 0.003), (0.0, 0.1, 0.5)
    members = [[nn.Parameter(torch.randn(shape)) for shape in shapes] for _ in rates]
    copies = [[nn.Parameter(parameter.detach().clone()) for parameter in member] for member in members]
    kinds = {
        "adamw": lambda parameters, lr, decay: torch.optim.AdamW(parameters, lr, betas=(0.9, 0.98), weight_decay=decay),
        "adam": lambda parameters, lr, decay: torch.optim.Adam(parameters, lr, betas=(0.9, 0.98), weight_decay=decay),
        "sgd": lambda parameters, lr, decay: torch.optim.SGD(parameters, lr, momentum=0.9, weight_decay=decay),
    }
    own, theirs = ([kinds[kind](*given) for given in zip(parts, rates, decays, strict=True)] for parts in (members, copies))
    settings = {"finetune.optimizer": kind, "finetune.momentum": 0.9, "finetune.betas": (0.9, 0.98)}
    names = [(str(place), [member[place] for member in members]) for place in range(2)]
    for epoch in range(2):  # the second one starts from the state that the first one gave back
        weights = Stack(names)
        optimizer_of_all = StackedOptimizer(settings, weights, own)
        optimizer_of_all.start_epoch(torch.tensor(rates).double().expand(3, -1), torch.tensor(decays).double())
        for _ in range(3):
            gradients = [torch.randn(len(rates), *shape) for shape in shapes]
            flat = torch.zeros_like(weights.flat)
            weights.fill(flat, gradients)
            optimizer_of_all.step(flat)
            for number, optimizer in enumerate(theirs):
                for place, parameter in enumerate(copies[number]):
                    parameter.grad = gradients[place][number]
                optimizer.step()
        weights.give_back(range(len(rates)))
        optimizer_of_all.give_back(range(len(rates)))
        for member, copy in zip(members, copies, strict=True):
            for parameter, other in zip(member, copy, strict=True):
                assert torch.allclose(parameter, other, rtol=1e-5, atol=1e-6), epoch


def test_stacked_heads_train_and_are_scored_as_single_ones():
    torch.manual_seed(0)
    heads = [nn.Linear(6, 4) for _ in range(3)]
    group = StackedHeads([(f"linear.{name}", [getattr(head, name) for head in heads]) for name in ("weight", "bias")])
    features, classes = [torch.randn(9, 6) for _ in heads], [torch.randint(0, 4, (9,)) for _ in heads]
    rows = torch.stack([torch.randperm(9) for _ in heads])
    inputs = MemberRows(features, group.with_one), MemberRows(classes)
    for smoothing in (None, torch.tensor([0.0, 0.3, 0.1])):
        gradients: list[Tensor] = []
        losses = group.train(*inputs, rows, 4, smoothing, partial(_note, gradients))
        assert len(gradients) == 3  # two batches of 4, and one of 1
        for number, head in enumerate(heads):
            total = 0.0
            for begin, gradient in zip((0, 4, 8), gradients, strict=True):
                part = rows[number, begin : begin + 4]
                share = 0.0 if smoothing is None else float(smoothing[number])
                loss = nn.functional.cross_entropy(head(features[number][part]), classes[number][part], label_smoothing=share)
                total += loss.item() * len(part)
                expected = torch.autograd.grad(loss, [head.weight, head.bias])
                found = group.parts(gradient[number])
                assert all(torch.allclose(one, other, atol=1e-6) for one, other in zip(found, expected, strict=True))
                assert not group.matrices(gradient)[number, :, 7:].any()
            assert float(losses[number]) == pytest.approx(total, rel=1e-5)
    scores = group.scores(list(zip(features, classes, strict=True)))
    for head, x, y, (loss, error) in zip(heads, features, classes, scores, strict=True):
        assert loss == pytest.approx(nn.functional.cross_entropy(head(x), y).item(), rel=1e-5)
        assert error == (head(x).argmax(1) != y).float().mean().item()


def _note(seen: list[Tensor], gradient: Tensor) -> None:
    seen.append(gradient.clone())


def test_features_that_are_not_joined_are_gathered_all_the_same(monkeypatch):
    torch.manual_seed(0)
    tensors, rows = [torch.randn(9, 6) for _ in range(2)], torch.stack([torch.randperm(9) for _ in range(2)])
    joined = MemberRows([*tensors, tensors[0]], lambda rows: 2 * rows)
    monkeypatch.setattr(stacked, "MOST_JOINED", 9 * 6)
    parted = MemberRows([*tensors, tensors[0]], lambda rows: 2 * rows)
    assert joined.joined is not None
    assert parted.joined is None
    rows = torch.cat([rows, rows[1:]])
    found = [list(one.batches(rows, 2, 3)) for one in (joined, parted)]
    assert [tuple(part.shape) for part in found[0]] == [(3, 3, 2, 6), (1, 3, 2, 6), (1, 3, 1, 6)]
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))
    assert torch.equal(found[0][0][1, 2], 2 * tensors[0][rows[2, 2:4]])


def test_cross_entropies_of_several_models_are_those_of_each():
    torch.manual_seed(0)
    outputs, y, smoothing = torch.randn(2, 5, 4), torch.randint(0, 4, (2, 5)), torch.tensor([0.0, 0.3])
    for shares in (None, smoothing):
        expected = [
            nn.functional.cross_entropy(outputs[m], y[m], label_smoothing=0.0 if shares is None else float(shares[m])) for m in range(2)
        ]
        assert torch.allclose(cross_entropies(outputs, y, shares), torch.stack(expected))


def test_every_member_of_a_stack_starts_at_the_same_place_of_a_line():
    rows = stack([torch.arange(3.0), torch.arange(3.0) + 10])
    assert rows.tolist() == [[0, 1, 2], [10, 11, 12]]
    assert rows.stride(0) % LINE == 0
    assert stack([torch.tensor(1), torch.tensor(2)]).tolist() == [1, 2]


# ------------------------------------------------------------------------------------------------------- ids, keys, faults


def test_only_a_fused_trial_has_the_knob_in_its_id():
    plain, fused, wider = (resolve_config(knobs(SERIES, finetune__fused=width)) for width in (0, 4, 8))
    of = dict(SERIES)
    del of["finetune.fused"]
    assert trial_id(resolve_config(knobs(of))) == trial_id(plain)
    assert len({trial_id(config) for config in (plain, fused, wider)}) == 3
    assert len({stages_of(config)[-1].key for config in (plain, fused, wider)}) == 3


@pytest.mark.parametrize(
    ("knob", "value"),
    [
        ("adapter", "lora"),
        ("align.weight", 0.1),
        ("mix.share", 0.5),
        ("finetune.accum", 2),
        ("finetune.dropout", 0.1),
        ("finetune.checkpointing", True),
        ("finetune.compile", "default"),
        ("finetune.layer_decay", 0.9),
        ("finetune.mixout", 0.1),
        ("finetune.l2_sp", 0.1),
        ("finetune.distill", 0.1),
        ("finetune.smooth.kind", "r3f"),
        ("finetune.mixup.alpha", 0.4),
        ("precision", "bf16"),
        ("threads", 2),
        ("bits", "portable"),
    ],
)
def test_what_no_group_can_do_is_refused(knob, value):
    resolve_config(knobs(SERIES) | {knob: value, "finetune.fused": 0})
    with pytest.raises(ConfigError) as error:
        resolve_config(knobs(SERIES) | {knob: value})
    assert [fault.path for fault in error.value.faults] == [knob]
    assert "with finetune.fused" in error.value.faults[0].rule


def test_a_body_that_is_no_mini_body_must_be_frozen():
    of = {"task": "mnist1d", "body": "transformer-1", "finetune.fused": 4}
    with pytest.raises(ConfigError, match=r"finetune\.fused: must be 0 for transformer-1 unless it is frozen with its embedder"):
        resolve_config(of)
    assert resolve_config(of | {"freezing": "frozen-both"}).finetune.fused == 4
