"""Makes a report from the tables, and writes it in one of its forms."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from orca_core.errors import ConfigError, Fault, nearest
from sweeper.results.workspace import Workspace
from sweeper.show.report.answers import answers, describe_state, is_finished
from sweeper.show.report.arms import arms_section
from sweeper.show.report.content import Report, Section
from sweeper.show.report.cost import cost_section, machines_section
from sweeper.show.report.effects import effects_section
from sweeper.show.report.explained import explained_sections
from sweeper.show.report.figures import figures_section
from sweeper.show.report.html import to_html
from sweeper.show.report.ids import Ids
from sweeper.show.report.material import Material
from sweeper.show.report.methods import methods_section
from sweeper.show.report.text import to_latex, to_markdown
from sweeper.show.report.trials import trials_section
from sweeper.show.report.trouble import failures_section, fairness_section

FORMATS: Mapping[str, Callable[[Report], str]] = {"html": to_html, "markdown": to_markdown, "latex": to_latex}
"""The forms of a report."""


def report_text(workspace: Workspace, name: str, format: str = "html") -> str:
    """A report in one of its forms. The same tables give the same text.

    Args:
        workspace: Where the results are.
        name: Name of the sweep.
        format: `html`: a page that needs nothing else; `markdown` or `latex`: verdicts, tables and methods.

    Raises:
        ConfigError: If the sweep or the format is unknown.
        StoreError: If a file of the results is damaged.
    """
    if format not in FORMATS:
        raise ConfigError([Fault("--format", "must be html, markdown or latex", format, nearest(format, FORMATS))])
    return FORMATS[format](make_report(workspace, name, with_figures=format == "html"))


def make_report(workspace: Workspace, name: str, *, with_figures: bool = True) -> Report:
    """What the tables say about a sweep. The same tables give the same report.

    Args:
        workspace: Where the results are.
        name: Name of the sweep.
        with_figures: Whether figures are drawn, which takes longer than the rest.

    Raises:
        ConfigError: If the sweep is unknown.
        StoreError: If a file of the results is damaged.
    """
    material = Material(workspace, name)
    ids = Ids(material.numbers())
    sections: list[Section] = [effects_section(material, ids), *explained_sections(material, ids), arms_section(material, ids)]
    sections += [figures_section(material)] if with_figures else []
    sections += [failures_section(material), fairness_section(material), cost_section(material), machines_section(material)]
    sections += [methods_section(material), trials_section(material)]
    return Report(
        name=name,
        description=str(material.space.get("description") or ""),
        state=describe_state(material),
        is_finished=is_finished(material),
        answers=tuple(answers(material)),
        sections=tuple(sections),
    )
