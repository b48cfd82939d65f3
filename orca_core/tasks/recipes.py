"""The configurations of the reference repository, in the knobs of this project."""

from __future__ import annotations

from typing import Any

BODIES = {1: "hf:roberta-base", 2: "hf:microsoft/swin-base-patch4-window7-224-in22k"}


PROXIES = {1: "reference-text", 2: "cifar10"}
"""The proxies of its YAML files, `text` and `CIFAR10`."""


def published_recipe(
    dims: int,
    *,
    epochs: int,
    batch_size: int,
    optimizer: str,
    lr: float,
    weight_decay: float,
    momentum: float,
    warmup: int,
    decay: int,
    accum: int = 1,
    clip: float | None = None,
    align_epochs: int = 60,
    class_samples: int = 128,
    tokens: int = 512,
    eval_batch_size: int = 256,
    score_chunk: int = 1000,
    dropout: float = 0.0,
) -> dict[str, Any]:
    """One of its YAML files. Stage 2 has stage 3's optimiser at ten times its learning rate, which is at most 1e-3 in all of them.

    `eval_batch_size` of those files is `score_chunk` here: their evaluation passes batches of `batch_size` forward, and takes the score of
    chunks. `eval_batch_size` is our own, as a larger forward pass is faster.
    """
    common = {"optimizer": optimizer, "weight_decay": weight_decay, "momentum": momentum}
    return {
        "body": {"name": BODIES[dims]},
        "proxy": PROXIES[dims],
        "embedder": {"target_seq_len": tokens},
        "align": {"epochs": align_epochs, "lr": float(f"{10 * lr:g}"), **common, "class_samples": class_samples},
        "finetune": {
            "epochs": epochs,
            "lr": lr,
            **common,
            "betas": [0.9, 0.98],
            "batch_size": batch_size,
            "eval_batch_size": eval_batch_size,
            "score_chunk": score_chunk,
            "accum": accum,
            "clip": clip,
            "warmup_epochs": warmup,
            "decay_epochs": decay,
            "dropout": dropout,
        },
    }
