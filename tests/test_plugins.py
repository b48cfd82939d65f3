"""Entry points of other packages: the examples of the docs, and how broken ones are refused."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import tomllib
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import NamedTuple

import pytest
import torch

from orca_core.bodies import BODY_CATALOGUE, BodySpec, find_body
from orca_core.bodies.loading import checkpoint_body, random_body
from orca_core.config.resolve import resolve_config
from orca_core.distances import DISTANCE_CATALOGUE, find_distance, knob_owners
from orca_core.errors import ConfigError, DataError
from orca_core.identity import trial_id
from orca_core.pipeline import run_trial
from orca_core.proxies import PROXY_CATALOGUE, find_proxy
from orca_core.tasks import TASK_CATALOGUE, find_task
from orca_core.testing import BodyContract, DistanceContract, ProxyContract, TaskContract

ROOT = Path(__file__).parents[1]
DOCS = (ROOT / "docs" / "extending.md").read_text()
CATALOGUES = (TASK_CATALOGUE, PROXY_CATALOGUE, BODY_CATALOGUE, DISTANCE_CATALOGUE)


@pytest.fixture
def install(tmp_path, monkeypatch):
    """`install(points, module=code)` puts a package `mypackage` with these modules and entry points on the path."""

    def forget() -> None:
        for catalogue in CATALOGUES:
            catalogue.forget_entry_points()
        for name in [name for name in sys.modules if name.partition(".")[0] == "mypackage"]:
            del sys.modules[name]

    def put(points: str, **modules: str) -> None:
        for name, code in {"__init__": "", **modules}.items():
            (tmp_path / "mypackage").mkdir(exist_ok=True)
            (tmp_path / "mypackage" / f"{name}.py").write_text(code)
        (tmp_path / "mypackage-1.dist-info").mkdir(exist_ok=True)
        (tmp_path / "mypackage-1.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: mypackage\nVersion: 1\n")
        with (tmp_path / "mypackage-1.dist-info" / "entry_points.txt").open("a") as file:
            file.write(points)
        monkeypatch.syspath_prepend(tmp_path)
        forget()

    yield put
    forget()


class Example(NamedTuple):
    """What a section of the docs shows."""

    points: str
    """Its entry points, in the form in which they are installed."""
    modules: dict[str, str]
    """Its code by module of the package."""
    tests: str
    """Its tests."""
    commands: list[str]


def example(title: str) -> Example:
    """What the section of that title shows."""
    (section,) = re.findall(rf"^## {title}\n(.*?)(?=^## |\Z)", DOCS, flags=re.DOTALL | re.MULTILINE)
    blocks = re.findall(r"```python\n(# mypackage/(\w+)\.py.*?)```", section, flags=re.DOTALL)
    (tests,) = re.findall(r"```python\n(# tests/\w+\.py.*?)```", section, flags=re.DOTALL)
    (toml,) = re.findall(r"```toml\n(.*?)```", section, flags=re.DOTALL)
    groups = tomllib.loads(toml)["project"]["entry-points"]
    lines = [f"[{group}]\n" + "".join(f"{name} = {value}\n" for name, value in points.items()) for group, points in groups.items()]
    commands = re.findall(r"^    (sweeper .*)$", section, flags=re.MULTILINE)
    return Example("".join(lines), {module: code for code, module in blocks}, tests, commands)


TASK_POINTS, TASK_CODE = example("Task").points, example("Task").modules["tasks"]


def run(folder: Path, *arguments: str) -> str:
    """What a fresh Python with the installed package prints: it must succeed."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(folder), str(ROOT)])}
    done = subprocess.run([sys.executable, *arguments], cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_examples_pass_the_contracts_that_they_show(install, tmp_path):
    for title in ("Task", "Proxy", "Body", "Distance"):
        shown = example(title)
        install(shown.points, **shown.modules)
        (tmp_path / f"test_{title.lower()}.py").write_text(shown.tests)
        if title == "Body":
            run(tmp_path, "-m", "mypackage.write_weights")
    options = ("-q", "-p", "no:cacheprovider", "-W", "error::UserWarning", "--rootdir", str(tmp_path))
    printed = run(tmp_path, "-m", "pytest", *options, str(tmp_path))
    checks = [name for contract in (TaskContract, ProxyContract, BodyContract) for name in dir(contract) if name.startswith("test_")]
    checks += 2 * [name for name in dir(DistanceContract) if name.startswith("test_")]
    assert f"{len(checks)} passed" in printed


def test_the_example_of_a_task_runs(install, quick, warm_store):
    install(TASK_POINTS, tasks=TASK_CODE)
    assert find_task("sign").summary == "the sign of the mean"
    result = run_trial(quick("sign", {"finetune.epochs": 2}), warm_store, lambda row: None)
    assert 0 <= result.test_error <= 1


def test_the_example_of_a_proxy_runs(install, quick, warm_store):
    shown = example("Proxy")
    install(shown.points, **shown.modules)
    knobs = {"proxy": "subject", "align.epochs": 1, "train_samples": 30}
    rows = []
    run_trial(quick("openml/187", knobs), warm_store, rows.append)
    assert any(row.stage == "align" for row in rows)


def test_the_example_of_a_distance_runs_with_a_knob_of_its_own(install, tmp_path):
    shown = example("Distance")
    install(shown.points, **shown.modules)
    (command,) = shown.commands
    quick = ("train_samples=30", "pretrain.epochs=1", "pretrain.fraction=0.1", "finetune.epochs=1", "finetune.decay_epochs=null")
    main = "from sweeper.cli import main; main()"
    settings = [part for knob in quick for part in ("--set", knob)]
    assert "status COMPLETE" in run(tmp_path, "-c", main, *shlex.split(command)[1:], *settings)
    known = "from orca_core.config.paths import KNOBS; print(KNOBS['align.centre_power'].default)"
    assert run(tmp_path, "-c", known) == "2.0\n"


@pytest.fixture
def letters(install) -> BodySpec:
    """The body of the docs, installed, with its weights written."""
    shown = example("Body")
    install(shown.points, **shown.modules)
    import_module("mypackage.write_weights")
    return find_body("letters")


def test_the_example_of_a_body_runs(letters, quick, store):
    knobs = {"body": "letters", "proxy": "pydoc", "align.epochs": 1, "align.proxy_samples": 40, "train_samples": 30}
    configs = [quick("openml/187", knobs | {"body.weights": weights}) for weights in ("pretrained", "random")]
    results = [run_trial(config, store, lambda row: None) for config in configs]
    assert all(0 <= result.test_error <= 1 for result in results)
    assert trial_id(configs[0]) != trial_id(configs[1])


def test_a_body_with_code_of_its_own_is_known_by_its_version_and_its_files(letters):
    before = letters.digest()
    assert replace(letters, version=2).digest() != before
    assert replace(letters, build="mypackage.letters:other").digest() != before
    letters.files()[0].write_bytes(b"other")
    assert letters.digest() != before


def test_random_and_pretrained_weights_of_a_body_with_code_of_its_own(letters):
    pretrained, again = (checkpoint_body(letters, digest).body.state_dict() for digest in ("first", "second"))
    first, second, other = (random_body(letters, seed=seed).body.state_dict() for seed in (0, 0, 1))
    assert all(torch.equal(pretrained[name], again[name]) and torch.equal(first[name], second[name]) for name in first)
    assert not all(torch.equal(first[name], other[name]) for name in first)
    assert not all(torch.equal(first[name], pretrained[name]) for name in first)


@pytest.mark.parametrize(
    ("module", "change", "message"),
    [
        ("letters", ('return parts["body"], parts["embedding"]', "return parts"), r"must return \(Body, TextEmbedding or ImageEmbedding\)"),
        ("letters", ("nn.ModuleDict(", "nn.Modules("), "mypackage.letters:build fails with AttributeError"),
        ("letters", ('Geometry("text"', 'Geometry("images"'), "body.geometry.modality must be text, as the spec says, but is images"),
        (
            "letters",
            ("max_tokens=MAX_TOKENS", "max_tokens=32"),
            r"embedding.positions must be of shape \(32, 32\) or None",
        ),
        ("letters", ("output_width=WIDTH", "output_width=48"), r"must return tokens of shape \(2, 4, 48\)"),
        ("letters", ("nn.LayerNorm(WIDTH)", "nn.LayerNorm((1, WIDTH))"), "embedding.norm must be a LayerNorm over the width, 32"),
        ("letters", ("return list(self.layers)", "return []"), "body.blocks must be modules of the body, at least one"),
        ("bodies", ("num_layers=2", "num_layers=3"), "num_layers of the spec must be what the body has, 2, or None, but is 3"),
        ("bodies", ("width=32", "width=64"), "width of the spec must be what the body has, 32, or None, but is 64"),
        ("bodies", ("width=32", "rows_before_third=0"), "rows_before_third of the spec must be what the body has, 2, or None, but is 0"),
    ],
)
def test_a_body_that_breaks_a_promise_is_told_which(install, module, change, message):
    points, modules, *_ = example("Body")
    assert change[0] in modules[module]
    install(points, **modules | {module: modules[module].replace(*change)})
    with pytest.raises(DataError, match=message):
        random_body(find_body("letters"), seed=0)


CODE = "mypackage.tasks:prepare"
DISTANCE = """
from typing import Literal
from pydantic import Field
from orca_core.distances import DistanceSpec
SIGN = DistanceSpec("mine", "a distance of mine", "{}", {})
"""


@pytest.mark.parametrize(
    ("prepare", "knobs", "message"),
    [
        ("mypackage.distances", "{}", 'prepare must be "module:function"'),
        (CODE, "{'lr': (float, Field(1.0, description='x'))}", "name of a knob that all distances share, but one is 'lr'"),
        (CODE, "{'Power': (float, Field(1.0, description='x'))}", "lower-case letters, digits and underscores, not 'Power'"),
        (CODE, "{'power': 1.0}", "pairs of a type and a pydantic Field, but power is 1.0"),
        (
            CODE,
            "{'power': (dict, Field(default_factory=dict, description='x'))}",
            "texts, numbers, flags, choices of these, or lists of them",
        ),
        (CODE, "{'power': (float, Field(description='x'))}", "must have a default and a description, but power lacks one"),
        (CODE, "{'power': (float, Field(1.0))}", "must have a default and a description, but power lacks one"),
        (CODE, "{'power': (Literal['a'], Field('b', description='x'))}", "must have defaults that they allow, but that of power is 'b'"),
        (
            CODE,
            "{'entropic_reg': (float, Field(1.0, description='x'))}",
            "defined as in other distances, but entropic_reg differs from that of otdd-gaussian",
        ),
    ],
)
def test_a_broken_distance_is_refused_by_name_with_the_rule_it_breaks(install, prepare, knobs, message):
    install("[orca_core.distances]\nmine = mypackage.tasks:SIGN\n", tasks=DISTANCE.format(prepare, knobs))
    with pytest.warns(UserWarning, match=message), pytest.raises(ConfigError, match=f"entry point mine .*{message}"):
        find_distance("mine")


def test_a_distance_may_share_a_knob_that_it_defines_alike(install):
    code = "from orca_core.distances import DISTANCES, DistanceSpec\nKNOBS = {'solver': DISTANCES['otdd-exact'].knobs['solver']}\n"
    code += "SIGN = DistanceSpec('mine', 'a distance of mine', 'mypackage.tasks:prepare', KNOBS)"
    install("[orca_core.distances]\nmine = mypackage.tasks:SIGN\n", tasks=code)
    assert knob_owners()["solver"] == ("otdd-exact", "otdd-gaussian", "mine")


def test_a_body_without_tokenizer_says_so_where_texts_are_its_proxy(letters):
    loaded = random_body(replace(letters, tokenizer=""), seed=0)
    with pytest.raises(DataError, match="letters: names no tokenizer, and a text proxy needs one"):
        loaded.tokenizer()


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("SIGN = 3", "TypeError: must be a TaskSpec of orca_core.tasks.spec, not int"),
        ("raise RuntimeError('no data')", "RuntimeError: no data"),
        ("", "AttributeError"),
    ],
)
def test_an_entry_point_that_is_no_task_is_left_out_and_says_why_when_named(install, code, message):
    install(TASK_POINTS, tasks=code)
    with pytest.warns(UserWarning, match=message):
        assert find_task("digits").name == "digits"
    with pytest.raises(ConfigError, match=f"entry point sign of orca_core.tasks .* is left out: {message}"):
        find_task("sign")


def test_a_proxy_among_the_tasks_is_no_task(install):
    install(TASK_POINTS, tasks="from orca_core.proxies import PROXIES\nSIGN = PROXIES['photos']")
    with pytest.warns(UserWarning, match="must be a TaskSpec"), pytest.raises(ConfigError, match="not ProxySpec"):
        find_task("sign")


def test_a_wrong_proxy_says_so_too(install):
    install("[orca_core.proxies]\nsign = mypackage.tasks:SIGN\n", tasks="SIGN = 'x'")
    message = "must be a ProxySpec of orca_core.proxies.spec, not str"
    with pytest.warns(UserWarning, match=message), pytest.raises(ConfigError, match=message):
        find_proxy("sign")


BODY = 'from orca_core.bodies import BodySpec\nSIGN = BodySpec("my-body", "a body of mine", {})\n'


@pytest.mark.parametrize(
    ("code", "name", "message"),
    [
        ("SIGN = 3", "sign", "must be a BodySpec of orca_core.bodies.spec, not int"),
        (BODY.format('"text", "t5-like"'), "my-body", 'build must be "module:function", the code that makes the body, or folder'),
        (
            BODY.format('"text", "t5-like", folder="."'),
            "my-body",
            r"model_type must be a known family \(bert, .*\) unless .*, not 't5-like'",
        ),
        (BODY.format('"text", build="mypackage.tasks"'), "my-body", "build must be \"module:function\", not 'mypackage.tasks'"),
        (BODY.format('"sound", build="mypackage.tasks:build"'), "my-body", "modality must be text or images, not 'sound'"),
        (BODY.format('"text", "roberta", ("pydoc",)'), "my-body", "corpus must be empty: only the mini bodies are pretrained here"),
        (BODY.format('"images", "roberta", folder="."'), "my-body", "modality must be that of its family, text, not 'images'"),
        (BODY.format('"text", "roberta"').replace("my-body", "mini-swin"), "sign", "name must not be that of another body"),
        (BODY.format('"text", "roberta"').replace("my-body", "hf:x"), "sign", "name must not be of the form hf:NAME_OR_FOLDER"),
    ],
)
def test_a_broken_body_is_refused_by_name_with_the_rule_it_breaks(install, code, name, message):
    install("[orca_core.bodies]\nsign = mypackage.tasks:SIGN\n", tasks=code)
    with pytest.warns(UserWarning, match=message), pytest.raises(ConfigError, match=message):
        find_body(name)
    with pytest.raises(ConfigError, match=message):
        resolve_config({"task": "digits", "body": name})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (('loader="mypackage.tasks:load"', 'loader="mypackage.tasks.load"'), 'loader must be "module:function"'),
        (("return TaskData(*parts, num_classes=2)", "return parts"), "must return TaskData, but returned list"),
        (("num_classes=2", "num_classes=None"), "num_classes must be a number for classification"),
        (('astype("float32")', 'astype("float64")'), r"train\.x must be float32 of rows \(1, 32\), but is float64"),
        (('astype("int64")', 'astype("float32")'), r"test\.y must be int64 with 1 axes for classification, but is float32"),
        (('astype("int64")', 'astype("int64") * 5'), r"train\.y must be class ids below 2, but has 0 to 5"),
        (("size=(300, 1, 32)", "size=(300, 1, 8, 4)"), r"inputs must have channels and 1 dimensions, but have the shape \(1, 8, 4\)"),
        (("(200, 250), (250, 300)", "(200, 200), (250, 300)"), "valid must have as many y as x, at least one"),
    ],
)
@pytest.mark.filterwarnings("ignore:entry point sign")
def test_a_loader_that_breaks_a_promise_is_told_which(install, change, message):
    assert change[0] in TASK_CODE
    changed = TASK_CODE.replace(*change)
    install(TASK_POINTS, tasks=changed.replace("x.mean((1, 2))", "x.mean(tuple(range(1, x.ndim)))"))
    with pytest.raises((DataError, ConfigError), match=message):
        find_task("sign").load(0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("mypackage.tasks:load", "mypackage.tasks:laod"), "sign: mypackage.tasks:laod: must name a function that can be imported"),
        (
            ('score="1-accuracy"', 'score="1-acuracy"'),
            "sign: score must be the name of a score, but got .1-acuracy",
        ),
        (('loss="cross-entropy"', 'loss="entropy"'), "sign: loss must be the name of a loss, but got 'entropy'"),
        (('"epochs": 3', '"epohcs": 3'), r"finetune\.epohcs: must be a known knob, in the recipe laptop of sign"),
        (("dims=1", "dims=3"), "dims must be 1 for series or 2 for images and fields, not 3"),
    ],
)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_what_a_task_names_wrongly_is_named_with_the_task_before_anything_is_computed(install, quick, store, change, message):
    assert change[0] in TASK_CODE
    install(TASK_POINTS, tasks=TASK_CODE.replace(*change))
    with pytest.raises((DataError, ConfigError), match=message):
        run_trial(quick("sign"), store, lambda row: pytest.fail("computed"))
