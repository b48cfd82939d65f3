"""Commands that carry on from a sweep elsewhere: export, soup."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sweeper.commands.options import ResultsOption, report_errors


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
