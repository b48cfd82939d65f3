"""From the row of a trial back to its config, so that a trial can be computed again from the tables alone."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, get_args

from orca_core.config.knobs import TrialConfig
from orca_core.config.paths import KNOBS
from orca_core.config.resolve import resolve_config
from orca_core.errors import ConfigError, Fault
from orca_core.identity import trial_id

_PHASE = re.compile(r"(?P<train>[^:]+(?::\d+)?):(?P<epochs>\d+)(?: lr\*(?P<lr_scale>\S+))?(?P<restart> restart)?")
"""A phase of a freezing schedule that has no name, as rows spell it: `embedder+predictor:3 lr*0.1 restart`."""


def config_of_row(row: Mapping[str, Any]) -> TrialConfig:
    """The config of a trial.

    Args:
        row: Its row in `trials`, with the columns of all knobs. Null is a value of its own in knobs that can be set to null; in others it
            says that nothing reads the knob, whose value then does not matter.

    Raises:
        ConfigError: If the row does not say all of it, or a knob, task or body of that name is not known here.
    """
    given = {}
    for path, knob in KNOBS.items():
        value = row.get(path.replace(".", "_"))
        if value is not None or type(None) in get_args(knob.annotation):
            given[path] = value
    try:
        config = resolve_config(given)
    except ConfigError:
        if (phases := _read_phases(str(given.get("freezing")))) is None:
            raise
        config = resolve_config(given | {"freezing": phases})
    if (found := trial_id(config)) != row["trial"]:
        rule = f"the columns of trial {row['trial']} must be all of its config, but they give {found}"
        raise ConfigError([Fault("", rule, Fault.ABSENT, "The row comes from other code, or its columns were changed.")])
    return config


def _read_phases(label: str) -> list[dict[str, Any]] | None:
    """The phases of a schedule without a name as data; None if the label is something else."""
    phases = []
    for text in label.split(" > "):
        found = _PHASE.fullmatch(text)
        if found is None:
            return None
        phase: dict[str, Any] = {"train": found["train"].split("+"), "epochs": int(found["epochs"])}
        if found["lr_scale"]:
            phase["lr_scale"] = float(found["lr_scale"])
        if found["restart"]:
            phase["restart"] = True
        phases.append(phase)
    return phases
