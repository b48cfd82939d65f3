"""What explains the gaps of a sweep: pretrained against random by parts of the body, aligned against naive by a chain of controls."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from orca_core.errors import ConfigError, Fault
from sweeper.analysis.alignment_chain import explain_alignment
from sweeper.analysis.body_parts import explain_parts, explain_statistics
from sweeper.analysis.causes import Cause, find_causes
from sweeper.analysis.comparison import ALPHA
from sweeper.analysis.fairness import arm_facts
from sweeper.analysis.gap_arms import Missing, Options
from sweeper.analysis.margins import DEFAULT_MARGIN, Margin, parse_margin
from sweeper.analysis.paired import as_number, holm
from sweeper.analysis.sweep_rows import SweepRows
from sweeper.analysis.terms import ALIGNMENT_QUESTION, PARTS_QUESTION, STATISTICS_QUESTION, Term, judge, over_tasks, terms_to_table

if TYPE_CHECKING:
    import pyarrow as pa

QUESTIONS = (PARTS_QUESTION, STATISTICS_QUESTION, ALIGNMENT_QUESTION)


@dataclass(frozen=True)
class Explanation:
    """What explains the gaps of a sweep.

    Args:
        metric: The column that is explained.
        margin: The margin as it was asked for.
        alpha: Error rate of each question.
        terms: By question, then task, those over tasks last; the terms of a gap before the gap.
        causes: What is said of each gap.
        missing: The arms without which something cannot be told.
    """

    metric: str
    margin: Margin
    alpha: float
    terms: Sequence[Term]
    causes: Sequence[Cause]
    missing: Sequence[Missing]


def explain_sweep(
    sweep: SweepRows,
    *,
    metric: str = "test_error",
    margin: Margin | str | float = DEFAULT_MARGIN,
    alpha: float = ALPHA,
    allow_unfair: bool = False,
) -> Explanation:
    """Explain the gaps of a sweep.

    Args:
        sweep: The trials, with the plan.
        metric: The column that is explained; lower is better.
        margin: Margin of equivalence: `5%` of the mean error where a gap begins, at least one sample's worth, or a number.
        alpha: Error rate of each question: the probability that any term of it is named, or given a sign, that contributes nothing.
        allow_unfair: Whether arms that were not treated alike get verdicts.

    Raises:
        ConfigError: With all faults of the arguments; or if the sweep has no such gap.
    """
    faults: list[Fault] = []
    if not 0 < alpha < 0.5:
        faults.append(Fault("--alpha", "must be between 0 and 0.5", alpha))
    try:
        asked = parse_margin(margin)
    except ConfigError as error:
        faults += error.faults
    if not any(metric in row for row in sweep.rows):
        faults.append(Fault("--metric", "must be a column of numbers of `trials`", metric))
    if faults:
        raise ConfigError(faults)
    options = Options(metric, asked, alpha, allow_unfair, arm_facts(sweep.rows))
    terms: list[Term] = []
    causes: list[Cause] = []
    parts, missing_parts = explain_parts(sweep, options)
    links, missing_links = explain_alignment(sweep, options)
    for found in (parts, explain_statistics(sweep, options), links):
        judged = _judge([*found, *over_tasks(found)], options)
        marked, said = find_causes(judged, alpha)
        terms += marked
        causes += said
    missing = [*missing_parts, *missing_links]
    if not terms and not missing:
        rule = "must vary pretrained and random bodies, or aligned and naive embedders, in complete trials of a task"
        remedy = "Vary `body.keep` or `body.weights`, or `align.epochs` with 0; docs/explain.md has spaces for both."
        raise ConfigError([Fault("NAME", rule, sweep.name or Fault.ABSENT, remedy)])
    return Explanation(metric, asked, alpha, terms, causes, missing)


def _judge(terms: Sequence[Term], options: Options) -> list[Term]:
    """The terms of a question with p and verdicts: gaps are one family, all other terms another."""
    gaps = iter(judge([term for term in terms if term.is_gap], options.alpha, options.allow_unfair))
    others = judge([term for term in terms if not term.is_gap], options.alpha, options.allow_unfair)
    adjusted, _ = holm([float("nan") if term.p_interaction is None else term.p_interaction for term in others])
    rest: Any = iter([replace(term, p_interaction=as_number(p)) for term, p in zip(others, adjusted, strict=True)])
    return [next(gaps) if term.is_gap else next(rest) for term in terms]


def explanation_to_table(explanation: Explanation) -> pa.Table:
    """An explanation as an Arrow table: a row for each term; `causes` and `sentence` in the rows of gaps."""
    import pyarrow as pa

    said = {(cause.question, cause.task, cause.subject): cause for cause in explanation.causes}
    of_rows = [said.get((term.question, term.task, term.subject)) if term.is_gap else None for term in explanation.terms]
    return (
        terms_to_table(explanation.terms)
        .append_column("state", pa.array([cause and cause.state for cause in of_rows], pa.string()))
        .append_column("causes", pa.array([cause and list(cause.causes) for cause in of_rows], pa.list_(pa.string())))
        .append_column("sentence", pa.array([cause and cause.sentence for cause in of_rows], pa.string()))
    )
