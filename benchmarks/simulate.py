"""Driver cost of a sweep too large for one machine: simulated workers, simulated time, the real driver.

    python benchmarks/simulate.py
    python benchmarks/simulate.py --slots 100 --trials 10000 --lost 0.001

Planner, queue, session, recorder and keeper are the real ones, without Ray; rows are counted and discarded. The seconds are those of this
process, including the simulation of the workers.
"""

from __future__ import annotations

import argparse
import resource
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from random import Random
from typing import Any

from sweeper.planning.planner import Planner
from sweeper.running.simulated_store import SimulatedTables, SimulatedWorkspace
from sweeper.running.simulation import Chances, Simulation
from sweeper.space.reading import parse_space


class CountedTables(SimulatedTables):
    """Tables that only count their rows."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()

    def append(self, table: str, sweep: str, rows: Sequence[Mapping[str, Any]]) -> None:
        self.counts[table] += len(rows)


def main() -> None:
    """Simulate and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--slots", type=int, default=1000)
    parser.add_argument("--trials", type=int, default=100_000)
    parser.add_argument("--lost", type=float, default=0.0, help="probability that a process is lost, each time it reports")
    arguments = parser.parse_args()
    rates = [1e-4 * (1 + number / 1000) for number in range(arguments.trials // 100)]
    space = parse_space(
        {
            "name": "simulated",
            "base": {"task": "digits", "finetune": {"epochs": 3, "warmup_epochs": 0, "decay_epochs": None}, "pretrain.epochs": 2},
            "space": {"align.epochs": {"grid": list(range(10))}, "finetune.lr": {"grid": rates}},
            "seeds": 10,
        }
    )
    started = time.perf_counter()
    planner = Planner(space)
    trials = planner.plan.trials
    planned = time.perf_counter() - started
    tables = CountedTables()
    chances = Chances(lost=arguments.lost)
    simulation = Simulation(planner, trials, tables, SimulatedWorkspace(), slots=arguments.slots, chances=chances, random=Random(0))
    started = time.perf_counter()
    outcome = simulation.run()
    ran = time.perf_counter() - started
    rows = ", ".join(f"{count} of {table}" for table, count in tables.counts.items())
    peak_gib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"{len(trials)} trials on {arguments.slots} slots: {outcome.value} after {simulation.now / 3600:.2f} simulated hours")
    print(f"{'planned in':<28} {planned:8.1f} s, {planned / len(trials) * 1e3:.2f} ms per trial")
    print(f"{'driven in':<28} {ran:8.1f} s, {ran / len(trials) * 1e3:.2f} ms per trial")
    print(f"{'share of the simulated time':<28} {ran / simulation.now:8.2%}")
    print(f"{'rows':<28} {rows}")
    print(f"{'peak memory':<28} {peak_gib:8.2f} GiB")


if __name__ == "__main__":
    main()
