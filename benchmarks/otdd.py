"""What preparing the source side of OTDD saves, and what the distances of one epoch of an alignment cost.

    python benchmarks/otdd.py
    python benchmarks/otdd.py --against ../earlier
    python benchmarks/otdd.py --epoch --against ../earlier
    python benchmarks/otdd.py --near --against ../earlier

The first compares a call with the source prepared with the same call from scratch: same definition and stopping rule, in one run on one
thread. A call computes the distance of one target class of 128 samples to the entire source (384 features, 10 labels) and its gradient.
From scratch, every call includes the source's label distances and its transport to itself, as in the reference code; prepared, they are
computed once per alignment. Reported are CPU seconds, the median over several calls, each on a different target.

`--epoch` takes the distances of one epoch: 24 target classes of 30 to 76 samples to 2000 source samples of 384 features, forward and
backward, by the exact, Gaussian and annealed modes, all classes at once where the checkout can. The embedder's own passes are not included.

`--near` takes features a tenth as large: squared distances are then below a hundred epsilon, most samples exchange mass with others of
their own cloud, and preparing can leave nothing out.

`--against` loads the distances of another checkout beside these, alternates between the two from call to call, and reports both and the
ratio: beside other jobs, the ratio says more than the seconds.
"""

from __future__ import annotations

import argparse
import importlib.util
import resource
import statistics
import sys
import time
from functools import partial
from pathlib import Path
from types import ModuleType

import torch

from orca_core.distances import OtddSource, otdd
from orca_core.memory import keep_freed_memory

FEATURES, LABELS, TARGET = 384, 10, 128


def clouds(samples: int, targets: int, scale: float = 1.0) -> tuple[torch.Tensor, torch.Tensor, list[torch.Tensor]]:
    """Source features and labels, spread like the token means of an embedding, and target classes."""
    draws = torch.Generator().manual_seed(0)
    y = torch.arange(samples) % LABELS
    centres = torch.randn(LABELS, FEATURES, generator=draws)
    x = centres[y] + 0.5 * torch.randn(samples, FEATURES, generator=draws)
    centred = [torch.randn(FEATURES, generator=draws) + 0.7 * torch.randn(TARGET, FEATURES, generator=draws) for _ in range(targets)]
    return scale * x, y, [scale * target for target in centred]


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


def distances_of(checkout: Path) -> ModuleType:
    """The module `otdd_distance` of another checkout; what it imports from outside of the distances is this one's."""
    name = "orca_core.distances"
    ours = {known: sys.modules.pop(known) for known in list(sys.modules) if known.startswith(name)}
    folder = checkout / "orca_core" / "distances"
    try:
        spec = importlib.util.spec_from_file_location(name, folder / "__init__.py", submodule_search_locations=[str(folder)])
        assert spec is not None
        assert spec.loader is not None
        sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[name])
        return importlib.import_module(f"{name}.otdd_distance")
    finally:
        for known in [known for known in sys.modules if known.startswith(name)]:
            del sys.modules[known]
        sys.modules.update(ours)


def seconds_together(source, targets) -> tuple[float, list[torch.Tensor]]:
    """CPU seconds of the distances to all targets with their backward passes, at once where the source can, and the distances."""
    leaves = [target.clone().requires_grad_(True) for target in targets]
    started = time.process_time()
    if hasattr(source, "distances_and_labels"):
        values = [value for value, _ in source.distances_and_labels(leaves)]
        for value in values:
            value.backward()
    else:
        values = []
        for leaf in leaves:
            values.append(source.distance(leaf))
            values[-1].backward()
    return time.process_time() - started, [value.detach() for value in values]


def side_by_side(x, y, targets: list[list[torch.Tensor]], options: dict[str, str], sources: list) -> str:
    """Seconds to prepare, and the median of those of the distances to a list of targets, first ours.

    With another checkout also its own, the ratio, and how far the values differ.
    """
    prepared, preparing = [], []
    for make in sources:
        started = time.process_time()
        prepared.append(make(x, y, **options))
        preparing.append(time.process_time() - started)
    seconds, values = [[] for _ in sources], [[] for _ in sources]
    for some in [targets[0], *targets]:  # the first one warms up
        for k, source in enumerate(prepared):
            took, found = seconds_together(source, some)
            seconds[k].append(took)
            values[k] += found
    calls = [statistics.median(some[1:]) for some in seconds]
    if len(sources) == 1:
        return f"{calls[0]:.3f} s (once before: {preparing[0]:.2f} s)"
    off = max(abs(a.item() - b.item()) / abs(b.item()) for a, b in zip(*values, strict=True))
    return (
        f"{calls[0]:.3f} s, was {calls[1]:.3f}: {calls[1] / calls[0]:.2f} times faster; "
        f"once before {preparing[0]:.2f} s, was {preparing[1]:.2f}: {preparing[1] / preparing[0]:.1f} times; values differ by {off:.0e}"
    )


def epoch(sources: list, scale: float) -> None:
    """Seconds of the distances of one epoch in all three modes."""
    x, y, targets = clouds(2000, 24, scale)
    targets = [target[: 30 + 2 * k] for k, target in enumerate(targets)]
    modes = {
        "exact": {"inner": "exact"},
        "gaussian": {"inner": "gaussian"},
        "annealed": {"inner": "exact", "solver": "annealed"},
    }
    for name, options in modes.items():
        print(f"one epoch, {name:<8}: {side_by_side(x, y, [targets] * 3, options, sources)}", flush=True)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, nargs="+", default=[2000, 5000])
    parser.add_argument("--calls", type=int, default=7)
    parser.add_argument("--epoch", action="store_true", help="the distances of one epoch instead of single calls")
    parser.add_argument("--near", action="store_true", help="samples that are near each other")
    parser.add_argument("--against", type=Path, help="another checkout, to compare with")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()  # as trials do
    scale = 0.1 if arguments.near else 1.0
    sources = [OtddSource] + ([] if arguments.against is None else [distances_of(arguments.against).OtddSource])
    if arguments.epoch:
        epoch(sources, scale)
        return
    for samples in arguments.samples:
        x, y, targets = clouds(samples, arguments.calls, scale)
        for inner in ("exact", "gaussian"):
            if arguments.against is not None:
                found = side_by_side(x, y, [[target] for target in targets], {"inner": inner}, sources)
                print(f"{samples} samples, {inner:<8}: {found}", flush=True)
                continue
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
