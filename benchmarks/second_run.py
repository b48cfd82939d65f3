"""What `sweeper run` of a sweep takes in which nothing is left to do: wall and CPU seconds of the whole command.

    python benchmarks/second_run.py [--trials N]

A sweep of N trivial trials, by default 20, is run once, then again. Each number is the least of several runs, with their spread:
what else the machine does only adds to it. Exits with 1 if a second run imports Ray or torch.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "disabled", "HF_HUB_OFFLINE": "1"}

from overhead import write_space

COMMAND = """
import atexit, sys
atexit.register(lambda: sys.stderr.write("imported:" + ",".join(name for name in ("ray", "torch") if name in sys.modules)))
from sweeper.cli import main
main()
"""


def run_again(space: Path, results: str) -> tuple[float, float, str]:
    """Run the sweep; wall seconds, CPU seconds, and what it imported of Ray and torch."""
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    command = [sys.executable, "-c", COMMAND, "run", str(space), "--results", results]
    done = subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    wall, after = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return wall, cpu, done.stderr.rpartition("imported:")[2].strip()


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=20, help="a multiple of 10")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        space, results = write_space(Path(name), arguments.trials), f"{name}/results"
        first = [sys.executable, "-m", "sweeper.cli", "run", str(space), "--results", results, "--quiet"]
        started = time.perf_counter()
        subprocess.run(first, check=True)
        print(f"{'first run':<14} {time.perf_counter() - started:.1f} s")
        found = [run_again(space, results) for _ in range(arguments.rounds)]
    for label, values in (("wall", [wall for wall, _, _ in found]), ("CPU", [cpu for _, cpu, _ in found])):
        print(f"{'second, ' + label:<14} {min(values):.2f} s (to {max(values):.2f})")
    imported = {name for _, _, names in found for name in names.split(",") if name}
    print(f"{'imported':<14} {', '.join(sorted(imported)) or 'neither Ray nor torch'}")
    return 1 if imported else 0


if __name__ == "__main__":
    sys.exit(main())
