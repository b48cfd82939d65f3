"""Finds the number of an id in some results: statements are made without computing anything, and only those that fit are answered."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import pyarrow as pa

from orca_core.config.paths import sections_of
from orca_core.errors import ConfigError
from orca_core.floors.rows import FloorCase
from sweeper.analysis.answers import answer, read_evidence
from sweeper.analysis.arms import Ranking, rank_arms
from sweeper.analysis.explanation import explain_sweep
from sweeper.analysis.factors import KNOB_OF, VARIANT, cell, find_factor, list_levels, varying_columns
from sweeper.analysis.floors import Floors
from sweeper.analysis.number import EFFECT, SCORE, SHARE, STATEMENT_DIGITS, Number, digest, parse_id
from sweeper.analysis.numbers import (
    METRIC,
    compare_rows,
    effect_numbers,
    finding_numbers,
    floor_number,
    score_number,
    share_numbers,
    shares_of,
    term_numbers,
)
from sweeper.analysis.representatives import represent_arms, tuned_columns
from sweeper.analysis.sweep_rows import SweepRows, read_sweep_rows
from sweeper.analysis.variance_shares import ANOVA, FANOVA, REST, SEED
from sweeper.results.records import schema
from sweeper.results.store import ResultStore

Statement = Mapping[str, Any]
Asked = tuple[Statement, Callable[[], Number | None]]
"""A statement, and what computes its number; None if there is none now."""


@dataclass(frozen=True)
class Found:
    """What is known of an id.

    Args:
        numbers: The numbers whose id it is: one, unless two have the same short id.
        moved: If there are none: numbers that state the same, but rest on other trials.
        near: If there are neither: numbers whose id differs in a letter.
    """

    numbers: list[Number]
    moved: list[Number]
    near: list[Number]


def find_number(results: ResultStore, id: str) -> Found:
    """Find the number of an id among all sweeps of some results.

    Args:
        results: The result tables.
        id: The id, or more digits of it.

    Raises:
        ConfigError: If it does not have the form of an id.
        StoreError: If a file is damaged.
    """
    statement, evidence = parse_id(id)
    moved: list[Number] = []
    near: list[Callable[[], Number | None]] = []
    sweeps = [SweepStatements(results, name) for name in results.sweeps()]
    tiers = [tier for of in ("usual", "terms", "findings", "unusual") for tier in (getattr(sweep, of) for sweep in sweeps)]
    for asked_of in (lambda: _floor_statements(results), *tiers):
        numbers: list[Number] = []
        for asked, solve in asked_of():
            start = digest(asked, STATEMENT_DIGITS)
            if start == statement[:STATEMENT_DIGITS]:
                number = solve()
                if number is not None and number.parts[0].startswith(statement):
                    (numbers if number.parts[1].startswith(evidence) else moved).append(number)
            elif _is_near(start, statement):
                near.append(solve)
        if numbers:  # another one of 45 equal bits in other sweeps is not looked for
            return Found(numbers, [], [])
    slips = [number for number in moved if _is_near(number.parts[1], evidence)]
    others = [number for solve in near[:MAX_NEAR] if (number := solve()) is not None and _is_near(number.parts[1], evidence)]
    return Found([], [number for number in moved if number not in slips], slips + others)


MAX_NEAR = 10
"""Maximum number of statements near an unknown id that are computed."""


def _is_near(digits: str, given: str) -> bool:
    """Whether digits are the beginning of those given, but for one digit, or two neighbours that changed places."""
    wrong = [place for place, (one, other) in enumerate(zip(digits, given, strict=False)) if one != other]
    if len(wrong) < 2:
        return True
    first, second = wrong[0], wrong[-1]
    return second == first + 1 and (digits[first], digits[second]) == (given[second], given[first])


def _floor_statements(results: ResultStore) -> Iterator[Asked]:
    floors = Floors.read(results)
    for case in floors.cases:
        for model in floors.models([case]):
            for metric in (METRIC, "valid_error"):
                if (number := floor_number(floors, [case], model, metric)) is not None:
                    yield number.statement, partial(_itself, number)


def _itself(number: Number) -> Number:
    return number


_METRICS = tuple(column.name for column in schema("trials") if pa.types.is_floating(column.type) and column.name not in KNOB_OF)
"""The columns of results that can be compared."""


class SweepStatements:
    """What can be asked of a sweep.

    Args:
        results: The result tables.
        name: Name of the sweep.
    """

    def __init__(self, results: ResultStore, name: str) -> None:
        self._results, self._name = results, name

    def usual(self) -> Iterator[Asked]:
        """What is usually asked, of the knobs that the sweep varies."""
        yield from self._scores()
        yield from self._floors_of_arms()
        yield from self._effects(is_usual=True)
        yield from self._shares()

    def unusual(self) -> Iterator[Asked]:
        """What else can be asked: of knobs that follow from those that the sweep varies, through a recipe or as null."""
        yield from self._effects(is_usual=False)

    @cached_property
    def _sweep(self) -> SweepRows:
        return read_sweep_rows(self._results, self._name, _METRICS)

    @cached_property
    def _ranking(self) -> Ranking | None:
        try:
            return rank_arms(self._results, self._name)
        except ConfigError:  # nothing is complete yet
            return None

    def _scores(self) -> Iterator[Asked]:
        if (ranking := self._ranking) is None:
            return
        for task, arms in ranking.arms.items():
            for arm, metric in itertools.product(arms, dict.fromkeys((ranking.metric, METRIC))):
                asked = {"kind": SCORE, "sweep": self._name, "task": task, "arm": arm.arm.id, "metric": metric}
                yield asked, partial(score_number, ranking, arm, metric)

    def _floors_of_arms(self) -> Iterator[Asked]:
        """Of arms whose seeds have several splits, the mean of the best floor."""
        floors, seen = Floors.read(self._results), set()
        for arm in [arm for arms in (self._ranking.arms if self._ranking else {}).values() for arm in arms]:
            cases = frozenset(map(FloorCase.of_row, arm.rows))
            if len(cases) > 1 and cases not in seen and arm.floor is not None:
                seen.add(cases)
                if (number := floor_number(floors, cases, arm.floor.model)) is not None:
                    yield number.statement, partial(_itself, number)

    def _effects(self, is_usual: bool) -> Iterator[Asked]:
        sweep = self._sweep
        chosen = represent_arms(sweep.rows, sweep.pair_by, sweep.objective)
        fixed = {"task", *sweep.pair_by, *tuned_columns(sweep.rows, sweep.pair_by)}
        columns = [column for column in varying_columns(chosen, [*KNOB_OF, VARIANT]) if column not in fixed]
        sections = {section for column in columns if column in KNOB_OF for section in sections_of(KNOB_OF[column])}
        tasks = sorted({row.get("task") for row in chosen}, key=str)
        values = {column: sorted({cell(row, column) for row in chosen}, key=str) for column in columns if column != VARIANT}
        for name in (*columns, *sorted(sections)):
            factor = find_factor(name, chosen)
            if fixed & {*factor.columns}:
                continue
            levels = {task: list_levels(factor, [row for row in chosen if row.get("task") == task]) for task in tasks}
            levels[None] = list_levels(factor, chosen)
            is_varied = any(column == VARIANT or sweep.varied is None or column in sweep.varied for column in factor.columns)
            within: list[tuple[str | None, Any]] = [(None, None)] if is_varied == is_usual else []
            for column, known in values.items():
                is_known = is_varied and (sweep.varied is None or column in sweep.varied)
                if column not in factor.columns and is_known == is_usual:
                    within += [(KNOB_OF[column], value) for value in known]
            for task, of_task in levels.items():
                for (level, baseline), (knob, value), metric in itertools.product(itertools.permutations(of_task, 2), within, _METRICS):
                    asked = {
                        "kind": EFFECT,
                        "sweep": self._name,
                        "task": task,
                        "factor": factor.name,
                        "level": factor.to_data(level),
                        "baseline": factor.to_data(baseline),
                        "metric": metric,
                        "within": None if knob is None else {knob: value},
                    }
                    yield asked, partial(self._effect, asked, baseline, knob)

    def _effect(self, asked: Statement, baseline: Any, within: str | None) -> Number | None:
        try:
            comparison = compare_rows(self._sweep, asked["factor"], baseline, within, asked["metric"])
        except ConfigError:
            return None
        return _answering(asked, filter(None, effect_numbers(self._name, comparison)))

    def _shares(self) -> Iterator[Asked]:
        sweep = self._sweep
        rows = list(sweep.rows)
        columns = varying_columns(rows, [VARIANT, *KNOB_OF])
        knobs = [KNOB_OF.get(column, column) for column in columns if column not in ("task", *sweep.pair_by)]
        terms = [[knob] for knob in (*knobs, SEED, REST)] + [list(pair) for pair in itertools.combinations(knobs, 2)]
        for task in sorted({row.get("task") for row in rows}, key=str):
            for method, metric, factors in itertools.product((ANOVA, FANOVA), _METRICS, terms):
                if method == ANOVA or (len(factors) == 1 and metric == sweep.objective):
                    asked = {"kind": SHARE, "sweep": self._name, "task": task, "factors": factors, "method": method, "metric": metric}
                    yield asked, partial(self._share, asked)

    def _share(self, asked: Statement) -> Number | None:
        metric = asked["metric"] if asked["method"] == ANOVA else METRIC
        with contextlib.suppress(ConfigError):
            return _answering(asked, share_numbers(self._sweep, shares_of(self._sweep, metric), metric))
        return None

    def terms(self) -> Iterator[Asked]:
        """The terms of gaps, which are computed at once for a metric."""
        for metric in dict.fromkeys((METRIC, self._sweep.objective)):
            with contextlib.suppress(ConfigError):
                for term in filter(None, term_numbers(self._sweep, explain_sweep(self._sweep, metric=metric, allow_unfair=True))):
                    yield term.statement, partial(_itself, term)

    def findings(self) -> Iterator[Asked]:
        """The verdicts of the findings, which are computed at once."""
        evidence = read_evidence(self._results, self._name)
        for number in finding_numbers(evidence, answer(evidence)):
            yield number.statement, partial(_itself, number)


def _answering(asked: Statement, numbers: Any) -> Number | None:
    wanted = digest(asked)
    return next((number for number in numbers if number.parts[0] == wanted), None)
