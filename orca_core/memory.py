"""How much memory a stage uses, which data fits on a device, and how the rest gets there."""

from __future__ import annotations

import ctypes
import gc
import resource
import sys
from collections.abc import Iterable
from contextlib import suppress

import torch
from torch import Tensor

RESIDENT_SHARE = 0.25
"""Share of the memory that is free for a process on a device that the data of a trial may occupy; what is beyond is moved batch by batch.
The rest is for the model, what training holds between the passes, and other trials on the same device."""

LARGEST_KEPT = 2**28
"""Size from which a block of memory is asked for from the system anew, in bytes, instead of from what was freed before."""

LARGEST_OF_OLD_GLIBC = 2**25
"""The same where the allocator refuses larger sizes, in bytes, as that of glibc once did: half of what it calls a heap."""

MOST_KEPT = 2**29
"""Most bytes at the end of its heap that a process keeps of what was freed, instead of giving them back to the system."""


def keep_freed_memory() -> None:
    """Let this process use memory again that it has freed; does nothing where its allocator is not that of glibc.

    By itself glibc gives back what is free at the end of the heap as soon as that is twice as large as the largest block so far. The
    results of one batch are more, so every batch would get all of its memory anew, and the system clears it page by page: a sixth to a
    quarter of the time in which mini-swin evaluates. No bit depends on it.
    """
    libc = ctypes.CDLL(None) if sys.platform == "linux" else None
    if hasattr(libc, "mallopt"):
        m_trim_threshold, m_mmap_threshold = -1, -3  # as <malloc.h> has them
        if not libc.mallopt(m_mmap_threshold, LARGEST_KEPT):
            libc.mallopt(m_mmap_threshold, LARGEST_OF_OLD_GLIBC)
        libc.mallopt(m_trim_threshold, MOST_KEPT)


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
    torch.cuda.init()  # the statistics are there only then
    release(device)
    torch.cuda.reset_peak_memory_stats(device)
    if share is not None and share < 1:
        whole = torch.cuda.get_device_properties(device).total_memory
        torch.cuda.set_per_process_memory_fraction(max(0.0, share - context_bytes / whole), device.index)


def fits(num_bytes: int, device: torch.device) -> bool:
    """Whether data may be moved to a device as a whole; always on the CPU, where it may be a memory-mapped file."""
    return device.type != "cuda" or num_bytes <= RESIDENT_SHARE * free_bytes(device)


def free_bytes(device: torch.device) -> int:
    """What this process can still take of a GPU: what is free there, but no more than is left of its own share."""
    free, total = torch.cuda.mem_get_info(device)
    share = torch.cuda.get_per_process_memory_fraction(device)
    return int(min(free, share * total - torch.cuda.memory_reserved(device)))


def resident(arrays: Iterable[Tensor], device: torch.device) -> list[Tensor]:
    """Arrays on a device as far as they fit there together, in their order; those that do not stay on the CPU.

    Args:
        arrays: On the CPU; one that is there twice counts once.
        device: Where to compute.
    """
    moved: dict[int, Tensor] = {}
    taken, found = 0, []
    for array in arrays:
        if id(array) not in moved:
            # What has been moved counts twice, as the free memory is less by it; rather that than an allocator's cache that nobody knows.
            moved[id(array)] = array.to(device) if fits(taken + array.nbytes, device) else array
            taken += array.nbytes if moved[id(array)].device.type == device.type else 0
        found.append(moved[id(array)])
    return found


def on_device(values: Tensor, device: torch.device, rows: Tensor | None = None) -> Tensor:
    """A part of a set, on a device. Nothing waits for the device, which may be at work on the batch before.

    Args:
        values: The set, on the CPU or on the device.
        device: Where to compute.
        rows: Numbers of the rows, on the CPU; None = all.
    """
    if values.device.type == device.type:
        return values if rows is None else values[rows.to(values.device, non_blocking=True)]
    if device.type != "cuda":
        return (values if rows is None else values[rows]).to(device)
    # A copy from pinned memory runs beside the computation. Torch keeps the memory until the copy is done.
    count = len(values) if rows is None else len(rows)
    pinned = torch.empty((count, *values.shape[1:]), dtype=values.dtype, pin_memory=True)
    pinned = pinned.copy_(values) if rows is None else torch.index_select(values, 0, rows, out=pinned)
    return pinned.to(device, non_blocking=True)


def release(device: torch.device) -> None:
    """Give a GPU back what the trials of this process do not use any more, for the next one and for other processes; nothing on a CPU.

    Modules may refer to themselves, such as those that a library wraps: then nothing but the collector frees their memory. And what the
    compiler keeps has CUDA graphs, with memory of their own.
    """
    if device.type != "cuda" or not torch.cuda.is_initialized():
        return
    if "torch._dynamo" in sys.modules:
        torch._dynamo.reset()
    gc.collect()
    with suppress(RuntimeError):  # after an error of the GPU every call fails, and that error is the one to report
        torch.cuda.empty_cache()
