"""A Ray cluster of several nodes on this machine, for tests and benchmarks, closed off from everything else that runs here.

    with LocalCluster() as cluster:                                    # a head without CPUs
        node = cluster.add_node(cpus=2, gpus=1, labels={"market": "spot"}, environment={"RAY_memory_usage_threshold": "0.9"})
        done = cluster.sweeper("run", "space.yaml", "--results", folder, "--address", cluster.address)
        assert done.returncode == 0, done.stderr
        node.drain(deadline_s=30)                                      # or freeze(), thaw(), stop(), kill()

Nodes are `ray start` processes. The cluster has a network namespace of its own, in which only `lo` is up: its ports meet no others, and
nothing reaches it from outside, so that commands which talk to it must be started by `sweeper`, `run` or `start`. These run them as on
the head. Each node has an address (127.0.0.2 and so on), a host name, a process namespace and a mount namespace of its own: killing
or freezing a node reaches its processes and no others, and a node can have mounts that the others do not see (`before`). All share the
file system, so that any local folder is a shared one. GPUs are invented: Ray schedules them, but torch sees none.

Tests take the fixture `local_cluster`: one head serves the whole session, and the nodes that a test adds are killed after it. A test that
needs a head of its own (with an autoscaler, a dashboard or another environment) makes a `LocalCluster`, in a file that names
`local_cluster`, so that it does not run beside the other one under `pytest -n`.

Start nodes together with `add_node(..., wait=False)` and then `wait_for_nodes()`: each takes some seconds. With
`autoscaling=autoscaling({"cpu": {"resources": {"CPU": 1}, "max_workers": 4}})` Ray's autoscaler starts nodes on the head by its
`fake_multinode` provider; they appear in `nodes()` only.

All processes are descendants of one that ends when this process closes its standard input or dies; the kernel then ends the others with
it. Never use `ray stop` or `ray.cluster_utils.AutoscalingCluster` beside this: both end every Ray of the machine.

From `benchmarks/`: `sys.path.append(str(Path(__file__).parents[1] / "tests"))` comes before `from cluster_nodes import LocalCluster`.
Linux only, and by root: see `why_not`.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

PORT = 6379
ADDRESS = f"127.0.0.2:{PORT}"
RAY = ("-m", "ray.scripts.scripts")
ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AUTH_MODE": "disabled",
    "RAY_health_check_period_ms": "500",  # a killed node is noticed after five failed checks: within 3 s, not 15
    "PYTHONUNBUFFERED": "1",
}
HEAD_TYPE = "ray.head.default"  # this and the next are what the fake provider takes the head for
HEAD_ID = "f" * 51 + "00000"
OBJECT_STORE_BYTES = 80 * 2**20

NONE: Mapping[str, Any] = MappingProxyType({})

Environment = Mapping[str, str | None]
"""Variables to set on top of this process's, or to remove where None."""


def why_not() -> str | None:
    """Say why no cluster can be started here; None if one can."""
    missing = [tool for tool in ("unshare", "nsenter", "ip", "hostname") if shutil.which(tool) is None]
    if missing:
        return f"clusters of local nodes need {', '.join(missing)}"
    tried = subprocess.run(["unshare", "--net", "--pid", "--fork", "--mount-proc", "--uts", "true"], capture_output=True, text=True)
    return f"clusters of local nodes need the right to make namespaces: {tried.stderr.strip()}" if tried.returncode else None


def autoscaling(worker_types: Mapping[str, Mapping[str, Any]], *, idle_s: float = 6.0, **settings: Any) -> dict[str, Any]:
    """Return the config of an autoscaled cluster, by its types of workers as a cluster file has them.

    Args:
        worker_types: `{"cpu": {"resources": {"CPU": 1}, "min_workers": 0, "max_workers": 4}}`.
        idle_s: Seconds after which an idle node is removed.
        **settings: Further settings of the cluster file.
    """
    types = {name: {"node_config": {}, "min_workers": 0, **node} for name, node in worker_types.items()}
    head = {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0}
    return {
        "cluster_name": "local",
        "max_workers": sum(node.get("max_workers", 0) for node in types.values()),
        "idle_timeout_minutes": idle_s / 60,
        "upscaling_speed": 100,
        "head_node_type": HEAD_TYPE,
        "available_node_types": {HEAD_TYPE: head, **types},
        **settings,
    }


@dataclass
class Node:
    """One node of the cluster: a `ray start` with everything that it started."""

    cluster: LocalCluster = field(repr=False)
    name: str
    address: str
    process: subprocess.Popen[bytes] = field(repr=False)
    log: Path

    @property
    def node_id(self) -> str:
        """Ray's id of it, in hex."""
        return next(node["NodeID"] for node in self.cluster.nodes() if node["NodeName"] == self.name)

    @property
    def alive(self) -> bool:
        """Whether Ray thinks that it lives."""
        return any(node["NodeName"] == self.name and node["Alive"] for node in self.cluster.nodes())

    @property
    def init(self) -> int:
        """The process id, as seen from here, of its `ray start`, with which all of its processes end."""
        return _namespaced(self.process)

    def pids(self) -> list[int]:
        """Return the ids of its processes, as seen from here."""
        namespace, found = os.readlink(f"/proc/{self.init}/ns/pid"), []
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                if os.readlink(folder / "ns/pid") == namespace:
                    found.append(int(folder.name))
            except OSError:  # it has ended
                continue
        return found

    def kill(self) -> None:
        """End all of its processes at once, by SIGKILL."""
        os.kill(self.init, signal.SIGKILL)
        self.process.wait(30)

    def stop(self) -> None:
        """End it in order, by SIGTERM to its `ray start`."""
        os.kill(self.init, signal.SIGTERM)
        self.process.wait(60)

    def freeze(self) -> None:
        """Stop all of its processes where they are, with their connections open."""
        while moving := [pid for pid in self.pids() if not _is_stopped(pid)]:  # again, since a process may just have started another
            _signal(moving, signal.SIGSTOP)
            time.sleep(0.02)

    def thaw(self) -> None:
        """Let its frozen processes go on."""
        _signal(self.pids(), signal.SIGCONT)

    def drain(self, deadline_s: float = 30, reason: str = "PREEMPTION") -> None:
        """Tell Ray that it will go in so many seconds; `reason` is PREEMPTION or IDLE_TERMINATION."""
        self.cluster.drain(self.node_id, deadline_s, reason)


class LocalCluster:
    """A head and any number of nodes. A context manager: starts the head, ends everything.

    Attributes:
        address: What to give to `--address`, in a process that runs on the cluster.
        folder: Folder of Ray's session and of the nodes' logs; removed at the end.
        head: The head.
        added: The nodes that `add_node` started, in that order.
    """

    def __init__(
        self,
        *,
        head_cpus: float = 0,
        autoscaling: Mapping[str, Any] | None = None,
        environment: Environment = NONE,
        dashboard: bool = False,
        arguments: Sequence[str] = (),
    ) -> None:
        """Describe a cluster.

        Args:
            head_cpus: CPUs of the head.
            autoscaling: A cluster file's content, as of `autoscaling()`; its provider is replaced by Ray's fake one.
            environment: Environment of the head and of commands; nodes that are added have their own.
            dashboard: Whether the head has a dashboard, which job submission needs, at 127.0.0.2:8265.
            arguments: Further arguments of the head's `ray start`.
        """
        self.address = ADDRESS
        self.environment = dict(environment)
        self._arguments = [f"--num-cpus={head_cpus:g}", f"--include-dashboard={str(dashboard).lower()}", *arguments]
        if dashboard:
            self._arguments.append("--dashboard-host=127.0.0.2")
        self._autoscaling = autoscaling
        self.added: list[Node] = []
        self._starting: list[Node] = []
        self._observer: subprocess.Popen[str] | None = None

    def __enter__(self) -> LocalCluster:
        self.folder = Path(tempfile.mkdtemp(prefix="nodes-", dir="/tmp"))  # short: Ray's sockets are in it, and their paths are limited
        self._holder = subprocess.Popen(
            ["unshare", "--net", "--pid", "--fork", "--mount-proc", "--uts", "sh", "-c", "ip link set lo up && echo up && exec cat"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        try:
            assert self._holder.stdout is not None
            if self._holder.stdout.readline() != b"up\n":
                raise RuntimeError(why_not() or "the namespaces could not be made")
            self._start_head()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        assert self._holder.stdin is not None
        self._holder.stdin.close()
        self._holder.wait(60)
        shutil.rmtree(self.folder, ignore_errors=True)

    def _start_head(self) -> None:
        arguments, environment = ["--head", f"--port={PORT}", *self._arguments], dict(self.environment)
        if self._autoscaling is not None:
            file = self.folder / "autoscaling.json"
            file.write_text(json.dumps(_with_fake_provider(self._autoscaling)))
            arguments.append(f"--autoscaling-config={file}")
            environment |= {"RAY_FAKE_CLUSTER": "1", "AUTOSCALER_UPDATE_INTERVAL_S": "1"}
            environment |= {"RAY_CLOUD_INSTANCE_ID": HEAD_ID, "RAY_OVERRIDE_NODE_ID_FOR_TESTING": HEAD_ID}
        self.head = self._start_node("head", "127.0.0.2", arguments, environment)
        observer = [sys.executable, str(Path(__file__).resolve()), ADDRESS]  # imports Ray while the head starts
        self._observer = subprocess.Popen(
            self._inside(observer), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=self._variables({})
        )
        self.wait_for_nodes()

    # ------------------------------------------------------------------------------------------------------------------------- nodes

    def add_node(
        self,
        *,
        cpus: float = 1,
        gpus: float = 0,
        resources: Mapping[str, float] = NONE,
        labels: Mapping[str, str] = NONE,
        environment: Environment = NONE,
        folder: str | Path | None = None,
        before: str = "true",
        python: str | Path = sys.executable,
        arguments: Sequence[str] = (),
        wait: bool = True,
    ) -> Node:
        """Start a node that joins the cluster.

        Args:
            cpus: CPUs that it offers.
            gpus: GPUs that it claims to have.
            resources: Custom resources.
            labels: Ray's node labels.
            environment: Environment of its processes.
            folder: Working folder of its processes; by default that of this process.
            before: Shell command that runs first, in the node's own mount namespace: `mount -t tmpfs none /data`.
            python: The interpreter that runs it.
            arguments: Further arguments of its `ray start`.
            wait: Whether to return only when Ray knows it.

        Returns:
            The node, named `node-1`, `node-2` and so on, which is also its host name.
        """
        number = len(self.added) + 1
        own = [f"--address={ADDRESS}", f"--num-cpus={cpus:g}", f"--num-gpus={gpus:g}", f"--resources={json.dumps(dict(resources))}"]
        if labels:
            own.append("--labels=" + ",".join(f"{key}={value}" for key, value in labels.items()))
        node = self._start_node(
            f"node-{number}", f"127.0.0.{number + 2}", [*own, *arguments], environment, folder=folder, before=before, python=python
        )
        self.added.append(node)
        if wait:
            self.wait_for_nodes()
        return node

    def wait_for_nodes(self, timeout_s: float = 90) -> None:
        """Wait until Ray knows all nodes that were started with `wait=False`."""
        deadline = time.monotonic() + timeout_s
        while self._starting:
            known = {node["NodeName"] for node in self.nodes() if node["Alive"]}
            self._starting = [node for node in self._starting if node.name not in known]
            for node in self._starting:
                if node.process.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError(f"{node.name} did not start:\n{node.log.read_text()}")
            time.sleep(0.05)

    def nodes(self) -> list[dict[str, Any]]:
        """Return all nodes, dead ones too, as `ray.nodes()` does."""
        return self._ask("nodes")

    def wait_until(self, holds: Callable[[list[dict[str, Any]]], bool], timeout_s: float = 90) -> None:
        """Wait until something holds for the live nodes."""
        deadline = time.monotonic() + timeout_s
        while not holds(live := [node for node in self.nodes() if node["Alive"]]):
            if time.monotonic() > deadline:
                raise TimeoutError(f"it did not come to hold; live nodes: {[(node['NodeName'], node['Resources']) for node in live]}")
            time.sleep(0.1)

    def kill_added(self) -> None:
        """Kill all nodes that were added, and wait until Ray knows."""
        for node in self.added:
            if node.process.poll() is None:
                node.kill()
        gone = {node.name for node in self.added}
        self.wait_until(lambda live: not gone & {node["NodeName"] for node in live})

    def kill_raylet(self, node_id: str) -> None:
        """Kill the raylet of a node that the autoscaler started, with which the node's other processes end."""
        for pid in self.head.pids():
            command = Path(f"/proc/{pid}/cmdline").read_bytes()
            if b"raylet/raylet" in command.partition(b"\0")[0] and node_id.encode() in command:
                os.kill(pid, signal.SIGKILL)
                return
        raise RuntimeError(f"no raylet of node {node_id} runs on the head")

    def drain(self, node_id: str, deadline_s: float = 30, reason: str = "PREEMPTION") -> None:
        """Tell Ray that a node will go in so many seconds."""
        said = self._ask("drain", node_id, f"DRAIN_NODE_REASON_{reason}", time.time_ns() // 10**6 + round(deadline_s * 1000))
        if said is not None:
            raise RuntimeError(f"Ray refused to drain the node: {said}")

    # ---------------------------------------------------------------------------------------------------------------------- commands

    def sweeper(self, *arguments: object, timeout_s: float = 300, **options: Any) -> subprocess.CompletedProcess[str]:
        """Run a `sweeper` command as on the head; options are those of `start`."""
        return self.run([sys.executable, "-m", "sweeper.cli", *map(str, arguments)], timeout_s=timeout_s, **options)

    def run(self, command: Sequence[str], *, timeout_s: float = 300, **options: Any) -> subprocess.CompletedProcess[str]:
        """Run a command as on the head, to its end. One that takes longer is killed."""
        process = self.start(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options)
        try:
            out, error = process.communicate(timeout=timeout_s)
        except subprocess.TimeoutExpired as late:
            self.signal(process, signal.SIGKILL)
            out, error = process.communicate()
            raise TimeoutError(f"{' '.join(command)} took longer than {timeout_s} s:\n{out}\n{error}") from late
        return subprocess.CompletedProcess(list(command), process.returncode, out, error)

    def start(
        self, command: Sequence[str], *, folder: str | Path | None = None, environment: Environment = NONE, **options: Any
    ) -> subprocess.Popen[Any]:
        """Start a command as on the head, such as a sweep to be disturbed or a server that nodes talk to.

        Args:
            command: The command.
            folder: Its working folder; by default that of this process.
            environment: Variables on top of the cluster's.
            **options: Options of `subprocess.Popen`.

        Returns:
            The process. Send signals by `signal`: this one only waits for that of the command.
        """
        variables = self._variables(self.environment | dict(environment))
        where = ["nsenter", "--target", str(self.head.init), "--all", f"--wdns={Path(folder or '.').resolve()}", "--"]
        return subprocess.Popen([*where, *command], env=variables, **options)

    def signal(self, process: subprocess.Popen[Any], number: int) -> None:
        """Send a signal to a command that `start` started."""
        os.kill(_children(process.pid)[0], number)

    # ------------------------------------------------------------------------------------------------------------------------- inside

    def _start_node(
        self,
        name: str,
        address: str,
        arguments: Sequence[str],
        environment: Environment,
        *,
        folder: str | Path | None = None,
        before: str = "true",
        python: str | Path = sys.executable,
    ) -> Node:
        ray_start = [str(python), *RAY, "start", "--block", "--disable-usage-stats", f"--node-ip-address={address}", f"--node-name={name}"]
        ray_start += [f"--object-store-memory={OBJECT_STORE_BYTES}", f"--temp-dir={self.folder / name}", *arguments]
        own = ["unshare", "--pid", "--fork", "--mount-proc", "--uts", "--kill-child", "sh", "-c"]
        script = f'hostname {name} && {before} && exec "$@"'
        log = self.folder / f"{name}.log"
        with log.open("wb") as out:
            process = subprocess.Popen(
                self._inside([*own, script, "sh", *ray_start]),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                cwd=folder,
                env=self._variables(environment),
            )
        node = Node(self, name, address, process, log)
        self._starting.append(node)
        return node

    def _inside(self, command: Sequence[str]) -> list[str]:
        holder = _children(self._holder.pid)[0]
        return ["nsenter", "--target", str(holder), "--net", "--pid", "--mount", "--uts", f"--wdns={os.getcwd()}", "--", *command]

    def _variables(self, environment: Environment) -> dict[str, str]:
        variables: dict[str, str | None] = {**os.environ, **ENVIRONMENT, "RAY_TMPDIR": str(self.folder), **environment}
        return {name: value for name, value in variables.items() if value is not None}

    def _ask(self, *request: Any) -> Any:
        assert self._observer is not None
        assert self._observer.stdin is not None
        assert self._observer.stdout is not None
        self._observer.stdin.write(json.dumps(request) + "\n")
        self._observer.stdin.flush()
        said = self._observer.stdout.readline()
        if not said:
            raise RuntimeError(f"the head is gone:\n{self.head.log.read_text()}")
        return json.loads(said)


def _with_fake_provider(config: Mapping[str, Any]) -> dict[str, Any]:
    """What the autoscaler reads: the config with Ray's fake provider, and nothing to be run or copied."""
    head = config["head_node_type"]
    return {
        **config,
        "provider": {
            "type": "external",  # as `fake_multinode` the second autoscaler wants a file of defaults that is not in Ray's wheel
            "module": "ray.autoscaler._private.fake_multi_node.node_provider.FakeMultiNodeProvider",
            "gcs_address": ADDRESS,
            "head_node_id": HEAD_ID,
            "launch_multiple": True,
            "use_node_id_as_ip": True,  # the nodes share one address
            "disable_node_updaters": True,
            "disable_launch_config_check": True,
        },
        "head_node_type": HEAD_TYPE,
        "available_node_types": {
            HEAD_TYPE if name == head else name: {**node, "resources": {"object_store_memory": OBJECT_STORE_BYTES, **node["resources"]}}
            for name, node in config["available_node_types"].items()
        },
        "auth": {},
        "docker": {},
        **{f"{of}_commands": [] for of in ("initialization", "setup", "head_setup", "worker_setup", "head_start_ray", "worker_start_ray")},
        "file_mounts": {},
        "cluster_synced_files": [],
        "file_mounts_sync_continuously": False,
        "rsync_exclude": [],
        "rsync_filter": [],
    }


def _children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def _namespaced(process: subprocess.Popen[bytes]) -> int:
    """The first process of a namespace that `nsenter unshare` made: a grandchild."""
    for _ in range(3000):
        for child in _children(process.pid):
            if grandchildren := _children(child):
                return grandchildren[0]
        time.sleep(0.01)
    raise RuntimeError(f"{process.args} made no namespace")


def _is_stopped(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "TtZX"
    except OSError:
        return True


def _signal(pids: Sequence[int], number: int) -> None:
    for pid in pids:
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            continue


def observe(address: str) -> None:
    """Answer requests, a line of JSON each, from standard input: this runs inside the cluster's network namespace."""
    from ray._private.state import GlobalState
    from ray._raylet import GcsClient, GcsClientOptions
    from ray.core.generated import autoscaler_pb2

    def wait_for_head() -> GcsClient:
        import socket

        host, _, port = address.partition(":")
        for _ in range(900):
            try:
                socket.create_connection((host, int(port)), timeout=5).close()
            except OSError:
                time.sleep(0.1)
            else:
                return GcsClient(address=address)
        raise RuntimeError("the head did not start")

    client, state = wait_for_head(), GlobalState()
    state._initialize_global_state(GcsClientOptions.create(address, None, allow_cluster_id_nil=True, fetch_cluster_id_if_nil=False))

    def drain(node_id: str, reason: str, deadline_ms: int) -> str | None:
        accepted, why = client.drain_node(node_id, autoscaler_pb2.DrainNodeReason.Value(reason), "a test says so", deadline_ms)
        return None if accepted else why

    answers = {"nodes": state.node_table, "drain": drain}
    for line in sys.stdin:
        name, *arguments = json.loads(line)
        print(json.dumps(answers[name](*arguments)), flush=True)


if __name__ == "__main__":
    observe(sys.argv[1])
