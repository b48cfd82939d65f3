"""Trials a second of fused fine-tuning (`finetune.fused`), compared with the same trials one after the other.

    python benchmarks/fused.py [NAME ...]
    python benchmarks/fused.py --sweep [NAME ...]

Each comparison has 24 whole trials (model, training, evaluation, store): 3 seeds, 4 learning rates, 2 weight decays. The two ways
alternate, on one thread in one run; what is printed is CPU seconds, and the median of the ratios. Bodies are random, as pretraining would
be shared. One trial before the others is not counted. Exits with 1 if a goal is missed, or if the validation errors of the two ways
differ on average by more than three standard errors: single errors may differ, as other rounding grows in training.
With `--sweep` the trials are those of real sweeps, and their verdicts are compared, too: see fused_sweeps.py. fused_step.py measures what
bounds a step.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Mapping
from itertools import product
from typing import Any

import torch
from fused_sweeps import STUDIES, compare_sweeps

from orca_core import Store, TrialConfig, resolve_config, run_trial, run_trials
from orca_core.rows import TrialResult

WIDTH = 24
ROUNDS = 2

COMPARISONS: Mapping[str, tuple[dict[str, Any], float | None]] = {
    "heads": ({"task": "digits", "body": "mini-swin", "freezing": "frozen-both", "finetune.epochs": 40}, 10.0),
    "mini-roberta-small": ({"task": "mnist1d", "body": "mini-roberta-small", "finetune.epochs": 2}, 3.0),
    "mini-roberta": ({"task": "mnist1d", "body": "mini-roberta", "finetune.epochs": 1}, None),
    "mini-swin": ({"task": "digits", "body": "mini-swin", "finetune.epochs": 1}, 3.0),
}
"""Name -> knobs, and how many times more trials a second are the goal, if there is one."""


def trials(knobs: Mapping[str, Any], fused: int) -> list[TrialConfig]:
    """24 trials."""
    fixed: dict[str, Any] = {"align.epochs": 0, "body.weights": "random", "finetune.fused": fused}
    fixed |= {"finetune.warmup_epochs": 0, "finetune.decay_epochs": None}
    varied = product((0, 1, 2), (3e-4, 1e-3, 3e-3, 1e-2), (0.0, 0.1))
    return [resolve_config({**fixed, **knobs, "seed": s, "finetune.lr": lr, "finetune.weight_decay": decay}) for s, lr, decay in varied]


def compare(name: str) -> bool:
    """Measure one comparison and print it; whether its goal is met."""
    knobs, goal = COMPARISONS[name]
    seconds: dict[str, list[float]] = {"alone": [], "fused": []}
    results: dict[str, list[TrialResult]] = {}
    with tempfile.TemporaryDirectory() as folder:  # not counted: what the first trial of a process imports and reads
        run_trial(trials(knobs | {"finetune.epochs": 1}, 0)[0], Store(folder), lambda row: None)
    for _ in range(ROUNDS):
        with tempfile.TemporaryDirectory() as folder:
            started = time.process_time()
            store = Store(f"{folder}/alone")
            results["alone"] = [run_trial(config, store, lambda row: None) for config in trials(knobs, 0)]
            between = time.process_time()
            found = run_trials(trials(knobs, WIDTH), Store(f"{folder}/fused"), lambda number, row: None)
            seconds["alone"].append(between - started)
            seconds["fused"].append(time.process_time() - between)
        results["fused"] = [result for result in found if isinstance(result, TrialResult)]
        assert len(results["fused"]) == len(found), found
    ratio = statistics.median(a / b for a, b in zip(seconds["alone"], seconds["fused"], strict=True))
    errors = {way: [result.cells()["valid_error"] for result in rows] for way, rows in results.items()}
    differences = [a - b for a, b in zip(errors["alone"], errors["fused"], strict=True)]
    mean, error = statistics.mean(differences), statistics.stdev(differences) / WIDTH**0.5
    alone, fused = (statistics.median(seconds[way]) for way in ("alone", "fused"))
    print(
        f"{name}: 24 trials {alone:.1f} s one after the other, {fused:.1f} s fused: {ratio:.1f} times"
        f"{'' if goal is None else f' (goal {goal:g})'}; validation errors differ by up to "
        f"{max(map(abs, differences)):.4f}, on average by {mean:+.4f} with standard error {error:.4f}",
        flush=True,
    )
    return (goal is None or ratio >= goal) and abs(mean) <= 3 * error + 1e-9


def main() -> int:
    """Compare, and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help=f"one of {', '.join(COMPARISONS)}; with --sweep one of {', '.join(STUDIES)}"
    )
    parser.add_argument("--sweep", action="store_true", help="the trials of real sweeps")
    arguments = parser.parse_args()
    known = STUDIES if arguments.sweep else COMPARISONS
    if unknown := set(arguments.names) - set(known):
        parser.error(f"unknown: {', '.join(sorted(unknown))}; known: {', '.join(known)}")
    if arguments.sweep:
        return compare_sweeps(arguments.names)
    torch.set_num_threads(1)
    met = [compare(name) for name in arguments.names or COMPARISONS]
    return 0 if all(met) else 1


if __name__ == "__main__":
    raise SystemExit(main())
