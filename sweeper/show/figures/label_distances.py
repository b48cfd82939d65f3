"""Label distances: how far each class of the target is from each class of the proxy, before alignment and after it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from sweeper.analysis.factors import Row
from sweeper.analysis.representatives import is_usable
from sweeper.show.figures.series import say_seeds
from sweeper.show.figures.style import finish, panels
from sweeper.show.figures.tables import FigureTables, NotInTablesError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MAX_PAIRS = 4
"""Number of pairs of target and proxy that are shown."""

Matrix = tuple[tuple[float, ...], ...]


@dataclass(frozen=True)
class Map:
    """A target and a proxy.

    Args:
        task: The target.
        proxy: The proxy.
        first, last: Distances of the target's classes (rows) to the proxy's (columns), as means over seeds.
        first_epoch, last_epoch: The epochs of alignment before whose steps they were measured.
        seeds: Number of trials that are averaged, one for each seed.
    """

    task: str
    proxy: str
    first: Matrix
    last: Matrix
    first_epoch: int
    last_epoch: int
    seeds: int


@dataclass(frozen=True)
class Maps:
    """What the figure shows.

    Args:
        title: Its title.
        maps: The pairs of target and proxy.
        caption: What is shown, with the number of seeds.
    """

    title: str
    maps: tuple[Map, ...]
    caption: str


def read(tables: FigureTables) -> Maps:
    """For each target and proxy, the arm that aligns the longest, and of these the one with the lowest error.

    Raises:
        NotInTablesError: If no trial that is compared has distances of labels.
    """
    known: dict[str, dict[int, Any]] = defaultdict(dict)
    for row in tables.label_distances:
        known[row["trial"]][row["epoch"]] = row["label_distances"]
    arms: dict[tuple[str, str], dict[Any, list[Row]]] = defaultdict(lambda: defaultdict(list))
    for row in tables.evidence.arms:
        if row["trial"] in known and is_usable(row, tables.metric):
            arms[str(row.get("task")), _proxy_of(row)][row.get("arm")].append(row)
    if not arms:
        raise NotInTablesError("no complete trial has distances of labels: only otdd-exact and otdd-gaussian have them")
    maps = []
    for (task, proxy), of_pair in sorted(arms.items()):
        rows = min(of_pair.values(), key=lambda rows: (-(rows[0].get("align_epochs") or 0), _mean_error(rows, tables.metric)))
        if (found := _average(task, proxy, [known[row["trial"]] for row in rows])) is not None:
            maps.append(found)
    if not maps:
        raise NotInTablesError("the trials of no arm have distances of the same labels in the same epochs")
    shown = _spread(maps)
    hidden = f" {len(maps) - len(shown)} more pairs of target and proxy are not shown." if len(shown) < len(maps) else ""
    caption = (
        f"{tables.name}: distances of the target's classes (rows) to the proxy's (columns), in squared feature units, before the first and"
        f" before the last step of alignment; classes by number, on one scale for each pair. Of each pair the arm that aligns the longest."
        f" Mean over {say_seeds(one.seeds for one in shown)}.{hidden}"
    )
    return Maps("Distances of labels", shown, caption)


def _proxy_of(row: Row) -> str:
    return str(row["proxy"]) if row.get("proxy") is not None else "its proxy"


def _mean_error(rows: Sequence[Row], metric: str) -> float:
    return sum(float(row[metric]) for row in rows) / len(rows)


def _average(task: str, proxy: str, by_epoch: Sequence[Mapping[int, Any]]) -> Map | None:
    """The means over trials of the matrices of the first and the last epoch; None if trials differ in epochs or labels."""
    first, last = min(by_epoch[0]), max(by_epoch[0])
    means = []
    for epoch in (first, last):
        matrices = [np.array(of_trial[epoch]) for of_trial in by_epoch if epoch in of_trial]
        if len(matrices) < len(by_epoch) or len({matrix.shape for matrix in matrices}) > 1:
            return None
        means.append(tuple(tuple(map(float, row)) for row in np.mean(matrices, axis=0)))
    return Map(task, proxy, means[0], means[1], first, last, len(by_epoch))


def _spread(maps: Sequence[Map]) -> tuple[Map, ...]:
    """At most `MAX_PAIRS` of some maps: the first of each task, then further ones."""
    firsts = list({one.task: one for one in reversed(maps)}.values())
    others = [one for one in maps if one not in firsts]
    chosen = [*sorted(firsts, key=lambda one: one.task), *others][:MAX_PAIRS]
    return tuple(one for one in maps if one in chosen)


def draw(data: Maps) -> Figure:
    """A row for each pair: before and after, on one scale."""
    groups = [str(number) for number, _ in enumerate(data.maps) for _ in range(2)]
    figure, axes = panels(groups, data.title, columns=2, width=3.6, height=2.1)
    for number, one in enumerate(data.maps):
        both = axes[2 * number : 2 * number + 2]
        low = min(min(map(min, one.first)), min(map(min, one.last)))
        high = max(max(map(max, one.first)), max(map(max, one.last)))
        for place, matrix, epoch in zip(both, (one.first, one.last), (one.first_epoch, one.last_epoch), strict=True):
            image = place.imshow(np.array(matrix), cmap="cividis", vmin=low, vmax=high, aspect="auto", interpolation="none")
            place.set_title(f"{one.task} to {one.proxy}, epoch {epoch}", fontsize=8)
            place.set_xlabel("class of the proxy")
            place.set_ylabel("class of the target")
            for axis, count in ((place.xaxis, len(matrix[0])), (place.yaxis, len(matrix))):
                step = max(1, -(-count // 10))
                axis.set_ticks(list(range(0, count, step)), [str(n) for n in range(0, count, step)])
        bar = figure.colorbar(image, ax=both, label="distance")
        bar.solids.set_rasterized(True)  # type: ignore[union-attr]  # one small picture instead of 256 paths
    return finish(figure, [], data.caption)
