"""How much memory a stage uses, and which data fits on a device."""

from __future__ import annotations

import resource
import sys

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


def fits(num_bytes: int, device: torch.device) -> bool:
    """Whether data may be moved to a device as a whole; always on the CPU, where it may be a memory-mapped file."""
    return device.type != "cuda" or num_bytes <= RESIDENT_SHARE * torch.cuda.mem_get_info(device)[0]
