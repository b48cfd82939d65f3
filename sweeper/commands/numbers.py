"""Commands about printed numbers and what they rest on: why, check, bundle."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
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
    if name is not None and (digest is not None or Path(name).is_file() or name.endswith(".zip")):
        return _check_bundle(Path(name), digest, {"--sample": sample, "--number": number})
    from sweeper.recompute import check_results

    return check_results(Workspace(results), name, sample=sample, number=number, format=format)


def _check_bundle(path: Path, digest: str | None, only_for_sweeps: Mapping[str, object]) -> int:
    from sweeper.upkeep.bundle import check_bundle

    if faults := [
        Fault(option, "must be used with a sweep, not with a bundle", value) for option, value in only_for_sweeps.items() if value
    ]:
        raise ConfigError(faults)
    archive, reasons = check_bundle(path, digest)
    if archive is None:
        typer.echo("".join(f"{path}: refused: {reason}\n" for reason in reasons), err=True, nl=False)
        return 1
    if digest is not None:
        typer.echo(f"{path}: unchanged: all {len(archive.files)} files have the digest {archive.digest}")
        return 0
    typer.echo(f"{path}: not damaged: {len(archive.files)} files agree with its manifest, whose SHA-256 is\n{archive.digest}")
    typer.echo("Whoever alters a bundle can make a manifest that fits: compare this with what its paper quotes, by --digest.")
    return 0


@report_errors
def bundle(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Name of the sweep.")],
    output: Annotated[Path | None, typer.Option("-o", "--output", help="File to write.  [default: NAME.bundle.zip]")] = None,
    results: ResultsOption = "results",
) -> None:
    """Write a sweep as one file that anyone can query: tables, plans, search space, versions, numbers as CSV, the report.

    The last line is its digest, which the report in it quotes. `sweeper check BUNDLE --digest HEX` refuses a bundle that differs in any
    byte. The same tables give the same file. Inside, README.txt says how to query it with DuckDB alone.

    Example: `sweeper bundle quickstart`, `sweeper bundle quickstart -o paper.bundle.zip`
    """
    from sweeper.results.workspace import Workspace
    from sweeper.running.driver import driver_of
    from sweeper.show.report.making import report_text
    from sweeper.upkeep.bundle import make_bundle, write_bundle

    workspace, path = Workspace(results), output or Path(f"{name}.bundle.zip")
    data, digest = make_bundle(workspace, name, report_text)
    if driver := driver_of(workspace.results, name):
        typer.echo(f"{name} is being run by {driver}: the bundle has what was written by now", err=True)
    write_bundle(path, data)
    typer.echo(f"{path}: {len(data) / 1e6:.1f} MB\n{digest}")
