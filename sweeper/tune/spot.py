"""Spot machines: reads from the cloud what machine this is and when it will be taken away, and drains its Ray node in time.

A drained node gets no new work; a sweep saves the trials that run there and continues them elsewhere. Ray itself does not
read the clouds' notices. Nothing here starts a driver or a worker process.
"""

from __future__ import annotations

import json
import os
import socket
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Protocol

from orca_core.errors import ConfigError, Fault, OrcaError
from sweeper.running.cluster_address import GCS_PORT, check_form, describe_failure

ADDRESS_VARIABLE = "SWEEPER_METADATA_URL"
"""Variable that holds the address of the metadata service, instead of the clouds' own."""

ADDRESS = "http://169.254.169.254"
"""Where AWS and GCP serve a machine's metadata."""

REQUEST_SECONDS = 2.0
"""Longest wait for an answer of the metadata service; it is on the same host."""

AWS_TOKEN_SECONDS = 21600
GCP_NOTICE_SECONDS = 30.0
"""Time between GCP's notice and the end of the machine; the notice itself does not say."""

_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # the service is never behind a proxy


class NodeError(OrcaError):
    """The Ray node of this machine was not found, or could not be drained."""

    exit_code = 1


class NoClusterError(NodeError):
    """No Ray cluster was reached at the address that was given or found."""

    exit_code = 2


@dataclass(frozen=True)
class Notice:
    """What the cloud says about the end of this machine.

    Attributes:
        reason: A sentence for the log and for Ray.
        seconds: Seconds until the machine goes; None if the cloud only warns that it may go soon.
    """

    reason: str
    seconds: float | None


class Metadata(Protocol):
    """The metadata service of one cloud."""

    cloud: str

    def describe(self) -> dict[str, str]:
        """The variables that tell trials where they run: SWEEPER_INSTANCE_TYPE and SWEEPER_ZONE."""
        ...

    def notice(self) -> Notice | None:
        """The notice that stands at this moment. Raises OSError if the service does not answer."""
        ...


class AwsMetadata:
    """EC2's instance metadata, version 2: each request carries a token that is fetched first."""

    cloud = "AWS"

    def __init__(self, address: str, *, heed_rebalance: bool = True) -> None:
        self._address = address
        self._heed_rebalance = heed_rebalance
        self._token = ""

    def is_there(self) -> bool:
        """Whether the service at the address is this cloud's."""
        try:
            self._fetch_token()
        except OSError:
            return False
        return True

    def describe(self) -> dict[str, str]:
        return _known(
            {
                "SWEEPER_INSTANCE_TYPE": self._get("/latest/meta-data/instance-type"),
                "SWEEPER_ZONE": self._get("/latest/meta-data/placement/availability-zone"),
            }
        )

    def notice(self) -> Notice | None:
        if text := self._get("/latest/meta-data/spot/instance-action"):
            action = json.loads(text)
            ends = datetime.fromisoformat(action["time"])
            return Notice(f"AWS will {action['action']} this spot machine at {action['time']}", _seconds_until(ends))
        if self._heed_rebalance and (text := self._get("/latest/meta-data/events/recommendations/rebalance")):
            return Notice(f"AWS expects to interrupt this spot machine (noticed at {json.loads(text)['noticeTime']})", None)
        return None

    def _get(self, path: str) -> str | None:
        """The text at a path, or None where the service has nothing (404)."""
        headers = {"X-aws-ec2-metadata-token": self._token}
        try:
            return _request(self._address + path, headers)
        except urllib.error.HTTPError as error:
            if error.code != 401:
                raise
        self._fetch_token()  # none yet, or it has run out
        return _request(self._address + path, {"X-aws-ec2-metadata-token": self._token})

    def _fetch_token(self) -> None:
        headers = {"X-aws-ec2-metadata-token-ttl-seconds": str(AWS_TOKEN_SECONDS)}
        token = _request(f"{self._address}/latest/api/token", headers, method="PUT")
        if not token:
            raise OSError("the metadata service has no tokens, so it is not that of AWS")
        self._token = token


class GcpMetadata:
    """Google Compute Engine's metadata."""

    cloud = "GCP"

    def __init__(self, address: str) -> None:
        self._address = address

    def is_there(self) -> bool:
        """Whether the service at the address is this cloud's."""
        try:
            return self._get("instance/id") is not None
        except OSError:
            return False

    def describe(self) -> dict[str, str]:
        return _known(
            {
                "SWEEPER_INSTANCE_TYPE": _last_part(self._get("instance/machine-type")),
                "SWEEPER_ZONE": _last_part(self._get("instance/zone")),
            }
        )

    def notice(self) -> Notice | None:
        if self._get("instance/preempted") == "TRUE":
            return Notice("GCP is taking this spot machine away", GCP_NOTICE_SECONDS)
        if self._get("instance/maintenance-event") == "TERMINATE_ON_HOST_MAINTENANCE":
            return Notice("GCP will stop this machine for maintenance of its host", None)
        return None

    def _get(self, path: str) -> str | None:
        return _request(f"{self._address}/computeMetadata/v1/{path}", {"Metadata-Flavor": "Google"})


def find_metadata(*, heed_rebalance: bool = True) -> AwsMetadata | GcpMetadata | None:
    """The metadata service of the cloud that this machine is of; None if none answers, as on a machine of one's own."""
    address = os.environ.get(ADDRESS_VARIABLE, ADDRESS).rstrip("/")
    if not address.startswith(("http://", "https://")):
        raise ConfigError([Fault(ADDRESS_VARIABLE, "must be an http address", address, f"The clouds' own is {ADDRESS}.")])
    aws = AwsMetadata(address, heed_rebalance=heed_rebalance)
    if aws.is_there():
        return aws
    gcp = GcpMetadata(address)
    return gcp if gcp.is_there() else None


def watch(
    metadata: Metadata,
    drain: Callable[[Notice], str],
    say: Callable[[str], None],
    *,
    interval: float = 5.0,
    sleep: Callable[[float], None] = time.sleep,
) -> None:
    """Wait for a notice and drain; returns when a notice with an end has been obeyed.

    A notice without an end drains once and the watch goes on, since one with an end may follow. What goes wrong, on the side of
    the cloud or of Ray, is said once and tried again at the next look.

    Args:
        metadata: The cloud's metadata service.
        drain: Drains this machine's Ray nodes; returns what it did, raises NodeError.
        say: Takes the lines of the log.
        interval: Seconds between two looks, above 0. GCP gives 30 s of notice, AWS 120 s.
        sleep: Waits that long; for tests.
    """
    is_draining = False
    trouble = ""
    while True:
        try:
            notice = metadata.notice()
            if notice is not None and (notice.seconds is not None or not is_draining):
                say(drain(notice))
                is_draining = True
                if notice.seconds is not None:
                    return
            trouble = ""
        except (NodeError, OSError, ValueError, KeyError) as error:
            if str(error) != trouble:
                trouble = str(error)
                say(f"{trouble}; trying again every {interval:g} s")
        sleep(interval)


def drain_nodes(notice: Notice, address: str | None = None, node_ip: str | None = None) -> str:
    """Drain every Ray node that runs on this machine, except the head: all of them end with it.

    Args:
        notice: Why, and how long there is.
        address: Address of the cluster; None finds the Ray that runs on this machine.
        node_ip: Only the node of this IP address, where a machine plays several.

    Returns:
        What was done, in a sentence.

    Raises:
        NodeError: If no node was found, or the cluster did not accept the drain.
    """
    cluster, nodes = _find_nodes(address, node_ip)
    from ray.core.generated import autoscaler_pb2

    reasons: Any = autoscaler_pb2  # generated, without types
    ends = 0 if notice.seconds is None else int((time.time() + notice.seconds) * 1000)
    reason = reasons.DrainNodeReason.Value("DRAIN_NODE_REASON_PREEMPTION")
    for node, name in nodes.items():
        is_accepted, why_not = cluster.drain_node(node, reason, notice.reason, ends)
        if not is_accepted:
            raise NodeError(f"Ray did not accept that {name} be drained: {why_not}")
    left = "" if notice.seconds is None else f", {notice.seconds:.0f} s left"
    return f"{notice.reason}: draining {' and '.join(nodes.values())}{left}"


def wait_until_gone(seconds: float, address: str | None = None, node_ip: str | None = None) -> bool:
    """Wait until this machine's Ray nodes have ended, at most that long. Returns whether they have."""
    ends = time.monotonic() + seconds
    while time.monotonic() < ends:
        try:
            _find_nodes(address, node_ip)
        except NodeError:
            return True
        time.sleep(1)
    return False


def _find_nodes(address: str | None, node_ip: str | None) -> tuple[Any, dict[str, str]]:
    """A client of the cluster's head, and the live worker nodes whose raylet runs on this machine: their ids, and how they are called."""
    import ray
    from ray._private import services

    place = address or "auto"
    if place != "auto":
        check_form(place)
    try:
        place = services.canonicalize_bootstrap_address_or_die(place)
        host, _, port = place.rpartition(":")
        socket.create_connection((host, int(port)), REQUEST_SECONDS).close()  # Ray's client would try for 40 s
        raylet: Any = ray._raylet  # compiled, without types
        cluster = raylet.GcsClient(address=place)
        infos: Mapping[Any, Any] = cluster.get_all_node_info(timeout=10)
    except Exception as error:  # Ray has no common class for them
        raise _explain(error, address, place) from None
    here = services.find_node_ids()
    alive = [(node.hex(), info) for node, info in infos.items() if info.state == 0 and node.hex() in here]
    found = [(node, info) for node, info in alive if node_ip in (None, info.node_manager_address)]
    if not found:
        raise NodeError("no Ray node of this cluster runs on this machine. Call this on the machine that shall leave it.")
    if workers := {node: f"{info.node_manager_hostname} (node {node[:8]})" for node, info in found if not info.is_head_node}:
        return cluster, workers
    raise NodeError("this machine runs the head, which cannot be drained: the sweep and all other nodes end with it")


def _explain(error: Exception, address: str | None, place: str) -> NoClusterError:
    """Why no cluster was reached, and what to do about it.

    Args:
        error: What was raised on the way to it.
        address: The address that was given; None if none was.
        place: The address that was tried, or `auto` if none was found.
    """
    if place == "auto":
        what = "no Ray runs on this machine"
        remedy = "If it runs in a container, call this there; else give --address HOST:PORT of the cluster's head."
    elif isinstance(error, OSError):
        why, remedy = describe_failure(error, place)
        what = f"no Ray cluster was reached at {address or place} ({why})"
    else:
        what = f"no Ray cluster was reached at {address or place} ({str(error).splitlines()[0] if str(error) else repr(error)})"
        remedy = f"Give --address HOST:PORT of the cluster's head; the port is usually {GCS_PORT}."
    if address is None and place != "auto":
        remedy = f"The address is that of $RAY_ADDRESS, or of the Ray that was started on this machine last. {remedy}"
    return NoClusterError(f"{what}. {remedy}")


def _request(address: str, headers: Mapping[str, str], method: str = "GET") -> str | None:
    """The text at an address, or None for 404. Raises OSError."""
    try:
        with _OPENER.open(urllib.request.Request(address, headers=dict(headers), method=method), timeout=REQUEST_SECONDS) as answer:
            return str(answer.read().decode())
    except urllib.error.HTTPError as error:
        if error.code == 404:
            return None
        raise


def _seconds_until(moment: datetime) -> float:
    return max(0.0, (moment - datetime.now(UTC)).total_seconds())


def _last_part(path: str | None) -> str | None:
    return path.rpartition("/")[2] if path else None


def _known(variables: Mapping[str, str | None]) -> dict[str, str]:
    return {name: value for name, value in variables.items() if value}
