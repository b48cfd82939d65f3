"""What makes two trials the same: knobs that nothing reads, and ids that never change."""

from __future__ import annotations

import subprocess
import sys

import pytest

from orca_core.config.knobs import TrialConfig
from orca_core.config.resolve import resolve_config
from orca_core.identity import CanonicalConfig, canonical_knobs, trial_id, unread_knobs

ALIGNED = {"align.epochs": 5}
SGD = {"align.optimizer": "sgd", "finetune.optimizer": "sgd"}
TEXT = {"body": "mini-roberta"}
RANDOM = {"body.weights": "random"}


def digits(**knobs: object) -> TrialConfig:
    return resolve_config({"task": "digits", "align.epochs": 0, "finetune.epochs": 4} | knobs)


# Knobs that nothing reads


@pytest.mark.parametrize(
    ("knob", "values", "where_unread", "where_read"),
    [
        ("proxy", ("photos", "noise"), {}, ALIGNED),
        ("align.objective", ("mmd", "l2"), {}, ALIGNED),
        ("align.lr", (0.1, 0.2), {}, ALIGNED),
        ("align.label_gradient", ("true", "none"), ALIGNED | {"align.objective": "mmd"}, ALIGNED),
        ("align.entropic_reg", (0.1, 0.2), ALIGNED | {"align.objective": "l2"}, ALIGNED),
        ("align.momentum", (0.1, 0.2), ALIGNED, ALIGNED | SGD),
        ("finetune.momentum", (0.1, 0.2), {}, SGD),
        ("finetune.betas", ((0.1, 0.2), (0.1, 0.3)), SGD, {}),
        ("embedder.init", ("pretrained", "random"), RANDOM, {}),
        ("pretrain.fraction", (0.1, 0.2), RANDOM, {}),
        ("pretrain.epochs", (1, 2), RANDOM, {}),
        ("pretrain.seed", (1, 2), RANDOM, {}),
        ("embedder.target_seq_len", (16, 32), {}, TEXT),
    ],
)
def test_trials_that_differ_in_an_unread_knob_are_one(knob, values, where_unread, where_read):
    first, second = values
    assert knob in unread_knobs(digits(**where_unread))
    assert trial_id(digits(**where_unread, **{knob: first})) == trial_id(digits(**where_unread, **{knob: second}))
    assert trial_id(digits(**where_read, **{knob: first})) != trial_id(digits(**where_read, **{knob: second}))


@pytest.mark.parametrize(
    ("knob", "value"),
    [
        ("split_seed", 1),
        ("seed", 1),
        ("train_samples", 100),
        ("selection", "test"),
        ("precision", "bf16"),
        ("threads", 2),
        ("body", "mini-roberta"),
        ("body.weights", "random"),
        ("freezing", "frozen-body"),
        ("align.epochs", 1),
        ("finetune.epochs", 5),
        ("finetune.batch_size", 7),
    ],
)
def test_trials_that_differ_in_a_read_knob_are_two(knob, value):
    assert trial_id(digits(**{knob: value})) != trial_id(digits())


def test_the_recipe_is_no_part_of_a_trial_but_what_it_set_is():
    laptop = resolve_config({"task": "openml/187", "body": "mini-roberta", "recipe": "laptop"})
    spelled_out = laptop.model_copy(update={"recipe": "published"})
    assert trial_id(laptop) == trial_id(spelled_out)


def test_an_unread_knob_is_null_in_the_canonical_config():
    knobs = canonical_knobs(digits(proxy="noise"))
    assert (knobs["proxy"], knobs["align.lr"], knobs["align.epochs"]) == (None, None, 0)


@pytest.mark.parametrize(("objective", "merged"), [("otdd-exact", True), ("otdd-gaussian", False)])
def test_the_reference_label_gradient_is_none_in_exact_mode_only(objective, merged):
    ids = {trial_id(digits(**ALIGNED, **{"align.objective": objective, "align.label_gradient": mode})) for mode in ("none", "reference")}
    assert (len(ids) == 1) == merged


# Spellings


@pytest.mark.parametrize(
    ("knob", "default"),
    [("seed", 0), ("train_samples", None), ("freezing", "full"), ("body.weights", "pretrained"), ("pretrain.fraction", 1)],
)
def test_a_default_given_or_left_out_is_the_same_trial(knob, default):
    assert trial_id(digits(**{knob: default})) == trial_id(digits())
    assert knob not in CanonicalConfig.of(digits()).hashed


@pytest.mark.parametrize(
    ("name", "phases"),
    [
        ("full", [{"train": "all"}]),
        ("frozen-body", [{"train": ["predictor", "embedder"]}]),
        ("frozen-body:4", "frozen-body"),
        ("frozen-both:1", [{"train": ["predictor"], "epochs": 1}, {"train": "all", "epochs": 3}]),
        ("layernorm", [{"train": ["layernorm", "embedder", "predictor"], "epochs": 2}, {"train": ["embedder", "predictor", "layernorm"]}]),
    ],
)
def test_a_schedule_by_name_and_by_phases_is_the_same_trial(name, phases):
    assert trial_id(digits(freezing=name)) == trial_id(digits(freezing=phases))


# Ids never change: a number here that fails means that every result so far is lost.

SNAPSHOT = {
    "f58f762e3154c801": {"task": "digits", "proxy": "photos", "body": {"name": "mini-swin"}},
    "6d54ead9afe2fe87": {
        "task": "digits",
        "proxy": "noise",
        "body": {"name": "mini-swin", "weights": "random"},
        "align": {"epochs": 10},
        "seed": 3,
    },
    "d5a93321b0e9ac16": {
        "task": "openml/1510",
        "proxy": "pydoc",
        "body": {"name": "mini-roberta"},
        "freezing": "frozen-body:5",
        "finetune": {"lr": 0.001, "clip": 0.1, "warmup_epochs": 1.0, "decay_epochs": 60.0},
    },
    "fb752982e676e83e": {
        "task": "burgers-mini",
        "proxy": "pydoc",
        "body": {"name": "mini-roberta"},
        "align": {"epochs": 5, "objective": "mmd", "lr_steps": (2, 4)},
        "pretrain": {"fraction": 0.5},
        "train_samples": 50,
        "selection": "test",
    },
}


@pytest.mark.parametrize("expected", SNAPSHOT)
def test_ids_are_those_of_old_results(expected):
    assert trial_id(TrialConfig.model_validate(SNAPSHOT[expected])) == expected


def test_an_id_is_the_same_in_a_fresh_process_that_loads_no_torch():
    code = """
import sys
from orca_core.config.resolve import resolve_config
from orca_core.identity import trial_id
print(trial_id(resolve_config({"task": "openml/1510", "freezing": "frozen-body:2", "align.lr": 0.1})), "torch" in sys.modules)
"""
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    here = trial_id(resolve_config({"task": "openml/1510", "freezing": "frozen-body:2", "align.lr": 0.1}))
    assert printed == [here, "False"]
