"""Which type of machine Ray's autoscaler starts next, where two types differ in nothing but price."""

from __future__ import annotations

from typing import Any


def prefer_available(node_resources: Any, demands: Any, node_type: str, *, node_availability_summary: Any) -> tuple[Any, ...] | None:
    """Ray's own score of a type of machine, below a first item: whether the cloud had a machine of that type when last asked.

    Ray's default score ignores that, so that it would ask for spot machines for ever while there are none. A refusal counts for
    half an hour. `cluster.yaml` names this function in RAY_AUTOSCALER_UTILIZATION_SCORER.

    Args:
        node_resources: What a machine of the type offers, by resource.
        demands: What waits for a machine, as a list of such mappings.
        node_type: The type, a key of `available_node_types`.
        node_availability_summary: Ray's record of refusals.

    Returns:
        The score, to be compared with those of other types; None if nothing of what waits fits such a machine.
    """
    from ray.autoscaler._private.resource_demand_scheduler import _resource_based_utilization_scorer

    score = _resource_based_utilization_scorer(node_resources, demands, node_availability_summary=node_availability_summary)
    if score is None:
        return None
    record = node_availability_summary.node_availabilities.get(node_type)
    return (record is None or record.is_available, *score)
