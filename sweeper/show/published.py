"""What `sweeper published` prints, and published values beside the arms of a sweep."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from orca_core.errors import ConfigError, Fault, nearest
from orca_core.tasks import TASK_CATALOGUE
from sweeper.analysis.arms import RankedArm
from sweeper.analysis.published import CAUTION, COPY, UNCHECKED, VERIFIED, Beside, Published, beside, published_of
from sweeper.show.tables import fill, terminal_width, text_table

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pyarrow as pa

SHORT = {VERIFIED: "yes", COPY: "copy", UNCHECKED: "no"}
"""How sure a value is -> the same in a narrow column."""

LEGEND = f"Sure: yes: {VERIFIED}; copy: {COPY}; no: {UNCHECKED}."

MAX_BESIDE = 8
"""Number of published values that `best --published` shows of a task."""


def published_table(task: str | None) -> pa.Table:
    """The published values of a task, or of all: a line for each.

    Raises:
        ConfigError: If there are none of the task, or there is no such task.
    """
    import pyarrow as pa

    lines = [_line(value) for value in _values(task)]
    return pa.Table.from_pylist(lines)


def _values(task: str | None) -> Sequence[Published]:
    if task is not None and task not in (known := TASK_CATALOGUE.entries()):
        raise ConfigError([Fault("TASK", "must be a task", task, nearest(task, known))])
    return published_of(task)


def _line(value: Published) -> dict[str, Any]:
    return {
        "task": value.task,
        "method": value.method,
        "score": value.score,
        "value": value.value,
        "spread": value.spread,
        "printed": value.printed,
        "direction": value.direction,
        "source": value.source,
        "table": value.table,
        "certainty": value.certainty,
        "apart": value.apart or None,
    }


def describe_published(task: str | None) -> str:
    """The same as text: a table for each task, with what its scores are beside the task's own.

    Raises:
        ConfigError: As `published_table`.
    """
    values = _values(task)
    parts = []
    for name in dict.fromkeys(value.task for value in values):
        spec = TASK_CATALOGUE.entries()[name]
        of_task = sorted((value for value in values if value.task == name), key=lambda value: (value.score, value.value, value.method))
        rows = [[value.method, value.score, _number(value), SHORT[value.certainty], f"{value.source}, {value.table}"] for value in of_task]
        text = f"{name}, whose own score is {spec.score}; lower is better\n"
        text += text_table(["method", "score", "value", "sure", "source"], rows, terminal_width())
        text += "".join(map(fill, beside(name, [spec.score]).notes()))
        parts.append(text)
    return "\n".join(parts) + "\n" + fill(LEGEND) + fill(CAUTION)


def _number(value: Published) -> str:
    return f"{value.value:.4g}" + ("" if value.spread is None else f" +- {value.spread:.2g}")


def beside_arms(task: str, arms: Sequence[RankedArm]) -> Beside:
    """The published values that may stand beside arms of a task: of the score in which all of their rows are measured."""
    return beside(task, [row.get("score") for arm in arms for row in arm.rows])


def describe_beside(task: str, arms: Sequence[RankedArm]) -> str:
    """The published values of a task as a table below its arms, and which are left out and why."""
    found = beside_arms(task, arms)
    if not found.comparable and not found.apart:
        return fill(f"No published values of {task} are known.")
    text = ""
    if found.comparable:
        shown = found.comparable[:MAX_BESIDE]
        rows = [[value.method, _number(value), SHORT[value.certainty], value.source] for value in shown]
        text += f"Published on {task}, by {found.comparable[0].score}; yes: {VERIFIED}; copy: {COPY}\n"
        text += text_table(["method", "test error", "sure", "source"], rows, terminal_width())
        if len(shown) < len(found.comparable):
            text += fill(f"{len(shown)} of {len(found.comparable)} values are shown; `sweeper published {task}` shows all.")
        text += fill(CAUTION)
    return text + "".join(map(fill, found.notes()))


def cells_beside(task: str, arms: Sequence[RankedArm]) -> dict[str, Any]:
    """The lowest published value that may stand beside arms of a task, as cells of a line of `best`."""
    found = beside_arms(task, arms).comparable
    best = found[0] if found else None
    return {
        "published": best.value if best else None,
        "published_method": best.method if best else None,
        "published_source": best.source if best else None,
        "published_certainty": best.certainty if best else None,
    }
