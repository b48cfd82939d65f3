"""The command that draws figures: plot."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sweeper.commands.analysis import MetricOption
from sweeper.commands.completion import complete_figure
from sweeper.commands.options import ResultsOption, SweepArgument, report_errors


@report_errors
def plot(
    name: SweepArgument,
    figure: Annotated[
        str | None, typer.Argument(metavar="[FIGURE]", help="Figure to draw; default: list the figures.", autocompletion=complete_figure)
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", help="File to write: .svg, .pdf or .png.  [default: NAME-FIGURE.svg]"),
    ] = None,
    task: Annotated[str | None, typer.Option("--task", help="Only this task.")] = None,
    metric: MetricOption = None,
    results: ResultsOption = "results",
) -> None:
    """Draw a figure of a sweep, as SVG, PDF or PNG; without FIGURE, list those that the sweep can feed, and why not the others.

    The same tables give the same file, byte for byte.

    Example: `sweeper plot quickstart`, `sweeper plot quickstart effects -o effects.pdf`
    """
    from orca_core.errors import ConfigError, Fault
    from sweeper.results.workspace import Workspace
    from sweeper.show.plot import list_figures, write_figure

    chosen = metric or "test_error"
    if figure is None:
        if output is not None:
            raise ConfigError([Fault("--output", "must be used with a FIGURE", str(output), f"`sweeper plot {name}` lists them.")])
        typer.echo(list_figures(Workspace(results), name, chosen, task), nl=False)
    else:
        typer.echo(write_figure(Workspace(results), name, figure, output, chosen, task), nl=False)
