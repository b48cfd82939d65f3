"""The ids of the numbers of a report, by which `sweeper why` explains them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from orca_core.floors.rows import FloorCase
from sweeper.analysis.answers import Finding, Statement
from sweeper.analysis.number import EFFECT, FINDING, FLOOR, SCORE, SHARE, TERM, Number
from sweeper.analysis.terms import Term
from sweeper.analysis.variance_shares import Share

_ASKED = (
    "kind",
    "task",
    "arm",
    "factor",
    "level",
    "baseline",
    "within",
    "metric",
    "factors",
    "method",
    "model",
    "cases",
    "name",
    "question",
    "subject",
    "term",
)
"""What tells the numbers of a sweep apart."""

_TOLERANCE = 1e-9
"""For rounding: a number is the one that an id explains only if it has its value."""


class Ids:
    """The ids of the numbers of one sweep; an empty text for a number that has none.

    Args:
        numbers: The numbers.
    """

    def __init__(self, numbers: Iterable[Number] = ()) -> None:
        self._numbers = {_key({name: number.statement[name] for name in _ASKED if name in number.statement}): number for number in numbers}

    def score(self, task: str, arm: str, metric: str, value: float) -> str:
        """Of the mean of a metric over the seeds of an arm."""
        return self._find(value, kind=SCORE, task=task, arm=arm, metric=metric)

    def effect(self, effect: Mapping[str, Any]) -> str:
        """Of the difference of an effect; over tasks, of the relative one."""
        names = ("task", "factor", "level", "baseline", "within", "metric")
        value = effect["relative"] if effect["task"] is None else effect["difference"]
        return self._find(value, kind=EFFECT, **{name: effect[name] for name in names})

    def share(self, share: Share) -> str:
        """Of a share of the variance of the test error."""
        return self._find(share.share, kind=SHARE, task=share.task, factors=list(share.factors), metric="test_error", method=share.method)

    def floor(self, case: FloorCase, model: str, metric: str, value: float | None) -> str:
        """Of the error of a model without a transformer."""
        default = FloorCase(case.task).cells()
        cases = [{name: cell for name, cell in case.cells().items() if cell != default[name]}]
        return self._find(value, kind=FLOOR, task=case.task, model=model, metric=metric, cases=cases)

    def finding(self, finding: Finding, statement: Statement) -> str:
        """Of the verdict of a finding on a task."""
        return self._find(statement.verdict, kind=FINDING, task=statement.task, name=finding.name, question=finding.question)

    def term(self, term: Term) -> str:
        """Of a term of an explanation; over tasks, of the relative value."""
        names = ("task", "question", "subject", "term", "metric")
        return self._find(term.relative if term.task is None else term.value, kind=TERM, **{name: getattr(term, name) for name in names})

    def _find(self, value: float | str | None, **asked: Any) -> str:
        number = self._numbers.get(_key(asked))
        if number is None or value is None or number.value is None:
            return ""
        if isinstance(value, str) or isinstance(number.value, str):
            return number.id if value == number.value else ""
        return number.id if abs(value - number.value) <= _TOLERANCE else ""


def _key(asked: Mapping[str, Any]) -> str:
    return json.dumps({name: value for name, value in asked.items() if value is not None}, sort_keys=True, default=str)
