"""The tables that `best` and `status` print."""

from __future__ import annotations

from typing import TYPE_CHECKING

from orca_core.errors import ConfigError, Fault
from sweeper.analysis.arms import rank_arms
from sweeper.analysis.resolution import describe_resolution
from sweeper.results.store import ResultStore
from sweeper.results.workspace import Workspace
from sweeper.running.driver import driver_of

if TYPE_CHECKING:
    import pyarrow as pa


def best_arms(workspace: Workspace, name: str, top: int) -> pa.Table:
    """The best arms of each task, ranked by `rank_arms`, with the knobs that the sweep varies.

    Raises:
        ConfigError: If the sweep is unknown, or none of its trials has finished.
    """
    import pyarrow as pa

    arms = rank_arms(workspace.results, name).arms
    return pa.Table.from_pylist([{"rank": rank} | dict(arm.line) for of_task in arms.values() for rank, arm in enumerate(of_task[:top], 1)])


def best_notes(workspace: Workspace, name: str, top: int) -> str:
    """What the table of `best_arms` cannot show: arms that validation does not tell apart, and arms that have learned nothing."""
    ranking = rank_arms(workspace.results, name)
    return "".join(
        f"{task}: {note}\n"
        for task, arms in ranking.arms.items()
        for note in describe_resolution(ranking.metric, [arm.rows for arm in arms[:top]])
    )


def sweep_status(workspace: Workspace, name: str | None) -> pa.Table:
    """One line per sweep: planned trials by status, and which process runs the sweep.

    Raises:
        ConfigError: If the sweep is unknown, or there is none at all.
    """
    import pyarrow as pa

    results = workspace.results
    if name is not None:
        results.check_sweep(name)
    lines = []
    for sweep in [name] if name else results.sweeps():
        rows = [row for row in results.live_trials(sweep) if row["in_plan"]]
        counts = {status: sum(row["status"] == status for row in rows) for status in ("COMPLETE", "PRUNED", "FAIL", "RUNNING")}
        driver = driver_of(results, sweep)
        running = counts.pop("RUNNING")
        lines.append(
            {"sweep": sweep, "planned": _count_planned(results, sweep)}
            | {status.lower(): count for status, count in counts.items()}
            | {"running": running if driver else 0, "interrupted": 0 if driver else running, "driver": driver or "none"}
        )
    if not lines:
        raise ConfigError([Fault("", f"{workspace.uri}: must hold results", Fault.ABSENT, "Run a sweep first, or give --results.")])
    return pa.Table.from_pylist(lines)


def _count_planned(results: ResultStore, sweep: str) -> int | None:
    plan = results.latest_plan(sweep)
    return len(plan["trials"]) + plan["proposed_later"] if plan else None
