"""Target tasks: what a body pretrained on text or images is adapted to.

`TASKS` holds every task that has a name of its own; `TASK_FAMILIES` those whose name carries an argument, `npz:PATH`. An entry
is a `TaskSpec`; it names its loader as `"module:function"`, so that names can be checked without importing numpy or torch.
Third parties add tasks through the entry-point group `orca_core.tasks`; each entry point is a `TaskSpec`.
"""

from __future__ import annotations

from collections.abc import Callable

from orca_core.errors import ConfigError, Fault, nearest
from orca_core.plugins import broken_entry, third_party
from orca_core.tasks.builtin import BUILTIN_TASKS
from orca_core.tasks.drug import DRUG_TASKS
from orca_core.tasks.nb360 import NB360_TASKS
from orca_core.tasks.openml import OPENML_TASKS, openml_task
from orca_core.tasks.own.arrays import npz_task
from orca_core.tasks.own.images import domainnet_task, images_task
from orca_core.tasks.own.tables import csv_task
from orca_core.tasks.pdebench import PDEBENCH_TASKS
from orca_core.tasks.spec import Split, TaskData, TaskSpec
from orca_core.tasks.ucr import ucr_task

__all__ = ["TASKS", "TASK_FAMILIES", "Split", "TaskData", "TaskSpec", "find_task"]

TASKS: dict[str, TaskSpec] = {spec.name: spec for spec in (*BUILTIN_TASKS, *NB360_TASKS, *OPENML_TASKS, *PDEBENCH_TASKS, *DRUG_TASKS)}

TASK_FAMILIES: dict[str, Callable[[str], TaskSpec]] = {
    "npz:": npz_task,
    "csv:": csv_task,
    "images:": images_task,
    "openml/": openml_task,
    "ucr/": ucr_task,
    "domainnet/": domainnet_task,
}
"""Prefix of a name -> the function that makes a spec of what follows it."""

FAMILY_NAMES = ("npz:PATH", "csv:PATH", "images:PATH", "openml/ID", "ucr/NAME", "domainnet/DOMAIN")
"""How names of the families are written."""


def find_task(name: str) -> TaskSpec:
    """The task of that name.

    Raises:
        ConfigError: If there is none; the fault offers the nearest known name.
        DataError: If the name is a file (`npz:PATH`) that is missing or not of the documented form.
    """
    for prefix, make in TASK_FAMILIES.items():
        if name.startswith(prefix) and name not in TASKS:
            return make(name.removeprefix(prefix))
    known = TASKS | third_party("orca_core.tasks")
    if name not in known and (wrong := broken_entry("orca_core.tasks", name)):
        raise ConfigError([Fault("task", wrong, Fault.ABSENT)])
    if name not in known:
        raise ConfigError([Fault("task", "must be the name of a task", name, nearest(name, [*known, *FAMILY_NAMES]))])
    return known[name]
