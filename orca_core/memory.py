"""How much memory a stage takes, and what fits beside it on a device."""

from __future__ import annotations

import resource
import sys

import torch

RESIDENT_SHARE = 0.5
"""Share of a device's free memory that a data set may take to lie there whole; a larger one is moved batch by batch."""


def start_peak(device: torch.device) -> None:
    """Begin to watch the peak of a device's allocator; nothing on the CPU, whose peak is the process's."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def peak_bytes(device: torch.device) -> int:
    """Most bytes that were allocated on a GPU since `start_peak`, or that this process ever held in RAM."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def fits(num_bytes: int, device: torch.device) -> bool:
    """Whether data may lie on a device whole; on the CPU always, where it may be a file mapped into memory."""
    return device.type != "cuda" or num_bytes <= RESIDENT_SHARE * torch.cuda.mem_get_info(device)[0]
