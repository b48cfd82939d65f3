"""The watcher of spot machines: the notices of two clouds, played by a server on 127.0.0.1, and what they lead to."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from click.testing import Result
from typer.testing import CliRunner

from orca_core.errors import ConfigError
from sweeper.cli import app
from sweeper.tune.spot import GCP_NOTICE_SECONDS, AwsMetadata, GcpMetadata, NodeError, Notice, find_metadata, watch

ACTION = "/latest/meta-data/spot/instance-action"
REBALANCE = "/latest/meta-data/events/recommendations/rebalance"
AWS = {"/latest/meta-data/instance-type": "g5.xlarge", "/latest/meta-data/placement/availability-zone": "us-west-2b"}
GCP_PREFIX = "/computeMetadata/v1/instance/"
GCP = {
    "id": "42",
    "machine-type": "projects/1/machineTypes/g2-standard-8",
    "zone": "projects/1/zones/us-central1-a",
    "preempted": "FALSE",
    "maintenance-event": "NONE",
}


class Cloud(ThreadingHTTPServer):
    """A metadata service. What is not in `pages` is answered with 404; `pages` may change while it runs."""

    def __init__(self, kind: str, pages: dict[str, str], host: str = "127.0.0.1") -> None:
        super().__init__((host, 0), Answers)
        self.host, self.kind, self.pages = host, kind, pages
        self.tokens: list[str] = []
        self.is_failing = False
        threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()

    @property
    def address(self) -> str:
        return f"http://{self.host}:{self.server_port}"


class Answers(BaseHTTPRequestHandler):
    server: Cloud

    def do_PUT(self) -> None:
        if self.server.kind != "aws" or self.path != "/latest/api/token":
            return self._answer(404)
        if not 0 < int(self.headers["X-aws-ec2-metadata-token-ttl-seconds"]) <= 21600:
            return self._answer(400)
        self.server.tokens.append(f"token-{len(self.server.tokens)}")
        return self._answer(200, self.server.tokens[-1])

    def do_GET(self) -> None:
        if self.server.is_failing:
            return self._answer(503)
        if self.server.kind == "aws":
            is_allowed = self.headers["X-aws-ec2-metadata-token"] in self.server.tokens[-1:]
        else:
            is_allowed = self.headers["Metadata-Flavor"] == "Google"
        if not is_allowed:
            return self._answer(401 if self.server.kind == "aws" else 403)
        page = self.server.pages.get(self.path)
        return self._answer(404) if page is None else self._answer(200, page)

    def _answer(self, code: int, text: str = "") -> None:
        self.send_response(code)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def aws() -> Iterator[Cloud]:
    with Cloud("aws", dict(AWS)) as cloud:
        yield cloud
        cloud.shutdown()


@pytest.fixture
def gcp() -> Iterator[Cloud]:
    with Cloud("gcp", {GCP_PREFIX + name: text for name, text in GCP.items()}) as cloud:
        yield cloud
        cloud.shutdown()


def action(seconds: float) -> str:
    ends = datetime.now(UTC) + timedelta(seconds=seconds)
    return f'{{"action": "terminate", "time": "{ends:%Y-%m-%dT%H:%M:%SZ}"}}'


def test_aws_gives_a_token_first_and_no_notice_until_there_is_one(aws):
    metadata = AwsMetadata(aws.address)
    assert metadata.describe() == {"SWEEPER_INSTANCE_TYPE": "g5.xlarge", "SWEEPER_ZONE": "us-west-2b"}
    assert metadata.notice() is None
    aws.pages[ACTION] = action(120)
    notice = metadata.notice()
    assert notice is not None
    assert notice.seconds == pytest.approx(120, abs=3)
    assert "AWS will terminate this spot machine" in notice.reason
    assert len(aws.tokens) == 1, "one token serves for hours"


def test_a_token_that_has_run_out_is_replaced(aws):
    metadata = AwsMetadata(aws.address)
    metadata.describe()
    aws.tokens.append("issued to somebody else")  # the server knows only its last token
    assert metadata.describe()["SWEEPER_ZONE"] == "us-west-2b"


def test_a_notice_whose_time_is_over_leaves_no_time_rather_than_less_than_none(aws):
    aws.pages[ACTION] = action(-30)
    notice = AwsMetadata(aws.address).notice()
    assert notice is not None
    assert notice.seconds == 0


def test_a_rebalance_recommendation_has_no_end_and_may_be_ignored(aws):
    aws.pages[REBALANCE] = '{"noticeTime": "2026-01-01T08:22:00Z"}'
    notice = AwsMetadata(aws.address).notice()
    assert notice is not None
    assert notice.seconds is None
    assert AwsMetadata(aws.address, heed_rebalance=False).notice() is None


def test_gcp_says_that_it_preempts_and_nothing_of_when(gcp):
    metadata = GcpMetadata(gcp.address)
    assert metadata.describe() == {"SWEEPER_INSTANCE_TYPE": "g2-standard-8", "SWEEPER_ZONE": "us-central1-a"}
    assert metadata.notice() is None
    gcp.pages[GCP_PREFIX + "preempted"] = "TRUE"
    notice = metadata.notice()
    assert notice is not None
    assert notice.seconds == GCP_NOTICE_SECONDS


def test_the_cloud_is_recognised_by_its_service_and_none_where_none_answers(aws, gcp, monkeypatch):
    monkeypatch.setenv("SWEEPER_METADATA_URL", aws.address)
    assert isinstance(find_metadata(), AwsMetadata)
    monkeypatch.setenv("SWEEPER_METADATA_URL", gcp.address)
    assert isinstance(find_metadata(), GcpMetadata)
    monkeypatch.setenv("SWEEPER_METADATA_URL", "http://127.0.0.1:9")
    assert find_metadata() is None
    monkeypatch.setenv("SWEEPER_METADATA_URL", "127.0.0.1:80")
    with pytest.raises(ConfigError, match="SWEEPER_METADATA_URL: must be an http address"):
        find_metadata()


def test_a_warning_drains_once_and_the_end_that_follows_drains_again(aws):
    aws.pages[REBALANCE] = '{"noticeTime": "2026-01-01T08:22:00Z"}'
    drained: list[Notice] = []
    looks = iter(range(20))

    def sleep(_: float) -> None:
        if next(looks) == 3:
            aws.pages[ACTION] = action(100)

    watch(AwsMetadata(aws.address), lambda notice: drained.append(notice) or notice.reason, lambda line: None, sleep=sleep)
    assert [notice.seconds is None for notice in drained] == [True, False]


def test_trouble_is_said_once_and_does_not_end_the_watch(aws):
    """The service fails, then Ray is not there yet when the notice comes, then the drain works."""
    aws.pages[ACTION] = action(100)
    aws.is_failing = True
    lines: list[str] = []
    looks = iter(range(20))
    tries = iter(range(20))

    def sleep(_: float) -> None:
        aws.is_failing = next(looks) < 3

    def drain(notice: Notice) -> str:
        if next(tries) < 2:
            raise NodeError("no Ray node runs on this machine")
        return "draining"

    watch(AwsMetadata(aws.address), drain, lines.append, sleep=sleep)
    assert [line.partition(";")[0] for line in lines] == [
        "HTTP Error 503: Service Unavailable",
        "no Ray node runs on this machine",
        "draining",
    ]


def run(*arguments: str, address: str) -> Result:
    return CliRunner().invoke(app, ["node", *arguments], env={"SWEEPER_METADATA_URL": address})


def test_the_machine_describes_itself_to_a_shell(aws):
    result = run("describe", address=aws.address)
    assert (result.exit_code, result.stdout) == (0, "export SWEEPER_INSTANCE_TYPE=g5.xlarge SWEEPER_ZONE=us-west-2b\n")


def test_outside_a_cloud_nothing_is_described_and_nothing_is_watched():
    described = run("describe", address="http://127.0.0.1:9")
    assert (described.exit_code, described.output) == (0, "")
    watched = run("watch", address="http://127.0.0.1:9")
    assert watched.exit_code == 1
    assert "no cloud's metadata service answers" in watched.output


def test_what_the_cloud_says_reaches_the_shell_as_text_only(aws):
    aws.pages["/latest/meta-data/instance-type"] = "x; touch /tmp/oops"
    assert "SWEEPER_INSTANCE_TYPE='x; touch /tmp/oops'" in run("describe", address=aws.address).stdout


def test_a_drain_without_a_cluster_says_what_to_give_and_is_in_the_help():
    missing = run("drain", "--address", "127.0.0.1:9", address="")
    assert missing.exit_code == 2
    assert missing.output.startswith("no Ray cluster was reached at 127.0.0.1:9 (nothing listens there). Start a cluster")
    wrong = run("drain", "--address", "127.0.0.1", address="")
    assert (wrong.exit_code, "Did you mean 127.0.0.1:6379?" in wrong.output) == (2, True)
    assert re.search(r"\bnode +Take this machine out of its cluster", CliRunner().invoke(app, ["--help"]).output)


@pytest.fixture
def short_tmp() -> Iterator[str]:
    """A folder for Ray, whose sockets allow no long path."""
    with tempfile.TemporaryDirectory(prefix="ray-", dir="/tmp") as folder:
        yield folder


TWO_NODES = """
set -e
ip link set lo up
ray start --head --node-ip-address 127.0.0.2 --port 7001 --num-cpus 0 --include-dashboard false >/dev/null
ray start --address 127.0.0.2:7001 --node-ip-address 127.0.0.3 --num-cpus 1 >/dev/null
exec "$@"
"""

DRAIN = """
import subprocess, sys, time
import ray
from ray._private.state import state
from tests.sweeper.test_spot import AWS, ACTION, Cloud, action
import os

cloud = Cloud("aws", dict(AWS))
os.environ["SWEEPER_METADATA_URL"] = cloud.address
command = [sys.executable, "-m", "sweeper", "node"]
watcher = subprocess.Popen([*command, "watch", "--address", "127.0.0.2:7001", "--interval", "0.5"], stdout=subprocess.PIPE, text=True)
ray.init(address="127.0.0.2:7001", log_to_driver=False, _node_ip_address="127.0.0.2")

@ray.remote(num_cpus=1)
class Trial:
    def where(self):
        return ray.get_runtime_context().get_node_id()

trial = Trial.remote()
node = ray.get(trial.where.remote())
assert state.get_draining_nodes() == {}
assert watcher.poll() is None
cloud.pages[ACTION] = action(60)
noticed = time.time()
while not (draining := state.get_draining_nodes()):
    assert time.time() - noticed < 20, "not drained"
    time.sleep(0.1)
print("drained after", round(time.time() - noticed, 1), "s")
assert list(draining) == [node], draining
assert abs(draining[node] / 1000 - noticed - 60) < 5, draining
assert watcher.wait(20) == 0
print(watcher.stdout.read())
try:
    ray.get(Trial.remote().where.remote(), timeout=3)
    raise AssertionError("a draining node took a new actor")
except ray.exceptions.GetTimeoutError:
    pass
assert ray.get(trial.where.remote()) == node, "what runs there goes on until it ends or the machine does"

again = subprocess.run([*command, "drain", "--address", "127.0.0.2:7001", "--node-ip", "127.0.0.2"], capture_output=True, text=True)
assert again.returncode == 1, again
assert "this machine runs the head, which cannot be drained" in again.stderr, again

drain = [*command, "drain", "--address", "127.0.0.2:7001", "--node-ip", "127.0.0.3", "--seconds", "40", "--wait"]
stopping = subprocess.Popen(drain, stdout=subprocess.PIPE, text=True)
first = stopping.stdout.readline().strip()
time.sleep(3)
assert stopping.poll() is None, "it waits while a trial runs"
ray.kill(trial)
assert stopping.wait(40) == 0, "the node has ended, once it was idle"
last = stopping.stdout.read().strip()
assert first == f"this machine is taken out of the cluster: draining {os.uname().nodename} (node {node[:8]}), 40 s left", first
assert last == "drained: the Ray node has ended, and no trial runs on it any more", last
print("all well")
"""


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.skipif(os.geteuid() != 0, reason="needs a network namespace of its own")
def test_a_notice_drains_the_real_ray_node_of_this_machine(tmp_path, short_tmp):
    """Two nodes in namespaces of their own: nothing outside sees them, and they end with this test."""
    inside = ["bash", "-c", TWO_NODES, "bash", sys.executable, "-c", DRAIN]
    environment = {
        **os.environ,
        "RAY_TMPDIR": short_tmp,
        "PATH": f"{os.path.dirname(sys.executable)}:{os.environ['PATH']}",
        "PYTHONPATH": os.getcwd(),
    }
    started = time.monotonic()
    done = subprocess.run(
        ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc", "--net", *inside],
        cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=170,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "all well" in done.stdout
    print(done.stdout, round(time.monotonic() - started))
