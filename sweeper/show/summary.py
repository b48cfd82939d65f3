"""The summary that `run` prints at its end."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from sweeper.analysis.machines import describe_differences
from sweeper.results.workspace import Workspace
from sweeper.running.reconcile import Reconciliation
from sweeper.running.session import Outcome


def summarise_run(found: Reconciliation, workspace: Workspace, taken: int, outcome: Outcome, planned: Sequence[Mapping[str, Any]]) -> str:
    """Summarise what a run did, which trials failed, and the best arms.

    Args:
        found: The trials there were to run.
        workspace: Where the results are.
        taken: Number of trials taken over from other sweeps.
        outcome: How the run ended.
        planned: Current rows of the planned trials.
    """
    from sweeper.show.results import best_arms, best_notes
    from sweeper.show.tables import render

    space, lines = found.plan.space, []
    if taken:
        lines.append(f"{space.name}: took over {taken} trials from other sweeps in these results.")
    if not found.todo:
        lines.append(f"{space.name}: nothing to run, all {len(found.done)} trials are in the results.")
    elif outcome is Outcome.STOPPED:
        lines.append(f"{space.name}: stopped. Run the same command to continue.")
    failed = [row for row in planned if row["status"] == "FAIL" and row["cause"] != "stopped"]
    for cause, count in Counter(row["cause"] for row in failed).items():
        first = next(row for row in failed if row["cause"] == cause)
        lines.append(f"{count} failed ({cause}), for example {first['trial']}: {first['error']}. See: sweeper show {first['trial']}")
    if note := describe_differences(planned):
        lines.append(f"{space.name}: {note}")
    if outcome is Outcome.FINISHED and any(row["status"] == "COMPLETE" for row in planned):
        lines.append(f"Best arms by {space.metric}, mean over seeds:")
        lines.append(render(best_arms(workspace, space.name, top=3), "table").rstrip("\n"))
        lines += best_notes(workspace, space.name, top=3).splitlines()
    uri = workspace.uri
    lines.append(f'Tables: {uri}/trials, metrics, stages. Query them: sweeper query "select * from trials" --results {uri}')
    return "\n".join(lines) + "\n"
