"""Commands that tidy up: rm, clean, compact, doctor."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from orca_core.errors import ConfigError, Fault
from sweeper.commands.completion import complete_space, complete_sweep
from sweeper.commands.options import AnySweepArgument, DataOption, ResultsOption, StoreOption, SweepArgument, report_errors

if TYPE_CHECKING:
    from sweeper.results.workspace import Workspace


@report_errors
def rm(
    name: SweepArgument,
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
    sweep: Annotated[
        str | None, typer.Option("--sweep", help="Drop the stages that only this sweep needs.", autocompletion=complete_sweep)
    ] = None,
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
    name: AnySweepArgument = None,
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
    if name is None:
        tables.compact_floors()


@report_errors
def doctor(
    space: Annotated[
        str | None,
        typer.Argument(
            metavar="[SPACE]", help="With --address: a sweep whose data and resources the nodes must have.", autocompletion=complete_space
        ),
    ] = None,
    results: ResultsOption = "results",
    store: StoreOption = None,
    address: Annotated[
        str | None, typer.Option("--address", help="Examine the nodes of this Ray cluster instead, each from within.")
    ] = None,
    data: DataOption = None,
    repair: Annotated[bool, typer.Option("--repair", help="Set damaged files aside; the next run restores what they held.")] = False,
) -> int:
    """Check the installation, the results and the stage store. Exit code 1 if anything is wrong.

    With --address, check every node of a cluster within 20 seconds: code, versions, GPUs, stage store, memory, clock; with a SPACE, whether
    its data is there and its trials fit, too.

    Example: `sweeper doctor --results /shared/results`, `sweeper doctor quickstart --address auto --results s3://bucket/results`
    """
    from sweeper.results.workspace import Workspace

    if address is not None:
        return _examine_nodes(address, Workspace(results, store), space)
    if space is not None:
        raise ConfigError([Fault("SPACE", "must be used with --address", space, "`sweeper plan SPACE` checks it on this machine.")])
    from sweeper.upkeep.doctor import examine

    text, healthy = examine(Workspace(results, store), repair=repair)
    typer.echo(text, nl=False)
    return 0 if healthy else 1


def _examine_nodes(address: str, workspace: Workspace, name: str | None) -> int:
    from sweeper.planning.planner import make_plan
    from sweeper.running.cluster_address import check_form
    from sweeper.show.tables import terminal_width, text_table
    from sweeper.space.reading import load_space
    from sweeper.tune.examination import describe_reports, examine_cluster

    check_form(address)
    space = load_space(name) if name is not None else None
    configs = [trial.config for trial in make_plan(space).trials] if space is not None else []
    reports = examine_cluster(address, workspace, space, configs)
    if not reports:
        typer.echo(
            f"WRONG  the cluster at {address} has no node with CPUs. Start one with `ray start --address=HOST:PORT`; "
            "where there is an autoscaler, it starts nodes when a sweep runs, and `ray status` says what it can start."
        )
    for part in describe_reports(reports) if reports else ():
        if isinstance(part, str):
            typer.echo(part)
        else:
            columns, rows = part
            typer.echo(text_table(columns, rows, terminal_width(), wrapped=len(columns) - 1), nl=False)
    return 0 if reports and not any(report.troubles for report in reports) else 1
