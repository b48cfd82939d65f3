"""Trials, bodies and measurements that the sections of `gpu.py` share."""

from __future__ import annotations

import time
import traceback
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from transformers import RobertaConfig, RobertaModel, SwinConfig, SwinModel  # here, so that processes are forked with it

from orca_core import Store, TrialConfig, resolve_config
from orca_core.pipeline import trial_rows
from orca_core.rows import EpochRow, TrialResult

SMALL: dict[str, Any] = {
    "pretrain.epochs": 1,
    "align.epochs": 2,
    "align.proxy_samples": 500,
    "finetune.epochs": 3,
    "finetune.warmup_epochs": 0,
    "finetune.decay_epochs": None,
    "train_samples": 300,
}

TRIALS: dict[str, dict[str, Any]] = {
    "digits": {"task": "digits"},
    "wdbc": {"task": "openml/1510"},
    "darcy-mini": {"task": "darcy-mini"},
    "advection-mini": {"task": "advection-mini"},
}

GRAPHED = {"task": "digits", "finetune.compile": "reduce-overhead", "finetune.accum": 2, "finetune.clip": 1.0}
"""300 samples in batches of 32: nine whole ones, two to a step, and a short one."""


WITHOUT_ERROR = "runs without an error"
"""What is promised, beside its other promises, of all that can fail by itself."""


class Line(NamedTuple):
    """One measurement. `holds` is None where nothing is promised."""

    what: str
    value: str
    holds: bool | None = None


class Clock:
    """What is left of the time of a section."""

    def __init__(self, seconds: float) -> None:
        self.end = time.monotonic() + seconds

    def has(self, seconds: float) -> bool:
        """Whether so much is left."""
        return time.monotonic() + seconds <= self.end


class NotHereError(Exception):
    """Something that this version does not have."""


def attempt(name: str, lines: Iterable[Line]) -> Iterator[Line]:
    """Lines that others of the section do not hang on: an error becomes a line, and the section goes on."""
    try:
        yield from lines
    except Exception as error:
        traceback.print_exc()
        yield Line(f"{name}: {WITHOUT_ERROR}", describe(error), False)


def describe(error: BaseException) -> str:
    """An error in a line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:120]}"


def config_of(knobs: dict[str, Any]) -> TrialConfig:
    """A small trial."""
    return resolve_config(SMALL | knobs)


def rows_of(config: TrialConfig, folder: str, *, device: str = "cuda", stop_after: int = 10**9) -> dict[str, Any]:
    """Rows of epochs without times, and the result; or those of the first epochs, after which the trial is stopped."""
    rows, result = trial_rows(config, Store(folder), device=device), None
    epochs: list[dict[str, Any]] = []
    while len(epochs) < stop_after:
        try:
            row = next(rows)
        except StopIteration as stop:
            result = stop.value
            break
        if isinstance(row, EpochRow):
            epochs.append({name: value for name, value in row.cells().items() if name not in ("seconds", "memory_bytes")})
    rows.close()
    return {"epochs": epochs, "result": result.cells() if isinstance(result, TrialResult) else None}


def difference(here: dict[str, Any], there: dict[str, Any], column: str = "") -> float:
    """Largest relative difference of any number of two runs, or of those of a column."""
    worst = 0.0
    for a, b in zip(here["epochs"], there["epochs"], strict=True):
        for name, value in a.items():
            if isinstance(value, float) and column in ("", name):
                worst = max(worst, abs(value - b[name]) / max(abs(value), abs(b[name]), 1e-12))
    return worst


def checkpoints(folder: Path) -> dict[str, dict[str, Any]]:
    """Folders of RoBERTa-base and Swin-B with random weights, and the knobs of a trial with each, on noise of the published sizes:
    512 tokens, 224 x 224 pixels."""
    torch.manual_seed(0)
    roberta = RobertaConfig(vocab_size=50265, max_position_embeddings=514, type_vocab_size=1, pad_token_id=1)
    RobertaModel(roberta).save_pretrained(folder / "roberta-base")
    swin = SwinConfig(image_size=224, embed_dim=128, depths=[2, 2, 18, 2], num_heads=[4, 8, 16, 32])
    SwinModel(swin).save_pretrained(folder / "swin-base")
    common = {"recipe": "laptop", "align.epochs": 0, "finetune.epochs": 3, "finetune.clip": 1.0, "finetune.warmup_epochs": 0}
    common |= {"finetune.decay_epochs": None, "finetune.optimizer": "adamw", "finetune.lr": 1e-5}
    draws = np.random.default_rng(0)
    for name, shape in (("series", (1, 512)), ("images", (3, 224, 224))):
        x = draws.standard_normal((600, *shape), dtype=np.float32)
        np.savez(folder / f"{name}.npz", x_train=x, y_train=np.arange(600) % 10, x_test=x[:32], y_test=np.arange(32) % 10)
    series = {"task": f"npz:{folder / 'series.npz'}", "body": f"hf:{folder / 'roberta-base'}", "embedder.target_seq_len": 512}
    images = {"task": f"npz:{folder / 'images.npz'}", "body": f"hf:{folder / 'swin-base'}"}
    return {
        "RoBERTa-base": common | series | {"finetune.batch_size": 16},
        "Swin-B": common | images | {"finetune.batch_size": 32},
    }
