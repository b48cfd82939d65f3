"""What the mini bodies can be pretrained on: each generated corpus against a property worked out by hand."""

from __future__ import annotations

from collections import Counter
from functools import cache
from itertools import pairwise

import numpy as np
import pytest

from orca_core.bodies import find_body
from orca_core.bodies.mini import VOCABULARY
from orca_core.config.model_knobs import PretrainConfig
from orca_core.config.resolve import resolve_config
from orca_core.corpora import CORPORA, OBJECTIVES, corpus_faults
from orca_core.corpora.images import load_pictures
from orca_core.corpora.sequences import COUNT, FIRST, LENGTH, PAD, Sequences, load_sequences, next_generation
from orca_core.errors import ConfigError
from orca_core.identity import trial_id
from orca_core.stages import stages_of

TEXT = [name for name, corpus in CORPORA.items() if "text" in corpus.modalities]


@cache
def sequences(name: str) -> Sequences:
    """A corpus, drawn once for all tests here."""
    return load_sequences(CORPORA[name])


@cache
def symbols(name: str) -> list[list[int]]:
    """The sequences of a corpus as lists of symbols, without padding."""
    found = sequences(name)
    return [[int(word) - FIRST for word in row if word != PAD] for row in found.ids]


@pytest.mark.parametrize("name", TEXT)
def test_sequences_are_words_of_the_vocabulary_with_padding_at_the_end(name):
    found = sequences(name)
    assert found.ids.shape[1] == LENGTH
    assert len(found.ids) == COUNT or name == "pydoc"
    assert found.ids.min() >= 1
    assert found.ids.max() < VOCABULARY
    assert found.is_word[:, 0].all()
    assert (np.diff(found.is_word.astype(int), axis=1) <= 0).all()
    assert (found.labels is not None) == CORPORA[name].is_labelled


def test_brackets_are_balanced_and_properly_nested():
    deepest = 0
    for word in symbols("dyck"):
        stack: list[int] = []
        for symbol in word:
            if symbol % 2 == 0:
                stack.append(symbol)
            else:
                assert stack.pop() == symbol - 1
            deepest = max(deepest, len(stack))
        assert not stack
        assert len(word) == LENGTH
    assert deepest > 4
    assert {symbol for word in symbols("dyck") for symbol in word} == set(range(32))


def test_what_follows_the_separator_is_sorted_or_the_same():
    for word in symbols("sort"):
        assert word[15] == 100
        assert word[16:] == sorted(word[:15])
    for word in symbols("copy"):
        assert word[15] == 100
        assert word[16:] == word[:15]
    assert any(word[16:] != sorted(word[:15]) for word in symbols("copy"))


RULE_110 = {"111": 0, "110": 1, "101": 1, "100": 0, "011": 1, "010": 1, "001": 1, "000": 0}
"""The rule's table, neighbourhood by neighbourhood; its values read from the top are 01101110, which is 110."""


def test_each_generation_follows_the_table_of_the_rule():
    assert next_generation(np.array([0, 0, 0, 1, 0, 0])).tolist() == [0, 0, 1, 1, 0, 0]
    for word in symbols("automata"):
        rows = ["".join(f"{symbol:04b}" for symbol in word[start : start + 6]) for start in range(0, 30, 6)]
        for row, following in pairwise(rows):
            ring = row[-1] + row + row[0]
            assert [int(cell) for cell in following] == [RULE_110[ring[i : i + 3]] for i in range(24)]


def test_a_bigram_walk_has_the_pairs_of_pydoc_with_their_frequencies_and_not_its_triples():
    texts, walks = symbols("pydoc"), symbols("bigram")

    def grams(rows: list[list[int]], n: int) -> Counter[tuple[int, ...]]:
        return Counter(tuple(row[i : i + n]) for row in rows for i in range(len(row) - n + 1))

    pairs, walked = grams(texts, 2), grams(walks, 2)
    assert walked.keys() <= pairs.keys()
    assert not grams(walks, 3).keys() <= grams(texts, 3).keys()
    # P(word | "the") of the ten most frequent followers, within four standard errors.
    the = Counter(word for row in texts for word in row).most_common(1)[0][0]
    total, walked_total = (sum(count for pair, count in found.items() if pair[0] == the) for found in (pairs, walked))
    followers = [pair for pair, _ in pairs.most_common() if pair[0] == the][:10]
    ends = sum(row[-1] == the and len(row) < LENGTH for row in texts)
    assert ends == 0  # else the end would be one more follower
    for pair in followers:
        p = pairs[pair] / total
        assert abs(walked[pair] / walked_total - p) < 4 * np.sqrt(p * (1 - p) / walked_total)
    assert {row[0] for row in walks} <= {row[0] for row in texts}


def test_noise_has_all_words_pixels_and_labels():
    text, pictures = sequences("noise"), load_pictures(CORPORA["noise"])
    assert text.labels is not None
    assert set(text.labels) == set(range(text.num_labels))
    counts = np.bincount(text.ids.ravel(), minlength=VOCABULARY)[FIRST:]
    assert abs(counts.var() / counts.mean() - 1) < 0.15  # as of a Poisson distribution
    assert pictures.images.dtype == np.float32
    assert pictures.images.min() >= 0
    assert pictures.images.max() < 1
    assert abs(pictures.images.mean() - 0.5) < 0.002
    assert abs(pictures.images.var() - 1 / 12) < 0.002
    assert set(pictures.labels) == set(range(pictures.num_labels))


def test_corpora_are_the_same_in_every_process():
    digests = {name: int(sequences(name).ids.sum()) for name in DIGESTS}
    assert digests == DIGESTS


DIGESTS = {"dyck": 1308664, "sort": 3465094, "copy": 3478250, "automata": 791858, "noise": 64369452}
"""Sums of all word ids."""


# ------------------------------------------------------------------------------------------------------ knobs, keys, faults


def config(**knobs):
    return resolve_config({"task": "digits", "body": "mini-roberta", **{name.replace("__", "."): value for name, value in knobs.items()}})


def pretrain_key(**knobs) -> str:
    return next(stage.key for stage in stages_of(config(**knobs)) if stage.kind == "pretrain")


def test_the_values_of_the_knobs_are_those_of_the_tables():
    fields = PretrainConfig.model_fields
    assert set(fields["corpus"].annotation.__args__) == {"own", *CORPORA}
    assert set(fields["objective"].annotation.__args__) == {"own", *OBJECTIVES}


def test_the_own_corpus_and_objective_by_name_are_the_default():
    assert trial_id(config(pretrain__corpus="pydoc", pretrain__objective="masked")) == trial_id(config())
    swin = {"body": "mini-swin"}
    assert trial_id(config(**swin, pretrain__corpus="fractals", pretrain__objective="labels")) == trial_id(config(**swin))
    assert trial_id(config(pretrain__label_noise=0.3)) == trial_id(config())  # the objective is not labels


def test_each_content_of_pretraining_has_a_key_of_its_own():
    keys = {pretrain_key(pretrain__corpus=corpus) for corpus in TEXT}
    keys |= {pretrain_key(pretrain__objective=objective) for objective in OBJECTIVES}
    keys.add(pretrain_key(pretrain__objective="labels", pretrain__label_noise=0.1))
    assert len(keys) == len(TEXT) + len(OBJECTIVES) - 1 + 1


@pytest.mark.parametrize(
    ("body", "corpus", "objective", "said"),
    [
        ("mini-swin", "dyck", "own", "pretrain.corpus: must be of images for mini-swin, but got 'dyck'. Of images: fractals, noise."),
        ("mini-roberta", "fractals", "own", "pretrain.corpus: must be of text for mini-roberta"),
        ("mini-swin", "own", "causal", "pretrain.objective: must be one of labels, denoise for mini-swin"),
        ("mini-roberta", "dyck", "labels", "pretrain.objective: must not be labels: dyck has none, but got 'labels'. With labels: pydoc"),
    ],
)
def test_what_does_not_fit_a_body_is_a_fault(body, corpus, objective, said):
    with pytest.raises(ConfigError) as caught:
        config(body=body, pretrain__corpus=corpus, pretrain__objective=objective)
    assert said in str(caught.value)


def test_a_corpus_and_an_objective_that_do_not_fit_are_two_faults():
    assert [fault.path for fault in corpus_faults(find_body("mini-swin"), "copy", "masked")] == ["pretrain.corpus", "pretrain.objective"]


@pytest.mark.parametrize("share", [-0.1, 0.51])
def test_label_noise_is_at_most_a_half(share):
    with pytest.raises(ConfigError, match=r"pretrain\.label_noise"):
        config(pretrain__objective="labels", pretrain__label_noise=share)
