"""A sweep that is run once or several times in simulated time, each run going on from the rows of those before."""

from __future__ import annotations

from random import Random
from typing import Any

from orca_core.errors import StoreError
from sweeper.planning.planner import Planner
from sweeper.running.outcome import Outcome
from sweeper.running.reconcile import Reconciliation, reconcile
from sweeper.running.simulated_store import SimulatedTables, SimulatedWorkspace
from sweeper.running.simulation import Simulation
from sweeper.space.space import SearchSpace


class SimulatedSweep:
    """The rows and stages of a sweep.

    Attributes:
        found: What the last run found when it began.
        simulation: The last run.
    """

    found: Reconciliation
    simulation: Simulation

    def __init__(self, space: SearchSpace, tables: SimulatedTables | None = None) -> None:
        self.space = space
        self.tables, self.workspace = tables or SimulatedTables(), SimulatedWorkspace()

    def run(self, random: Random, *, planner: Planner | None = None, **options: Any) -> Outcome:
        """One run, in an order that is drawn; options as for `Simulation`."""
        self.found = found = reconcile(self.space, self.tables, planner=planner)
        self.simulation = Simulation(
            found.planner,
            random.sample(found.todo, len(found.todo)),
            self.tables,
            self.workspace,
            ended=found.ended,
            stopping=found.stopping,
            random=random,
            **options,
        )
        recorder = self.simulation.recorder
        found.mark_planned(recorder)
        outcome = self.simulation.run()
        found.mark_dropped(recorder)
        while True:
            try:
                recorder.flush()
                return outcome
            except StoreError:  # the tables held a batch back
                continue

    def planned_rows(self) -> dict[str, dict[str, Any]]:
        """Trial -> its current row, of the trials in the plan."""
        return {row["trial"]: dict(row) for row in self.tables.live_trials() if row["in_plan"]}
