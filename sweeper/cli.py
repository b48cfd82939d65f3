"""The command line: `sweeper run | plan | query | ...`. Each command imports what it needs, so that `--help` starts at once."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Annotated, Any

import typer

from orca_core.errors import ConfigError, Fault, OrcaError, UnpinnedError
from orca_core.numerics import PORTABLE
from sweeper.workbench import choose_workbench

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    help="Sweeps and ablations of ORCA cross-modal fine-tuning on Ray Tune, results as Parquet.\n\n"
    "`sweeper plan quickstart` shows a plan; `sweeper run quickstart` runs or continues it; "
    '`sweeper best quickstart` and `sweeper query "select ..."` read the results.',
)

SpaceArgument = Annotated[str, typer.Argument(metavar="SPACE", help="A YAML file, or a name from ./search_spaces or the package.")]
ResultsOption = Annotated[str, typer.Option("--results", help="Folder or URI (s3://, gs://) of the results.")]
StoreOption = Annotated[str | None, typer.Option("--store", help="Folder or URI of the stage store.  [default: RESULTS/artifacts]")]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KNOB=VALUE", help="Set a knob of `base`, or a key of the sweep, like `sweep:seeds=1`. Repeatable."),
]
KnobOption = Annotated[list[str] | None, typer.Option("--set", metavar="KNOB=VALUE", help="Set a knob. Repeatable.")]
NameOption = Annotated[str | None, typer.Option("--name", help="Name of the sweep, instead of the one in the file.")]
DataOption = Annotated[
    Path | None, typer.Option("--data", help="Folder of published data sets, see `sweeper tasks NAME`.  [default: $SWEEPER_DATA, ./data]")
]
FormatOption = Annotated[str, typer.Option("--format", help="table, csv, json or markdown.")]


def _report_errors(command: Callable[..., int | None]) -> Callable[..., None]:
    """Run a command on the workbench of its `--data`. Print errors that users can cause to stderr, without traceback; exit code 2."""

    @wraps(command)
    def wrapped(*args: Any, **kwargs: Any) -> None:
        try:
            with choose_workbench(kwargs.get("data")).use():
                code = command(*args, **kwargs)
        except ConfigError as error:
            if isinstance(error, UnpinnedError):
                _start_again_pinned()
            typer.echo(str(error), err=True)
            raise typer.Exit(2) from None
        except OrcaError as error:
            typer.echo(str(error), err=True)
            raise typer.Exit(error.exit_code) from None
        except MemoryError:
            typer.echo("memory: must be enough for what the command reads, but is not", err=True)
            raise typer.Exit(2) from None
        except OSError as error:
            if isinstance(error, BrokenPipeError):
                sys.stderr.close()
                raise typer.Exit(0) from None
            typer.echo(f"{error.filename or 'a file'}: cannot be used ({error.strerror or error})", err=True)
            raise typer.Exit(2) from None
        raise typer.Exit(code or 0)

    return wrapped


def _start_again_pinned() -> None:
    """Replace this process with the same command in the environment for portable bits; return if it has that environment already."""
    if PORTABLE.items() <= os.environ.items():
        return
    sys.stdout.flush()
    os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], os.environ | PORTABLE)


def _parse_settings(values: list[str] | None) -> dict[str, Any]:
    """Parse `knob=value` options into a dict; values are YAML."""
    from sweeper.space.yaml_reader import parse_value

    faults, parsed = [], {}
    for text in values or ():
        knob, equals, value = text.partition("=")
        if not equals or not knob.strip():
            faults.append(Fault("--set", "must have the form knob=value", text, "Example: --set finetune.lr=1e-4"))
        else:
            parsed[knob.strip()] = parse_value(value)
    if faults:
        raise ConfigError(faults)
    return parsed


@app.command()
@_report_errors
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
) -> int:
    """Run or continue a sweep: only missing trials are run. Exit code 1 if trials failed.

    Example: `sweeper run quickstart --set sweep:seeds=1 --results /tmp/results`
    """
    from sweeper.results.workspace import Workspace
    from sweeper.space.reading import load_space
    from sweeper.sweep import run_space

    loaded = load_space(space, _parse_settings(settings), name)
    return run_space(
        loaded,
        Workspace(results, store),
        address=address,
        max_concurrent=max_concurrent,
        retry_failed=retry_failed,
        share=not no_share,
        quiet=quiet,
    )


@app.command()
@_report_errors
def plan(
    space: SpaceArgument,
    results: ResultsOption = "results",
    name: NameOption = None,
    settings: SetOption = None,
    data: DataOption = None,
    format: Annotated[str, typer.Option("--format", help="text, json or csv.")] = "text",
) -> None:
    """Show what `run` would do: the trials, the stages they share, and what is done already.

    Example: `sweeper plan quickstart --format csv > trials.csv`
    """
    from sweeper.results.workspace import Workspace
    from sweeper.show.plan import describe_plan
    from sweeper.space.reading import load_space

    typer.echo(describe_plan(load_space(space, _parse_settings(settings), name), Workspace(results), format), nl=False)


@app.command()
@_report_errors
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

    knobs = _parse_settings(settings)
    if keys := [key for key in knobs if key.startswith("sweep:")]:
        remedy = "For portable bits of one trial: --set bits=portable."
        raise ConfigError(
            [Fault(f"--set {key}", "must be a knob: a single trial has no keys of a sweep", knobs[key], remedy) for key in keys]
        )
    return run_one(knobs, Workspace(results, store), name=name, device=device, format=format)


@app.command()
@_report_errors
def query(
    sql: Annotated[str, typer.Argument(metavar="SQL", help="One SELECT over `trials`, `metrics` and `stages`.")],
    results: ResultsOption = "results",
    format: FormatOption = "table",
    output: Annotated[Path | None, typer.Option("-o", "--output", help="Write to a file.")] = None,
) -> None:
    """Query the results in SQL. Read-only: nothing is written, and no other file is read.

    Example: `sweeper query "select task, freezing, avg(test_error) from trials group by all"`
    """
    from sweeper.results.workspace import Workspace
    from sweeper.show.tables import write_table

    write_table(Workspace(results).sql(sql).arrow(), format, output)


@app.command()
@_report_errors
def best(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Name of the sweep.")],
    results: ResultsOption = "results",
    top: Annotated[int, typer.Option("--top", min=1, help="Number of arms per task.")] = 5,
    format: FormatOption = "table",
    task: Annotated[str | None, typer.Option("--task", help="For exports: the task whose best arm is exported.")] = None,
    export: Annotated[Path | None, typer.Option("--export", help="Write a search space that runs the best arm again.")] = None,
    export_model: Annotated[Path | None, typer.Option("--export-model", help="Write the best trial's model to a folder.")] = None,
    store: StoreOption = None,
) -> None:
    """Show the best arms of each task, by the mean of the sweep's metric over seeds.

    With `--export-model`, weights that the sweep did not keep are computed again.

    Example: `sweeper best quickstart --top 3`, `sweeper best quickstart --task digits --export best.yaml`
    """
    from sweeper.results.workspace import Workspace
    from sweeper.show.results import best_arms
    from sweeper.show.tables import write_table

    workspace = Workspace(results, store)
    if export is not None or export_model is not None:
        from sweeper.export import export_best

        typer.echo(export_best(workspace, name, task, space_file=export, model_folder=export_model), nl=False)
        return
    write_table(best_arms(workspace, name, top), format)


@app.command()
@_report_errors
def predict(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Model that `best --export-model DIR` wrote.")],
    file: Annotated[Path, typer.Argument(metavar="FILE", help="File or folder of raw samples, as the task had them.")],
    format: FormatOption = "table",
    output: Annotated[Path | None, typer.Option("-o", "--output", help="Write to a file; with .npy, an array.")] = None,
    probabilities: Annotated[bool, typer.Option("--probabilities", help="Write the probability of each class, too.")] = False,
    batch_size: Annotated[int | None, typer.Option("--batch-size", min=1, help="Samples at once.  [default: as in the trial]")] = None,
    device: Annotated[str, typer.Option("--device", help="cpu or cuda.")] = "cpu",
    any_range: Annotated[bool, typer.Option("--any-range", help="Take values far outside of the training range.")] = False,
) -> None:
    """Answer for the samples of a file with an exported model: names of classes, or values in their own unit.

    If the file holds the true answers, too, the error is printed to stderr.

    Example: `sweeper predict my-model new.csv --format csv -o answers.csv`
    """
    from sweeper.show.predictions import predict_file

    predict_file(
        folder,
        file,
        format=format,
        output=output,
        probabilities=probabilities,
        batch_size=batch_size,
        device=device,
        any_range=any_range,
    )


@app.command()
@_report_errors
def status(
    name: Annotated[str | None, typer.Argument(metavar="[NAME]", help="Name of a sweep; default: all sweeps.")] = None,
    results: ResultsOption = "results",
    format: FormatOption = "table",
) -> None:
    """Show the progress of sweeps: trials by status, and which process runs them.

    Example: `sweeper status`
    """
    from sweeper.results.workspace import Workspace
    from sweeper.show.results import sweep_status
    from sweeper.show.tables import write_table

    write_table(sweep_status(Workspace(results), name), format)


@app.command()
@_report_errors
def stop(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Name of the sweep.")],
    results: ResultsOption = "results",
) -> None:
    """End a running sweep cleanly, from any shell or machine. The same `run` command continues it.

    Example: `sweeper stop quickstart`
    """
    from sweeper.results.store import ResultStore
    from sweeper.running.driver import stop_sweep

    typer.echo(stop_sweep(ResultStore(results), name), nl=False)


@app.command()
@_report_errors
def show(
    trial: Annotated[str, typer.Argument(metavar="TRIAL", help="Id of a trial, or its first digits.")],
    results: ResultsOption = "results",
) -> None:
    """Show one trial: config, scores, stages, and the cause if it failed.

    Example: `sweeper show 3f2a`
    """
    from sweeper.results.workspace import Workspace
    from sweeper.show.trial import describe_trial

    typer.echo(describe_trial(Workspace(results), trial), nl=False)


@app.command()
@_report_errors
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


@app.command()
@_report_errors
def clean(
    results: ResultsOption = "results",
    store: StoreOption = None,
    older_than: Annotated[float | None, typer.Option("--older-than", min=0, help="Drop stages older than this number of days.")] = None,
    max_gib: Annotated[float | None, typer.Option("--most", min=0, help="Drop the oldest stages until this many GiB remain.")] = None,
    sweep: Annotated[str | None, typer.Option("--sweep", help="Drop the stages that only this sweep needs.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only report what would be dropped.")] = False,
) -> None:
    """Drop stored stages to free disk space, but none that a running sweep needs. Results stay; a stage that is needed again is recomputed.

    Example: `sweeper clean --most 50 --dry-run`
    """
    from sweeper.results.workspace import Workspace
    from sweeper.upkeep.cleaning import clean as clean_store

    done = clean_store(Workspace(results, store), older_than_days=older_than, max_gib=max_gib, sweep=sweep, dry_run=dry_run)
    typer.echo(done.text(dry_run), nl=False)


@app.command()
@_report_errors
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


@app.command()
@_report_errors
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


def _catalogue(kind: str) -> Callable[..., None]:
    @_report_errors
    def command(
        name: Annotated[str | None, typer.Argument(metavar="[NAME]", help="Show this one in full.")] = None,
    ) -> None:
        from sweeper.show.catalogue import describe

        typer.echo(describe(kind, name), nl=False)

    command.__doc__ = f"List the available {kind}; with a name, show one in full.\n\nExample: `sweeper {kind}`"
    return command


@app.command()
@_report_errors
def tasks(
    name: Annotated[str | None, typer.Argument(metavar="[NAME]", help="Show this one in full.")] = None,
    check: Annotated[bool, typer.Option("--check", help="Check for each task whether its files are present and complete.")] = False,
    fetch: Annotated[bool, typer.Option("--fetch", help="Fetch the table of openml/ID first; needs the package openml.")] = False,
    data: DataOption = None,
) -> None:
    """List the available tasks; with a name, show one in full: its files, where they must be, and whether they are.

    Example: `sweeper tasks --check --data ~/data`
    """
    from sweeper.show.catalogue import check_tasks, describe, fetch_table

    if check and name is not None:
        raise ConfigError([Fault("--check", "must be used without a NAME", name, "`sweeper tasks NAME` checks that task's files.")])
    if fetch:
        typer.echo(f"written: {fetch_table(name or '')}", err=True)
    typer.echo(check_tasks() if check else describe("tasks", name), nl=False)


@app.command()
@_report_errors
def proxies(
    names: Annotated[list[str] | None, typer.Argument(metavar="NAME", help="Show this one in full; with --task, rank these too.")] = None,
    body: Annotated[str | None, typer.Option("--body", help="Show its features by this body: number, classes, width, tokens.")] = None,
    task: Annotated[str | None, typer.Option("--task", help="Rank the body's proxies by their distance to this task.")] = None,
    seed: Annotated[int, typer.Option("--seed", help="With --task: seed of the trial.")] = 0,
    settings: KnobOption = None,
    results: ResultsOption = "results",
    store: StoreOption = None,
    format: FormatOption = "table",
    data: DataOption = None,
) -> None:
    """List the available proxies; with a name, show one in full; with a body, too, its features as computed by that body.

    With a task, rank the proxies by their distance to it before any training: the same `proxy_distance` and `proxy_distance_unlabelled`,
    bit for bit, as in a trial of that task, body and seed with alignment. A mini body that is not in the store is pretrained first.

    Example: `sweeper proxies pydoc --body mini-roberta`, `sweeper proxies photos+shuffled --task digits --body mini-swin`
    """
    from sweeper.show.catalogue import describe, describe_source

    if task is not None:
        from sweeper.results.workspace import Workspace
        from sweeper.show.proxies import rank_proxies
        from sweeper.show.tables import check_format, write_table

        check_format(format)
        write_table(rank_proxies(names or (), task, body, seed, _parse_settings(settings), Workspace(results, store)), format)
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


for _kind in ("spaces", "bodies"):
    app.command(_kind)(_catalogue(_kind))


@app.command()
@_report_errors
def schema() -> None:
    """Print the JSON Schema of search-space files, for editors.

    Example: `sweeper schema > search-space.schema.json`
    """
    import json

    from sweeper.space.schema import json_schema

    typer.echo(json.dumps(json_schema(), indent=2))


def main() -> None:
    """Entry point of the `sweeper` command."""
    # Without the line of code that a warning points to: it would be one of the library's, of no use here.
    warnings.showwarning = lambda message, *_, **__: typer.echo(f"warning: {message}", err=True)
    app()


if __name__ == "__main__":
    main()
