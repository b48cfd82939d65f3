"""Clusters that change and nodes that fail: real nodes on this machine, a real sweep whose trials sleep instead of computing."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import psutil
import pytest
from cluster_nodes import LocalCluster, Node, autoscaling

from sweeper.results import Results

STAND_IN = Path(__file__).parents[1] / "benchmarks" / "stand_in.py"
SPACE = """
name: s
floors: false
base: {{task: digits, body.weights: random, align.epochs: 0, finetune: {{epochs: {epochs}, warmup_epochs: 0, decay_epochs: null}}}}
seeds: {seeds}
"""
STATUSES = "select status, cause, count(*) as n from trial_status group by all order by all"


class Sweep:
    """A sweep of stand-ins on a cluster."""

    def __init__(self, cluster: LocalCluster, folder: Path) -> None:
        self.cluster, self.folder, self.harm, self.log = cluster, folder, folder / "harm", folder / "epochs.jsonl"
        self.harm.mkdir()

    def start(self, seeds: int = 8, epochs: int = 4, epoch_s: float = 0.2, save_s: float = 1.0, script: str = "") -> None:
        (self.folder / "space.yaml").write_text(SPACE.format(seeds=seeds, epochs=epochs))
        command = ["-c", script] if script else [str(STAND_IN)]
        command += [
            "space.yaml",
            "--results",
            "results",
            "--address",
            self.cluster.address,
            "--log",
            str(self.log),
            "--harm",
            str(self.harm),
        ]
        command += ["--epoch-s", str(epoch_s), "--save-s", str(save_s)]
        self._said = (self.folder / "said.txt").open("w+")
        environment = {"PYTHONPATH": os.pathsep.join([str(STAND_IN.parents[1])])}
        self.process = self.cluster.start(
            [sys.executable, *command], folder=self.folder, environment=environment, stdout=self._said, stderr=subprocess.STDOUT
        )

    def end(self, timeout_s: float = 150) -> int:
        """Wait for its end; return its exit code."""
        try:
            return self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.cluster.signal(self.process, signal.SIGKILL)
            pytest.fail(f"it took longer than {timeout_s} s:\n{self.said}")

    def run(self, timeout_s: float = 150, **settings: object) -> int:
        self.start(**settings)
        return self.end(timeout_s)

    @property
    def said(self) -> str:
        return (self.folder / "said.txt").read_text()

    def epochs(self) -> list[list]:
        """The computed epochs: node, stage, epoch, when it began and ended."""
        return [json.loads(line) for line in self.log.read_text().splitlines() if line.endswith("]")] if self.log.exists() else []

    def refused(self) -> list[str]:
        """What trials or processes refused to do: node and kind."""
        return (self.harm / "refused").read_text().splitlines() if (self.harm / "refused").exists() else []

    def wait_for(self, holds, timeout_s: float = 120) -> None:
        deadline = time.monotonic() + timeout_s
        while not holds(self.epochs()):
            assert time.monotonic() < deadline, f"it did not come to hold; {len(self.epochs())} epochs\n{self.said}"
            assert self.process.poll() is None, f"it ended before:\n{self.said}"
            time.sleep(0.1)

    def rows(self, query: str = STATUSES) -> list[tuple]:
        return [tuple(row.values()) for row in Results(self.folder / "results").sql(query).rows()]


@pytest.fixture
def sweep(local_cluster, tmp_path) -> Sweep:
    return Sweep(local_cluster, tmp_path)


def add(cluster: LocalCluster, count: int, cpus: float = 1) -> list[Node]:
    nodes = [cluster.add_node(cpus=cpus, wait=False) for _ in range(count)]
    cluster.wait_for_nodes()
    return nodes


@pytest.mark.cluster
def test_nodes_that_cannot_do_the_work_cost_no_trial(sweep):
    """One has no data, on another no process starts; both have failed before the third has done anything."""
    good, without_data, without_processes = add(sweep.cluster, 3)
    (sweep.harm / f"no-data-{without_data.node_id}").touch()
    (sweep.harm / f"no-start-{without_processes.node_id}").touch()
    (sweep.harm / "hold").touch()
    sweep.start(seeds=6)
    sweep.wait_for(lambda _: len({line.split()[0] for line in sweep.refused()}) == 2)
    (sweep.harm / "hold").unlink()
    assert sweep.end() == 0, sweep.said
    assert sweep.rows() == [("COMPLETE", None, 6)]
    assert {node for node, *_ in sweep.epochs()} == {good.node_id}
    assert max(Counter(sweep.refused()).values()) <= 6, "they got trials again and again"


# --------------------------------------------------------------------------------------------------------- nodes that come and go


@pytest.mark.slow
@pytest.mark.cluster
@pytest.mark.parametrize("least", [0, 1])
def test_the_autoscaler_grows_with_the_queue_and_shrinks_behind_it(tmp_path, least):
    """Trials that wait are demand; nodes without one go while the last trials run on; all go after the end."""
    config = autoscaling({"cpu": {"resources": {"CPU": 1}, "min_workers": least, "max_workers": 4}}, idle_s=3)
    with LocalCluster(autoscaling=config) as cluster:
        sweep, most = Sweep(cluster, tmp_path), 0
        workers: list[tuple[float, int]] = []
        sweep.start(seeds=25, epochs=6, epoch_s=0.6)
        while sweep.process.poll() is None:
            live = [node for node in cluster.nodes() if node["Alive"] and node["Resources"].get("CPU")]
            workers.append((time.time(), len(live)))
            time.sleep(0.5)
        assert sweep.end() == 0, sweep.said
        assert sweep.rows() == [("COMPLETE", None, 25)]
        most = max(count for _, count in workers)
        assert most == 4
        assert len({node for node, *_ in sweep.epochs()}) == 4
        cluster.wait_until(lambda live: sum(node["Resources"].get("CPU", 0) for node in live) == least)


@pytest.mark.slow
@pytest.mark.cluster
def test_idle_nodes_go_while_a_long_trial_runs_on(tmp_path):
    config = autoscaling({"cpu": {"resources": {"CPU": 1}, "max_workers": 3}}, idle_s=3)
    with LocalCluster(autoscaling=config) as cluster:
        sweep = Sweep(cluster, tmp_path)
        (tmp_path / "harm" / "long-0").write_text("100")
        sweep.start(seeds=30, epochs=4, epoch_s=0.5)
        sweep.wait_for(lambda epochs: len({node for node, *_ in epochs}) == 2, 90)  # on the third the long one sleeps
        cluster.wait_until(lambda live: sum(node["Resources"].get("CPU", 0) for node in live) == 1, 60)
        assert sweep.process.poll() is None, "the long trial had ended before"
        assert sweep.end() == 0, sweep.said


@pytest.mark.slow
@pytest.mark.cluster
def test_a_node_that_joins_gets_trials_within_ten_seconds(sweep):
    add(sweep.cluster, 1)
    sweep.start(seeds=60, epochs=4, epoch_s=0.3)
    sweep.wait_for(lambda epochs: len(epochs) > 4)
    (joined,) = add(sweep.cluster, 1)
    at = time.time()
    sweep.wait_for(lambda epochs: any(node == joined.node_id for node, *_ in epochs), 30)
    first = min(began for node, _, _, began, _ in sweep.epochs() if node == joined.node_id)
    assert first - at < 10
    sweep.cluster.signal(sweep.process, signal.SIGTERM)
    assert sweep.end() == 130


@pytest.mark.slow
@pytest.mark.cluster
def test_a_trial_on_a_node_that_is_to_go_goes_on_elsewhere(sweep):
    """The node dies at its deadline. No trial begins on it after some seconds, and nothing that was computed is computed again."""
    _, goes = add(sweep.cluster, 2)
    ident = goes.node_id
    sweep.start(seeds=6, epochs=8, epoch_s=1.0, save_s=60)
    sweep.wait_for(lambda epochs: any(node == ident and epoch == 2 for node, _, epoch, *_ in epochs))
    goes.drain(12)
    at = time.time()
    time.sleep(12)
    goes.kill()
    assert sweep.end() == 0, sweep.said
    assert sweep.rows("select max(attempt), count(*) from trial_status where status = 'COMPLETE'") == [(1, 6)]
    epochs = sweep.epochs()
    assert all(began < at + 6 for node, _, _, began, _ in epochs if node == ident)
    again = [key for key, times in Counter((stage, epoch) for _, stage, epoch, *_ in epochs).items() if times > 1]
    assert len(again) <= 1, "work of more than one epoch was lost"


@pytest.mark.slow
@pytest.mark.cluster
def test_a_drained_node_that_dies_before_its_trial_could_leave_costs_no_attempt(sweep):
    """The losses of one trial alone would be too many if they counted: its node dies within an epoch, five times."""
    sweep.start(seeds=1, epochs=3, epoch_s=6.0)
    for _ in range(5):
        (node,) = add(sweep.cluster, 1)
        known, ident = len(sweep.epochs()), node.node_id
        deadline = time.monotonic() + 60
        while not _trial_processes(node):
            assert time.monotonic() < deadline, sweep.said
            time.sleep(0.1)
        node.drain(3)
        time.sleep(3)
        node.kill()
        assert len(sweep.epochs()) == known, f"an epoch ended on {ident}: the test is too slow"
    add(sweep.cluster, 1)
    assert sweep.end() == 0, sweep.said


@pytest.mark.slow
@pytest.mark.cluster
def test_a_trial_that_advances_survives_five_hard_losses(sweep):
    (node,) = add(sweep.cluster, 1)
    sweep.start(seeds=1, epochs=30, epoch_s=0.5, save_s=0.1)
    for _ in range(5):
        known = len(sweep.epochs())
        sweep.wait_for(lambda epochs, known=known: len(epochs) >= known + 2)
        time.sleep(1.2)  # until the rows are reported
        (process,) = _trial_processes(node)
        process.kill()
    assert sweep.end() == 0, sweep.said
    assert sweep.rows("select status, attempt from trial_status") == [("COMPLETE", 6)]


def _trial_processes(node: Node) -> list[psutil.Process]:
    """The processes of a node that run a trial."""
    found = []
    for pid in node.pids():
        try:
            process = psutil.Process(pid)
            if process.cmdline()[:1] and process.cmdline()[0].startswith("ray::train"):
                found.append(process)
        except psutil.Error:
            continue
    return found


# ------------------------------------------------------------------------------------------------------------------ whose fault


def add_short_of_memory(cluster: LocalCluster, gib: float) -> Node:
    """Add a node on which Ray ends processes once so much more memory is used than now, on the whole machine."""
    memory = psutil.virtual_memory()
    threshold = (memory.total - memory.available + gib * 2**30) / memory.total
    return cluster.add_node(cpus=2, environment={"RAY_memory_usage_threshold": f"{threshold:.3f}", "RAY_memory_monitor_refresh_ms": "100"})


@pytest.mark.slow
@pytest.mark.cluster
@pytest.mark.parametrize("tries", [1, None])
def test_only_the_trial_that_takes_too_much_memory_fails(sweep, tries):
    """Ray ends processes of a node that runs out of memory: no error of the sweep. The trial is tried again, a few times."""
    add_short_of_memory(sweep.cluster, 4)
    (sweep.harm / "memory-3").write_text("7")
    if tries:
        (sweep.harm / "memory-tries").write_text(str(tries))
    assert sweep.run(timeout_s=240) == (0 if tries else 1), sweep.said
    expected = [("COMPLETE", None, 8)] if tries else [("COMPLETE", None, 7), ("FAIL", "out-of-memory", 1)]
    assert sweep.rows() == expected
    assert ("out-of-memory" in sweep.said) == (not tries)


@pytest.mark.slow
@pytest.mark.cluster
@pytest.mark.parametrize(("harm", "cause"), [("no-start", "process-start"), ("no-process", "process-start"), ("no-data", "data")])
def test_a_sweep_that_no_node_can_run_ends_after_a_few_trials(sweep, harm, cause):
    add(sweep.cluster, 1, cpus=2)
    (sweep.harm / harm).touch()
    assert sweep.run(seeds=40) == 1, sweep.said
    assert "no machine can run the trials; the sweep was ended after the first few" in sweep.said
    ((status, of, count),) = [row for row in sweep.rows() if row[0] == "FAIL"]
    assert (status, of) == ("FAIL", cause)
    assert count <= 4


# ------------------------------------------------------------------------------------------------------------- Tune itself fails

PLANT = """
import runpy
from sweeper.tune import hooks

left, end = {times}, hooks.Reporter.on_trial_result

def fail_first(*arguments, **info):
    global left
    if "outcome" in info["result"] and left:
        left -= 1
        raise RuntimeError("planted")
    end(*arguments, **info)

hooks.Reporter.on_trial_result = fail_first
runpy.run_path("{stand_in}", run_name="__main__")
"""


@pytest.mark.slow
@pytest.mark.cluster
def test_an_error_of_tune_does_not_end_the_run(sweep):
    add(sweep.cluster, 1, cpus=2)
    assert sweep.run(script=PLANT.format(times=1, stand_in=STAND_IN)) == 0, sweep.said
    assert sweep.rows() == [("COMPLETE", None, 8)]


@pytest.mark.slow
@pytest.mark.cluster
def test_a_tune_that_always_fails_ends_the_run_with_one_sentence(sweep):
    add(sweep.cluster, 1, cpus=2)
    assert sweep.run(script=PLANT.format(times=-1, stand_in=STAND_IN), epochs=1) == 1, sweep.said
    assert "Ray Tune failed 4 times without a new result (" in sweep.said
    assert "Traceback" not in sweep.said.rpartition("Ray Tune failed 4 times")[2]


@pytest.mark.slow
def test_a_signal_to_all_processes_ends_a_sweep_cleanly(tmp_path):
    """Batch schedulers signal Ray's own processes, too. Ray's calls would then wait for its head for a minute, and end the driver."""
    (tmp_path / "space.yaml").write_text(SPACE.format(seeds=4, epochs=100))
    log = tmp_path / "epochs.jsonl"
    command = [sys.executable, str(STAND_IN), "space.yaml", "--results", "results", "--log", str(log), "--epoch-s", "0.5"]
    environment = os.environ | {"PYTHONPATH": str(STAND_IN.parents[1]), "RAY_AUTH_MODE": "disabled"}
    sweep = subprocess.Popen(command, cwd=tmp_path, env=environment, start_new_session=True)
    while not (log.exists() and log.read_text()):
        assert sweep.poll() is None
        time.sleep(0.2)
    os.killpg(sweep.pid, signal.SIGTERM)
    assert sweep.wait(50) == 130
    statuses = Results(tmp_path / "results").sql("select distinct status, cause from trial_status").rows()
    assert statuses == [{"status": "INTERRUPTED", "cause": "stopped"}]


# ------------------------------------------------------------------------------------------------------------------ many trials

COUNT = """
import gc, runpy, sys
from pathlib import Path
from sweeper.tune import launch
from sweeper.tune.controller import SweepController

step, fit, most = SweepController.step, launch._fit, 0

def counted(controller):
    global most
    step(controller)
    folders = [path for path in Path(controller._storage.experiment_driver_staging_path).glob("*") if path.is_dir()]
    most = max(most, len(folders))

def counted_fit(*arguments):
    fit(*arguments)
    gc.collect()
    left = sum(type(thing).__name__ == "TuneTrial" for thing in gc.get_objects())
    print(f"{{left}} trials and at most {{most}} folders", flush=True)

SweepController.step, launch._fit = counted, counted_fit
runpy.run_path("{stand_in}", run_name="__main__")
"""


@pytest.mark.slow
@pytest.mark.cluster
def test_trials_that_have_ended_leave_memory_and_disk(sweep):
    add(sweep.cluster, 1, cpus=2)
    assert sweep.run(seeds=40, epochs=1, epoch_s=0.05, script=COUNT.format(stand_in=STAND_IN)) == 0, sweep.said
    assert "0 trials and at most 0 folders" in sweep.said, sweep.said
