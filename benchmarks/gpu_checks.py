"""What `gpu.py` promises of trials in one process: refusals, memory, values beside the CPU's, bits."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gpu_trials import GRAPHED, TRIALS, Clock, Line, attempt, checkpoints, config_of, difference, rows_of
from torch import nn

from orca_core import TrialConfig, resolve_config
from orca_core.config.device_faults import check_device
from orca_core.distances import OtddSource
from orca_core.errors import ConfigError
from orca_core.memory import release

CPU_TOLERANCE = {"distance": 1e-3, "train_loss": 1e-2}
"""Largest relative difference between GPU and CPU, both in fp32: of the distance before the first step of alignment, and of the first
epoch's training loss, which hundreds of steps have passed through."""


REFUSED: dict[str, tuple[str, str, Any]] = {
    "fused trials are refused on a GPU": ("cuda", "finetune.fused", 8),
    "CUDA graphs are refused on a CPU": ("cpu", "finetune.compile", "reduce-overhead"),
}
"""Promise -> device, and a knob with a value that the device does not take."""


def refusals(clock: Clock) -> Iterator[Line]:
    """What a device cannot do is refused before anything is computed, with the name of the knob."""
    for promise, (device, knob, value) in REFUSED.items():
        try:
            check_device(resolve_config({"task": "digits", knob: value}), device)
        except ConfigError as error:
            yield Line(promise, str(error).splitlines()[0][:100], knob in str(error))
        else:
            yield Line(promise, "not refused", False)


REFUSALS = tuple(REFUSED)


def memory(clock: Clock) -> Iterator[Line]:
    """A trial that needs more than is left, and one that needs more than its share, fail with the cause, and the next one runs.

    A trial of digits in batches of 300 keeps 55 MiB between its passes. The first one comes before cuBLAS has been used in this process,
    so that there may be no room for it either.
    """
    from sweeper.running.packing import CONTEXT_BYTES

    device = torch.device("cuda")
    torch.cuda.init()
    free, total = torch.cuda.mem_get_info()
    with tempfile.TemporaryDirectory() as folder:
        ballast = torch.empty(free - 64 * 2**20, dtype=torch.uint8, device=device)
        yield run_out(MEMORY[0], folder, None)
        del ballast
        release(device)
        again = rows_of(config_of({"task": "digits"}), folder)
        yield Line(MEMORY[1], "completes" if again["result"] else "fails", again["result"] is not None)
        release(device)
        context = total - torch.cuda.mem_get_info()[0] - torch.cuda.memory_reserved()
        yield Line("a process beside its tensors", f"{context / 2**20:.0f} MiB, with what the GPU and other processes hold")
        torch._C._cuda_clearCublasWorkspaces()  # 32 MiB on an H100, which the process keeps
        before = torch.cuda.memory_allocated()
        try:
            yield run_out(MEMORY[2], folder, (CONTEXT_BYTES + 48 * 2**20) / total)
        finally:
            torch.cuda.set_per_process_memory_fraction(1.0)
        torch._C._cuda_clearCublasWorkspaces()
        left = torch.cuda.memory_allocated() - before
        yield Line(MEMORY[3], f"{left / 2**20:.1f} MiB more than before", left < 2**22)
        again = rows_of(config_of({"task": "digits", "seed": 1}), folder)
        yield Line(MEMORY[4], "completes" if again["result"] else "fails", again["result"] is not None)


def run_out(promise: str, folder: str, share: float | None) -> Line:
    """Run a trial that should run out of memory with a share of the GPU; None = with what is free."""
    from sweeper.running.execution import execute
    from sweeper.running.job import TrialJob

    config = config_of({"task": "digits", "finetune.batch_size": 300})
    rows = execute(TrialJob(config=config, store=folder, device="cuda"), gpu_share=share)
    while True:
        try:
            next(rows)
        except StopIteration as stop:
            outcome = stop.value
            break
    found = f"{outcome['status']}, {outcome.get('cause')}: {str(outcome.get('error'))[:80]}"
    return Line(promise, found, outcome.get("cause") == "out-of-memory")


MEMORY = (
    "a trial on a GPU that is full: out-of-memory",
    "once there is room the next one completes",
    "a trial larger than its share: out-of-memory",
    "it leaves no memory behind",
    "the next one in that process completes",
)


def large(clock: Clock) -> Iterator[Line]:
    """A training set of 1.8 GB where 1.5 GiB of the GPU are free: batches are moved one by one, to the same numbers."""
    count = 3000
    with tempfile.TemporaryDirectory() as folder:
        draws = np.random.default_rng(0)
        x = draws.random((count, 3, 224, 224), dtype=np.float32)
        labels = np.arange(count) % 10
        np.savez(f"{folder}/large.npz", x_train=x, y_train=labels, x_test=x[:64], y_test=labels[:64])
        config = resolve_config(
            {
                "task": f"npz:{folder}/large.npz",
                "body": "mini-swin",
                "body.weights": "random",
                "align.epochs": 0,
                "finetune.epochs": 1,
                "finetune.warmup_epochs": 0,
                "finetune.decay_epochs": None,
            }
        )
        release(torch.device("cuda"))
        resident = rows_of(config, f"{folder}/one")
        release(torch.device("cuda"))
        ballast = torch.empty(torch.cuda.mem_get_info()[0] - 3 * 2**29, dtype=torch.uint8, device="cuda")
        torch.cuda.reset_peak_memory_stats()
        streamed = rows_of(config, f"{folder}/two")
        peak = torch.cuda.max_memory_allocated() - ballast.numel()
        del ballast
        release(torch.device("cuda"))
        yield Line(LARGE[0], f"{x.nbytes / 1e9:.1f} GB of data, at most {peak / 1e9:.2f} GB on the GPU", peak < x.nbytes)
        same = resident == streamed
        yield Line(LARGE[1], "equal" if same else f"{difference(resident, streamed):.1e}", same)


LARGE = ("data larger than the free memory is trained on", "to the bits of data that fits")


def otdd(clock: Clock) -> Iterator[Line]:
    """One target class of 128 against 5000 samples of 768 features in 10 classes: value and gradient, and the time of both."""
    draws = torch.Generator().manual_seed(0)
    y = torch.arange(5000) % 10
    x = torch.randn(10, 768, generator=draws)[y] + 0.5 * torch.randn(5000, 768, generator=draws)
    target = torch.randn(768, generator=draws) + 0.7 * torch.randn(128, 768, generator=draws)
    for inner in ("exact", "gaussian"):
        # What the libraries do when they are first used is no part of the time.
        few = OtddSource(x[:200].to("cuda"), y[:200].to("cuda"), inner=inner)
        few.distance(target.clone().to("cuda").requires_grad_(True)).backward()
        found = {}
        for device in ("cpu", "cuda"):
            there = x.to(device), y.to(device)
            started = time.perf_counter()
            source = OtddSource(*there, inner=inner)
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
            found[device] = value.item(), gradient, preparing, statistics.median(calls[1:])
        (value_here, gradient, preparing, call), (value_there, reference, slow_preparing, slow) = found["cuda"], found["cpu"]
        off = abs(value_here - value_there) / value_there
        turned = 1 - nn.functional.cosine_similarity(gradient.flatten(), reference.flatten(), 0).item()
        yield Line(f"{inner}: value beside the CPU's", f"relative difference {off:.1e}", off < 1e-4)
        yield Line(f"{inner}: gradient beside the CPU's", f"1 - cosine {turned:.1e}", turned < 1e-4)
        yield Line(
            f"{inner}: a call",
            f"{call * 1e3:.1f} ms, CPU {slow * 1e3:.0f} ms; prepared in {preparing:.2f} s, CPU {slow_preparing:.2f} s",
        )


OTDD = tuple(f"{inner}: {what} beside the CPU's" for inner in ("exact", "gaussian") for what in ("value", "gradient"))


def cpu(clock: Clock) -> Iterator[Line]:
    """The first distance and the first training loss, on the GPU and on the CPU, from the same pretrained body."""
    for name, knobs in TRIALS.items():
        yield from attempt(name, beside_cpu(name, config_of(knobs | {"body.weights": "random"})))


def beside_cpu(name: str, config: TrialConfig) -> Iterator[Line]:
    """Two lines."""
    found = {}
    for device in ("cuda", "cpu"):
        with tempfile.TemporaryDirectory() as folder:
            found[device] = rows_of(config, folder, device=device, stop_after=3)["epochs"]  # two of alignment, one of fine-tuning
    for stage, column in (("align", "distance"), ("finetune", "train_loss")):
        here, there = (next(row[column] for row in found[device] if row["stage"] == stage) for device in ("cuda", "cpu"))
        relative = abs(here - there) / abs(there)
        yield Line(f"{name}: first {column}", f"relative difference {relative:.1e}", relative <= CPU_TOLERANCE[column])


CPU = tuple(f"{name}: first {column}" for name in TRIALS for column in CPU_TOLERANCE)


def bits(clock: Clock) -> Iterator[Line]:
    """The same trial in two fresh stores, stopped in the midst of fine-tuning and continued, and after a trial that shares its stages.

    Small bodies of every family and most knobs are in `tests/orca_core/test_gpu.py`.
    """
    names = list(TRIALS)
    for name in names[:2]:
        yield from attempt(name, bits_of(name, config_of(TRIALS[name])))
    yield from bits_of_shared_stages()
    with tempfile.TemporaryDirectory() as folder:
        for body, knobs in checkpoints(Path(folder)).items():
            few = knobs | {"train_samples": 64, "precision": "bf16", "finetune.dropout": 0.1}
            yield from attempt(body, bits_of(f"{body}, bf16, dropout", resolve_config(few)))
    for name in names[2:]:
        yield from attempt(name, bits_of(name, config_of(TRIALS[name])))
    yield from bits_of_graphs()


def bits_of_graphs() -> Iterator[Line]:
    """A trial whose training is replayed from CUDA graphs, and its losses beside those of the same trial without."""
    graphed = yield from bits_of("compile reduce-overhead", config_of(GRAPHED))
    with tempfile.TemporaryDirectory() as folder:
        plain = rows_of(config_of(GRAPHED | {"finetune.compile": "none"}), folder)
    off = difference(graphed, plain, "train_loss")
    yield Line("compile reduce-overhead: training losses as without", f"relative difference {off:.1e}", off < 1e-3)


def bits_of(name: str, config: TrialConfig) -> Generator[Line, None, dict[str, Any]]:
    """Two lines; returns the rows."""
    with tempfile.TemporaryDirectory() as one, tempfile.TemporaryDirectory() as two:
        started = time.perf_counter()
        first = rows_of(config, one)
        seconds = time.perf_counter() - started
        again = rows_of(config, two)
        yield Line(f"{name}: twice", f"{'equal' if first == again else f'{difference(first, again):.1e}'}, {seconds:.1f} s", first == again)
    with tempfile.TemporaryDirectory() as folder:
        rows_of(config, folder, stop_after=len(first["epochs"]) - 1)
        resumed = rows_of(config, folder)
        same = first == resumed
        yield Line(f"{name}: stopped and continued", "equal" if same else f"{difference(first, resumed):.1e}", same)
    return first


def bits_of_shared_stages() -> Iterator[Line]:
    """A trial that finds stages of another in its store, and the same trial alone."""
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryDirectory() as other:
        longer = config_of({"task": "digits", "align.epochs": 4, "freezing": "frozen-body:1"})
        shorter = config_of({"task": "digits", "align.epochs": 2, "freezing": "frozen-body:1"})
        rows_of(longer, folder)
        shared, alone = rows_of(shorter, folder), rows_of(shorter, other)
        yield Line(
            "after a trial that shares its stages", "equal" if shared == alone else f"{difference(shared, alone):.1e}", shared == alone
        )


BITS = (
    *(
        f"{name}: {how}"
        for name in (*TRIALS, "RoBERTa-base, bf16, dropout", "Swin-B, bf16, dropout", "compile reduce-overhead")
        for how in ("twice", "stopped and continued")
    ),
    "after a trial that shares its stages",
    "compile reduce-overhead: training losses as without",
)
