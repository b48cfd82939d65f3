"""Clusters: the launcher's files come up as far as one machine can show; a sweep runs on nodes that are there already."""

from __future__ import annotations

import copy
import json
import os
import re
import runpy
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from two_machines import TWO_MACHINES

from sweeper.results import Results

PROJECT = Path(__file__).parents[1]
FILE = PROJECT / "cluster.yaml"
LAUNCHER_FILES = ["cluster.yaml", "deploy/gcp.yaml", "deploy/on-premise.yaml"]


def read(name: str) -> dict:
    return yaml.safe_load((PROJECT / name).read_text())


@pytest.fixture(scope="module")
def cluster() -> dict:
    return read("cluster.yaml")


@pytest.mark.ray
@pytest.mark.parametrize("name", LAUNCHER_FILES)
def test_ray_takes_the_cluster_file(name):
    from ray.autoscaler._private.util import prepare_config, validate_config

    given = read(name)
    prepared = prepare_config(given)
    validate_config(prepared)
    if "available_node_types" in given:
        assert set(prepared["available_node_types"]) == set(given["available_node_types"])
    for commands in ("setup_commands", "head_setup_commands", "worker_setup_commands"):
        assert prepared[commands] == [], f"Ray added its own {commands}"


@pytest.mark.parametrize("name", LAUNCHER_FILES[:2])
def test_resources_are_spelled_as_ray_spells_them(name):
    """Ray's own check passes any name; `gpu` for `GPU` would be a resource of its own."""
    for node in read(name)["available_node_types"].values():
        assert set(node["resources"]) <= {"CPU", "GPU", "memory"}


@pytest.mark.parametrize("name", LAUNCHER_FILES[:2])
def test_a_cluster_starts_with_its_head_alone_and_the_head_runs_no_trials(name):
    given = read(name)
    head = given["available_node_types"][given["head_node_type"]]
    assert head["resources"] == {"CPU": 0}
    workers = [node for key, node in given["available_node_types"].items() if key != given["head_node_type"]]
    assert [node["min_workers"] for node in workers] == [0, 0], "spot, and on demand to fall back on"
    assert all(0 < node["max_workers"] <= given["max_workers"] for node in workers)
    assert [node["labels"]["ray.io/market-type"] for node in workers] == ["on-demand", "spot"]
    assert [node["priority"] for node in workers] == [0, 1]


@pytest.mark.parametrize("name", LAUNCHER_FILES)
def test_only_who_has_the_token_gets_in_and_the_dashboard_stays_inside(name):
    given = read(name)
    assert "~/.ray/auth_token" in given["file_mounts"]
    head = " ".join(given["head_start_ray_commands"])
    assert "--dashboard-host=127.0.0.1" in head
    token = "RAY_AUTH_MODE=token"
    if "docker" in given:
        assert f"--env {token}" in given["docker"]["run_options"]
    else:
        for line in [*given["head_start_ray_commands"], *given["worker_start_ray_commands"]]:
            assert "ray start" not in line or token in line, line


@pytest.mark.parametrize("name", LAUNCHER_FILES)
def test_neither_history_nor_data_is_sent_to_the_machines(name):
    given = read(name)
    assert {".git", ".venv", "data", "results"} <= set(given["rsync_exclude"])
    assert "." not in given["file_mounts"].values(), "the code is in the image"


def test_on_aws_no_machine_has_more_rights_than_it_needs(cluster):
    nodes = {key: node["node_config"] for key, node in cluster["available_node_types"].items()}
    profiles = {key: node["IamInstanceProfile"]["Name"] for key, node in nodes.items()}
    assert profiles == {"head": "orca-sweeper-head", "gpu-on-demand": "orca-sweeper-worker", "gpu-spot": "orca-sweeper-worker"}
    for node in nodes.values():
        assert node["ImageId"].startswith("resolve:ssm:/aws/service/deeplearning/"), "Ray's default is Ubuntu 18.04"
        assert node["SecurityGroupIds"], "without one, Ray opens SSH to the world"
    assert "InstanceMarketOptions" not in nodes["head"]
    assert "InstanceMarketOptions" not in nodes["gpu-on-demand"]
    assert nodes["gpu-spot"]["InstanceMarketOptions"] == {"MarketType": "spot"}
    assert len(cluster["provider"]["availability_zone"].split(",")) >= 2


@pytest.mark.ray
def test_ray_asks_for_spot_first_and_for_the_other_type_when_there_is_none(cluster):
    """Ray's own choice, on the types of the file, with the score that the file names: by availability, then by name."""
    from functools import partial

    from ray.autoscaler._private.loader import load_function_or_class
    from ray.autoscaler._private.node_provider_availability_tracker import NodeProviderAvailabilityTracker
    from ray.autoscaler._private.resource_demand_scheduler import get_nodes_for
    from ray.autoscaler.node_launch_exception import NodeLaunchException

    (named,) = re.findall(r"RAY_AUTOSCALER_UTILIZATION_SCORER=([^\s;]+)", " ".join(cluster["head_start_ray_commands"]))
    types = {key: {"max_workers": 0, **node} for key, node in cluster["available_node_types"].items()}
    tracker = NodeProviderAvailabilityTracker()

    def wanted() -> dict[str, int]:
        score = partial(load_function_or_class(named), node_availability_summary=tracker.summary())
        return dict(get_nodes_for(types, {"head": 1}, "head", 2, [{"CPU": 4, "GPU": 1}] * 2, score)[0])

    assert wanted() == {"gpu-spot": 2}
    none_left = NodeLaunchException("InsufficientInstanceCapacity", "no spot machines", None)
    tracker.update_node_availability("gpu-spot", int(time.time()), none_left)
    assert wanted() == {"gpu-on-demand": 2}
    tracker.update_node_availability("gpu-spot", int(time.time()) + 1, None)
    assert wanted() == {"gpu-spot": 2}


@pytest.fixture(scope="module")
def account(tmp_path_factory) -> Iterator[tuple[Any, dict[str, str]]]:
    """An AWS account of moto in this process, set up twice as deploy/aws/setup.py does it, and what it said."""
    moto = pytest.importorskip("moto")
    keys = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SECURITY_TOKEN", "AWS_SESSION_TOKEN")
    with pytest.MonkeyPatch.context() as patch, moto.mock_aws():
        for name, value in {**dict.fromkeys(keys, "testing"), "AWS_EC2_METADATA_DISABLED": "true"}.items():
            patch.setenv(name, value)
        patch.setenv("HOME", str(tmp_path_factory.mktemp("home")))  # Ray writes its SSH key there
        import boto3

        code = runpy.run_path(str(PROJECT / "deploy/aws/setup.py"))
        session = boto3.Session(region_name="us-west-2")
        lines = code["set_up"](session, "my-bucket", "orca-sweeper", "203.0.113.7/32")
        assert code["set_up"](session, "my-bucket", "orca-sweeper", "203.0.113.7/32") == lines, "a second run changes nothing"
        yield session, lines


@pytest.mark.parametrize(
    ("ssh_from", "code", "said"),
    [
        (
            "203.0.113.7",
            1,
            r"^AWS credentials are missing \(.+\): set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE, or .+\.$",
        ),
        ("foo", 2, r"--ssh-from: Expected 4 octets in 'foo'; give your IPv4 address as others see it, such as 203\.0\.113\.7"),
    ],
)
def test_an_account_that_cannot_be_set_up_is_one_sentence(tmp_path, ssh_from, code, said):
    pytest.importorskip("boto3")
    environment = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
    environment |= {"HOME": str(tmp_path), "AWS_EC2_METADATA_DISABLED": "true"}
    command = [sys.executable, str(PROJECT / "deploy/aws/setup.py"), "--bucket", "b", "--region", "us-west-2", "--ssh-from", ssh_from]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120)
    assert (done.returncode, done.stdout) == (code, "")
    assert re.search(said, done.stderr.splitlines()[-1]), done.stderr
    assert "Traceback" not in done.stderr


def test_the_account_is_set_up_no_wider_than_said(account):
    aws, lines = account
    assert lines["image"].endswith(".dkr.ecr.us-west-2.amazonaws.com/orca-sweeper:latest")

    group = aws.client("ec2").describe_security_groups(GroupIds=[lines["SecurityGroupIds"].strip("[]")])["SecurityGroups"][0]
    opened = [(rule["IpProtocol"], rule.get("FromPort"), [ip["CidrIp"] for ip in rule["IpRanges"]]) for rule in group["IpPermissions"]]
    assert ("tcp", 22, ["203.0.113.7/32"]) in opened
    assert [rule for rule in opened if rule[2]] == [("tcp", 22, ["203.0.113.7/32"])], "only SSH, only from one address"

    iam = aws.client("iam")
    profile = iam.get_instance_profile(InstanceProfileName="orca-sweeper-worker")["InstanceProfile"]
    assert [role["RoleName"] for role in profile["Roles"]] == ["orca-sweeper-worker"]
    assert iam.list_role_policies(RoleName="orca-sweeper-worker")["PolicyNames"] == ["bucket"]
    policy = iam.get_role_policy(RoleName="orca-sweeper-worker", PolicyName="bucket")["PolicyDocument"]
    on_s3 = [statement for statement in policy["Statement"] if "s3:" in str(statement["Action"])]
    assert {statement["Resource"] for statement in on_s3} == {"arn:aws:s3:::my-bucket", "arn:aws:s3:::my-bucket/*"}
    assert not [action for statement in policy["Statement"] for action in statement["Action"] if action.endswith("*")]
    machines = json.dumps(iam.get_role_policy(RoleName="orca-sweeper-head", PolicyName="machines")["PolicyDocument"])
    assert not re.search(r"\b(BUCKET|REGION|ACCOUNT|NAME)\b", machines), "every placeholder has its value"

    s3 = aws.client("s3")
    rules = s3.get_bucket_lifecycle_configuration(Bucket="my-bucket")["Rules"]
    assert rules[0]["AbortIncompleteMultipartUpload"] == {"DaysAfterInitiation": 1}
    assert all(s3.get_public_access_block(Bucket="my-bucket")["PublicAccessBlockConfiguration"].values())


@pytest.mark.ray
def test_ray_starts_the_machines_of_the_file_in_an_account_that_was_set_up(account, cluster):
    """Ray's own preparation of the account and its own calls for machines, against moto: what it asks EC2 for is what the file says."""
    from ray.autoscaler._private.aws.node_provider import AWSNodeProvider
    from ray.autoscaler._private.util import prepare_config, validate_config

    aws, lines = account
    assert cluster["cluster_name"] == "orca-sweeper", "as the roles are called, and the head's right to end machines says"
    group = lines["SecurityGroupIds"].strip("[]")
    given = copy.deepcopy(cluster)
    for node in given["available_node_types"].values():
        node["node_config"]["SecurityGroupIds"] = [group]
    prepared = prepare_config(given)
    validate_config(prepared)
    ready = AWSNodeProvider.bootstrap_config(prepared)

    groups = aws.client("ec2").describe_security_groups()["SecurityGroups"]
    assert [found["GroupName"] for found in groups if found["GroupName"] != "default"] == ["orca-sweeper"], "Ray made none of its own"
    assert [role["RoleName"] for role in aws.client("iam").list_roles()["Roles"] if "ray" in role["RoleName"]] == [], "nor a role"

    # EC2 itself looks `resolve:ssm:` up, which is not tried here: the machines start from an image that moto has.
    image = aws.client("ec2").describe_images(Owners=["amazon"])["Images"][0]["ImageId"]
    provider = AWSNodeProvider(ready["provider"], ready["cluster_name"])
    zones = set()
    for key, node in ready["available_node_types"].items():
        assert node["node_config"]["ImageId"] == cluster["available_node_types"][key]["node_config"]["ImageId"], "Ray leaves it to EC2"
        config = {**node["node_config"], "ImageId": image}
        zones |= set(config["SubnetIds"])
        tags = {"ray-node-type": "worker", "ray-user-node-type": key, "ray-launch-config": "x", "ray-node-status": "uninitialized"}
        started = next(iter(provider.create_node(config, tags, 1).values()))
        started.reload()
        assert started.iam_instance_profile["Arn"].endswith(node["node_config"]["IamInstanceProfile"]["Name"])
        assert [found["GroupId"] for found in started.security_groups] == [group]
        assert (started.instance_lifecycle == "spot") == (key == "gpu-spot")
    assert len(zones) == 3, "a subnet in each zone"


CHECKS = """
import json, os, subprocess, sys, time
from pathlib import Path

import yaml
from ray.autoscaler._private.command_runner import _with_environment_variables, _with_interactive
from ray.autoscaler._private.util import prepare_config, validate_config, with_head_node_ip
from tests.sweeper.test_spot import ACTION, AWS, Cloud, action

home = Path(os.environ["HOME"])
given = yaml.safe_load(Path(sys.argv[1]).read_text())
container = dict(option.removeprefix("--env ").split("=", 1) for option in given["docker"]["run_options"] if option.startswith("--env "))

cloud = Cloud("aws", dict(AWS), "10.9.0.1")
environment = {"HOME": str(home), "PATH": "/usr/bin:/bin", "TERM": "dumb", "SWEEPER_METADATA_URL": cloud.address, **container}
environment["RAY_TMPDIR"] = os.environ["RAY_TMPDIR"]
environment["RAY_FAKE_CLUSTER"] = "1"  # lets the fake provider in

# The file as the head's autoscaler reads it, with the fake provider, which wants its own name for the head's type.
config = prepare_config(given)
validate_config(config)
config["provider"] = {"type": "fake_multinode", "launch_multiple": True, "disable_node_updaters": True}
config["available_node_types"]["ray.head.default"] = config["available_node_types"].pop("head")
config["head_node_type"] = "ray.head.default"
(home / "ray_bootstrap_config.yaml").write_text(yaml.safe_dump(config))

def run(command, override, on=()):
    # As Ray's launcher hands it to the shell in the container.
    shell = " ".join(_with_interactive(_with_environment_variables(command, override)))
    print("$", command, flush=True)
    done = subprocess.run([*on, "bash", "-c", shell], env=environment, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, (command, done.stdout, done.stderr)

def start(commands, node_type, on=()):
    node = given["available_node_types"][node_type]
    override = {"RAY_OVERRIDE_RESOURCES": node["resources"], "RAY_OVERRIDE_LABELS": node.get("labels", {})}
    if node_type == "head":  # the fake provider starts nodes within the head's autoscaler, where they would find this and obey it
        override = {}
    for command in with_head_node_ip(commands, "10.9.0.1"):
        if not command.endswith("ray stop"):  # nothing runs in these namespaces yet
            run(command, override, on)

assert config["setup_commands"] == config["head_setup_commands"] == []
start(given["head_start_ray_commands"], "head")

driver = '''
import json, os, ray, sys, time
ray.init(address="10.9.0.1:6379", log_to_driver=False)

@ray.remote(num_cpus=4, num_gpus=1)
def where():
    return {"node": ray.get_runtime_context().get_node_id(), "labels": ray.get_runtime_context().get_node_labels(),
            "type": os.environ.get("SWEEPER_INSTANCE_TYPE"), "zone": os.environ.get("SWEEPER_ZONE")}

ref = where.options(label_selector=json.loads(sys.argv[1])).remote()
print(json.dumps(ray.get(ref, timeout=60)))
'''

def ask(selector, **more):
    command = [sys.executable, "-c", driver, json.dumps(selector)]
    return subprocess.run(command, env={**os.environ, **environment, **more}, capture_output=True, text=True, timeout=100)

# Without the token nobody gets in.
stranger = home / "stranger"
stranger.mkdir()
refused = ask({}, HOME=str(stranger), RAY_AUTH_MODE="token", RAY_AUTH_TOKEN="wrong" * 8)
assert refused.returncode != 0, refused.stdout
disabled = ask({}, HOME=str(stranger), RAY_AUTH_MODE="disabled")
assert disabled.returncode != 0, disabled.stdout
print("without the token:", refused.stderr.strip().splitlines()[-1][:150], flush=True)

# There is no worker. A task that waits makes the autoscaler start one, and of the two types the one for spot machines.
grown = ask({})
assert grown.returncode == 0, grown.stderr + "".join(file.read_text()[-6000:] for file in home.glob("ray/session_latest/logs/monitor.*"))
grown = json.loads(grown.stdout)
assert grown["labels"]["ray.io/market-type"] == "spot", grown
print("grown:", grown, flush=True)

# The commands for a worker, on the second machine.
start(given["worker_start_ray_commands"], "gpu-on-demand", ["nsenter", "--net", "--target", os.environ["SECOND"]])
joined = ask({"ray.io/market-type": "on-demand"})
assert joined.returncode == 0, joined.stderr
joined = json.loads(joined.stdout)
assert (joined["type"], joined["zone"]) == ("g5.xlarge", "us-west-2b"), joined
print("joined:", joined, flush=True)

# The watcher that the last of them started sees the notice.
log = Path("/tmp/sweeper-node-watch.log")
cloud.pages[ACTION] = action(100)
noticed = time.monotonic()
while joined["node"] not in log.read_text():
    assert time.monotonic() - noticed < 15, log.read_text()
    time.sleep(0.2)
print(log.read_text(), flush=True)
print("all well")
"""


@pytest.fixture
def clean_home() -> Iterator[Path]:
    """A home folder with what the image has on its PATH, and a token; short, since Ray's sockets allow no long path."""
    with tempfile.TemporaryDirectory(prefix="c-", dir="/tmp") as folder:
        home = Path(folder)
        bare = {"PATH": os.environ["PATH"], "HOME": folder}
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", home / "image"], check=True, env=bare)
        site = next((home / "image/lib").glob("python3*/site-packages"))
        (site / "packages.pth").write_text(f"{sysconfig.get_paths()['purelib']}\n{PROJECT}\n")
        for name, module in {"ray": "ray.scripts.scripts", "sweeper": "sweeper"}.items():
            program = home / "image/bin" / name
            program.write_text(f'#!/bin/sh\nexec {home}/image/bin/python -m {module} "$@"\n')
            program.chmod(0o755)
        (home / ".bashrc").write_text(f"export PATH={home}/image/bin:/usr/bin:/bin\n")
        subprocess.run([home / "image/bin/ray", "get-auth-token", "--generate"], check=True, env=bare, capture_output=True)
        yield home
    Path("/tmp/sweeper-node-watch.log").unlink(missing_ok=True)  # where the file's command has it


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.skipif(os.geteuid() != 0, reason="needs namespaces of its own")
def test_every_command_of_the_file_runs_in_a_clean_environment_and_the_cluster_grows(clean_home):
    """The provider is Ray's fake one; all else is as in the file: its commands in Ray's own wrapping, its types, its token."""
    environment = {
        "HOME": str(clean_home),
        "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
        "PYTHONPATH": str(PROJECT),
        "RAY_TMPDIR": str(clean_home),
    }
    up = ["bash", "-c", TWO_MACHINES, "bash", str(clean_home / "image/bin/python"), "-c", CHECKS, str(FILE)]
    done = subprocess.run(
        ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc", "--net", *up],
        cwd=clean_home, env=environment, capture_output=True, text=True, timeout=280,
    )  # fmt: skip
    print(done.stdout)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "all well" in done.stdout


COUNT_SLOTS = """
import os
import ray
from orca_core.errors import ConfigError
from sweeper.tune.cluster import Cluster, open_cluster
from sweeper.space.file import Resources

with open_cluster(os.environ["RAY_ADDRESS"], Resources(cpu=2)) as cluster:
    assert ray.is_initialized()
    assert sum(node.slots for node in cluster.nodes()) == 2
assert not ray.is_initialized(), "a sweep leaves the cluster it joined"

ray.init(address="auto", log_to_driver=False)
slots = {(1, 0): 5, (2, 0): 2, (0.5, 0): 10, (1, 1): 2, (1, 0.5): 4, (0.5, 0.4): 4, (2, 0.25): 2}
clusters = {(cpu, gpu): Cluster(Resources(cpu=cpu, gpu=gpu)) for cpu, gpu in slots}
found = {asked: sum(node.slots for node in cluster.nodes()) for asked, cluster in clusters.items()}
assert found == slots, found
assert clusters[1, 0].autoscaler() is None
try:
    Cluster(Resources(cpu=5)).check_fit()
except ConfigError as error:
    assert "must fit on one node; the largest have 4 CPUs and 2 GPUs" in str(error), error
else:
    raise AssertionError("5 CPUs fit nowhere")
"""

SPACE = """
name: s
floors: false
base: {task: openml/187, body.weights: random, align.epochs: 0, finetune: {epochs: 1, warmup_epochs: 0, decay_epochs: null}}
seeds: 2
resources: {cpu: 2}
"""


@pytest.mark.cluster
def test_a_sweep_runs_on_a_cluster_and_counts_its_slots_node_by_node(local_cluster, tmp_path):
    (tmp_path / "space.yaml").write_text(SPACE)
    local_cluster.add_node(cpus=1, wait=False)
    large = local_cluster.add_node(cpus=4, gpus=2, wait=False)
    local_cluster.wait_for_nodes()
    where = ("--results", "results", "--address", local_cluster.address)
    done = local_cluster.sweeper("run", "space.yaml", *where, "--max-concurrent", 1, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    rows = Results(tmp_path / "results").sql("select status, device, host from trials").rows()
    assert [tuple(row.values()) for row in rows] == [("COMPLETE", "cpu", large.name)] * 2
    counted = local_cluster.run([sys.executable, "-c", COUNT_SLOTS], folder=tmp_path, environment={"RAY_ADDRESS": local_cluster.address})
    assert counted.returncode == 0, counted.stderr
