"""The figures of a report: all that the sweep can feed, drawn for the screen and for print."""

from __future__ import annotations

from sweeper.show.report.content import Block, Figure, Paragraph, Section
from sweeper.show.report.material import Material


def figures_section(material: Material) -> Section:
    """The figures, and of those that are left out the reason."""
    from sweeper.show.figures import available, read_tables, render

    tables = read_tables(material.workspace, material.name)
    blocks: list[Block] = []
    missing = []
    for kind, reason in available(tables):
        if reason is None:
            data = kind.read(tables)
            blocks.append(Figure(kind.name, kind.title, data.caption, render(kind, data, "svg"), render(kind, data, "pdf")))
        else:
            missing.append(f"{kind.title.lower()} ({reason})")
    if missing:
        blocks.append(Paragraph(f"Not drawn: {'; '.join(missing)}.", "note"))
    return Section("figures", "Figures", blocks)
