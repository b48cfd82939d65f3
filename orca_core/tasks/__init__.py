"""Target tasks: what a body pretrained on text or images is adapted to.

`TASKS` holds every built-in task; `TASK_CATALOGUE` also those whose name carries an argument, `npz:PATH`, and those of other packages,
through the entry-point group `orca_core.tasks`. An entry is a `TaskSpec`; it names its loader as `"module:function"`, so that names can be
checked without importing numpy or torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from orca_core.catalogue import Catalogue, NameForm
from orca_core.plugins import check_reference
from orca_core.tasks.builtin import BUILTIN_TASKS
from orca_core.tasks.drug import DRUG_TASKS
from orca_core.tasks.nb360 import NB360_TASKS
from orca_core.tasks.openml import OPENML_TASKS, openml_task, prefer_own_file
from orca_core.tasks.own.arrays import npz_task
from orca_core.tasks.own.hub_data import hfds_task, spell_options
from orca_core.tasks.own.images import domainnet_task, images_task
from orca_core.tasks.own.suggesting import suggest_form
from orca_core.tasks.own.tables import csv_task, spell_address
from orca_core.tasks.pdebench import PDEBENCH_TASKS
from orca_core.tasks.spec import Split, TaskData, TaskSpec
from orca_core.tasks.ucr import ucr_task

__all__ = ["TASKS", "TASK_CATALOGUE", "Split", "TaskData", "TaskSpec", "find_task", "spell_task"]

TASKS: dict[str, TaskSpec] = {spec.name: spec for spec in (*BUILTIN_TASKS, *NB360_TASKS, *OPENML_TASKS, *PDEBENCH_TASKS, *DRUG_TASKS)}

_CLASSES = {"kind": "classification", "score": "1-accuracy"}

_FORMS = (
    NameForm(
        "openml/ID",
        r"openml/(.*)",
        openml_task,
        "any other table of OpenML",
        {"dims": "1", "kind": "classification", "score": "1-auroc"},
    ),
    NameForm("ucr/NAME", r"ucr/(.*)", ucr_task, "a data set of the UCR and UEA archives of series", {"dims": "1", **_CLASSES}),
    NameForm("domainnet/DOMAIN", r"domainnet/(.*)", domainnet_task, "pictures of a domain of DomainNet", {"dims": "2", **_CLASSES}),
    NameForm(
        "npz:PATH",
        r"npz:(.*)",
        npz_task,
        "your own arrays: keys x_train, y_train, x_test, y_test; see docs/tasks.md",
        {"dims": "1, 2", "kind": "either"},
    ),
    NameForm(
        "csv:PATH",
        r"csv:(.*)",
        csv_task,
        "your own table with a header; csv:PATH?target=COLUMN, else label, target or the last column",
        {"dims": "1", "kind": "either"},
    ),
    NameForm("images:PATH", r"images:(.*)", images_task, "your own pictures, a folder for each class", {"dims": "2", **_CLASSES}),
    NameForm(
        "hfds:NAME",
        r"hfds:(.*)",
        hfds_task,
        "a data set of Hugging Face `datasets`: a folder or a hub name; ?inputs=COLUMN&label=COLUMN, see docs/tasks.md",
        {"dims": "1, 2", "kind": "either"},
    ),
)


def _check(spec: TaskSpec, known: Mapping[str, TaskSpec]) -> None:
    check_reference("loader", spec.loader)
    if spec.dims not in (1, 2):
        raise TypeError(f"dims must be 1 for series or 2 for images and fields, not {spec.dims!r}")
    if not spec.recipes:
        raise TypeError('recipes must have at least one, "laptop"')


TASK_CATALOGUE: Catalogue[TaskSpec] = Catalogue(
    kind="task",
    knob="task",
    group="orca_core.tasks",
    spec_class=TaskSpec,
    builtin=TASKS.values(),
    forms=_FORMS,
    check=_check,
    suggest=partial(suggest_form, forms=("csv", "npz", "images")),
)


def find_task(name: str) -> TaskSpec:
    """The task of that name.

    Raises:
        ConfigError: If there is none; the fault offers the nearest known name.
        DataError: If the name is a file (`npz:PATH`) that is missing or not of the documented form.
    """
    return prefer_own_file(TASK_CATALOGUE.find(name))


def spell_task(name: str) -> str:
    """The name of a task in the one spelling that stands for all with the same options: `csv:t.csv?kind=classes&target=a` is in order.

    Names that are of no task, or have wrong options, stay as they are.
    """
    if name.startswith("hfds:"):
        return spell_options(name)
    return f"csv:{spell_address(name.removeprefix('csv:'))}" if name.startswith("csv:") else name
