"""The question of a search space: what it may ask, and after how many seeds one looks for the answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from orca_core.config.paths import KNOBS, sections_of
from orca_core.errors import nearest
from sweeper.faults import Faults
from sweeper.space.axes import Axis
from sweeper.space.file import METRICS, SpaceFile
from sweeper.space.seeds import Question

_PATHS = {path.replace(".", "_"): path for path in KNOBS}
"""Column -> knob: a question may name a knob by its column, as `sweeper compare` does."""


def list_looks(first: int, most: int) -> tuple[int, ...]:
    """The numbers of seeds after which one looks, from `first` to `most`: each about 1.4 times the one before, so that two looks double it.

    >>> list_looks(3, 12)
    (3, 4, 6, 8, 12)
    """
    looks, step = [first], 0
    while looks[-1] < most:
        step += 1
        if (number := min(most, round(first * 2 ** (step / 2)))) > looks[-1]:
            looks.append(number)
    return tuple(looks)


def check_question(
    parsed: SpaceFile, axes: Sequence[Axis], variants: Mapping[str, Mapping[str, Any]], wrong: set[str], faults: Faults
) -> None:
    """Check `question`, and what `seeds: {until: decided}` goes together with. Keys in `wrong` have faults of their own and are skipped."""
    question = parsed.question
    if question is not None and "space" not in wrong:
        _check_factors(question, axes, variants, faults)
    if question is not None and question.metric not in METRICS:
        faults.add("question.metric", "must be a metric that tasks report", question.metric, nearest(question.metric, METRICS))
    if parsed.seeds.until is None:
        return
    if question is None and "question" not in wrong:
        remedy = "Say what is to be decided: question: {factor: KNOB, baseline: LEVEL}."
        faults.add("seeds.until", "must be used with a question", parsed.seeds.until, remedy)
    if parsed.search.algorithm != "grid":
        rule = "must be grid with seeds.until: candidates are compared by equal seeds, and scores of more seeds would propose other ones"
        remedy = "Vary the knob as a grid, or tune with a fixed number of seeds and search.replicate."
        faults.add("search.algorithm", rule, parsed.search.algorithm, remedy)
    if parsed.scheduler.name != "fifo":
        rule = "must be fifo with seeds.until: what is decided are errors of complete trials"
        faults.add("scheduler.name", rule, parsed.scheduler.name, "Remove the scheduler, or give a number of seeds.")


def _check_factors(question: Question, axes: Sequence[Axis], variants: Mapping[str, Mapping[str, Any]], faults: Faults) -> None:
    tuned = {knob for axis in axes if axis.is_tuned for knob in axis.knobs}
    varied = {knob for axis in axes for knob in axis.knobs} | {knob for knobs in variants.values() for knob in knobs}
    factors = varied - tuned - {"task"}
    sections = {section for knob in factors for section in sections_of(knob)}
    known = sorted(factors | sections | ({"variant"} if variants else set()))
    for key, given in (("factor", question.factor), ("within", question.within)):
        knob = _PATHS.get(given, given) if given is not None else None
        if knob is None:
            continue
        if knob in tuned:
            remedy = "A tuned knob has no levels to compare; give it a grid."
            faults.add(f"question.{key}", "must be a knob that varies as a grid or in variants", knob, remedy)
        elif knob not in known:
            remedy = nearest(knob, known) if known else "The space varies no knob but the task."
            faults.add(f"question.{key}", "must be a knob that the space varies, besides the task", knob, remedy)
    if question.within is not None and question.within == question.factor:
        faults.add("question.within", "must not be the factor itself", question.within)
