"""A search space that runs an arm of a sweep again."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from orca_core.config.knobs import TrialConfig
from orca_core.config.paths import KNOBS, nest
from orca_core.identity import unread_knobs


def arm_space(
    name: str,
    config: TrialConfig,
    seeds: Sequence[int],
    *,
    vary: Sequence[str] = ("seed",),
    metric: str = "valid_error",
    resources: Mapping[str, Any] = {},
) -> dict[str, Any]:
    """The content of a search-space file that runs the best arm of a sweep again, with every knob that the arm reads.

    Args:
        name: Name of the sweep.
        config: The config of one of the arm's trials.
        seeds: Its seeds.
        vary: The knobs that seeds set.
        metric: The sweep's metric.
        resources: What a trial holds; empty for the default.
    """
    values = json.loads(config.model_dump_json())
    knobs = {}
    for path in sorted(KNOBS.keys() - unread_knobs(config) - {*vary, "bits"}):
        value = values
        for part in path.split("."):
            value = value[part]
        knobs[path] = value
    content: dict[str, Any] = {
        "name": f"{name}-best",
        "description": f"The best arm of {name}.",
        "base": nest(knobs),
        "seeds": {"list": sorted(seeds), "vary": list(vary)} if len(vary) > 1 else sorted(seeds),
        "metric": metric,
    }
    return content | ({"resources": dict(resources)} if resources else {}) | {"bits": config.bits}
