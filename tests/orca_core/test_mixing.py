"""PaRe: tokens of the proxy replace some of the target's, by a gate, fewer from epoch to epoch."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch.nn import functional as F
from trials import tiny_bodies

from orca_core.alignment.source import source_features
from orca_core.alignment.source_tokens import SourceTokens
from orca_core.bodies import find_body
from orca_core.bodies.loading import random_body
from orca_core.config.resolve import resolve_config
from orca_core.errors import ConfigError, DataError
from orca_core.finetuning.loop import Finetuning
from orca_core.finetuning.subsets import draw_subset, gumbel, replace_tokens, top
from orca_core.finetuning.terms.mixing import Mixing, tokens_of_proxy
from orca_core.identity import trial_id, unread_knobs
from orca_core.model.cross_modal import CrossModalModel
from orca_core.pipeline import run_trial
from orca_core.proxies import find_proxy
from orca_core.rows import EpochRow
from orca_core.seeding import generator
from orca_core.settings import Settings
from orca_core.stages import stages_of
from orca_core.store import Store
from orca_core.trial_stages import load_data
from sweeper.running.preflight import check_mixing

CPU = torch.device("cpu")

MIX = {
    "body.weights": "random",
    "align.proxy_samples": 12,
    "mix.share": 0.5,
    "mix.epochs": 2.0,
    "mix.gate_epochs": 1,
    "finetune.batch_size": 16,
    "finetune.epochs": 3,
    "train_samples": 24,
}


# --------------------------------------------------------------------------------------------------------------- by hand


def test_the_share_falls_as_in_the_reference():
    """Its settings for images, 2000 of 3136 patches that fall by 1500 over 60 epochs, and for series, 32 of 64 tokens that fall to 0."""
    for epoch in range(1, 61):
        assert tokens_of_proxy(epoch, 3136, 2000 / 3136, 500 / 3136, 60) == int(2000 - 1500 * ((epoch - 1) / 60))
        assert tokens_of_proxy(epoch, 64, 0.5, 0.0, 15) == (int(32 - 32 * ((epoch - 1) / 15)) if epoch <= 15 else 0)


def test_a_subset_of_one_has_the_gradient_of_the_softmax():
    scores = torch.tensor([[0.1, 0.7, 0.2]], requires_grad=True)
    subset = draw_subset(scores, torch.zeros(1, 3), 1, temperature=0.5)
    assert subset.tolist() == [[0.0, 1.0, 0.0]]
    weights = torch.tensor([[3.0, 5.0, 7.0]])
    (gradient,) = torch.autograd.grad((weights * subset).sum(), scores)
    p = torch.softmax(scores.detach() / 0.5, 1)
    by_hand = p * (weights - (weights * p).sum()) / 0.5
    torch.testing.assert_close(gradient, by_hand)


def test_subsets_are_draws_without_replacement_by_the_softmax_of_the_scores():
    """P(first is i, then j) = p_i p_j / (1 - p_i) (Plackett & Luce); so the pair {0, 1} of p = (1/2, 1/3, 1/6) has 1/2 2/3 + 1/3 3/4."""
    scores = torch.tensor([0.5, 1 / 3, 1 / 6]).log().repeat(20_000, 1)
    noise = gumbel(scores.shape, torch.Generator().manual_seed(0))
    pairs = top(scores + noise, 2)
    share = (pairs == torch.tensor([1.0, 1.0, 0.0])).all(1).double().mean().item()
    assert share == pytest.approx(1 / 2 * 2 / 3 + 1 / 3 * 3 / 4, abs=4 * math.sqrt(0.25 / 20_000))
    relaxed = draw_subset(scores[:500], noise[:500], 2, temperature=0.01)  # towards temperature 0 the same subsets
    assert (relaxed == pairs[:500]).all(1).double().mean() > 0.98


def test_replaced_tokens_stand_in_the_order_of_both_sequences():
    target = torch.arange(8.0).view(2, 4, 1)
    source = 100 + target
    keep, take = torch.tensor([[1.0, 0, 1, 0], [0, 0, 1, 1]]), torch.tensor([[0.0, 1, 1, 0], [1, 0, 0, 1]])
    mixed = replace_tokens(target, source, keep, take)
    assert mixed[..., 0].tolist() == [[0, 101, 2, 102], [104, 107, 6, 7]]
    keep.requires_grad_(), take.requires_grad_()
    gradients = torch.autograd.grad(replace_tokens(target, source, keep, take).sum(), (keep, take))
    assert gradients[0].tolist() == [[0, 0, 2, 0], [0, 0, 6, 7]], "the gate of a token sees what the token does; of a replaced one, nothing"
    assert gradients[1].tolist() == [[0, 101, 102, 0], [104, 0, 0, 107]]


# ---------------------------------------------------------------------------------------------------------- source tokens


@pytest.mark.parametrize(("body", "proxy"), [("mini-swin", "task:digits"), ("mini-roberta", "pydoc")])
def test_source_tokens_are_those_whose_means_are_the_source_features(body, proxy):
    loaded = random_body(find_body(body), seed=0)
    features, labels = source_features(find_proxy(proxy), loaded, samples=5, seed=0, device=CPU)
    geometry = loaded.body.geometry
    length = geometry.side**2 if geometry.image_size else geometry.max_tokens
    source = SourceTokens(find_proxy(proxy), loaded, samples=5, length=length, seed=0, device=CPU)
    tokens = source(torch.arange(5))
    assert tokens.shape == (5, length, geometry.width)
    for row in range(5):
        own = length if geometry.image_size else int(source.places[row].max() - source.places[row].min()) + 1
        torch.testing.assert_close(tokens[row, :own].mean(0), features[row], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(tokens[row], tokens[row, torch.arange(length) % own])
    assert torch.equal(torch.unique(labels)[source.labels], labels)


# -------------------------------------------------------------------------------------------------------------- the loss


def tuning_of(config):
    data = load_data(Settings.of(config, "finetune"))
    settings = Settings.of(config, "finetune")
    loaded = random_body(find_body(config.body.name), seed=0)
    model = CrossModalModel(settings, loaded, data.input_shape, data.output_shape)
    length = model.embedder(data.inputs(torch.from_numpy(data.train.x[:1]))).shape[1]
    source = SourceTokens(find_proxy(config.proxy), loaded, samples=12, length=length, seed=0, device=CPU)
    mixing = Mixing(settings, model, data, source)
    tuning = Finetuning(settings, model, data, CPU, terms=[mixing])
    tuning.start_phase(settings)
    return tuning, mixing, data


def test_the_loss_is_that_of_the_formula(quick):
    """One batch, epoch 2: the gate no longer draws, so the tokens that enter are known; lambda is 1/4."""
    config = quick("mnist1d", {**MIX, "proxy": "pydoc", "finetune.batch_size": 1000, "mix.weight": 0.3})
    tuning, mixing, data = tuning_of(config)
    model, gate, classifier = tuning.model, mixing.layers["gate"], mixing.layers["classifier"]
    with torch.no_grad():
        x = torch.from_numpy(data.train.x)
        order = torch.randperm(len(x), generator=generator(0, "data-order", 2))
        rows = torch.randint(len(mixing.source), (len(x),), generator=generator(0, "mix", 2))
        target, tokens = model.embedder(x[order]), mixing.source(rows)
        length = target.shape[1]
        k = int(length * 0.25)
        assert k > 0
        mixed = target.clone()
        for n in range(len(x)):
            worst = torch.argsort(gate(target[n])[:, 0])[:k].sort().values  # the sigmoid keeps the order
            best = torch.argsort(gate(tokens[n])[:, 0], descending=True)[:k].sort().values
            mixed[n, worst] = tokens[n, best]
        read = model.body(mixed)
        y = torch.from_numpy(data.train.y)[order]
        task = F.cross_entropy(model.predictor(read.mean(1)), y)
        proxy = F.cross_entropy(classifier(read.mean(1)), mixing.source.labels[rows])
        expected = 0.3 * ((1 - k / length) * task + k / length * proxy)
    captured = []
    own = mixing.penalty
    mixing.penalty = lambda step: captured.append(own(step)) or captured[-1]
    row = tuning.run_epoch(2)
    torch.testing.assert_close(captured[0].value.detach(), expected, rtol=1e-4, atol=1e-5)
    assert row.mixed_share == pytest.approx(k / length)
    assert row.source_loss == pytest.approx(proxy.item(), rel=1e-4)


def test_the_gate_learns_while_it_draws_and_then_rests(quick):
    config = quick("mnist1d", {**MIX, "proxy": "pydoc", "mix.epochs": 10.0})
    tuning, mixing, _ = tuning_of(config)
    weights = [{name: tensor.clone() for name, tensor in mixing.layers.state_dict().items()}]
    for epoch in (1, 2):
        tuning.run_epoch(epoch)
        weights.append({name: tensor.clone() for name, tensor in mixing.layers.state_dict().items()})
    moved = [{name for name in weights[0] if not torch.equal(one[name], two[name])} for one, two in itertools.pairwise(weights)]
    assert moved[0] == {"gate.weight", "gate.bias", "classifier.weight", "classifier.bias"}
    assert moved[1] == {"classifier.weight", "classifier.bias"}


# --------------------------------------------------------------------------------------------------------------- trials


def rows_of(config, folder):
    rows = []
    run_trial(config, Store(folder), rows.append)
    return [row for row in rows if isinstance(row, EpochRow) and row.stage == "finetune"]


@pytest.mark.parametrize("family", ["bert", "gpt2", "swin"])
def test_encoders_decoders_and_vision_bodies_mix(tmp_path, family):
    with tiny_bodies(tmp_path, with_images=family == "swin"):
        task = "npz:tiny/images.npz" if family == "swin" else "npz:tiny/series.npz"
        knobs = {"task": task, "recipe": "laptop", "body": f"hf:tiny/{family}", "proxy": "noise", "finetune.decay_epochs": None, **MIX}
        mixed = rows_of(resolve_config(knobs), tmp_path / "mixed")
        plain = rows_of(resolve_config(knobs | {"mix.share": 0.0, "finetune.epochs": 1}), tmp_path / "plain")
    assert mixed[0].mixed_share == pytest.approx(0.5, abs=0.07)
    assert mixed[0].mixed_share > mixed[1].mixed_share
    assert mixed[2].mixed_share is None  # the share is 0: two epochs are over
    assert [row.mixed_share for row in plain] == [None]
    assert mixed[0].valid_loss != plain[0].valid_loss


def test_a_cut_run_goes_on_bit_for_bit(quick, rows_of_cut_runs):
    knobs = {**MIX, "proxy": "noise", "mix.epochs": 10.0, "mix.gate_epochs": 2, "freezing": "frozen-body:2"}
    whole, again = rows_of_cut_runs(quick("mnist1d", knobs), [2])  # in the second phase
    assert all(run == whole for run in again)


def test_a_sequence_of_one_token_has_none_to_replace(quick, tmp_path):
    with pytest.raises(DataError, match=r"openml/187: .* mix.share 0.5"):
        run_trial(quick("openml/187", {**MIX, "proxy": "pydoc"}), Store(tmp_path), lambda row: None)


def test_tasks_whose_samples_have_nothing_to_replace_are_told_before_anything_starts(quick):
    short = [quick("openml/187", MIX | {"mix.share": share}) for share in (0.5, 0.0)]
    with pytest.raises(ConfigError) as error:
        check_mixing([*short, quick("digits", MIX | {"body": "mini-roberta"})], "space.yaml")
    assert [fault.text() for fault in error.value.faults] == [
        "mix.share: must replace at least one token of a sample, of which openml/187 with mini-roberta has 1 token, but got 0.5. "
        "Leave this task out, or set mix.share to 0 for it."
    ]
    check_mixing([quick("openml/187", MIX | {"body": "none"})])


def test_what_is_read_and_what_is_refused(quick):
    on, off = {"mix.share": 0.5, "proxy": "photos"}, {"proxy": "photos"}
    assert trial_id(quick("digits", on)) != trial_id(quick("digits", off))
    assert {"mix.gate", "mix.epochs", "proxy"} <= unread_knobs(quick("digits", off))
    assert not {"mix.gate", "mix.epochs", "proxy", "align.proxy_samples"} & unread_knobs(quick("digits", on))
    assert "mix.gate_epochs" in unread_knobs(quick("digits", {**on, "mix.gate": "random"}))
    assert [stage.kind for stage in stages_of(quick("digits", on))] == ["pretrain", "source", "finetune"]
    assert [stage.kind for stage in stages_of(quick("digits", {**on, "freezing": "frozen-both"}))] == ["pretrain", "finetune"]
    assert trial_id(quick("digits", {"body": "none", "mix.share": 0.5})) == trial_id(quick("digits", {"body": "none"}))
    with pytest.raises(ConfigError) as raised:
        quick("digits", {"mix.share": 0.5, "proxy": "noise-matched:photos", "finetune.mixout": 0.2, "precision": "fp16"})
    assert {fault.path for fault in raised.value.faults} == {"mix.share", "proxy"}
    assert len(raised.value.faults) == 3
    with pytest.raises(ConfigError, match=r"mix.end_share: must be at most mix.share \(0.2\)"):
        quick("digits", {"mix.share": 0.2, "mix.end_share": 0.4})
