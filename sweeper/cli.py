"""The command line: `sweeper run | plan | query | ...`. Each command imports what it needs, so that `--help` starts at once."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Annotated

import typer

from orca_core.errors import ConfigError, Fault
from sweeper.commands import analysis, exports, node, numbers, upkeep
from sweeper.commands import report as reporting
from sweeper.commands import results as reading
from sweeper.commands.completion import complete_body, complete_command, complete_proxy, complete_space, complete_task
from sweeper.commands.floors import floors
from sweeper.commands.options import (
    DataOption,
    FormatOption,
    KnobOption,
    NameOption,
    ResultsOption,
    SetOption,
    SpaceArgument,
    StoreOption,
    SweepArgument,
    load_with_settings,
    read_settings,
    report_errors,
)
from sweeper.commands.plot import plot

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    help="Sweeps and ablations of ORCA cross-modal fine-tuning on Ray Tune, results as Parquet.\n\n"
    "`sweeper plan quickstart` shows a plan; `sweeper run quickstart` runs or continues it; "
    '`sweeper best quickstart` and `sweeper query "select ..."` read the results.',
)


def _print_version(is_wanted: bool) -> None:
    if not is_wanted:
        return
    from sweeper.running.code import package_version

    typer.echo(f"sweeper {package_version() or 'of an unknown version'}")
    raise typer.Exit


@app.callback()
def options(
    show_version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_print_version, help="Print the version and exit.")
    ] = False,
) -> None:
    """Take the options of the program itself."""


@report_errors
def run(
    space: SpaceArgument,
    results: ResultsOption = "results",
    store: StoreOption = None,
    address: Annotated[str | None, typer.Option("--address", help="Address of a running Ray cluster, or `auto`.")] = None,
    name: NameOption = None,
    settings: SetOption = None,
    data: DataOption = None,
    max_concurrent: Annotated[int | None, typer.Option("--max-concurrent", min=1, help="Maximum number of trials at once.")] = None,
    retry_failed: Annotated[bool, typer.Option("--retry-failed", help="Run failed trials again, whatever the cause.")] = False,
    no_share: Annotated[bool, typer.Option("--no-share", help="Make each trial compute all of its stages; the rows are the same.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print neither progress nor summary.")] = False,
    wait: Annotated[
        float,
        typer.Option("--wait", min=0, help="Minutes to wait until a driver that seems dead counts as dead, and for a first worker."),
    ] = 15.0,
    notify: Annotated[
        str | None,
        typer.Option(
            "--notify",
            metavar="COMMAND",
            help="Command to run when something keeps the sweep from going on; gets the text as last argument.",
        ),
    ] = None,
) -> int:
    """Run or continue a sweep: only missing trials are run. Exit code 1 if a trial failed or did not start.

    Example: `sweeper run quickstart --set sweep:seeds=1 --results /tmp/results`
    """
    from sweeper.results.workspace import Workspace
    from sweeper.running.cluster_address import check_form
    from sweeper.sweep import run_space

    if address is not None:
        check_form(address)
    loaded = load_with_settings(space, settings, name)
    return run_space(
        loaded,
        Workspace(results, store),
        address=address,
        max_concurrent=max_concurrent,
        retry_failed=retry_failed,
        share=not no_share,
        quiet=quiet,
        wait_minutes=wait,
        notify=notify,
    )


@report_errors
def plan(
    space: SpaceArgument,
    results: ResultsOption = "results",
    name: NameOption = None,
    settings: SetOption = None,
    data: DataOption = None,
    slots: Annotated[
        list[int] | None,
        typer.Option("--slots", min=1, help="Estimate the time on this many slots, of a cluster for instance; may be repeated."),
    ] = None,
    decide: Annotated[
        int | None,
        typer.Option(
            "--decide",
            metavar="N",
            min=1,
            help="Choose the N further trials that are expected to settle most open verdicts of a sweep; SPACE is its name.",
        ),
    ] = None,
    format: Annotated[str, typer.Option("--format", help="text, json or csv.")] = "text",
) -> None:
    """Show what `run` would do: the trials, the stages they share, what is done already, and how long it takes.

    Example: `sweeper plan quickstart --slots 8 --slots 64`, `sweeper plan quickstart --decide 24`
    """
    from sweeper.results.workspace import Workspace
    from sweeper.show.plan import describe_plan

    if decide is not None:
        from sweeper.show.decide import describe_advice

        only_without = {"--name": name, "--slots": slots}
        if faults := [Fault(option, "must be used without --decide", Fault.ABSENT) for option, given in only_without.items() if given]:
            raise ConfigError(faults)
        typer.echo(describe_advice(space, decide, *read_settings(settings), Workspace(results), format), nl=False)
        return
    typer.echo(describe_plan(load_with_settings(space, settings, name), Workspace(results), format, slots or ()), nl=False)


@report_errors
def trial(
    settings: KnobOption = None,
    results: ResultsOption = "results",
    store: StoreOption = None,
    name: Annotated[str | None, typer.Option("--name", help="Record the trial in the results as a sweep of this name.")] = None,
    data: DataOption = None,
    device: Annotated[str, typer.Option("--device", help="cpu or cuda.")] = "cpu",
    format: Annotated[str, typer.Option("--format", help="text, or json: one row per line.")] = "text",
) -> int:
    """Run one trial in this process, without Ray: the same rows as in a sweep, bit for bit.

    Example: `sweeper trial --set task=digits --set align.epochs=10 --set freezing=frozen-body`
    """
    from sweeper.results.workspace import Workspace
    from sweeper.single import run_one

    knobs, malformed = read_settings(settings)
    return run_one(knobs, Workspace(results, store), name=name, device=device, format=format, malformed=malformed)


@report_errors
def stop(
    name: SweepArgument,
    results: ResultsOption = "results",
) -> None:
    """End a running sweep cleanly, from any shell or machine. The same `run` command continues it.

    Example: `sweeper stop quickstart`
    """
    from sweeper.results.store import ResultStore
    from sweeper.running.driver import stop_sweep

    typer.echo(stop_sweep(ResultStore(results), name), nl=False)


@report_errors
def spaces(
    name: Annotated[str | None, typer.Argument(metavar="[NAME]", help="Show this one in full.", autocompletion=complete_space)] = None,
) -> None:
    """List the available spaces; with a name, show one in full.

    Example: `sweeper spaces`
    """
    from sweeper.show.catalogue import describe

    typer.echo(describe("spaces", name), nl=False)


@report_errors
def bodies(
    name: Annotated[str | None, typer.Argument(metavar="[NAME]", help="Show this one in full.", autocompletion=complete_body)] = None,
) -> None:
    """List the available bodies; with a name, show one in full.

    Example: `sweeper bodies`
    """
    from sweeper.show.catalogue import describe

    typer.echo(describe("bodies", name), nl=False)


@report_errors
def tasks(
    name: Annotated[str | None, typer.Argument(metavar="[NAME]", help="Show this one in full.", autocompletion=complete_task)] = None,
    check: Annotated[bool, typer.Option("--check", help="Check for each task whether its files are present and complete.")] = False,
    fetch: Annotated[bool, typer.Option("--fetch", help="Fetch the table of openml/ID first; needs the package openml.")] = False,
    data: DataOption = None,
) -> int:
    """List the tasks, those that can run here first; with a name, show one in full: its files, shapes, classes, columns.

    Exit code 1 if a file is broken. A missing file is not broken.

    Example: `sweeper tasks --check --data ~/data`
    """
    from sweeper.show.catalogue import check_tasks, describe_task, fetch_table, list_tasks

    if check and name is not None:
        raise ConfigError([Fault("--check", "must be used without a NAME", name, "`sweeper tasks NAME` checks that task's files.")])
    if fetch:
        typer.echo(f"written: {fetch_table(name or '')}", err=True)
    text, is_whole = check_tasks() if check else (list_tasks(), True) if name is None else describe_task(name)
    typer.echo(text, nl=False)
    return 0 if is_whole else 1


@report_errors
def proxies(
    names: Annotated[
        list[str] | None,
        typer.Argument(metavar="NAME", help="Show this one in full; with --task, rank these too.", autocompletion=complete_proxy),
    ] = None,
    body: Annotated[
        str | None,
        typer.Option("--body", help="Show its features by this body: number, classes, width, tokens.", autocompletion=complete_body),
    ] = None,
    task: Annotated[
        str | None,
        typer.Option("--task", help="Rank the body's proxies by their distance to this task.", autocompletion=complete_task),
    ] = None,
    seed: Annotated[int, typer.Option("--seed", help="With --task: seed of the trial.")] = 0,
    settings: KnobOption = None,
    results: ResultsOption = "results",
    store: StoreOption = None,
    format: FormatOption = "table",
    data: DataOption = None,
) -> None:
    """List the available proxies; with a name, show one in full; with a body, too, its features as computed by that body.

    With a task, rank the proxies by their distance to it before any training: the same `proxy_distance`, `proxy_distance_unlabelled`,
    `proxy_logme` and `proxy_h_score`, bit for bit, as in a trial of that task, body and seed with alignment. A mini body that is not in the
    store is pretrained first.

    Example: `sweeper proxies pydoc --body mini-roberta`, `sweeper proxies photos+shuffled --task digits --body mini-swin`
    """
    from sweeper.show.catalogue import describe, describe_source

    if task is not None:
        from sweeper.results.workspace import Workspace
        from sweeper.show.proxies import rank_proxies
        from sweeper.show.tables import check_format, write_table

        check_format(format)
        write_table(rank_proxies(names or (), task, body, seed, *read_settings(settings), Workspace(results, store)), format)
        return
    if len(names or ()) > 1:
        raise ConfigError([Fault("NAME", "must be one, without --task", " ".join(names or ()))])
    only_with_task = {"--set": settings, "--store": store, "--seed": seed, "--format": format != "table"}
    if faults := [Fault(option, "must be used with --task", Fault.ABSENT) for option, given in only_with_task.items() if given]:
        raise ConfigError(faults)
    name = names[0] if names else None
    if body is not None and name is None:
        raise ConfigError([Fault("--body", "must be used with a NAME or --task", body, "`sweeper proxies pydoc --body mini-roberta`.")])
    typer.echo(describe_source(str(name), body) if body else describe("proxies", name), nl=False)


@report_errors
def schema() -> None:
    """Print the JSON Schema of search-space files, for editors.

    Example: `sweeper schema > search-space.schema.json`
    """
    import json

    from sweeper.space.schema import json_schema

    typer.echo(json.dumps(json_schema(), indent=2))


def show_help(
    context: typer.Context,
    command: Annotated[
        str | None, typer.Argument(metavar="[COMMAND]", help="A command; default: the program.", autocompletion=complete_command)
    ] = None,
) -> None:
    """Show how a command is used: the same as `sweeper COMMAND --help`.

    Example: `sweeper help run`
    """
    app([command, "--help"] if command else ["--help"], prog_name=context.parent.info_name if context.parent else None)


GROUPS: dict[str, dict[str, Callable[..., None]]] = {
    "Run": {
        "plan": plan,
        "run": run,
        "status": reading.status,
        "watch": reporting.watch,
        "stop": stop,
        "trial": trial,
        "floors": floors,
        "soup": exports.soup,
    },
    "Ask": {
        "findings": analysis.findings,
        "best": reading.best,
        "compare": analysis.compare,
        "explain": analysis.explain,
        "importance": analysis.importance,
        "plot": plot,
        "report": reporting.report,
        "why": numbers.why,
        "query": reading.query,
        "show": reading.show,
        "predict": reading.predict,
    },
    "Look up": {
        "spaces": spaces,
        "tasks": tasks,
        "proxies": proxies,
        "bodies": bodies,
        "published": reading.published,
        "schema": schema,
        "help": show_help,
    },
    "Keep house": {
        "check": numbers.check,
        "bundle": numbers.bundle,
        "export": exports.export,
        "clean": upkeep.clean,
        "compact": upkeep.compact,
        "doctor": upkeep.doctor,
        "rm": upkeep.rm,
    },
}
"""The commands, in the groups and the order of `sweeper --help`: a new command is one line here."""

for _group, _commands in GROUPS.items():
    for _name, _command in _commands.items():
        app.command(_name, rich_help_panel=_group)(_command)
app.add_typer(node.app, name="node", rich_help_panel="Keep house")


def main() -> None:
    """Entry point of the `sweeper` command."""
    # Without the line of code that a warning points to: it would be one of the library's, of no use here.
    warnings.showwarning = lambda message, *_, **__: typer.echo(f"warning: {message}", err=True)
    app()


if __name__ == "__main__":
    main()
