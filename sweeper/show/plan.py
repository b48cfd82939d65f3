"""The output of `sweeper plan`: trials, the tree of stages they share, what is done, expected work and disk space."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from textwrap import wrap
from typing import Any

from orca_core.errors import ConfigError, Fault
from orca_core.freezing.schedule import ALL
from orca_core.stages import Stage
from sweeper.analysis.machines import describe_differences
from sweeper.planning.cost import CostModel
from sweeper.planning.measured import load_measured_costs
from sweeper.planning.rungs import list_rungs
from sweeper.planning.trials import Plan, PlannedTrial
from sweeper.results.workspace import Workspace
from sweeper.running.data_notes import tell_tables
from sweeper.running.preflight import check_data
from sweeper.running.reconcile import Reconciliation, reconcile
from sweeper.show.plan_notes import plan_notes
from sweeper.space.space import SearchSpace

MAX_BRANCHES = 40
"""Maximum number of lines of the tree that are printed."""


def describe_plan(space: SearchSpace, workspace: Workspace, format: str) -> str:
    """A plan as text, JSON or CSV."""
    found = reconcile(space, workspace.results)
    check_data((trial.config for trial in found.plan.trials), space.file, decode=False)
    tell_tables(trial.config for trial in found.plan.trials)
    rows = [_plan_row(trial, found) for trial in found.plan.trials]
    match format:
        case "json":
            return json.dumps(rows, indent=1) + "\n"
        case "csv":
            return _format_csv(rows)
        case "text":
            return _format_text(found, rows, CostModel(load_measured_costs(workspace)))
    raise ConfigError([Fault("--format", "must be text, json or csv", format)])


def _format_duration(seconds: float) -> str:
    return f"{seconds / 3600:.1f} h" if seconds >= 3600 else f"{seconds / 60:.1f} min" if seconds >= 60 else f"{seconds:.0f} s"


def _format_size(size: float) -> str:
    power, unit = next(entry for entry in ((30, "GiB"), (20, "MiB"), (10, "KiB")) if size >= 2 ** entry[0] or entry[0] == 10)
    return f"{size / 2**power:.1f} {unit}"


def _describe_stopping(plan: Plan) -> str:
    """What early stopping compares, and when."""
    scheduler = plan.space.scheduler
    rungs = list_rungs(scheduler, max(trial.finetuning[-1].end for trial in plan.trials))
    among = "each arm by itself" if scheduler.among == "arm" else "all arms of a task together"
    if not rungs:
        return f"{scheduler.name} compares nothing: no trial is longer than scheduler.grace_period = {scheduler.grace_period}"
    epochs = f"epoch{'s' if len(rungs) > 1 else ''} {', '.join(map(str, rungs))}"
    cohorts = f", in cohorts of {plan.space.cohort} candidates" if any(axis.is_tuned for axis in plan.space.axes) else ""
    return f"{scheduler.name} after {epochs} of fine-tuning, {among}{cohorts}"


def _describe_disk(plan: Plan, todo: Sequence[PlannedTrial], costs: CostModel) -> str:
    stays, shared, measured = costs.disk(plan, todo)
    if measured == 0:
        return "unknown: no similar stage was measured yet"
    known = "" if measured == 1 else f" (from the {measured:.0%} of stages that were measured; the rest comes on top)"
    temporary = f", and up to {_format_size(shared)} during the run for states that trials share or pause with" if shared else ""
    return f"about {_format_size(stays)} on disk with keep: {plan.space.keep}{temporary}{known}"


@dataclass
class Branch:
    """Stages of a plan with the same label: they differ only in what the label leaves out, like seed or learning rate.

    Args:
        folders: Their folders in the store, one per distinct trajectory.
        trials: Ids of the trials that need them.
        ends: Epochs at which trials leave them.
        children: The stages that follow, by label.
    """

    folders: set[str] = field(default_factory=set)
    trials: set[str] = field(default_factory=set)
    ends: set[int] = field(default_factory=set)
    children: dict[str, Branch] = field(default_factory=dict)


def build_stage_tree(plan: Plan) -> Branch:
    """The stages of a plan as a tree, with an empty root."""
    root = Branch()
    for trial in plan.trials:
        ends: dict[int | None, Branch] = {}  # of the fold, or of the final training: the branch of its last stage so far
        shared = root
        for stage in trial.stages:
            node = ends.get(stage.fold, shared).children.setdefault(_label(trial, stage), Branch())
            ends[stage.fold] = node
            shared = node if stage.kind in ("pretrain", "source") else shared
            node.folders.add(stage.folder)
            node.trials.add(trial.id)
            if stage.has_epochs:
                node.ends.add(stage.end)
    return root


def _label(trial: PlannedTrial, stage: Stage) -> str:
    config = trial.config
    folds = "" if stage.fold is None else ", folds"
    match stage.kind:
        case "pretrain":
            return f"pretrain {config.body.name}" + (f", {config.pretrain.fraction:g} of the data" if config.pretrain.fraction < 1 else "")
        case "source":
            random = ", random" if config.body.weights == "random" else ""
            return f"source {config.proxy} by {config.body.name}{random}"
        case "align":
            return f"align {config.task}, {config.align.objective}{folds}"
    start = f" {config.task}, {config.body.name}" if stage.phase == 0 else ""
    train = config.phases[stage.phase].train
    return f"finetune{start}, {'all' if train == ALL else '+'.join(map(str, train))}{folds}"


def _tree_lines(root: Branch) -> list[str]:
    """The first `MAX_BRANCHES` lines of the tree."""
    lines = [
        f"         {'  ' * depth}{label}{_format_ends(node)}: {len(node.folders)} for {len(node.trials)} trials"
        for label, node, depth in _walk(root, 0)
    ]
    more = len(lines) - MAX_BRANCHES
    return [*lines[:MAX_BRANCHES], f"         and {more} more"] if more > 0 else lines


def _format_ends(node: Branch) -> str:
    return f", to epoch {', '.join(map(str, sorted(node.ends)))}" if node.ends else ""


def _walk(node: Branch, depth: int) -> Iterator[tuple[str, Branch, int]]:
    for label, child in node.children.items():
        yield label, child, depth
        yield from _walk(child, depth + 1)


def _plan_row(trial: PlannedTrial, found: Reconciliation) -> dict[str, Any]:
    state = "done" if trial.id in found.done else "stale" if trial.id in found.stale else "to run"
    return {"trial": trial.id, "state": state, "arm": trial.arm, "variant": trial.variant or None} | trial.cells()


def _format_csv(rows: list[dict[str, Any]]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows({key: json.dumps(value) if isinstance(value, list) else value for key, value in row.items()} for row in rows)
    return text.getvalue()


def _format_text(found: Reconciliation, rows: list[dict[str, Any]], costs: CostModel) -> str:
    from sweeper.show.tables import text_table

    plan = found.plan
    lines = [f"{plan.space.name}: {plan.space.description}".rstrip(": ")]
    distinct = len(plan.trials) + plan.proposed_later
    merged = plan.combinations - distinct
    lines.append(
        f"Trials   {plan.combinations} combinations, {distinct} distinct ({merged} differ from others only in knobs that are not read)"
    )
    if plan.proposed_later:
        lines.append(f"         {plan.proposed_later} of them are proposed by {plan.space.search.algorithm} as results come in")
    if plan.space.scheduler.name != "fifo":
        lines.append(f"Stopping {_describe_stopping(plan)}")
    for note in plan_notes(plan, rows):
        lines += wrap(note, 110, subsequent_indent=" " * 11, break_on_hyphens=False, break_long_words=False)
    stages = [f"{kind} {distinct} distinct of {needed}" for kind, (needed, distinct) in plan.stage_counts.items()]
    lines.append(f"Stages   {', '.join(stages)}")
    lines += _tree_lines(build_stage_tree(plan))
    lines.append(f"Results  {len(found.done)} done, {len(found.stale)} stale, {len(found.todo)} to run")
    if note := describe_differences(row for trial, row in found.known.items() if trial in plan.by_id):
        lines.append(f"         {note}")
    if found.todo:
        alone, once, measured = costs.totals(found.todo)
        saved = f"{1 - once / alone:.0%} less than the {_format_duration(alone)} without sharing"
        known = f"{measured:.0%} of it estimated from measured stages" if measured else "a guess: no similar stage was measured yet"
        about = "about" if plan.space.scheduler.name == "fifo" else "at most about"
        lines.append(f"Work     {about} {_format_duration(once)} of one slot, {saved} ({known})")
        lines.append(f"Disk     {_describe_disk(plan, found.todo, costs)}")
    if found.dropped:
        lines.append(f"         {len(found.dropped)} trials of earlier runs are no longer planned; their rows stay, with in_plan false")
    shown = [
        "trial",
        "state",
        *(["variant"] if plan.space.variants else []),
        *(knob.replace(".", "_") for knob in plan.space.varied),
        "seed",
    ]
    return "\n".join(lines) + "\n\n" + text_table(shown, ([row[key] for key in shown] for row in rows))
