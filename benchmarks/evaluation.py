"""Cost of evaluating on a CPU, in the pieces that stay in its cache, compared with forward passes of `finetune.eval_batch_size` samples.

    python benchmarks/evaluation.py [--samples N] [--layers N]

A body of RoBERTa-base's width reads sequences of 64 tokens, once in pieces and once in whole batches of 256, alternating, in one run on one
thread. Reported are CPU seconds, medians over rounds, the ratio, and the largest difference of any output.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from orca_core import Store, resolve_config
from orca_core.model import cross_modal
from orca_core.pipeline import model_before_tuning

ROUNDS, TOKENS, BATCH = 5, 64, 256


def model_of(folder: Path, layers: int) -> cross_modal.CrossModalModel:
    """RoBERTa-base with so many layers and random weights, before fine-tuning on series of 64 tokens."""
    from transformers import RobertaConfig, RobertaModel

    torch.manual_seed(0)
    shape = RobertaConfig(num_hidden_layers=layers, vocab_size=1000, max_position_embeddings=514, type_vocab_size=1, pad_token_id=1)
    RobertaModel(shape).save_pretrained(folder / "body")
    draws = np.random.default_rng(0)
    x, y = draws.standard_normal((40, 1, 8 * TOKENS), dtype=np.float32), np.arange(40) % 2
    np.savez(folder / "series.npz", x_train=x, y_train=y, x_test=x, y_test=y)
    knobs = {"recipe": "laptop", "task": f"npz:{folder / 'series.npz'}", "body": f"hf:{folder / 'body'}", "align.epochs": 0}
    return model_before_tuning(resolve_config(knobs | {"embedder.target_seq_len": TOKENS}), Store(folder / "store")).eval()


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=512)
    parser.add_argument("--layers", type=int, default=4)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        model = model_of(Path(folder), asked.layers)
    batches = torch.randn(asked.samples, 1, 8 * TOKENS).split(BATCH)
    limits = {"pieces": cross_modal.MOST_IN_CACHE, "whole": 2**62}
    seconds: dict[str, list[float]] = {name: [] for name in limits}
    outputs = {}
    for _ in range(ROUNDS):
        for name, limit in limits.items():
            cross_modal.MOST_IN_CACHE = limit
            started = time.process_time()
            outputs[name] = torch.cat([model.infer(batch) for batch in batches])
            seconds[name].append(time.process_time() - started)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    ratio = statistics.median(a / b for a, b in zip(seconds["pieces"], seconds["whole"], strict=True))
    apart = (outputs["pieces"] - outputs["whole"]).abs().max().item()
    print(f"{asked.samples} samples: {medians['pieces']:.2f} s in pieces, {medians['whole']:.2f} s in batches of {BATCH}")
    print(f"ratio, median over rounds: {ratio:.3f}; largest difference of an output: {apart:.1e}")


if __name__ == "__main__":
    main()
