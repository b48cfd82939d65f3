"""Tune the recipes `laptop` of the built-in tasks, with the same budget for every arm.

    python benchmarks/recipes.py digits mnist1d         run what is missing, append to benchmarks/recipes.csv
    python benchmarks/recipes.py --table                what the results say, without running anything

A recipe is one setting for all arms of a task: a body that is pretrained and aligned, pretrained and not aligned, random, and the bodiless
arms. So every candidate runs with every arm, and the one is chosen whose validation errors are lowest relative to the best of each arm, in
the geometric mean over arms: what suits one arm alone does not win, whichever arm that is. Test errors are written down and decide nothing.

Candidates of a task are the recipe as it was before, and three learning rates, at as many epochs as the time of a trial allows, with a
rate that falls to 0 at the end. Seconds are those of the processor, as other jobs may run beside.
"""

from __future__ import annotations

import argparse
import csv
import itertools
import math
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).with_suffix(".csv")
SETTINGS = ("lr", "batch_size", "epochs", "decay_epochs", "tokens")
COLUMNS = ("task", "arm", "candidate", *SETTINGS, "seed", "valid_error", "test_error", "seconds")

ARMS: Mapping[str, Mapping[str, Any]] = {
    "aligned": {},
    "naive": {"align.epochs": 0},
    "random": {"align.epochs": 0, "body.weights": "random"},
    "none": {"body": "none"},
    "transformer-1": {"body": "transformer-1"},
    "cnn": {"body": "cnn"},
}

LENGTHS: Mapping[str, tuple[int, int]] = {
    "digits": (12, 32),
    "digits-shifted": (16, 32),
    "mnist1d": (8, 32),
    "burgers-mini": (15, 8),
    "darcy-mini": (12, 16),
    "darcy-16": (20, 16),
}
"""Task -> epochs and batch size of the candidates. `openml/1510` and `openml/187` have no room: a logistic regression is at 0."""

AS_IT_WAS: Mapping[str, Mapping[str, Any]] = {
    task: {f"finetune.{knob}": value for knob, value in zip(("epochs", "decay_epochs", "batch_size", "lr"), values, strict=True)}
    for task, values in {
        "digits": (6, 9, 16, 3e-3),
        "mnist1d": (8, 12, 32, 1e-3),
        "burgers-mini": (15, 22, 8, 2e-3),
        "darcy-mini": (10, 15, 16, 3e-3),
    }.items()
}
"""Task -> the recipe before this tuning, where there was one."""

LEARNING_RATES = (1e-3, 3e-3, 1e-2)


def candidates(task: str) -> dict[str, Mapping[str, Any]]:
    """Name -> knobs of every candidate."""
    epochs, batch_size = LENGTHS[task]
    common = {"finetune.epochs": epochs, "finetune.decay_epochs": epochs, "finetune.batch_size": batch_size}
    before = {"as it was": AS_IT_WAS[task]} if task in AS_IT_WAS else {}
    return before | {f"lr {lr:g}": {**common, "finetune.lr": lr} for lr in LEARNING_RATES}


def read() -> list[dict[str, str]]:
    """The rows so far."""
    if not RESULTS.exists():
        return []
    with RESULTS.open(newline="") as file:
        return list(csv.DictReader(file))


def run(tasks: list[str], seed: int) -> None:
    """Run every candidate of every arm that has no row yet."""
    from orca_core.config.resolve import resolve_config
    from orca_core.pipeline import run_trial
    from orca_core.store import Store

    done = {(row["task"], row["arm"], row["candidate"], row["seed"]) for row in read()}
    with tempfile.TemporaryDirectory() as folder:
        store = Store(folder)
        for task in tasks:
            for (name, knobs), (arm, settings) in itertools.product(candidates(task).items(), ARMS.items()):
                if (task, arm, name, str(seed)) in done:
                    continue
                config = resolve_config({"task": task, "seed": seed, **knobs, **settings})
                started = time.process_time()
                result = run_trial(config, store, lambda row: None)
                tuned = config.finetune
                values = (tuned.lr, tuned.batch_size, tuned.epochs, tuned.decay_epochs, config.embedder.target_seq_len, seed)
                errors = (f"{result.valid_error:.5f}", f"{result.test_error:.5f}", f"{time.process_time() - started:.1f}")
                append((task, arm, name, *values, *errors))
                print(task, arm, name, *errors, flush=True)


def append(values: tuple[Any, ...]) -> None:
    """Add a row to the results."""
    is_new = not RESULTS.exists()
    with RESULTS.open("a", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        if is_new:
            writer.writerow(COLUMNS)
        writer.writerow(values)


def table() -> Iterator[str]:
    """For each task the candidates by their mean over arms, then the best validated trial of each arm, and what it has in test."""
    rows = read()
    for task in dict.fromkeys(row["task"] for row in rows):
        errors: dict[str, dict[str, float]] = {}
        for row in rows:
            if row["task"] == task:
                errors.setdefault(row["candidate"], {})[row["arm"]] = float(row["valid_error"])
        arms = [arm for arm in ARMS if all(arm in found for found in errors.values())]
        best = {arm: min(found[arm] for found in errors.values()) for arm in arms}
        floor = 1e-3  # below this, differences between errors are of single samples
        score = {
            name: math.exp(sum(math.log(max(found[arm], floor) / max(best[arm], floor)) for arm in arms) / len(arms))
            for name, found in errors.items()
        }
        yield f"\n{task}: validation error by candidate; mean ratio to the best of each arm"
        yield f"{'candidate':<22}" + "".join(f"{arm:>15}" for arm in arms) + f"{'ratio':>8}"
        for name in sorted(score, key=lambda name: score[name]):
            yield f"{name:<22}" + "".join(f"{errors[name][arm]:>15.4f}" for arm in arms) + f"{score[name]:>8.2f}"
        chosen = min(score, key=lambda name: score[name])
        tested = {row["arm"]: row for row in rows if row["task"] == task and row["candidate"] == chosen}
        yield f"{'test, of the first':<22}" + "".join(f"{float(tested[arm]['test_error']):>15.4f}" for arm in arms)
        yield f"{'seconds':<22}" + "".join(f"{float(tested[arm]['seconds']):>15.1f}" for arm in arms)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("tasks", nargs="*", help=f"Of {', '.join(LENGTHS)}.")
    parser.add_argument("--table", action="store_true", help="Print what the results say.")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    run(arguments.tasks, arguments.seed)
    if arguments.table:
        sys.stdout.write("\n".join(table()) + "\n")


if __name__ == "__main__":
    main()
