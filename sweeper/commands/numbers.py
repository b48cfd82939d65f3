"""Commands about printed numbers and what they rest on: why, check, bundle."""

from __future__ import annotations

from typing import Annotated

import typer

from orca_core.errors import ConfigError, Fault
from sweeper.commands.options import ResultsOption, report_errors


@report_errors
def why(
    id: Annotated[str | None, typer.Argument(metavar="ID", help="Id of a number, such as k7f3a-9c2e.")] = None,
    of: Annotated[str | None, typer.Option("--list", metavar="NAME", help="List the numbers of this sweep with their ids instead.")] = None,
    results: ResultsOption = "results",
    format: Annotated[str, typer.Option("--format", help="text or json; with --list table, csv, json, markdown or latex.")] = "",
) -> None:
    """Show what a printed number rests on: what it states, SQL that gives it, trials, configs, machines.

    Ids stand in the column `number` of `best`, `compare`, `importance` and `floors` in any format but `table`. They are computed from
    the tables: the first part is a hash of what is stated, the second of the results behind it.

    Example: `sweeper why k7f3a-9c2e`, `sweeper why --list quickstart`
    """
    from sweeper.results.workspace import Workspace
    from sweeper.show.why import explain, list_numbers

    if (id is None) == (of is None):
        raise ConfigError([Fault("ID", "must be given, or --list NAME", id or Fault.ABSENT, "Example: `sweeper why --list quickstart`.")])
    workspace = Workspace(results)
    text = list_numbers(workspace, str(of), format or "table") if id is None else explain(workspace, id, format or "text")
    typer.echo(text, nl=False)
