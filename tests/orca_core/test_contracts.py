"""The contract suites can fail: a plug-in that breaks one promise is caught by the check of that promise."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from pydantic import Field

from orca_core.bodies import BODIES, BodySpec
from orca_core.bodies.loading import random_body
from orca_core.distances import DistanceSpec
from orca_core.proxies import ProxyData, ProxySpec
from orca_core.tasks import Split, TaskData, TaskSpec
from orca_core.tasks.splitting import deal
from orca_core.testing import BodyContract, DistanceContract, ProxyContract, TaskContract

KNOBS = {"kind": (str, Field("sound", description="Which promise it breaks."))}


def load_task(spec: TaskSpec, split_seed: int) -> TaskData:
    draws = np.random.default_rng(0 if spec.name == "fixed" else None if spec.name == "drawn" else split_seed)
    x = draws.normal(size=(90, 1, 4)).astype("float32")
    y = np.arange(90) % 3
    if spec.name == "infinite":
        x[0] = np.inf
    if spec.name == "classless":
        y[:60] %= 2
    overlap = 1 if spec.name == "shared" else 0
    parts = [Split(x[i:j], y[i:j]) for i, j in ((0, 60 + overlap), (60, 75), (75, 90))]
    return TaskData(*parts, num_classes=3)


def load_held_out(spec: TaskSpec, split_seed: int) -> TaskData:
    rows = np.arange(30, dtype="float32")[:, None, None]
    return TaskData(*deal(rows, np.arange(30) % 3, split_seed, num_valid=5, num_test=5), num_classes=3)


def load_proxy(spec: ProxySpec) -> ProxyData:
    labels = np.arange(20) % 2
    if spec.name == "alone":
        labels[:] = 0
        labels[0] = 1
    if spec.name == "drawn":
        labels = np.random.default_rng().permutation(labels)
    texts = [f"text {number}" for number in range(20)]
    spans = [(0, 99)] * 20 if spec.name == "spans" else None
    return ProxyData(texts if spec.name != "numbers" else list(range(20)), labels, ("a", "b"), spans)


def build_body(spec: BodySpec, pretrained: bool, dropout: float):
    made = random_body(BODIES["mini-swin"], seed=torch.randint(100, ()).item(), dropout=dropout)
    if spec.name == "drawn":
        with torch.random.fork_rng():
            torch.seed()
            made.body.layernorm.weight.data.normal_()
    if spec.name == "stiff":
        made = random_body(BODIES["mini-swin"], seed=0)
    return made.body, made.embedding


def prepare(source_x, source_y, options):
    def distance(features, draws):
        match options["kind"]:
            case "drawn":
                return (features + torch.rand(())).square().mean(), None
            case "flat":
                return features.square().mean().detach() + 0 * features.sum(), None
            case "rising":
                return _Backwards.apply(features.square().mean()), None
            case "vector":
                return features.square().mean(1), None
        return (features - source_x.mean(0)).square().mean() / (len(features) - 1 or float("nan")), None

    return distance


class _Backwards(torch.autograd.Function):
    @staticmethod
    def forward(context, value):
        return value.clone()

    @staticmethod
    def backward(context, gradient):
        return -gradient


TASK = TaskSpec(
    name="sound",
    summary="a task",
    dims=1,
    kind="classification",
    loss="cross-entropy",
    score="1-accuracy",
    loader="test_contracts:load_task",
    recipes={"laptop": {"body": "mini-roberta"}},
)
PROXY = ProxySpec(name="sound", summary="a proxy", modality="text", loader="test_contracts:load_proxy")
BODY = BodySpec("sound", "a body", "images", build="test_contracts:build_body")

BROKEN = [
    (TaskContract, replace(TASK, loader="load_task"), "an_entry_point_can_register_it", "loader must be"),
    (TaskContract, replace(TASK, score="accuracy"), "loss_and_scores_are_known", "one is 'accuracy'"),
    (TaskContract, replace(TASK, recipes={"laptop": {"bodi": "mini-roberta"}}), "recipes_set_known_knobs", "recipe laptop"),
    (TaskContract, replace(TASK, name="infinite"), "inputs_are_finite_and_stored_in_order", "train.x must be finite"),
    (TaskContract, replace(TASK, name="classless"), "training_sees_every_class", r"lacks \[2\]"),
    (TaskContract, replace(TASK, name="shared"), "parts_share_no_row", "train and valid must share no row, but share 1"),
    (TaskContract, replace(TASK, name="drawn"), "the_same_split_seed_gives_the_same_bits", "train must be the same"),
    (
        TaskContract,
        replace(TASK, name="fixed"),
        "another_split_seed_validates_on_other_rows_of_the_same_number",
        "valid.x must not be the same",
    ),
    (
        TaskContract,
        replace(TASK, loader="test_contracts:load_held_out", fixed_validation="It is published"),
        "folds_hold_rows_out_or_are_refused",
        "must not change its validation part",
    ),
    (TaskContract, replace(TASK, files=lambda: ()), "it_can_be_sent_to_a_worker", "pickle"),
    (ProxyContract, replace(PROXY, modality="sound"), "an_entry_point_can_register_it", "modality must be text, images or any"),
    (ProxyContract, replace(PROXY, name="numbers"), "samples_are_of_its_modality", "inputs must be texts"),
    (ProxyContract, replace(PROXY, name="alone"), "every_label_has_a_name_and_samples", "but b have fewer"),
    (ProxyContract, replace(PROXY, name="spans"), "spans_lie_in_their_texts", "does not lie in 'text 0'"),
    (ProxyContract, replace(PROXY, name="drawn"), "it_is_the_same_each_time", "labels must be the same"),
    (BodyContract, replace(BODY, build=""), "an_entry_point_can_register_it", "build must be"),
    (BodyContract, replace(BODY, name="drawn"), "random_weights_are_drawn_by_the_seed_alone", "must not depend on anything but the seed"),
    (BodyContract, BODY, "pretrained_weights_are_the_same_each_time_and_not_random", "random weights must not be the pretrained ones"),
    (BodyContract, replace(BODY, name="stiff"), "dropout_acts_in_train_mode_only", "in train mode dropout must act"),
    (DistanceContract, "vector", "it_is_a_finite_scalar_with_a_gradient", "must be a scalar"),
    (DistanceContract, "flat", "it_is_a_finite_scalar_with_a_gradient", "gradient in the features must not be zero"),
    (
        DistanceContract,
        "drawn",
        "the_same_draws_give_the_same_bits_and_leave_everything_else_alone",
        "the features and the generator alone",
    ),
    (DistanceContract, "sound", "a_class_of_one_sample_has_a_distance", "must be finite, but is nan"),
    (DistanceContract, "rising", "it_falls_when_features_follow_its_gradient", "must fall in 40 steps"),
]


@pytest.mark.parametrize(("contract", "spec", "check", "message"), BROKEN, ids=[f"{case[0].__name__}-{case[2]}" for case in BROKEN])
def test_a_broken_plug_in_fails_the_check_of_what_it_breaks(contract, spec, check, message):
    suite = contract()
    if contract is DistanceContract:
        suite.options, spec = {"kind": spec}, DistanceSpec("mine", "a distance", "test_contracts:prepare", KNOBS)
    suite.spec = spec
    with pytest.raises(Exception, match=message):
        getattr(suite, f"test_{check}")()


@pytest.mark.parametrize(("contract", "spec"), [(TaskContract, TASK), (ProxyContract, PROXY)])
def test_a_sound_plug_in_passes_every_check_that_needs_no_installation(contract, spec):
    suite = contract()
    suite.spec = spec
    for name in (name for name in dir(suite) if name.startswith("test_")):
        getattr(suite, name)()
