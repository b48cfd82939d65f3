"""Which cause of a gap is named, by a rule whose error rate is controlled.

A term is named as a cause of a gap if three things hold:

1. The gap is shown: Student's t over seeds, two-sided, p corrected by Holm over all gaps of the question.
2. The term is shown: the same test of its values, p corrected by Holm over all terms of the question, on all tasks together.
3. It has the sign of the gap.

A term that contributes nothing is named only if the second test is wrong about it, and Holm's method keeps the probability that it is wrong
about any such term of a question below alpha, whichever of the others contribute and however much. The first and third condition can only
take names away. If the gap is shown and no term is, nothing is named: it cannot be told.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from sweeper.analysis.paired import HELPS, HURTS, NO_DIFFERENCE
from sweeper.analysis.terms import ALIGNMENT_QUESTION, PARTS_QUESTION, STATISTICS_QUESTION, Term

NAMED, UNTOLD, NO_GAP, OPEN, UNFAIR = "named", "cannot be told", "no gap", "undecided", "unfair"
"""What is known of the causes of a gap: some are named; the gap is shown, but none of its terms; there is none within the margin; it is not
shown; the arms were not treated alike."""

CAUSES: Mapping[str, str] = {
    "start": "the start",
    "steps": "more steps",
    "dispersion": "tidier classes",
    "distance": "closeness to the proxy",
    "statistics": "the statistics of the weights",
    "structure": "the structure of the weights",
}
"""Link -> the cause that it stands for."""


@dataclass(frozen=True)
class Cause:
    """What is said about one gap on one task, or over tasks.

    Args:
        question, task, subject: As of its terms.
        state: `named`, `cannot be told`, `no gap`, `undecided` or `unfair`.
        causes: The named causes, largest first.
        sentence: The same as a sentence.
    """

    question: str
    task: str | None
    subject: str
    state: str
    causes: tuple[str, ...]
    sentence: str


def name_cause(term: str, question: str) -> str:
    """The cause that a term stands for, in words; of links that cannot be told apart, all of them.

    >>> name_cause("steps+dispersion", "alignment"), name_cause("layernorm+other", "parts")
    ('more steps or tidier classes', 'layernorm + other')
    """
    if question == PARTS_QUESTION:
        return term.replace("+", " + ")
    return " or ".join(CAUSES[link] for link in term.split("+"))


def find_causes(terms: Sequence[Term], alpha: float) -> tuple[list[Term], list[Cause]]:
    """Apply the rule to judged terms.

    Args:
        terms: All terms of one question, gaps among them.
        alpha: Error rate of the question.

    Returns:
        The terms, those that are named marked (`is_cause`), with their share of the gap where that is shown; and what is said of each gap.
    """
    groups: dict[tuple[str | None, str], list[Term]] = {}
    for term in terms:
        groups.setdefault((term.task, term.subject), []).append(term)
    marked: list[Term] = []
    causes: list[Cause] = []
    for of_gap in groups.values():
        gap = next((term for term in of_gap if term.is_gap), None)
        if gap is None:
            marked += of_gap
            continue
        is_shown = gap.verdict in (HELPS, HURTS)
        size = _size(gap)
        found = [
            replace(
                term,
                is_cause=is_shown and not term.is_gap and term.verdict == gap.verdict,
                share=_size(term) / size if is_shown and size and _is_known(term) else None,
            )
            for term in of_gap
        ]
        marked += found
        causes.append(_describe(gap, [term for term in found if not term.is_gap]))
    return marked, causes


def _size(term: Term) -> float:
    return (term.relative if term.task is None else term.value) or 0.0


def _is_known(term: Term) -> bool:
    return (term.relative if term.task is None else term.value) is not None


def _describe(gap: Term, terms: Sequence[Term]) -> Cause:
    lower = gap.verdict == HELPS
    named = sorted((term for term in terms if term.is_cause), key=lambda term: -abs(_size(term)))
    names = tuple(name_cause(term.term, gap.question) for term in named)
    if gap.verdict is None:
        state, text = UNFAIR, "The arms were not treated alike, so no cause is named."
    elif gap.verdict == NO_DIFFERENCE:
        state, text = NO_GAP, "There is no gap that matters, so there is nothing to explain."
    elif gap.verdict not in (HELPS, HURTS):
        state, text = OPEN, "The gap is not shown, so no cause is named."
    elif not terms:
        state, text = UNTOLD, "What explains the gap cannot be told: there are no arms between its ends."
    elif not named:
        state, text = UNTOLD, "What explains the gap cannot be told: it is shown, but none of its terms is by itself."
        if all(term.value is None and term.relative is None for term in terms):
            text = "What explains the gap cannot be told: arms are missing."
    else:
        state = NAMED
        text = _SENTENCE.format(change="lower" if lower else "higher", arm=_ARMS[gap.question], causes=_join(names))
        if gap.question == ALIGNMENT_QUESTION and any("+" in term.term for term in named):
            text += " Those joined by `or` cannot be told apart, as an arm between them is missing."
    if state in (NAMED, UNTOLD):
        text += _about_others(gap, [term for term in terms if not term.is_cause])
    return Cause(gap.question, gap.task, gap.subject, state, names, text)


_SENTENCE = "The error is {change} {arm} because of {causes}."

_ARMS = {
    PARTS_QUESTION: "with a pretrained body",
    STATISTICS_QUESTION: "with a pretrained body",
    ALIGNMENT_QUESTION: "with alignment",
}


def _about_others(gap: Term, others: Sequence[Term]) -> str:
    """What is shown of the terms that are not named."""
    text = ""
    opposite = HURTS if gap.verdict == HELPS else HELPS
    for what, verdict in (("Against it", opposite), ("No difference that matters", NO_DIFFERENCE)):
        if names := [name_cause(term.term, gap.question) for term in others if term.verdict == verdict]:
            text += f" {what}: {_join(names)}."
    return text


def _join(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
