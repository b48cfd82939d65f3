"""The lowest layers that do not train, computed once; and bodies that read in pieces where no gradients are needed."""

from __future__ import annotations

import math

import pytest
import torch
from body_families import write_checkpoint

from orca_core.bodies import find_body
from orca_core.bodies.families.decoders import DecoderBody
from orca_core.bodies.loading import checkpoint_body, random_body
from orca_core.finetuning import fixed_features
from orca_core.finetuning.fixed_features import PrefixFeatures
from orca_core.finetuning.prefix import prefix_outputs, replaced_blocks, untrained_blocks
from orca_core.identity import trial_id
from orca_core.model import cross_modal
from orca_core.model.cross_modal import CrossModalModel
from orca_core.pipeline import run_trial, trial_rows
from orca_core.rows import EpochRow, Row
from orca_core.settings import Settings
from orca_core.store import Store

TOP = [{"train": ["predictor", "top-layers:1"]}]
SMALL = {"body.weights": "random", "train_samples": 24, "finetune.epochs": 3, "finetune.lr": 0.01}
FAMILIES = (
    *("roberta", "distilbert", "modernbert", "t5", "gpt2", "gpt_neox", "llama"),
    *("vit", "beit", "clip", "swin", "timm-vit", "timm-swin"),
)


def body_of(family, folder):
    _, name = write_checkpoint(family, folder)
    spec = find_body(name)
    body = checkpoint_body(spec, spec.digest()).body
    geometry = body.geometry
    length = geometry.side**2 if geometry.modality == "images" else 5
    return body, torch.randn(3, length, geometry.width, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("family", FAMILIES)
def test_a_body_runs_from_a_block_on_and_computes_nothing_below_it(family, tmp_path):
    body, tokens = body_of(family, tmp_path)
    if isinstance(body, DecoderBody):
        body.flipped = body.doubled = True
    body.requires_grad_(False)
    *below, top = body.blocks
    top.requires_grad_(True)
    body.eval()
    assert untrained_blocks(body) == len(below)
    body(tokens).square().sum().backward()
    expected, gradients = body(tokens).detach(), [parameter.grad.clone() for parameter in top.parameters() if parameter.grad is not None]
    body.zero_grad()
    computed: list[int] = []

    def watch(*blocks):
        leaves = [part for block in blocks for part in block.modules() if not list(part.children())]
        return [part.register_forward_hook(lambda *_: computed.append(1)) for part in leaves]

    above = watch(top)
    given = prefix_outputs(body, tokens, len(below))
    assert given is not None
    assert not computed
    for hook in above:
        hook.remove()
    watch(*below)
    with replaced_blocks(body, len(below), given):
        outputs = body(torch.zeros_like(tokens))
    assert not computed
    torch.testing.assert_close(outputs, expected)
    outputs.square().sum().backward()
    found = [parameter.grad for parameter in top.parameters() if parameter.grad is not None]
    assert len(found) == len(gradients) > 0
    for one, other in zip(found, gradients, strict=True):
        torch.testing.assert_close(one, other)
    torch.testing.assert_close(body(tokens), expected, rtol=0, atol=0)  # its blocks are its own again
    assert computed


def test_what_acts_below_or_outside_the_blocks_leaves_none_out(tmp_path):
    gpt2 = random_body(find_body(write_checkpoint("gpt2", tmp_path)[1]), seed=0, dropout=0.1).body
    gpt2.requires_grad_(False)
    gpt2.blocks[1].requires_grad_(True)
    assert untrained_blocks(gpt2) == 0, "GPT-2 drops tokens below its first block"
    roberta = random_body(find_body("mini-roberta"), seed=0, dropout=0.1).body
    roberta.requires_grad_(False)
    roberta.blocks[1].requires_grad_(True)
    assert untrained_blocks(roberta) == 1
    roberta.blocks[0].requires_grad_(True)
    assert untrained_blocks(roberta) == 0


def test_a_block_that_hands_on_more_than_what_all_samples_share_is_computed_anew(tmp_path):
    body, tokens = body_of("t5", tmp_path)
    assert prefix_outputs(body, tokens, 1) is not None
    body.blocks[0].register_forward_hook(lambda block, inputs, output: (output[0], output[0], None))
    assert prefix_outputs(body, tokens, 1) is None


def rows_of(config, folder) -> list[EpochRow]:
    rows: list[Row] = []
    run_trial(config, Store(folder), rows.append)
    return [row for row in rows if isinstance(row, EpochRow)]


@pytest.mark.parametrize(
    ("body", "freezing"),
    [("mini-roberta", TOP), ("mini-swin", TOP), ("mini-swin", "frozen-embedder:2")],
)
def test_layers_that_are_computed_once_train_as_those_that_are_computed_anew(quick, tmp_path, monkeypatch, body, freezing):
    knobs = SMALL | {"body": body, "freezing": freezing, "finetune.dropout": 0.2}
    anew = rows_of(quick("digits", knobs), tmp_path / "anew")
    calls = []
    outputs = PrefixFeatures.outputs
    monkeypatch.setattr(PrefixFeatures, "outputs", lambda self, x: (calls.append(self.lowest), outputs(self, x))[1])
    once = rows_of(quick("digits", knobs | {"finetune.prefix": "once"}), tmp_path / "once")
    assert set(calls) == {1 if freezing == TOP else 0}
    assert [row.train_loss for row in once] == pytest.approx([row.train_loss for row in anew], rel=1e-5)
    assert [row.valid_error for row in once] == [row.valid_error for row in anew]


def test_a_trial_that_was_stopped_goes_on_with_the_same_layers(quick, tmp_path):
    config = quick("digits", SMALL | {"freezing": TOP, "finetune.prefix": "once", "finetune.dropout": 0.2})
    whole = rows_of(config, tmp_path / "whole")
    stopped = trial_rows(config, Store(tmp_path / "stopped"))
    while not isinstance(row := next(stopped), EpochRow) or row.epoch < 2:
        pass
    stopped.close()
    again = rows_of(config, tmp_path / "stopped")
    assert [row.is_reused for row in again] == [True, True, False]
    assert [(row.train_loss, row.valid_loss) for row in again] == [(row.train_loss, row.valid_loss) for row in whole]


def test_what_does_not_fit_is_computed_anew_and_where_nothing_can_be_kept_the_trial_is_the_same(quick, tmp_path, monkeypatch):
    knobs = SMALL | {"freezing": TOP, "finetune.epochs": 1}
    monkeypatch.setattr(fixed_features, "PREFIX_BYTES", 1)
    monkeypatch.setattr(PrefixFeatures, "outputs", lambda self, x: pytest.fail("it was kept"))
    once, anew = quick("digits", knobs | {"finetune.prefix": "once"}), quick("digits", knobs)
    assert rows_of(once, tmp_path / "once")[0].train_loss == rows_of(anew, tmp_path / "anew")[0].train_loss
    assert trial_id(once) != trial_id(anew)
    for other in ({"freezing": "full"}, {"freezing": "frozen-both"}, {"freezing": "top-layers:1"}, {"finetune.mixout": 0.1}):
        assert trial_id(quick("digits", knobs | other | {"finetune.prefix": "once"})) == trial_id(quick("digits", knobs | other))


@pytest.mark.parametrize("body", ["mini-roberta", "mini-swin"])
def test_without_gradients_a_body_reads_no_more_than_the_cache_holds(quick, monkeypatch, body):
    loaded = random_body(find_body(body), seed=0)
    model = CrossModalModel(Settings.of(quick("digits", {"body": body}), "finetune"), loaded, (1, 8, 8), (10,)).eval()
    x = torch.randn(11, 1, 8, 8)
    sizes: list[int] = []
    model.body.register_forward_hook(lambda block, inputs, output: sizes.append(len(output)))
    whole = model.infer(x)
    assert sizes == [11]
    assert torch.equal(whole, model(x))
    numbers = math.prod(model.embedder(x[:1]).shape)
    for limit, expected in ((4 * numbers, [4, 4, 3]), (1, [1] * 11)):
        sizes.clear()
        monkeypatch.setattr(cross_modal, "MOST_IN_CACHE", limit)
        torch.testing.assert_close(model.infer(x), whole, rtol=1e-5, atol=1e-6)
        assert sizes == expected
