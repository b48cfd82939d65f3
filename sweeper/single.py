"""Runs one trial in this process, without Ray: the same rows as in a sweep, bit for bit."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping
from typing import Any

from orca_core.config.resolve import resolve_config
from orca_core.errors import ConfigError, Fault
from orca_core.numerics import check_pinned
from orca_core.rows import EpochRow, ProbeRow, Row, StageRow, row_to_json
from sweeper.faults import Faults
from sweeper.planning.planned_arm import plan_trial
from sweeper.results.workspace import Workspace
from sweeper.running.claim import new_run
from sweeper.running.data_notes import tell_notes
from sweeper.running.job import TrialJob
from sweeper.running.parts import warn_of_small_parts
from sweeper.running.preflight import check_adapters, check_data, check_devices, check_embedders, check_mixing, check_stores
from sweeper.running.recorder import Recorder
from sweeper.running.worker import report_text, worker_facts
from sweeper.space.reading import check_name


def run_one(
    settings: Mapping[str, Any], workspace: Workspace, *, name: str | None, device: str, format: str, malformed: Iterable[Fault] = ()
) -> int:
    """Run one trial and print its rows.

    Args:
        settings: Knobs of the trial, at least `task`.
        workspace: Where stages are reused and kept, and rows are recorded.
        name: Name of the sweep under which the trial is recorded; None = not recorded.
        device: `cpu` or `cuda`.
        format: `text` or `json`, one row per line.
        malformed: Faults of options `--set` that are no settings; they are raised together with all others.

    Returns:
        Exit code: 0 done, 1 the trial failed.

    Raises:
        ConfigError: If the trial cannot be run. Nothing was started. `UnpinnedError` if a process with pinned bits could run it.
    """
    faults = Faults()
    faults.extend(malformed)
    knobs = {key: value for key, value in settings.items() if not key.startswith("sweep:")}
    for key in sorted(settings.keys() - knobs.keys()):
        remedy = "For portable bits of one trial: --set bits=portable."
        faults.add(f"--set {key}", "must be a knob: a single trial has no keys of a sweep", settings[key], remedy)
    if device not in ("cpu", "cuda"):
        faults.add("--device", "must be cpu or cuda", device)
    if format not in ("text", "json"):
        faults.add("--format", "must be text or json", format)
    if name is not None:
        check_name(name, "--name", faults)
    if "task" not in knobs:
        faults.add("task", "must be given", remedy="Example: --set task=digits; see `sweeper tasks`.")
    else:
        with faults.collecting():
            config = resolve_config(knobs)
    faults.raise_if_any()
    if config.bits == "portable":
        check_pinned(device)
    check_devices([config], device)
    check_data([config])
    tell_notes([config])
    for warning in warn_of_small_parts([config]):
        sys.stderr.write(f"warning: {warning}\n")
    check_adapters([config])
    check_embedders([config])
    check_mixing([config])
    check_stores(workspace)
    trial = plan_trial(config, device)
    recorder = None
    if name is not None:
        recorder = Recorder(workspace.results, name, "valid_error", run=new_run())
        recorder.start(trial, device=device)
    from sweeper.running.execution import execute  # loads torch, which takes seconds: only after all checks of the config

    if device == "cuda":
        import torch

        if not torch.cuda.is_available():
            raise ConfigError([Fault("--device", "must exist: torch sees no CUDA device", device)])
    if recorder is not None:
        recorder.locate(trial.id, None, None, json.loads(report_text(worker_facts(), device)))
    rows = execute(TrialJob(config, workspace.artifacts_uri, device))
    while True:
        try:
            row = next(rows)
        except StopIteration as stop:
            result: dict[str, Any] = stop.value
            break
        if recorder is not None:
            recorder.add_rows(trial.id, [row])
        if format == "json":
            sys.stdout.write(json.dumps(row_to_json(row)) + "\n")
        elif not isinstance(row, EpochRow) or not row.is_reused:
            sys.stdout.write(_format_row(row) + "\n")
        sys.stdout.flush()
    if recorder is not None:
        recorder.end(trial.id, result | {"ray_version": None})
        recorder.flush()
    _print_result(trial.id, result, format)
    return 1 if result["status"] == "FAIL" else 0


def _print_result(trial: str, result: Mapping[str, Any], format: str) -> None:
    if format == "json":
        sys.stdout.write(json.dumps({"table": "trials", "trial": trial} | dict(result)) + "\n")
        return
    if result["status"] == "FAIL":
        sys.stderr.write(result["traceback"])
    cells = {key: value for key, value in result.items() if key != "traceback"}
    sys.stdout.write(f"trial {trial}: " + ", ".join(f"{key} {_format_value(value)}" for key, value in cells.items()) + "\n")


_NOT_PRINTED = ("stage", "phase", "epoch", "key", "label_distances", "epochs", "reused_epochs", "saved_s")


def _format_row(row: Row) -> str:
    """A row as a line. Epochs that were found in the store are not printed; the line of their stage counts them."""
    cells = [f"{key} {_format_value(value)}" for key, value in row.cells().items() if key not in _NOT_PRINTED]
    if isinstance(row, ProbeRow):
        return f"probe      {', '.join(f'{key} {_format_value(value)}' for key, value in row.cells().items() if key not in _NOT_PRINTED)}"
    if isinstance(row, StageRow):
        if row.reused_epochs:
            cells.insert(0, f"{row.reused_epochs} of {row.epochs} epochs from the store, {row.saved_s:.3g} s saved")
        elif row.saved_s:
            cells.insert(0, f"from the store, {row.saved_s:.3g} s saved")
    return f"{row.stage:<9} {'total' if isinstance(row, StageRow) else row.epoch:>5}  {', '.join(cells)}"


def _format_value(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
