"""Runs one trial and turns its failures into data; used by the Ray worker and by `sweeper trial`."""

from __future__ import annotations

import traceback
from collections.abc import Generator
from contextlib import closing
from typing import Any

from orca_core.errors import ConfigError, DataError, DiskFullError, NotFiniteError, OrcaError, StoreError
from orca_core.rows import Row, TrialResult
from sweeper.running.job import TrialJob
from sweeper.workbench import open_workbench

Result = dict[str, Any]
"""How a trial ended: `status` COMPLETE with the scores, or FAIL with `cause`, `error` (one line) and `traceback`."""


_CUDA_WORDS = (
    "CUDA error",
    "CUDA driver",
    "NVIDIA driver",
    "No CUDA GPUs are available",
    "not compiled with CUDA",
    "CUDNN_STATUS",
    "cuDNN error",
    "CUBLAS_STATUS",
)


def execute(job: TrialJob) -> Generator[Row, None, Result]:
    """Run a trial, yield its rows, return how it ended. An error of the trial is a result, not an exception."""
    from orca_core.pipeline import trial_rows  # loads torch: only when a trial runs
    from orca_core.store import Store

    try:
        models = Store(job.models) if job.models else None
        workbench = open_workbench(job.data_root, job.cache_root, job.max_data_gib) if job.data_root else None
        store, keep_at = Store(job.store), job.keep_at
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
    if (found := next((cause for kind, cause in causes if isinstance(error, kind)), None)) is not None:
        return found
    if isinstance(error, ImportError):
        return "import"
    return "cuda" if _is_about_cuda(error) else "user-error"


def _is_about_cuda(error: BaseException) -> bool:
    """Whether an error says that the GPU, its driver or CUDA does not work. Out of memory is an error of its own."""
    if type(error).__name__ == "AcceleratorError":  # torch's: an error that a device reported, such as one of its memory
        return True
    text = str(error)
    return isinstance(error, RuntimeError | AssertionError) and any(words in text for words in _CUDA_WORDS)
