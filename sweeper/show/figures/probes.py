"""Probes by layer: a panel for each probe and arm, a line for each moment."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from orca_core.probing.catalogue import MOMENTS
from sweeper.analysis.factors import Row
from sweeper.analysis.representatives import is_usable, key_of
from sweeper.show.figures.learning import name_arms
from sweeper.show.figures.lines import draw_curves
from sweeper.show.figures.series import Panel, Panels, Series, count_seeds, mean_over_seeds
from sweeper.show.figures.tables import FigureTables, NotInTablesError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

UNITS = {
    "distance": "distance, relative",
    "cka": "CKA to before",
    "effective-rank": "effective rank",
    "attention-entropy": "entropy (nats)",
    "weight-change": "relative change",
}
"""The probes that have a number for each layer -> label of their axis."""

MAX_ARMS = 3
"""Number of arms that are shown of each task."""

Curves = Mapping[tuple[str, str, str], Mapping[int, float]]
"""Trial, probe and moment -> layer -> value."""


def read(tables: FigureTables) -> Panels:
    """The numbers by layer of the arms with the lowest mean objective.

    Raises:
        NotInTablesError: If no complete arm has any.
    """
    curves: dict[tuple[str, str, str], dict[int, float]] = defaultdict(dict)
    for row in tables.probes:
        if row["probe"] in UNITS:
            curves[row["trial"], row["probe"], row["moment"]][row["layer"]] = row["value"]
    trials = {trial for trial, _, _ in curves}
    if not curves:
        raise NotInTablesError("no trial has probes by layer")
    arms: dict[str, dict[Any, list[Row]]] = defaultdict(lambda: defaultdict(list))
    for row in tables.evidence.arms:
        if is_usable(row, tables.sweep.objective):
            arms[str(row.get("task"))][row.get("arm")].append(row)
    made: list[Panel] = []
    hidden = 0
    for task, of_task in sorted(arms.items()):
        probed = [rows for rows in of_task.values() if any(row["trial"] in trials for row in rows)]
        ranked = sorted(probed, key=lambda rows: (_mean(rows, tables.sweep.objective), str(rows[0].get("arm"))))
        hidden += len(ranked[MAX_ARMS:])
        labels = name_arms([rows[0] for rows in ranked[:MAX_ARMS]], tables)
        for probe, unit in UNITS.items():
            for label, rows in zip(labels, ranked[:MAX_ARMS], strict=True):
                lines = tuple(one for moment in MOMENTS if (one := _line(rows, curves, probe, moment, tables)).points)
                if lines:
                    made.append(Panel(f"{task}: {probe}" + (f", {label}" if len(labels) > 1 else ""), unit, lines))
    if not made:
        raise NotInTablesError("no complete arm has probes by layer")
    which = "of every arm"
    if hidden:
        which = f"of the {MAX_ARMS} best arms of each task by {tables.sweep.objective} ({hidden} more are not shown)"
    caption = (
        f"{tables.name}: probes by layer {which}; layer 0 is what the embedder returns, layer k what block k returns. Mean over"
        f" {count_seeds(made)}."
    )
    return Panels("What happened inside?", "layer", tuple(made), caption)


def draw(data: Panels) -> Figure:
    """One panel for each probe and arm."""
    return draw_curves(data)


def _line(rows: Sequence[Row], curves: Curves, probe: str, moment: str, tables: FigureTables) -> Series:
    """The mean of an arm over its seeds, at the layers that all of them have."""
    by_key = {key_of(row, tables.sweep.pair_by): curves.get((row["trial"], probe, moment), {}) for row in rows}
    known = [curve for curve in by_key.values() if curve]
    layers = sorted(set.intersection(*(set(curve) for curve in known))) if known else []
    return Series(moment, tuple(mean_over_seeds(layer, [curve[layer] for curve in known]) for layer in layers))


def _mean(rows: Sequence[Row], column: str) -> float:
    return sum(float(row[column]) for row in rows) / len(rows)
