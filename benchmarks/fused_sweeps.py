"""Trials a second of `sweeper run` in groups (`finetune.fused`), compared with the same sweep of single trials; and the verdicts of both.

    python benchmarks/fused.py --sweep [NAME ...]

Each study is a learning rate ablation: 4 rates, 6 seeds, 24 trials, run by the command line on Ray, on one slot with one thread. The two
ways alternate. CPU seconds are those of the worker's process; from both is subtracted the start of that process, which follows from a
sweep of one trial. Exits with 1 if a goal is missed, or if `sweeper compare` gives another verdict for any rate.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil
import yaml

from sweeper import Results
from sweeper.analysis import effects

WIDTH, SEEDS, ROUNDS = 24, 6, 3
RATES = (3e-4, 1e-3, 3e-3, 1e-2)
BASELINE = 1e-3

STUDIES: Mapping[str, tuple[dict[str, Any], float | None]] = {
    "heads": ({"task": "digits", "body": "mini-swin", "freezing": "frozen-both", "finetune.epochs": 40}, 10.0),
    "mini-roberta-small": ({"task": "mnist1d", "body": "mini-roberta-small", "finetune.epochs": 3}, 3.0),
}
"""Name -> knobs, and how many times more trials a second are the goal."""

ENVIRONMENT = os.environ | {"RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "disabled", "OMP_NUM_THREADS": "1"}


def run(name: str, fused: int, folder: Path, *, rates: tuple[float, ...] = RATES, seeds: int = SEEDS) -> tuple[Results, float]:
    """Run a study; its results, and the CPU seconds of its worker."""
    base = {"align.epochs": 0, "body.weights": "random", "finetune.warmup_epochs": 0, "finetune.decay_epochs": None}
    base |= STUDIES[name][0] | {"finetune.fused": fused}
    space = {
        "name": "study",
        "floors": False,
        "keep": "none",
        "base": base,
        "space": {"finetune.lr": {"grid": list(rates)}},
        "seeds": seeds,
    }
    folder.mkdir(parents=True)
    (folder / "space.yaml").write_text(yaml.safe_dump(space))
    command = [sys.executable, "-m", "sweeper.cli", "run", str(folder / "space.yaml"), "--results", str(folder / "results")]
    driver = subprocess.Popen([*command, "--max-concurrent", "1", "--quiet"], env=ENVIRONMENT)
    seconds: dict[int, float] = {}
    watched = threading.Thread(target=_watch, args=(driver, seconds))
    watched.start()
    code = driver.wait()
    watched.join()
    assert code == 0, f"the sweep ended with exit code {code}"
    return Results(folder / "results"), sum(seconds.values())


def _watch(driver: subprocess.Popen[bytes], seconds: dict[int, float]) -> None:
    """Note the CPU seconds of the processes of Ray that run trials, until the driver has ended."""
    while driver.poll() is None:
        try:
            for process in psutil.Process(driver.pid).children(recursive=True):
                if process.name().startswith("ray::"):
                    seconds[process.pid] = sum(process.cpu_times()[:2])
        except psutil.Error:
            pass
        threading.Event().wait(0.1)


def verdicts(results: Results) -> dict[float, str]:
    """Rate -> verdict on its test error, compared with the baseline's."""
    table = results.sql("from trial_status where in_plan").arrow()
    return {row["level"]: row["verdict"] for row in effects(table, "finetune_lr", BASELINE).to_pylist()}


def study(name: str, folder: Path) -> bool:
    """Run a study in both ways and print what they took and found; whether its goal is met."""
    goal = STUDIES[name][1]
    ones: list[float] = []
    spent: dict[int, list[float]] = {0: [], WIDTH: []}
    found: dict[int, dict[float, str]] = {}
    for number in range(ROUNDS):
        ones.append(run(name, 0, folder / f"start-{number}", rates=(BASELINE,), seeds=1)[1])
        for fused in spent:
            results, seconds = run(name, fused, folder / f"{fused}-{number}")
            spent[fused].append(seconds)
            found[fused] = verdicts(results)
    one = statistics.median(ones)
    each = (statistics.median(spent[0]) - one) / (len(RATES) * SEEDS - 1)  # of a trial; the rest is the start, which all sweeps have
    start = one - each
    alone, fused = (statistics.median(spent[way]) - start for way in (0, WIDTH))
    ratio = alone / fused
    print(
        f"{name}: sweeps of 24 trials took {alone:.1f} CPU s one after the other, {fused:.1f} s in a group: {ratio:.1f} times "
        f"(goal {goal:g}); the start of the worker, {start:.1f} s, is left out (runs of one trial differ by {max(ones) - min(ones):.1f} s)",
        flush=True,
    )
    for rate in found[0]:
        print(f"  learning rate {rate:g} against {BASELINE:g}: {found[0][rate]}; in a group: {found[WIDTH][rate]}", flush=True)
    return (goal is None or ratio >= goal) and found[0] == found[WIDTH]


def compare_sweeps(names: Sequence[str]) -> int:
    """Run studies, all by default, and return the exit code."""
    with tempfile.TemporaryDirectory() as folder:
        met = [study(name, Path(folder) / name) for name in names or STUDIES]
    return 0 if all(met) else 1
