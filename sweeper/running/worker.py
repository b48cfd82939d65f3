"""What a worker tells about itself with its first report: the machine, and the code that it runs."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Mapping

from sweeper.results.worker_facts import WorkerFacts
from sweeper.running.code import code_here
from sweeper.running.provenance import provenance


def worker_facts(node_id: str | None = None, labels: Mapping[str, str] = {}) -> WorkerFacts:
    """The facts of this process.

    Args:
        node_id: Ray's id of the node; None without Ray.
        labels: Ray's labels of the node.
    """
    instance_type, zone = _machine(labels)
    about = provenance() | ({"ray_version": None} if node_id is None else {})
    return WorkerFacts(
        host=socket.gethostname(),
        pid=os.getpid(),
        node_id=node_id,
        instance_type=instance_type,
        zone=zone,
        code_digest=code_here().digest,
        **about,
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


def _machine(labels: Mapping[str, str]) -> tuple[str | None, str | None]:
    """Instance type and zone: from the environment, where `sweeper node describe` puts them, else from the labels of the node."""

    def find(variables: tuple[str, ...], names: tuple[str, ...]) -> str | None:
        return next(filter(None, [*map(os.environ.get, variables), *map(labels.get, names)]), None)

    return find(("SWEEPER_INSTANCE_TYPE",), _INSTANCE_LABELS), find(("SWEEPER_ZONE", "RAY_NODE_ZONE"), _ZONE_LABELS)
