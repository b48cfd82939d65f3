"""Every search space that comes with the package loads, is named after its file and asks a question."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from huggingface_hub import constants
from transformers import RobertaConfig, RobertaModel, SwinConfig, SwinModel

from orca_core.workbench import Workbench
from sweeper.planning.planner import make_plan
from sweeper.space.reading import available_spaces, load_space

SPACES = sorted((Path(__file__).parents[1] / "search_spaces").glob("*.yaml"))


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    """A Hugging Face cache in which every hub name of the spaces is a tiny checkpoint of its family."""
    cache = tmp_path_factory.mktemp("hub")
    tiny = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8, "vocab_size": 9}
    models = {"roberta": RobertaModel(RobertaConfig(**tiny)), "swin": SwinModel(SwinConfig(embed_dim=8, depths=[1], num_heads=[1]))}
    for name in {name for file in SPACES for name in re.findall(r"hf:([\w/-]+)", file.read_text())}:
        folder = cache / f"models--{name.replace('/', '--')}"
        (folder / "refs").mkdir(parents=True)
        (folder / "refs" / "main").write_text("0" * 40)
        next(model for family, model in models.items() if family in name).save_pretrained(folder / "snapshots" / ("0" * 40))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(constants, "HF_HUB_CACHE", str(cache))
        Workbench.current().clear()
        yield
    Workbench.current().clear()


@pytest.mark.usefixtures("hub")
@pytest.mark.parametrize("file", SPACES, ids=lambda file: file.stem)
def test_a_space_plans_trials_and_says_what_it_asks(file):
    space = load_space(file)
    assert space.name == file.stem
    assert "?" in space.description
    assert make_plan(space).trials


def test_every_space_is_found_by_its_name():
    assert {file.stem for file in SPACES} <= set(available_spaces())


def test_the_space_of_the_storm_lies_with_the_benchmark_that_runs_it():
    assert make_plan(load_space(Path(__file__).parents[1] / "benchmarks" / "storm.yaml")).trials
    assert "storm" not in available_spaces()


def test_the_quickstart_sweeps_all_four_axes_on_both_kinds_of_task():
    space = load_space("quickstart")
    assert set(space.varied) == {"task", "align.epochs", "proxy", "freezing", "body.weights"}
    assert {trial.config.task_spec.dims for trial in make_plan(space).trials} == {1, 2}


@pytest.mark.usefixtures("hub")
@pytest.mark.parametrize(
    ("name", "rungs"), [("pretraining-ladder", 14), ("pretraining-ladder-images", 3), ("pretraining-ladder-laptop", 12)]
)
def test_a_ladder_of_pretraining_has_a_rung_without_any_and_each_rung_is_an_arm(name, rungs):
    trials = make_plan(load_space(name)).trials
    assert len({trial.arm for trial in trials}) == rungs
    assert any(trial.config.body.weights == "random" for trial in trials)
