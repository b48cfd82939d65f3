"""What `sweeper findings` prints: each question, its verdict, what every task says, and the command behind it."""

from __future__ import annotations

import json
from collections.abc import Iterator

from orca_core.errors import ConfigError, Fault
from sweeper.analysis.answers import DEPENDS, UNFAIR, Finding, answer, read_evidence
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
    return f"{finding.question} {_answer(finding)}"


def _answer(finding: Finding) -> str:
    levels: dict[str, list[str]] = {}
    for level, verdict in finding.by_level.items():
        levels.setdefault(verdict, []).append(level)
    if len(levels) < 2:
        subject = f"{finding.subject} " if finding.verdict in (HELPS, HURTS) else ""
        text = f"{subject}{_word(finding.verdict)}."
        return text[0].upper() + text[1:]
    return "; ".join(f"{', '.join(of_verdict)}: {_word(verdict)}" for verdict, of_verdict in levels.items()) + "."


def _statements(finding: Finding) -> Iterator[str]:
    for statement in finding.statements:
        where = statement.task or "over tasks"
        yield fill(f"   {where}: {_word(statement.verdict)}. {statement.text}.", "     ")


def _word(verdict: str) -> str:
    return WORDS.get(verdict, verdict)
