"""How long sweeps take in two orders of their trials, and how long they have to take: simulated workers, the real driver.

    python benchmarks/planning.py
    python benchmarks/planning.py --slots 4 16 my-sweep

`duration` starts the trials by their own duration, the longest first; `path` by the longest path of computation that hangs on them, as
`sweeper run` does. No order can be faster than the bound: all distinct stages spread over the slots, or the longest trial. Every stage
takes its mean time.
"""

from __future__ import annotations

import argparse
from random import Random

from sweeper.planning.cost import CostModel, Measured
from sweeper.planning.order import longest_path_first
from sweeper.planning.planner import Planner
from sweeper.planning.trials import PlannedTrial
from sweeper.running.simulated_store import SimulatedTables, SimulatedWorkspace
from sweeper.running.simulated_workers import EPOCH_S
from sweeper.running.simulation import Simulation
from sweeper.space.reading import load_space
from sweeper.space.shelf import available_spaces


class Mean(Random):
    """Draws the middle of every range."""

    def uniform(self, a: float, b: float) -> float:
        return (a + b) / 2


def simulate(planner: Planner, todo: list[PlannedTrial], slots: int) -> float:
    """Seconds that a sweep takes."""
    simulation = Simulation(planner, todo, SimulatedTables(), SimulatedWorkspace(), slots=slots, random=Mean(0))
    simulation.run()
    return simulation.now


def main() -> None:
    """Simulate and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("spaces", nargs="*", default=[name for name in available_spaces() if "laptop" in name])
    parser.add_argument("--slots", type=int, nargs="+", default=[2, 8, 64])
    arguments = parser.parse_args()
    print(f"{'sweep':<36} {'trials':>6} {'slots':>5} {'bound':>8} {'duration':>9} {'path':>9}   of the bound")
    for name in arguments.spaces:
        space = load_space(name)
        trials = Planner(space).plan.trials
        kinds = [(kind, trial.config.task, trial.config.body.name) for trial in trials for kind in EPOCH_S]
        costs = CostModel(Measured(seconds={key: EPOCH_S[key[0]] for key in kinds}))
        _, total, _ = costs.totals(trials)
        longest = max(map(costs.trial_seconds, trials))
        for slots in arguments.slots:
            bound = max(total / slots, longest)
            by_duration = sorted(trials, key=costs.trial_seconds, reverse=True)
            by_path = longest_path_first(trials, costs.seconds)
            old, new = (simulate(Planner(space), list(order), slots) for order in (by_duration, by_path))
            ratios = f"{old / bound:.3f} -> {new / bound:.3f}"
            print(f"{name:<36} {len(trials):>6} {slots:>5} {bound:>8.0f} {old:>9.0f} {new:>9.0f}   {ratios}", flush=True)


if __name__ == "__main__":
    main()
