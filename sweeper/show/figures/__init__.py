"""Figures of a sweep: each is read from tables into a small data structure, and drawn from that.

tables = read_tables(Workspace("results"), "quickstart")
for kind, reason in available(tables):
    if reason is None:
        Path(f"{kind.name}.svg").write_bytes(render(kind, kind.read(tables), "svg"))
"""

from sweeper.show.figures.kinds import FIGURES, FigureData, FigureKind, available, find_figure, render, render_all
from sweeper.show.figures.tables import FigureTables, NotInTablesError, read_tables

__all__ = [
    "FIGURES",
    "FigureData",
    "FigureKind",
    "FigureTables",
    "NotInTablesError",
    "available",
    "find_figure",
    "read_tables",
    "render",
    "render_all",
]
