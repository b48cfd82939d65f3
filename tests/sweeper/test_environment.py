"""What reaches the workers: settings but no secret, and code with its plug-ins."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from orca_core.numerics import PORTABLE
from sweeper.running.secrets import conceal, is_secret

pytestmark = pytest.mark.ray


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    for name in list(os.environ):
        if name.startswith(("HF_", "AWS_")):
            monkeypatch.delenv(name)
    return monkeypatch


SETTINGS = {
    "AWS_ENDPOINT_URL": "http://127.0.0.1:9000",
    "AWS_ENDPOINT_URL_STS": "http://127.0.0.1:9001",
    "AWS_REGION": "eu-west-1",
    "AWS_DEFAULT_REGION": "eu-west-1",
    "AWS_PROFILE": "sweeps",
    "GOOGLE_CLOUD_PROJECT": "project",
    "HF_HOME": "/models",
    "HF_ENDPOINT": "https://hub.example",
    "HF_HUB_OFFLINE": "1",
    "HF_HUB_DISABLE_IMPLICIT_TOKEN": "1",
}

SECRETS = {
    "HF_TOKEN": "hf_secretvalue",
    "HUGGING_FACE_HUB_TOKEN": "hf_secretvalue",
    "AWS_ACCESS_KEY_ID": "AKIAsecretvalue",
    "AWS_SECRET_ACCESS_KEY": "secretvalue",
    "AWS_SESSION_TOKEN": "secretvalue",
    "RAY_AUTH_TOKEN": "secretvalue",
    "HF_ENDPOINT_PASSWORD": "secretvalue",
    "AWS_ENDPOINT_URL_S3": "http://user:secretvalue@127.0.0.1",
}


def test_settings_reach_the_workers_and_secrets_do_not(environment):
    from sweeper.tune.environment import kept_secrets, worker_settings

    for name, value in {**SETTINGS, **SECRETS, "UNRELATED": "x", "RAY_CHDIR_TO_TRIAL_DIR": "0"}.items():
        environment.setenv(name, value)
    sent = worker_settings({"RAY_CHDIR_TO_TRIAL_DIR": "0"}, "portable")
    assert sent.items() >= {**SETTINGS, **PORTABLE, "RAY_CHDIR_TO_TRIAL_DIR": "0"}.items()
    assert not sent.keys() & (SECRETS.keys() | {"UNRELATED"})
    assert "secretvalue" not in json.dumps(sent)
    assert kept_secrets() == sorted(SECRETS.keys() - {"HUGGING_FACE_HUB_TOKEN", "RAY_AUTH_TOKEN"})


def test_processes_of_trials_have_no_environment_of_their_own(environment):
    """Ray would log the keys that Tune copies into it, and could give them none of the processes that have started already."""
    from ray.tune.execution.class_cache import _ActorClassCache

    from sweeper.tune.processes import ProcessClasses

    environment.setenv("AWS_SECRET_ACCESS_KEY", "secretvalue")
    known, trainable = ProcessClasses(), type("Trainable", (), {})
    assert not known.get(trainable)._default_options.get("runtime_env")
    assert known.get(trainable) is known.get(trainable)
    copied = _ActorClassCache().get(trainable)._default_options["runtime_env"]["env_vars"]
    assert copied["AWS_SECRET_ACCESS_KEY"] == "secretvalue", "Ray has changed: the cure may not be needed any more"


def test_processes_of_this_machine_inherit_what_they_need_and_load_torch_at_once_if_each_gets_a_trial(environment):
    """What Ray is started with: starting it takes longer than all tests of this file."""
    from sweeper.space.file import Resources
    from sweeper.tune import cluster

    names, started = (next(iter(PORTABLE)), "RAY_preload_python_modules", "OMP_NUM_THREADS"), []
    environment.delenv("OMP_NUM_THREADS")
    environment.setattr(os, "cpu_count", lambda: 2)
    environment.setattr(cluster, "_init", lambda address, runtime, job: started.append([runtime, *map(os.environ.get, names)]))
    environment.setattr(cluster.ray, "shutdown", lambda: None)
    environment.setattr(cluster.ray, "is_initialized", lambda: False)  # also after a test that has started the session's Ray
    for resources, trials in ((Resources(), 1), (Resources(cpu=2), 9), (Resources(), 2)):
        with cluster.open_cluster(None, resources, "portable", num_trials=trials):
            assert "RAY_preload_python_modules" not in os.environ
    pinned = PORTABLE[names[0]]
    assert started[:2] == [[{}, pinned, None, None]] * 2
    assert started[2] == [{}, pinned, "torch,transformers.modeling_utils", "1"]


def test_an_error_that_quotes_a_secret_is_a_row_without_it():
    environment = {"HF_TOKEN": "hf_secretvalue", "AWS_REGION": "eu-west-1", "A_KEY": "on"}
    text = "401 at https://me:pass@hub.example for hf_secretvalue in eu-west-1: switch it on"
    assert conceal(text, environment) == "401 at https://***@hub.example for *** in eu-west-1: switch it on"
    assert not is_secret("TOKENIZERS_PARALLELISM", "anything")


def unpacked(modules: list[str], folder: Path) -> Path:
    """Modules as Ray puts them on the path of a worker: each below a folder of its own."""
    for module in modules:
        at = Path(module)
        if at.is_dir():
            shutil.copytree(at, folder / at.name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(at, folder)
    return folder


PLUGIN = """
from orca_core.tasks import TaskSpec
SIGN = TaskSpec(name="sign", summary="s", dims=1, kind="classification", loss="cross-entropy", score="1-accuracy",
                loader="signs:load", recipes={"laptop": {"body": {"name": "mini-roberta"}}})
"""


@pytest.fixture
def plugin(tmp_path, environment) -> Path:
    """A plug-in of one module, installed."""
    site = tmp_path / "site"
    (site / "signs-2.dist-info").mkdir(parents=True)
    (site / "signs.py").write_text(PLUGIN)
    (site / "signs-2.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: signs\nVersion: 2\nRequires-Dist: numpy\n")
    (site / "signs-2.dist-info" / "entry_points.txt").write_text("[orca_core.tasks]\nsign = signs:SIGN\n")
    environment.syspath_prepend(site)
    return site


def test_shipped_code_is_complete_and_brings_its_plugins(tmp_path, plugin):
    from sweeper.running.code import code_here
    from sweeper.tune.environment import shipped_modules

    (tmp_path / "metadata").mkdir()
    shipped = unpacked(shipped_modules(tmp_path / "metadata"), tmp_path / "shipped")
    code = (
        "import json; from dataclasses import asdict; from orca_core.tasks import find_task; from sweeper.running.code import code_here\n"
        "import sweeper, signs; print(json.dumps([find_task('sign').summary, sweeper.__file__, signs.__file__, asdict(code_here())]))"
    )
    bare = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | {"PYTHONPATH": str(shipped)}
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=bare, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    summary, sweeper, signs, there = json.loads(done.stdout)
    assert (summary, sweeper, signs) == ("s", str(shipped / "sweeper" / "__init__.py"), str(shipped / "signs.py"))
    code_here.cache_clear()
    here = code_here()
    code_here.cache_clear()
    assert (there["sources"], there["releases"]) == (here.sources, here.releases)
    assert here.releases["signs"] == "2"


def test_a_plugin_that_cannot_be_shipped_is_named(tmp_path, plugin):
    from sweeper.tune.environment import shipped_modules

    (plugin / "signs.py").unlink()
    (plugin / "signs").mkdir()
    (plugin / "signs" / "__init__.py").write_text(PLUGIN)
    (plugin / "signs" / "fast.so").write_bytes(b"")
    (tmp_path / "metadata").mkdir()
    with pytest.warns(
        RuntimeWarning, match=r"the plug-in signs 2 is not sent to the nodes, as it has compiled code \(fast.so\): every node"
    ):
        modules = shipped_modules(tmp_path / "metadata")
    assert [Path(module).name.partition("-")[0] for module in modules] == ["orca_core", "sweeper", "orca_sweeper"]
