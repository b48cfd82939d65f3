"""Parses the knobs in a search space, and checks each value on its own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from pydantic import ValidationError

from orca_core.bodies import find_body
from orca_core.config.faults import faults_of
from orca_core.config.knobs import TrialConfig
from orca_core.config.paths import KNOBS, flatten, unknown_knobs
from orca_core.datafiles.embedder_weights import check_weights_file
from orca_core.errors import ConfigError, DataError, Fault, nearest
from orca_core.freezing.schedule import FREEZING_NAMES
from orca_core.proxies import find_proxy
from orca_core.tasks import find_task
from sweeper.faults import Faults
from sweeper.space.file import SpaceFile

_FINDERS = {"task": find_task, "proxy": find_proxy, "body.name": find_body, "embedder.weights": check_weights_file}


def parse_knobs(data: Any, faults: Faults) -> dict[str, Any]:
    """Parse the knobs of `base` or a variant into dotted path -> value. Unknown knobs are left out."""
    if not isinstance(data, Mapping):
        faults.add("", "must be a mapping of knobs", data)
        return {}
    try:
        flat = flatten(data)
    except ConfigError as error:
        faults.extend(error.faults)
        return {}
    faults.extend(_suggest_key_of_sweep(fault) for fault in unknown_knobs(flat))
    flat = {path: value for path, value in flat.items() if path in KNOBS}
    for path, value in flat.items():
        check_knob(path, value, faults)
    return flat


def _suggest_key_of_sweep(fault: Fault) -> Fault:
    """The fault of an unknown knob; if a key of the sweep has its name, the remedy says where that key belongs."""
    key = fault.path.partition(".")[0]
    if key not in SpaceFile.model_fields:
        return fault
    return replace(fault, remedy=f"`{key}` is a key of the sweep: write it at the top of the file, or --set sweep:{fault.path}=...")


def check_knob(path: str, value: Any, faults: Faults) -> None:
    """Add the faults of one knob's value on its own: type, range, name."""
    if found := _check_type(path, value):
        faults.extend(found)
        return
    try:
        if path in _FINDERS and isinstance(value, str):
            _FINDERS[path](value)
    except ConfigError as error:
        faults.extend(Fault(path, fault.rule, fault.value, fault.remedy) for fault in error.faults)
    except DataError as error:
        faults.add(path, str(error))
    if path == "freezing" and isinstance(value, str) and value.partition(":")[0] not in {n.partition(":")[0] for n in FREEZING_NAMES}:
        faults.add(path, "must be a freezing schedule", value, nearest(value, FREEZING_NAMES))


def _check_type(path: str, value: Any) -> list[Fault]:
    """Faults that the config models find in a value. It is validated alone in its section, and faults of the missing knobs are ignored."""
    section, _, name = path.rpartition(".")
    owner: Any = TrialConfig
    for part in filter(None, section.split(".")):
        owner = owner.model_fields[part].annotation
    try:
        owner.model_validate({name: value})
    except ValidationError as error:
        return [fault.at(section) for fault in faults_of(error) if fault.path.split(".")[0] == name]
    return []
