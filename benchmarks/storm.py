"""Kill random processes of a sweep at random moments, continue it each time, and compare its tables with those of an undisturbed run.

    python benchmarks/storm.py --kills 100 [--fused]

A kill is a SIGKILL to the driver, to a worker, or to one of Ray's own processes (raylet, GCS). When the driver dies, the same command is
run again. When a sweep finishes, its tables are compared row by row (except times, hosts, attempts and the stages table), and another sweep
is started until there have been enough kills. With `--fused` the trials train in groups, and are stopped early.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import psutil

from sweeper import Results

SPACES = {is_fused: Path(__file__).with_name(name).resolve() for is_fused, name in ((False, "storm.yaml"), (True, "storm_fused.yaml"))}
ENVIRONMENT = os.environ | {"RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "disabled"}

# `code_commit` is here because the working tree may change during the run.
VARYING = (
    "attempt",
    "code_commit",
    "run",
    "sequence",
    "started_at",
    "ended_at",
    "host",
    "node_id",
    "pid",
    "seconds",
    "saved_s",
    "reused_from",
)
VARYING += tuple(f"seconds_{kind}" for kind in ("pretrain", "source", "align", "finetune"))


def start(space: Path, results: Path, log: Path) -> subprocess.Popen[bytes]:
    """Start the sweep from the command line."""
    command = [sys.executable, "-m", "sweeper.cli", "run", str(space), "--results", str(results), "--quiet"]
    return subprocess.Popen(command, stdout=log.open("ab"), stderr=subprocess.STDOUT, env=ENVIRONMENT)


def kind_of(process: psutil.Process) -> str | None:
    """Return what kind of Ray process this is, or None for helpers whose loss has no effect."""
    title = " ".join(process.cmdline())
    for kind, mark in (("worker", "ray::train "), ("raylet", "raylet/raylet"), ("gcs", "gcs_server")):
        if mark in title:
            return kind
    return None


def kill_one(driver: subprocess.Popen[bytes], dice: random.Random) -> str | None:
    """Kill the driver or one of its processes; return the kind of process killed."""
    found = [("driver", psutil.Process(driver.pid))]
    for process in psutil.Process(driver.pid).children(recursive=True):
        try:
            kind = kind_of(process)
        except psutil.Error:
            continue
        if kind is not None:
            found.append((kind, process))
    kind = dice.choice(sorted({kind for kind, _ in found}))
    victim = dice.choice([process for of, process in found if of == kind])
    try:
        victim.kill()
    except psutil.NoSuchProcess:
        return None
    return kind


def tables(results: Path) -> dict[str, list[tuple[Any, ...]]]:
    """Return the final tables without the columns that may differ."""
    source = Results(results)
    known = source.sql("select * from trial_status limit 1").arrow().column_names
    columns = ", ".join(name for name in known if name not in VARYING)
    return {
        "trials": [tuple(map(str, row.values())) for row in source.sql(f"select {columns} from trial_status order by all").rows()],
        "metrics": [
            tuple(map(str, row.values())) for row in source.sql("select * exclude (attempt, run, seconds) from metrics order by all").rows()
        ],
    }


def main() -> int:
    """Run the storm; exit code 1 if a table differs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--fused", action="store_true", help="a sweep whose trials train in groups")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--longest", type=float, default=20.0, help="maximum seconds between two kills")
    arguments = parser.parse_args()
    dice, space = random.Random(arguments.seed), SPACES[arguments.fused]
    folder = Path(tempfile.mkdtemp(prefix="storm-"))
    log = folder / "log.txt"

    started = time.perf_counter()
    assert start(space, folder / "calm", log).wait() == 0, f"the undisturbed run failed, see {log}"
    calm_s, calm = time.perf_counter() - started, tables(folder / "calm")
    print(f"undisturbed: {calm_s:.0f} s, {len(calm['trials'])} trials, {len(calm['metrics'])} metric rows", flush=True)

    kills: Counter[str] = Counter()
    sweeps = differing = starts = 0
    began = time.perf_counter()
    while sum(kills.values()) < arguments.kills or sweeps == 0:
        results = folder / f"storm-{sweeps}"
        while True:
            driver, kills_before = start(space, results, log), kills.total()
            starts += 1
            while driver.poll() is None:
                try:
                    driver.wait(dice.uniform(0.5, arguments.longest))
                except subprocess.TimeoutExpired:
                    if sum(kills.values()) < arguments.kills and (kind := kill_one(driver, dice)) is not None:
                        kills[kind] += 1
            if driver.returncode == 0:
                break
            assert kills.total() > kills_before, f"the driver failed by itself, see {log}"
        sweeps += 1
        stormy = tables(results)
        for name, rows in calm.items():
            if stormy[name] != rows:
                differing += 1
                print(f"sweep {sweeps}: {name} differs in {len(set(stormy[name]) ^ set(rows))} rows, {len(stormy[name])} for {len(rows)}")
        print(f"sweep {sweeps}: complete after {sum(kills.values())} kills, {time.perf_counter() - began:.0f} s", flush=True)
        shutil.rmtree(results)
    print(f"{sum(kills.values())} kills ({', '.join(f'{kind} {count}' for kind, count in sorted(kills.items()))}), {starts} starts")
    print(f"{sweeps} sweeps finished, {differing} tables differ from the undisturbed run's")
    return 1 if differing else 0


if __name__ == "__main__":
    sys.exit(main())
