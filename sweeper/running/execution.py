"""One trial with its failures as data: what the Ray worker and `sweeper trial` both run."""

from __future__ import annotations

import traceback
from collections.abc import Collection, Generator, Mapping
from contextlib import closing
from typing import TYPE_CHECKING, Any

from orca_core.config.knobs import TrialConfig
from orca_core.errors import ConfigError, DataError, DiskFullError, NotFiniteError, OrcaError, StoreError
from orca_core.rows import TrialResult, row_to_json

if TYPE_CHECKING:
    from orca_core.pipeline import Keep

Outcome = dict[str, Any]
"""How a trial ended: `status` COMPLETE with the scores, or FAIL with `cause`, `error` (one line) and `traceback`."""


def execute(
    config: TrialConfig,
    store_uri: str,
    *,
    device: str = "cpu",
    keep_at: Mapping[str, Collection[int]] = {},
    keep: Keep = "none",
    models_uri: str | None = None,
) -> Generator[dict[str, Any], None, Outcome]:
    """Run a trial, yield its rows, return how it ended. An error of the trial is an outcome, not an exception."""
    from orca_core.pipeline import trial_rows  # torch is loaded by the first trial of a process, not by its start
    from orca_core.store import Store

    try:
        models = Store(models_uri) if models_uri else None
        rows = trial_rows(config, Store(store_uri), device=device, keep_at=keep_at, keep=keep, models=models)
        with closing(rows):
            while True:
                try:
                    yield row_to_json(next(rows))
                except StopIteration as stop:
                    result: TrialResult = stop.value
                    break
    except Exception as error:  # whatever a trial raises must become a row, and the sweep must go on
        text = str(error).strip().splitlines()
        line = f"{type(error).__name__}: {text[0] if text else ''}".rstrip(": ")
        return {"status": "FAIL", "cause": cause_of(error), "error": line, "traceback": traceback.format_exc()}
    return {"status": "COMPLETE"} | result.cells()


def cause_of(error: BaseException) -> str:
    """The class of a failure, by which it is retried or not."""
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
