"""Distance against error: a point for each trial, and their rank correlation within seeds, as `sweeper findings` has it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sweeper.analysis.associations import RankAssociation, distance_against_error
from sweeper.analysis.factors import Row, cell, order_of, spell_value
from sweeper.analysis.representatives import is_usable
from sweeper.show.figures.series import say_seeds
from sweeper.show.figures.style import MAX_LINES, add_floor, finish, fit_errors, label_panel, look, number_looks, panels
from sweeper.show.figures.tables import FigureTables, NotInTablesError

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Cloud:
    """The trials of one task.

    Args:
        task: The task.
        unit: Label of the error.
        points: Group -> (distance, error) of its trials.
        association: Rank correlation within seeds; None with fewer than four arms.
        floor: Name and error of the best model without a transformer; None if it is not known.
    """

    task: str
    unit: str
    points: Mapping[str, tuple[tuple[float, float], ...]]
    association: RankAssociation | None
    floor: tuple[str, float] | None


@dataclass(frozen=True)
class Clouds:
    """What the figure shows.

    Args:
        title: Its title.
        x: Label of the distance.
        clouds: A panel for each task.
        caption: What is shown, with the number of seeds.
    """

    title: str
    x: str
    clouds: tuple[Cloud, ...]
    caption: str


def read(tables: FigureTables) -> Clouds:
    """Distances after alignment if the sweep varies its length; else those of its proxies before any training.

    Raises:
        NotInTablesError: If no two trials of a task have different distances.
    """
    evidence = tables.evidence
    rows = [row for row in evidence.arms if is_usable(row, tables.metric)]
    if len({row.get("align_epochs") for row in rows if row.get("align_epochs")}) > 1 and evidence.distances:
        column, distances = "align_epochs", dict(evidence.distances)
        objectives = sorted({str(row["align_objective"]) for row in rows if row.get("align_objective")})
        x, name = f"distance to the proxy after alignment ({', '.join(objectives) or 'by the objective'})", "epochs of alignment"
    else:
        column = "proxy"
        distances = {row["trial"]: row["proxy_distance"] for row in rows if row.get("proxy_distance") is not None}
        x, name = "OTDD to the proxy before training (squared feature units)", "proxies"
    aligned = [row for row in rows if row["trial"] in distances and row.get(column)]
    apart = [other for other in evidence.varied if other != column]
    found = distance_against_error(aligned, distances, metric=tables.metric, pair_by=tables.sweep.pair_by, apart=apart)
    clouds = []
    for task in sorted({str(row.get("task")) for row in aligned}):
        of_task = [row for row in aligned if str(row.get("task")) == task]
        if len({distances[row["trial"]] for row in of_task}) > 1:
            points = _group(of_task, column, distances, tables.metric)
            clouds.append(Cloud(task, tables.unit(task), points, found.get(task), tables.floor(of_task)))
    if not clouds:
        raise NotInTablesError("no task has aligned trials with different distances")
    seeds = len({tuple(row.get(one) for one in tables.sweep.pair_by) for row in aligned})
    caption = (
        f"{tables.name}: {x} against {tables.metric.replace('_', ' ')}, a point for each trial, marked by {name}; {say_seeds([seeds])}."
        " r: Spearman's rank correlation of arms of the same other settings within a seed, averaged over seeds, with its 95\u00a0%"
        " interval; it takes four arms or more, and says nothing about causes."
    )
    return Clouds("Distance against error", x, tuple(clouds), caption)


def _group(rows: list[Row], column: str, distances: Mapping[str, float], metric: str) -> dict[str, tuple[tuple[float, float], ...]]:
    groups: dict[Any, list[tuple[float, float]]] = defaultdict(list)
    for row in rows:
        groups[cell(row, column)].append((distances[row["trial"]], float(row[metric])))
    label = "align.epochs " if column == "align_epochs" else ""
    return {f"{label}{spell_value(level)}": tuple(sorted(groups[level])) for level in sorted(groups, key=order_of)}


def describe(association: RankAssociation | None) -> str:
    """A correlation as it stands above its panel; empty if it is not known."""
    if association is None:
        return ""
    interval = "" if association.low is None else f" [{association.low:+.2f}, {association.high:+.2f}]"
    return f"r {association.correlation:+.2f}{interval}"


def draw(data: Clouds) -> Figure:
    """A panel for each task."""
    figure, axes = panels([""] * len(data.clouds), data.title)
    all_numbers = number_looks([list(cloud.points) for cloud in data.clouds])
    for cloud, one, numbers in zip(data.clouds, axes, all_numbers, strict=True):
        for label, points in cloud.points.items():
            style = look(numbers[label] % MAX_LINES)
            one.plot(*zip(*points, strict=True), linestyle="none", marker=style.marker, color=style.color, alpha=0.7, label=label)
        label_panel(one, cloud.task, data.x, cloud.unit)
        fit_errors(one, [error for points in cloud.points.values() for _, error in points])
        add_floor(one, cloud.floor, also=describe(cloud.association))
    return finish(figure, axes, data.caption)
