"""Points and lines: mean and interval of what some seeds reached."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from sweeper.analysis.factors import NULL, spell_value
from sweeper.analysis.paired import as_number, paired_t

BAND = "95\u00a0% interval of the mean over seeds (Student's t)"
"""What bands and bars of an error are, everywhere."""

MANY_SEEDS = 4
"""Number of seeds from which an interval over seeds is no wider than what there is to see."""


@dataclass(frozen=True)
class Point:
    """A mean over seeds.

    Args:
        x: Where it stands: an epoch, a number, or a level.
        mean: The mean.
        low, high: Its 95 % interval; None for one seed.
        n: Number of seeds.
    """

    x: Any
    mean: float
    low: float | None
    high: float | None
    n: int


@dataclass(frozen=True)
class Series:
    """A line.

    Args:
        label: What it is.
        points: Its points, from left to right.
    """

    label: str
    points: tuple[Point, ...]


@dataclass(frozen=True)
class Panel:
    """Lines on one task.

    Args:
        task: The task.
        unit: Label of the error.
        series: The lines.
        floor: Name and error of the best model without a transformer; None if it is not known, or differs along the panel.
        floors: (Level, error) of the best such model, where it differs from level to level.
        group: `2D`, `1D` or empty; panels of a group are side by side.
    """

    task: str
    unit: str
    series: tuple[Series, ...]
    floor: tuple[str, float] | None = None
    floors: tuple[tuple[Any, float], ...] = ()
    group: str = ""

    @property
    def title(self) -> str:
        """Its title."""
        return f"{self.task} ({self.group})" if self.group else self.task


@dataclass(frozen=True)
class Panels:
    """What a figure of lines shows.

    Args:
        title: Its title.
        x: Label of the axis that points stand along.
        panels: A panel for each task.
        caption: What is shown, with the number of seeds and what bands are.
        none: How the level null is written.
        joined: Whether the points of a line are joined.
    """

    title: str
    x: str
    panels: tuple[Panel, ...]
    caption: str
    none: str = NULL
    joined: bool = True


def mean_over_seeds(x: Any, values: Sequence[float]) -> Point:
    """The point of some seeds, one value each."""
    t = paired_t(values)
    return Point(x, float(t.mean), as_number(t.low), as_number(t.high), int(t.n))


def spell_level(level: Any, none: str = NULL) -> str:
    """A level as it is written in figures."""
    if isinstance(level, int) and not isinstance(level, bool) and level >= 10**6:
        return f"{level / 10**9:g}B" if level >= 10**9 else f"{level / 10**6:g}M"
    return none if level is None else spell_value(level)


def count_seeds(panels: Sequence[Panel]) -> str:
    """How many seeds the points of panels have, and what bands are."""
    return count_seeds_of([point for panel in panels for series in panel.series for point in series.points])


def say_seeds(counts: Iterable[int]) -> str:
    """Numbers of seeds in words: `1 seed`, `3 to 5 seeds`."""
    known = sorted(set(counts))
    if len(known) > 1:
        return f"{known[0]} to {known[-1]} seeds"
    return f"{known[0]} seed{'' if known[0] == 1 else 's'}" if known else "no seeds"


def count_seeds_of(points: Sequence[Point]) -> str:
    """How many seeds points have, and what bands are: `5 seeds; bands and bars: ...`."""
    seeds = sorted({point.n for point in points})
    text = say_seeds(seeds)
    if seeds[-1:] in ([], [1]):
        return f"{text}, so there are no intervals"
    return f"{text}; bands and bars: {BAND}{', cut at the frame where they are wide' if seeds[0] < MANY_SEEDS else ''}"
