"""What two kinds of epochs of fine-tuning cost beside plain ones: the constants of `sweeper plan` where nothing was measured.

    python benchmarks/passes.py [--epochs N] [--joint-epochs N] [--seeds N]

`JOINT`: CPU seconds of an epoch that minimises OTDD to the proxy, too (`align.weight`), over those of one that does not. The two trials
alternate epoch by epoch on one thread; the median of the ratios. `TESTED`: the share of epochs that `finetune.test: best-and-last` tests,
by task, body and number of epochs, mean over seeds. Both are in `sweeper/planning/passes.py`.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Generator
from pathlib import Path
from typing import Any

from orca_core import Store, resolve_config
from orca_core.pipeline import trial_rows
from orca_core.rows import EpochRow
from sweeper.planning.passes import JOINT, TESTED

JOINT_ARMS = (("digits", "mini-swin"), ("mnist1d", "mini-roberta"))
TESTED_ARMS = (("digits", "mini-swin"), ("digits", "none"), ("mnist1d", "none"))
TRAINING_SAMPLES = 500
"""For the share of tested epochs, which is a matter of how errors fall."""


def epochs_of(store: Path, knobs: dict[str, Any]) -> Generator[tuple[float, EpochRow]]:
    """CPU seconds and row of each epoch of fine-tuning of a trial."""
    rows = trial_rows(resolve_config(knobs), Store(store))
    while True:
        started = time.process_time()
        if (row := next(rows, None)) is None:
            return
        if isinstance(row, EpochRow) and row.stage == "finetune":
            yield time.process_time() - started, row


def joint_ratio(task: str, body: str, epochs: int) -> float:
    """An epoch of the joint form over a plain one."""
    knobs = {"task": task, "body": body, "body.weights": "random", "align.epochs": 0, "finetune.epochs": epochs}
    with tempfile.TemporaryDirectory() as folder:
        joint = epochs_of(Path(folder, "joint"), knobs | {"align.weight": 1.0})
        plain = epochs_of(Path(folder, "plain"), knobs)
        ratios = [one / other for (one, _), (other, _) in zip(joint, plain, strict=True)]
    return statistics.median(ratios[1:])


def tested_share(task: str, body: str, epochs: int, seeds: int) -> float:
    """The share of epochs that have a test error."""
    shares = []
    for seed in range(seeds):
        knobs = {"task": task, "body": body, "align.epochs": 0, "finetune.epochs": epochs, "seed": seed}
        knobs |= {"finetune.test": "best-and-last", "finetune.decay_epochs": epochs + epochs // 2, "train_samples": TRAINING_SAMPLES}
        if body != "none":
            knobs["body.weights"] = "random"
        with tempfile.TemporaryDirectory() as folder:
            tested = [row.test_error is not None for _, row in epochs_of(Path(folder), knobs)]
        shares.append(sum(tested) / len(tested))
    return statistics.mean(shares)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, nargs="+", default=[10, 60])
    parser.add_argument("--joint-epochs", type=int, default=5, help="0 = leave the joint form out")
    parser.add_argument("--seeds", type=int, default=3)
    asked = parser.parse_args()
    for task, body in JOINT_ARMS if asked.joint_epochs else ():
        print(
            f"{task}, {body}: a joint epoch takes {joint_ratio(task, body, asked.joint_epochs):.1f} plain ones (JOINT = {JOINT})",
            flush=True,
        )
    for epochs in asked.epochs:
        for task, body in TESTED_ARMS:
            share = tested_share(task, body, epochs, asked.seeds)
            print(f"{task}, {body}, {epochs} epochs: {share:.2f} of them tested (TESTED = {TESTED})", flush=True)


if __name__ == "__main__":
    main()
