"""What a report says, as plain data: sections of paragraphs, tables, listings and figures. How it looks is up to `html` and `text`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal


@dataclass(frozen=True)
class Cell:
    """One cell of a table.

    Args:
        text: What is shown; empty if there is nothing to show.
        value: What the column is sorted by: a number, or None for its text.
        number: Id by which `sweeper why` explains the number; empty if it has none.
    """

    text: str
    value: float | int | None = None
    number: str = ""


@dataclass(frozen=True)
class Paragraph:
    """A few sentences.

    Args:
        text: The sentences.
        kind: `verdict` for an answer, `warning` for what a reader must not miss, `note` for what is said in small print.
    """

    text: str
    kind: Literal["plain", "verdict", "warning", "note"] = "plain"


@dataclass(frozen=True)
class Table:
    """A table.

    Args:
        name: Its name within the report, made of lower-case letters, digits and hyphens.
        caption: What its rows are, in a sentence.
        columns: The heads of its columns.
        rows: Its cells, a row as long as `columns`.
        is_for_papers: Whether the text forms have it, too.
    """

    name: str
    caption: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    is_for_papers: bool = True

    @cached_property
    def numeric(self) -> list[bool]:
        """For each column whether it has numbers, and nothing but numbers."""
        shown = [[row[column] for row in self.rows if row[column].text] for column in range(len(self.columns))]
        return [bool(cells) and all(cell.value is not None for cell in cells) for cells in shown]


@dataclass(frozen=True)
class Listing:
    """Text that is shown as it is: a command, a file, a traceback.

    Args:
        title: What it is.
        text: The text.
        is_folded: Whether it is long, and shown only when asked for.
    """

    title: str
    text: str
    is_folded: bool = False


@dataclass(frozen=True)
class Figure:
    """A figure, drawn twice.

    Args:
        name: Its name, as in `sweeper plot`.
        title: Its title.
        caption: What it shows, in a sentence or more.
        svg: The drawing for the screen.
        pdf: The same for print.
    """

    name: str
    title: str
    caption: str
    svg: bytes
    pdf: bytes


Block = Paragraph | Table | Listing | Figure


@dataclass(frozen=True)
class Section:
    """A part of a report under a heading.

    Args:
        name: Its name within the report, made of lower-case letters, digits and hyphens.
        title: The heading.
        blocks: What stands in it, in order.
        parts: Parts of it under headings of their own.
    """

    name: str
    title: str
    blocks: Sequence[Block] = ()
    parts: Sequence[Section] = ()

    def all_blocks(self) -> list[Block]:
        """Its blocks and those of its parts, in order."""
        return [*self.blocks, *(block for part in self.parts for block in part.all_blocks())]


@dataclass(frozen=True)
class Answer:
    """A question of the sweep and its answer, for the first screen.

    Args:
        question: The question in words.
        verdict: The answer in a few words.
        details: What each task says, a sentence each.
    """

    question: str
    verdict: str
    details: Sequence[str] = ()


@dataclass(frozen=True)
class Report:
    """All that a report says.

    Args:
        name: Name of the sweep.
        description: What the search space says about itself; may be empty.
        state: How far the sweep is, in a sentence or two.
        is_finished: Whether every planned trial has ended with a result.
        answers: The sweep's question, or the best arm of each task beside the floor.
        sections: Everything else.
    """

    name: str
    description: str
    state: str
    is_finished: bool
    answers: Sequence[Answer]
    sections: Sequence[Section] = field(default_factory=tuple)

    def tables(self) -> list[Table]:
        """All tables, in order."""
        return [block for section in self.sections for block in section.all_blocks() if isinstance(block, Table)]


def text_cell(value: Any) -> Cell:
    """A cell with a text; empty for None."""
    return Cell("" if value is None else str(value))


def count_cell(value: int | None) -> Cell:
    """A cell with a whole number."""
    return Cell("", None) if value is None else Cell(f"{value:,}".replace(",", "\u202f"), value)  # a narrow space


def number_cell(value: float | None, number: str = "", digits: int = 4) -> Cell:
    """A cell with a number of so many significant digits."""
    return Cell("", None) if value is None else Cell(f"{value:.{digits}g}", value, number)
