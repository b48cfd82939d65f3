"""Values that papers and benchmarks print, and which of them may stand beside scores of a sweep.

They are a data file, `published.csv`, with a line for each value. A value stands beside scores of a sweep only if it is of the same task
and measured by the same score, by name: of `nb360/cosmic` false-negative rates are published, and our score is made of an area under the
ROC curve, so the two never share a column. A value of a score of that name which was measured on other data says so in `apart`.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from orca_core.errors import ConfigError, Fault, nearest

VERIFIED, COPY, UNCHECKED = "verified in the source text", "third-party copy", "to be checked"

CERTAINTIES = (VERIFIED, COPY, UNCHECKED)
"""How sure a value is: read in the source itself; read in a collection of results or in a later paper; noted once, and its source not
seen again."""

CAUTION = (
    "Published values are of full-size bodies, of other seeds, and of recipes that choose the epoch on the test set: a mark to look at, not"
    " a test."
)
"""What is said wherever published values stand beside ours."""


@dataclass(frozen=True)
class Published:
    """A published value.

    Args:
        task: The task, by its name here.
        method: The method, as the source calls it.
        score: Name of the score: one of `orca_core.scoring.SCORES` if it is the same quantity; else a name of its own.
        value: The value in the unit of the score; of a rate, a share of 1. All scores are errors: lower is better.
        spread: What the source prints after "+-", in the same unit; None if there is none. Sources differ in what it is.
        printed: The value as the source prints it.
        source: An arXiv number or an address.
        table: Where in the source.
        certainty: One of `CERTAINTIES`.
        apart: Why the value cannot stand beside ours though its score has the same name; empty if it can.
    """

    task: str
    method: str
    score: str
    value: float
    spread: float | None
    printed: str
    source: str
    table: str
    certainty: str
    apart: str

    @property
    def direction(self) -> str:
        """Which values are better."""
        return "lower is better"


@dataclass(frozen=True)
class Beside:
    """The published values of a task, seen from the score of a sweep.

    Args:
        comparable: Those that may stand beside the sweep's scores, the lowest first.
        apart: The others, each with the reason.
    """

    comparable: tuple[Published, ...]
    apart: tuple[tuple[Published, str], ...]

    def notes(self) -> list[str]:
        """Why values are left out, a sentence for each reason."""
        methods: dict[str, list[str]] = {}
        for value, reason in self.apart:
            methods.setdefault(reason, []).append(value.method)
        return [f"Not comparable, {reason}: {', '.join(dict.fromkeys(names))}." for reason, names in methods.items()]


@cache
def read_published() -> tuple[Published, ...]:
    """All published values, by task, score and method."""
    with Path(__file__).with_name("published.csv").open(encoding="utf-8", newline="") as file:
        rows = [
            Published(**(row | {"value": float(row["value"]), "spread": float(row["spread"]) if row["spread"] else None}))
            for row in csv.DictReader(file)
        ]
    return tuple(rows)


def published_of(task: str | None = None) -> tuple[Published, ...]:
    """The published values of a task, or of all.

    Raises:
        ConfigError: If there is none of that task.
    """
    if task is None:
        return read_published()
    found = tuple(value for value in read_published() if value.task == task)
    if not found:
        known = dict.fromkeys(value.task for value in read_published())
        raise ConfigError([Fault("TASK", "must be a task of which published values are known", task, nearest(task, known))])
    return found


def beside(task: str, scores: Iterable[str | None]) -> Beside:
    """The published values of a task beside trials whose errors are measured by some scores.

    Args:
        task: The task.
        scores: The scores of the trials, as their rows name them. Trials of more than one score have nothing in common with a table.
    """
    ours = {score for score in scores if score}
    comparable, apart = [], []
    for value in read_published():
        if value.task != task:
            continue
        if ours != {value.score}:
            apart.append((value, f"as it is {value.score} and not {' or '.join(sorted(ours)) or 'a known score'}"))
        elif value.apart:
            apart.append((value, f"as it is of {value.apart}"))
        elif value.certainty == UNCHECKED:
            apart.append((value, "as it has yet to be checked"))
        else:
            comparable.append(value)
    comparable.sort(key=lambda value: (value.value, value.method))
    return Beside(tuple(comparable), tuple(apart))
