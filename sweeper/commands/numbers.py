"""Commands about printed numbers and what they rest on: why, check, bundle."""

from __future__ import annotations

from typing import Annotated

import typer

from orca_core.errors import ConfigError, Fault
from sweeper.commands.options import DataOption, FormatOption, ResultsOption, report_errors


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


@report_errors
def check(
    name: Annotated[str | None, typer.Argument(metavar="[NAME|BUNDLE]", help="Name of a sweep, or a file that `bundle` wrote.")] = None,
    sample: Annotated[int | None, typer.Option("--sample", metavar="N", min=1, help="Number of trials.  [default: 3]")] = None,
    number: Annotated[str | None, typer.Option("--number", metavar="ID", help="Only the trials that a number rests on.")] = None,
    digest: Annotated[str | None, typer.Option("--digest", metavar="HEX", help="SHA-256 that the bundle must have.")] = None,
    results: ResultsOption = "results",
    data: DataOption = None,
    format: FormatOption = "table",
) -> int:
    """Compute trials again from their configs, and compare every epoch bit for bit; or check that a bundle is unchanged.

    Trials are computed in an empty store, without Ray, and nothing is taken over. On another kind of machine than the one that computed
    them, errors are compared within a tolerance, which is printed; trials with `bits: portable` bit for bit on every processor of a vendor.
    Exit code 1 if a trial differs, or none could be checked.

    Example: `sweeper check quickstart`, `sweeper check --number k7f3a-9c2e`, `sweeper check quickstart.bundle.zip --digest 3b7e...`
    """
    from sweeper.results.workspace import Workspace

    if name is None and number is None:
        raise ConfigError([Fault("NAME", "must be given, or --number ID", Fault.ABSENT, "Example: `sweeper check quickstart`.")])
    from sweeper.recompute import check_results

    return check_results(Workspace(results), name, sample=sample, number=number, format=format)
