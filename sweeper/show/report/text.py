"""A report as markdown or LaTeX: verdicts, the tables for a paper, and the methods in words."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from sweeper.show.report.content import Block, Cell, Paragraph, Report, Section, Table
from sweeper.show.tables import escape_latex

_LEFT_OUT = ("figures", "trials", "machines")
"""Sections that the text forms do not have: drawings, which `sweeper plot` writes, and what is no table of a paper."""


def _sections(report: Report) -> Iterator[tuple[Section, int, list[Block]]]:
    """The sections and their parts, with their depth and the blocks that text forms have: no small print, no listings."""
    for section in report.sections:
        if section.name not in _LEFT_OUT:
            yield section, 0, _kept(section)
            for part in section.parts:
                yield part, 1, _kept(part)


def _kept(section: Section) -> list[Block]:
    return [
        block
        for block in section.blocks
        if (isinstance(block, Paragraph) and block.kind != "note") or (isinstance(block, Table) and block.is_for_papers)
    ]


# ------------------------------------------------------------------------------------------------------------------- markdown


def to_markdown(report: Report) -> str:
    """A report as markdown, in the form that GitHub shows. Ids stand behind their numbers."""
    lines = [f"# {_escape_markdown(report.name)}", ""]
    if report.description:
        lines += [_escape_markdown(report.description), ""]
    lines += [_escape_markdown(report.state), ""]
    for answer in report.answers:
        lines += [f"**{_escape_markdown(answer.question)}** {_escape_markdown(answer.verdict)}".rstrip(), ""]
        lines += [*(f"- {_escape_markdown(detail)}" for detail in answer.details), ""]
    for section, depth, blocks in _sections(report):
        lines += [f"{'#' * (depth + 2)} {_escape_markdown(section.title)}", ""]
        for block in blocks:
            lines += [*(_markdown_table(block) if isinstance(block, Table) else _markdown_paragraph(block)), ""]
    return "\n".join(lines).rstrip() + "\n"


def _markdown_paragraph(block: Block) -> list[str]:
    assert isinstance(block, Paragraph)
    text = _escape_markdown(block.text)
    return [f"**{text}**" if block.kind == "verdict" else text]


def _markdown_table(table: Table) -> list[str]:
    rules = ["---:" if is_numeric else "---" for is_numeric in table.numeric]
    rows = [[_markdown_cell(cell) for cell in row] for row in table.rows]
    lines = [[_escape_markdown(column) for column in table.columns], rules, *rows]
    return [f"{_escape_markdown(table.caption)}:", "", *(f"| {' | '.join(line)} |" for line in lines)]


def _markdown_cell(cell: Cell) -> str:
    return _escape_markdown(cell.text) + (f" `{cell.number}`" if cell.number else "")


def _escape_markdown(text: str) -> str:
    """A text in which nothing is markup, on one line."""
    return re.sub(r"([\\`*_<>\[\]|#~])", r"\\\1", " ".join(text.split()))


# ---------------------------------------------------------------------------------------------------------------------- LaTeX


def to_latex(report: Report) -> str:
    """A report as LaTeX, to be put into a paper: tables with the rules of booktabs. Ids stand in comments above their rows."""
    lines = ["% needs \\usepackage{booktabs}", f"% {_comment(f'sweep {report.name}: {report.state}')}", ""]
    for answer in report.answers:
        lines += [f"\\paragraph{{{_latex(answer.question)}}} {_latex(answer.verdict)}".rstrip()]
        if answer.details:
            lines += [r"\begin{itemize}", *(rf"\item {_latex(detail)}" for detail in answer.details), r"\end{itemize}"]
        lines.append("")
    for section, depth, blocks in _sections(report):
        lines += [f"\\{'sub' * (depth + 1)}section{{{_latex(section.title)}}}", ""]
        for block in blocks:
            lines += [*(_latex_table(report.name, block) if isinstance(block, Table) else _latex_paragraph(block)), ""]
    return "\n".join(lines).rstrip() + "\n"


def _latex_paragraph(block: Block) -> list[str]:
    assert isinstance(block, Paragraph)
    return [f"\\textbf{{{_latex(block.text)}}}" if block.kind == "verdict" else _latex(block.text)]


def _latex_table(sweep: str, table: Table) -> list[str]:
    kinds = "".join("r" if is_numeric else "l" for is_numeric in table.numeric)
    lines = [r"\begin{table}", r"\centering", rf"\caption{{{_latex(table.caption)}}}", rf"\label{{tab:{_label(sweep)}-{table.name}}}"]
    lines += [rf"\begin{{tabular}}{{{kinds}}}", r"\toprule", _latex_row([_latex(column) for column in table.columns]), r"\midrule"]
    for row in table.rows:
        ids = [f"{column}: {cell.number}" for column, cell in zip(table.columns, row, strict=True) if cell.number]
        lines += [f"% {_comment('; '.join(ids))}"] if ids else []
        lines.append(_latex_row([_latex(cell.text) for cell in row]))
    return [*lines, r"\bottomrule", r"\end{tabular}", r"\end{table}"]


def _latex_row(cells: Sequence[str]) -> str:
    return " & ".join(cells) + r" \\"


_SYMBOLS = {
    "−": "$-$",
    "±": r"$\pm$",
    "×": r"$\times$",
    "…": r"\ldots{}",
    "–": "--",
    "“": "``",
    "”": "''",
    "\u202f": r"\,",
}
"""What this package writes, and pdflatex does not take as it is."""


def _latex(text: str) -> str:
    """A text in which nothing is a command, on one line."""
    one_line = " ".join(re.split(r"[ \n\t\r]+", text))  # no other space: thin ones are part of numbers
    return "".join(_SYMBOLS.get(letter) or escape_latex(letter) for letter in one_line)


def _comment(text: str) -> str:
    """A text that stays within its comment."""
    return " ".join(text.split())


def _label(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9.-]", "-", name)
