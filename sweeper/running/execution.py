"""Runs one trial and turns its failures into data; used by the Ray worker and by `sweeper trial`."""

from __future__ import annotations

import traceback
from collections.abc import Generator
from contextlib import closing
from typing import Any

from orca_core.errors import ConfigError, DataError, DiskFullError, NotFiniteError, OrcaError, StoreError
from orca_core.node_cache import NodeCache
from orca_core.patience import Patience
from orca_core.rows import Row, TrialResult
from orca_core.workbench import Workbench
from sweeper.running.job import TrialJob
from sweeper.workbench import open_workbench

Result = dict[str, Any]
"""How a trial ended: `status` COMPLETE with the scores, or FAIL with `cause`, `error` (one line) and `traceback`."""


def execute(job: TrialJob, patience: Patience | None = None) -> Generator[Row, None, Result]:
    """Run a trial, yield its rows, return how it ended. An error of the trial is a result, not an exception.

    Args:
        job: The trial.
        patience: Waits for the stores, `job.storage_minutes` long; another thread may ask it for trouble, and may end its waits.
    """
    from orca_core.pipeline import trial_rows  # loads torch: only when a trial runs
    from orca_core.store import Store

    try:
        patience = patience or Patience()
        patience.minutes = job.storage_minutes
        folders = (job.data_root, job.cache_root, job.max_data_gib, job.artifact_cache_gib)
        workbench = open_workbench(*folders) if job.data_root else Workbench.current()
        cache = NodeCache.of(workbench)
        models = Store(job.models, patience, cache) if job.models else None
        store, keep_at = Store(job.store, patience, cache), job.keep_at
        rows = trial_rows(job.config, store, device=job.device, keep_at=keep_at, keep=job.keep, models=models, workbench=workbench)
        with closing(rows):
            result: TrialResult = yield from rows
    except Exception as error:  # any error of a trial becomes a row, and the sweep goes on
        text = str(error).strip().splitlines()
        line = f"{type(error).__name__}: {text[0] if text else ''}".rstrip(": ")
        return {"status": "FAIL", "cause": cause_of(error), "error": line, "traceback": traceback.format_exc()}
    return {"status": "COMPLETE"} | result.cells()


def cause_of(error: BaseException) -> str:
    """The class of a failure, which decides whether it is retried."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return "out-of-memory"
    causes: tuple[tuple[type[OrcaError], str], ...] = (
        (NotFiniteError, "not-finite"),
        (ConfigError, "config"),
        (DataError, "data"),
        (DiskFullError, "disk"),
        (StoreError, "store"),
    )
    return next((cause for kind, cause in causes if isinstance(error, kind)), "user-error")
