"""What bounds a fused step: its time beside that of single steps and of one model on the samples of all, and its share of matrix products.

    python benchmarks/fused_step.py [NAME ...]

Names are those of fused.py whose whole models train. Three ways to train 24 models for an epoch take turns on one thread: each on its own,
all as one group, and one model alone in batches as large as those of all 24 together, which is what a group could reach if weights of its
own cost a member nothing. The group's time includes its evaluation. Printed are CPU milliseconds for 32 samples of one member, medians of
rounds, and how many of them are products (convolutions as well): the ratio of single steps to these is the most that a group of any form
can reach.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from fused import COMPARISONS, WIDTH, trials
from torch.utils._python_dispatch import TorchDispatchMode

from orca_core import Store
from orca_core.finetuning.fused import FusedFinetuning, train_together
from orca_core.finetuning.loop import Finetuning
from orca_core.memory import keep_freed_memory
from orca_core.pipeline import model_before_tuning
from orca_core.settings import Settings
from orca_core.trial_stages import load_data

ROUNDS = 3
SAMPLES = 768
"""Trained on by each member, in 24 batches of 32; a batch of all members has as many."""

PRODUCTS = ("mm", "addmm", "bmm", "baddbmm", "convolution", "convolution_backward")


class TimeOfProducts(TorchDispatchMode):
    """Within: adds up the CPU seconds of matrix products."""

    seconds = 0.0

    def __torch_dispatch__(self, operation: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None) -> Any:
        if operation.overloadpacket.__name__ not in PRODUCTS:
            return operation(*args, **(kwargs or {}))
        started = time.thread_time()
        result = operation(*args, **(kwargs or {}))
        self.seconds += time.thread_time() - started
        return result


def tunings(kind: type[Finetuning], knobs: Mapping[str, Any], fused: int, count: int, store: Store) -> list[Any]:
    """The first trials of a comparison, ready to train."""
    made = []
    for config in trials({**knobs, "train_samples": SAMPLES}, fused)[:count]:
        settings = Settings.of(config, "finetune")
        tuning = kind(settings, model_before_tuning(config, store), load_data(settings), torch.device("cpu"))
        tuning.start_phase(settings)
        tuning.prepare()
        made.append(tuning)
    return made


def measure(name: str) -> None:
    """Measure one comparison and print it."""
    knobs, _ = COMPARISONS[name]
    with tempfile.TemporaryDirectory() as folder:
        store = Store(folder)
        single = tunings(Finetuning, knobs, 0, 1, store)[0]
        large = tunings(Finetuning, {**knobs, "finetune.batch_size": SAMPLES}, 0, 1, store)[0]
        group = tunings(FusedFinetuning, knobs, WIDTH, WIDTH, store)

    def train(model: Finetuning, epoch: int) -> None:
        model._train(epoch, model.prepare()[0])

    # Way -> one epoch, and how many models it trains; the large batches of one epoch are few, so it has several.
    ways: dict[str, tuple[Callable[[int], object], int]] = {
        "a single model": (lambda epoch: train(single, epoch), 1),
        "one model on the samples of all": (lambda epoch: [train(large, epoch) for _ in range(8)], 8),
        "a member of a group": (lambda epoch: train_together([(member, epoch) for member in group]), WIDTH),
    }
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    for epoch in range(1, ROUNDS + 2):
        for way, (run, models) in ways.items():
            started = time.process_time()
            run(epoch)
            if epoch > 1:  # the first epoch stacks the group and fills caches
                seconds[way].append((time.process_time() - started) / models * 32 / SAMPLES * 1000)
    print(f"{name}: CPU ms for 32 samples, median of {ROUNDS} rounds")
    for way, (run, models) in ways.items():
        with TimeOfProducts() as products:
            run(ROUNDS + 2)
        own = products.seconds / models * 32 / SAMPLES * 1000
        ratio = statistics.median(one / other for one, other in zip(seconds["a single model"], seconds[way], strict=True))
        print(
            f"  {way}: {statistics.median(seconds[way]):.2f}, of which products {own:.2f}; {ratio:.2f} times the speed of a single model",
            flush=True,
        )


if __name__ == "__main__":
    torch.set_num_threads(1)
    keep_freed_memory()  # as a trial does
    bodies = [name for name in COMPARISONS if name != "heads"]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", default=bodies, help=f"of {', '.join(bodies)}")
    chosen_names = parser.parse_args().names
    if not set(chosen_names) <= set(bodies):
        parser.error(f"known: {', '.join(bodies)}")
    for chosen in chosen_names:
        measure(chosen)
