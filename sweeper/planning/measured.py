"""Measured durations and sizes of stages, from the result tables of all sweeps."""

from __future__ import annotations

from sweeper.planning.cost import Measured
from sweeper.planning.passes import KIND, PASSES
from sweeper.results.workspace import Workspace

_FUSED = "stage = 'finetune' and coalesce(finetune_fused, 0) > 0"
"""Whether a row is of an epoch that was trained in a group."""


def load_measured_costs(workspace: Workspace) -> Measured:
    """Read what stages of earlier trials cost; empty if there are no results."""
    if not workspace.results.sweeps():
        return Measured()
    trials = "join trial_status using (sweep, trial)"
    seconds = workspace.sql(
        f"select {KIND} as kind, task, body_name, median(metrics.seconds / {PASSES}) as value from metrics {trials} "
        f"where not ({_FUSED}) group by all union all "
        f"select stage, task, body_name, median(stages.seconds) as value from stages {trials} "
        "where stage = 'source' and stages.saved_s = 0 group by all"
    )
    sizes = workspace.sql(
        f"select stage, task, body_name, median(stored_bytes) as value from stages {trials} "
        "where stage != 'finetune' and stored_bytes is not null group by all"
    )
    trained = workspace.sql(
        "select task, body_name, freezing, max(list_max(params_trained)) as value from trial_status where status = 'COMPLETE' group by all"
    )
    fused = workspace.sql(
        f"select task, body_name, finetune_fused, median(metrics.seconds) as value from metrics {trials} where {_FUSED} group by all"
    )
    return Measured(
        *(
            {tuple(row.values())[:-1]: row["value"] for row in answer.rows() if row["value"] is not None}
            for answer in (seconds, sizes, trained, fused)
        )
    )
