"""From the results back to what was run: the config of a trial from its row, and a search space that runs an arm again."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from orca_core.config.knobs import TrialConfig
from orca_core.config.paths import KNOBS, nest, value_of
from orca_core.config.resolve import resolve_config
from orca_core.errors import ConfigError, Fault
from orca_core.identity import trial_id, unread_knobs


def config_of_row(row: Mapping[str, Any]) -> TrialConfig:
    """The config of a trial, from its row.

    Args:
        row: A row of `trials`, with the columns of all knobs.

    Raises:
        ConfigError: If the task, proxy or body is not known here, or the config that is made from the row is not that of the trial.
    """
    cells = {path: row.get(path.replace(".", "_")) for path in KNOBS if path != "reference_behaviour"}  # it says what other knobs are
    given = {path: value for path, value in cells.items() if value is not None}
    if isinstance(given.get("freezing"), str):
        given["freezing"] = _parse_label(given["freezing"])
    config = resolve_config(nest(given))
    # A null of the row stands for a knob that nothing reads, or for a value: without training samples, all of them.
    unread = unread_knobs(config)
    nulls = {path: None for path, value in cells.items() if value is None and path not in unread and value_of(config, path) is not None}
    config = resolve_config(nest(given | nulls))
    if row.get("trial") is not None and trial_id(config) != row["trial"]:
        rule = f"trial {row['trial']} must have the config that its row says, but this version makes another one of it"
        raise ConfigError([Fault("", rule, Fault.ABSENT)])
    return config


_PHASE = re.compile(r"(?P<train>.+):(?P<epochs>\d+)(?: lr\*(?P<scale>\S+))?(?P<restart> restart)?")


def _parse_label(label: str) -> str | list[dict[str, Any]]:
    """A freezing schedule as it is written in a search space, from its label: a name, or phases in a row."""
    if " > " not in label and "+" not in label:
        return label
    phases: list[dict[str, Any]] = []
    for text in label.split(" > "):
        if (found := _PHASE.fullmatch(text)) is None:
            return label
        phase = {"train": found["train"].split("+"), "epochs": int(found["epochs"])}
        more = {"lr_scale": float(found["scale"])} if found["scale"] else {}
        phases.append(phase | more | ({"restart": True} if found["restart"] else {}))
    return phases


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
