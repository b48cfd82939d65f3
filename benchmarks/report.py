"""Size of the page of `sweeper report`, and the time it takes, for a sweep with made-up results.

    python benchmarks/report.py [--trials 500]

Prints the processor time beside the wall time: on a machine that does other things, too, only the first says anything.
"""

from __future__ import annotations

import argparse
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from resource import RUSAGE_CHILDREN, getrusage

from orca_core.rows import EpochRow, StageRow
from sweeper.planning.planner import make_plan
from sweeper.results import Workspace
from sweeper.running.plan_note import plan_note
from sweeper.running.recorder import Recorder
from sweeper.space.reading import parse_space

TRIALS_PER_SEED = 50
"""2 tasks x 5 lengths of alignment x 5 freezing schedules."""


def record(workspace: Workspace, trials: int) -> int:
    """Record a sweep of about so many trials, with every epoch and stage; returns the number."""
    space = parse_space(
        {
            "name": "large",
            "description": "How large is the page?",
            "space": {
                "task": {"grid": ["digits", "mnist1d"]},
                "align.epochs": {"grid": [0, 1, 5, 20, 60]},
                "freezing": {"grid": ["full", "frozen-body", "layernorm", "bias", "frozen-embedder"]},
            },
            "seeds": max(1, round(trials / TRIALS_PER_SEED)),
            "question": {"factor": "align.epochs", "baseline": 0},
        }
    )
    plan, draw = make_plan(space), random.Random(0)
    workspace.results.save_plan(space.name, plan.hash, plan_note(plan))
    recorder = Recorder(workspace.results, space.name, "valid_error")
    for trial in plan.trials:
        cells = trial.cells()
        recorder.start(trial, device="cpu")
        recorder.locate(trial.id, "here", 1)
        error = 0.2 + 0.05 * (cells["freezing"] != "full") + 0.02 * draw.random()
        rows: list[EpochRow | StageRow] = [
            EpochRow(stage="finetune", epoch=epoch, test_error=error + 0.5 / epoch, valid_error=error + 0.5 / epoch, train_loss=1.0)
            for epoch in range(1, cells["finetune_epochs"] + 1)
        ]
        if length := cells["align_epochs"]:
            rows += [EpochRow(stage="align", epoch=epoch, distance=40 / epoch + draw.random()) for epoch in range(1, length + 1)]
            rows.append(StageRow(stage="align", key="k", epochs=length, reused_epochs=0, seconds=5.0, saved_s=0.0))
        rows.append(StageRow(stage="finetune", key="k", epochs=cells["finetune_epochs"], reused_epochs=0, seconds=10.0, saved_s=0.0))
        recorder.add_rows(trial.id, rows)
        scores = {"test_error": error, "valid_error": error, "test_samples": 1000, "score": "1-accuracy"}
        recorder.end(trial.id, {"status": "COMPLETE", **scores})
    recorder.flush()
    return len(plan.trials)


def measure(uri: str, page: Path, *options: str) -> tuple[float, float]:
    """Seconds of wall time and of processor time of the command."""
    before, began = getrusage(RUSAGE_CHILDREN), time.perf_counter()
    command = [sys.executable, "-m", "sweeper", "report", "large", "--results", uri, "-o", str(page), *options]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    after = getrusage(RUSAGE_CHILDREN)
    return time.perf_counter() - began, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    """Record, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=500)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        workspace = Workspace(Path(folder) / "results")
        trials = record(workspace, arguments.trials)
        for form, *options in (("html",), ("markdown", "--format", "markdown")):
            page = Path(folder) / f"page.{form}"
            wall, processor = measure(workspace.uri, page, *options)
            size = page.stat().st_size / 1e6
            print(f"{trials} trials, {form}: {size:.2f} MB in {wall:.1f} s, with {processor:.1f} s of processor time")


if __name__ == "__main__":
    main()
