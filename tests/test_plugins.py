"""Entry points of other packages: the example of the docs, and what is said of wrong ones."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from orca_core.bodies import BODY_CATALOGUE, find_body
from orca_core.config.knobs import resolve_config
from orca_core.errors import ConfigError, DataError
from orca_core.pipeline import run_trial
from orca_core.proxies import PROXY_CATALOGUE, find_proxy
from orca_core.tasks import TASK_CATALOGUE, find_task

EXAMPLE = Path(__file__).parents[1] / "docs" / "extending.md"


def forget() -> None:
    for catalogue in (TASK_CATALOGUE, PROXY_CATALOGUE, BODY_CATALOGUE):
        catalogue.forget_entry_points()


@pytest.fixture
def install(tmp_path, monkeypatch):
    """`install(code, entry points)` puts a package `mypackage` with a module `tasks` and its metadata on the path."""

    def put(code: str, points: str) -> None:
        (tmp_path / "mypackage").mkdir()
        (tmp_path / "mypackage" / "__init__.py").write_text("")
        (tmp_path / "mypackage" / "tasks.py").write_text(code)
        (tmp_path / "mypackage-1.dist-info").mkdir()
        (tmp_path / "mypackage-1.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: mypackage\nVersion: 1\n")
        (tmp_path / "mypackage-1.dist-info" / "entry_points.txt").write_text(points)
        monkeypatch.syspath_prepend(tmp_path)
        forget()

    yield put
    forget()
    for name in ("mypackage", "mypackage.tasks"):
        sys.modules.pop(name, None)


def example() -> tuple[str, str]:
    """The code and the entry points that the docs show."""
    text = EXAMPLE.read_text()
    code = re.search(r"```python\n(.*?)```", text, flags=re.DOTALL)[1]
    section, line = re.search(r'entry-points\."([\w.]+)"\]\n(\w+ = ".*")', text).groups()
    return code, f"[{section}]\n{line.replace(chr(34), '')}\n"


def test_the_example_of_the_docs_is_a_task(install, quick, warm_store):
    install(*example())
    assert find_task("sign").summary == "the sign of the mean"
    result = run_trial(quick("sign", {"finetune.epochs": 2}), warm_store, lambda row: None)
    assert 0 <= result.test_error <= 1


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("SIGN = 3", "TypeError: must be a TaskSpec of orca_core.tasks.spec, not int"),
        ("raise RuntimeError('no data')", "RuntimeError: no data"),
        ("", "AttributeError"),
    ],
)
def test_an_entry_point_that_is_no_task_is_left_out_and_says_why_when_named(install, code, message):
    install(code, example()[1])
    with pytest.warns(UserWarning, match=message):
        assert find_task("digits").name == "digits"
    with pytest.raises(ConfigError, match=f"entry point sign of orca_core.tasks .* is left out: {message}"):
        find_task("sign")


def test_a_proxy_among_the_tasks_is_no_task(install):
    install("from orca_core.proxies import PROXIES\nSIGN = PROXIES['photos']", example()[1])
    with pytest.warns(UserWarning, match="must be a TaskSpec"), pytest.raises(ConfigError, match="not ProxySpec"):
        find_task("sign")


def test_a_wrong_proxy_says_so_too(install):
    install("SIGN = 'x'", "[orca_core.proxies]\nsign = mypackage.tasks:SIGN\n")
    message = "must be a ProxySpec of orca_core.proxies.spec, not str"
    with pytest.warns(UserWarning, match=message), pytest.raises(ConfigError, match=message):
        find_proxy("sign")


BODY = 'from orca_core.bodies import BodySpec\nSIGN = BodySpec("my-body", "a body of mine", {})\n'


@pytest.mark.parametrize(
    ("code", "name", "message"),
    [
        ("SIGN = 3", "sign", "must be a BodySpec of orca_core.bodies.spec, not int"),
        (BODY.format('"text", "t5-like"'), "my-body", r"model_type must be a known family \(bert, .*\), not 't5-like'"),
        (BODY.format('"text", "roberta"'), "my-body", "folder must be the folder of its checkpoint, not None"),
        (BODY.format('"text", "roberta", ("pydoc",)'), "my-body", "corpus must be empty: only the mini bodies are pretrained here"),
        (BODY.format('"images", "roberta"'), "my-body", "modality must be that of its family, text, not 'images'"),
        (BODY.format('"text", "roberta"').replace("my-body", "mini-swin"), "sign", "name must not be that of another body"),
        (BODY.format('"text", "roberta"').replace("my-body", "hf:x"), "sign", "name must not be of the form hf:NAME_OR_FOLDER"),
    ],
)
def test_a_broken_body_is_refused_by_name_with_the_rule_it_breaks(install, code, name, message):
    install(code, "[orca_core.bodies]\nsign = mypackage.tasks:SIGN\n")
    with pytest.warns(UserWarning, match=message), pytest.raises(ConfigError, match=message):
        find_body(name)
    with pytest.raises(ConfigError, match=message):
        resolve_config({"task": "digits", "body": name})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (('loader="mypackage.tasks:load"', 'loader="mypackage.tasks.load"'), 'loader must be "module:function"'),
        (("return TaskData(*parts, num_classes=2)", "return parts"), "must give TaskData, but gives list"),
        (("num_classes=2", "num_classes=None"), "num_classes must be a number for classification"),
        (('astype("float32")', 'astype("float64")'), r"train\.x must be float32 of rows \(1, 32\), but is float64"),
        (('astype("int64")', 'astype("float32")'), r"test\.y must be int64 with 1 axes for classification, but is float32"),
        (('astype("int64")', 'astype("int64") * 5'), r"train\.y must be class ids below 2, but has 0 to 5"),
        (("size=(300, 1, 32)", "size=(300, 1, 8, 4)"), r"inputs must have channels and 1 dimensions, but have the shape \(1, 8, 4\)"),
        (("(200, 250), (250, 300)", "(200, 200), (250, 300)"), "valid must have as many y as x, one at least"),
    ],
)
@pytest.mark.filterwarnings("ignore:entry point sign")
def test_a_loader_that_breaks_a_promise_is_told_which(install, change, message):
    code, points = example()
    assert change[0] in code
    changed = code.replace(*change)
    install(changed.replace("x.mean((1, 2))", "x.mean(tuple(range(1, x.ndim)))"), points)
    with pytest.raises((DataError, ConfigError), match=message):
        find_task("sign").load(0)
