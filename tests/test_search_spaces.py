"""Every search space that comes with the package loads, plans, has a price, asks a question, and has a twin that runs on a laptop."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub import constants
from transformers import GPTNeoXConfig, GPTNeoXModel, RobertaConfig, RobertaModel, SwinConfig, SwinModel

from orca_core.tasks.recipes import BODIES
from orca_core.workbench import Workbench
from sweeper.planning.cost import CostModel
from sweeper.planning.planner import make_plan
from sweeper.results import Workspace
from sweeper.show.plan import describe_plan
from sweeper.space.reading import load_space
from sweeper.space.shelf import available_spaces

sys.path += [str(Path(__file__).parent / "orca_core"), str(Path(__file__).parent / "orca_core" / "tasks")]

from proxy_writers import write_cifar10, write_cifar100, write_conll, write_pictures
from published import WRITERS

SPACES = sorted((Path(__file__).parents[1] / "search_spaces").glob("*.yaml"))
ON_A_LAPTOP = {file.stem for file in SPACES if file.stem.endswith("-laptop")}
WITHOUT_TWIN = {
    "quickstart": "runs on a laptop itself",
    "pretraining-ladder-images": "pretraining-ladder-laptop has a task of images, too",
    "pretraining-ladder-pythia": "mini bodies are no decoders; pretraining-ladder-laptop asks how much pretraining helps",
}

STUDIES = [file for file in SPACES if file.stem not in ON_A_LAPTOP | WITHOUT_TWIN.keys()]


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A Hugging Face cache in which every hub name is a tiny checkpoint of its family, and published data of few rows."""
    cache, root = tmp_path_factory.mktemp("hub"), tmp_path_factory.mktemp("data")
    tiny = {"hidden_size": 8, "num_hidden_layers": 4, "num_attention_heads": 1, "intermediate_size": 8, "vocab_size": 9}
    models = {"roberta": RobertaModel(RobertaConfig(**tiny)), "swin": SwinModel(SwinConfig(embed_dim=8, depths=[2, 2], num_heads=[1, 1]))}
    models["pythia"] = GPTNeoXModel(GPTNeoXConfig(**tiny, max_position_embeddings=64))
    revisions: dict[str, set[str]] = {body.removeprefix("hf:"): set() for body in BODIES.values()}
    for name, revision in {found for file in SPACES for found in re.findall(r"hf:([\w/-]+)(?:@(\w+))?", file.read_text())}:
        revisions.setdefault(name, set()).update({revision} - {""})
    for name, others in revisions.items():
        folder = cache / f"models--{name.replace('/', '--')}"
        (folder / "refs").mkdir(parents=True)
        for revision in ("main", *others):
            (folder / "refs" / revision).write_text("0" * 40)
        next(model for family, model in models.items() if family in name).save_pretrained(folder / "snapshots" / ("0" * 40))
    for task in {task for file in SPACES for task in re.findall(r"nb360/\w+", file.read_text())}:
        WRITERS[task](root)
    write_conll(root)
    write_cifar10(root)
    write_cifar100(root)
    write_pictures(root / "tiny-imagenet-200" / "train", below="images", suffix="JPEG")
    with pytest.MonkeyPatch.context() as patch, Workbench(root, tmp_path_factory.mktemp("cache")).use():
        patch.setattr(constants, "HF_HUB_CACHE", str(cache))
        yield


@pytest.mark.usefixtures("published")
@pytest.mark.parametrize("file", SPACES, ids=lambda file: file.stem)
def test_a_space_loads_plans_and_has_a_price(file, tmp_path):
    space = load_space(file)
    assert space.name == file.stem
    assert "?" in space.description
    plan = make_plan(space)
    _, distinct, _ = CostModel().totals(plan.trials)
    assert distinct > 0
    if file.stem in ("embedder-epochs", "freezing"):  # the others take the same road
        assert "GPU-hours" in describe_plan(space, Workspace(tmp_path / "results"), "text")


@pytest.mark.usefixtures("published")
@pytest.mark.parametrize(
    "file", [file for file in SPACES if file.stem not in ON_A_LAPTOP | WITHOUT_TWIN.keys()], ids=lambda file: file.stem
)
def test_a_study_at_paper_scale_has_a_twin_of_the_same_shape(file):
    study, twin = load_space(file), load_space(file.with_name(f"{file.stem}-laptop.yaml"))
    assert study.description == twin.description
    assert (study.question is None) == (twin.question is None)
    assert study.question is None or twin.question is None or study.question.factor == twin.question.factor
    of_the_twin = {trial.config.body_spec for trial in make_plan(twin).trials}
    assert all(body.is_bodiless or body.pretrained_here for body in of_the_twin)


@pytest.mark.usefixtures("published")
def test_the_questions_are_asked_of_series_and_of_images():
    """Each twin has tasks of both kinds; the two about proxies are one for each."""
    for name in ON_A_LAPTOP - {"pretraining-probe-laptop", "proxies-text-laptop", "proxies-images-laptop"}:
        dims = {trial.config.task_spec.dims for trial in make_plan(load_space(name)).trials}
        assert dims == {1, 2}, name


def test_every_space_is_found_by_its_name():
    assert {file.stem for file in SPACES} <= set(available_spaces())


def test_the_space_of_the_storm_lies_with_the_benchmark_that_runs_it():
    assert make_plan(load_space(Path(__file__).parents[1] / "benchmarks" / "storm.yaml")).trials
    assert "storm" not in available_spaces()


def test_the_quickstart_sweeps_all_four_axes_on_both_kinds_of_task():
    space = load_space("quickstart")
    assert set(space.varied) == {"task", "align.epochs", "proxy", "freezing", "body.weights"}
    assert {trial.config.task_spec.dims for trial in make_plan(space).trials} == {1, 2}


@pytest.mark.usefixtures("published")
@pytest.mark.parametrize(
    ("name", "rungs"),
    [("pretraining-ladder", 14), ("pretraining-ladder-images", 3), ("pretraining-ladder-pythia", 9), ("pretraining-ladder-laptop", 6)],
)
def test_a_ladder_of_pretraining_has_a_rung_without_any_and_each_rung_is_an_arm(name, rungs):
    trials = make_plan(load_space(name)).trials
    assert len({trial.arm for trial in trials}) == rungs * len({trial.config.task for trial in trials})
    assert any(trial.config.body.weights == "random" for trial in trials)
