"""Learning curves: the error after each epoch of fine-tuning, of the best arms, with bands over seeds."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from sweeper.analysis.factors import KNOB_OF, Row, cell, spell_value
from sweeper.analysis.representatives import is_usable, key_of
from sweeper.show.figures.lines import draw_curves
from sweeper.show.figures.series import Panel, Panels, Series, count_seeds, mean_over_seeds
from sweeper.show.figures.tables import FigureTables, NotInTablesError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MAX_ARMS = 5
"""Number of arms that are shown of each task."""


def read(tables: FigureTables) -> Panels:
    """The curves of the arms with the lowest mean objective.

    Raises:
        NotInTablesError: If no arm is complete, or epochs do not have the metric.
    """
    curves = tables.curves()
    arms: dict[str, dict[Any, list[Row]]] = defaultdict(lambda: defaultdict(list))
    for row in tables.evidence.arms:
        arms[str(row.get("task"))][row.get("arm")].append(row)
    panels, hidden = [], 0
    for task, of_task in sorted(arms.items()):
        complete = {arm: rows for arm, rows in of_task.items() if _is_complete(rows, tables.sweep.objective)}
        ranked = sorted(complete.values(), key=lambda rows: (_mean(rows, tables.sweep.objective), str(rows[0].get("arm"))))
        shown = ranked[:MAX_ARMS]
        hidden += len(ranked) - len(shown)
        labels = name_arms([rows[0] for rows in shown], tables)
        series = [Series(label, curve_points(rows, curves, tables)) for label, rows in zip(labels, shown, strict=True)]
        known = tuple(one for one in series if one.points)
        if known:
            panels.append(Panel(task, tables.unit(task), known, tables.floor([row for rows in shown for row in rows])))
    if not panels:
        raise NotInTablesError(f"no arm is complete with {tables.metric} of its epochs")
    which = f"the {MAX_ARMS} best arms of each task by {tables.sweep.objective} ({hidden} more are not shown)" if hidden else "every arm"
    caption = (
        f"{tables.name}: {tables.metric.replace('_', ' ')} after each epoch of fine-tuning, of {which}. Mean over {count_seeds(panels)}."
    )
    return Panels("Learning curves", "epoch of fine-tuning", tuple(panels), caption)


def draw(data: Panels) -> Figure:
    """One panel for each task."""
    return draw_curves(data)


def curve_points(rows: Sequence[Row], curves: Mapping[str, Mapping[int, float]], tables: FigureTables) -> tuple[Any, ...]:
    """The mean curve of one arm, at the epochs that all its seeds have."""
    by_key = {key_of(row, tables.sweep.pair_by): curves.get(row["trial"], {}) for row in rows}
    epochs = sorted(set.intersection(*(set(curve) for curve in by_key.values()))) if by_key else []
    return tuple(mean_over_seeds(epoch, [curve[epoch] for curve in by_key.values()]) for epoch in epochs)


def name_arms(rows: Sequence[Row], tables: FigureTables) -> list[str]:
    """What tells some arms from each other: the value of each knob in which they differ, without those that an arm does not read.

    Args:
        rows: A trial of each arm.
        tables: The tables.
    """
    if any(row.get("variant") for row in rows):
        return [str(row.get("variant")) for row in rows]
    columns = [column for column in tables.evidence.varied if column != "task" and len({cell(row, column) for row in rows}) > 1]
    settings = [{KNOB_OF.get(column, column): cell(row, column) for column in columns} for row in rows]
    short = [_spell({knob: value for knob, value in of_arm.items() if value is not None}) for of_arm in settings]
    return short if len(set(short)) == len(short) else [_spell(of_arm) for of_arm in settings]


def _spell(settings: Mapping[str, Any]) -> str:
    shown = {knob: float(f"{value:.4g}") if isinstance(value, float) else value for knob, value in settings.items()}
    return ", ".join(f"{knob} {spell_value(value)}" for knob, value in shown.items()) or "all trials"


def _is_complete(rows: Sequence[Row], objective: str) -> bool:
    return all(is_usable(row, objective) for row in rows)


def _mean(rows: Sequence[Row], column: str) -> float:
    return sum(row[column] for row in rows) / len(rows)
