"""How an error of a trial is classed, and what a trial leaves in its process."""

from __future__ import annotations

import pytest
import torch

from orca_core.config.resolve import resolve_config
from orca_core.store import Store
from orca_core.trial_stages import TrialStages
from sweeper.running.execution import cause_of


@pytest.mark.parametrize(
    ("error", "cause"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."), "out-of-memory"),
        (RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported"), "out-of-memory"),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), "out-of-memory"),
        (RuntimeError("CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(handle)`"), "out-of-memory"),
        (RuntimeError("CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasSgemm(handle)`"), "cuda"),
        (RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"), "out-of-memory"),
        (RuntimeError("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasSgemm`"), "cuda"),
        (RuntimeError("CUDA error: an illegal memory access was encountered"), "cuda"),
    ],
)
def test_a_library_that_finds_no_room_on_a_gpu_is_out_of_memory_and_no_broken_gpu(error, cause):
    assert cause_of(error) == cause


def test_a_trial_on_the_cpu_does_not_compute_as_one_on_a_gpu_before_it_did(tmp_path):
    torch.use_deterministic_algorithms(True)
    try:
        TrialStages(resolve_config({"task": "digits"}), Store(tmp_path), "cpu")
        assert not torch.are_deterministic_algorithms_enabled()
    finally:
        torch.use_deterministic_algorithms(False)
