"""What a sweep by this engine takes, compared with the same trials run independently by plain Ray Tune.

    python benchmarks/sharing.py embedder-epochs-laptop
    python benchmarks/sharing.py freezing-laptop --without fused

The plain Ray Tune version is what one would write without this engine: one function trainable and fresh actors, where each trial runs all
of its stages (including pretraining of the mini body) and shares nothing. Here, trials share stages, and three measures come on top:

    fused     trials that can do so train as one model (`finetune.fused`), to other last bits: in groups of one size, one for each slot
    test      the test set is evaluated only after epochs that may be asked for (`finetune.test: best-and-last`), to the same errors
    preload   processes import torch and transformers while Ray is being started

The sweep runs with all of them, without any, and without each that `--without` names (by default each in turn). Every run starts a Ray of
its own, which counts, on the same number of slots; the runs come one after the other. Floors are left out, which plain Ray Tune would not
compute either. The bound is the time that the distinct stages of a run alone take on all slots. The scores are compared.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1", "RAY_AIR_NEW_OUTPUT": "0"}
os.environ.setdefault("RAY_AUTH_MODE", "disabled")

import ray
from ray import tune

from sweeper import Results, load_space, plan, run

SLOTS = 2
MEASURES = ("fused", "test", "preload")
PRELOADED = "RAY_preload_python_modules"

STARTS = """
    select pid, arg_min(seconds - seconds_pretrain - seconds_source - seconds_align - seconds_adapt - seconds_finetune, started_at) as start
    from trials group by pid
"""
"""Per worker, the time its first trial took beyond its stages: what of torch, transformers and this package it still had to import."""

UP = "select min(started_at) as first from trials"
"""When the first worker began a trial."""


@dataclass(frozen=True)
class Measured:
    """A run.

    Args:
        wall: Seconds, from before Ray starts.
        until_up: Of these, seconds until the first worker has a trial, and has imported all that it needs.
        stage_s: Seconds of stages that were computed.
        saved_s: Seconds of stages that were reused.
        errors: Task and seed and what else varies -> test error.
    """

    wall: float
    until_up: float
    stage_s: float
    saved_s: float
    errors: dict[str, float]

    @property
    def bound(self) -> float:
        """Least seconds in which its distinct stages can run."""
        return self.stage_s / SLOTS


def independent(config: dict[str, Any]) -> dict[str, float]:
    """Run one trial by itself, with its own store."""
    from orca_core import Store, TrialConfig, run_trial
    from orca_core.rows import Row, StageRow

    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as folder:
        result = run_trial(TrialConfig.model_validate_json(config["trial"]), Store(folder), rows.append)
    return {"test_error": result.test_error, "stage_s": sum(row.seconds for row in rows if isinstance(row, StageRow))}


def space_with(name: str, measures: Collection[str]) -> Any:
    """A search space with some of the measures."""
    overrides: dict[str, Any] = {"sweep:floors": False}
    if "fused" in measures:
        groups = Counter(trial.group for trial in plan(load_space(name, overrides | {"finetune.fused": 2})).trials)
        overrides["finetune.fused"] = max(2, min(groups.values()) // SLOTS)
    if "test" in measures:
        overrides["finetune.test"] = "best-and-last"
    return load_space(name, overrides)


def known_as(trial: Any) -> str:
    """What a trial is known by, with and without the measures."""
    return json.dumps({path: value for path, value in trial.knobs().items() if path not in ("finetune.fused", "finetune.test", "method")})


@contextmanager
def preloading(is_on: bool) -> Iterator[None]:
    """Within: Ray's processes import what takes long before they get a trial, or not."""
    if not is_on:
        os.environ[PRELOADED] = ""
    try:
        yield
    finally:
        os.environ.pop(PRELOADED, None)


def run_sweep(name: str, measures: Collection[str]) -> Measured:
    """Run the sweep with some of the measures."""
    space = space_with(name, measures)
    with tempfile.TemporaryDirectory() as folder, preloading("preload" in measures):
        began, started = time.time(), time.perf_counter()
        code = run(space, folder, quiet=True, max_concurrent=SLOTS)
        wall = time.perf_counter() - started
        assert code == 0, "the sweep has failed trials"
        tables = Results(folder)
        errors = {row["trial"]: row["test_error"] for row in tables.sql("select trial, test_error from trials").rows()}
        work = tables.sql("select sum(seconds) as ran, sum(saved_s) as saved from stages").rows()[0]
        up = tables.sql(UP).rows()[0]["first"].timestamp() - began
        start = max(row["start"] for row in tables.sql(STARTS).rows())
    by_name = {known_as(trial): errors[trial.id] for trial in plan(space).trials}
    return Measured(wall, up + max(0.0, start), work["ran"], work["saved"], by_name)


def run_plainly(name: str) -> Measured:
    """Run the same trials by plain Ray Tune."""
    trials = plan(load_space(name)).trials
    started = time.perf_counter()
    ray.init(address="local", num_cpus=SLOTS, include_dashboard=False, log_to_driver=False)
    with tempfile.TemporaryDirectory() as folder:
        tuner = tune.Tuner(
            tune.with_resources(independent, {"cpu": 1}),
            param_space={"trial": tune.grid_search([trial.config.model_dump_json() for trial in trials])},
            run_config=tune.RunConfig(storage_path=str(Path(folder) / "tune"), verbose=0),
        )
        grid = tuner.fit()
    ray.shutdown()
    wall = time.perf_counter() - started
    found = {json.dumps(json.loads(result.config["trial"]), sort_keys=True): result.metrics["test_error"] for result in grid}
    errors = {known_as(trial): found[json.dumps(json.loads(trial.config.model_dump_json()), sort_keys=True)] for trial in trials}
    return Measured(wall, 0.0, sum(result.metrics["stage_s"] for result in grid), 0.0, errors)


def compare(label: str, ours: Measured, plain: Measured | None) -> None:
    """Print a line about a run, as soon as it is over."""
    differences = [abs(error - plain.errors[name]) for name, error in ours.errors.items()] if plain is not None else []
    same = "" if plain is None else "the same" if not any(differences) else f"{statistics.fmean(differences):.4f} off on average"
    ratio = f"{plain.wall / ours.wall:.1f}" if plain is not None else ""
    cells = [f"{ours.wall:.0f} s", ratio, f"{ours.stage_s:.0f} s", f"{ours.saved_s:.0f} s", f"{ours.until_up:.1f} s"]
    cells += [f"{ours.wall / ours.bound:.2f}", f"{(ours.wall - ours.until_up) / ours.bound:.2f}", same]
    print_row(label, cells)


def print_row(label: str, cells: Sequence[str]) -> None:
    """Print a row of the table."""
    print(f"{label:<22}" + "".join(f"{cell:>12}" for cell in cells), flush=True)


def main() -> None:
    """Run all and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("space", nargs="?", default="embedder-epochs-laptop")
    parser.add_argument(
        "--without", nargs="*", default=list(MEASURES), choices=MEASURES, metavar="NAME", help="one run without each of these"
    )
    parser.add_argument("--skip-plain", action="store_true", help="only this engine, without ratios")
    arguments = parser.parse_args()
    if unknown := sorted(set(arguments.without) - set(MEASURES)):
        parser.error(f"--without: must be of {', '.join(MEASURES)}, but got {', '.join(unknown)}")
    plain = None if arguments.skip_plain else run_plainly(arguments.space)
    print(f"{arguments.space}: {len(plan(load_space(arguments.space)).trials)} trials on {SLOTS} slots")
    print_row("", ["wall", "ratio", "stages", "reused", "until up", "wall/bound", "once up", "test errors"])
    if plain is not None:
        print_row("plain Ray Tune", [f"{plain.wall:.0f} s", "1", f"{plain.stage_s:.0f} s", "0 s"])
    for label, measures in [
        ("sharing alone", ()),
        ("all measures", MEASURES),
        *((f"all without {name}", tuple(other for other in MEASURES if other != name)) for name in arguments.without),
    ]:
        compare(label, run_sweep(arguments.space, measures), plain)


if __name__ == "__main__":
    main()
