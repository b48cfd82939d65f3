"""Objectives of pretraining: each loss against numbers worked out by hand, and every pair that fits as a stage."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

from orca_core.bodies import find_body
from orca_core.bodies.mini import VOCABULARY, mini_model
from orca_core.config.resolve import resolve_config
from orca_core.corpora import CORPORA, OBJECTIVES, corpus_faults
from orca_core.corpora.images import Pictures
from orca_core.corpora.sequences import LENGTH, PAD, Sequences
from orca_core.pretraining.loop import Pretraining
from orca_core.pretraining.objectives import (
    PIXEL_NOISE,
    Causal,
    DenoisedImages,
    DenoisedText,
    LabelledText,
    Masked,
    squares,
    with_label_noise,
)
from orca_core.settings import Settings

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return mini_model(find_body("mini-roberta-small")).eval()


def sentences(*lengths: int) -> Sequences:
    ids = np.full((len(lengths), LENGTH), PAD, dtype=np.int64)
    for number, (row, length) in enumerate(zip(ids, lengths, strict=True)):
        row[:length] = 10 + number + np.arange(length)
    return Sequences(ids, np.arange(len(lengths)) % 3, 3)


def constant(head: nn.Linear, word: int, weight: float) -> None:
    """A head that gives one answer the logit `weight` and all others 0, whatever it reads."""
    nn.init.zeros_(head.weight)
    nn.init.zeros_(head.bias)
    head.bias.data[word] = weight


def draws(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_the_next_word_is_predicted_from_words_before_it_alone(model):
    task = Causal(sentences(12, 20), model, CPU)
    ids = task.ids.clone()
    before = task.hidden(ids)
    ids[:, 7] = 99
    after = task.hidden(ids)
    assert torch.equal(before[:, :7], after[:, :7])
    assert not torch.allclose(before[:, 7:12], after[:, 7:12])


def test_causal_loss_is_over_each_word_but_the_first(model):
    task = Causal(sentences(5), model, CPU)
    constant(task.head, 12, math.log(3))  # of the words 10 ... 14, four are predicted, one of them is 12
    loss, error = task.loss(torch.tensor([0]), draws())
    normaliser = math.log(3 + VOCABULARY - 1)
    assert loss.item() == pytest.approx(normaliser - math.log(3) / 4, rel=1e-6)
    assert error.item() == pytest.approx(3 / 4)


def test_masked_loss_is_over_masked_words_at_least_one_a_sentence(model):
    task = Masked(sentences(1), model, CPU)
    constant(task.head, 10, math.log(3))
    loss, error = task.loss(torch.tensor([0]), draws())
    assert loss.item() == pytest.approx(math.log(3 + VOCABULARY - 1) - math.log(3), rel=1e-6)
    assert error.item() == 0


def test_denoised_text_is_scored_on_replaced_words_and_learns_from_all(model):
    task = DenoisedText(sentences(1, 1), model, CPU)
    constant(task.head, 10, math.log(3))  # right for the first sentence, wrong for the second
    loss, error = task.loss(torch.tensor([0, 1]), draws())
    assert loss.item() == pytest.approx(math.log(3 + VOCABULARY - 1) - math.log(3) / 2, rel=1e-6)
    assert error.item() == 0.5


def test_labels_of_text_are_predicted_from_the_mean_of_its_words(model):
    task = LabelledText(sentences(3, 7, 5), model, CPU)
    constant(task.head, 1, math.log(2))
    loss, error = task.loss(torch.tensor([0, 1, 2]), draws())
    assert loss.item() == pytest.approx(math.log(4) - math.log(2) / 3, rel=1e-6)
    assert error.item() == pytest.approx(2 / 3)
    seen = []
    handle = task.head.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    task.loss(torch.tensor([0]), draws())
    handle.remove()
    hidden = model(input_ids=task.ids[:1, :3], attention_mask=torch.ones(1, 3, dtype=torch.long))[0]
    torch.testing.assert_close(seen[0], hidden.mean(1), rtol=1e-4, atol=1e-5)


def test_squares_are_the_pixels_below_each_output_token():
    images = torch.arange(2 * 1 * 4 * 4, dtype=torch.float32).reshape(2, 1, 4, 4)
    assert squares(images, 2)[0].tolist() == [[0, 1, 4, 5], [2, 3, 6, 7], [8, 9, 12, 13], [10, 11, 14, 15]]


def test_denoised_images_lose_the_mean_square_where_the_answer_is_grey():
    grey = np.full((2, 3, 16, 16), 0.5, dtype=np.float32)
    task = DenoisedImages(Pictures(grey, np.zeros(2, dtype=np.int64), 2), mini_model(find_body("mini-swin")).eval(), CPU)
    nn.init.zeros_(task.head.weight)
    nn.init.zeros_(task.head.bias)
    loss, error = task.loss(torch.tensor([0, 1]), draws())
    expected = np.mean([((0.5 - m) / s) ** 2 for m, s in zip((0.485, 0.456, 0.406), (0.229, 0.224, 0.225), strict=True)])
    assert loss.item() == error.item() == pytest.approx(expected, rel=1e-5)
    assert task.head.out_features == 3 * 4 * 4  # 16 pixels a side, 4 tokens a side
    assert PIXEL_NOISE > 0


def test_label_noise_changes_a_share_of_labels_to_others_and_grows_by_adding():
    labels = torch.arange(10).repeat(400)
    few, many = (with_label_noise(labels, 10, share, draws(3)) for share in (0.1, 0.4))
    changed, more = few != labels, many != labels
    assert abs(changed.float().mean() - 0.1) < 4 * math.sqrt(0.09 / 4000)
    assert abs(more.float().mean() - 0.4) < 4 * math.sqrt(0.24 / 4000)
    assert torch.equal(few[changed], many[changed])
    counts = torch.bincount((many - labels)[more] % 10, minlength=10)
    assert counts[0] == 0
    assert all(abs(count - more.sum() / 9) < 5 * math.sqrt(more.sum() / 9) for count in counts[1:])
    assert torch.equal(with_label_noise(labels, 10, 0.0, draws(3)), labels)


def stage(**knobs) -> Pretraining:
    config = resolve_config({"task": "digits", "pretrain.fraction": 0.02, **knobs})
    return Pretraining(Settings.of(config, "pretrain"), CPU)


def test_label_noise_leaves_the_samples_that_are_held_out_alone():
    of_noise = {"body": "mini-swin", "pretrain.corpus": "noise"}
    clean, noisy = stage(**of_noise), stage(**of_noise, **{"pretrain.label_noise": 0.5})
    assert torch.equal(clean.task.labels[clean.valid], noisy.task.labels[clean.valid])
    assert torch.equal(clean.train, noisy.train)
    wrong = (clean.task.labels != noisy.task.labels)[clean.train].float().mean()
    assert 0.2 < wrong < 0.8
    assert (clean.task.labels != noisy.task.labels).sum() == (clean.task.labels != noisy.task.labels)[clean.train].sum()


def test_the_pairs_that_fit():
    for body, count in (("mini-roberta-small", 7 * 3 + 2), ("mini-swin", 2 * 2)):
        spec = find_body(body)
        assert sum(not corpus_faults(spec, corpus, objective) for corpus in CORPORA for objective in OBJECTIVES) == count


@pytest.mark.parametrize(
    ("body", "corpus", "objective"),
    [
        ("mini-roberta-small", "dyck", "masked"),
        ("mini-roberta-small", "bigram", "causal"),
        ("mini-roberta-small", "noise", "labels"),
        ("mini-roberta-small", "sort", "denoise"),
        ("mini-swin", "noise", "labels"),
        ("mini-swin", "noise", "denoise"),
    ],
)
def test_each_objective_trains_and_goes_on_from_its_state_to_the_same_bits(body, corpus, objective):
    knobs = {"body": body, "pretrain.corpus": corpus, "pretrain.objective": objective}
    whole, resumed = stage(**knobs), stage(**knobs)
    whole.run_epoch(1)
    resumed.load_state(whole.state())
    rows = [part.run_epoch(2) for part in (whole, resumed)]
    assert rows[0] == rows[1]
    assert all(math.isfinite(value) for value in (rows[0].train_loss, rows[0].valid_loss, rows[0].valid_error))
    state, other = whole.state(), resumed.state()
    assert all(torch.equal(state[name], other[name]) for name in state)
