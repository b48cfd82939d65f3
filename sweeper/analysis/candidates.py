"""The arms of a sweep and their candidates: what was planned of them, and what has come of it.

An arm is one combination of settings on one task; a candidate is one choice of values for its tuned knobs, run with every seed. A candidate
counts with all of its seeds or not at all: a mean over the seeds that early stopping or failures have left would favour lucky ones.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from orca_core.floors.rows import FloorCase
from sweeper.results.store import ResultStore
from sweeper.results.views import shown_status

Row = Mapping[str, Any]

_READ = (
    *("trial", "task", "arm", "candidate", "variant", "seed", "in_plan", "status", "cause", "seconds"),
    *("test_error", "majority_error", "valid_samples", "score"),
    *FloorCase("").cells(),
)
"""Columns of the rows that are read, beside the metric and the varied knobs: all columns of a large sweep take gigabytes."""


@dataclass(frozen=True)
class Candidate:
    """One candidate of an arm.

    Args:
        number: Its number within the arm, from 0; 0 when nothing is tuned.
        cells: Its config, as cells of a row.
        seeds: The planned seeds.
        rows: The current rows of its trials that have started, by seed.
    """

    number: int
    cells: Row
    seeds: frozenset[int]
    rows: Mapping[int, Row]

    @property
    def state(self) -> str:
        """COMPLETE if all seeds are; PRUNED if early stopping has ended any of them, which ends the candidate; FAIL if any seed failed;
        else OPEN."""
        statuses = {seed: shown_status(row) for seed, row in self.rows.items()}
        for status in ("PRUNED", "FAIL"):
            if status in statuses.values():
                return status
        return "COMPLETE" if all(statuses.get(seed) == "COMPLETE" for seed in self.seeds) else "OPEN"


@dataclass(frozen=True)
class Arm:
    """An arm of a sweep on a task.

    Args:
        task: The task.
        id: Its id, the column `arm`.
        candidates: Its planned candidates, by number.
    """

    task: str
    id: str
    candidates: Sequence[Candidate]

    @property
    def variant(self) -> str | None:
        """Names of the variants that it belongs to, joined by commas; None if there are none."""
        return next((row["variant"] for candidate in self.candidates for row in candidate.rows.values()), None)

    def count(self, state: str) -> int:
        """Number of candidates in a state."""
        return sum(candidate.state == state for candidate in self.candidates)

    def counts(self) -> dict[str, int | float]:
        """What has come of its candidates, and the wall time of its trials in seconds, as cells of a table."""
        rows = [row for candidate in self.candidates for row in candidate.rows.values()]
        return {
            "candidates": len(self.candidates),
            "completed": self.count("COMPLETE"),
            "pruned": self.count("PRUNED"),
            "failed": self.count("FAIL"),
            "trial_seconds": round(sum(row["seconds"] or 0.0 for row in rows), 1),
        }

    def fixed(self, knobs: Sequence[str]) -> dict[str, Any]:
        """Those of some knobs that are equal in all candidates, with their values: the settings of the arm as a whole."""
        values = {knob: [candidate.cells.get(knob) for candidate in self.candidates] for knob in knobs}
        return {knob: found[0] for knob, found in values.items() if all(value == found[0] for value in found)}


@dataclass(frozen=True)
class Sweep:
    """The arms of a sweep.

    Args:
        name: Its name.
        metric: The metric by which it is ranked; lower is better.
        varied: Columns of the knobs that it varies, without the task.
        arms: Its arms, by task and id.
    """

    name: str
    metric: str
    varied: Sequence[str]
    arms: Sequence[Arm]

    @property
    def is_tuned(self) -> bool:
        """Whether any arm has more than one candidate."""
        return any(len(arm.candidates) > 1 for arm in self.arms)

    @property
    def has_variants(self) -> bool:
        """Whether any arm has a named variant."""
        return any(arm.variant for arm in self.arms)


@dataclass
class _Found:
    cells: Row = field(default_factory=dict)
    rows: dict[int, Row] = field(default_factory=dict)


def read_arms(results: ResultStore, sweep: str) -> Sweep:
    """The arms of a sweep according to its latest plan and the current rows of its planned trials.

    Args:
        results: The result tables.
        sweep: Name of the sweep.

    Raises:
        ConfigError: If the sweep is unknown.
    """
    results.check_sweep(sweep)
    plan = results.latest_plan(sweep) or {"metric": "valid_error", "varied": [], "trials": {}}
    found: dict[tuple[str, str, int], _Found] = defaultdict(_Found)
    common = plan.get("common", {})  # plans of version 0.1 have neither this nor candidates
    for trial, (arm, number) in plan.get("candidates", {}).items():
        cells = common | plan["trials"][trial]
        found[cells["task"], arm, number].cells = cells
    for row in results.live_trials(sweep, dict.fromkeys([*_READ, plan["metric"], *plan["varied"]])):
        if row["in_plan"]:
            of_candidate = found[row["task"], row["arm"], row["candidate"]]
            of_candidate.cells = row
            of_candidate.rows[row["seed"]] = row
    planned = frozenset((common | cells)["seed"] for cells in plan["trials"].values())
    arms: dict[tuple[str, str], list[Candidate]] = defaultdict(list)
    for (task, arm, number), of_candidate in sorted(found.items(), key=lambda entry: entry[0]):
        seeds = planned or frozenset(of_candidate.rows)  # no plan: trials recorded one by one
        arms[task, arm].append(Candidate(number, of_candidate.cells, seeds, of_candidate.rows))
    varied = [knob for knob in plan["varied"] if knob != "task"]
    return Sweep(sweep, plan["metric"], varied, [Arm(task, arm, candidates) for (task, arm), candidates in arms.items()])
