"""What a worker tells about itself: the machine, the cloud, the code."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

from sweeper.planning.planner import Planner
from sweeper.results.workspace import Workspace
from sweeper.running.code import code_here
from sweeper.running.provenance import code_commit, provenance
from sweeper.running.recorder import Recorder
from sweeper.running.worker import report_text, worker_facts

ROOT = Path(__file__).parents[2]


def test_the_machine_is_known_by_environment_or_label(monkeypatch):
    def machine(**labels: str) -> tuple[str | None, str | None]:
        facts = worker_facts("n1", labels)
        return facts.instance_type, facts.zone

    for name in ("SWEEPER_INSTANCE_TYPE", "SWEEPER_ZONE", "RAY_NODE_ZONE"):
        monkeypatch.delenv(name, raising=False)
    assert machine() == (None, None)
    labels = {"instance-type": "labelled", "ray.io/availability-zone": "zone of the label"}
    assert machine(**labels) == ("labelled", "zone of the label")
    monkeypatch.setenv("SWEEPER_INSTANCE_TYPE", "set")
    monkeypatch.setenv("SWEEPER_ZONE", "zone that is set")
    assert machine(**labels) == ("set", "zone that is set")


def test_a_report_has_machine_code_and_numerics():
    cells = json.loads(report_text(worker_facts("n1"), "cpu"))
    assert cells.items() >= {"node_id": "n1", "host": socket.gethostname(), "pid": os.getpid(), "code_digest": code_here().digest}.items()
    assert cells["code_version"] == provenance()["code_version"]
    assert {"ray_version", "torch_version", "cpu_capability"} <= cells.keys()
    assert "ray_version" not in json.loads(report_text(worker_facts(), None)), "a trial that Ray did not run"


def test_rows_say_what_the_worker_says_and_not_what_the_driver_is(tmp_path, load):
    planner = Planner(load("name: s\nbase: {task: digits, align.epochs: 0}"))
    (trial,) = planner.plan.trials
    recorder = Recorder(Workspace(tmp_path / "results").results, "s", "valid_error")
    recorder.start(trial, device="cpu")
    recorder.end(trial.id, {"status": "FAIL", "cause": "infrastructure", "error": "lost before it said a word"})
    recorder.start(trial, device="cpu")
    told = {"node_id": "n1", "code_digest": "d1", "code_commit": "c1", "zone": "z1", "instance_type": "t1"}
    recorder.locate(trial.id, "node", 7, told)
    recorder.end(trial.id, {"status": "COMPLETE"})
    recorder.flush()
    names = ("host", "pid", "ray_version", *told)
    rows = (
        Workspace(tmp_path / "results")
        .sql(f"select attempt, {', '.join(names)} from all_trials where sequence = 1 order by attempt")
        .rows()
    )
    lost, done = ({name: row[name] for name in names} for row in rows)
    assert set(lost.values()) == {None}
    assert done == {"host": "node", "pid": 7, "ray_version": None, **told}


def test_a_commit_is_that_of_a_checkout_of_this_project_else_of_the_environment(tmp_path, monkeypatch):
    """A copy of the package within another project's checkout is not at that project's commit."""
    monkeypatch.setenv("SWEEPER_CODE_COMMIT", "carried")
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b"]
    subprocess.run([*git, "init", "-q"], check=True)
    subprocess.run([*git, "commit", "-q", "--allow-empty", "-m", "another project"], check=True)
    shutil.copytree(ROOT / "sweeper", tmp_path / "copy" / "sweeper", ignore=shutil.ignore_patterns("__pycache__"))
    code = "from sweeper.running.provenance import code_commit; print(code_commit())"
    environment = os.environ | {"PYTHONPATH": f"{tmp_path / 'copy'}{os.pathsep}{ROOT}"}
    said = subprocess.run([sys.executable, "-c", code], env=environment, cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    assert said == "carried\n"
    if (ROOT / ".git").exists():
        assert code_commit() not in (None, "carried")
