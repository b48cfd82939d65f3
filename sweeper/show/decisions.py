"""The verdicts of a sweep that adds seeds until its question is answered, as text."""

from __future__ import annotations

from collections.abc import Iterator

from sweeper.analysis.factors import spell_value
from sweeper.analysis.paired import UNDECIDED
from sweeper.analysis.sequential import Decision
from sweeper.planning.deciding import Deciding, Name
from sweeper.space.space import SearchSpace

MAX_LINES = 30
"""Maximum number of contrasts that are listed."""


def describe_question(space: SearchSpace, num_contrasts: int) -> str:
    """What is asked, in a line."""
    question = space.question
    assert question is not None
    within = f", within each {question.within}" if question.within else ""
    margin = question.margin if isinstance(question.margin, str) else f"{question.margin:g}"
    return (
        f"{question.metric} of each {question.factor} against {spell_value(question.baseline)}, by task{within}: "
        f"{num_contrasts} contrast{'' if num_contrasts == 1 else 's'}, margin {margin}, alpha {question.alpha:g}"
    )


def decision_lines(space: SearchSpace, deciding: Deciding) -> Iterator[str]:
    """The state of each contrast that has been looked at, a line each."""
    states = [(name, decision) for name, decision in deciding.decisions.items() if decision.seeds]
    for name, decision in states[:MAX_LINES]:
        yield f"{name_contrast(space, name)}: {_describe(decision)}"
    if len(states) > MAX_LINES:
        yield f"and {len(states) - MAX_LINES} more contrasts"


def name_contrast(space: SearchSpace, name: Name) -> str:
    """A contrast in words: `digits: align.epochs 10 against 0`."""
    question = space.question
    assert question is not None
    within = f", {question.within} {spell_value(name.within)}" if question.within else ""
    return f"{name.task}{within}: {question.factor} {spell_value(name.level)} against {spell_value(question.baseline)}"


def _describe(decision: Decision) -> str:
    p = "" if decision.p_adjusted is None else f", p {decision.p_adjusted:.2g}"
    if decision.verdict != UNDECIDED:
        return f"{decision.verdict} after {decision.seeds} seeds{p}"
    if decision.is_open:
        return f"open after {decision.seeds} seeds{p}"
    needed = f"about {decision.seeds_needed} seeds" if decision.seeds_needed is not None else "more than 1000 seeds"
    return f"undecided after {decision.seeds} seeds{p}; it would take {needed}"
