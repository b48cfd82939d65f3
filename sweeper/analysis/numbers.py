"""The numbers of a sweep with their ids: scores of arms, effects, shares of variance, floors, findings.

Every number is one that another function of this package has computed, for the command that prints it; here it is only told what it states
and which trials it rests on.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from orca_core.errors import ConfigError
from orca_core.floors.rows import FloorCase
from sweeper.analysis.answers import Evidence, Finding, answer, read_evidence
from sweeper.analysis.arms import RankedArm, Ranking, rank_arms
from sweeper.analysis.comparison import Comparison, compare, is_relative, step_of
from sweeper.analysis.contrasts import Contrast
from sweeper.analysis.effect import Effect
from sweeper.analysis.evidence_sql import difference_sql, floor_sql, mean_sql, relative_sql, rows_sql, share_sql
from sweeper.analysis.explanation import Explanation, explain_sweep
from sweeper.analysis.factors import KNOB_OF, VARIANT, Row, find_factor, list_levels, varying_columns
from sweeper.analysis.floors import Floors
from sweeper.analysis.number import EFFECT, FINDING, FLOOR, SCORE, SHARE, TERM, Number
from sweeper.analysis.representatives import is_usable, represent_arms, tuned_columns
from sweeper.analysis.sweep_rows import SweepRows, read_sweep_rows
from sweeper.analysis.terms import Term
from sweeper.analysis.variance_shares import ANOVA, FANOVA, Share, shares_of_variance
from sweeper.results.store import ResultStore

METRIC = "test_error"
"""The metric of numbers unless another one is asked for."""


def numbers_of(results: ResultStore, name: str) -> list[Number]:
    """The numbers that the commands print of a sweep without further options.

    Args:
        results: The result tables.
        name: Name of the sweep.

    Returns:
        Scores of all ranked arms by the sweep's metric and `test_error`; the floors of its tasks and splits; the effect of every factor
        against one baseline, on each task and over tasks; the shares of variance; the terms of what `sweeper explain` explains; the
        findings. What the trials do not allow is left out.

    Raises:
        ConfigError: If the sweep is unknown.
        StoreError: If a file is damaged.
    """
    sweep, floors = read_sweep_rows(results, name, [METRIC]), Floors.read(results)
    found = floor_numbers(floors, {FloorCase.of_row(row) for row in sweep.rows})
    try:
        found += score_numbers(rank_arms(results, name))
    except ConfigError:  # nothing is complete yet
        return found
    for factor, baseline in default_comparisons(sweep):
        with contextlib.suppress(ConfigError):  # no task has the baseline and another level
            found += filter(None, effect_numbers(name, compare_rows(sweep, factor, baseline)))
    with contextlib.suppress(ConfigError):  # nothing varies
        found += share_numbers(sweep, shares_of(sweep, METRIC), METRIC)
    with contextlib.suppress(ConfigError):  # there is no gap to explain
        found += filter(None, term_numbers(sweep, explain_sweep(sweep, allow_unfair=True)))
    evidence = read_evidence(results, name)
    return found + finding_numbers(evidence, answer(evidence))


# --------------------------------------------------------------------------------------------------------------------- scores


def score_numbers(ranking: Ranking) -> list[Number]:
    """The scores of all ranked arms, by the sweep's metric and by `test_error`."""
    metrics = dict.fromkeys((ranking.metric, METRIC))
    return [score_number(ranking, arm, metric) for arms in ranking.arms.values() for arm in arms for metric in metrics]


def score_number(ranking: Ranking, arm: RankedArm, metric: str = METRIC) -> Number:
    """The score of one arm: the mean of a metric over the seeds of its best candidate."""
    name, mean, half = ranking.sweep.name, arm.line[metric], arm.line[f"{metric}_ci95"]
    trials, keys = _trials(arm.rows)
    return Number(
        statement={"kind": SCORE, "sweep": name, "task": arm.arm.task, "arm": arm.arm.id, "metric": metric},
        value=mean,
        low=None if half is None else mean - half,
        high=None if half is None else mean + half,
        trials=trials,
        keys=keys,
        make_sql=lambda: mean_sql(name, trials, metric),
        settings={KNOB_OF.get(knob, knob): value for knob in ranking.sweep.varied if (value := arm.candidate.cells.get(knob)) is not None},
        command=("best", name),
    )


def _trials(rows: Iterable[Row]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The ids of some trials, each once, and their result keys. Rows of versions before result keys are known by the id; tables of other
    programs may have neither."""
    known = {str(row["trial"]): str(row.get("result_key") or row["trial"]) for row in rows if row.get("trial") is not None}
    return tuple(known), tuple(known.values())


# -------------------------------------------------------------------------------------------------------------------- effects


def default_comparisons(sweep: SweepRows) -> list[tuple[str, Any]]:
    """(factor, baseline) of every knob that varies, as `find_factor` and `find_level` take them: the baseline of the sweep's question; for
    other knobs the level that the papers compare with, or the first one."""
    found = []
    for factor, levels in _factors(sweep):
        if sweep.question.get("factor") in (factor.name, *factor.columns):
            found.append((factor.name, sweep.question.get("baseline")))
        elif len(factor.columns) == 1 and len(levels) > 1:
            usual = [level for level in _USUAL.get(factor.name, ()) if level in levels]
            found.append((factor.name, (usual or levels)[0]))
    return found


_USUAL: Mapping[str, Sequence[Any]] = {"freezing": ["full"], "body.weights": ["random"]}
"""Baselines of the papers that are not the first level."""


def _factors(sweep: SweepRows) -> Iterator[tuple[Any, list[Any]]]:
    """The factors that a comparison of the sweep may have, with their levels: knobs and the named variants."""
    chosen = represent_arms(sweep.rows, sweep.pair_by, sweep.objective)
    fixed = {"task", *sweep.pair_by, *tuned_columns(sweep.rows, sweep.pair_by)}
    for column in varying_columns(chosen, [*KNOB_OF, VARIANT]):
        if column not in fixed and (sweep.varied is None or column in (*sweep.varied, VARIANT)):
            factor = find_factor(column, chosen)
            yield factor, list_levels(factor, chosen)


def compare_rows(sweep: SweepRows, factor: str, baseline: Any, within: str | None = None, metric: str = METRIC) -> Comparison:
    """A comparison as `sweeper compare` makes it. Of margin, error rate and looks, on which only verdicts depend, the defaults."""
    return compare(
        sweep.rows,
        factor,
        baseline,
        within=within,
        metric=metric,
        allow_unfair=True,
        pair_by=sweep.pair_by,
        varied=sweep.varied,
        lists_plan=sweep.lists_plan,
        objective=sweep.objective,
        scheduler=sweep.scheduler,
    )


def effect_numbers(name: str, comparison: Comparison) -> list[Number | None]:
    """A number for each effect of a comparison, in their order: the difference; over tasks, the relative one. None where there is none.

    Args:
        name: Name of the sweep.
        comparison: The comparison.
    """
    return [_effect_number(name, effect, comparison) for effect in comparison.effects]


def _effect_number(name: str, effect: Effect, comparison: Comparison) -> Number | None:
    value = effect.relative if effect.task is None else effect.difference
    if value is None:
        return None
    behind = [contrast for contrast in comparison.contrasts if _is_behind(contrast, effect)]
    trials, keys = _trials(row for contrast in behind for pair in contrast.all_pairs() for row in (pair.baseline, pair.level))
    command = ["compare", name, "--factor", effect.factor, "--baseline", comparison.factor.spell(comparison.baseline)]
    command += ["--within", *effect.within] if effect.within else []
    command += ["--metric", effect.metric] if effect.metric != METRIC else []
    keep = ("task", "factor", "level", "baseline", "metric", "within")
    return Number(
        statement={"kind": EFFECT, "sweep": name} | {key: getattr(effect, key) for key in keep},
        value=value,
        low=effect.low,
        high=effect.high,
        trials=trials,
        keys=keys,
        make_sql=lambda: _effect_sql(name, effect, behind),
        command=command,
    )


def _is_behind(contrast: Contrast, effect: Effect) -> bool:
    """Whether an effect is made from the pairs of a contrast."""
    within = None if contrast.within is None else dict([contrast.within])
    if contrast.factor.to_data(contrast.level) != effect.level or within != effect.within:
        return False
    return contrast.task == effect.task if effect.task is not None else is_relative(contrast)


def _effect_sql(name: str, effect: Effect, behind: Sequence[Contrast]) -> str:
    pairs = [
        (str(contrast.task), ", ".join(map(str, key)), str(pair.level["trial"]), str(pair.baseline["trial"]))
        for contrast in behind
        for key in contrast.keys
        for pair in contrast.pairs[key].values()
    ]
    if effect.task is None:
        return relative_sql(name, pairs, effect.metric)
    # Equal differences are taken to be spread by rounding, as in `paired_t`.
    spread = step_of(behind[0]) / effect.contexts / 6**0.5 if effect.sd == 0 and effect.difference else None
    return difference_sql(name, [pair[1:] for pair in pairs], effect.metric, spread)


# --------------------------------------------------------------------------------------------------------------------- shares


def shares_of(sweep: SweepRows, metric: str) -> list[Share]:
    """The shares of variance as `sweeper importance` has them."""
    return shares_of_variance(sweep.rows, metric=metric, pair_by=sweep.pair_by, varied=sweep.varied, objective=sweep.objective)


def share_numbers(sweep: SweepRows, shares: Sequence[Share], metric: str) -> list[Number]:
    """A number for each share of variance, in their order."""
    return [_share_number(sweep, share, shares, metric) for share in shares]


def _share_number(sweep: SweepRows, share: Share, shares: Sequence[Share], metric: str) -> Number:
    trials, keys = _trials(row for _, _, row in share.cells)
    of = sweep.objective if share.method == FANOVA else metric
    has_sql = share.method == ANOVA and share.balanced

    def make_sql() -> str:
        if not has_sql:
            return rows_sql(sweep.name, trials, [*(name.replace(".", "_") for name in share.names), of])
        cells = [(str(row["trial"]), str(key), list(map(str, levels))) for key, levels, row in share.cells]
        terms = [other.factors for other in shares if other.task == share.task and other.method == ANOVA]
        return share_sql(sweep.name, cells, metric, share.factors, terms, share.names)

    return Number(
        statement={
            "kind": SHARE,
            "sweep": sweep.name,
            "task": share.task,
            "factors": list(share.factors),
            "method": share.method,
            "metric": of,
        },
        value=share.share,
        low=share.low,
        high=share.high,
        trials=trials,
        keys=keys,
        make_sql=make_sql,
        gives_rows=not has_sql,
        command=("importance", sweep.name, *(("--metric", metric) if metric != METRIC else ())),
    )


# --------------------------------------------------------------------------------------------------------------------- floors


def floor_numbers(floors: Floors, cases: Iterable[FloorCase]) -> list[Number]:
    """The test and validation errors of all models without a transformer on each of some splits."""
    return [
        number
        for case in sorted(cases, key=str)
        for model in floors.models([case])
        for metric in (METRIC, "valid_error")
        if (number := floor_number(floors, [case], model, metric)) is not None
    ]


def floor_number(floors: Floors, cases: Iterable[FloorCase], model: str, metric: str = METRIC) -> Number | None:
    """The error of a model without a transformer on one or more splits of a task; None if it is not known.

    Args:
        floors: All floors.
        cases: The splits.
        model: Name of the model.
        metric: `test_error` or `valid_error`.
    """
    wanted = sorted(set(cases), key=str)
    if model not in floors.models(wanted):
        return None
    rows = [floors.row(case, model) for case in wanted]
    known = [row[metric] for row in rows if row[metric] is not None]
    if len(known) < len(rows):
        return None
    task, default = wanted[0].task, FloorCase(wanted[0].task).cells()
    return Number(
        statement={
            "kind": FLOOR,
            "task": task,
            "model": model,
            "metric": metric,
            "cases": [{name: value for name, value in case.cells().items() if value != default[name]} for case in wanted],
        },
        value=sum(known) / len(known),
        low=None,
        high=None,
        trials=(),
        keys=tuple(f"{row['task_digest']} {model} {row['version']} {row['sklearn_version']}" for row in rows),
        make_sql=lambda: floor_sql(model, [case.cells() for case in wanted], metric),
        command=("floors", task, *wanted[0].settings().split()) if len(wanted) == 1 else (),
    )


# ------------------------------------------------------------------------------------------------------------------- findings


def finding_numbers(evidence: Evidence, findings: Sequence[Finding]) -> list[Number]:
    """A number for each task and finding, in the order of the statements of the findings: its verdict."""
    return [_finding_number(evidence, finding, number) for finding in findings for number in range(len(finding.statements))]


def _finding_number(evidence: Evidence, finding: Finding, number: int) -> Number:
    statement, name = finding.statements[number], evidence.sweep.name
    rows = [row for row in evidence.arms if is_usable(row, METRIC) and statement.task in (None, row.get("task"))]
    trials, keys = _trials(rows)
    if finding.name == "floors":
        cases = {FloorCase.of_row(row) for row in rows}
        of_models = [evidence.floors.row(case, model) for case in sorted(cases, key=str) for model in evidence.floors.models([case])]
        keys += tuple(f"{row['task_digest']} {row['model']} {row['version']} {row['sklearn_version']}" for row in of_models)
    return Number(
        statement={"kind": FINDING, "sweep": name, "task": statement.task, "name": finding.name, "question": finding.question},
        value=statement.verdict,
        low=None,
        high=None,
        trials=trials,
        keys=keys,
        make_sql=lambda: rows_sql(name, trials, [*evidence.varied, METRIC]),
        gives_rows=True,
        command=("findings", name),
    )


# -------------------------------------------------------------------------------------------------------------------- explanations


def term_numbers(sweep: SweepRows, explanation: Explanation) -> list[Number | None]:
    """A number for each term of an explanation, in their order: its value; over tasks, the relative one. None where there is none."""
    rows = {str(row["trial"]): row for row in sweep.rows if row.get("trial") is not None}
    return [_term_number(sweep, term, rows) for term in explanation.terms]


def _term_number(sweep: SweepRows, term: Term, rows: Mapping[str, Row]) -> Number | None:
    value = term.relative if term.task is None else term.value
    if value is None:
        return None
    trials, keys = _trials(rows[trial] for trial in term.trials if trial in rows)
    columns = [column for column in (sweep.varied or ()) if column != "task"]
    keep = ("task", "question", "subject", "term", "metric")
    return Number(
        statement={"kind": TERM, "sweep": sweep.name} | {name: getattr(term, name) for name in keep},
        value=value,
        low=term.low,
        high=term.high,
        trials=trials,
        keys=keys,
        make_sql=lambda: rows_sql(sweep.name, trials, [*columns, term.metric]),
        gives_rows=True,
        command=("explain", sweep.name, *(("--metric", term.metric) if term.metric != METRIC else ())),
    )
