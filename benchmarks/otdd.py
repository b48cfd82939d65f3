"""What preparing the source side of OTDD saves: a call with the source prepared, compared with the same call from scratch.

    python benchmarks/otdd.py

Both use the same definition and the same stopping rule, in one run on one thread. A call computes the distance of one target class of 128
samples to the entire source (384 features, 10 labels) and its gradient. From scratch, every call includes the source's label distances and
its transport to itself, as in the reference code; prepared, they are computed once per alignment. Reported are CPU seconds, the median over
several calls, each on a different target.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import time
from functools import partial

import torch

from orca_core.distances import OtddSource, otdd

FEATURES, LABELS, TARGET = 384, 10, 128


def clouds(samples: int, targets: int) -> tuple[torch.Tensor, torch.Tensor, list[torch.Tensor]]:
    """Source features and labels, spread like the token means of an embedding, and target classes."""
    draws = torch.Generator().manual_seed(0)
    y = torch.arange(samples) % LABELS
    centres = torch.randn(LABELS, FEATURES, generator=draws)
    x = centres[y] + 0.5 * torch.randn(samples, FEATURES, generator=draws)
    return x, y, [torch.randn(FEATURES, generator=draws) + 0.7 * torch.randn(TARGET, FEATURES, generator=draws) for _ in range(targets)]


def seconds_of_a_call(call, targets) -> tuple[list[float], list[torch.Tensor]]:
    """CPU seconds of each call with its backward pass, and the distances."""
    seconds, values = [], []
    for target in targets:
        leaf = target.clone().requires_grad_(True)
        started = time.process_time()
        value = call(leaf)
        value.backward()
        seconds.append(time.process_time() - started)
        values.append(value.detach())
    return seconds, values


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, nargs="+", default=[2000, 5000])
    parser.add_argument("--calls", type=int, default=7)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    for samples in arguments.samples:
        x, y, targets = clouds(samples, arguments.calls)
        for inner in ("exact", "gaussian"):
            started = time.process_time()
            source = OtddSource(x, y, inner=inner)
            preparing = time.process_time() - started
            prepared, ours = seconds_of_a_call(source.distance, targets)
            scratch, theirs = seconds_of_a_call(partial(otdd, x, y, inner=inner), targets[:2])
            assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=False)), "prepared and from scratch must agree"
            ratio = statistics.median(scratch) / statistics.median(prepared)
            print(
                f"{samples} samples, {inner:<8}: prepared {statistics.median(prepared):.3f} s (once before: {preparing:.2f} s), "
                f"from scratch {statistics.median(scratch):.2f} s, {ratio:.0f} times",
                flush=True,
            )
    print(f"peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.2f} GiB")


if __name__ == "__main__":
    main()
