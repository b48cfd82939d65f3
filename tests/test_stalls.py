"""Stalls on a cluster of local nodes: what keeps a sweep from going on is said within seconds, and it goes on by itself when it is over."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from cluster_nodes import LocalCluster

from sweeper.results import Results

STAND_IN = Path(__file__).parents[1] / "benchmarks" / "stand_in.py"

SPACE = """
name: s
floors: false
base: {task: digits, body.weights: random, align.epochs: 0, finetune: {epochs: 3, warmup_epochs: 0, decay_epochs: null}}
seeds: 4
"""

NOTIFY = """#!/bin/sh
cat >> FILE; echo >> FILE
"""


class Driver:
    """A sweep of stand-ins that runs on a cluster; what it says on stderr is in `said`."""

    def __init__(self, cluster: LocalCluster, folder: Path, *arguments: object, space: str = SPACE) -> None:
        (folder / "space.yaml").write_text(space)
        (folder / "notify.sh").write_text(NOTIFY.replace("FILE", str(folder / "notices")))
        (folder / "notify.sh").chmod(0o755)
        self.cluster, self._folder = cluster, folder
        own = ["--results", "results", "--address", cluster.address, "--epoch-s", "0.2", "--notify", str(folder / "notify.sh")]
        with (folder / "stdout").open("w") as out, (folder / "stderr").open("w") as error:
            command = [sys.executable, str(STAND_IN), "space.yaml", *own, *map(str, arguments)]
            self._process = cluster.start(command, folder=folder, stdout=out, stderr=error)

    @property
    def said(self) -> str:
        return (self._folder / "stderr").read_text()

    def wait_for(self, holds: Callable[[], object], timeout_s: float) -> float:
        """Wait until something holds; returns after how many seconds it did."""
        began = time.monotonic()
        while not holds():
            assert time.monotonic() - began < timeout_s, self.said
            assert self._process.poll() is None, self.said
            time.sleep(0.1)
        return time.monotonic() - began

    def end(self, timeout_s: float = 120) -> int:
        try:
            return self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.cluster.signal(self._process, 9)
            raise AssertionError(self.said) from None

    def notices(self) -> list[dict]:
        return [json.loads(line) for line in (self._folder / "notices").read_text().splitlines()]

    def rows(self, sql: str) -> list[dict]:
        return Results(self._folder / "results").sql(sql).rows()


@pytest.mark.cluster
def test_a_sweep_without_a_worker_says_so_everywhere_and_begins_when_one_joins(local_cluster, tmp_path):
    driver = Driver(local_cluster, tmp_path)
    driver.wait_for(lambda: "0/4 trials" in driver.said, 60)
    assert driver.said.startswith(f"s: connecting to the cluster at {local_cluster.address}\n"), driver.said
    assert "s: connected; the cluster has no node for trials yet\n" in driver.said
    assert driver.wait_for(lambda: "s: No worker has joined yet. A trial needs 1 CPU." in driver.said, 10) < 10
    time.sleep(5.5)  # the driver's next heartbeat
    status = local_cluster.sweeper("status", "--results", "results", folder=tmp_path)
    assert "s: No worker has joined yet. A trial needs 1 CPU." in status.stdout, status.stderr
    local_cluster.add_node(cpus=2)
    assert driver.end() == 0, driver.said
    assert "s: a worker has joined (after " in driver.said
    assert re.search(r"4/4 trials, 0 running, 1 node, 1 joined, ", driver.said)
    assert [(notice["kind"], notice["is_over"]) for notice in driver.notices()] == [("no-worker", False), ("no-worker", True)]
    assert "Traceback" not in driver.said


@pytest.mark.cluster
def test_the_wait_for_a_worker_ends_and_wrong_addresses_are_one_sentence(local_cluster, tmp_path):
    driver = Driver(local_cluster, tmp_path, "--wait", 0.05)
    assert driver.end() == 1
    assert driver.said.splitlines()[-1] == (
        "s: no node that may run trials came in time (--wait MINUTES); the sweep was ended. Run the same command to continue. "
        "(A trial needs 1 CPU. The cluster has no node for trials. There is no autoscaler.)"
    )
    for address, sentence in {
        "ray://127.0.0.2:10001": "Give --address 127.0.0.2:6379, the port of `ray start --head`",
        "127.0.0.2:9": "must be the address of a running Ray cluster (nothing listens there)",
    }.items():
        done = local_cluster.sweeper("doctor", "--address", address, "--results", "results", folder=tmp_path)
        assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (2, "", 1), done.stderr
        assert sentence in done.stderr


@pytest.mark.slow
@pytest.mark.cluster
def test_a_doctor_examines_every_node_and_one_that_does_not_answer_is_a_finding(local_cluster, tmp_path):
    (tmp_path / "space.yaml").write_text(SPACE)
    (tmp_path / "shared").mkdir()
    well = local_cluster.add_node(cpus=2, wait=False)
    blind = local_cluster.add_node(cpus=1, before=f"mount -t tmpfs none {tmp_path}/shared", wait=False)
    frozen = local_cluster.add_node(cpus=1, wait=False)
    local_cluster.wait_for_nodes()
    frozen.freeze()
    began = time.monotonic()
    try:
        done = local_cluster.sweeper(
            "doctor", "space.yaml", "--address", local_cluster.address, "--results", "shared/results", folder=tmp_path
        )
    finally:
        frozen.thaw()
    assert time.monotonic() - began < 60
    assert done.returncode == 1, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    first, *_ = [line for line in done.stdout.splitlines() if line.startswith("node-")]
    assert "complete" in first
    assert re.search(rf"{well.name} +2 ", first)
    wrong = [line for line in done.stdout.splitlines() if line.startswith("WRONG")]
    assert len(wrong) == 2, done.stdout
    assert blind.name in wrong[0]
    assert "does not show what the driver has written" in wrong[0]
    assert frozen.name in wrong[1]


@pytest.mark.slow
@pytest.mark.cluster
def test_a_node_without_the_store_is_named_as_it_joins_and_gets_no_trials(local_cluster, tmp_path):
    (tmp_path / "results").mkdir()
    driver = Driver(local_cluster, tmp_path, "--epoch-s", 3)
    local_cluster.add_node(cpus=1)
    driver.wait_for(lambda: "1 joined" in driver.said or "1 running" in driver.said, 60)
    blind = local_cluster.add_node(cpus=1, before=f"mount -t tmpfs none {tmp_path}/results")
    driver.wait_for(lambda: f"{blind.name} gets no trials (store)" in driver.said, 60)
    assert driver.end() == 0, driver.said
    assert driver.rows("select count(*) as n from trial_status where status = 'COMPLETE'") == [{"n": 4}]


@pytest.mark.slow
@pytest.mark.cluster
def test_a_process_that_hangs_is_killed_at_the_time_limit_of_its_trial(local_cluster, tmp_path):
    local_cluster.add_node(cpus=1)
    (tmp_path / "harm").mkdir()
    (tmp_path / "harm" / "hang").touch()
    space = SPACE + "budget: {trial_minutes: 0.1, silent_minutes: 0.05}\n"
    driver = Driver(local_cluster, tmp_path, "--harm", tmp_path / "harm", space=space)
    driver.wait_for(lambda: "has not reported for" in driver.said, 60)
    assert driver.end() == 1, driver.said
    rows = driver.rows("select status, cause, count(*) as n from trial_status group by all order by status")
    assert [tuple(row.values()) for row in rows] == [("COMPLETE", None, 3), ("FAIL", "timeout", 1)]
