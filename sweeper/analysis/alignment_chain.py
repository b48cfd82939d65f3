"""The gap between an aligned and a naive embedder, by a chain of arms that differ in one thing at a time, at equal numbers of steps.

    naive       no alignment: `align.epochs: 0`
    steps       the same number of steps on the task's own loss: `align.objective: none`
    dispersion  as many steps that move the target's classes apart, without a proxy: `align.objective: dispersion`
    distance    as many steps that lower a distance to the proxy: any other objective

Each link is the difference of two neighbours. Where the sweep varies the embedder's start, the chain of another start begins with the link
from the naive arm of the baseline start to its own.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise
from pathlib import PurePath

from sweeper.analysis.factors import Factor, Row
from sweeper.analysis.gap_arms import GapArms, Missing, Options, gap_arms, is_arm
from sweeper.analysis.sweep_rows import SweepRows
from sweeper.analysis.terms import ALIGNMENT_QUESTION, GAP, Term, measure

NAIVE, NONE, DISPERSION = "naive", "none", "dispersion"

START, STEPS, TIDYING, CLOSENESS = "start", "steps", "dispersion", "distance"
"""The links."""

RUNG = Factor("align.objective", ("align_objective",))

BASE_STARTS = ("random", "pretrained")
"""Starts of the embedder that chains begin with, the first that there is."""


@dataclass(frozen=True)
class _Rung:
    """An arm of a chain: the start of its embedder, and what is minimised."""

    start: str
    objective: str

    @property
    def level(self) -> str:
        return f"{self.objective} @ {self.start}"


def explain_alignment(sweep: SweepRows, options: Options) -> tuple[list[Term], list[Missing]]:
    """The gap aligned minus naive by links, on each task, for each distance and start of the embedder.

    Args:
        sweep: The trials.
        options: Metric, margin and what else holds for all terms.

    Returns:
        The terms, the gap of each chain last; and the arms that are missing.
    """
    terms: list[Term] = []
    missing: list[Missing] = []
    by_task: dict[str, list[Row]] = {}
    for row in sweep.rows:
        if (rung := _rung(row)) is not None:
            rewritten = {**row, "align_objective": rung.level, "embedder_init": None, "embedder_weights": None}
            by_task.setdefault(str(row.get("task")), []).append(rewritten | ({"align_epochs": None} if rung.objective == NAIVE else {}))
    for task, rows in sorted(by_task.items()):
        rungs = {_parse(row["align_objective"]) for row in rows if is_arm(row, options.metric)}
        starts = sorted({rung.start for rung in rungs}, key=_order_of_start)
        lacking: dict[str, None] = {}
        objectives = sorted({rung.objective for rung in rungs} - {NAIVE})
        for distance in (objective for objective in objectives if objective not in (NONE, DISPERSION)):
            for start in starts:
                found = _find_chain(task, rows, rungs, distance, start, starts, sweep, options)
                if found is not None:
                    terms += found.terms
                    lacking |= dict.fromkeys(found.lacking)
        if names := tuple(objective for objective in (NONE, DISPERSION) if objective in lacking):
            arms = tuple(f"align.objective {objective}" for objective in names)
            missing.append(Missing(ALIGNMENT_QUESTION, task, arms, "align.objective", names, tuple(objectives), _WITHOUT[names]))
    return terms, missing


def _order_of_start(start: str) -> tuple[int, str]:
    return (BASE_STARTS.index(start) if start in BASE_STARTS else len(BASE_STARTS), start)


_WITHOUT: Mapping[tuple[str, ...], str] = {
    (NONE, DISPERSION): "More steps, tidier classes and closeness to the proxy cannot be told apart.",
    (NONE,): "More steps and tidier classes cannot be told apart.",
    (DISPERSION,): "Tidier classes and closeness to the proxy cannot be told apart.",
}


def _rung(row: Row) -> _Rung | None:
    """Where a trial stands; None if it aligns in the joint form alone, or is bodiless."""
    if row.get("align_epochs") is None:
        return None
    file = row.get("embedder_weights")
    # A random body has no embedding to start from, so the knob is null there: the start is drawn.
    start = f"file {PurePath(file).name}" if file else row.get("embedder_init") or "random"
    if row["align_epochs"] == 0:
        return _Rung(str(start), NAIVE) if not row.get("align_weight") else None
    return _Rung(str(start), str(row.get("align_objective") or "otdd-exact"))


def _parse(level: str) -> _Rung:
    objective, _, start = level.partition(" @ ")
    return _Rung(start, objective)


@dataclass(frozen=True)
class _Chain:
    """A chain: its terms, and the objectives of the rungs that it lacks."""

    terms: Sequence[Term]
    lacking: Sequence[str]


def _find_chain(
    task: str,
    rows: Sequence[Row],
    rungs: set[_Rung],
    distance: str,
    start: str,
    starts: Sequence[str],
    sweep: SweepRows,
    options: Options,
) -> _Chain | None:
    """The chain of a distance and a start: from the naive arm of the first start, or else of its own."""
    last = _Rung(start, distance)
    if last not in rungs:
        return None
    firsts = [_Rung(one, NAIVE) for one in dict.fromkeys((starts[0], start)) if _Rung(one, NAIVE) in rungs]
    for first in firsts:
        between = [rung for rung in (_Rung(start, one) for one in (NAIVE, NONE, DISPERSION)) if rung in rungs and rung != first]
        for kept in _subsets(between):
            side = _side_by_side(rows, [first, *kept, last], sweep, options)
            if side is not None and side.keys:
                return _terms(task, [first, *kept, last], side, len(starts) > 1, sweep, options)
    return None


def _subsets(rungs: Sequence[_Rung]) -> Iterator[list[_Rung]]:
    """All sets of rungs, larger ones first: a rung may share no setting with the ends of the chain."""
    for size in range(len(rungs), -1, -1):
        yield from map(list, combinations(rungs, size))


def _terms(task: str, rungs: Sequence[_Rung], side: GapArms, is_start_named: bool, sweep: SweepRows, options: Options) -> _Chain:
    baseline = math.fsum(of_key[rungs[0].level] for of_key in side.values) / len(side.keys)
    words = {rung.level: _words(rung, is_start_named) for rung in rungs}
    flags, notes = side.remarks(words, sweep, options)
    links = [(name_link(other.objective, rung.objective, other.start != rung.start), other, rung) for other, rung in pairwise(rungs)]
    terms = [
        measure(
            Term(
                question=ALIGNMENT_QUESTION,
                task=task,
                subject=f"{words[rungs[-1].level]} - {words[rungs[0].level]}",
                term=name,
                metric=options.metric,
                level=words[rung.level],
                baseline=words[other.level],
                contexts=side.contexts,
                flags=flags,
                notes=notes,
                by_seed=tuple(of_key[rung.level] - of_key[other.level] for of_key in side.values),
                seeds=tuple(key[0] if len(key) == 1 else key for key in side.keys),
                trials=side.trials(),
            ),
            baseline,
            options.margin,
            side.step,
            side.step,
        )
        for name, other, rung in [*(links if len(links) > 1 else ()), (GAP, rungs[0], rungs[-1])]
    ]
    return _Chain(terms, [one for one in (NONE, DISPERSION) if one not in {rung.objective for rung in rungs}])


def _side_by_side(rows: Sequence[Row], rungs: Sequence[_Rung], sweep: SweepRows, options: Options) -> GapArms | None:
    """The rungs in the settings of the last one, which reads all that any of them reads."""
    *levels, last = (rung.level for rung in rungs)
    of_chain = [row for row in rows if row["align_objective"] in (*levels, last)]
    return gap_arms(of_chain, RUNG, last, sweep, options.metric, levels)


_ORDER = (NAIVE, NONE, DISPERSION)


def name_link(other: str, objective: str, is_other_start: bool) -> str:
    """The name of the link from one rung to the next; of several links at once, as a rung between is missing, their names joined by `+`.

    >>> name_link("naive", "none", False), name_link("none", "otdd-exact", False)
    ('steps', 'dispersion+distance')
    """
    one, two = (_ORDER.index(rung) if rung in _ORDER else len(_ORDER) for rung in (other, objective))
    names = ([START] if is_other_start else []) + [STEPS, TIDYING, CLOSENESS][one:two]
    return "+".join(names)


def _words(rung: _Rung, is_start_named: bool) -> str:
    what = NAIVE if rung.objective == NAIVE else f"align.objective {rung.objective}"
    return f"{what}, start {rung.start}" if is_start_named else what
