"""Sweeps on nodes of a cluster that do not have this package, and sweeps submitted as jobs.

Each test plays a cluster in namespaces of its own: processes, network, and for nodes with another disk, mounts. So its Ray meets no other.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
CAN_UNSHARE = shutil.which("unshare") and subprocess.run(["unshare", "-p", "-f", "-n", "-m", "true"], capture_output=True).returncode == 0

pytestmark = [
    pytest.mark.slow,
    pytest.mark.ray,
    pytest.mark.skipif(not CAN_UNSHARE, reason="needs the right to make namespaces"),
]

SPACE = """
name: ship
floors: false
base: {body.weights: random, align.epochs: 0, finetune.epochs: 1, finetune.warmup_epochs: 0, finetune.decay_epochs: null}
space:
  task: {grid: ["csv:mine.csv", sign]}
seeds: 2
"""

PLUGIN = """
import numpy as np
from orca_core.tasks import Split, TaskData, TaskSpec

def load(spec, split_seed):
    rng = np.random.default_rng(split_seed)
    x = rng.normal(size=(90, 1, 16)).astype("float32")
    y = (x.mean((1, 2)) > 0).astype("int64")
    return TaskData(*(Split(x[i:j], y[i:j]) for i, j in ((0, 50), (50, 70), (70, 90))), num_classes=2)

SIGN = TaskSpec(name="sign", summary="s", dims=1, kind="classification", loss="cross-entropy", score="1-accuracy", loader="signs:load",
                recipes={"laptop": {"body": {"name": "mini-roberta"}}})
"""

HEAD = "$PYTHON -m ray.scripts.scripts start --head --node-ip-address 127.0.0.2 --port 6399 --temp-dir $SESSION"
HEAD += " --object-store-memory 100000000"
HIDE = "mount -t tmpfs none $FOLDER/project; mount -t tmpfs none $ROOT/orca_core; mount -t tmpfs none $ROOT/sweeper; cd /"
NODE = "-m ray.scripts.scripts start --address 127.0.0.2:6399 --num-cpus 1 --object-store-memory 100000000"


def write_project(folder: Path) -> None:
    """The driver's folder: a space, a table of one's own, an installed plug-in."""
    folder.mkdir()
    (folder / "space.yaml").write_text(SPACE)
    rows = [f"{n % 7},{n % 5},{'yes' if n % 7 > n % 5 else 'no'}" for n in range(90)]
    (folder / "mine.csv").write_text("\n".join(["a,b,label", *rows]) + "\n")
    (folder / "signs.py").write_text(PLUGIN)
    metadata = folder / "signs-2.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: signs\nVersion: 2\n")
    (metadata / "entry_points.txt").write_text("[orca_core.tasks]\nsign = signs:SIGN\n")


def bare_python(folder: Path) -> Path:
    """A Python that has all dependencies of this package, but not the package."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    (site,) = folder.glob("lib/python*/site-packages")
    for entry in Path(sysconfig.get_path("purelib")).iterdir():
        if "orca_sweeper" not in entry.name:
            (site / entry.name).symlink_to(entry)
    return folder / "bin" / "python"


def play(script: str, folder: Path, **variables: str) -> str:
    """What a script prints that runs in namespaces of its own."""
    keep = {name: value for name, value in os.environ.items() if name != "PYTHONPATH" and not name.startswith(("RAY_", "TUNE_"))}
    session = Path("/tmp") / f"ship-{os.getpid()}"  # a short path: Ray's sockets are below it
    environment = keep | {"RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0", "PYTHON": sys.executable, "SESSION": str(session)}
    environment |= {"ROOT": str(ROOT), "FOLDER": str(folder)} | variables
    command = ["unshare", "-p", "-f", "--mount-proc", "-n", "-m", "bash", "-c", f"set -eu; ip link set lo up; cd /\n{script}"]
    try:
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=280)
        leaks = subprocess.run(["grep", "-rlaE", "secretvalue", str(session), str(folder)], capture_output=True, text=True).stdout
    finally:
        shutil.rmtree(session, ignore_errors=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert leaks == "", f"secrets are in {leaks}"
    return done.stdout


def test_nodes_without_or_with_other_code_run_the_driver_s(tmp_path):
    """One node has the dependencies alone, and sees neither sources nor data; one has a package of the same name with other code."""
    write_project(tmp_path / "project")
    bare, altered = bare_python(tmp_path / "bare"), bare_python(tmp_path / "altered")
    (site,) = (tmp_path / "altered").glob("lib/python*/site-packages")
    for package in ("orca_core", "sweeper"):
        shutil.copytree(ROOT / package, site / package, ignore=shutil.ignore_patterns("__pycache__"))
    (site / "orca_core" / "pipeline.py").write_text("raise RuntimeError('other code')\n")
    printed = play(
        f"""
        {HEAD} --num-cpus 0 --include-dashboard false >&2
        unshare -m bash -c '{HIDE}; RAY_NODE_ZONE=zone-b {bare} {NODE} --node-ip-address 127.0.0.3 --labels instance-type=g5.xlarge' >&2
        unshare -m bash -c '{HIDE}; {altered} {NODE} --node-ip-address 127.0.0.4' >&2
        cd $FOLDER/project; export PYTHONPATH=$FOLDER/project:$ROOT
        $PYTHON -m sweeper run space.yaml --address 127.0.0.2:6399 --results $FOLDER/results >&2
        env -u HF_TOKEN $PYTHON -m sweeper query 'select * from trial_status' --results $FOLDER/results --format json
        """,
        tmp_path,
        HF_TOKEN="hf_secretvalue",
        AWS_ACCESS_KEY_ID="AKIAsecretvalue",
        AWS_SECRET_ACCESS_KEY="secretvalue",
    )
    rows = json.loads(printed)
    assert [row["status"] for row in rows] == ["COMPLETE"] * 4, [row["error"] for row in rows]
    assert {row["task"] for row in rows} == {"csv:mine.csv", "sign"}
    assert len({row["code_digest"] for row in rows}) == 1
    assert len({row["node_id"] for row in rows}) == 2, "both nodes took part"
    assert {(row["instance_type"], row["zone"]) for row in rows} == {("g5.xlarge", "zone-b"), (None, None)}
    commit = subprocess.run(["git", "-C", ROOT, "rev-parse", "--short=12", "HEAD"], capture_output=True, text=True).stdout.strip()
    assert not commit or {row["code_commit"].removesuffix("+dirty") for row in rows} == {commit}


SUBMIT = "$PYTHON -m ray.scripts.scripts job"

AS_JOB = f"""
    {HEAD} --num-cpus 1 --include-dashboard true --dashboard-host 127.0.0.2 --dashboard-port 8265 >&2
    export RAY_ADDRESS=http://127.0.0.2:8265
    for try in $(seq 60); do {SUBMIT} list > /dev/null 2>&1 && break; sleep 1; done
    cd $FOLDER/project
    ENVIRONMENT="{{\\"env_vars\\": {{\\"PYTHONPATH\\": \\"$FOLDER/project:$ROOT\\", \\"AWS_REGION\\": \\"eu-west-1\\"}}}}"
    submit() {{ set +e; {SUBMIT} submit "$@"; code=$?; set -e; echo "job exit $code"; }}
    run="cd $FOLDER/project && exec $PYTHON -m sweeper run space.yaml --address auto --results $FOLDER/results"
"""


def test_a_sweep_is_a_job_with_its_logs_and_exit_codes(tmp_path):
    write_project(tmp_path / "project")
    printed = play(
        f"""{AS_JOB}
        submit --runtime-env-json "$ENVIRONMENT" -- bash -c "$run --set sweep:seeds=1"
        submit --runtime-env-json "$ENVIRONMENT" -- bash -c "$run --set task=no-such-task"
        """,
        tmp_path,
    )
    first, second, _ = printed.split("job exit ")
    assert "Tables: trials, metrics and stages in" in first, printed
    assert "succeeded" in first.lower()
    assert second.startswith("0\n")
    assert "no-such-task" in second
    assert "failed" in second.lower()
    assert "exit code 2" in second or "code 2" in second, printed
    assert printed.endswith("job exit 1\n"), "Ray gives 1 for any job that failed"


def test_stopping_the_job_ends_the_sweep_cleanly(tmp_path):
    write_project(tmp_path / "project")
    printed = play(
        f"""{AS_JOB}
        LONG="--set finetune.epochs=100000 --set sweep:seeds=1"
        submit --no-wait --submission-id long --runtime-env-json "$ENVIRONMENT" -- bash -c "$run $LONG" >&2
        for try in $(seq 100); do ls $FOLDER/results/metrics/sweep=ship/*.parquet > /dev/null 2>&1 && break; sleep 1; done
        {SUBMIT} stop long >&2
        {SUBMIT} status long
        {SUBMIT} logs long
        PYTHONPATH=$FOLDER/project:$ROOT $PYTHON -m sweeper status --results $FOLDER/results ship
        """,
        tmp_path,
    )
    assert "stopped" in printed.lower(), printed
    assert "interrupted" in printed.lower(), printed
    assert "Traceback" not in printed
