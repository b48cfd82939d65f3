"""What explains the gaps of a sweep, as a section of a report."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from sweeper.analysis.causes import Cause
from sweeper.analysis.terms import Term
from sweeper.show.explanation import TITLES
from sweeper.show.report.answers import in_words
from sweeper.show.report.content import Block, Listing, Paragraph, Section, Table, text_cell
from sweeper.show.report.effects import interval_cell, p_cell, percent_cell, percent_interval_cell, signed_cell
from sweeper.show.report.ids import Ids
from sweeper.show.report.material import Material

TITLE = "What explains the gaps"


def explained_sections(material: Material, ids: Ids) -> Iterator[Section]:
    """One section if the sweep has a gap with arms between its ends, else none: the gap itself stands among the effects."""
    explanation = material.explanation
    if explanation is None or all(term.is_gap for term in explanation.terms):
        return
    lead = (
        "A gap is the difference of two arms; its terms add up to it in every seed. Negative values lower the error. A cause is named if "
        "the gap is shown, and its term, in the same direction, with p corrected by Holm over all terms of a question."
    )
    said = {(cause.question, cause.task, cause.subject): cause for cause in explanation.causes}
    groups: dict[tuple[str, str | None, str], list[Term]] = {}
    for term in explanation.terms:
        groups.setdefault((term.question, term.task, term.subject), []).append(term)
    parts: dict[str, list[Block]] = {}
    for number, ((question, task, subject), terms) in enumerate(groups.items(), 1):
        if not all(term.is_gap for term in terms):
            parts.setdefault(question, []).extend(_blocks(number, terms, said.get((question, task, subject)), ids))
    sections = [Section(f"explained-{question}", TITLES[question], blocks) for question, blocks in parts.items()]
    command = Listing("The same in a terminal", f"sweeper explain {material.name}")
    yield Section("explained", TITLE, [Paragraph(lead, "note"), command], sections)


def _blocks(number: int, terms: Sequence[Term], cause: Cause | None, ids: Ids) -> Iterator[Block]:
    gap = next((term for term in terms if term.is_gap), terms[-1])
    if cause is not None:
        yield Paragraph(f"{gap.task or 'over tasks'}: {cause.sentence}", "verdict")
    is_over = gap.task is None
    seeds = "" if is_over else f", {gap.n} seed{'' if gap.n == 1 else 's'}"
    caption = f"{gap.task or 'over tasks'}: change in {in_words(gap.metric)} from {' to '.join(reversed(gap.subject.split(' - ')))}{seeds}"
    columns = ["term", "verdict", "cause", "relative change" if is_over else "change", "95 % interval", "alone", "last", "p"]
    rows = [
        [
            text_cell("the gap" if term.is_gap else term.term.replace("+", " + ")),
            text_cell(term.verdict or "not given: unfair"),
            text_cell("yes" if term.is_cause else ""),
            percent_cell(term.relative, ids.term(term)) if is_over else signed_cell(term.value, ids.term(term)),
            (percent_interval_cell if is_over else interval_cell)(term.low, term.high),
            signed_cell(term.first_in),
            signed_cell(term.last_in),
            p_cell(term.p_adjusted),
        ]
        for term in terms
    ]
    kept = [column for column, _ in enumerate(columns) if column < 5 or any(row[column].text for row in rows)]
    yield Table(f"explained-{number}", caption, [columns[column] for column in kept], [[row[column] for column in kept] for row in rows])
    for note in dict.fromkeys(note for term in terms for note in term.notes):
        yield Paragraph(note, "note")
