"""Commands that answer questions from the tables of a sweep: compare, explain, importance, findings."""

from __future__ import annotations

from typing import Annotated

import typer

from sweeper.commands.options import FormatOption, ResultsOption, SweepArgument, report_errors

MetricOption = Annotated[str | None, typer.Option("--metric", help="Column of `trials`; lower is better.  [default: test_error]")]


@report_errors
def compare(
    name: SweepArgument,
    factor: Annotated[
        str | None, typer.Option("--factor", metavar="KNOB", help="Knob, section of knobs, or `variant`.  [default: the sweep's question]")
    ] = None,
    baseline: Annotated[
        str | None,
        typer.Option("--baseline", metavar="LEVEL", help="Level that the others are compared with; `none` where it is not read."),
    ] = None,
    by: Annotated[str | None, typer.Option("--by", help="task: each task, and over tasks; all: over tasks alone.  [default: task]")] = None,
    within: Annotated[str | None, typer.Option("--within", metavar="KNOB", help="Compare within each value of this knob.")] = None,
    metric: MetricOption = None,
    margin: Annotated[
        str | None,
        typer.Option("--margin", help="Difference that counts as none: 5%, of the baseline's error, or a number.  [default: 5%]"),
    ] = None,
    alpha: Annotated[float | None, typer.Option("--alpha", help="Error rate of all verdicts together.  [default: 0.05]")] = None,
    where: Annotated[
        str | None, typer.Option("--where", metavar="SQL", help="Only trials that meet this, as after `where` in a query of `trials`.")
    ] = None,
    allow_unfair: Annotated[bool, typer.Option("--allow-unfair", help="Give verdicts on comparisons that are not fair, too.")] = False,
    format: FormatOption = "table",
    results: ResultsOption = "results",
) -> None:
    """Compare the levels of a factor with a baseline, paired by seed: difference, interval, p, and a verdict in words.

    A level helps, hurts, or makes no difference that matters; or it is undecided, and how many seeds would decide it is said. All verdicts
    are corrected together. Tuned arms are compared at their best candidates by validation; a comparison that is not fair gets no verdict.

    Example: `sweeper compare quickstart --factor align.epochs --baseline 0 --within freezing`,
    `sweeper compare quickstart --factor proxy --baseline photos --where "proxy is not null and task = 'digits'"`
    """
    from sweeper.results.workspace import Workspace
    from sweeper.show.comparison import show_comparison

    options = {
        "factor": factor,
        "baseline": baseline,
        "by": by,
        "within": within,
        "metric": metric,
        "margin": margin,
        "alpha": alpha,
    }
    typer.echo(show_comparison(Workspace(results), name, options, format, allow_unfair, where), nl=False)


@report_errors
def explain(
    name: SweepArgument,
    metric: MetricOption = None,
    margin: Annotated[
        str | None,
        typer.Option("--margin", help="Change that counts as none: 5%, of the error where a gap begins, or a number.  [default: 5%]"),
    ] = None,
    alpha: Annotated[float | None, typer.Option("--alpha", help="Error rate of each question.  [default: 0.05]")] = None,
    where: Annotated[
        str | None, typer.Option("--where", metavar="SQL", help="Only trials that meet this, as after `where` in a query of `trials`.")
    ] = None,
    allow_unfair: Annotated[bool, typer.Option("--allow-unfair", help="Give verdicts on arms that were not treated alike, too.")] = False,
    missing: Annotated[
        bool, typer.Option("--missing", help="Print the sweep's search space with the arms that are missing, for `sweeper run`.")
    ] = False,
    format: FormatOption = "table",
    results: ResultsOption = "results",
) -> None:
    """Say what explains a gap: pretrained against random by parts of the body, aligned against naive link by link.

    The parts are those that `body.keep` varies (Shapley values, exact by all combinations). The links are more steps
    (`align.objective: none`), tidier classes (`dispersion`), closeness to the proxy (a distance), and the embedder's start. Each has an
    interval over seeds and a verdict; a cause is named only where it is shown. Arms that are missing are listed.

    Example: `sweeper explain my-sweep`, `sweeper explain my-sweep --missing > more.yaml`
    """
    from sweeper.results.workspace import Workspace
    from sweeper.show.explanation import missing_space, show_explanation

    workspace, options = Workspace(results), {"metric": metric, "margin": margin, "alpha": alpha}
    if missing:
        typer.echo(missing_space(workspace, name, options, where), nl=False)
        return
    typer.echo(show_explanation(workspace, name, options, format, allow_unfair, where), nl=False)


@report_errors
def importance(
    name: SweepArgument,
    metric: MetricOption = None,
    format: FormatOption = "table",
    results: ResultsOption = "results",
) -> None:
    """Show which share of the error's variance each factor, and each pair of factors, accounts for, by task.

    Example: `sweeper importance quickstart`
    """
    from sweeper.results.workspace import Workspace
    from sweeper.show.comparison import show_importance

    typer.echo(show_importance(Workspace(results), name, metric or "test_error", format), nl=False)


@report_errors
def findings(
    name: SweepArgument,
    format: Annotated[str, typer.Option("--format", help="text or json.")] = "text",
    results: ResultsOption = "results",
) -> None:
    """Answer the questions that a sweep varied something for: a verdict by task and overall, its numbers, and what would change it.

    Does training the embedder help, does the proxy matter, does a lower distance go with a lower error, what has to be trained, is
    pretraining needed? The verdicts are those of `sweeper compare`; the command behind each is printed with it.

    Example: `sweeper findings quickstart`
    """
    from sweeper.results.workspace import Workspace
    from sweeper.show.findings import show_findings

    typer.echo(show_findings(Workspace(results), name, format), nl=False)
