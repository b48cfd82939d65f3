"""What sharing stages saves: a sweep run by this engine, compared with the same trials run independently by plain Ray Tune.

    python benchmarks/sharing.py embedder-epochs-laptop
    python benchmarks/sharing.py freezing-laptop

The plain Ray Tune version is what one would write without this engine: one function trainable and fresh actors, where each trial runs all
of its stages (including pretraining of the mini body) and shares nothing. Both run on the same slots, one after the other, in one Ray
instance. The lower bound is the time the distinct stages alone take on all slots. The scores of both are compared.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1", "RAY_AIR_NEW_OUTPUT": "0"}
os.environ.setdefault("RAY_AUTH_MODE", "disabled")

import ray
from ray import tune

from sweeper import Results, load_space, plan, run

SLOTS = 2

STARTS = """
    select pid, arg_min(seconds - seconds_pretrain - seconds_source - seconds_align - seconds_finetune, started_at) as start
    from trials group by pid
"""
"""Per worker, the time its first trial took beyond its stages: starting the process and importing torch and transformers."""


def independent(config: dict[str, Any]) -> dict[str, float]:
    """Run one trial by itself, with its own store."""
    from orca_core import Store, TrialConfig, run_trial
    from orca_core.rows import Row, StageRow

    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as folder:
        result = run_trial(TrialConfig.model_validate_json(config["trial"]), Store(folder), rows.append)
    return {"test_error": result.test_error, "stage_s": sum(row.seconds for row in rows if isinstance(row, StageRow))}


def main(name: str) -> None:
    """Run both and print a table."""
    space = load_space(name)
    trials = plan(space).trials
    ray.init(address="local", num_cpus=SLOTS, include_dashboard=False, log_to_driver=False)
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        code = run(space, f"{folder}/results", quiet=True)
        shared_s = time.perf_counter() - started
        assert code == 0, "the sweep has failed trials"
        tables = Results(f"{folder}/results")
        ours = {row["trial"]: row["test_error"] for row in tables.sql("select trial, test_error from trials").rows()}
        work = tables.sql("select sum(seconds) as ran, sum(saved_s) as saved from stages").rows()[0]
        start_s = max(row["start"] for row in tables.sql(STARTS).rows())

        tuner = tune.Tuner(
            tune.with_resources(independent, {"cpu": 1}),
            param_space={"trial": tune.grid_search([trial.config.model_dump_json() for trial in trials])},
            run_config=tune.RunConfig(storage_path=str(Path(folder) / "tune"), verbose=0),
        )
        started = time.perf_counter()
        grid = tuner.fit()
        alone_s = time.perf_counter() - started
    alone_work = sum(result.metrics["stage_s"] for result in grid)
    theirs = {json.dumps(json.loads(result.config["trial"]), sort_keys=True): result.metrics["test_error"] for result in grid}
    same = all(ours[trial.id] == theirs[json.dumps(json.loads(trial.config.model_dump_json()), sort_keys=True)] for trial in trials)
    bound = work["ran"] / SLOTS
    lines = [
        ("trials", len(trials)),
        ("wall time, plain Ray Tune", f"{alone_s:.0f} s"),
        ("wall time, this engine", f"{shared_s:.0f} s"),
        ("ratio", f"{alone_s / shared_s:.1f}"),
        ("stage seconds, plain Ray Tune", f"{alone_work:.0f} s"),
        ("stage seconds, this engine", f"{work['ran']:.0f} s"),
        ("stage seconds that were reused", f"{work['saved']:.0f} s"),
        (f"bound: stage seconds / {SLOTS} slots", f"{bound:.0f} s"),
        ("wall time / bound", f"{shared_s / bound:.2f}"),
        ("start of a worker, the slower one", f"{start_s:.0f} s"),
        ("wall time without it / bound", f"{(shared_s - start_s) / bound:.2f}"),
        ("same test errors", same),
    ]
    for label, value in lines:
        print(f"{label:<34} {value}")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "embedder-epochs-laptop")
