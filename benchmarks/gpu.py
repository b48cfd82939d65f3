"""What holds on a GPU: one command that checks the promises there and measures.

    python benchmarks/gpu.py                      everything, in under 8 minutes on an H100
    python benchmarks/gpu.py --only bits speed    the sections named

Sections: `bits` (the same trial twice, resumed, after shared stages), `cpu` (the same numbers on the CPU), `otdd` (values, gradients and
seconds beside the CPU's), `speed` (fine-tuning of RoBERTa-base and Swin-B shapes, beside a bare loop), `sweep` (two trials on one
GPU by Ray), `packing` (as many as fit, by `gpu: auto`), `memory` (out of memory as a row with its cause). Bodies of published size have
random weights. The table goes to standard output, one line a measurement, and as JSON to `--out`. The exit code is 1 if a promise is
broken; what could not run is listed as `not run`.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

from orca_core import Store, TrialConfig, resolve_config
from orca_core.distances import OtddSource
from orca_core.finetuning.loop import Finetuning
from orca_core.identity import trial_id
from orca_core.model.cross_modal import CrossModalModel
from orca_core.pipeline import model_before_tuning, trial_rows
from orca_core.rows import EpochRow, TrialResult
from orca_core.settings import Settings
from orca_core.tasks import TaskData
from orca_core.trial_stages import load_data

SMALL: dict[str, Any] = {
    "pretrain.epochs": 1,
    "align.epochs": 2,
    "align.proxy_samples": 500,
    "finetune.epochs": 3,
    "finetune.warmup_epochs": 0,
}
SMALL |= {"finetune.decay_epochs": None, "train_samples": 300}

TRIALS: dict[str, dict[str, Any]] = {
    "digits, mini-swin": {"task": "digits"},
    "wdbc, mini-roberta": {"task": "openml/1510"},
    "darcy-mini (2D field)": {"task": "darcy-mini"},
    "advection-mini (1D field)": {"task": "advection-mini"},
}

CPU_TOLERANCE = {"distance": 1e-3, "train_loss": 1e-2}
"""Largest relative difference between GPU and CPU, both in fp32: of the distance before the first step of alignment, and of the first
epoch's training loss, which hundreds of steps have passed through."""


class Line(NamedTuple):
    """One measurement. `holds` is None where nothing is promised."""

    section: str
    what: str
    value: str
    holds: bool | None = None


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


def difference(here: dict[str, Any], there: dict[str, Any]) -> float:
    """Largest relative difference of any number of two runs."""
    worst = 0.0
    for a, b in zip(here["epochs"], there["epochs"], strict=True):
        for name, value in a.items():
            if isinstance(value, float):
                worst = max(worst, abs(value - b[name]) / max(abs(value), abs(b[name]), 1e-12))
    return worst


def bits() -> Iterator[Line]:
    """The same trial in two fresh stores, and stopped in the midst of fine-tuning and continued.

    Small bodies of every family and most knobs are in `tests/orca_core/test_gpu.py`.
    """
    with tempfile.TemporaryDirectory() as folder:
        large = {body: knobs | {"train_samples": 64} for body, knobs in checkpoints(Path(folder)).items()}
        for body in list(large):
            large[f"{body}, bf16, dropout"] = large[body] | {"precision": "bf16", "finetune.dropout": 0.1}
        yield from bits_of({name: resolve_config(knobs) for name, knobs in large.items()})
    yield from bits_of({name: config_of(knobs) for name, knobs in TRIALS.items()})
    yield from bits_of_shared_stages()


def bits_of(trials: dict[str, TrialConfig]) -> Iterator[Line]:
    """Two lines for each trial."""
    for name, config in trials.items():
        with tempfile.TemporaryDirectory() as one, tempfile.TemporaryDirectory() as two:
            started = time.perf_counter()
            first = rows_of(config, one)
            seconds = time.perf_counter() - started
            again = rows_of(config, two)
            same = first == again
            yield Line("bits", f"{name}: twice", f"{'equal' if same else f'{difference(first, again):.1e}'}, {seconds:.1f} s", same)
        with tempfile.TemporaryDirectory() as folder:
            rows_of(config, folder, stop_after=len(first["epochs"]) - 1)
            resumed = rows_of(config, folder)
            same = first == resumed
            yield Line("bits", f"{name}: stopped and continued", "equal" if same else f"{difference(first, resumed):.1e}", same)


def bits_of_shared_stages() -> Iterator[Line]:
    """A trial that finds stages of another in its store, and the same trial alone."""
    with tempfile.TemporaryDirectory() as folder:
        longer = config_of({"task": "digits", "align.epochs": 4, "freezing": "frozen-body:1"})
        shorter = config_of({"task": "digits", "align.epochs": 2, "freezing": "frozen-body:1"})
        rows_of(longer, folder)
        shared = rows_of(shorter, folder)
        with tempfile.TemporaryDirectory() as other:
            alone = rows_of(shorter, other)
        yield Line("bits", "after a trial that shares its stages", "equal" if shared == alone else "differ", shared == alone)


def cpu() -> Iterator[Line]:
    """The first distance and the first training loss, on the GPU and on the CPU, from the same pretrained body."""
    for name in ("digits, mini-swin", "wdbc, mini-roberta", "darcy-mini (2D field)", "advection-mini (1D field)"):
        config = config_of(TRIALS[name] | {"body.weights": "random"})
        found = {}
        for device in ("cuda", "cpu"):
            with tempfile.TemporaryDirectory() as folder:
                found[device] = rows_of(config, folder, device=device)["epochs"]
        for stage, column in (("align", "distance"), ("finetune", "train_loss")):
            here, there = (next(row[column] for row in found[device] if row["stage"] == stage) for device in ("cuda", "cpu"))
            relative = abs(here - there) / abs(there)
            yield Line("cpu", f"{name}: first {column}", f"relative difference {relative:.1e}", relative <= CPU_TOLERANCE[column])


def otdd() -> Iterator[Line]:
    """One target class of 128 against 5000 samples of 768 features in 10 classes: value and gradient, and the time of both."""
    draws = torch.Generator().manual_seed(0)
    y = torch.arange(5000) % 10
    x = torch.randn(10, 768, generator=draws)[y] + 0.5 * torch.randn(5000, 768, generator=draws)
    target = torch.randn(768, generator=draws) + 0.7 * torch.randn(128, 768, generator=draws)
    for inner in ("exact", "gaussian"):
        found = {}
        for device in ("cpu", "cuda"):
            started = time.perf_counter()
            source = OtddSource(x.to(device), y.to(device), inner=inner)
            if device == "cuda":
                torch.cuda.synchronize()
            preparing, calls = time.perf_counter() - started, []
            for _ in range(6):
                leaf = target.to(device).clone().requires_grad_(True)
                started = time.perf_counter()
                value = source.distance(leaf)
                value.backward()
                assert leaf.grad is not None
                gradient = leaf.grad.cpu()  # waits for the device
                calls.append(time.perf_counter() - started)
            found[device] = float(value), gradient, preparing, statistics.median(calls[1:])
        (here, gradient, preparing, call), (there, reference, slow_preparing, slow) = found["cuda"], found["cpu"]
        off = abs(here - there) / there
        turned = 1 - nn.functional.cosine_similarity(gradient.flatten(), reference.flatten(), 0).item()
        yield Line("otdd", f"{inner}: value beside the CPU's", f"relative difference {off:.1e}", off < 1e-4)
        yield Line("otdd", f"{inner}: gradient beside the CPU's", f"1 - cosine {turned:.1e}", turned < 1e-4)
        yield Line(
            "otdd",
            f"{inner}: a call",
            f"{call * 1e3:.1f} ms, CPU {slow * 1e3:.0f} ms; prepared in {preparing:.2f} s, CPU {slow_preparing:.2f} s",
        )


def checkpoints(folder: Path) -> dict[str, dict[str, Any]]:
    """Folders of RoBERTa-base and Swin-B with random weights, and the knobs of a trial with each, on noise of the published sizes."""
    from transformers import RobertaConfig, RobertaModel, SwinConfig, SwinModel

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
        "RoBERTa-base, 512 tokens": common | series | {"finetune.batch_size": 16},
        "Swin-B, 224 x 224": common | images | {"finetune.batch_size": 32},
    }


def bare_epoch(config: TrialConfig, model: CrossModalModel, data: TaskData, device: str) -> Callable[[], None]:
    """An epoch of training as one would write it by hand: the same model, batches, optimiser, clipping and precision."""
    x, y = data.inputs(torch.from_numpy(data.train.x).to(device)), torch.from_numpy(data.train.y).to(device)
    settings, precision = config.finetune, config.precision
    optimizer = torch.optim.AdamW(model.parameters(), settings.lr, fused=True)
    scaler = torch.amp.GradScaler(device, enabled=precision == "fp16")
    dtype = torch.float16 if precision == "fp16" else torch.bfloat16

    def epoch() -> None:
        model.train()
        for batch in torch.randperm(len(y), device=device).split(settings.batch_size):
            optimizer.zero_grad()
            with torch.autocast(device, dtype, enabled=precision != "fp32"):
                loss = nn.functional.cross_entropy(model(x[batch]), y[batch])
            scaler.scale(loss).backward()
            scaler.unscale_(optimizer)
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            scaler.step(optimizer)
            scaler.update()
        torch.cuda.synchronize()

    return epoch


def speed() -> Iterator[Line]:
    """Samples a second in training, memory, and the ratio to a bare loop. The loops alternate."""
    variants: dict[str, dict[str, Any]] = {"fp32": {}, "bf16": {"precision": "bf16"}, "fp16": {"precision": "fp16"}}
    variants["bf16, checkpointing"] = {"precision": "bf16", "finetune.checkpointing": True}
    variants["bf16, compiled"] = {"precision": "bf16", "finetune.compile": True}
    with tempfile.TemporaryDirectory() as folder:
        for body, knobs in checkpoints(Path(folder)).items():
            for variant, more in variants.items():
                if body.startswith("Swin") and variant not in ("fp32", "bf16"):
                    continue  # to stay within minutes
                config = resolve_config(knobs | more)
                settings = Settings.of(config, "finetune")
                data = load_data(settings)
                model = partial(model_before_tuning, config, Store(folder), device="cuda")
                torch.cuda.reset_peak_memory_stats()
                ours = Finetuning(settings, model(), data, torch.device("cuda"))
                ours.start_phase(settings)
                ours.run_epoch(1)
                peak = torch.cuda.max_memory_allocated() / 2**30
                bare = bare_epoch(config, model().to("cuda").requires_grad_(True), data, "cuda")
                bare()
                seconds: dict[str, list[float]] = {"ours": [], "bare": []}
                for epoch in (2, 3):
                    started = time.perf_counter()
                    ours._train(epoch, ours.train[0])  # without evaluation, which the bare loop does not have
                    torch.cuda.synchronize()
                    seconds["ours"].append(time.perf_counter() - started)
                    started = time.perf_counter()
                    bare()
                    seconds["bare"].append(time.perf_counter() - started)
                here, there = (min(values) for values in seconds.values())
                rate = len(data.train) / here
                yield Line("speed", f"{body}, {variant}", f"{rate:.0f} samples/s, {peak:.1f} GiB, ratio to a bare loop {here / there:.2f}")
                del ours, bare
                torch.cuda.empty_cache()


def sweep() -> Iterator[Line]:
    """A sweep by Ray with two trials on the one GPU, and its rows beside those of the same trials alone."""
    from sweeper import Results, Workspace, load_space, run

    text = {
        "name": "gpu",
        "base": {"task": "digits"} | SMALL | {"finetune.epochs": 60},
        "space": {"align.epochs": {"grid": [0, 2]}},
        "seeds": 3,
        "resources": {"cpu": 1, "gpu": 0.5},
    }
    with tempfile.TemporaryDirectory() as folder:
        space = Path(folder) / "gpu.yaml"
        space.write_text(json.dumps(text))
        started = time.perf_counter()
        run(load_space(str(space)), Workspace(f"{folder}/results"))
        seconds = time.perf_counter() - started
        query = "select trial, test_error, device, device_name, started_at, ended_at, status from trials where sweep = 'gpu'"
        rows = {row["trial"]: row for row in Results(f"{folder}/results").sql(query).rows()}
        complete = len(rows) == 6 and all(row["status"] == "COMPLETE" and row["device"] == "cuda" for row in rows.values())
        yield Line("sweep", "6 trials, gpu: 0.5", f"{seconds:.0f} s with Ray's start", complete)
        spans = sorted((row["started_at"], row["ended_at"]) for row in rows.values())
        overlaps = sum(later[0] < earlier[1] for earlier, later in pairwise(spans))
        yield Line("sweep", "trials that began before another ended", str(overlaps), overlaps > 0)
        config = config_of({"task": "digits", "finetune.epochs": 60})
        with tempfile.TemporaryDirectory() as other:
            alone = rows_of(config, other)["result"]["test_error"]
        same = alone == rows[trial_id(config)]["test_error"]
        yield Line("sweep", "one of them alone", "equal" if same else "differs", same)


def packing() -> Iterator[Line]:
    """A sweep by Ray with `gpu: auto`: the first trial is measured, the others share the GPU, to the same rows."""
    from sweeper import Results, Workspace, load_space, run

    text = {
        "name": "packing",
        "base": {"task": "digits"} | SMALL | {"finetune.epochs": 60},
        "seeds": 6,
        "resources": {"cpu": 1, "gpu": "auto", "gpu_trials": 4},
    }
    with tempfile.TemporaryDirectory() as folder:
        space = Path(folder) / "packing.yaml"
        space.write_text(json.dumps(text))
        run(load_space(str(space)), Workspace(f"{folder}/results"))
        query = "select trial, seed, test_error, gpu_share, gpu_bytes, gpu_total_bytes, started_at from trials order by started_at"
        rows = Results(f"{folder}/results").sql(query).rows()
        yield Line("packing", "6 trials, gpu: auto", f"{len(rows)} complete", len(rows) == 6)
        shares = [row["gpu_share"] for row in rows]
        yield Line("packing", "shares of the GPU", ", ".join(f"{share:g}" for share in shares), shares == [1.0] + [0.25] * 5)
        peaks = [(row["gpu_bytes"] or 0) / 2**20 for row in rows]
        close = min(peaks) > 0 and max(peaks) < 1.1 * min(peaks)
        yield Line("packing", "memory reserved by each", f"{min(peaks):.0f} to {max(peaks):.0f} MiB", close)
        with tempfile.TemporaryDirectory() as other:
            alone = rows_of(config_of({"task": "digits", "finetune.epochs": 60, "seed": rows[-1]["seed"]}), other)["result"]["test_error"]
        same = alone == rows[-1]["test_error"]
        yield Line("packing", "the last of them alone", "equal" if same else "differs", same)


def memory() -> Iterator[Line]:
    """A trial that needs more than the GPU has fails with the cause, and the next one runs."""
    from sweeper.running.execution import execute
    from sweeper.running.job import TrialJob

    with tempfile.TemporaryDirectory() as folder:
        torch.cuda.set_per_process_memory_fraction(0.0005)
        torch.cuda.empty_cache()
        job = TrialJob(config=config_of({"task": "digits", "finetune.batch_size": 300}), store=folder, device="cuda")
        rows = execute(job)
        try:
            while True:
                next(rows)
        except StopIteration as stop:
            outcome = stop.value
        torch.cuda.set_per_process_memory_fraction(1.0)
        yield Line(
            "memory", "a trial larger than the GPU", f"{outcome['status']}, {outcome.get('cause')}", outcome.get("cause") == "out-of-memory"
        )
        again = rows_of(config_of({"task": "digits"}), folder)
        yield Line("memory", "the next trial in that process", "completes" if again["result"] else "fails", again["result"] is not None)


SECTIONS: dict[str, Callable[[], Iterator[Line]]] = {
    "bits": bits,
    "cpu": cpu,
    "otdd": otdd,
    "sweep": sweep,
    "packing": packing,
    "speed": speed,
    "memory": memory,
}


def main() -> int:
    """Run the sections, print their lines; 1 if a promise is broken."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=SECTIONS, default=list(SECTIONS))
    parser.add_argument("--out", type=Path, help="file for the lines as JSON")
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        print("not run: torch sees no GPU on this machine")
        return 1
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}, CUDA {torch.version.cuda}, {os.cpu_count()} CPUs")
    torch.set_num_threads(1)
    lines: list[Line] = []
    for section in arguments.only:
        started = time.perf_counter()
        try:
            for line in SECTIONS[section]():
                lines.append(line)
                mark = {True: "holds", False: "BROKEN", None: ""}[line.holds]
                print(f"{line.section:<7} {line.what:<48} {line.value:<60} {mark}", flush=True)
        except Exception as error:  # the other sections still run
            traceback.print_exc()
            lines.append(Line(section, "not run", f"{type(error).__name__}: {error}", False))
            print(f"{section:<7} not run: {type(error).__name__}: {error}", flush=True)
        print(f"{section:<7} took {time.perf_counter() - started:.0f} s", flush=True)
    if arguments.out:
        arguments.out.write_text(json.dumps([line._asdict() for line in lines], indent=1))
    return int(any(line.holds is False for line in lines))


if __name__ == "__main__":
    sys.exit(main())
