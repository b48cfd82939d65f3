"""What Ray's autoscaler says: whether there is one, what it is starting, and what it could not start."""

from __future__ import annotations

import json
from typing import Any

import ray
from ray._private import ray_constants
from ray.autoscaler._private.util import format_readonly_node_type
from ray.autoscaler.v2.utils import is_autoscaler_v2

from sweeper.running.obstacles import AutoscalerState


def read_autoscaler() -> AutoscalerState | None:
    """The state of the autoscaler of the cluster that this process has joined; None if it has none."""
    if is_autoscaler_v2():
        return _read_v2()
    return _read_v1()


def _read_v1() -> AutoscalerState | None:
    worker: Any = ray._private.worker.global_worker
    text = worker.gcs_client.internal_kv_get(ray_constants.DEBUG_AUTOSCALING_STATUS.encode(), None)
    report: dict[str, Any] = (json.loads(text) if text else {}).get("autoscaler_report") or {}
    # Ray runs its monitor without an autoscaler, too; then it gives each node a type of its own, named after the node.
    own_types = {format_readonly_node_type(node["NodeID"]) for node in ray.nodes()}
    if not report or set(report.get("active_nodes", {})) <= own_types:
        return None
    starting = len(report.get("pending_nodes", ())) + sum(report.get("pending_launches", {}).values())
    availability = (report.get("node_availability_summary") or {}).get("node_availabilities") or {}
    failures = [_describe(kind, record) for kind, record in sorted(availability.items()) if record and not record.get("is_available", True)]
    if error := worker.gcs_client.internal_kv_get(ray_constants.DEBUG_AUTOSCALING_ERROR.encode(), None):
        failures.append(f"the autoscaler itself failed: {error.decode().strip().splitlines()[-1]}")
    failures += [f"{kind} at {address} failed to start" for address, kind in report.get("failed_nodes", ())]
    return AutoscalerState(starting, tuple(failures))


def _describe(kind: str, record: dict[str, Any]) -> str:
    why = record.get("unavailable_node_information") or {}
    return f"{kind}: {why.get('description') or why.get('category') or 'not available'}"


def _read_v2() -> AutoscalerState:
    from ray.autoscaler.v2.sdk import get_cluster_status

    status = get_cluster_status(ray.get_runtime_context().gcs_address)
    starting = len(status.pending_nodes) + sum(launch.count for launch in status.pending_launches)
    failures = [f"{launch.ray_node_type_name}: {launch.details or 'not available'}" for launch in status.failed_launches]
    return AutoscalerState(starting, tuple(failures))
