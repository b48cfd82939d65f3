"""From what a user wrote to a whole config, and what is said about every broken rule."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import get_args

import numpy as np
import pytest

from orca_core.config.paths import KNOBS, flatten, nest
from orca_core.config.resolve import resolve_config
from orca_core.errors import ConfigError, Fault
from orca_core.tasks import find_task
from orca_core.tasks.published_style import NEAREST
from orca_core.tasks.spec import Kind


def faults_in(knobs: dict) -> dict[str, Fault]:
    with pytest.raises(ConfigError) as caught:
        resolve_config(knobs)
    paths = [fault.path for fault in caught.value.faults]
    assert len(set(paths)) == len(paths), "one fault for each path"
    return {fault.path: fault for fault in caught.value.faults}


# Defaults


def test_the_recipe_of_the_task_gives_the_defaults():
    config = resolve_config({"task": "digits"})
    assert (config.body.name, config.proxy, config.recipe) == ("mini-swin", "photos", "laptop")
    assert config.align.epochs == config.task_spec.recipes["laptop"]["align"]["epochs"]
    assert config.finetune.lr == config.task_spec.recipes["laptop"]["finetune"]["lr"]


def test_what_the_user_gives_comes_on_top_of_the_recipe():
    config = resolve_config({"task": "digits", "align": {"epochs": 3}, "finetune.lr": 0.5})
    assert (config.align.epochs, config.finetune.lr) == (3, 0.5)
    assert config.align.class_samples == config.task_spec.recipes["laptop"]["align"]["class_samples"]


def test_a_body_may_be_given_as_its_name_alone():
    assert resolve_config({"task": "digits", "body": "mini-roberta"}) == resolve_config({"task": "digits", "body.name": "mini-roberta"})


@pytest.mark.parametrize(
    ("knobs", "recipe"),
    [
        ({}, "laptop"),
        ({"body": "mini-swin"}, "laptop"),
        ({"body": "mini-roberta", "recipe": "published"}, "published"),
        ({"body": "hf:{folder}"}, "published"),
        ({"body": "hf:{folder}", "recipe": "laptop"}, "laptop"),
    ],
)
def test_the_recipe_is_the_one_asked_for_or_the_one_that_suits_the_body(knobs, recipe, tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    (tmp_path / "model.safetensors").touch()
    knobs = {path: value.format(folder=tmp_path) for path, value in knobs.items()}
    config = resolve_config({"task": "openml/1510", **knobs})
    assert config.recipe == recipe
    assert config.finetune.epochs == config.task_spec.recipes[recipe]["finetune"]["epochs"]


def write_own_tasks(folder: Path) -> None:
    for name, y in (("series", np.arange(20) % 2), ("dense", np.zeros((20, 1, 6), "float32"))):
        np.savez(folder / f"{name}.npz", x=np.zeros((20, 1, 6), "float32"), y=y)
    (folder / "table.csv").write_text("a,label\n" + "".join(f"{row},{row % 2}\n" for row in range(20)))
    (folder / "numbers.csv").write_text("a,label\n" + "".join(f"{row},{row / 2}\n" for row in range(20)))
    for label in ("one", "two"):
        (folder / "pictures" / label).mkdir(parents=True)
        (folder / "pictures" / label / "0.png").touch()


@pytest.mark.parametrize("weights", ["pretrained", "random"])
@pytest.mark.parametrize(
    ("task", "nearest"),
    [
        ("npz:series.npz", "nb360/satellite"),
        ("ucr/ECG200", "nb360/satellite"),
        ("mnist1d", "nb360/satellite"),
        ("npz:dense.npz", "pdebench/advection"),
        ("csv:table.csv", "openml/1510"),
        ("openml/3", "openml/1510"),
        ("csv:numbers.csv", "drug/ctrp"),
        ("images:pictures", "domainnet/real"),
        ("digits", "domainnet/real"),
        ("darcy-mini", "pdebench/darcy"),
    ],
)
def test_a_full_size_body_takes_the_recipe_of_the_nearest_published_task_whatever_its_weights(
    task, nearest, weights, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    write_own_tasks(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    (tmp_path / "model.safetensors").touch()
    body = {"name": f"hf:{tmp_path}", "weights": weights}
    config, published = resolve_config({"task": task, "body": body}), find_task(nearest).recipes["published"]
    assert (config.recipe, config.proxy) == ("published-style", "pydoc")
    assert config.align.epochs == published["align"]["epochs"]
    assert config.embedder.target_seq_len == (16 if nearest == "nb360/satellite" else published["embedder"]["target_seq_len"])
    tuned = {name: getattr(config.finetune, name) for name in ("epochs", "lr", "optimizer", "batch_size", "warmup_epochs", "decay_epochs")}
    assert tuned == {name: published["finetune"][name] for name in tuned}
    assert config.finetune.accum == 1
    assert resolve_config({"task": task}).recipe == resolve_config({"task": task, "body": "mini-roberta"}).recipe == "laptop"


def test_every_kind_of_task_has_a_nearest_published_one():
    assert set(NEAREST) >= {(dims, kind) for dims in (1, 2) for kind in get_args(Kind)}
    assert all("published" in find_task(name).recipes for name in NEAREST.values())


@pytest.mark.parametrize(
    ("task", "body", "proxy"),
    [
        ("digits", "mini-swin", "photos"),
        ("digits", "mini-roberta", "pydoc"),
        ("mnist1d", "mini-roberta", "pydoc"),
        ("mnist1d", "mini-swin", "photos"),
    ],
)
def test_a_proxy_that_is_not_named_fits_the_body(task, body, proxy):
    assert resolve_config({"task": task, "body": body}).proxy == proxy


@pytest.mark.parametrize("body", ["mini-swin", "mini-roberta"])
def test_matched_noise_is_of_the_proxy_that_a_trial_would_have_otherwise(body):
    named = resolve_config({"task": "digits", "body": body, "proxy": "noise-matched"})
    otherwise = resolve_config({"task": "digits", "body": body}).proxy
    assert named.proxy == f"noise-matched:{otherwise}"
    cut = resolve_config({"task": "digits", "body": body, "proxy": "noise-matched+k:50"}).proxy
    assert cut == f"noise-matched:{otherwise}+k:50"
    assert resolve_config(named.model_dump(mode="json")) == named


@pytest.mark.parametrize("body", ["mini-roberta", "mini-swin"])
def test_noise_fits_every_body(body):
    assert resolve_config({"task": "digits", "body": body, "proxy": "noise"}).proxy == "noise"


def test_own_arrays_get_a_body_of_their_dimension(tmp_path):
    np.savez(tmp_path / "mine.npz", x=np.zeros((20, 1, 6, 6), np.float32), y=np.arange(20) % 2)
    assert resolve_config({"task": f"npz:{tmp_path / 'mine.npz'}"}).body.name == "mini-swin"


def test_yaml_true_and_lists_are_taken_where_names_and_tuples_are_meant():
    config = resolve_config({"task": "digits", "align.label_gradient": True, "align.lr_steps": [5, 10], "finetune.betas": [0.8, 0.9]})
    assert (config.align.label_gradient, config.align.lr_steps, config.finetune.betas) == ("true", (5, 10), (0.8, 0.9))


# Faults


@pytest.mark.parametrize(
    ("knobs", "path", "text"),
    [
        ({"align.epoch": 3}, "align.epoch", "must be a known knob. Did you mean 'align.epochs'?"),
        ({"task": "digitz"}, "task", "must be the name of a task, but got 'digitz'. Did you mean 'digits'?"),
        ({"proxy": "photo"}, "proxy", "must be the name of a proxy data set, but got 'photo'. Did you mean 'photos'?"),
        ({"body": "mini-swim"}, "body.name", "must be the name of a body, but got 'mini-swim'. Did you mean 'mini-swin'?"),
        ({"freezing": "frozen-bodi"}, "freezing", "must be a freezing schedule, but got 'frozen-bodi'. Did you mean 'frozen-body'?"),
        ({"recipe": "labtop"}, "recipe", "must be a recipe of digits, but got 'labtop'. Did you mean 'laptop'?"),
        ({"body.weights": "rand"}, "body.weights", "must be one of pretrained, random, shuffled, but got 'rand'. Did you mean 'random'?"),
        ({"align.objective": "otdd_exact"}, "align.objective", "but got 'otdd_exact'. Did you mean 'otdd-exact'?"),
    ],
)
def test_an_unknown_name_is_refused_with_the_nearest_one(knobs, path, text):
    faults = faults_in({"task": "digits"} | knobs)
    assert list(faults) == [path]
    assert text in faults[path].text()


@pytest.mark.parametrize(
    ("path", "value", "rule"),
    [
        ("task", 5, "must be a text"),
        ("body", 5, "must be a text"),
        ("recipe", [], "must be one of laptop, published, published-style"),
        ("align", 5, "must be a mapping of align.epochs, "),
        ("embedder", None, "must be a mapping of embedder.init, "),
        ("align.epochs", True, "must be a whole number"),
        ("align.epochs", 1.5, "must be a whole number"),
        ("align.epochs", -1, "must be at least 0"),
        ("finetune.epochs", 0, "must be at least 1"),
        ("finetune.lr", "1e-5", "must be a number"),
        ("finetune.lr", 0, "must be greater than 0"),
        ("finetune.lr", float("nan"), "must be a finite number"),
        ("finetune.dropout", 1, "must be less than 1"),
        ("finetune.betas", 0.9, "must be a list"),
        ("finetune.clip", "x", "must be a number"),
        ("pretrain.fraction", 1.1, "must be at most 1"),
        ("seed", 2**32, "must be less than 4.29497e+09"),
        ("train_samples", 0, "must be at least 1"),
        ("freezing", False, "must be a name or a list of phases"),
        ("freezing", {"train": "all"}, "must be a name or a list of phases"),
        ("freezing", [], "must have at least one phase"),
    ],
)
def test_a_wrong_type_or_range_is_one_fault_at_its_path(path, value, rule):
    faults = faults_in({"task": "digits", path: value})
    (fault,) = faults.values()
    assert fault.path == {"body": "body.name"}.get(path, path)
    assert fault.rule.startswith(rule)
    assert fault.value == value or value != value


GROUPS = "embedder, body, predictor, layernorm, bias, attention, non-attn, qkv, non-qkv, layers:N, top-layers:N, surgical:N"


@pytest.mark.parametrize(
    ("phase", "path", "rule"),
    [
        ({"train": ["predictr"]}, "freezing.0.train", f"must hold only {GROUPS}: 'predictr' is none of them"),
        ({"train": ["top-layers:0"]}, "freezing.0.train", f"must hold only {GROUPS}: 'top-layers:0' is none of them"),
        ({"train": "body"}, "freezing.0.train", f"must be `all` or a list of {GROUPS}"),
        ({"train": []}, "freezing.0.train", "must not be empty"),
        ({"train": "all", "epochs": 2.5}, "freezing.0.epochs", "must be a whole number"),
        ({"train": "all", "epoch": 2}, "freezing.0.epoch", "must be a known key"),
        ({"train": "all", "lr_scale": 0}, "freezing.0.lr_scale", "must be greater than 0"),
        ("full", "freezing.0", "must be a mapping"),
    ],
)
def test_a_fault_in_a_phase_is_told_at_its_place(phase, path, rule):
    faults = faults_in({"task": "digits", "freezing": [phase]})
    assert {path: fault.rule for path, fault in faults.items()} == {path: rule}


def test_decay_must_end_after_warm_up():
    fault = faults_in({"task": "digits", "finetune": {"warmup_epochs": 5, "decay_epochs": 2}})["finetune.decay_epochs"]
    assert fault.text() == "finetune.decay_epochs: must be greater than warmup_epochs (5), but got 2."


@pytest.mark.parametrize("body", ["mini-swin", "mini-roberta"])
def test_a_proxy_of_the_other_modality_is_refused_with_those_that_fit(body):
    wrong, right = ("pydoc", "photos") if body == "mini-swin" else ("photos", "pydoc")
    fault = faults_in({"task": "digits", "body": body, "proxy": wrong})["proxy"]
    assert f"take {right} or noise-matched" in fault.remedy


def test_a_task_must_be_given():
    assert faults_in({})["task"].rule == "must be given"


def test_a_recipe_that_the_task_has_not_is_refused():
    assert faults_in({"task": "digits", "recipe": "published"})["recipe"].rule == "must be a recipe of digits"


def test_a_missing_body_is_the_only_fault_of_a_recipe_that_names_no_proxy():
    assert list(faults_in({"task": "openml/1510", "body": "hf:./nowhere"})) == ["body.name"]


def test_a_missing_file_of_arrays_is_a_fault_of_the_task():
    fault = faults_in({"task": "npz:nowhere.npz"})["task"]
    assert fault.text().startswith("task: nowhere.npz: must be an existing file.")
    assert not fault.text().endswith("..")


def test_all_faults_are_found_at_once():
    wrong = {"proxy": "photo", "body": "mini-swim", "freezing": "ful", "align": {"epoch": 1, "lr": -1}, "finetune.epochs": 3, "seed": True}
    faults = faults_in({"task": "digitz"} | wrong)
    assert set(faults) == {"task", "proxy", "body.name", "freezing", "align.epoch", "align.lr", "seed"}


def test_a_knob_given_nested_and_dotted_is_refused():
    with pytest.raises(ConfigError, match=r"align\.epochs: must be given once, but got 2\. It is also given as 1"):
        resolve_config({"task": "digits", "align": {"epochs": 1}, "align.epochs": 2})


def test_faults_survive_the_way_between_processes():
    error = ConfigError([Fault("seed", "must be at least 0", -1)], file="x.yaml")
    assert str(pickle.loads(pickle.dumps(error))) == str(error) == "x.yaml: seed: must be at least 0, but got -1."


def test_a_rule_that_ends_in_a_question_gets_no_second_mark():
    inner = Fault("data", "must be (n,)", (3, 4), "Is it another version?").text("a.npy")
    assert Fault("task", inner, Fault.ABSENT).text() == "task: a.npy: data: must be (n,), but got (3, 4). Is it another version?"


# Dotted paths


def test_flatten_and_nest_are_inverse():
    nested = {"task": "digits", "align": {"epochs": 5, "lr": 0.1}, "body": {"name": "mini-swin"}}
    assert nest(flatten(nested)) == nested


def test_a_config_written_out_is_read_back_the_same():
    phases = [{"train": ["predictor"], "epochs": 1}, {"train": "all", "lr_scale": 0.5, "restart": True}]
    config = resolve_config({"task": "digits", "freezing": phases})
    assert resolve_config(config.model_dump(mode="json")) == config


def test_every_knob_says_what_it_means():
    assert [path for path, field in KNOBS.items() if not field.description] == []


def test_a_copy_with_another_task_does_not_keep_what_was_derived_from_the_old_one():
    config = resolve_config({"task": "digits"})
    assert (config.task_spec.name, config.body_spec.name, len(config.phases)) == ("digits", "mini-swin", 1)
    other = config.model_copy(update={"task": "openml/187", "body": config.body.model_copy(update={"name": "mini-roberta"})})
    assert (other.task_spec.name, other.body_spec.name) == ("openml/187", "mini-roberta")
