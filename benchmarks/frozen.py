"""Cost of an epoch with embedder and body frozen: their outputs computed once, compared with recomputing them in every step.

    python benchmarks/frozen.py

Trains `digits` through a pretrained mini-swin with `freezing: frozen-both`, on one thread, in one run. Seconds are medians over all epochs
but the first, which computes the outputs and is printed separately. The rows of both are compared.
"""

from __future__ import annotations

import statistics
import tempfile
import time

import torch

from orca_core import Store, resolve_config
from orca_core.finetuning.loop import Finetuning
from orca_core.pipeline import model_before_tuning
from orca_core.rows import EpochRow
from orca_core.settings import Settings
from orca_core.trial_stages import load_data

EPOCHS = 8
METRICS = ("train_loss", "valid_loss", "valid_error", "test_error", "lr")


class Recomputing(Finetuning):
    """Fine-tuning that recomputes the frozen parts in every step."""

    def _inputs(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        return self.train[0], self.valid[0], self.test[0]


def seconds_and_rows(kind: type[Finetuning], store: Store) -> tuple[list[float], list[EpochRow]]:
    """Seconds and row of each epoch."""
    config = resolve_config({"task": "digits", "freezing": "frozen-both", "finetune.epochs": EPOCHS, "align.epochs": 0})
    settings = Settings.of(config, "finetune")
    tuning = kind(settings, model_before_tuning(config, store), load_data(settings), torch.device("cpu"))
    tuning.start_phase(tuning.settings)
    seconds, rows = [], []
    for epoch in range(1, EPOCHS + 1):
        started = time.process_time()
        rows.append(tuning.run_epoch(epoch))
        seconds.append(time.process_time() - started)
    return seconds, rows


def main() -> None:
    """Measure and print."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        store = Store(folder)
        once, rows = seconds_and_rows(Finetuning, store)
        always, expected = seconds_and_rows(Recomputing, store)
    once_s, always_s = statistics.median(once[1:]), statistics.median(always[1:])
    differing = max(
        abs(getattr(row, metric) - getattr(other, metric)) for row, other in zip(rows, expected, strict=True) for metric in METRICS
    )
    print(f"an epoch with outputs computed once: {once_s:.3f} s (the first {once[0]:.2f} s), always: {always_s:.3f} s")
    print(f"{always_s / once_s:.0f} times faster; largest difference of any metric of any epoch: {differing:.1e}")


if __name__ == "__main__":
    main()
