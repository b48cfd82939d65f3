"""The terms of an explanation: what each part of a gap contributes to it, by seed, with interval, test and verdict.

A gap is a difference of two arms, such as pretrained minus random. Its terms add up to it, in every seed and so in the mean.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

import pyarrow as pa

from sweeper.analysis.margins import NEAR_ZERO, Margin
from sweeper.analysis.over_tasks import MIN_TASKS, summarise_tasks
from sweeper.analysis.paired import as_number, equivalence, holm, judge_mean, paired_t

PARTS_QUESTION, STATISTICS_QUESTION, ALIGNMENT_QUESTION = "parts", "statistics", "alignment"
"""What is explained: pretrained minus random by parts of the body; the same by statistics and structure of the weights; aligned minus
naive by a chain."""

GAP = "gap"
"""The term that is the gap itself."""


@dataclass(frozen=True)
class Term:
    """One term of a gap, or the gap itself, on one task or over tasks.

    Args:
        question: `parts`, `statistics` or `alignment`.
        task: The task; None over tasks.
        subject: What is explained, in words: the two arms between which the gap is.
        term: Name of the term; `gap` for the gap.
        level, baseline: The two arms of a link of a chain, in words; None for the parts of a game, which are no difference of two arms.
        metric: The column that is explained.
        value: Its contribution in the unit of the metric, as the mean over seeds: negative where it lowers the error; None over tasks.
        baseline_mean: Mean error of the arm at which the gap begins; None over tasks.
        relative: The value over `baseline_mean`; None where that is near 0. Over tasks, the mean of the tasks'.
        low, high: 95 % interval of the value; over tasks, of the relative one.
        sd: Standard deviation over seeds; over tasks, of the relative values over tasks.
        p, p_adjusted: Two-sided p that it contributes nothing, and corrected for all terms of the question; of gaps, for all gaps of it.
        margin: Margin of equivalence in the unit of the value; over tasks relative.
        p_equivalence, p_equivalence_adjusted: p that the value is not within the margin, and corrected likewise.
        verdict: `helps`, `hurts`, `no-difference`, `undecided`; None if the arms were not treated alike.
        seeds_needed: If undecided: seeds in total with which it would be decided with 80 %; over tasks `tasks_needed`, tasks,
            None above 10.
        share: The value over the gap's; None where the gap is not shown.
        main_effect, first_in, last_in: Of a part: the mean change by it over all sets of the other parts, each counting the same; what it
            changes alone; what it changes when all others are pretrained. None where an arm is missing.
        p_interaction: p that what it changes alone and what it changes last are the same, corrected for the parts and tasks.
        n: Number of seeds, or of tasks over tasks.
        contexts: Number of settings of the other knobs over which it is averaged.
        is_cause: Whether the rule of `sweeper.analysis.causes` names it as a cause.
        flags, notes: What makes the arms unfair to compare, and what else is to know.
        by_seed: Value by seed, in the order of `seeds`.
        seeds: The seeds; tuples if seeds vary several columns.
        cells: The value as a sum: seed, trial, and its weight in the value of the seed. Of terms over tasks, those of the tasks.
        resolution: Smallest step of a value, as for `paired_t`.
    """

    question: str
    task: str | None
    subject: str
    term: str
    metric: str
    level: str | None = None
    baseline: str | None = None
    value: float | None = None
    baseline_mean: float | None = None
    relative: float | None = None
    low: float | None = None
    high: float | None = None
    sd: float | None = None
    p: float | None = None
    p_adjusted: float | None = None
    margin: float | None = None
    p_equivalence: float | None = None
    p_equivalence_adjusted: float | None = None
    verdict: str | None = None
    seeds_needed: int | None = None
    tasks_needed: int | None = None
    share: float | None = None
    main_effect: float | None = None
    first_in: float | None = None
    last_in: float | None = None
    p_interaction: float | None = None
    n: int = 0
    contexts: int = 0
    is_cause: bool = False
    flags: Sequence[str] = ()
    notes: Sequence[str] = ()
    by_seed: Sequence[float] = field(default=(), repr=False)
    seeds: Sequence[Any] = field(default=(), repr=False)
    cells: Sequence[tuple[str, str, float]] = field(default=(), repr=False)
    resolution: float = field(default=0.0, repr=False)

    @property
    def is_gap(self) -> bool:
        """Whether it is the gap itself."""
        return self.term == GAP

    @property
    def trials(self) -> list[str]:
        """Ids of the trials behind it, each once."""
        return list(dict.fromkeys(trial for _, trial, _ in self.cells))

    def to_data(self) -> dict[str, Any]:
        """The term as JSON data."""
        values = {column.name: getattr(self, column.name) for column in fields(self) if column.name not in _HIDDEN}
        return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}


_HIDDEN = ("cells", "resolution")
"""Fields that are no columns."""


def measure(term: Term, baseline: float, asked: Margin, step: float, resolution: float) -> Term:
    """A term with the numbers of its values by seed, before the correction for the family.

    Args:
        term: The term, with `by_seed`.
        baseline: Mean error of the arm at which the gap begins.
        asked: Margin of equivalence.
        step: One sample's worth of the metric; 0 if it does not count samples.
        resolution: Smallest step of a value, as for `paired_t`.
    """
    t = paired_t(term.by_seed, resolution=resolution)
    margin, mean = asked.of(baseline, step), float(t.mean)
    return replace(
        term,
        resolution=resolution,
        n=len(term.by_seed),
        value=mean,
        baseline_mean=baseline,
        relative=mean / baseline if baseline >= max(step, NEAR_ZERO) else None,
        low=as_number(t.low),
        high=as_number(t.high),
        sd=as_number(t.sd),
        p=as_number(t.p),
        margin=margin or None,
        p_equivalence=None if t.is_zero or margin <= 0 else as_number(float(equivalence(term.by_seed, margin, resolution))),
    )


def over_tasks(terms: Sequence[Term]) -> list[Term]:
    """A row over tasks for each term that several tasks have: Student's t over tasks of the relative values."""
    groups: dict[tuple[str, str, str], list[Term]] = {}
    for term in terms:
        if term.relative is not None:
            groups.setdefault((term.question, term.subject, term.term), []).append(term)
    found = []
    for of_group in groups.values():
        if len(of_group) < MIN_TASKS:
            continue
        relative = {str(term.task): float(term.relative or 0.0) for term in of_group}
        over, first = summarise_tasks(relative), of_group[0]
        margins = [term.margin / term.baseline_mean for term in of_group if term.margin and term.baseline_mean]
        margin = math.fsum(margins) / len(margins) if margins else None
        flags = dict.fromkeys(flag for term in of_group for flag in term.flags)
        found.append(
            Term(
                question=first.question,
                task=None,
                subject=first.subject,
                term=first.term,
                metric=first.metric,
                level=first.level,
                baseline=first.baseline,
                relative=float(over.t.mean),
                low=as_number(over.t.low),
                high=as_number(over.t.high),
                sd=as_number(over.t.sd),
                p=as_number(over.t.p),
                margin=margin,
                p_equivalence=None if over.t.is_zero or not margin else as_number(float(equivalence(list(relative.values()), margin))),
                n=len(relative),
                flags=tuple(flags),
                cells=tuple(cell for term in of_group for cell in term.cells),
            )
        )
    return found


def judge(terms: Sequence[Term], alpha: float, allow_unfair: bool) -> list[Term]:
    """Terms of one family with p corrected by Holm over all of them, and their verdicts.

    Terms that are the same numbers on the same task, as links are that two chains share, are one test.
    """
    tests: dict[Any, int] = {}
    numbers = [tests.setdefault((term.task, term.term, term.p, term.value, term.relative), len(tests)) for term in terms]
    firsts = dict(reversed(list(zip(numbers, terms, strict=True))))
    p, factors = holm([_or_nan(firsts[number].p) for number in range(len(tests))])
    same, of_same = holm([_or_nan(firsts[number].p_equivalence) for number in range(len(tests))])
    judged = []
    for number, term in zip(numbers, terms, strict=True):
        adjusted, adjusted_same = as_number(p[number]), as_number(same[number])
        verdict, needed = judge_mean(
            term.relative if term.task is None else term.value,
            term.sd,
            term.n,
            term.margin,
            adjusted,
            adjusted_same,
            alpha,
            (alpha / factors[number], alpha / of_same[number]),
            is_over_tasks=term.task is None,
        )
        is_unfair = bool(term.flags) and not allow_unfair
        judged.append(
            replace(
                term,
                p_adjusted=adjusted,
                p_equivalence_adjusted=adjusted_same,
                verdict=None if is_unfair else verdict,
                seeds_needed=needed if term.task is not None else None,
                tasks_needed=needed if term.task is None else None,
            )
        )
    return judged


def _or_nan(value: float | None) -> float:
    return math.nan if value is None else value


_TEXTS = ("question", "task", "subject", "term", "level", "baseline", "metric", "verdict", "seeds")
_COUNTS = ("n", "contexts", "seeds_needed", "tasks_needed")
_LISTS = {"flags": pa.string(), "notes": pa.string(), "by_seed": pa.float64()}


def terms_to_table(terms: Sequence[Term]) -> pa.Table:
    """Terms as an Arrow table, one row each; seeds are JSON text."""
    rows = [term.to_data() | {"seeds": json.dumps(list(term.seeds))} for term in terms]
    types: dict[str, pa.DataType] = {name: pa.list_(inner) for name, inner in _LISTS.items()} | {"is_cause": pa.bool_()}
    types |= dict.fromkeys(_TEXTS, pa.string()) | dict.fromkeys(_COUNTS, pa.int64())
    names = [column.name for column in fields(Term) if column.name not in _HIDDEN]
    return pa.table({name: pa.array([row[name] for row in rows], types.get(name, pa.float64())) for name in names})
