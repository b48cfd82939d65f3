"""Runs one trial, or a group of them, and turns failures into data; used by the Ray worker and by `sweeper trial`."""

from __future__ import annotations

import json
import sys
import traceback
from collections.abc import Generator
from contextlib import closing, nullcontext
from typing import Any

from orca_core.errors import ConfigError, DataError, DiskFullError, NotFiniteError, OrcaError, StoreError
from orca_core.node_cache import NodeCache
from orca_core.patience import Patience
from orca_core.probing.request import ProbeRequest
from orca_core.rows import Row, TrialResult
from orca_core.workbench import Workbench
from sweeper.running.code import Code, code_here, differences
from sweeper.running.job import GROUP, PAUSED, TrialJob
from sweeper.running.own_data import fetch_own_data, other_contents
from sweeper.running.packing import CONTEXT_BYTES
from sweeper.running.secrets import conceal
from sweeper.workbench import open_on_worker

Result = dict[str, Any]
"""How a trial ended: `status` COMPLETE with the scores, or FAIL with `cause`, `error` (one line) and `traceback`. PAUSED, and nothing else,
of a member of a group that has come to its limit."""

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

_GPU_MEMORY_WORDS = (
    "CUDA error: out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate",  # what cuBLAS says, too, if there is no room for it when it is first used
    "CUDNN_STATUS_ALLOC_FAILED",
    "CUSOLVER_STATUS_ALLOC_FAILED",
)


class OtherCodeError(OrcaError):
    """This process has other code than the sweep was started with."""


class OtherDataError(OrcaError):
    """This machine has other data, or other weights of a body, than the plan was made with."""


def execute_message(text: str, patience: Patience | None = None, gpu_share: float | None = None) -> Generator[Row, None, Result]:
    """Run the trial of a message, as `execute`. The first thing compared is the code: with other code, not even the message can be trusted.

    Args:
        text: What `TrialJob.to_json` wrote.
        patience, gpu_share: As for `execute`.
    """
    patience = patience or Patience()
    try:
        message = json.loads(text)
        check_code(message["code"])
        patience.minutes = message["storage_minutes"]
        workbench = _open_workbench(message, patience)
        with workbench.use() if workbench is not None else nullcontext():
            job = TrialJob.from_json(text)  # reads the headers of the user's own data
    except Exception as error:  # any error of a trial becomes a row, and the sweep goes on
        return _failure(error)
    return (yield from execute(job, patience, gpu_share))


def execute(job: TrialJob, patience: Patience | None = None, gpu_share: float | None = None) -> Generator[Row, None, Result]:
    """Run a trial, yield its rows, return how it ended. An error of the trial is a result, not an exception.

    Args:
        job: The trial.
        patience: Waits for the stores, `job.storage_minutes` long; another thread may ask it for trouble, and may end its waits.
        gpu_share: How much of the memory of its GPU it may take, in (0, 1]; None = all.
    """
    try:
        _limit_share(job.device, gpu_share)
        patience = patience or Patience()
        patience.minutes = job.storage_minutes
        workbench = _open_workbench(vars(job), patience)
        with workbench.use() if workbench is not None else nullcontext():
            check_contents(job)
        with closing(_rows_of(job, patience, workbench)) as rows:
            result: TrialResult = yield from rows
        outcome = {"status": "COMPLETE"} | result.cells()
    except Exception as error:  # any error of a trial becomes a row, and the sweep goes on
        outcome = _failure(error)
    finally:
        release_device(job.device)
    return outcome


def _limit_share(device: str, share: float | None) -> None:
    """Hold this process to its share of a GPU; nothing on a CPU."""
    if device == "cuda":
        import torch

        from orca_core.memory import limit_share

        limit_share(torch.device(device), share, CONTEXT_BYTES)


def release_device(device: str) -> None:
    """Give back the memory of a GPU after a trial: this process may wait while others need it.

    An error must have been dealt with before, and the generator of a trial that was ended be closed, as they hold the trial's memory.

    Args:
        device: Device type of the trial; nothing is done for `cpu`.
    """
    if device == "cuda" and "torch" in sys.modules:
        import torch

        from orca_core.memory import release

        release(torch.device(device))


def execute_group(text: str, patience: Patience | None = None) -> Generator[tuple[str, Row | Result], None, None]:
    """Run the trials of a group side by side. What goes wrong in one of them is its own result.

    Args:
        text: What `group_to_json` wrote.
        patience: As for `execute`.

    Yields:
        The id of a trial, and its next row or, as its last, how it ended.
    """
    patience = patience or Patience()
    members: dict[str, Any] = json.loads(text)[GROUP]
    first = next(iter(members.values()))
    try:
        check_code(first["code"])
        from orca_core.fused_trials import rows_together  # loads torch: only when a trial runs

        patience.minutes = first["storage_minutes"]
        workbench = _open_workbench(first, patience)
    except Exception as error:
        for trial in members:
            yield trial, _failure(error)
        return
    runs, limits = {}, {}
    for trial, data in members.items():
        try:
            with workbench.use() if workbench is not None else nullcontext():
                job = TrialJob.from_json(json.dumps(data))
                check_contents(job)
        except Exception as error:
            yield trial, _failure(error)
            continue
        runs[trial] = _rows_of(job, patience, workbench, announces=True)
        if job.limit is not None:
            limits[trial] = job.limit
    with closing(rows_together(runs, workbench or Workbench.current(), limits)) as steps:
        for trial, step in steps:
            if isinstance(step, TrialResult):
                yield trial, {"status": "COMPLETE"} | step.cells()
            elif isinstance(step, Exception):
                yield trial, _failure(step)
            else:
                yield trial, step if step is not None else {"status": PAUSED}


def _rows_of(job: TrialJob, patience: Patience, workbench: Workbench | None, announces: bool = False) -> Generator[Row, None, TrialResult]:
    """The rows of a job's trial."""
    from orca_core.pipeline import trial_rows
    from orca_core.store import Store

    cache = NodeCache.of(workbench or Workbench.current())
    return trial_rows(
        job.config,
        Store(job.store, patience, cache),
        device=job.device,
        keep_at=job.keep_at,
        keep=job.keep,
        models=Store(job.models, patience, cache) if job.models else None,
        workbench=workbench,
        probes=ProbeRequest.from_json(job.probes) if job.probes else None,
        announces=announces,
    )


def check_code(wanted: Any) -> None:
    """Check that this process has the code with which a sweep was started. A node can be asked this before it gets a trial.

    Args:
        wanted: `dataclasses.asdict` of that `Code`; nothing is compared if it is empty.

    Raises:
        OtherCodeError: With all that differs.
    """
    if wanted and (found := differences(Code.from_data(wanted), code_here())):
        raise OtherCodeError(f"the code of this worker is not that with which the sweep was started: {'; '.join(found)}.")


def check_contents(job: TrialJob) -> None:
    """Check that a trial has the same stage keys here as in the plan, whose result its row will be; not if the plan's is not known.

    Raises:
        OtherDataError: If not, with what differs.
        DataError: If data is missing.
    """
    from orca_core.stages import result_key, stages_of

    if job.result_key and result_key(job.config, stages_of(job.config, job.device)) != job.result_key:
        found = list(other_contents(job.contents)) or ["the weights of the body, or data that comes with a library, are others here"]
        raise OtherDataError(f"the data of this worker is not that with which the sweep was planned: {'; '.join(found)}.")


def _open_workbench(job: Any, patience: Patience) -> Workbench | None:
    """The workbench that a job's folders ask for; None if it names none."""
    if not job["data_root"]:
        return None
    workbench = open_on_worker(job["data_root"], job["cache_root"], job["max_data_gib"], job["artifact_cache_gib"])
    fetch_own_data(job["own_data"], job["models"] or job["store"], workbench, patience)
    return workbench


def _failure(error: Exception) -> Result:
    text = str(error).strip().splitlines()
    is_sentence = isinstance(error, OrcaError) and bool(text)  # of our own errors the cause is a column, and the text is for people
    line = text[0] if is_sentence else f"{type(error).__name__}: {text[0] if text else ''}".rstrip(": ")
    trace = "".join(traceback.format_exception(error))
    return {"status": "FAIL", "cause": cause_of(error), "error": conceal(line), "traceback": conceal(trace)}


def cause_of(error: BaseException) -> str:
    """The class of a failure, which decides whether it is retried."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError" or _is_about_gpu_memory(error):
        return "out-of-memory"
    causes: tuple[tuple[type[OrcaError], str], ...] = (
        (OtherCodeError, "other-code"),
        (OtherDataError, "other-data"),
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


def _is_about_gpu_memory(error: BaseException) -> bool:
    """Whether a GPU had no room for something that torch's allocator does not make, such as a library's workspace."""
    return isinstance(error, RuntimeError) and any(words in str(error) for words in _GPU_MEMORY_WORDS)


def _is_about_cuda(error: BaseException) -> bool:
    """Whether an error says that the GPU, its driver or CUDA does not work. Out of memory is an error of its own."""
    if type(error).__name__ == "AcceleratorError":  # torch's: an error that a device reported, such as one of its memory
        return True
    text = str(error)
    return isinstance(error, RuntimeError | AssertionError) and any(words in text for words in _CUDA_WORDS)
