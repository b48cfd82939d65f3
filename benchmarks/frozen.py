"""Cost of an epoch with embedder and body frozen: their outputs computed once, compared with recomputing them in every step.

    python benchmarks/frozen.py

Trains `digits` through a pretrained mini-swin with `freezing: frozen-both`, and, with `finetune.prefix: once` against `recomputed`, with
the embedder frozen alone, with the lower of its two layers, and with the lowest ten of twelve layers of a RoBERTa of width 128, random
weights. On one thread, in one run; epochs alternate. CPU seconds are medians over all epochs but the first, which computes the outputs and
is printed separately. The rows of both are compared.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from orca_core import Store, resolve_config
from orca_core.finetuning.loop import Finetuning
from orca_core.pipeline import model_before_tuning
from orca_core.settings import Settings
from orca_core.trial_stages import load_data

EPOCHS = 8
METRICS = ("train_loss", "valid_loss", "valid_error", "test_error", "lr")


class Recomputing(Finetuning):
    """Fine-tuning that recomputes the frozen parts in every step."""

    def _inputs(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        return self.train[0], self.valid[0], self.test[0]


def compare(what: str, once: Finetuning, always: Finetuning) -> None:
    """Train both, epoch by epoch, and print what an epoch of each takes."""
    seconds: list[tuple[float, float]] = []
    differing = 0.0
    for tuning in (once, always):
        tuning.start_phase(tuning.settings)
    for epoch in range(1, EPOCHS + 1):
        started = time.process_time()
        row = once.run_epoch(epoch)
        between = time.process_time()
        other = always.run_epoch(epoch)
        seconds.append((between - started, time.process_time() - between))
        differing = max(differing, *(abs(getattr(row, metric) - getattr(other, metric)) for metric in METRICS))
    once_s, always_s = (statistics.median(values) for values in zip(*seconds[1:], strict=True))
    ratio = statistics.median(there / here for here, there in seconds[1:])
    print(f"{what}: an epoch with outputs computed once {once_s:.3f} s (the first {seconds[0][0]:.2f} s), always {always_s:.3f} s")
    print(f"  {ratio:.1f} times faster, median over epochs; largest difference of any metric of any epoch: {differing:.1e}")


def tuning_of(kind: type[Finetuning], store: Store, **knobs: Any) -> Finetuning:
    """Fine-tuning of digits before its first epoch."""
    config = resolve_config({"task": "digits", "finetune.epochs": EPOCHS, "align.epochs": 0, **knobs})
    settings = Settings.of(config, "finetune")
    return kind(settings, model_before_tuning(config, store), load_data(settings), torch.device("cpu"))


def deep_body(folder: Path) -> str:
    """A RoBERTa of twelve narrow layers with random weights."""
    from transformers import RobertaConfig, RobertaModel

    torch.manual_seed(0)
    sizes = {"hidden_size": 128, "num_hidden_layers": 12, "num_attention_heads": 4, "intermediate_size": 512}
    RobertaModel(RobertaConfig(vocab_size=1000, max_position_embeddings=514, type_vocab_size=1, **sizes)).save_pretrained(folder)
    return f"hf:{folder}"


def main() -> None:
    """Measure and print."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        store = Store(folder)
        both = {"freezing": "frozen-both"}
        compare("embedder and body frozen", tuning_of(Finetuning, store, **both), tuning_of(Recomputing, store, **both))
        prefixes: dict[str, dict[str, Any]] = {
            "embedder frozen": {"freezing": "frozen-embedder"},
            "embedder and lower layer frozen": {"freezing": [{"train": ["predictor", "top-layers:1"]}]},
            "embedder and lowest 10 of 12 layers frozen": {
                "freezing": [{"train": ["predictor", "top-layers:2"]}],
                "body": deep_body(Path(folder) / "body"),
                "recipe": "laptop",
            },
        }
        for what, knobs in prefixes.items():
            once = tuning_of(Finetuning, store, **knobs, **{"finetune.prefix": "once"})
            compare(what, once, tuning_of(Finetuning, store, **knobs))


if __name__ == "__main__":
    main()
