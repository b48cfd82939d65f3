"""A sweep as event files for TensorBoard, a run for each trial."""

from __future__ import annotations

from pathlib import Path

from sweeper.interchange.sweep import ExportedSweep
from sweeper.running.event_files import append_events, end_of, event_file, run_folder, scalar, settings_of


def write(sweep: ExportedSweep, path: Path) -> str:
    """Write the numbers of each epoch, the scores and, for the tab of hyperparameters, the settings of every trial.

    Returns:
        What was written.
    """
    shown = [*sweep.varied, *sweep.repeated]
    for trial in sweep.trials:
        numbers = [scalar(name, value, epoch, at) for name, epoch, value, at in trial.points()]
        events = [settings_of(trial.row, shown), *numbers, *end_of(trial.row)]
        append_events(event_file(path / run_folder(trial.row, shown), trial.row["attempt"]), events)
    return f"{len(sweep.trials)} runs"
