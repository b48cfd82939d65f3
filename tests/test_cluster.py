"""Clusters: the cluster file is one that Ray takes, and a sweep runs on nodes that are there already."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

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


ON_A_CLUSTER = """
import ray
from ray.cluster_utils import Cluster
from orca_core.errors import ConfigError
from sweeper.tune.cluster import count_slots
from sweeper.results import Results
from sweeper.sweep import run_space
from sweeper.space.file import Resources
from sweeper.space.reading import parse_space

cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
cluster.add_node(num_cpus=1)
cluster.add_node(num_cpus=4, num_gpus=2)  # the GPUs are invented: nothing runs on them

base = {"task": "openml/187", "body.weights": "random", "align.epochs": 0, "finetune.epochs": 1}
base |= {"finetune.warmup_epochs": 0, "finetune.decay_epochs": None}
space = parse_space({"name": "s", "base": base, "seeds": 2, "resources": {"cpu": 2}})
assert run_space(space, "results", address=cluster.address, quiet=True) == 0
rows = Results("results").sql("select status, device, pid from trials").rows()
assert [(row["status"], row["device"]) for row in rows] == [("COMPLETE", "cpu")] * 2, rows
assert not ray.is_initialized(), "a sweep leaves the cluster it joined"

ray.init(address=cluster.address, log_to_driver=False)
slots = {(1, 0): 5, (2, 0): 2, (0.5, 0): 10, (1, 1): 2, (1, 0.5): 4, (0.5, 0.4): 4, (2, 0.25): 2}
found = {(cpu, gpu): count_slots(Resources(cpu=cpu, gpu=gpu)) for cpu, gpu in slots}
assert found == slots, found
try:
    count_slots(Resources(cpu=5))
except ConfigError as error:
    assert "must fit on one node; the largest have 4 CPUs and 2 GPUs" in str(error), error
else:
    raise AssertionError("5 CPUs fit nowhere")
ray.shutdown()
cluster.shutdown()
"""


@pytest.mark.ray
def test_a_sweep_runs_on_a_cluster_and_counts_its_slots_node_by_node(tmp_path):
    done = subprocess.run([sys.executable, "-c", ON_A_CLUSTER], cwd=tmp_path, capture_output=True, text=True, env=os.environ, timeout=120)
    assert done.returncode == 0, done.stderr
