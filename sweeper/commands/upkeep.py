"""Commands that tidy up: rm, clean, compact, doctor."""

from __future__ import annotations

from typing import Annotated

import typer

from sweeper.commands.options import ResultsOption, StoreOption, report_errors


@report_errors
def rm(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Name of the sweep.")],
    results: ResultsOption = "results",
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask for confirmation.")] = False,
) -> None:
    """Delete the rows of a sweep from the results.

    Example: `sweeper rm my-first-try --yes`
    """
    from sweeper.results.store import ResultStore
    from sweeper.upkeep.cleaning import remove_sweep

    if not yes:
        typer.confirm(f"Delete the rows of sweep {name} in {results}?", abort=True)
    typer.echo(remove_sweep(ResultStore(results), name), nl=False)


@report_errors
def clean(
    results: ResultsOption = "results",
    store: StoreOption = None,
    older_than: Annotated[float | None, typer.Option("--older-than", min=0, help="Drop stages older than this number of days.")] = None,
    max_gib: Annotated[
        float | None, typer.Option("--max-gib", "--most", min=0, help="Drop the oldest stages until this many GiB remain.")
    ] = None,
    sweep: Annotated[str | None, typer.Option("--sweep", help="Drop the stages that only this sweep needs.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only report what would be dropped.")] = False,
) -> None:
    """Drop stored stages to free disk space, but none that a running sweep needs. Results stay; a stage that is needed again is recomputed.

    Example: `sweeper clean --max-gib 50 --dry-run`
    """
    from sweeper.results.workspace import Workspace
    from sweeper.upkeep.cleaning import clean as clean_store

    done = clean_store(Workspace(results, store), older_than_days=older_than, max_gib=max_gib, sweep=sweep, dry_run=dry_run)
    typer.echo(done.text(dry_run), nl=False)


@report_errors
def compact(
    name: Annotated[str | None, typer.Argument(metavar="[NAME]", help="Name of a sweep; default: all sweeps.")] = None,
    results: ResultsOption = "results",
) -> None:
    """Merge the small files of the result tables. Safe while sweeps run and results are read.

    Example: `sweeper compact`
    """
    from sweeper.results.store import ResultStore

    tables = ResultStore(results)
    if name is not None:
        tables.check_sweep(name)
    for sweep in [name] if name else tables.sweeps():
        tables.compact(sweep)
        typer.echo(f"{sweep}: compacted")


@report_errors
def doctor(
    results: ResultsOption = "results",
    store: StoreOption = None,
    repair: Annotated[bool, typer.Option("--repair", help="Set damaged files aside; the next run restores what they held.")] = False,
) -> int:
    """Check the installation, the results and the stage store. Exit code 1 if anything is wrong.

    Example: `sweeper doctor --results /shared/results`
    """
    from sweeper.results.workspace import Workspace
    from sweeper.upkeep.doctor import examine

    text, healthy = examine(Workspace(results, store), repair=repair)
    typer.echo(text, nl=False)
    return 0 if healthy else 1
