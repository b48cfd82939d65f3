"""Makes the message that starts a trial on a worker."""

from __future__ import annotations

import math
import os
from collections.abc import Collection, Mapping
from dataclasses import asdict

from orca_core.workbench import Workbench
from sweeper.planning.planner import Planner
from sweeper.planning.trials import PlannedTrial
from sweeper.results.workspace import Workspace
from sweeper.running.code import code_here
from sweeper.running.job import TrialJob
from sweeper.running.own_data import contents_of
from sweeper.workbench import shorten_home


def make_job(
    trial: PlannedTrial,
    planner: Planner,
    workspace: Workspace,
    *,
    rungs: Collection[int] = (),
    limit: float = math.inf,
    share: bool = True,
    own_data: Mapping[str, str] = {},
) -> TrialJob:
    """The message that starts a trial on a worker, with the paths of the current workbench.

    Args:
        trial: The trial.
        planner: Knows at which epochs other trials go on from its states.
        workspace: Where stages and models are kept.
        rungs: Epochs of fine-tuning at which it may have to pause.
        limit: The one of these at which it has to, as far as is known; infinite if there is none. 0 if it is to compute what comes before
            its fine-tuning alone.
        share: Whether trials share stages.
        own_data: As for `TrialJob`.
    """
    space, workbench = planner.space, Workbench.current()
    ends = {stage.folder: planner.ends_of(stage.folder) if share else [] for stage in trial.stages}
    for stage in trial.finetuning:
        ends[stage.folder] = sorted({*ends[stage.folder], *(rung for rung in rungs if stage.start < rung < stage.end)})
    return TrialJob(
        config=trial.config,
        store=workspace.artifacts_uri if share else workspace.private_uri(space.name, trial.id),
        device=space.device,
        keep_at={folder: epochs for folder, epochs in ends.items() if epochs},
        keep=space.keep,
        models=workspace.artifacts_uri,
        rungs=list(rungs),
        limit=int(limit) if trial.group is not None and limit < math.inf else None,
        folder=os.getcwd(),
        data_root=str(workbench.data_root),
        cache_root=shorten_home(workbench.cache_root),
        max_data_gib=workbench.max_data_gib,
        artifact_cache_gib=workbench.artifact_cache_gib,
        storage_minutes=space.budget.storage_minutes,
        code=asdict(code_here()),
        own_data=own_data,
        result_key=trial.result_key,
        contents=contents_of(trial.config),
        probes=request.to_json() if (request := space.probe_request) is not None else {},
    )
