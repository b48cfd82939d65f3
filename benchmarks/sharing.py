"""What a sweep by this engine takes, compared with the same trials run independently by plain Ray Tune.

    python benchmarks/sharing.py embedder-epochs-laptop
    python benchmarks/sharing.py freezing-laptop --without fused

The plain Ray Tune version is what one would write without this engine: one function trainable and fresh actors, where each trial runs all
of its stages (including pretraining of the mini body) and shares nothing. Here, trials share stages, and four measures come on top:

    fused     trials that can do so train as one model (`finetune.fused`), to other last bits: in groups of one size, as large as leaves a
              group for each slot
    test      the test set is evaluated only after epochs that may be asked for (`finetune.test: best-and-last`), to the same errors
    preload   processes import torch and transformers while Ray is being started
    prefix    what frozen layers compute is kept (`finetune.prefix: once`), to other last bits; not together with `fused`

The sweep runs without any; with the first three, and without each of these that `--without` names (by default each in turn); and, where
that is another sweep, with the last three. Every run starts a Ray of its own, which counts, on the same number of slots; the runs come one
after the other. Floors are left out, which plain Ray Tune would not compute either. The bound is the time that the distinct stages of a run
alone take on all slots; `queue` is how many times as long the queue takes with stages of these lengths and nothing between them, as some
wait for others. The scores are compared. At the end, the seconds of each run by kind of stage.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1", "RAY_AIR_NEW_OUTPUT": "0"}
os.environ.setdefault("RAY_AUTH_MODE", "disabled")

import ray
from ray import tune

from sweeper import Results, load_space, plan, run
from sweeper.planning.cost import CostModel
from sweeper.planning.forecast import forecast
from sweeper.planning.order import longest_path_first

SLOTS = 2
MEASURES = ("fused", "test", "preload")
WITH_PREFIX = ("test", "preload", "prefix")
PRELOADED = "RAY_preload_python_modules"

STARTS = """
    select pid, arg_min(seconds - seconds_pretrain - seconds_source - seconds_align - seconds_adapt - seconds_finetune, started_at) as start
    from trials group by pid
"""
"""Per worker, the time its first trial took beyond its stages: what of torch, transformers and this package it still had to import."""

KINDS = "select task, stage, sum(stages.seconds) as seconds from stages join trials using (sweep, trial) group by all"

LENGTHS = "select key, sum(seconds) as seconds, sum(epochs - reused_epochs)::double as epochs from stages group by key"

ENDS = "select min(started_at) as first, max(ended_at) as last from trials"
"""When the first worker began a trial, and when the last trial ended."""


@dataclass(frozen=True)
class Measured:
    """A run.

    Args:
        wall: Seconds, from before Ray starts.
        until_up: Of these, seconds until the first worker has a trial, and has imported all that it needs.
        after: Of these, seconds after the last trial.
        kinds: Task and kind of stage -> seconds of those that were computed.
        saved_s: Seconds of stages that were reused.
        queue_s: Seconds that the queue takes with these stages, and with nothing between them.
        errors: Task and seed and what else varies -> test error.
    """

    wall: float
    until_up: float
    after: float
    kinds: dict[tuple[str, str], float]
    saved_s: float
    queue_s: float
    errors: dict[str, float]

    @property
    def stage_s(self) -> float:
        """Seconds of stages that were computed."""
        return sum(self.kinds.values())

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
    seconds = Counter[str]()
    for row in rows:
        if isinstance(row, StageRow):
            seconds[row.stage] += row.seconds
    return {"test_error": result.test_error, "task": json.loads(config["trial"])["task"], "kinds": dict(seconds)}


def space_with(name: str, measures: Collection[str]) -> Any:
    """A search space with some of the measures."""
    overrides: dict[str, Any] = {"sweep:floors": False}
    if "fused" in measures:
        groups = Counter(trial.group for trial in plan(load_space(name, overrides | {"finetune.fused": 2})).trials)
        overrides["finetune.fused"] = max(2, min(groups.values()) // -(-SLOTS // len(groups)))
    if "prefix" in measures:
        overrides["finetune.prefix"] = "once"
    if "test" in measures:
        overrides["finetune.test"] = "best-and-last"
    return load_space(name, overrides)


def known_as(trial: Any) -> str:
    """What a trial is known by, with and without the measures."""
    measures = ("finetune.fused", "finetune.test", "finetune.prefix", "method")
    return json.dumps({path: value for path, value in trial.knobs().items() if path not in measures})


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
        kinds = {(row["task"], row["stage"]): row["seconds"] for row in tables.sql(KINDS).rows()}
        saved = tables.sql("select sum(saved_s) as saved from stages").rows()[0]["saved"]
        queue_s = time_in_queue(plan(space), tables.sql(LENGTHS).rows())
        ends = tables.sql(ENDS).rows()[0]
        up, after = ends["first"].timestamp() - began, began + wall - ends["last"].timestamp()
        start = max(row["start"] for row in tables.sql(STARTS).rows())
    by_name = {known_as(trial): errors[trial.id] for trial in plan(space).trials}
    return Measured(wall, up + max(0.0, start), after, kinds, saved, queue_s, by_name)


def time_in_queue(planned: Any, lengths: Sequence[Any]) -> float:
    """Seconds in which the queue gets all stages done, if each epoch takes what it took on average, and nothing else takes time."""
    found = {row["key"]: row["seconds"] / max(1, row["epochs"]) for row in lengths}
    todo = longest_path_first(planned.trials, CostModel().seconds)
    return forecast(todo, lambda trial, stage: found[stage.key] * max(1, stage.end - stage.start), SLOTS, planned.keep_at)


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
    kinds = Counter[tuple[str, str]]()
    for result in grid:
        kinds.update({(result.metrics["task"], kind): seconds for kind, seconds in result.metrics["kinds"].items()})
    return Measured(wall, 0.0, 0.0, dict(kinds), 0.0, 0.0, errors)


def compare(label: str, ours: Measured, plain: Measured | None) -> None:
    """Print a line about a run, as soon as it is over."""
    differences = [abs(error - plain.errors[name]) for name, error in ours.errors.items()] if plain is not None else []
    same = "" if plain is None else "the same" if not any(differences) else f"{statistics.fmean(differences):.4f} off on average"
    ratio = f"{plain.wall / ours.wall:.1f}" if plain is not None else ""
    cells = [f"{ours.wall:.0f} s", ratio, f"{ours.stage_s:.0f} s", f"{ours.saved_s:.0f} s", f"{ours.until_up:.1f} s", f"{ours.after:.1f} s"]
    cells += [f"{seconds / ours.bound:.2f}" for seconds in (ours.wall, ours.wall - ours.until_up, ours.queue_s)] + [same]
    print_row(label, cells)


def print_row(label: str, cells: Sequence[str]) -> None:
    """Print a row of a table."""
    print(f"{label:<22}" + "".join(f"{cell:>12}" for cell in cells), flush=True)


def print_kinds(runs: Mapping[str, Measured]) -> None:
    """Print what stages of each kind took."""
    kinds = list(dict.fromkeys(kind for run in runs.values() for kind in run.kinds))
    print()
    print_row("seconds of stages", [task for task, _ in kinds])
    print_row("", [kind for _, kind in kinds])
    for label, measured in runs.items():
        print_row(label, [f"{measured.kinds.get(kind, 0.0):.1f}" for kind in kinds])


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
    runs = {} if arguments.skip_plain else {"plain Ray Tune": run_plainly(arguments.space)}
    plain = runs.get("plain Ray Tune")
    print(f"{arguments.space}: {len(plan(load_space(arguments.space)).trials)} trials on {SLOTS} slots")
    print_row("", ["wall", "ratio", "stages", "reused", "until up", "after", "wall/bound", "once up", "queue", "test errors"])
    if plain is not None:
        print_row("plain Ray Tune", [f"{plain.wall:.0f} s", "1", f"{plain.stage_s:.0f} s", "0 s"])
    wanted: dict[str, tuple[str, ...]] = {"sharing alone": (), "all measures": MEASURES}
    wanted |= {f"all without {name}": tuple(other for other in MEASURES if other != name) for name in arguments.without}
    if {trial.id for trial in plan(space_with(arguments.space, ("prefix",))).trials} != {
        trial.id for trial in plan(space_with(arguments.space, ())).trials
    }:
        wanted["prefix, not fused"] = WITH_PREFIX
    for label, measures in wanted.items():
        runs[label] = run_sweep(arguments.space, measures)
        compare(label, runs[label], plain)
    print_kinds(runs)


if __name__ == "__main__":
    main()
