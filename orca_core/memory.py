"""How much memory a stage uses, and which data fits on a device."""

from __future__ import annotations

import gc
import resource
import sys
from contextlib import suppress

import torch

RESIDENT_SHARE = 0.5
"""Share of a device's free memory that a data set may occupy as a whole; a larger one is moved batch by batch."""


def start_peak(device: torch.device) -> None:
    """Reset the peak of a device's allocator; does nothing on the CPU, where the peak is the process's."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def peak_bytes(device: torch.device) -> int:
    """Peak bytes allocated on a GPU since `start_peak`, or held in RAM by this process so far."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def reserved_bytes(device: torch.device) -> tuple[int, int]:
    """What the allocator of this process holds of a GPU, tensors or not.

    Memory is given back only when it is short, so this peak survives `start_peak`.

    Returns:
        The peak in bytes since `limit_share`, and the memory of the GPU.
    """
    return int(torch.cuda.max_memory_reserved(device)), int(torch.cuda.get_device_properties(device).total_memory)


def limit_share(device: torch.device, share: float | None, context_bytes: int) -> None:
    """Let this process have no more than its share of a GPU, so that what needs more runs out of memory itself instead of its neighbours.

    Also gives back what the allocator still holds and no tensor needs. Does nothing on the CPU.

    Args:
        device: The device.
        share: Of the GPU's memory, in (0, 1]; None, or 1 = the limit of the process stays what it is.
        context_bytes: What the process takes of that share beside tensors.
    """
    if device.type != "cuda":
        return
    release(device)
    if share is not None and share < 1:
        whole = torch.cuda.get_device_properties(device).total_memory
        torch.cuda.set_per_process_memory_fraction(max(0.0, share - context_bytes / whole), device.index)


def release(device: torch.device) -> None:
    """Give memory that no tensor needs back to the GPU, where other processes may need it; does nothing on the CPU."""
    if device.type == "cuda" and torch.cuda.is_initialized():
        gc.collect()
        with suppress(RuntimeError):  # after an error of the GPU, every call fails: that error is the one to report
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(device)


def fits(num_bytes: int, device: torch.device) -> bool:
    """Whether data may be moved to a device as a whole; always on the CPU, where it may be a memory-mapped file."""
    return device.type != "cuda" or num_bytes <= RESIDENT_SHARE * torch.cuda.mem_get_info(device)[0]
