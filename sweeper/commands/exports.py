"""Commands that carry on from a sweep elsewhere: export, soup."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sweeper.commands.options import DataOption, FormatOption, ResultsOption, StoreOption, report_errors


@report_errors
def export(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Name of the sweep.")],
    to: Annotated[str, typer.Option("--to", help="optuna, mlflow, tensorboard, trackio, csv or pandas.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="File (optuna, mlflow) or folder to write; nothing is overwritten.")],
    results: ResultsOption = "results",
) -> None:
    """Write a sweep in the format of another tool: its settings, scores, curves, seeds and failures. See docs/exports.md.

    Example: `sweeper export quickstart --to optuna -o quickstart.db`, `sweeper export quickstart --to tensorboard -o runs`
    """
    from sweeper.interchange import export_sweep
    from sweeper.results.workspace import Workspace

    typer.echo(export_sweep(Workspace(results), name, to, output), nl=False)


@report_errors
def soup(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Name of the sweep.")],
    kind: Annotated[str, typer.Option("--kind", help="uniform: all members; greedy: those that do not raise the validation error.")] = (
        "uniform"
    ),
    task: Annotated[str | None, typer.Option("--task", help="Only this task.")] = None,
    arm: Annotated[str | None, typer.Option("--arm", metavar="ID", help="Only this arm; the first digits of its id.")] = None,
    where: Annotated[
        str | None, typer.Option("--where", metavar="SQL", help="Average the trials that meet this condition, whatever their arms.")
    ] = None,
    recompute: Annotated[bool, typer.Option("--recompute", help="Train members again whose weights are not in the store.")] = False,
    again: Annotated[bool, typer.Option("--again", help="Make soups that are there already again, and compare the numbers.")] = False,
    results: ResultsOption = "results",
    store: StoreOption = None,
    data: DataOption = None,
    format: FormatOption = "table",
) -> None:
    """Average the fine-tuned weights of each arm's runs, and evaluate the average: a model soup. Adds rows of the role `derived`.

    Members are the candidates of a tuned arm, for each seed, and else the seeds of an arm; --where chooses others. Members whose
    fine-tuning began with the same weights make the better soups: choose them by their seed. The same soup is made once.

    Example: `sweeper soup quickstart --kind greedy`, `sweeper soup my-sweep --where "seed = 0 and freezing = 'full'"`
    """
    from sweeper.results.workspace import Workspace
    from sweeper.running.soups import make_soups
    from sweeper.show.soups import describe_soups, soups_to_table
    from sweeper.show.tables import check_format, write_table

    check_format(format)
    workspace = Workspace(results, store)
    made = make_soups(workspace, name, kind=kind, task=task, arm=arm, where=where, recompute=recompute, again=again)
    if format == "table":
        typer.echo(describe_soups(name, made, results), nl=False)
    else:
        write_table(soups_to_table(made), format)
