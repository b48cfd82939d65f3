"""What holds on a GPU: one command that checks the promises there and measures, in under 8 minutes on an H100.

    python benchmarks/gpu.py                      everything
    python benchmarks/gpu.py --only bits speed    the sections named
    python benchmarks/gpu.py --minutes 20         each section gets its share of so many minutes

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

Lines are printed as they come, then one table of all promises: pass, FAIL or `not run`, with why: no GPU, no time, an error before it.
What is not run never counts as passed.

Exit code: 0 all promises passed; 1 a promise failed; 2 none failed, but some were not run. Without a GPU it is therefore 2, or 1.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from gpu_checks import BITS, CPU, LARGE, MEMORY, OTDD, REFUSALS, bits, cpu, large, memory, otdd, refusals
from gpu_speed import AUTO, PACKING, SPEED, SWEEP, auto, packing, speed, sweep
from gpu_trials import Clock, Line, NotHereError


@dataclass(frozen=True)
class Section:
    """A part of the whole.

    Args:
        run: Its lines, given what is left of its time.
        seconds: Its share of 8 minutes.
        promises: The lines among them by which it passes or fails.
        needs_gpu: Whether it is not run without one.
    """

    run: Callable[[Clock], Iterator[Line]]
    seconds: float
    promises: tuple[str, ...]
    needs_gpu: bool = True


SECTIONS = {
    "refusals": Section(refusals, 5, REFUSALS, needs_gpu=False),
    "sweep": Section(sweep, 40, SWEEP),
    "memory": Section(memory, 10, MEMORY),
    "large": Section(large, 40, LARGE),
    "otdd": Section(otdd, 15, OTDD),
    "cpu": Section(cpu, 20, CPU),
    "bits": Section(bits, 90, BITS),
    "packing": Section(packing, 80, PACKING),
    "auto": Section(auto, 25, AUTO),
    "speed": Section(speed, 145, SPEED),
}


class Result(NamedTuple):
    """A line of the last table."""

    section: str
    promise: str
    measured: str
    verdict: str


def results_of(name: str, has_gpu: bool, scale: float, deadline: float) -> list[Result]:
    """Run a section; a result for each of its lines, and one for each promise that has no line."""
    section, results, why = SECTIONS[name], list[Result](), "no GPU"
    if has_gpu or not section.needs_gpu:
        seconds, why, started = min(section.seconds * scale, deadline - time.monotonic()), "no time left", time.monotonic()
        clock = Clock(seconds)
        try:
            for line in section.run(clock) if seconds > 0 else ():
                verdict = {True: "pass", False: "FAIL", None: ""}[line.holds]
                results.append(Result(name, *line[:2], verdict))
                print(f"{name:<8} {line.what:<54} {line.value}  {verdict}", flush=True)
                if not clock.has(0):
                    break
        except NotHereError as error:
            why = str(error)
        except Exception as error:  # the other sections still run
            traceback.print_exc()
            results.append(Result(name, "runs without an error", f"{type(error).__name__}: {str(error)[:80]}", "FAIL"))
            why = "an error before it"
        print(f"{name:<8} took {time.monotonic() - started:.0f} s", flush=True)
    measured = {result.promise for result in results}
    return results + [Result(name, promise, why, "not run") for promise in section.promises if promise not in measured]


def main() -> int:
    """Run the sections, print their lines and the table; see the module for the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=SECTIONS, default=list(SECTIONS))
    parser.add_argument("--minutes", type=float, default=8.0, help="for all sections; what there is no time for is not run")
    parser.add_argument("--out", type=Path, help="file for the table as JSON")
    arguments = parser.parse_args()
    has_gpu, deadline = torch.cuda.is_available(), time.monotonic() + 60 * arguments.minutes
    gpu = f"{torch.cuda.get_device_name()}, CUDA {torch.version.cuda}" if has_gpu else "no GPU: what needs one is not run"
    print(f"{gpu}; torch {torch.__version__}, {os.cpu_count()} CPUs")
    torch.set_num_threads(1)
    results: list[Result] = []
    for name in arguments.only:
        results += results_of(name, has_gpu, arguments.minutes / 8, deadline)
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
