"""All figures by name: what each shows and needs, the function that reads it from tables, the function that draws it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from orca_core.errors import ConfigError, Fault, nearest
from sweeper.show.figures import (
    alignment,
    best_so_far,
    distance_error,
    effects,
    explain,
    freezing,
    importance,
    interaction,
    label_distances,
    learning,
    low_data,
    pareto,
    pretraining,
    probes,
    proxies,
    published,
    ranks,
    timeline,
)
from sweeper.show.figures.saving import FORMATS, to_bytes
from sweeper.show.figures.style import styled
from sweeper.show.figures.tables import FigureTables, NotInTablesError

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class FigureData(Protocol):
    """What a figure shows, as numbers."""

    @property
    def title(self) -> str:
        """Title of the figure."""

    @property
    def caption(self) -> str:
        """What is shown in words, with the number of seeds and what bands are: a text alternative."""


@dataclass(frozen=True)
class FigureKind:
    """A figure.

    Args:
        name: Its name on the command line.
        title: What it shows, in one line.
        needs: What a sweep must have for it.
        read_from: Reads its data from tables; raises `NotInTablesError` if they do not have what it shows.
        draw: Draws its data, within `style.styled`.
    """

    name: str
    title: str
    needs: str
    read_from: Callable[[FigureTables], Any]
    draw: Callable[[Any], Figure]

    def read(self, tables: FigureTables) -> Any:
        """What the figure shows of a sweep, a `FigureData`; read once for the same tables.

        Raises:
            NotInTablesError: If the tables do not have it.
        """
        if self.name not in tables.read:
            tables.read[self.name] = self.read_from(tables)
        return tables.read[self.name]


FIGURES = (
    FigureKind(
        "effects",
        "Forest of effects: each level against the baseline, with interval and verdict",
        "a `question`, or a knob with two levels, on the same seeds",
        effects.read,
        effects.draw,
    ),
    FigureKind(
        "importance",
        "Share of the variance by factor and pair of factors",
        "knobs with several levels, and more complete trials than levels",
        importance.read,
        importance.draw,
    ),
    FigureKind(
        "explain",
        "What explains a gap: pretrained against random by parts of the body, aligned against naive link by link",
        "combinations of `body.keep`, or the controls of `align.objective` beside `align.epochs: 0`",
        explain.read,
        explain.draw,
    ),
    FigureKind(
        "interaction",
        "Error at the levels of one factor, a line for each level of another",
        "two knobs whose levels are crossed",
        interaction.read,
        interaction.draw,
    ),
    FigureKind(
        "ranks",
        "Critical-difference diagram: mean ranks of levels over tasks, as description",
        "two tasks or more with the same levels of a knob",
        ranks.read,
        ranks.draw,
    ),
    FigureKind(
        "proxies",
        "Error by epoch of fine-tuning, a line for each proxy and one without alignment",
        "two proxies, or one and `align.epochs: 0`; rows of epochs",
        proxies.read,
        proxies.draw,
    ),
    FigureKind(
        "alignment",
        "Distance to the proxy, and error, against the epochs of alignment",
        "two lengths of alignment above 0",
        alignment.read,
        alignment.draw,
    ),
    FigureKind(
        "freezing",
        "Error by what is frozen, with and without an aligned embedder",
        "two values of `freezing`",
        freezing.read,
        freezing.draw,
    ),
    FigureKind(
        "pretraining",
        "Error against the amount of pretraining data, the random body at 0",
        "two values of `pretrain.fraction`, or of `body`",
        pretraining.read,
        pretraining.draw,
    ),
    FigureKind(
        "low-data",
        "Error against the number of training samples",
        "two values of `train_samples`",
        low_data.read,
        low_data.draw,
    ),
    FigureKind(
        "learning",
        "Error by epoch of fine-tuning, of the best arms",
        "a complete arm; rows of epochs",
        learning.read,
        learning.draw,
    ),
    FigureKind(
        "distance-error",
        "Distance to the proxy against error, a point for each trial",
        "aligned trials whose distances differ",
        distance_error.read,
        distance_error.draw,
    ),
    FigureKind(
        "best-so-far",
        "Best candidate by number of finished trials",
        "a complete candidate",
        best_so_far.read,
        best_so_far.draw,
    ),
    FigureKind(
        "pareto",
        "Error against computing time, and against trained parameters",
        "two complete arms that differ in one of them",
        pareto.read,
        pareto.draw,
    ),
    FigureKind(
        "published",
        "The best arms beside published values of the same task and score",
        "a complete arm on a task that `sweeper published` knows",
        published.read,
        published.draw,
    ),
    FigureKind(
        "label-distances",
        "Heat map of distances between the classes of target and proxy",
        "`align.objective: otdd-exact` or `otdd-gaussian`",
        label_distances.read,
        label_distances.draw,
    ),
    FigureKind(
        "probes",
        "Probes by layer: distance, similarity, rank, attention, change; a line for each moment",
        "`probes` that have a number for each layer",
        probes.read,
        probes.draw,
    ),
    FigureKind(
        "timeline",
        "Slots, stages, reuse and losses while the sweep ran",
        "an attempt that has ended",
        timeline.read,
        timeline.draw,
    ),
)
"""The figures, in the order in which they are listed."""


def find_figure(name: str) -> FigureKind:
    """The figure of a name.

    Raises:
        ConfigError: If there is none.
    """
    for kind in FIGURES:
        if kind.name == name:
            return kind
    raise ConfigError([Fault("FIGURE", "must be a figure", name, nearest(name, [kind.name for kind in FIGURES]))])


def available(tables: FigureTables) -> list[tuple[FigureKind, str | None]]:
    """Every figure, with None if the tables can feed it, else with the reason why they cannot."""
    found: list[tuple[FigureKind, str | None]] = []
    for kind in FIGURES:
        try:
            kind.read(tables)
        except NotInTablesError as error:
            found.append((kind, str(error)))
        else:
            found.append((kind, None))
    return found


def render(kind: FigureKind, data: FigureData, format: str) -> bytes:
    """A figure as a file; see `render_all`, which takes less time for several formats."""
    return render_all(kind, data, [format])[format]


def render_all(kind: FigureKind, data: FigureData, formats: Sequence[str] = FORMATS) -> dict[str, bytes]:
    """A figure as files, by format: the same data give the same bytes, whichever formats are asked for.

    An SVG has no XML declaration, so that it can stand in a page; its ids do not collide with those of other figures, and its ink is the
    text colour of the page.

    Args:
        kind: The figure.
        data: What it shows.
        formats: Of `svg`, `pdf` and `png`.

    Raises:
        ConfigError: If a format is unknown.
    """
    if unknown := [format for format in formats if format not in FORMATS]:
        raise ConfigError(Fault("format", f"must be one of {', '.join(FORMATS)}", format) for format in unknown)
    with styled(**{"svg.hashsalt": kind.name}):
        figure = kind.draw(data)
        figure.draw_without_rendering()  # lays it out, once for all formats
        figure.set_layout_engine("none")
        return {format: to_bytes(figure, format, kind.name, data.title, data.caption) for format in formats}
