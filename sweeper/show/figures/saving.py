"""Drawings as bytes: SVG for pages, PDF for papers, PNG for the rest. The same data give the same bytes."""

from __future__ import annotations

import hashlib
import html
import io
import re
from typing import TYPE_CHECKING

from sweeper.show.figures.style import FONTS, INK

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FORMATS = ("svg", "pdf", "png")

PNG_DPI = 160


def to_bytes(figure: Figure, format: str, name: str, title: str, caption: str) -> bytes:
    """A drawing as a file.

    To be called within `style.styled`. Nothing in the file depends on when or where it was written.

    Args:
        figure: The drawing.
        format: One of `FORMATS`.
        name: Name of the figure; ids inside an SVG begin with it.
        title: Its title.
        caption: What it shows, in words.
    """
    by_format: dict[str, dict[str, str | None]] = {
        "svg": {"Date": None, "Creator": None, "Format": None, "Type": None},
        "pdf": {"CreationDate": None, "Title": title, "Subject": caption},
        "png": {"Software": None, "Title": title, "Description": caption},
    }
    metadata = by_format[format]
    file = io.BytesIO()
    if format == "png":
        figure.savefig(file, format=format, dpi=PNG_DPI, metadata=metadata)
    else:
        _print(figure, format, file, metadata)
    return _for_pages(file.getvalue().decode(), name, title, caption).encode() if format == "svg" else file.getvalue()


def _print(figure: Figure, format: str, file: io.BytesIO, metadata: dict[str, str | None]) -> None:
    """Write a drawing that has been laid out, without a background. `savefig` would draw it twice, to lay it out again."""
    from matplotlib.backends.backend_pdf import FigureCanvasPdf
    from matplotlib.backends.backend_svg import FigureCanvasSVG

    grounds = [figure.patch, *(axes.patch for axes in figure.axes)]
    colours, dpi = [ground.get_facecolor() for ground in grounds], figure.dpi
    for ground in grounds:
        ground.set_facecolor("none")
    if format == "svg":
        FigureCanvasSVG(figure).print_svg(file, metadata=metadata)
    else:
        FigureCanvasPdf(figure).print_pdf(file, metadata=metadata)
    for ground, colour in zip(grounds, colours, strict=True):
        ground.set_facecolor(colour)
    figure.dpi = dpi  # both set their own


def _for_pages(text: str, name: str, title: str, caption: str) -> str:
    """An SVG that can stand in a page, beside others, on a light or a dark ground.

    Its ids are its own, its ink is the text colour of the page, its text has fonts to fall back to, and it has a title and a description
    for those who do not see it. As a file of its own it is a white card with dark ink.
    """
    body = text[text.index("<svg") :]
    prefix = f"{name}-{hashlib.sha256(body.encode()).hexdigest()[:8]}"
    known: set[str] = set()
    body = re.sub(r'\s\bid="([^"]+)"', lambda match: _own_id(match[1], prefix, known), body)
    body = re.sub(r"url\(#([^)]+)\)", rf"url(#{prefix}-\1)", body)
    body = re.sub(r'href="#([^"]+)"', rf'href="#{prefix}-\1"', body)
    body = body.replace(INK, "currentColor")
    body = body.replace(f"font-family: '{FONTS[0]}', sans-serif; ", "")  # once, on the root, instead
    body = body.replace("*{stroke-linejoin", f"#{prefix} *{{stroke-linejoin")
    opening, _, rest = body.partition(">")
    fonts = ", ".join(f"'{font}'" for font in FONTS)
    names = f'role="img" aria-labelledby="{prefix}-title" aria-describedby="{prefix}-desc" id="{prefix}"'
    names += f' style="font-family: {fonts}, sans-serif"'
    card = f"<style>#{prefix}:root {{ color: {INK}; background: #ffffff }}</style>"
    said = f'<title id="{prefix}-title">{html.escape(title)}</title>\n <desc id="{prefix}-desc">{html.escape(caption)}</desc>'
    return f"{opening} {names}>\n {said}\n {card}{rest}"


def _own_id(name: str, prefix: str, known: set[str]) -> str:
    """An id attribute with a prefix; nothing if it is known: matplotlib repeats what it defines for several panels."""
    if name in known:
        return ""
    known.add(name)
    return f' id="{prefix}-{name}"'
