"""The figures of a report: those that the sweep can feed, drawn for the screen and for print."""

from __future__ import annotations

import re
import shlex

from sweeper.results.store import results_option
from sweeper.show.report.content import Block, Figure, Listing, Paragraph, Section
from sweeper.show.report.material import Material

ON_DEMAND = ("label-distances", "timeline", "best-so-far")
"""Figures that a page does not have: they are large, and about the run of a sweep rather than its answer."""


def figures_section(material: Material) -> Section:
    """The figures, and of those that are left out the reason."""
    from sweeper.show.figures.kinds import available, render_all

    blocks: list[Block] = []
    missing, left_out = [], []
    for kind, reason in available(material.figure_tables):
        if reason is not None:
            missing.append(f"{kind.title.lower()} ({reason})")
        elif kind.name in ON_DEMAND:
            left_out.append(kind.name)
        else:
            data = kind.read(material.figure_tables)
            drawn = render_all(kind, data, ["svg", "pdf"])
            blocks.append(Figure(kind.name, kind.title, data.caption, lean(drawn["svg"], kind.name), drawn["pdf"]))
    if missing:
        blocks.append(Paragraph(f"Not drawn: {'; '.join(missing)}.", "note"))
    if left_out:
        name, where = shlex.quote(material.name), results_option(material.workspace.uri)
        blocks.append(Listing("Further figures", "\n".join(f"sweeper plot {name} {figure}{where}" for figure in left_out)))
    return Section("figures", "Figures", blocks)


_TAG = re.compile(rb"<[^>]+>")
_DECIMALS = re.compile(rb"(\.\d\d)\d+")


def lean(svg: bytes, name: str) -> bytes:
    """A drawing as the page has it: coordinates to a hundredth of a point, no indentation, short ids. It is half as large.

    Args:
        svg: The drawing. Its ids begin with its name and a digest, and some go on with the digest of a path.
        name: Its name.
    """
    short = _TAG.sub(lambda tag: tag[0] if b"base64" in tag[0] else _DECIMALS.sub(rb"\1", tag[0]), svg)
    prefix = f"drawing-{name}".encode()
    short = re.sub(rb"\b" + name.encode() + rb"-[0-9a-f]{8}\b", prefix, short)
    numbers: dict[bytes, int] = {}
    short = re.sub(prefix + rb"-([a-z][0-9a-f]{10})\b", lambda id: prefix + b"-%d" % numbers.setdefault(id[1], len(numbers)), short)
    return re.sub(rb">\s+<", b"><", short)
