"""What a worker tells about itself with its first report: the machine, and the code that it runs."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Mapping
from functools import lru_cache
from typing import Any
from urllib.error import URLError
from urllib.request import ProxyHandler, Request, build_opener

from sweeper.results.worker_facts import WorkerFacts
from sweeper.running.code import code_here
from sweeper.running.provenance import provenance

METADATA_VARIABLE = "SWEEPER_METADATA_URL"
"""Variable with the address of a cloud's metadata service, `http://169.254.169.254`; unset where there is none."""

METADATA_TIMEOUT_S = 1.0


def worker_facts(node_id: str | None = None, labels: Mapping[str, str] = {}) -> WorkerFacts:
    """The facts of this process.

    Args:
        node_id: Ray's id of the node; None without Ray.
        labels: Ray's labels of the node.
    """
    instance_type, zone = _machine(tuple(sorted(labels.items())))
    about = provenance() | ({"ray_version": None} if node_id is None else {})
    return WorkerFacts(
        host=socket.gethostname(),
        pid=os.getpid(),
        node_id=node_id,
        instance_type=instance_type,
        zone=zone,
        code_digest=code_here().digest,
        **about,  # type: ignore[arg-type]
    )


def report_text(facts: WorkerFacts, device: str | None) -> str:
    """What a first report holds about the worker: its facts, and the kind of its numerics, as JSON.

    Args:
        facts: Of this process.
        device: Device type of the trial, `cpu` or `cuda`. None leaves the numerics out: torch, which they load, may be missing.
    """
    if device is None:
        return json.dumps(facts.cells())
    from orca_core.numerics import numerical_kind

    return json.dumps(facts.cells() | numerical_kind(device).cells())


_INSTANCE_LABELS = ("instance-type", "node.kubernetes.io/instance-type")
_ZONE_LABELS = ("ray.io/availability-zone", "topology.kubernetes.io/zone")


@lru_cache(maxsize=1)
def _machine(labels: tuple[tuple[str, str], ...]) -> tuple[str | None, str | None]:
    """Instance type and zone: from the environment, else from the labels of the node, else from the cloud's metadata service."""
    by_label = dict(labels)
    instance_type = os.environ.get("SWEEPER_INSTANCE_TYPE") or next((by_label[name] for name in _INSTANCE_LABELS if name in by_label), None)
    zone = os.environ.get("SWEEPER_ZONE") or os.environ.get("RAY_NODE_ZONE")
    zone = zone or next((by_label[name] for name in _ZONE_LABELS if name in by_label), None)
    if (address := os.environ.get(METADATA_VARIABLE)) and (instance_type is None or zone is None):
        answers = _ask_metadata(address, ("instance-type", "placement/availability-zone"))
        instance_type, zone = instance_type or answers[0], zone or answers[1]
    return instance_type, zone


def _ask_metadata(address: str, names: tuple[str, ...]) -> list[str | None]:
    """What EC2's metadata service (IMDSv2) says; None for each name if it does not answer within a second."""
    opener = build_opener(ProxyHandler({}))

    def ask(path: str, method: str, headers: dict[str, str]) -> str:
        request: Any = Request(f"{address.rstrip('/')}/latest/{path}", method=method, headers=headers)
        with opener.open(request, timeout=METADATA_TIMEOUT_S) as answer:
            return str(answer.read(256).decode())

    try:
        token = ask("api/token", "PUT", {"X-aws-ec2-metadata-token-ttl-seconds": "60"})
        return [ask(f"meta-data/{name}", "GET", {"X-aws-ec2-metadata-token": token}) or None for name in names]
    except (URLError, OSError, ValueError):
        return [None for _ in names]
