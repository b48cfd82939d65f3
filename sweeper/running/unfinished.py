"""Which trials of a plan are not in the results with an end that counts: a run succeeds if there are none."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from sweeper.planning.trials import Plan
from sweeper.results.views import shown_status


@dataclass(frozen=True)
class Unfinished:
    """A planned trial that is neither COMPLETE nor PRUNED.

    Args:
        trial: Its id.
        status: FAIL, INTERRUPTED or RUNNING, or NONE if no attempt of the current plan began.
        cause: Why, in a word or two.
        error: Why, in a sentence; empty if nothing more is known.
    """

    trial: str
    status: str
    cause: str
    error: str


def find_unfinished(plan: Plan, rows: Iterable[Mapping[str, Any]]) -> list[Unfinished]:
    """The planned trials that are not finished, in the order of the plan.

    Args:
        plan: The plan at the end of a run, with all that tpe has proposed.
        rows: Current rows of the sweep's trials, with all columns.
    """
    by_trial = {row["trial"]: row for row in rows}
    ends = ("COMPLETE", "PRUNED") if plan.space.scheduler.name != "fifo" else ("COMPLETE",)
    found = []
    for trial in plan.trials:
        row = by_trial.get(trial.id)
        if row is None:
            found.append(Unfinished(trial.id, "NONE", "not started", "it has no row in the results"))
        elif row["status"] not in ("COMPLETE", "PRUNED"):
            error = row["error"] or ("its last row says RUNNING" if row["status"] == "RUNNING" else "")
            found.append(Unfinished(trial.id, shown_status(row), row["cause"] or "no end", error))
        elif row["status"] not in ends:
            found.append(Unfinished(trial.id, "NONE", "not started", "an earlier run stopped it early, which this plan does not"))
        elif not trial.accepts(row):
            found.append(Unfinished(trial.id, "NONE", "not started", "its row is from other code, data or pretraining"))
    return found
