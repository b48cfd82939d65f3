"""Commands that carry on from a sweep elsewhere: export, soup."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from orca_core.errors import ConfigError, Fault
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
    kind: Annotated[
        str,
        typer.Option(
            "--kind",
            help="uniform: all members; greedy: those that do not raise the validation error; wise: of each trial by itself, models "
            "between the start of its fine-tuning and the end; wise-body: likewise, with the predictor of the end.",
        ),
    ] = "uniform",
    alphas: Annotated[
        str | None, typer.Option("--alphas", help="Of wise and wise-body: where, from 0, the start, to 1.  [default: 0,0.25,0.5,0.75,1]")
    ] = None,
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
    `--kind wise` averages each trial with its own start, by several shares (WiSE-FT), and says which share validation chooses.

    Example: `sweeper soup quickstart --kind greedy`, `sweeper soup my-sweep --where "seed = 0 and freezing = 'full'"`,
    `sweeper soup quickstart --kind wise-body --alphas 0.5,0.9,1`
    """
    from sweeper.results.workspace import Workspace
    from sweeper.running import interpolations
    from sweeper.running.soups import KINDS, make_soups
    from sweeper.show.interpolations import describe_interpolations, interpolations_to_table
    from sweeper.show.soups import describe_soups, soups_to_table
    from sweeper.show.tables import check_format, write_table

    check_format(format)
    faults, shares = _shares_of(alphas)
    if kind not in (*KINDS, *interpolations.KINDS):
        faults.append(Fault("--kind", f"must be one of {', '.join((*KINDS, *interpolations.KINDS))}", kind))
    elif alphas is not None and kind in KINDS:
        faults.append(Fault("--alphas", "must be given with --kind wise or wise-body alone", alphas))
    if faults:
        raise ConfigError(faults)
    workspace = Workspace(results, store)
    if kind in interpolations.KINDS:
        options: dict[str, Any] = {"task": task, "arm": arm, "where": where, "recompute": recompute, "again": again}
        points = interpolations.make_interpolations(workspace, name, kind=kind, alphas=shares or interpolations.ALPHAS, **options)
        if format == "table":
            typer.echo(describe_interpolations(points), nl=False)
        else:
            write_table(interpolations_to_table(points), format)
        return
    made = make_soups(workspace, name, kind=kind, task=task, arm=arm, where=where, recompute=recompute, again=again)
    if format == "table":
        typer.echo(describe_soups(name, made, results), nl=False)
    else:
        write_table(soups_to_table(made), format)


def _shares_of(alphas: str | None) -> tuple[list[Fault], list[float]]:
    """The numbers of `--alphas`, and the faults of those that are none."""
    faults: list[Fault] = []
    shares: list[float] = []
    for text in alphas.split(",") if alphas is not None else ():
        try:
            shares.append(float(text))
        except ValueError:
            faults.append(Fault("--alphas", "must be numbers from 0 to 1, joined by commas", text))
    return faults, shares
