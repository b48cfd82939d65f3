"""Clusters: the cluster file is one that Ray takes, and a sweep runs on nodes that are there already."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import yaml

from sweeper.results import Results

FILE = Path(__file__).parents[1] / "cluster.yaml"


@pytest.fixture(scope="module")
def cluster() -> dict:
    return yaml.safe_load(FILE.read_text())


@pytest.mark.ray
def test_ray_takes_the_cluster_file(cluster):
    from ray.autoscaler._private.util import prepare_config, validate_config

    prepared = prepare_config(cluster)
    validate_config(prepared)
    assert set(prepared["available_node_types"]) == set(cluster["available_node_types"])


def test_resources_are_spelled_as_ray_spells_them(cluster):
    """Ray's own check passes any name; `gpu` for `GPU` would be a resource of its own."""
    for node in cluster["available_node_types"].values():
        assert set(node["resources"]) <= {"CPU", "GPU", "memory"}


COUNT_SLOTS = """
import os
import ray
from orca_core.errors import ConfigError
from sweeper.tune.cluster import count_slots, open_cluster
from sweeper.space.file import Resources

with open_cluster(os.environ["RAY_ADDRESS"], Resources(cpu=2), "file:///artifacts") as found:
    assert ray.is_initialized()
    assert found == 2, found
assert not ray.is_initialized(), "a sweep leaves the cluster it joined"

ray.init(address="auto", log_to_driver=False)
slots = {(1, 0): 5, (2, 0): 2, (0.5, 0): 10, (1, 1): 2, (1, 0.5): 4, (0.5, 0.4): 4, (2, 0.25): 2}
found = {(cpu, gpu): count_slots(Resources(cpu=cpu, gpu=gpu)) for cpu, gpu in slots}
assert found == slots, found
try:
    count_slots(Resources(cpu=5))
except ConfigError as error:
    assert "must fit on one node; the largest have 4 CPUs and 2 GPUs" in str(error), error
else:
    raise AssertionError("5 CPUs fit nowhere")
"""

SPACE = """
name: s
base: {task: openml/187, body.weights: random, align.epochs: 0, finetune: {epochs: 1, warmup_epochs: 0, decay_epochs: null}}
seeds: 2
resources: {cpu: 2}
"""


@pytest.mark.cluster
def test_a_sweep_runs_on_a_cluster_and_counts_its_slots_node_by_node(local_cluster, tmp_path):
    (tmp_path / "space.yaml").write_text(SPACE)
    local_cluster.add_node(cpus=1, wait=False)
    local_cluster.add_node(cpus=4, gpus=2, wait=False)
    local_cluster.wait_for_nodes()
    where = ("--results", "results", "--address", local_cluster.address)
    done = local_cluster.sweeper("run", "space.yaml", *where, "--max-concurrent", 1, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    rows = Results(tmp_path / "results").sql("select status, device, host from trials").rows()
    assert [tuple(row.values()) for row in rows] == [("COMPLETE", "cpu", "node-2")] * 2
    counted = local_cluster.run([sys.executable, "-c", COUNT_SLOTS], folder=tmp_path, environment={"RAY_ADDRESS": local_cluster.address})
    assert counted.returncode == 0, counted.stderr
