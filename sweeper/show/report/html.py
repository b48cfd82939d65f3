"""A report as one HTML file that needs nothing else: style, script and figures stand in it, and its policy forbids all requests."""

from __future__ import annotations

import base64
import hashlib
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from sweeper.show.report.content import Listing, Paragraph, Report, Table

if TYPE_CHECKING:
    from jinja2 import Template

_HERE = Path(__file__).parent


@dataclass(frozen=True)
class Live:
    """What makes a page one that renews itself.

    Args:
        version: What the tables are known by: the page takes over a newer one of another version.
        status: What is said of the running sweep.
    """

    version: str
    status: str


def to_html(report: Report, live: Live | None = None) -> str:
    """A report as HTML. The same report gives the same bytes.

    Everything that comes from the tables is escaped; should anything get through, the page's policy runs no script but its own, which it
    knows by its digest.

    Args:
        report: The report.
        live: What a page has that renews itself; None for one that does not.
    """
    script = _read("page.js") if live is None else _read("page.js") + _read("live.js")
    policy = _policy(script, is_live=live is not None)
    return _template().render(report=report, live=live, style=_read("page.css"), script=script, policy=policy)


def _policy(script: str, is_live: bool) -> str:
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    rules = ["default-src 'none'", "style-src 'unsafe-inline'", "img-src data:", f"script-src 'sha256-{digest}'"]
    rules += ["base-uri 'none'", "form-action 'none'", *(["connect-src 'self'"] if is_live else [])]
    return "; ".join(rules)


@lru_cache
def _read(name: str) -> str:
    return (_HERE / name).read_text(encoding="utf-8")


@lru_cache(maxsize=1)
def _template() -> Template:
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_HERE), autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    environment.filters["data_url"] = lambda pdf: f"data:application/pdf;base64,{base64.b64encode(pdf).decode()}"
    for kind in (Paragraph, Table, Listing):
        environment.tests[kind.__name__.lower()] = lambda block, kind=kind: isinstance(block, kind)
    return environment.get_template("page.html")
