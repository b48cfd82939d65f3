"""Cost of evaluating on a CPU, beside a bare PyTorch loop.

    python benchmarks/evaluation.py [--samples N] [--layers N] [--bodies NAME ...] [--system-memory]

Loss and error of generated samples by a body of RoBERTa-base's width that reads 64 tokens (`roberta`), and by the mini bodies: as
fine-tuning evaluates them, the same without pieces, and in the loop one would write by hand, in batches of `finetune.batch_size`, four and
eight times that. All alternate, in one run on one thread. Reported are CPU seconds, medians over rounds, and the ratio of ours to each
other way; losses and errors are compared. All ways have the process as a trial has it, which uses freed memory again
(`orca_core.memory`); with `--system-memory` glibc gives it back to the system, as in any other process. Page faults of a round say so.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from orca_core import Store, resolve_config, trial_stages
from orca_core.finetuning.loop import Finetuning
from orca_core.model import cross_modal
from orca_core.pipeline import model_before_tuning
from orca_core.settings import Settings

ROUNDS, TOKENS = 9, 64
PIECES = cross_modal.MOST_IN_CACHE


def tuning_of(body: str, folder: Path, layers: int) -> Finetuning:
    """Fine-tuning through a body with random weights, before its first epoch.

    Args:
        body: A mini body, or `roberta`, of RoBERTa-base's width.
        folder: For files.
        layers: Of `roberta`.
    """
    knobs: dict[str, Any] = {"task": "digits" if body == "mini-swin" else "mnist1d", "body": body, "body.weights": "random"}
    if body == "roberta":
        from transformers import RobertaConfig, RobertaModel

        torch.manual_seed(0)
        shape = RobertaConfig(num_hidden_layers=layers, vocab_size=1000, max_position_embeddings=514, type_vocab_size=1, pad_token_id=1)
        RobertaModel(shape).save_pretrained(folder / "body")
        draws = np.random.default_rng(0)
        x, y = draws.standard_normal((40, 1, 8 * TOKENS), dtype=np.float32), np.arange(40) % 2
        np.savez(folder / "series.npz", x_train=x, y_train=y, x_test=x, y_test=y)
        knobs = {"recipe": "laptop", "task": f"npz:{folder / 'series.npz'}", "body": f"hf:{folder / 'body'}"}
        knobs["embedder.target_seq_len"] = TOKENS
    config = resolve_config(knobs | {"align.epochs": 0})
    settings = Settings.of(config, "finetune")
    tuning = Finetuning(
        settings, model_before_tuning(config, Store(folder / "store")), trial_stages.load_data(settings), torch.device("cpu")
    )
    tuning.start_phase(settings)
    tuning.prepare()
    return tuning


def ours(tuning: Finetuning, x: Tensor, y: Tensor, most_in_cache: int) -> tuple[float, float]:
    """Loss and error as fine-tuning computes them."""
    cross_modal.MOST_IN_CACHE = most_in_cache
    tuning.model.eval()
    loss, error = tuning._evaluate(x, y, None)
    assert loss is not None
    assert error is not None
    return loss, error


def bare(model: nn.Module, x: Tensor, y: Tensor, batch_size: int) -> tuple[float, float]:
    """Loss and error in the loop that one would write by hand."""
    model.eval()
    with torch.no_grad():
        logits = torch.cat([model(batch) for batch in x.split(batch_size)])
        return nn.functional.cross_entropy(logits, y).item(), (logits.argmax(1) != y).double().mean().item()


def page_faults() -> int:
    """Pages that this process has got from the system so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=1000)
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--bodies", nargs="+", default=["roberta", "mini-swin", "mini-roberta"])
    parser.add_argument("--system-memory", action="store_true", help="leave the allocator as it is")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    if asked.system_memory:
        trial_stages.keep_freed_memory = lambda: None
    for body in asked.bodies:
        with tempfile.TemporaryDirectory() as folder:
            tuning = tuning_of(body, Path(folder), asked.layers)
        x = torch.randn(asked.samples, *tuning.model.input_shape, generator=torch.Generator().manual_seed(0))
        y = torch.arange(asked.samples) % tuning.model.output_shape[0]
        size = tuning.settings["finetune.batch_size"]
        ways: dict[str, Callable[[], tuple[float, float]]] = {
            "ours": partial(ours, tuning, x, y, PIECES),
            "without pieces": partial(ours, tuning, x, y, 2**62),
            **{f"bare, {count} at once": partial(bare, tuning.model, x, y, count) for count in (size, 4 * size, 8 * size)},
        }
        seconds: dict[str, list[float]] = {name: [] for name in ways}
        faults = dict.fromkeys(ways, 0)
        found = {}
        for _ in range(ROUNDS):
            for name, way in ways.items():
                started, faulted = time.process_time(), page_faults()
                found[name] = way()
                seconds[name].append(time.process_time() - started)
                faults[name] = page_faults() - faulted
        print(f"{body}, {asked.samples} samples: {statistics.median(seconds['ours']):.4f} s; {faults['ours']} page faults")
        for name, (loss, error) in found.items():
            if name != "ours":
                ratio = statistics.median(a / b for a, b in zip(seconds["ours"], seconds[name], strict=True))
                apart = max(abs(loss - found["ours"][0]), abs(error - found["ours"][1]))
                each = f"{statistics.median(seconds[name]):.4f} s; {faults[name]} page faults"
                print(f"  {name}: {each}; ratio {ratio:.3f}; loss and error at most {apart:.0e} apart")


if __name__ == "__main__":
    main()
