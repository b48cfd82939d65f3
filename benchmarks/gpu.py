"""What holds on a GPU: one command that checks the promises there and measures, in under 8 minutes on an H100.

    python benchmarks/gpu.py                      everything
    python benchmarks/gpu.py --only bits speed    the sections named
    python benchmarks/gpu.py --minutes 20         the sections share so many minutes

Sections, in their order:

    refusals   what a device cannot do is refused: the only section that needs no GPU
    sweep      by Ray, two trials on one GPU
    memory     out of memory as a row with its cause, and what it leaves
    large      data larger than the GPU's free memory
    otdd       values, gradients and seconds beside the CPU's
    cpu        first distance and loss beside the CPU's
    bits       the same trial twice, resumed, after shared stages
    packing    `gpu: 1, 0.5, 0.25` in trials an hour
    auto       `gpu: auto`
    speed      RoBERTa-base and Swin-B beside a bare loop, by number format, checkpointing and `finetune.compile`; random weights

Each section has a process of its own and a share of the time. What one does not use is there for the next ones; one that hangs, or takes
longer, is ended with all its processes.

Lines are printed as they come, then one table of all promises: pass, FAIL or `not run`, with why: no GPU, no time, a package that is
missing, an error before it. What is not run never counts as passed.

Exit code: 0 all promises passed; 1 a promise failed; 2 none failed, but some were not run. Without a GPU it is therefore 2, or 1.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from gpu_checks import BITS, CPU, LARGE, MEMORY, OTDD, REFUSALS, bits, cpu, large, memory, otdd, refusals
from gpu_process import End, Run, find_gpu, lines_of
from gpu_speed import AUTO, PACKING, SPEED, SWEEP, auto, packing, speed, sweep
from gpu_trials import WITHOUT_ERROR


@dataclass(frozen=True)
class Section:
    """A part of the whole.

    Args:
        run: Its lines, given what is left of its time.
        seconds: Its share of the time, beside those of the others; all together about 8 minutes.
        promises: The lines among them by which it passes or fails.
        needs_gpu: Whether it is not run without one.
    """

    run: Run
    seconds: float
    promises: tuple[str, ...]
    needs_gpu: bool = True


SECTIONS = {
    "refusals": Section(refusals, 3, REFUSALS, needs_gpu=False),
    "sweep": Section(sweep, 35, SWEEP),
    "memory": Section(memory, 15, MEMORY),
    "large": Section(large, 35, LARGE),
    "otdd": Section(otdd, 12, OTDD),
    "cpu": Section(cpu, 20, CPU),
    "bits": Section(bits, 110, BITS),
    "packing": Section(packing, 75, PACKING),
    "auto": Section(auto, 35, AUTO),
    "speed": Section(speed, 130, SPEED),
}

GRACE_S = 15.0
"""Seconds over its time after which a section is ended."""

END_S = 5.0
"""Seconds that are kept for ending processes and for the table."""


class Result(NamedTuple):
    """A line of the last table."""

    section: str
    promise: str
    measured: str
    verdict: str


def results_of(name: str, seconds: float, grace: float, method: str) -> list[Result]:
    """Run a section; a result for each of its lines, and one for each promise that has no line.

    Args:
        name: Of the section.
        seconds: Time that it has.
        grace: Further seconds after which it is ended.
        method: How its process is started.
    """
    results, end, started = list[Result](), End("no time left"), time.monotonic()
    if seconds > 1:
        lines = lines_of(SECTIONS[name].run, seconds, grace, method)
        while True:
            try:
                line = next(lines)
            except StopIteration as stop:
                end = stop.value
                break
            verdict = {True: "pass", False: "FAIL", None: ""}[line.holds]
            results.append(Result(name, line.what, line.value, verdict))
            print(f"{name:<8} {line.what:<54} {line.value}  {verdict}", flush=True)
    print(f"{name:<8} took {time.monotonic() - started:.0f} of {seconds:.0f} s{f': {end.why}' if end.why else ''}", flush=True)
    if end.is_error:
        results.append(Result(name, WITHOUT_ERROR, end.why, "FAIL"))
    failed = any(result.promise.endswith(WITHOUT_ERROR) for result in results)
    return results + not_run(name, results, "an error before it" if failed else end.why or "no time left")


def not_run(name: str, results: list[Result], why: str) -> list[Result]:
    """A result for each promise of a section that has none."""
    measured = {result.promise for result in results}
    return [Result(name, promise, why, "not run") for promise in SECTIONS[name].promises if promise not in measured]


def main() -> int:
    """Run the sections, print their lines and the table; see the module for the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=SECTIONS, default=list(SECTIONS))
    parser.add_argument("--minutes", type=float, default=8.0, help="for all sections; what there is no time for is not run")
    parser.add_argument("--out", type=Path, help="file for the table as JSON")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(143))  # so that the processes of a section end with this one
    began, whole = time.monotonic(), 60 * arguments.minutes - END_S
    method, gpu, no_gpu = find_gpu()
    print(f"{gpu or f'{no_gpu}: what needs a GPU is not run'}; torch {torch.__version__}, {os.cpu_count()} CPUs", flush=True)
    names = [name for name in SECTIONS if name in arguments.only]
    shares = sum(SECTIONS[name].seconds for name in names)
    results, due, start = list[Result](), 0.0, time.monotonic() - began
    for name in names:
        due += SECTIONS[name].seconds
        if no_gpu and SECTIONS[name].needs_gpu:
            results += not_run(name, [], no_gpu)
            continue
        passed = time.monotonic() - began
        seconds = start + (whole - start) * due / shares - passed
        results += results_of(name, seconds, max(0.0, min(GRACE_S, whole - passed - seconds)), method)
    promises = [result for result in results if result.verdict]
    print(f"\n{'section':<9} {'promise':<55} {'verdict':<8} measured")
    for result in promises:
        print(f"{result.section:<9} {result.promise:<55} {result.verdict:<8} {result.measured}")
    count = {verdict: sum(result.verdict == verdict for result in promises) for verdict in ("pass", "FAIL", "not run")}
    print(", ".join(f"{number} {verdict}" for verdict, number in count.items()))
    if arguments.out:
        arguments.out.write_text(json.dumps([result._asdict() for result in results], indent=1))
    return 1 if count["FAIL"] else 2 if count["not run"] else 0


if __name__ == "__main__":
    sys.exit(main())
