"""The analyses as functions on Arrow tables of trials: what the commands print, for scripts and notebooks."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from orca_core.errors import ConfigError, Fault
from sweeper.analysis.answers import Evidence, answer, find_dims
from sweeper.analysis.comparison import ALPHA, compare_levels
from sweeper.analysis.effect import to_table
from sweeper.analysis.explanation import explain_sweep, explanation_to_table
from sweeper.analysis.factors import Row
from sweeper.analysis.floors import Floors
from sweeper.analysis.margins import DEFAULT_MARGIN, Margin
from sweeper.analysis.sweep_rows import OBJECTIVE, SweepRows, infer_pair_by, to_rows
from sweeper.analysis.variance_shares import shares_of_variance, shares_to_table


def effects(
    trials: pa.Table,
    factor: str,
    baseline: Any,
    *,
    by: str = "task",
    within: str | None = None,
    metric: str = "test_error",
    margin: Margin | str | float = DEFAULT_MARGIN,
    alpha: float = ALPHA,
    allow_unfair: bool = False,
    pair_by: Sequence[str] | None = None,
    varied: Collection[str] | None = None,
    objective: str = OBJECTIVE,
    scheduler: Mapping[str, Any] = {},
) -> pa.Table:
    """The effect of each level of a factor against a baseline, by task and over tasks, as `sweeper compare` has them.

    Args:
        trials: Rows of one sweep with columns of `trials`. Of `trial_status` rather than `trials`, so that failed trials are known, too.
        factor: The knob, as a path or a column; a section of knobs; or `variant`.
        baseline: Its level that the others are compared with; None for the trials that do not read the knob.
        by: `task` for a row for each task and one over tasks; `all` for the one over tasks alone.
        within: A knob whose values are looked at one by one.
        metric: The column that is compared; lower is better.
        margin: Margin of equivalence: `5%` of the baseline's mean error, at least one sample's worth, or a number in the metric's unit.
        alpha: Error rate of all verdicts together.
        allow_unfair: Whether comparisons that are not fair get a verdict.
        pair_by: The columns that the seeds vary; None = `seed`, and `split_seed` if every seed has its own.
        varied: Columns of the knobs that the sweep varies; None = all in which trials of a task differ.
        objective: The column by which candidates of tuned knobs are chosen.
        scheduler: The sweep's `scheduler`: `name` and `among`.

    Returns:
        A row for each `sweeper.analysis.effect.Effect`, whose fields are the columns.

    Raises:
        ConfigError: With all faults of the arguments.
    """
    sweep = _one_sweep(trials, pair_by, varied, objective, scheduler)
    compared = compare_levels(
        sweep, factor, baseline, by=by, within=within, metric=metric, margin=margin, alpha=alpha, allow_unfair=allow_unfair
    )
    return to_table(compared.effects)


def importance(
    trials: pa.Table,
    *,
    metric: str = "test_error",
    pair_by: Sequence[str] | None = None,
    varied: Collection[str] | None = None,
    objective: str = OBJECTIVE,
) -> pa.Table:
    """How much of the variance of a metric each factor, and each pair of factors, accounts for, as `sweeper importance` has it.

    Args:
        trials, metric, pair_by, varied, objective: As for `effects`.

    Returns:
        A row for each `sweeper.analysis.variance_shares.Share`, whose fields are the columns.

    Raises:
        ConfigError: With all faults of the arguments.
    """
    sweep = _one_sweep(trials, pair_by, varied, objective)
    shares = shares_of_variance(sweep.rows, metric=metric, pair_by=sweep.pair_by, varied=varied, objective=objective)
    return shares_to_table(shares)


def explain(
    trials: pa.Table,
    *,
    metric: str = "test_error",
    margin: Margin | str | float = DEFAULT_MARGIN,
    alpha: float = ALPHA,
    allow_unfair: bool = False,
    pair_by: Sequence[str] | None = None,
    varied: Collection[str] | None = None,
    objective: str = OBJECTIVE,
    scheduler: Mapping[str, Any] = {},
) -> pa.Table:
    """What explains the gaps pretrained minus random, by parts of the body, and aligned minus naive, by a chain of controls; as
    `sweeper explain` has it.

    Args:
        trials, metric, margin, allow_unfair, pair_by, varied, objective, scheduler: As for `effects`.
        alpha: Error rate of each question.

    Returns:
        A row for each `sweeper.analysis.terms.Term`, whose fields are the columns, without the trials; and in the row of a gap `causes`,
        the named ones, and `sentence`, what is said of it.

    Raises:
        ConfigError: With all faults of the arguments; or if the trials have no such gap.
    """
    sweep = _one_sweep(trials, pair_by, varied, objective, scheduler)
    return explanation_to_table(explain_sweep(sweep, metric=metric, margin=margin, alpha=alpha, allow_unfair=allow_unfair))


def _one_sweep(
    trials: pa.Table,
    pair_by: Sequence[str] | None,
    varied: Collection[str] | None = None,
    objective: str = OBJECTIVE,
    scheduler: Mapping[str, Any] = {},
) -> SweepRows:
    pair_by = infer_pair_by(trials) if pair_by is None else pair_by
    rows: list[Row] = list(to_rows(trials, pair_by))
    if not rows:
        raise ConfigError([Fault("trials", "must have rows", Fault.ABSENT)])
    if len({row.get("sweep") for row in rows}) > 1:
        raise ConfigError([Fault("trials", "must be rows of one sweep: select them by its name", Fault.ABSENT)])
    name = next((str(row["sweep"]) for row in rows if row.get("sweep")), "")
    return SweepRows(name, rows, None if varied is None else tuple(varied), tuple(pair_by), objective, scheduler=scheduler)


def findings(
    trials: pa.Table,
    *,
    metrics: pa.Table | None = None,
    floors: pa.Table | None = None,
    pair_by: Sequence[str] | None = None,
    varied: Collection[str] | None = None,
    objective: str = OBJECTIVE,
    scheduler: Mapping[str, Any] = {},
) -> pa.Table:
    """The questions that the trials vary something for, with a verdict for each task, as `sweeper findings` has them.

    Args:
        trials, pair_by, varied, objective, scheduler: As for `effects`.
        metrics: Rows of `metrics` of the same trials, for distances after alignment and seconds of epochs; None leaves out what needs them.
        floors: Rows of `floors`; None leaves out the question about them.

    Returns:
        A row for each question and task: `name`, `question`, `verdict` over all tasks, `task`, `task_verdict`, `text`, `numbers` as JSON
        text, `query` and `would_change`.

    Raises:
        ConfigError: If the trials are not of one sweep.
    """
    sweep = _one_sweep(trials, pair_by, varied, objective, scheduler)
    evidence = Evidence(
        sweep,
        _last_distances(metrics) if metrics is not None else {},
        _mean_seconds(metrics) if metrics is not None else {},
        Floors(floors.to_pylist() if floors is not None else ()),
        find_dims({row.get("task") for row in sweep.rows}),
    )
    texts = ("name", "question", "verdict", "task", "task_verdict", "text", "numbers", "query", "would_change")
    found = [
        (
            *(finding.name, finding.question, finding.verdict, statement.task, statement.verdict, statement.text),
            *(json.dumps(list(statement.numbers)), finding.query, finding.would_change),
        )
        for finding in answer(evidence)
        for statement in finding.statements
    ]
    return pa.Table.from_pylist([dict(zip(texts, row, strict=True)) for row in found], pa.schema([(text, pa.string()) for text in texts]))


def _of_stage(metrics: pa.Table, stage: str, column: str) -> pa.Table:
    """The rows of one stage that have a column, without those of folds."""
    is_of = pc.and_(pc.equal(metrics["stage"], stage), pc.is_valid(metrics[column]))
    if "fold" in metrics.column_names:
        is_of = pc.and_(is_of, pc.is_null(metrics["fold"]))
    return metrics.filter(is_of)


def _last_distances(metrics: pa.Table) -> dict[str, float]:
    """Trial -> distance in its last epoch of alignment."""
    aligned = _of_stage(metrics, "align", "distance").sort_by("epoch")
    return dict(zip(aligned["trial"].to_pylist(), aligned["distance"].to_pylist(), strict=True))


def _mean_seconds(metrics: pa.Table) -> dict[str, float]:
    """Trial -> mean seconds of its epochs of fine-tuning."""
    tuned = _of_stage(metrics, "finetune", "seconds")
    means = tuned.filter(pc.greater(tuned["seconds"], 0)).group_by("trial").aggregate([("seconds", "mean")])
    return dict(zip(means["trial"].to_pylist(), means["seconds_mean"].to_pylist(), strict=True))
