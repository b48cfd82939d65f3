"""The note about a plan that is stored with the results: the space as given and as resolved, its artifacts, where it was made."""

from __future__ import annotations

import socket
import time
from collections.abc import Mapping
from typing import Any

from orca_core.addresses import Address
from sweeper.planning.trials import Plan
from sweeper.running.provenance import provenance


def plan_note(plan: Plan) -> dict[str, Any]:
    """A plan as JSON data.

    `common` has the cells that all trials have in common, `trials` the other ones of each trial, as large plans are read often. `places`
    lists the folders in the stage store that its trials write, stages and fine-tuned weights; `candidates` has (arm, candidate) by trial,
    so that arms can be counted whose trials have not started.
    """
    stages = {stage.folder for trial in plan.trials for stage in trial.stages}
    common, trials = _split({trial.id: trial.cells() for trial in plan.trials})
    return {
        "name": plan.space.name,
        "file": plan.space.file,
        "space": plan.space.source,
        "metric": plan.space.metric,
        "varied": [knob.replace(".", "_") for knob in plan.space.varied],
        "common": common,
        "trials": trials,
        "candidates": {trial.id: [trial.arm, trial.candidate] for trial in plan.trials},
        "proposed_later": plan.proposed_later,
        "places": sorted(stages | {Address.model(trial.result_key, "best").folder for trial in plan.trials}),
        "host": socket.gethostname(),
        "made_at": time.time(),
    } | provenance()


def _split(trials: Mapping[str, Mapping[str, Any]]) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """The cells that all trials have in common, and for each trial the other ones, without those that are null."""
    first = next(iter(trials.values()), {})
    common = {knob: value for knob, value in first.items() if all(cells[knob] == value for cells in trials.values())}
    own = {id: {k: v for k, v in cells.items() if k not in common and v is not None} for id, cells in trials.items()}
    return {knob: value for knob, value in common.items() if value is not None}, own
