"""The command that computes floors: what models without a transformer reach on a task."""

from __future__ import annotations

from typing import Annotated

import typer

from sweeper.commands.completion import complete_task
from sweeper.commands.options import DataOption, FormatOption, ResultsOption, read_settings, report_errors


@report_errors
def floors(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="[TASK]...", help="Tasks; default: all whose data is here.", autocompletion=complete_task)
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KNOB=VALUE",
            help="A knob that decides the samples: split_seed, train_samples, valid_share, validation.folds, reference_data.",
        ),
    ] = None,
    results: ResultsOption = "results",
    data: DataOption = None,
    format: FormatOption = "table",
) -> int:
    """Compute what models without a transformer reach on tasks, by the tasks' own scores: the floors that arms have to beat.

    Those that the results have already are not computed again. `sweeper run` computes the floors of its tasks, too; `sweeper best` shows
    the best one beside the arms. Exit code 1 if a floor failed, for instance because data is missing.

    Example: `sweeper floors`, `sweeper floors digits --set train_samples=100`
    """
    from sweeper.results.workspace import Workspace
    from sweeper.show.floors import compute_and_show

    return compute_and_show(names or (), *read_settings(settings), Workspace(results), format)
