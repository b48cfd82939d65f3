"""Figure 5 of the ablation paper: the error against the amount of pretraining data, with the random body at 0.

Reference:
    García-de-Herreros et al. 2024, figure 5.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from sweeper.analysis.factors import Factor, Row
from sweeper.show.figures.levels import Level, find_grid, make_series, name_alignment
from sweeper.show.figures.lines import draw_along
from sweeper.show.figures.series import Panel, Panels, count_seeds
from sweeper.show.figures.tables import FigureTables, NotInTablesError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_UNITS = {"K": 10**3, "M": 10**6, "B": 10**9}


def read(tables: FigureTables) -> Panels:
    """The error for each amount of pretraining data, apart for each length of alignment.

    The amount is the share of a mini body's data; or the tokens that checkpoints have seen, where that is known of all, as of Pythia's; or
    what their names say (`nyu-mll/roberta-base-10M-1`: 10M tokens), the name itself if it says nothing. Checkpoints of the same amount are
    averaged within a seed.

    Raises:
        NotInTablesError: If the sweep has not two amounts.
    """
    is_share = len({row.get("pretrain_fraction") for row in tables.evidence.arms}) > 1
    name = "pretrain.fraction" if is_share else "body"
    grid = find_grid(tables, "align_epochs", name, lambda row: row.get("body_weights") is not None or is_share)
    made = []
    for task, lines in sorted(grid.by_task.items()):
        merged = {epochs: merge_levels(levels, grid.factor) for epochs, levels in lines.items()}
        series = tuple(make_series(name_alignment(epochs), levels, tables.metric) for epochs, levels in merged.items())
        rows = [row for levels in lines.values() for level in levels for row in level.all_rows()]
        if max(len(one.points) for one in series) > 1:
            made.append(Panel(task, tables.unit(task), series, tables.floor(rows)))
    if not made:
        raise NotInTablesError("no task has two amounts of pretraining data, or one and a random body")
    x = "share of the pretraining data (0: random weights)" if is_share else "pretraining data in tokens (0: random weights)"
    metric = tables.metric.replace("_", " ")
    caption = f"{tables.name}: {metric} by the amount of pretraining data of the body, 0 being a body with random weights."
    return Panels("Is pretraining needed?", x, tuple(made), f"{caption} Mean over {count_seeds(made)}.{grid.note()}")


def draw(data: Panels) -> Figure:
    """Lines along the amounts."""
    return draw_along(data)


def merge_levels(levels: Sequence[Level], factor: Factor) -> list[Level]:
    """The levels of a factor by amount, those of the same amount as one: a seed counts if all of them have it."""
    tokens = [tokens_of(level) for level in levels]
    is_known = factor.name != "pretrain.fraction" and None not in tokens
    by_amount: dict[Any, list[Level]] = defaultdict(list)
    for level, known in zip(levels, tokens, strict=True):
        by_amount[known if is_known else amount_of(factor, level.level)].append(level)
    found = []
    for amount, of_amount in by_amount.items():
        keys = set.intersection(*(set(level.rows) for level in of_amount))
        rows: Mapping[Any, Sequence[Row]] = {key: [row for level in of_amount for row in level.rows[key]] for key in sorted(keys)}
        found.append(Level(amount, rows))
    return sorted(found, key=lambda level: (isinstance(level.level, str), level.level))


def tokens_of(level: Level) -> int | None:
    """The tokens that the pretraining of a level has seen; None if its rows do not say, or differ."""
    found = {row.get("pretrain_tokens") for row in level.all_rows()}
    return next(iter(found)) if len(found) == 1 else None


def amount_of(factor: Factor, level: Any) -> int | float | str:
    """The amount that a level stands for: 0 for random weights, a share, a number of tokens, or the name of a body."""
    if factor.name == "pretrain.fraction":
        return 0 if level is None else float(level)
    data = factor.to_data(level)
    data = data if isinstance(data, dict) else {factor.columns[0].removeprefix("body_"): data}
    if data.get("weights") == "random":
        return 0
    name = str(data.get("name") or data.get("weights"))
    said = re.search(r"-(\d+)([KMB])(?:-\d+)?$", name)
    return int(said[1]) * _UNITS[said[2]] if said else name.rpartition("/")[2].removeprefix("hf:").removeprefix("timm:")
