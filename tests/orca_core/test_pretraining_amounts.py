"""Checkpoints along one pretraining by revision, and how much data a body has seen."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from body_families import write_checkpoint
from huggingface_hub import constants

from orca_core.bodies import find_body
from orca_core.bodies.checkpoints import pythia_tokens
from orca_core.bodies.loading import checkpoint_body
from orca_core.config.resolve import resolve_config
from orca_core.corpora import CORPORA
from orca_core.corpora.images import count_pictures
from orca_core.corpora.sequences import load_sequences
from orca_core.errors import ConfigError
from orca_core.pretraining.seen import seen_in_pretraining
from orca_core.proxies import find_proxy
from orca_core.stages import stages_of
from orca_core.workbench import Workbench

REVISIONS = ("main", "step0", "step3000")


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A cache of the hub with a tiny Pythia at three revisions, each with weights of its own."""
    source = tmp_path / "source"
    model, _ = write_checkpoint("gpt_neox", source)
    cached = tmp_path / "hub" / "models--EleutherAI--pythia-70m"
    (cached / "refs").mkdir(parents=True)
    for number, revision in enumerate(REVISIONS):
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(1)
        commit = str(number) * 40
        (cached / "refs" / revision).write_text(commit)
        model.save_pretrained(cached / "snapshots" / commit)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    with Workbench(tmp_path, tmp_path / "cache").use():
        yield source


def test_a_revision_is_a_checkpoint_of_its_own_known_by_its_content(hub):
    specs = [find_body(f"hf:EleutherAI/pythia-70m{suffix}") for suffix in ("", "@main", "@step0", "@step3000")]
    assert len({spec.digest() for spec in specs}) == 3
    assert specs[0].digest() == specs[1].digest()
    weights = [next(iter(checkpoint_body(spec, spec.digest()).body.parameters())).mean().item() for spec in specs]
    assert weights[1] == weights[0]
    assert weights[2] == pytest.approx(weights[1] + 1, abs=1e-4)
    assert weights[3] == pytest.approx(weights[2] + 1, abs=1e-4)
    assert [spec.pretrain_tokens for spec in specs] == [299_892_736_000, 299_892_736_000, 0, 3000 * 2_097_152]
    keys = [[stage.key for stage in stages_of(resolve_config({"task": "digits", "body": spec.name, "recipe": "laptop"}))] for spec in specs]
    assert keys[0] == keys[1] != keys[2] != keys[3]


def test_a_folder_with_an_at_sign_stays_a_folder(tmp_path, monkeypatch):
    write_checkpoint("bert", tmp_path / "mine@v2")
    monkeypatch.chdir(tmp_path)
    assert find_body("hf:mine@v2").folder == Path("mine@v2")
    assert find_body(f"hf:{tmp_path}/mine@v2").folder == tmp_path / "mine@v2"


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("hf:EleutherAI/pythia-70m@step7", "must be a checkpoint folder or a hub name"),
        ("hf:EleutherAI/pythia-70m@", "must be a hub name, or NAME@REVISION"),
        ("hf:@step0", "must be a hub name, or NAME@REVISION"),
        ("hf:./pythia@step0", "must be an existing checkpoint folder"),
    ],
)
def test_a_revision_that_is_not_there_is_a_fault(hub, monkeypatch, name, said):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ConfigError, match=said):
        find_body(name)


def test_tokens_of_pythia_by_revision():
    assert pythia_tokens("EleutherAI/pythia-1.4b-deduped@step143000") == 299_892_736_000
    assert pythia_tokens("EleutherAI/pythia-12b@step1") == 2_097_152
    assert pythia_tokens("EleutherAI/pythia-12b-v0@step1") is None  # other batches
    assert pythia_tokens("somebody/pythia-12b@step1") is None
    assert pythia_tokens("EleutherAI/pythia-12b@0c1fd4a") is None


def seen(**knobs):
    return seen_in_pretraining(resolve_config({"task": "digits", **{name.replace("__", "."): value for name, value in knobs.items()}}))


def test_a_mini_body_has_seen_its_training_part_in_each_epoch():
    # Of 2400 fractals 240 are held out; 0.02 of the others are 43.
    assert seen(body="mini-swin", pretrain__fraction=0.02, pretrain__epochs=3) == {"pretrain_images": 3 * 43}
    assert count_pictures(CORPORA["fractals"]) == len(find_proxy("fractals").load().labels) == 2400
    # Of 2000 sequences of 31 symbols 200 are held out.
    copies = seen(body="mini-roberta", pretrain__corpus="copy", pretrain__fraction=0.1, pretrain__epochs=2)
    assert copies == {"pretrain_tokens": 2 * 180 * 31}
    ids = load_sequences(CORPORA["pydoc"]).ids
    tokens = seen(body="mini-roberta", pretrain__epochs=1)["pretrain_tokens"]
    assert 0.85 * (ids != 1).sum() < tokens < 0.95 * (ids != 1).sum()
    assert seen(body="mini-roberta", pretrain__epochs=4)["pretrain_tokens"] == 4 * tokens


def test_random_weights_have_seen_nothing_and_kept_or_shuffled_ones_what_they_come_from():
    assert seen(body="mini-roberta", body__weights="random") == {"pretrain_tokens": 0}
    assert seen(body="mini-swin", body__keep=[]) == {"pretrain_images": 0}
    whole = {"pretrain_images": 8 * 2160}
    for knobs in ({}, {"body__keep": ["ffn"]}, {"body__weights": "shuffled"}):
        assert seen(body="mini-swin", **knobs) == whole
    assert seen(body="none") == {}


def test_most_checkpoints_do_not_say_what_they_have_seen(tmp_path):
    body = write_checkpoint("bert", tmp_path)[1]
    assert seen(body=body) == {}
    assert seen(body=body, body__weights="random") == {"pretrain_tokens": 0}
