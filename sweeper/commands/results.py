"""Commands that read results: query, best, published, predict, status, show."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer

from orca_core.errors import ConfigError, Fault
from sweeper.commands.completion import complete_task
from sweeper.commands.options import (
    AnySweepArgument,
    FileFormatOption,
    FormatOption,
    OutputOption,
    ResultsOption,
    StoreOption,
    SweepArgument,
    report_errors,
)


@report_errors
def query(
    sql: Annotated[str, typer.Argument(metavar="SQL", help="One SELECT over `trials`, `metrics`, `stages`, `floors`: docs/results.md.")],
    results: ResultsOption = "results",
    format: FileFormatOption = None,
    output: OutputOption = None,
) -> None:
    """Query the results in SQL. Read-only: nothing is written, and no other file is read.

    `trials` has the finished trials of every sweep, one row each: name the sweep, and the task, whose errors have a unit of their own.

    Example: `sweeper query "select freezing, avg(test_error) as error from trials where sweep = 'quickstart' and task = 'digits' group by
    all"`, `sweeper query "from trials where sweep = 'quickstart'" -o trials.parquet`
    """
    from sweeper.results.workspace import Workspace
    from sweeper.show.tables import choose_format, write_table

    chosen = choose_format(format, output)  # before a query that may take minutes
    write_table(Workspace(results).sql(sql).arrow(), chosen, output)


@report_errors
def best(
    name: SweepArgument,
    results: ResultsOption = "results",
    top: Annotated[int, typer.Option("--top", min=1, help="Number of arms per task.")] = 5,
    format: FormatOption = "table",
    task: Annotated[
        str | None,
        typer.Option("--task", help="Only this task; for exports, the task whose best arm is exported.", autocompletion=complete_task),
    ] = None,
    export: Annotated[Path | None, typer.Option("--export", help="Write a search space that runs the best arm again.")] = None,
    export_model: Annotated[Path | None, typer.Option("--export-model", help="Write the best trial's model to a folder.")] = None,
    store: StoreOption = None,
    with_published: Annotated[
        bool, typer.Option("--published", help="Show published values of the same task and score beside the arms.")
    ] = False,
) -> None:
    """Show the best arms of each task, by the mean of the sweep's metric over seeds.

    A tuned arm is ranked by its best candidate, and only by candidates that are complete with all of their seeds.

    With `--export-model`, weights that the sweep did not keep are computed again.

    Example: `sweeper best quickstart --top 3`, `sweeper best quickstart --task digits --export best.yaml`,
    `sweeper best objectives --published`
    """
    from sweeper.results.workspace import Workspace
    from sweeper.show.results import best_arms, describe_best
    from sweeper.show.tables import write_table

    workspace = Workspace(results, store)
    if export is not None or export_model is not None:
        from sweeper.export import export_best

        typer.echo(export_best(workspace, name, task, space_file=export, model_folder=export_model), nl=False)
        return
    if format == "table":
        typer.echo(describe_best(workspace, name, top, task, with_published=with_published), nl=False)
    else:
        write_table(best_arms(workspace, name, top, task, with_published=with_published), format)


@report_errors
def published(
    task: Annotated[
        str | None, typer.Argument(metavar="[TASK]", help="Task; default: all that have values.", autocompletion=complete_task)
    ] = None,
    format: FileFormatOption = None,
    output: OutputOption = None,
) -> None:
    """Show values that papers and benchmarks print for a task, each with its score, its source and how sure it is.

    `best --published`, `plot NAME published` and the report lay those of the same score beside the arms of a sweep.

    Example: `sweeper published nb360/darcy`, `sweeper published -o published.csv`
    """
    from sweeper.show.published import describe_published, published_table
    from sweeper.show.tables import choose_format, write_table

    chosen = choose_format(format, output)
    if chosen == "table" and output is None:
        typer.echo(describe_published(task), nl=False)
    else:
        write_table(published_table(task), chosen, output)


@report_errors
def predict(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Model that `best --export-model DIR` wrote.")],
    file: Annotated[Path, typer.Argument(metavar="FILE", help="File or folder of raw samples, as the task had them.")],
    format: FileFormatOption = None,
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", help="Write to a file: .npy (an array), .csv, .json, .md, .tex or .parquet; others get a table."),
    ] = None,
    probabilities: Annotated[bool, typer.Option("--probabilities", help="Write the probability of each class, too.")] = False,
    batch_size: Annotated[int | None, typer.Option("--batch-size", min=1, help="Samples at once.  [default: as in the trial]")] = None,
    device: Annotated[str, typer.Option("--device", help="cpu or cuda.")] = "cpu",
    any_range: Annotated[bool, typer.Option("--any-range", help="Take values far outside of the training range.")] = False,
) -> None:
    """Answer for the samples of a file with an exported model: names of classes, or values in their own unit.

    If the file holds the true answers, too, the error is printed to stderr.

    Example: `sweeper predict my-model new.csv -o answers.csv`
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


@report_errors
def status(
    name: AnySweepArgument = None,
    results: ResultsOption = "results",
    arms: Annotated[bool, typer.Option("--arms", help="A line per arm: its candidates by state, and seconds.")] = False,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Show the sweep NAME live until it ends; Ctrl-C does not end it.")] = False,
    format: FormatOption = "table",
) -> int:
    """Show the progress of sweeps: trials by status, and which process runs them; of a single sweep, its arms, too.

    With --follow, from any shell or machine that sees the results: the live block of `sweeper run`, or plain lines if piped.

    Example: `sweeper status`, `sweeper status quickstart --follow`, `sweeper status quickstart --arms --format csv`
    """
    if follow:
        return _follow(name, results, {"--arms": arms, "--format": format != "table"})
    from sweeper.results.workspace import Workspace
    from sweeper.show.status import arms_status, describe_status, sweep_status
    from sweeper.show.tables import write_table

    if format == "table" and not arms:
        typer.echo(describe_status(Workspace(results), name), nl=False)
    else:
        write_table((arms_status if arms else sweep_status)(Workspace(results), name), format)
    return 0


def _follow(name: str | None, results: str, others: Mapping[str, bool]) -> int:
    from sweeper.results.workspace import Workspace
    from sweeper.show.follow import follow

    faults = [Fault(option, "must be used without --follow", Fault.ABSENT) for option, is_given in others.items() if is_given]
    if name is None:
        faults.append(Fault("NAME", "must be given with --follow", Fault.ABSENT, "`sweeper status` lists the sweeps."))
    if faults:
        raise ConfigError(faults)
    return follow(Workspace(results), str(name))


@report_errors
def show(
    trial: Annotated[str, typer.Argument(metavar="TRIAL", help="Id of a trial, or its first digits.")],
    results: ResultsOption = "results",
    format: Annotated[str, typer.Option("--format", help="text or json.")] = "text",
) -> None:
    """Show one trial: config, scores, stages, and the cause if it failed.

    Example: `sweeper show 3f2a`, `sweeper show 3f2a --format json`
    """
    from sweeper.results.workspace import Workspace
    from sweeper.show.trial import describe_trial

    typer.echo(describe_trial(Workspace(results), trial, format), nl=False)
