"""What `gpu.py` measures: fine-tuning beside a bare loop, and sweeps by Ray with several trials on one GPU."""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from gpu_trials import SMALL, Clock, Line, attempt, checkpoints, config_of, rows_of
from torch import nn

from orca_core import Store, TrialConfig, resolve_config
from orca_core.finetuning.loop import Finetuning
from orca_core.identity import trial_id
from orca_core.memory import release
from orca_core.model.cross_modal import CrossModalModel
from orca_core.pipeline import model_before_tuning
from orca_core.settings import Settings
from orca_core.tasks import TaskData
from orca_core.trial_stages import load_data

BARE_RATIO = 1.10
"""Most that an epoch of training may take of the time of a loop written by hand, in which nothing is compiled or recomputed."""

VARIANTS: dict[str, dict[str, Any]] = {
    "fp32": {"train_samples": 256},
    "bf16": {"precision": "bf16"},
    "fp16": {"precision": "fp16"},
    "bf16, checkpointing": {"precision": "bf16", "finetune.checkpointing": True},
    "bf16, compile default": {"precision": "bf16", "finetune.compile": "default"},
    "bf16, compile reduce-overhead": {"precision": "bf16", "finetune.compile": "reduce-overhead"},
}
"""Number format, and what else is done. A short last batch would be compiled by itself, so all are whole."""

SHARES = (1, 0.5, 0.25)
"""Of a GPU that a trial asks for."""


def run_sweep(folder: str, share: Any, trials: int, epochs: int, name: str) -> tuple[list[dict[str, Any]], float]:
    """Rows of a sweep by Ray, of so many seeds, and seconds with Ray's start.

    Raises:
        ModuleNotFoundError: If Ray, or another package that only a sweep needs, is not installed.
    """
    from sweeper import Results, Workspace, load_space, run

    base = {"task": "digits"} | SMALL | {"finetune.epochs": epochs, "pretrain.epochs": 1}
    text = {"name": name, "base": base, "seeds": trials, "floors": False, "resources": {"cpu": 1, "gpu": share}}
    space = Path(folder) / f"{name}.yaml"
    space.write_text(json.dumps(text))
    started = time.perf_counter()
    run(load_space(str(space)), Workspace(f"{folder}/results"), quiet=True)
    seconds = time.perf_counter() - started
    columns = "trial, status, test_error, device, gpu_share, gpu_bytes, gpu_total_bytes, started_at, ended_at"
    query = f"select {columns} from trials where sweep = '{name}' order by started_at"
    return Results(f"{folder}/results").sql(query).rows(), seconds


def at_once(rows: list[dict[str, Any]]) -> int:
    """Number of trials that began before the one before them ended."""
    spans = sorted((row["started_at"], row["ended_at"]) for row in rows)
    return sum(later[0] < earlier[1] for earlier, later in pairwise(spans))


def sweep(clock: Clock) -> Iterator[Line]:
    """A sweep with two trials on the one GPU, and a row of it beside that of the same trial alone."""
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryDirectory() as other:
        rows, seconds = run_sweep(folder, 0.5, 4, 30, "two-on-a-gpu")
        complete = len(rows) == 4 and all(row["status"] == "COMPLETE" and row["device"] == "cuda" for row in rows)
        yield Line(SWEEP[0], f"{len(rows)} rows, {seconds:.0f} s with Ray's start", complete)
        yield Line(SWEEP[1], f"{at_once(rows)} began beside another", at_once(rows) > 0)
        config = config_of({"task": "digits", "finetune.epochs": 30})
        alone = rows_of(config, other)["result"]["test_error"]
        beside = next((row["test_error"] for row in rows if row["trial"] == trial_id(config)), None)
        yield Line(SWEEP[2], f"{alone} and {beside}", alone == beside)


SWEEP = ("4 trials with gpu: 0.5 complete on CUDA", "two trials share the GPU", "a trial beside another: the bits of one alone")


def packing(clock: Clock) -> Iterator[Line]:
    """Trials an hour by the share of a GPU that each asks for. A trial begins when its process does, and the first ones load torch."""
    rates: dict[float, float] = {}
    for share in SHARES:
        if rates and not clock.has(20):
            return
        with tempfile.TemporaryDirectory() as folder:
            rows, _ = run_sweep(folder, share, 4, 30, "packed")
        complete = len(rows) == 4 and all(row["status"] == "COMPLETE" for row in rows)
        span = (max(row["ended_at"] for row in rows) - min(row["started_at"] for row in rows)).total_seconds() if rows else 0.0
        rates[share] = 3600 * len(rows) / span if span else 0.0
        yield Line(
            f"gpu: {share:g}: 4 trials complete", f"{rates[share]:.0f} trials an hour, {at_once(rows)} began beside another", complete
        )
        if share == 0.5:
            yield Line(PACKING[-1], f"{rates[0.5] / rates[1] if rates[1] else 0:.2f} times as many an hour", rates[0.5] > rates[1])


PACKING = (*(f"gpu: {share:g}: 4 trials complete" for share in SHARES), "two small trials at once are faster than one by one")


def auto(clock: Clock) -> Iterator[Line]:
    """`gpu: auto`: one trial on a whole GPU, whose memory is measured, then as many at once as there are processors for."""
    with tempfile.TemporaryDirectory() as folder:
        rows, seconds = run_sweep(folder, "auto", 8, 30, "packed-auto")
    complete = len(rows) == 8 and all(row["status"] == "COMPLETE" and row["device"] == "cuda" for row in rows)
    yield Line(AUTO[0], f"{len(rows)} rows, {seconds:.0f} s with Ray's start, {at_once(rows)} began beside another", complete)
    shares = [row["gpu_share"] or 0.0 for row in rows]
    yield Line(AUTO[1], f"shares {', '.join(f'{share:.3g}' for share in shares)}", bool(shares) and shares[0] == 1 and min(shares) < 1)
    reserved, total = (max((row[column] or 0 for row in rows), default=0) / 2**30 for column in ("gpu_bytes", "gpu_total_bytes"))
    fits = all(0 < (row["gpu_bytes"] or 0) <= share * row["gpu_total_bytes"] for row, share in zip(rows, shares, strict=True))
    yield Line(AUTO[2], f"at most {reserved:.2f} of {total:.1f} GiB reserved by one", bool(rows) and fits)


AUTO = ("gpu: auto: 8 small trials complete", "the first has a whole GPU, others share one", "rows have memory, within the share of each")


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


def speed(clock: Clock) -> Iterator[Line]:
    """Samples a second in training, memory, and the ratio to a bare loop. The loops alternate. What is compiled comes last."""
    peaks: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        bodies = checkpoints(Path(folder))
        for variant, more in sorted(VARIANTS.items(), key=lambda item: "finetune.compile" in item[1]):
            for body, knobs in bodies.items():
                if clock.has(40 if "finetune.compile" in more else 8):
                    name, config = f"{body}, {variant}", resolve_config(knobs | {"train_samples": 512} | more)
                    yield from attempt(name, speed_of(name, config, folder, peaks, peaks.get(f"{body}, bf16")))
                    release(torch.device("cuda"))


def speed_of(name: str, config: TrialConfig, folder: str, peaks: dict[str, float], plain: float | None) -> Iterator[Line]:
    """A line of one variant: two epochs of each loop, after one to begin with.

    Args:
        name: Of the variant.
        config: Its trial.
        folder: Of a store.
        peaks: Takes the largest amount of memory, in GiB, by name.
        plain: What it is without checkpointing.
    """
    from torch._dynamo.utils import counters

    settings, tuning = Settings.of(config, "finetune"), config.finetune
    data = load_data(settings)
    # Both models first: a trial that begins gives back what the compiler holds.
    tuned, written = (model_before_tuning(config, Store(folder), device="cuda") for _ in range(2))
    bare = bare_epoch(config, written.to("cuda").requires_grad_(True), data, "cuda")
    bare()
    counters.clear()
    torch.cuda.reset_peak_memory_stats()
    before, started = torch.cuda.memory_allocated(), time.perf_counter()
    ours = Finetuning(settings, tuned, data, torch.device("cuda"))
    ours.start_phase(settings)
    inputs = ours.prepare()[0]
    epoch = partial(ours._train, x=inputs)  # without evaluation
    epoch(1)
    torch.cuda.synchronize()
    first, peaks[name] = time.perf_counter() - started, (torch.cuda.max_memory_allocated() - before) / 2**30
    seconds: dict[str, list[float]] = {"ours": [], "bare": []}
    for number in (2, 3):
        for loop, run in (("ours", partial(epoch, number)), ("bare", bare)):
            started = time.perf_counter()
            run()
            torch.cuda.synchronize()
            seconds[loop].append(time.perf_counter() - started)
    here, there = (min(values) for values in seconds.values())
    rate, ratio = len(data.train) / here, here / there
    text = f"{rate:.0f} samples/s, {peaks[name]:.1f} GiB, ratio to a bare loop {ratio:.2f}, first epoch {first:.1f} s"
    if tuning.compile == "reduce-overhead":
        skips = counters["inductor"]["cudagraph_skips"]
        yield Line(name, f"{text}, {skips} passes without a graph", skips == 0)
    elif tuning.checkpointing:  # it computes every block twice, so that memory is all it can promise
        yield Line(name, f"{text}, {plain or 0:.1f} GiB without", plain is not None and peaks[name] < plain)
    else:
        yield Line(name, text, ratio <= BARE_RATIO)


SPEED = tuple(f"{body}, {name}" for body in ("RoBERTa-base", "Swin-B") for name in VARIANTS)
