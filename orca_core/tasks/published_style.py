"""The recipe of a full-size body on a task that the reference has no configuration for.

The recipe `laptop` suits the mini bodies: at its learning rate a pretrained transformer forgets what it has learned. So a task without a
published recipe has a second one, `published-style`: the published recipe of the nearest kind of task, with three changes. Gradients are
not accumulated over batches, as small data sets would be left with a step or two an epoch. A series becomes at most 16 tokens, as in the
published recipes of short inputs: with a token for each point, MiniLM learned nothing from a hundred series (docs/bodies.md). And the
proxy is the default one of the body's modality, which needs no download.

Which recipe provides the defaults depends on the body's name alone, never on `body.weights`, so that pretrained and random weights are
compared under the same settings.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from orca_core.tasks.spec import TaskSpec

PUBLISHED_STYLE = "published-style"

SERIES_TOKENS = 16
"""Of `openml/11`, `openml/188` and others."""

TABLE_PREFIXES = ("csv:", "openml/")
"""Starts of the names of tables, which have no order along which a series could be read."""

NEAREST: Mapping[tuple[int, str], str] = {
    (1, "table"): "openml/1510",
    (1, "classification"): "nb360/satellite",
    (1, "multilabel"): "nb360/deepsea",
    (1, "regression"): "drug/ctrp",
    (1, "dense"): "pdebench/advection",
    (2, "classification"): "domainnet/real",
    (2, "multilabel"): "nb360/fsd50k",
    (2, "regression"): "domainnet/real",
    (2, "dense"): "pdebench/darcy",
}
"""(dims, kind) of a task -> the task with a published recipe that is nearest to it."""


def nearest_published(spec: TaskSpec) -> str:
    """Name of the task whose published recipe is taken for a task that has none of its own."""
    is_table = spec.kind == "classification" and spec.name.startswith(TABLE_PREFIXES)
    return NEAREST[spec.dims, "table" if is_table else spec.kind]


def recipes_of(spec: TaskSpec) -> Mapping[str, Mapping[str, Any]]:
    """The recipes of a task by name: its own, and `published-style` if none of these is `published`."""
    if "published" in spec.recipes:
        return spec.recipes
    return {**spec.recipes, PUBLISHED_STYLE: _published_style(spec)}


def _published_style(spec: TaskSpec) -> Mapping[str, Any]:
    style = _style_after(nearest_published(spec))
    return {**style, "embedder": {"target_seq_len": SERIES_TOKENS}} if (spec.dims, spec.kind) == (1, "classification") else style


@lru_cache  # every config of a plan asks
def _style_after(name: str) -> Mapping[str, Any]:
    """The recipe in the style of one of `NEAREST`."""
    from orca_core.tasks import find_task  # the table of tasks is not complete while this module is imported

    published = find_task(name).recipes["published"]
    sections = {section: knobs for section, knobs in published.items() if section != "proxy"}
    return {**sections, "finetune": {**published["finetune"], "accum": 1}}
