"""All figures by name: what each shows and needs, the function that reads it from tables, the function that draws it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from orca_core.errors import ConfigError, Fault, nearest
from sweeper.show.figures import alignment, effects, freezing, learning, low_data, pretraining, proxies
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
    FigureKind("effects", "Forest of effects", "a factor whose levels pair by seed", effects.read, effects.draw),
    FigureKind("learning", "Learning curves", "complete arms", learning.read, learning.draw),
    FigureKind("proxies", "Does the proxy matter?", "", proxies.read, proxies.draw),
    FigureKind("alignment", "Does a lower distance mean a lower error?", "", alignment.read, alignment.draw),
    FigureKind("freezing", "What has to be trained?", "", freezing.read, freezing.draw),
    FigureKind("pretraining", "Is pretraining needed?", "", pretraining.read, pretraining.draw),
    FigureKind("low-data", "Does alignment help more with fewer data?", "", low_data.read, low_data.draw),
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
