"""The note about a plan that is stored with the results: the space as given and as resolved, its artifacts, where it was made."""

from __future__ import annotations

import socket
import time
from typing import Any

from orca_core.addresses import Address
from sweeper.planning.trials import Plan
from sweeper.running.provenance import provenance


def plan_note(plan: Plan) -> dict[str, Any]:
    """A plan as JSON data.

    `places` lists the folders in the stage store that its trials write, stages and fine-tuned weights; `candidates` has (arm, candidate)
    by trial, so that arms can be counted whose trials have not started.
    """
    stages = {stage.folder for trial in plan.trials for stage in trial.stages}
    return {
        "name": plan.space.name,
        "file": plan.space.file,
        "space": plan.space.source,
        "metric": plan.space.metric,
        "varied": [knob.replace(".", "_") for knob in plan.space.varied],
        "trials": {trial.id: {k: v for k, v in trial.cells().items() if v is not None} for trial in plan.trials},
        "candidates": {trial.id: [trial.arm, trial.candidate] for trial in plan.trials},
        "proposed_later": plan.proposed_later,
        "places": sorted(stages | {Address.model(trial.result_key, "best").folder for trial in plan.trials}),
        "host": socket.gethostname(),
        "made_at": time.time(),
    } | provenance()
