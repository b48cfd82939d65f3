"""Result tables and a stage store in memory, for runs in simulated time."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from orca_core.addresses import Address
from orca_core.errors import StoreError
from sweeper.results.workspace import Workspace


class SimulatedTables:
    """Result tables in memory.

    Args:
        is_held_back: Called before a batch is written; if it returns true, the batch is refused.
    """

    def __init__(self, is_held_back: Callable[[], bool] = lambda: False) -> None:
        self.rows: dict[str, list[Mapping[str, Any]]] = {"trials": [], "metrics": [], "stages": [], "probes": []}
        self._is_held_back = is_held_back

    def append(self, table: str, sweep: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """Add rows, all or none."""
        if rows and self._is_held_back():
            raise StoreError(f"{table}: simulated full disk")
        self.rows[table] += rows

    def attempts(self, sweep: str) -> dict[str, int]:
        """Trial -> its last attempt."""
        found: dict[str, int] = {}
        for row in (row for rows in self.rows.values() for row in rows):
            found[row["trial"]] = max(found.get(row["trial"], 0), row["attempt"])
        return found

    def compact(self, sweep: str) -> None:
        """Do nothing: there are no files."""

    def curves(self, sweep: str, metric: str) -> dict[str, dict[int, float | None]]:
        """Trial -> epoch of fine-tuning -> a metric after it, in the last attempt of each trial."""
        last = self.attempts(sweep)
        found: defaultdict[str, dict[int, float | None]] = defaultdict(dict)
        for row in self.rows["metrics"]:
            if row["stage"] == "finetune" and row["attempt"] == last[row["trial"]]:
                found[row["trial"]][row["epoch"]] = row.get(metric)
        return dict(found)

    def live_trials(self, sweep: str | None = None) -> list[Mapping[str, Any]]:
        """The current row of each trial."""
        current: dict[str, Mapping[str, Any]] = {}
        for row in sorted(self.rows["trials"], key=lambda row: (row["attempt"], row["sequence"])):
            current[row["trial"]] = row
        return list(current.values())


@dataclass
class SimulatedStages:
    """A stage store in memory.

    Args:
        states: Folder -> address -> whether it has tensors; if not, it has only rows.
        computed: (folder, epoch) -> how often it was computed; epoch 0 is a stage without epochs.
    """

    states: defaultdict[str, dict[Address, bool]] = field(default_factory=lambda: defaultdict(dict))
    computed: Counter[tuple[str, int]] = field(default_factory=Counter)

    def strip(self, folder: str) -> None:
        """Remove the tensors of a trajectory's states."""
        self.states[folder] = dict.fromkeys(self.states[folder], False)

    def drop_folder(self, folder: str) -> None:
        """Remove all artifacts of a key."""
        self.states.pop(folder, None)


class SimulatedWorkspace(Workspace):
    """A workspace in memory: one shared store, and a private one for each trial that does not share.

    Attributes:
        shared: The shared store.
        private: Trial -> its private store.
    """

    def __init__(self) -> None:
        super().__init__("simulated")
        self.shared = SimulatedStages()
        self.private: defaultdict[str, SimulatedStages] = defaultdict(SimulatedStages)

    def drop_private(self, sweep: str, trial: str = "") -> None:
        self.private.pop(trial, None)
