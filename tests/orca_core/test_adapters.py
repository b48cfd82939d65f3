"""Adapters: what trains, what stays, the draws, resuming, and options that peft refuses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from body_families import write_checkpoint

from orca_core.adapters.inserted import check_adapter
from orca_core.adapters.names import ADAPTERS, spell_adapter
from orca_core.adapters.own import OWN
from orca_core.bodies import find_body
from orca_core.bodies.loading import random_body
from orca_core.config.knobs import TrialConfig
from orca_core.config.resolve import resolve_config
from orca_core.errors import ConfigError
from orca_core.finetuning.loop import Finetuning
from orca_core.identity import canonical_knobs, trial_id
from orca_core.model.cross_modal import CrossModalModel
from orca_core.settings import Settings
from orca_core.stages import stages_of
from orca_core.tasks import find_task
from sweeper.results.store import ResultStore
from sweeper.running.preflight import check_adapters
from sweeper.space.reading import load_space
from sweeper.sweep import run_space

ADALORA = {"name": "adalora", "init_r": 6, "target_r": 2, "total_step": 8, "tinit": 1, "tfinal": 2}
TESTED: dict[str, Any] = {
    "lora": {"name": "lora", "r": 4},
    "dora": "dora",
    "adalora": ADALORA,
    "ia3": "ia3",
    "ln_tuning": "ln_tuning",
    "oft": {"name": "oft", "oft_block_size": 8},
}


def config_for(quick, adapter: Any, **knobs: Any) -> TrialConfig:
    return quick("openml/187", {"body.weights": "random", "adapter": adapter, "train_samples": 64, "finetune.batch_size": 32, **knobs})


def model_for(config: TrialConfig) -> CrossModalModel:
    return CrossModalModel(Settings.of(config, "finetune"), random_body(config.body_spec, seed=config.seed), (13, 1), (3,))


def tuning_for(config: TrialConfig) -> Finetuning:
    tuning = Finetuning(Settings.of(config, "finetune"), model_for(config), find_task("openml/187").load(), torch.device("cpu"))
    tuning.train = tuple(part[:64] for part in tuning.train)
    tuning.start_phase(tuning.settings)
    return tuning


# Spellings


@pytest.mark.parametrize(
    ("given", "spelled"),
    [
        ("none", "none"),
        ("lora", "lora"),
        ({"name": "lora"}, "lora"),
        ({"r": 4, "name": "lora"}, '{"name":"lora","r":4}'),
        ('{"name": "lora", "r": 4}', '{"name":"lora","r":4}'),
    ],
)
def test_an_adapter_has_one_spelling(quick, given, spelled):
    assert spell_adapter(given) == spelled
    assert canonical_knobs(config_for(quick, given))["adapter"] == spelled


def test_options_are_part_of_a_trial_and_none_is_not(quick):
    plain = quick("openml/187", {"body.weights": "random", "train_samples": 64, "finetune.batch_size": 32})
    assert trial_id(config_for(quick, "none")) == trial_id(plain)
    ids = {trial_id(config_for(quick, adapter)) for adapter in ("none", "lora", {"name": "lora", "r": 4}, {"name": "lora", "r": 2})}
    assert len(ids) == 4
    with_adapter, without = (
        stages_of(config_for(quick, "lora", **{"align.epochs": 1})),
        stages_of(config_for(quick, "none", **{"align.epochs": 1})),
    )
    assert [one.key == other.key for one, other in zip(with_adapter, without, strict=True)] == [
        True,
        True,
        False,
    ]  # source, align, finetune


# What trains


PER_LINEAR = {  # of one linear layer from i to o features
    "lora": lambda i, o: 4 * (i + o),
    "dora": lambda i, o: 8 * (i + o) + o,
    "adalora": lambda i, o: 6 * (i + o) + 6,
    "oft": lambda i, o: i // 8 * (8 * 7 // 2),
}
ATTENTION, FEED_FORWARD = [(64, 64)] * 4, [(64, 128), (128, 64)]  # of one layer of mini-roberta; it has two


def expected(name: str) -> int:
    """Weights of an adapter in mini-roberta, by hand."""
    if name == "ln_tuning":
        return 2 * 2 * 2 * 64
    if name == "ia3":
        return 2 * (sum(o for _, o in ATTENTION) + sum(i for i, _ in FEED_FORWARD))
    return 2 * sum(PER_LINEAR[name](i, o) for i, o in ATTENTION + FEED_FORWARD)


@pytest.mark.parametrize("name", TESTED)
def test_the_adapter_trains_beside_embedder_and_predictor(quick, name):
    config = config_for(quick, TESTED[name], **{"embedder.target_seq_len": 512})
    model = model_for(config)
    model.train_only(config.phases[0].train)
    embedder = (13 * 64 + 64) + 2 * 64 + 1 * 64
    assert model.num_trained() == embedder + (64 * 3 + 3) + expected(name)


@pytest.mark.parametrize("name", TESTED)
def test_the_body_keeps_its_bytes_and_the_adapter_changes(quick, name):
    tuning = tuning_for(config_for(quick, TESTED[name], **{"finetune.lr": 0.01}))
    before = {key: parameter.detach().clone() for key, parameter in tuning.model.named_parameters()}
    trained = {key for key, parameter in tuning.model.named_parameters() if parameter.requires_grad}
    tuning.run_epoch(1)
    tuning.run_epoch(2)
    changed = {key for key, parameter in tuning.model.named_parameters() if not torch.equal(parameter, before[key])}
    assert changed <= trained
    assert changed == trained or name == "adalora"  # which may have taken a layer's ranks away before they left zero
    own = random_body(tuning.settings.body, seed=0).body.state_dict()
    now = {key.replace(".base_layer", ""): value for key, value in tuning.model.body.state_dict().items()}
    assert all(torch.equal(now[key], value) for key, value in own.items())


@pytest.mark.parametrize("name", [name for name in TESTED if name != "adalora"])
def test_a_new_adapter_does_not_change_what_the_body_computes(quick, name):
    config = config_for(quick, TESTED[name])
    tokens = torch.randn(2, 5, 64)
    with torch.no_grad():
        torch.testing.assert_close(model_for(config).eval().body(tokens), random_body(config.body_spec, seed=0).body(tokens))


def test_an_adapter_is_drawn_by_the_seed_alone(quick):
    def drawn(seed: int) -> dict[str, torch.Tensor]:
        torch.manual_seed(torch.randint(1000, ()).item())
        return {key: value for key, value in model_for(config_for(quick, "lora", seed=seed)).body.state_dict().items() if "lora_A" in key}

    first, again, other = drawn(0), drawn(0), drawn(1)
    assert first
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert not any(torch.equal(first[key], other[key]) for key in first)


@pytest.mark.parametrize("family", ["bert", "distilbert", "gpt2", "gpt_neox", "swin", "vit", "beit", "timm-vit", "timm-swin"])
@pytest.mark.parametrize("name", TESTED)
def test_adapters_fit_every_family(family, name, tmp_path):
    _, body = write_checkpoint(family, tmp_path)
    config = resolve_config({"task": "digits", "body": body, "body.weights": "random", "adapter": TESTED[name]})
    if (family, name) == ("gpt2", "oft"):  # not in peft: GPT-2's linear layers are of a type of their own
        with pytest.raises(
            ConfigError, match=r"adapter: must be one that peft can put into this body: Target module Conv1D.* not supported"
        ):
            check_adapter(config.adapter, config.body_spec)
        return
    model = CrossModalModel(Settings.of(config, "finetune"), random_body(find_body(body), seed=0), (1, 8, 8), (3,))
    model.train_only(config.phases[0].train)
    model(torch.randn(2, 1, 8, 8)).square().sum().backward()
    assert len(model.adapter.parameters) > 0
    assert all(parameter.grad is not None for parameter in model.adapter.parameters)


@pytest.mark.parametrize("name", [name for name in ADAPTERS if name not in TESTED and name not in OWN])
def test_the_other_adapters_of_peft_go_into_a_mini_body(quick, name):
    options = {"block_size": 32} if name == "c3a" else {}
    model = model_for(config_for(quick, {"name": name, **options}))
    model.train_only(("embedder", "body", "predictor"))
    model(torch.randn(2, 13, 1)).square().sum().backward()
    assert any(parameter.grad is not None and parameter.grad.abs().sum() > 0 for parameter in model.adapter.parameters)


@pytest.mark.parametrize("freezing", ["full", "frozen-embedder", "frozen-body:1", "frozen-both:1", "lp-ft:1", [{"train": ["body"]}]])
def test_body_stands_for_the_adapter_in_a_schedule(quick, freezing):
    config = config_for(quick, "ia3", freezing=freezing, **{"finetune.epochs": 2})
    model = model_for(config)
    model.train_only(config.phases[-1].train)
    names = {name for name, parameter in model.body.named_parameters() if parameter.requires_grad}
    assert names
    assert all("ia3" in name for name in names)


# AdaLoRA


def test_adalora_brings_its_ranks_down_to_the_budget_and_keeps_them(quick):
    tuning = tuning_for(config_for(quick, ADALORA, **{"finetune.lr": 0.01}))  # two steps an epoch

    def ranks() -> int:
        return sum(int((p != 0).sum()) for name, p in tuning.model.body.named_parameters() if "lora_E" in name)

    found = []
    for epoch in range(1, 7):
        tuning.run_epoch(epoch)
        found.append(ranks())
    assert found[0] > found[1] > found[2] == 12 * 2  # twelve layers of rank two on average, from step total_step - tfinal = 6
    assert found[3:] == [24, 24, 24]


def test_adalora_counts_the_steps_that_are_made_not_the_groups_that_are_dropped(quick):
    # Three batches an epoch, two of which make a step: step total_step - tfinal = 6 is that of epoch 6.
    knobs = {"finetune.lr": 0.01, "finetune.batch_size": 24, "finetune.accum": 2, "finetune.accumulation": "sum"}
    tuning = tuning_for(config_for(quick, {**ADALORA, "deltaT": 10}, **knobs))
    found = []
    for epoch in range(1, 8):
        tuning.run_epoch(epoch)
        found.append(sum(int((p != 0).sum()) for name, p in tuning.model.body.named_parameters() if "lora_E" in name))
    assert found == [12 * 6] * 5 + [12 * 2] * 2


def test_the_penalty_of_adalora_by_hand(quick):
    model = model_for(config_for(quick, {**ADALORA, "orth_reg_weight": 0.25}))
    factors = [p for name, p in model.body.named_parameters() if "lora_A" in name or "lora_B" in name]
    with torch.no_grad():
        for factor in factors:
            factor.zero_()
    # Each product is zero, so each distance from the identity of size 6 is the square root of 6.
    assert model.adapter.penalty().item() == pytest.approx(0.25 * 6**0.5)
    assert model_for(config_for(quick, "lora")).adapter.penalty() == 0.0


# Determinism


@pytest.mark.parametrize("name", TESTED)
def test_a_run_that_is_cut_short_goes_on_to_the_same_bits(quick, rows_of_cut_runs, name):
    config = config_for(quick, TESTED[name], **{"finetune.epochs": 5, "finetune.lr": 0.01, "finetune.dropout": 0.1})
    whole, again = rows_of_cut_runs(config, range(1, 5))
    assert again == [whole] * len(again)


# Faults


@pytest.mark.parametrize(
    ("adapter", "freezing", "text"),
    [
        ("lorra", "full", "adapter: must be the name of an adapter (Did you mean 'lora'?), but got 'lorra'."),
        ({"r": 4}, "full", "adapter: must be the name of an adapter"),
        ("vblora", "full", "adapter: must be an adapter with all its state in the layers it adapts, but got 'vblora'."),
        (["lora"], "full", "adapter: must be the name of an adapter, or a mapping of name and options"),
        ({"name": "lora", "task_type": "SEQ_CLS"}, "full", "adapter: must not have the option 'task_type'"),
        ({"name": "none", "r": 4}, "full", "adapter: must not have the option 'r'"),
        ("lora", "layernorm", "freezing: must name no parts of the body with adapter lora"),
        ("lora", "top-layers:1", "freezing: must name no parts of the body with adapter lora"),
        ("lora", "frozen-body", "freezing: must train the body in some phase with adapter lora"),
        (ADALORA, "frozen-body:1", "freezing: must train the body in every phase with adapter adalora"),
    ],
)
def test_an_adapter_that_cannot_be_is_a_fault_of_the_config(quick, adapter, freezing, text):
    with pytest.raises(ConfigError) as caught:
        config_for(quick, adapter, freezing=freezing, **{"finetune.epochs": 3})
    assert str(caught.value).startswith(text)


@pytest.mark.parametrize(
    ("adapter", "text"),
    [
        ({"name": "lora", "rr": 4}, "adapter.rr: must be an option of peft's LoraConfig, but got 4."),
        (
            {"name": "lora", "lora_dropuot": 0.1},
            "adapter.lora_dropuot: must be an option of peft's LoraConfig, but got 0.1. Did you mean 'lora_dropout'?",
        ),
        ({"name": "lora", "r": 0}, "adapter: must be one that peft can put into this body: `r` should be a positive integer"),
        ({"name": "lora", "target_modules": ["nowhere"]}, "adapter: must be one that peft can put into this body: Target modules"),
        ("adalora", "adapter.total_step: must be given"),
        ({"name": "adalora", "total_step": 9, "init_r": 4, "target_r": 4}, "adapter.target_r: must be less than init_r (4), but got 4"),
    ],
)
def test_options_that_peft_refuses_are_faults_before_a_sweep_starts(quick, adapter, text):
    config = config_for(quick, adapter)
    with pytest.raises(ConfigError) as caught:
        check_adapter(config.adapter, config.body_spec)
    assert str(caught.value).startswith(text)
    with pytest.raises(ConfigError) as caught:
        check_adapters([config], "space.yaml")
    assert str(caught.value).startswith(f"space.yaml: {text}")


def test_a_sweep_with_an_option_that_peft_refuses_does_not_start(tmp_path: Path):
    file = tmp_path / "space.yaml"
    file.write_text("name: refused\nbase: {task: digits, adapter: {name: lora, rank: 4}}\n")
    with pytest.raises(ConfigError, match=r"space\.yaml: adapter\.rank: must be an option of peft's LoraConfig, but got 4"):
        run_space(load_space(str(file)), str(tmp_path / "results"), quiet=True)
    assert ResultStore(str(tmp_path / "results")).sweeps() == []
