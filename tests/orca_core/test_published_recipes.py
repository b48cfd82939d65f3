"""Every `published` recipe beside the YAML file of the reference that it stands for, value by value.

`tests/fixtures/reference_yamls.csv` is a transcript of the 64 files of ORCA's repository at 19b8c1c, in their own terms. Empty: not set;
a `clip` of -1 is none. What all files have in common is in `COMMON`. The recipes share no code with the transcript.
"""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from orca_core.config.paths import value_of
from orca_core.config.resolve import resolve_config
from orca_core.tasks import TASK_CATALOGUE, find_task

FILES = list(csv.DictReader((Path(__file__).parents[1] / "fixtures" / "reference_yamls.csv").open(encoding="utf-8")))

BODIES = {"Swin-B": "hf:microsoft/swin-base-patch4-window7-224-in22k", "RoBERTa-B": "hf:roberta-base"}
PROXIES = {"CIFAR-10": "cifar10", "text": "reference-text"}
DEFAULT_PROXY = ("openml/187", "openml/1510")
"""They come with scikit-learn, and keep the default proxy of the body, so that they run without any file."""

COMMON = {
    "align.objective": "otdd-exact",
    "align.lr_steps": (20, 40, 60),
    "finetune.betas": (0.9, 0.98),
    "freezing": "full",
    "seed": 0,
}


def knobs_of(file: dict[str, str]) -> dict[str, object]:
    """The values of a YAML file, as knobs."""
    number = {name: float(value) for name, value in file.items() if name not in ("task", "yaml", "body", "proxy", "optimizer") and value}
    optimizer = {name: file["optimizer"].lower() for name in ("align.optimizer", "finetune.optimizer")}
    both = {f"{stage}.{name}": number[name] for stage in ("align", "finetune") for name in ("weight_decay", "momentum")}
    lr = number["lr"]
    assert lr <= 1e-3  # so that stage 2 has ten times the rate of stage 3
    return COMMON | optimizer | both | {
        "embedder.target_seq_len": number.get("seq", 512.0),
        "align.epochs": number["embedder_epochs"],
        "align.class_samples": number["maxsamples"],
        "align.lr": pytest.approx(10 * lr),
        "finetune.epochs": number["epochs"],
        "finetune.lr": lr,
        "finetune.batch_size": number["batch_size"],
        "finetune.score_chunk": number["eval_batch_size"],
        "finetune.accum": number["accum"],
        "finetune.clip": None if number["clip"] == -1 else number["clip"],
        "finetune.warmup_epochs": number["warmup"],
        "finetune.decay_epochs": number["decay"],
        "finetune.dropout": number["dropout"],
    }  # fmt: skip


def test_every_published_recipe_has_a_file_and_every_file_a_recipe():
    named = {name for name, spec in TASK_CATALOGUE.builtin.items() if "published" in spec.recipes}
    assert len(named) == 63
    assert {file["task"] for file in FILES} == named | {"domainnet/sketch"}  # of which there is one for each domain


@pytest.mark.parametrize("file", FILES, ids=[file["task"] for file in FILES])
def test_a_published_recipe_has_the_values_of_its_file(file):
    spec = find_task(file["task"])
    recipe = spec.recipes["published"]
    assert recipe["body"] == {"name": BODIES[file["body"]]}
    assert recipe.get("proxy") == (None if file["task"] in DEFAULT_PROXY else PROXIES[file["proxy"]])
    body = {"Swin-B": "mini-swin", "RoBERTa-B": "mini-roberta"}[file["body"]]  # stands in for a checkpoint of the hub
    config = resolve_config({"task": file["task"], "recipe": "published", "body": body, "reference_behaviour": True})
    expected = knobs_of(file)
    assert {knob: value_of(config, knob) for knob in expected} == expected
    assert config.align_lr == expected["align.lr"]
