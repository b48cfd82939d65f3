"""What `sweeper findings` prints: each question, its verdict, what every task says, and the command behind it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence

from orca_core.errors import ConfigError, Fault
from sweeper.analysis.answers import DEPENDS, UNFAIR, Finding, Statement, answer, read_evidence
from sweeper.analysis.paired import HELPS, HURTS, NO_DIFFERENCE, UNDECIDED
from sweeper.results.workspace import Workspace
from sweeper.show.tables import fill

WORDS = {
    HELPS: "helps",
    HURTS: "hurts",
    NO_DIFFERENCE: "no difference that matters",
    UNDECIDED: "undecided",
    DEPENDS: "it depends",
    UNFAIR: "no fair comparison",
}
"""Verdicts in words; the others are words already."""


def show_findings(workspace: Workspace, name: str, format: str) -> str:
    """The findings of a sweep as text for people (`text`) or JSON.

    Raises:
        ConfigError: If the sweep is unknown, or the format is.
    """
    if format not in ("text", "json"):
        raise ConfigError([Fault("--format", "must be text or json", format)])
    found = answer(read_evidence(workspace.results, name))
    if format == "json":
        return json.dumps([finding.to_data() for finding in found], indent=1) + "\n"
    if not found:
        return f"{name} varies nothing that a question is about; see `sweeper compare` and `sweeper importance`.\n"
    return "\n".join(_describe(number, finding) for number, finding in enumerate(found, 1))


def _describe(number: int, finding: Finding) -> str:
    lines = [fill(f"{number}. {headline(finding)}", "   ")]
    lines += _statements(finding)
    lines.append(fill(f"   It would change with {finding.would_change}", "   "))
    return "".join(lines) + f"   {finding.query}\n"


def headline(finding: Finding) -> str:
    """The question and its answer: the verdict as a sentence or, of levels with different verdicts, what each does."""
    return f"{finding.question} {describe_verdict(finding)}"


def describe_verdict(finding: Finding) -> str:
    """The verdict as a sentence or, of levels with different verdicts, what each does."""
    return describe_levels(finding.by_level, finding.verdict, finding.statements, finding.subject)


def describe_levels(by_level: Mapping[str, str], verdict: str, statements: Sequence[Statement], subject: str = "it") -> str:
    """A verdict as a sentence; or what each level does, or what is so on each task, if these have different verdicts.

    Args:
        by_level: Level -> its verdict.
        verdict: The verdict over all levels and tasks.
        statements: What each task says.
        subject: What helps or hurts.
    """
    levels: dict[str, list[str]] = {}
    for level, of_level in by_level.items():
        levels.setdefault(of_level, []).append(level)
    if len(levels) < 2:
        tasks: dict[str, list[str]] = {}
        for statement in statements:
            if statement.task is not None:
                tasks.setdefault(statement.verdict, []).append(statement.task)
        if verdict in (UNDECIDED, DEPENDS) and len(tasks) > 1:
            decided_first = sorted(tasks, key=lambda one: one in (UNDECIDED, UNFAIR))
            text = "; ".join(f"{_phrase(one, subject)} on {', '.join(tasks[one])}" for one in decided_first)
            return f"{text[0].upper()}{text[1:]}."
        text = _phrase(verdict, subject)
        return f"{text[0].upper()}{text[1:]}."
    return "; ".join(f"{', '.join(of_verdict)}: {_word(one)}" for one, of_verdict in levels.items()) + "."


def _statements(finding: Finding) -> Iterator[str]:
    for statement in finding.statements:
        where = statement.task or "over tasks"
        yield fill(f"   {where}: {_word(statement.verdict)}. {statement.text}.", "     ")


def _phrase(verdict: str, subject: str) -> str:
    return f"{subject} {_word(verdict)}" if verdict in (HELPS, HURTS) else _word(verdict)


def _word(verdict: str) -> str:
    return WORDS.get(verdict, verdict)
