"""Small trials of every kind for the law of keys: tiny data, bodies of several families, all knobs."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from body_families import write_checkpoint
from safetensors.torch import save_file

from orca_core.config.knobs import TrialConfig
from orca_core.config.resolve import resolve_config
from orca_core.pipeline import run_trial
from orca_core.rows import EpochRow, Row, StageRow, TrialResult
from orca_core.stages import stages_of
from orca_core.store import Artifact, Store

SMALL = {
    "recipe": "laptop",
    "pretrain.epochs": 1,
    "pretrain.fraction": 0.05,
    "train_samples": 20,
    "align.epochs": 0,
    "align.class_samples": 6,
    "align.proxy_samples": 20,
    "finetune.epochs": 2,
    "finetune.batch_size": 8,
    "finetune.warmup_epochs": 0,
    "finetune.decay_epochs": None,
}
"""Knobs that make a trial of a tiny body take a fraction of a second."""

TINY_BODIES = {"bert": "tiny/bert", "gpt2": "tiny/gpt2", "roberta-pad-0": "tiny/roberta"}
"""Family -> folder of a checkpoint, relative to the working folder that `tiny_bodies` sets."""

TINY_IMAGE_BODIES = {"vit": "tiny/vit", "swin": "tiny/swin"}
"""The same of image bodies."""

WINES_START = "tiny/embedder.safetensors"
"""Weights of the embedder of `openml/187` for mini-roberta, in the working folder that `tiny_bodies` sets."""

TINY_TASKS = {"npz:tiny/series.npz": (1, 12), "npz:tiny/images.npz": (1, 8, 8)}
"""Task of 60 rows in 3 classes -> shape of a row, in the working folder that `tiny_bodies` sets."""

VALUES: dict[str, list[Any]] = {
    "train_samples": [20, 24],
    "split_seed": [0, 1],
    "reversed": [False, True],
    "valid_share": [None, 0.3],
    "validation.folds": [None, 2],
    "validation.fold": [None, 1],
    "reference_data": [False, True],
    "body.weights": ["pretrained", "random", "shuffled"],
    "body.keep": ["all", ["attention"], ["embeddings", "ffn"], [], ["layers:1", "layernorm"]],
    "body.flip": [False, True],
    "body.double": [False, True],
    "pretrain.fraction": [0.05, 0.06],
    "pretrain.epochs": [1, 2],
    "pretrain.seed": [0, 1],
    "pretrain.corpus": ["own", "noise"],
    "pretrain.objective": ["own", "labels"],
    "pretrain.label_noise": [0.0, 0.4],
    "embedder.init": ["pretrained", "random", "reference", "pretrained-third-row", "matched"],
    "embedder.target_seq_len": [512, 4],
    "align.epochs": [0, 1, 2],
    "align.weight": [0.0, 0.5],
    "align.objective": ["otdd-exact", "otdd-gaussian", "mmd", "l2", "coral", "sliced-wasserstein", "dispersion", "none", "bilevel"],
    "align.gradient": ["sum", "project"],
    "align.agreement": [False, True],
    "align.projections": [100, 20],
    "align.label_gradient": ["true", "none", "reference"],
    "align.entropic_reg": [0.1, 0.2],
    "align.solver": ["converged", "annealed"],
    "align.l2_batches": ["full", "all"],
    "align.class_samples": [6, 5],
    "align.class_sampling": ["exact", "batches"],
    "align.proxy_samples": [20, 15],
    "align.lr": [1e-3, 1e-2],
    "align.lr_from": ["own", "finetune"],
    "align.optimizer_from": ["own", "finetune"],
    "align.optimizer": ["adamw", "sgd", "adam"],
    "align.weight_decay": [0.0, 0.1],
    "align.momentum": [0.9, 0.5],
    "align.betas": [[0.9, 0.98], [0.9, 0.999]],
    "align.lr_steps": [[20, 40, 60], [1]],
    "align.lr_schedule": ["steps", "reference"],
    "adapt.epochs": [0, 1, 2],
    "adapt.train": ["all", "embedder"],
    "adapt.lr": [1e-4, 1e-3],
    "adapt.batch_size": [32, 7],
    "adapt.mask": [0.5, 0.3],
    "freezing": ["full", "frozen-body", "frozen-body:1", "frozen-embedder", "frozen-both:1", "lp-ft:1", "bias", "surgical:1"],
    "adapter": ["none", "lora", "bottleneck", "side", {"name": "side", "taps": 9}],
    "finetune.epochs": [2, 1],
    "finetune.lr": [1e-3, 1e-2],
    "finetune.optimizer": ["adamw", "sgd", "adam"],
    "finetune.weight_decay": [0.0, 0.1],
    "finetune.momentum": [0.9, 0.5],
    "finetune.betas": [[0.9, 0.98], [0.9, 0.999]],
    "finetune.batch_size": [8, 5],
    "finetune.data_order": ["shuffled", "given"],
    "finetune.eval_batch_size": [256, 16],
    "finetune.scoring": ["whole", "chunks"],
    "finetune.score_chunk": [None, 16],
    "finetune.accum": [1, 2],
    "finetune.accumulation": ["mean", "sum"],
    "finetune.clip": [None, 0.1],
    "finetune.schedule": ["linear", "cosine", "reference"],
    "finetune.warmup_epochs": [0.0, 1.0],
    "finetune.decay_epochs": [None, 20.0],
    "finetune.dropout": [0.0, 0.2],
    "finetune.checkpointing": [False, True],
    "finetune.label_smoothing": [0.0, 0.2],
    "finetune.layer_decay": [1.0, 0.8],
    "finetune.reinit_top": [0, 1],
    "finetune.mixout": [0.0, 0.3],
    "finetune.l2_sp": [0.0, 0.5],
    "finetune.distill": [0.0, 0.5],
    "finetune.test": ["each-epoch", "best-and-last"],
    "finetune.prefix": ["recomputed", "once"],
    "finetune.smooth.kind": ["none", "r3f", "smart"],
    "finetune.smooth.weight": [1.0, 3.0],
    "finetune.smooth.noise": [0.1, 0.2],
    "finetune.smooth.radius": [0.1, 0.05],
    "finetune.mixup.alpha": [0.0, 0.4],
    "finetune.mixup.place": ["inputs", "tokens"],
    "finetune.fused": [0, 2],
    "predictor.pool": ["mean", "attention", "max"],
    "predictor.head": ["linear", "mlp"],
    "selection": ["valid", "test"],
    "selection_ties": ["earliest", "latest"],
    "precision": ["fp32", "bf16"],
    "seed": [0, 1],
    "proxy": ["noise", "noise+shuffled", "noise+near:10"],
    "recipe": ["laptop"],
    "method": [None, "naive", "orca"],
    "align.task_weight": [0.0, 0.5],
    "align.label_entropy": [0.0, 0.5],
    "align.label_entropy_form": ["conditional", "information"],
    "align.inner_lr": [1e-3, 1e-1],
    "align.inner_steps": [1, 2],
    "align.inner_samples": [64, 8],
    "align.warmup_epochs": [0, 1],
    "mix.share": [0.0, 0.5],
    "mix.end_share": [0.0, 0.25],
    "mix.epochs": [10.0, 2.0],
    "mix.weight": [1.0, 0.5],
    "mix.gate": ["learned", "random"],
    "mix.gate_epochs": [10, 1],
    "reference_behaviour": [False, True],
}
"""Values of each knob to draw from. Left out: `finetune.compile`, which takes a minute; `threads` and `bits`, which the process shares;
`embedder.weights`, as the file must fit the other knobs."""


@contextmanager
def tiny_bodies(folder: Path, *, with_images: bool = False) -> Iterator[None]:
    """Within: the working folder is `folder`, and holds the checkpoints of `TINY_BODIES` and the data of `TINY_TASKS`.

    Args:
        folder: The folder.
        with_images: Whether it also holds the checkpoints of `TINY_IMAGE_BODIES`.
    """
    before = Path.cwd()
    os.chdir(folder)
    try:
        for family, path in (TINY_BODIES | TINY_IMAGE_BODIES if with_images else TINY_BODIES).items():
            if not Path(path).exists():
                Path(path).mkdir(parents=True)
                write_checkpoint(family, Path(path))
        rng = np.random.default_rng(0)
        shapes = {
            "projection.weight": (64, 13, 1),
            "projection.bias": (64,),
            "norm.weight": (64,),
            "norm.bias": (64,),
            "positions": (1, 64),
        }
        save_file({name: torch.ones(shape) for name, shape in shapes.items()}, WINES_START)
        for task, shape in TINY_TASKS.items():
            y = np.arange(60) % 3
            x = rng.normal(size=(60, *shape)) + y.reshape(-1, *[1] * len(shape))
            np.savez(task.removeprefix("npz:"), x=x.astype("float32"), y=y)
        yield
    finally:
        os.chdir(before)


def small(task: str = "openml/187", **knobs: Any) -> TrialConfig:
    """A small trial; `knobs` are spelled with `__` for a dot."""
    return resolve_config({"proxy": "noise", **SMALL, "task": task} | {name.replace("__", "."): value for name, value in knobs.items()})


UNCOMPARED = ("seconds", "saved_s", "reused_epochs", "stored_bytes", "memory_bytes", "mixed_numerics")
"""Columns that say how a row was computed; all others must be equal where ids are."""


def compared(row: Row) -> Row:
    """A row without what `UNCOMPARED` names."""
    neutral = {field.name: 0 for field in fields(row) if field.name in UNCOMPARED}
    return replace(row, **neutral)


def run(config: TrialConfig, store: Store) -> tuple[list[EpochRow | StageRow], TrialResult, dict[str, Artifact]]:
    """Rows, result and artifacts of a trial."""
    rows: list[Row] = []
    result = run_trial(config, store, rows.append)
    artifacts = {str(stage.address): store.get(stage.address) for stage in stages_of(config)}
    return [compared(row) for row in rows], result, {address: found for address, found in artifacts.items() if found is not None}


def copy_pretraining(config: TrialConfig, source: Store, target: Store) -> None:
    """Give a store the pretrained body of a trial, which `source` has or computes."""
    for stage in stages_of(config):
        if stage.kind == "pretrain":
            if (artifact := source.get(stage.address)) is None:
                run_trial(config, source, lambda row: None)
                artifact = source.get(stage.address)
            assert artifact is not None
            target.put(stage.address, artifact.tensors, artifact.data)


def differences(one: Artifact, other: Artifact) -> list[str]:
    """Names of tensors that differ between two artifacts of one address; those that only one of them holds are not needed by a trial."""
    both = one.tensors.keys() & other.tensors.keys()
    found = [name for name in sorted(both) if not torch.equal(one.tensors[name], other.tensors[name])]
    rows = [[compared(EpochRow.from_cells(row)) for row in artifact.data.get("rows", [])] for artifact in (one, other)]
    return found + (["rows"] if rows[0] != rows[1] else [])
