"""Exports the best arm of a sweep as a search space that runs it again, and its best trial as a model."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import yaml

from orca_core.errors import ConfigError, Fault, nearest
from orca_core.model_card import Evidence
from orca_core.whole import check_free
from sweeper.analysis.arms import RankedArm, half_interval, rank_arms
from sweeper.analysis.candidates import Row
from sweeper.planning.rerun import arm_space
from sweeper.results.workspace import Workspace
from sweeper.running.reconcile import latest_space, reconcile


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
    space = latest_space(workspace.results, name)
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
    if model_folder is not None:
        check_free(model_folder.expanduser(), "--export-model")
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
        rows = _all_columns(workspace, name, arm)
        errors = _errors_of(rows[best["trial"]], which)
        known, computed = export_model(
            planned.config,
            workspace.artifacts,
            model_folder,
            which,
            errors=errors,
            evidence=_evidence(name, arm, rows, best["trial"], metric),
            device=space.device,
        )
        how = "computed again" if computed else "as kept by the sweep"
        written.append(f"{model_folder}: the model of trial {planned.id} after epoch {known.epoch}, {how}")
        if known.preparation is not None:
            written.append(f"  expects {known.preparation.inputs.expected}")
        written.append(f"  sweeper predict {model_folder} FILE; or orca_core.load_model({str(model_folder)!r}).predict(...)")
    return "\n".join(written) + "\n"


def _errors_of(row: Row, which: Literal["best", "last"]) -> dict[str, float]:
    """The errors of a trial's best or last epoch."""
    prefix = "last_" if which == "last" else ""
    return {name: row[prefix + name] for name in ("valid_error", "test_error")}


def _all_columns(workspace: Workspace, name: str, arm: RankedArm) -> dict[str, Row]:
    """Trial -> its row, of a ranked arm: ranking reads only some columns."""
    trials, sweep = ", ".join(f"'{row['trial']}'" for row in arm.rows), name.replace("'", "''")
    rows = workspace.sql(f"select * from trials where sweep = '{sweep}' and trial in ({trials}) order by seed, trial").rows()
    return {row["trial"]: row for row in rows}


_VERSIONS = {
    "code_version": "orca-sweeper",
    "torch_version": "torch",
    "transformers_version": "transformers",
    "timm_version": "timm",
    "peft_version": "peft",
    "python_version": "Python",
}


def _evidence(name: str, arm: RankedArm, rows: Mapping[str, Row], best: str, metric: str) -> Evidence:
    """What the sweep knows of a ranked arm, for the card of its best trial."""
    means = {}
    for column in ("valid_error", "test_error"):
        values = [row[column] for row in rows.values() if row[column] is not None]
        if values:
            means[column] = (math.fsum(values) / len(values), half_interval(values))
    row = rows[best]
    return Evidence(
        name,
        len(rows),
        means,
        floor=None if arm.floor is None else (arm.floor.model, arm.floor.test_error),
        majority_error=row["majority_error"],
        samples=(row["valid_samples"], row["test_samples"]),
        versions={package: row[column] for column, package in _VERSIONS.items() if row[column] is not None},
        chosen_by=metric,
    )
