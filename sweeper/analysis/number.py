"""One printed number: what it states, its value, what it rests on, and the short id by which `sweeper why` finds it again.

An id such as `k7f3a-9c2e` has two parts. The first is a hash of the statement: sweep, kind, task, and what else is asked. The second is a
hash of the evidence: the result keys of the trials behind the number, and the version of its definition. Nothing is stored: an id is
computed again from the tables wherever it is needed. So an id that no longer fits says which part does not: the first part alone still
fits where the same statement rests on other trials by now.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from orca_core.errors import ConfigError, Fault
from sweeper.analysis.factors import spell_value

SCORE, EFFECT, SHARE, FLOOR, FINDING, TERM = "score", "effect", "share", "floor", "finding", "term"
"""The kinds of numbers."""

VERSIONS: Mapping[str, int] = {SCORE: 1, EFFECT: 1, SHARE: 1, FLOOR: 1, FINDING: 1, TERM: 1}
"""Version of each kind's definition, raised when the same trials give another number."""

STATEMENT_DIGITS, EVIDENCE_DIGITS = 5, 4
"""Length of the two parts. A results folder asks some 100,000 statements, of which 5 digits (25 bits) take a wrong one for 0.3 % of the ids
that are out of date; both parts together (45 bits) are as good as unique."""

_LETTERS = "0123456789abcdefghjkmnpqrstvwxyz"
"""Crockford's base 32: without i, l, o and u, which look like others."""

_READ_AS = str.maketrans("ilo", "110")
_FORM = re.compile(rf"([{_LETTERS}]{{{STATEMENT_DIGITS},26}})-([{_LETTERS}]{{{EVIDENCE_DIGITS},26}})")


_encode = json.JSONEncoder(sort_keys=True, separators=(",", ":")).encode


def digest(data: Any, length: int = 26) -> str:
    """The first digits, in base 32, of the SHA-256 of JSON data; 26 at most."""
    number = int.from_bytes(hashlib.sha256(_encode(data).encode()).digest()) >> 256 - 5 * length
    return "".join(_LETTERS[number >> 5 * place & 31] for place in reversed(range(length)))


def parse_id(text: str) -> tuple[str, str]:
    """The two parts of an id as people write it: in any case, with `o` for 0 and `i` or `l` for 1. Parts may be longer than printed.

    Raises:
        ConfigError: If it does not have the form of an id.

    >>> parse_id("K7F3A-9C2E"), parse_id("ko0il-0000")
    (('k7f3a', '9c2e'), ('k0011', '0000'))
    """
    found = _FORM.fullmatch(text.strip().lower().translate(_READ_AS))
    if found is None:
        rule = f"must be the id of a number, {STATEMENT_DIGITS} and {EVIDENCE_DIGITS} letters or digits such as k7f3a-9c2e"
        raise ConfigError([Fault("ID", rule, text, "`sweeper best NAME --format csv` prints ids in the column `number`.")])
    return found[1], found[2]


@dataclass(frozen=True)
class Number:
    """One number as it is printed somewhere.

    Args:
        statement: What is asked, as JSON data: `kind`, `sweep`, `task`, and by kind `arm`, `factor`, `level`, `baseline`, `within`,
            `metric`, `factors`, `method`, `model`, `cases`, `name`, `question`, `subject`, `term`. The first part of the id.
        value: The answer: a number, of a finding its verdict.
        low, high: Its 95 % interval; None if it has none.
        trials: Ids of the trials that it rests on.
        keys: What the evidence is known by: result keys of the trials; of floors what they were computed from. The second part of the id.
        make_sql: Makes the SQL behind it.
        gives_rows: Whether that SQL gives the rows that the value is computed from, as SQL cannot compute it, rather than the value.
        settings: Knob -> value, for words: what tells an arm from others.
        command: Options of the command that prints it beside others, without the name of the sweep.
    """

    statement: Mapping[str, Any]
    value: float | str | None
    low: float | None
    high: float | None
    trials: tuple[str, ...]
    keys: tuple[str, ...]
    make_sql: Callable[[], str] = field(repr=False, compare=False)
    gives_rows: bool = False
    settings: Mapping[str, Any] = field(default_factory=dict)
    command: Sequence[str] = ()

    @property
    def kind(self) -> str:
        """Its kind."""
        return str(self.statement["kind"])

    @property
    def sweep(self) -> str | None:
        """Name of the sweep; None for floors, which belong to tasks."""
        return self.statement.get("sweep")

    @cached_property
    def parts(self) -> tuple[str, str]:
        """The two digests of which the id is the beginning."""
        return digest(self.statement), digest([VERSIONS[self.kind], sorted(set(self.keys))])

    @property
    def id(self) -> str:
        """Its id, as it is printed."""
        return f"{self.parts[0][:STATEMENT_DIGITS]}-{self.parts[1][:EVIDENCE_DIGITS]}"

    @property
    def long_id(self) -> str:
        """An id of 16 digits, for where two numbers have the same short one."""
        return f"{self.parts[0][:8]}-{self.parts[1][:8]}"

    @cached_property
    def sql(self) -> str:
        """The SQL behind it, as `sweeper query` takes it: it gives the value, or the rows (`gives_rows`)."""
        return self.make_sql()

    @property
    def words(self) -> str:
        """What it states, as a sentence without the value."""
        return describe(self.statement, self.settings)

    def line(self) -> dict[str, Any]:
        """The number as a line of a table."""
        is_verdict = isinstance(self.value, str)
        return {
            "number": self.id,
            "kind": self.kind,
            "task": self.statement["task"],
            "value": None if is_verdict else self.value,
            "low": self.low,
            "high": self.high,
            "verdict": self.value if is_verdict else None,
            "trials": len(self.trials),
            "words": self.words,
        }


def describe(statement: Mapping[str, Any], settings: Mapping[str, Any] = {}) -> str:
    """A statement in words.

    >>> describe({"kind": "share", "sweep": "s", "task": "digits", "metric": "test_error", "factors": ["seed"], "method": "anova"})
    'Share of the variance of test_error on digits that seed accounts for, in the sweep s (anova).'
    """
    kind, task, metric = statement["kind"], statement.get("task"), statement.get("metric")
    on = f"on {task}" if task is not None else "over tasks"
    of_sweep = f"in the sweep {statement.get('sweep')}"
    if kind == SCORE:
        arm = ", ".join(f"{knob} {_spell(value)}" for knob, value in settings.items()) or f"arm {statement['arm']}"
        return f"Mean {metric} over seeds {on} of the arm with {arm}, {of_sweep}."
    if kind == EFFECT:
        within = "".join(f", with {knob} {_spell(value)}" for knob, value in (statement.get("within") or {}).items())
        what = "Mean difference" if task is not None else "Mean relative difference"
        levels = f"{statement['factor']} {_spell(statement['level'])} minus {_spell(statement['baseline'])}"
        return f"{what} in {metric} {on}{within}: {levels}, paired by seed, {of_sweep}."
    if kind == SHARE:
        factors = " x ".join(statement["factors"])
        return f"Share of the variance of {metric} {on} that {factors} accounts for, {of_sweep} ({statement['method']})."
    if kind == FLOOR:
        cases = "; ".join(", ".join(f"{name} {_spell(value)}" for name, value in case.items()) for case in statement["cases"])
        return f"{metric} of the model {statement['model']}, without a transformer, {on}{f' ({cases})' if cases else ''}."
    if kind == TERM:
        what = "The gap" if statement["term"] == "gap" else f"What {statement['term']} contributes to the gap"
        relative = "" if task is not None else ", relative to the error where it begins"
        arms = statement["subject"].replace(" - ", " and ")
        return f"{what} in {metric} {on} between {arms}{relative}, {of_sweep} ({statement['question']})."
    return f"Verdict of the finding {statement['name']} {on}, {of_sweep}."


def _spell(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{name}: {_spell(inner)}" for name, inner in value.items()) + "}"
    return spell_value(tuple(value) if isinstance(value, list) else value)
