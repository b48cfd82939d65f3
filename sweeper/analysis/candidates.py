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
from sweeper.analysis.factors import KNOB_OF, varying_columns
from sweeper.results.store import ResultStore
from sweeper.results.views import shown_status

Row = Mapping[str, Any]

_READ = (
    *("trial", "role", "task", "arm", "candidate", "variant", "seed", "in_plan", "status", "cause", "seconds"),
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
        replicated: The candidate that was chosen, with the seeds of the replicates; None if there are none.
    """

    task: str
    id: str
    candidates: Sequence[Candidate]
    replicated: Candidate | None = None

    @property
    def compared(self) -> Sequence[Candidate]:
        """What may stand for the arm beside others: the replicates, or else its candidates."""
        return self.candidates if self.replicated is None else [self.replicated]

    @property
    def rows(self) -> list[Row]:
        """The current rows of all its trials."""
        of_candidates = [row for candidate in self.candidates for row in candidate.rows.values()]
        return of_candidates + (list(self.replicated.rows.values()) if self.replicated is not None else [])

    @property
    def variant(self) -> str | None:
        """Names of the variants that it belongs to, joined by commas; None if there are none."""
        return next((row["variant"] for row in self.rows), None)

    def count(self, state: str) -> int:
        """Number of candidates in a state."""
        return sum(candidate.state == state for candidate in self.candidates)

    def counts(self) -> dict[str, int | float]:
        """What has come of its candidates, and the wall time of its trials in seconds, as cells of a table."""
        return {
            "candidates": len(self.candidates),
            "completed": self.count("COMPLETE"),
            "pruned": self.count("PRUNED"),
            "failed": self.count("FAIL"),
            "trial_seconds": round(sum(row["seconds"] or 0.0 for row in self.rows), 1),
        }

    def fixed(self, knobs: Sequence[str]) -> dict[str, Any]:
        """Those of some knobs that are equal in all candidates, with their values: the settings of the arm as a whole."""
        values = {knob: [candidate.cells.get(knob) for candidate in self.candidates or self.compared] for knob in knobs}
        return {knob: found[0] for knob, found in values.items() if all(value == found[0] for value in found)}


@dataclass(frozen=True)
class Sweep:
    """The arms of a sweep.

    Args:
        name: Its name.
        metrics: The metrics by which it is ranked, by the second one where the first ties; lower is better.
        varied: Columns of the knobs that it varies, without the task.
        arms: Its arms, by task and id.
    """

    name: str
    metrics: Sequence[str]
    varied: Sequence[str]
    arms: Sequence[Arm]

    @property
    def metric(self) -> str:
        """The metric by which it is ranked first."""
        return self.metrics[0]

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
    seeds: set[int] = field(default_factory=set)
    rows: dict[int, Row] = field(default_factory=dict)


REPLICATE = "replicate"
"""Role of the trials that repeat the best candidate of an arm."""


def read_arms(results: ResultStore, sweep: str) -> Sweep:
    """The arms of a sweep according to its latest plan and the current rows of its planned trials.

    Args:
        results: The result tables.
        sweep: Name of the sweep.

    Raises:
        ConfigError: If the sweep is unknown.
    """
    results.check_sweep(sweep)
    plan = results.latest_plan(sweep) or {"metric": "valid_error", "varied": None, "trials": {}}
    metrics = plan.get("metrics") or [plan["metric"]]
    found: dict[tuple[str, str, bool, int], _Found] = defaultdict(_Found)
    common, roles = plan.get("common", {}), plan.get("roles", {})  # plans of version 0.1 have neither these nor candidates
    for trial, (arm, number) in plan.get("candidates", {}).items():
        cells = common | plan["trials"][trial]
        of_candidate = found[cells["task"], arm, roles.get(trial) == REPLICATE, number]
        of_candidate.cells = cells
        of_candidate.seeds.add(cells["seed"])
    varied = plan["varied"]
    rows = results.live_trials(sweep, dict.fromkeys([*_READ, *metrics, *(KNOB_OF if varied is None else varied)]))
    if varied is None:  # trials recorded one by one
        varied = varying_columns(rows, [column for column in KNOB_OF if column != "seed"])
    for row in rows:
        if row["in_plan"]:
            of_candidate = found[row["task"], row["arm"], row["role"] == REPLICATE, row["candidate"]]
            of_candidate.cells = row
            of_candidate.rows[row["seed"]] = row
    # A candidate that was proposed after the plan was stored has the seeds of the others.
    others = {(common | cells)["seed"] for trial, cells in plan["trials"].items() if roles.get(trial) != REPLICATE}
    arms: dict[tuple[str, str], list[Candidate]] = defaultdict(list)
    replicated: dict[tuple[str, str], Candidate] = {}
    for (task, arm, is_replicate, number), of_candidate in sorted(found.items(), key=lambda entry: entry[0]):
        known = of_candidate.seeds | of_candidate.rows.keys()
        seeds = known if of_candidate.seeds or is_replicate else others or known
        candidate = Candidate(number, of_candidate.cells, frozenset(seeds), of_candidate.rows)
        if is_replicate:
            replicated[task, arm] = candidate
        else:
            arms[task, arm].append(candidate)
    shown = [column for column in varied if column != "task"]
    keys = sorted({*arms, *replicated})
    return Sweep(sweep, metrics, shown, [Arm(*key, arms.get(key, []), replicated.get(key)) for key in keys])
