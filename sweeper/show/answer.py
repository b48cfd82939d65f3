"""The answer of a sweep in words, as `run` says it at its end: the verdicts of its question, and what it finds on the papers' questions."""

from __future__ import annotations

from contextlib import suppress

from orca_core.errors import ConfigError
from sweeper.analysis.answers import answer, read_evidence
from sweeper.results.store import results_option
from sweeper.results.workspace import Workspace
from sweeper.show.comparison import compare_sweep, describe_briefly
from sweeper.show.findings import headline
from sweeper.show.tables import fill

MAX_LINES = 12
"""Maximum number of lines of the question's table: after a run a screen should do; `sweeper compare` has them all."""


def describe_answer(workspace: Workspace, name: str) -> str:
    """What the complete trials of a sweep say: its question as a table, each finding in a line. Empty if it varied nothing to be asked.

    Args:
        workspace: Where the results are.
        name: Name of the sweep.

    Raises:
        ConfigError: If the sweep is unknown.
    """
    evidence = read_evidence(workspace.results, name)
    here, text = f"{name}{results_option(workspace.uri)}", ""
    if evidence.sweep.question:
        with suppress(ConfigError):  # no two arms can be compared yet
            text += describe_briefly(compare_sweep(workspace, name, {}), MAX_LINES)
            text += fill(f"In full: sweeper compare {here}") + "\n"
    if found := answer(evidence):
        text += "".join(fill(headline(finding), "  ") for finding in found)
        text += fill(f"With numbers: sweeper findings {here}")
    return text
