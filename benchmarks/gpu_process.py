"""Runs a section of `gpu.py` in a process of its own: it begins with a fresh GPU, and is ended when it hangs or its time is over."""

from __future__ import annotations

import multiprocessing
import os
import signal
import tempfile
import time
import traceback
from collections.abc import Callable, Generator, Iterator
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import NamedTuple

import torch
from gpu_trials import Clock, Line, NotHereError, describe

Run = Callable[[Clock], Iterator[Line]]
"""Yields the lines of a section, given what is left of its time."""

IN_FORK = "forked subprocess"
"""Of torch's message in a process that was forked from one that had asked CUDA for anything."""


class End(NamedTuple):
    """Why a section gives no more lines.

    Args:
        why: In a few words; empty if it came to its end.
        is_error: Whether something went wrong, other than that a package is missing or there was no time.
    """

    why: str = ""
    is_error: bool = False


def lines_of(run: Run, seconds: float, grace: float, method: str) -> Generator[Line, None, End]:
    """The lines of a section as they come. All processes that it started are ended with it, and its temporary files removed.

    Args:
        run: The section; a function of a module.
        seconds: Time that it is told it has.
        grace: Further seconds after which it is killed.
        method: How its process is started: `fork`, which has all modules already, or `spawn`.
    """
    context = multiprocessing.get_context(method)
    with tempfile.TemporaryDirectory(prefix="gpu-", ignore_cleanup_errors=True) as folder:
        receiver, sender = context.Pipe(duplex=False)
        process = context.Process(target=_send, args=(run, seconds, folder, sender))
        process.start()
        sender.close()
        pid, end = process.pid, time.monotonic() + seconds + grace
        assert pid is not None
        try:
            while receiver.poll(max(0.0, end - time.monotonic())):
                try:
                    message = receiver.recv()
                except EOFError:
                    process.join()
                    return End(f"its process ended with exit code {process.exitcode}", is_error=True)
                if isinstance(message, End):
                    return message
                yield message
            return End(f"ended after {seconds + grace:.0f} s")
        finally:
            with suppress(ProcessLookupError):
                os.killpg(pid, signal.SIGKILL)
            with suppress(ProcessLookupError):  # its group is made first of all, but it may not have come so far
                process.kill()
            process.join()


def _send(run: Run, seconds: float, folder: str, sender: Connection) -> None:
    os.setpgid(0, 0)  # for Ray's processes and those of the compiler, which are in the same group
    tempfile.tempdir = folder
    torch.set_num_threads(1)
    clock = Clock(seconds)
    try:
        for line in run(clock):
            sender.send(line)
            if not clock.has(0):
                end = End("no time left")
                break
        else:
            end = End()
    except NotHereError as error:
        end = End(str(error))
    except ModuleNotFoundError as error:
        end = End(f"{error.name} is not installed")
    except Exception as error:  # the other sections still run
        traceback.print_exc()
        end = End(describe(error), is_error=True)
    sender.send(end)


def look(clock: Clock) -> Iterator[Line]:
    """One line: the GPU, once it has computed something."""
    if not torch.cuda.is_available():
        raise NotHereError("no GPU")
    torch.ones(2, device="cuda").sum().item()
    free, total = torch.cuda.mem_get_info()
    name = f"{torch.cuda.get_device_name()}, {free / 2**30:.1f} of {total / 2**30:.1f} GiB free, CUDA {torch.version.cuda}"
    yield Line("GPU", name)


def find_gpu() -> tuple[str, str, str]:
    """Look for a GPU without using it in this process, from which others may then be forked.

    Returns:
        How processes are to be started, what the GPU is, and why there is none; one of the two is empty.
    """
    for method in ("fork", "spawn"):
        lines = lines_of(look, 60, 0, method)
        try:
            return method, next(lines).value, ""
        except StopIteration as stop:
            why = stop.value.why
        finally:
            lines.close()
        if IN_FORK not in why:
            break
    return method, "", why
