"""Exports the best arm of a sweep as a search space that runs it again, and its best trial as a model."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import yaml

from orca_core.errors import ConfigError, Fault, StoreError, nearest
from sweeper.analysis.arms import rank_arms
from sweeper.planning.rerun import arm_space
from sweeper.results.workspace import Workspace
from sweeper.running.reconcile import reconcile
from sweeper.space.reading import parse_space
from sweeper.space.space import SearchSpace


def export_best(workspace: Workspace, name: str, task: str | None, *, space_file: Path | None, model_folder: Path | None) -> str:
    """Export the best arm of a task as a search space, its best trial as a model, or both.

    Args:
        workspace: Where the results are, and the stages from which the model is made.
        name: Name of the sweep.
        task: The task; may be None if the sweep has only one.
        space_file: File to write the arm to, as a search space with the same seeds.
        model_folder: Folder to write the model of the arm's best trial to.

    Returns:
        What was written, in one line per file or folder.

    Raises:
        ConfigError: If the sweep or task is unknown, or the latest plan does not contain the trial.
    """
    ranking = rank_arms(workspace.results, name)
    arms, metric = ranking.arms, ranking.metric
    if task is None and len(arms) > 1:
        raise ConfigError([Fault("--task", "must be given: the sweep has several", Fault.ABSENT, f"Tasks: {', '.join(sorted(arms))}.")])
    if task is not None and task not in arms:
        raise ConfigError([Fault("--task", f"must be a task of {name}", task, nearest(task, arms))])
    arm = arms[task or next(iter(arms))][0]
    space = _latest_space(workspace, name)
    found = reconcile(space, workspace.results)
    best = min(arm.rows, key=lambda row: (row[metric], row["seed"]))
    planned = found.plan.by_id.get(best["trial"])
    if planned is None:
        raise ConfigError(
            [Fault("", f"the latest plan of {name} must contain trial {best['trial']}", Fault.ABSENT, "Run the sweep again.")]
        )
    if model_folder is not None and planned.id in found.stale:
        rule = f"the data, body and code of trial {planned.id} must be those that its results come from"
        raise ConfigError([Fault("", rule, Fault.ABSENT, f"One of them has changed since. Run {name} again.")])
    written = []
    if space_file is not None:
        seeds_of_arm = [row["seed"] for row in arm.rows]
        resources = space.resources.model_dump()
        content = arm_space(name, planned.config, seeds_of_arm, vary=space.vary, metric=space.metric, resources=resources)
        text = yaml.safe_dump(content, sort_keys=False, allow_unicode=True)
        space_file.write_text(text, encoding="utf-8")
        seeds = "1 seed" if len(arm.rows) == 1 else f"{len(arm.rows)} seeds"
        written.append(f"{space_file}: runs the arm again with {seeds}: sweeper run {space_file}")
    if model_folder is not None:
        from orca_core.export import export_model

        which: Literal["best", "last"] = "last" if space.keep == "last" else "best"
        errors = _errors_of(best, which)
        known, computed = export_model(planned.config, workspace.artifacts, model_folder, which, errors=errors, device=space.device)
        how = "computed again" if computed else "as kept by the sweep"
        written.append(f"{model_folder}: the model of trial {planned.id} after epoch {known.epoch}, {how}")
        if known.preparation is not None:
            written.append(f"  expects {known.preparation.inputs.expected}")
        written.append(f"  sweeper predict {model_folder} FILE; or orca_core.load_model({str(model_folder)!r}).predict(...)")
    return "\n".join(written) + "\n"


def _errors_of(row: Mapping[str, Any], which: Literal["best", "last"]) -> dict[str, float]:
    """The errors of a trial's best or last epoch."""
    prefix = "last_" if which == "last" else ""
    return {name: row[prefix + name] for name in ("valid_error", "test_error")}


def _latest_space(workspace: Workspace, name: str) -> SearchSpace:
    """The search space with which a sweep was last run."""
    plan = workspace.results.latest_plan(name)
    if plan is None:
        raise StoreError(f"{workspace.uri}: has no plan of {name}. Run the sweep again.")
    return parse_space(plan["space"] | {"name": name})
