"""The output of `sweeper plan`: trials, the tree of stages they share, what is done, expected work and disk space."""

from __future__ import annotations

import csv
import io
import json
import sys
import textwrap
from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from orca_core.bodies.keep import ALL as KEPT_ALL
from orca_core.bodies.keep import kept_of_embedding
from orca_core.config.model_knobs import PretrainConfig
from orca_core.corpora import OWN
from orca_core.errors import ConfigError, Fault
from orca_core.freezing.schedule import ALL
from orca_core.stages import Stage
from sweeper.analysis.machines import describe_differences
from sweeper.planning.collection import no_collection
from sweeper.planning.cost import CostModel
from sweeper.planning.measured import load_measured_costs
from sweeper.planning.rungs import list_rungs
from sweeper.planning.trials import COLUMNS, Plan, PlannedTrial
from sweeper.results.workspace import Workspace
from sweeper.running.data_notes import tell_notes
from sweeper.running.packing import Packing
from sweeper.running.preflight import check_data, check_devices
from sweeper.running.reconcile import Reconciliation, reconcile
from sweeper.running.takeover import find_elsewhere
from sweeper.show.plan_notes import plan_notes
from sweeper.show.plan_probes import probe_lines
from sweeper.show.plan_seeds import seed_lines
from sweeper.show.plan_work import work_lines
from sweeper.show.question import question_lines
from sweeper.show.tables import terminal_width, text_table
from sweeper.space.space import SearchSpace

INDENT = " " * 9
"""Indents lines of the summary that belong to the one above."""

MAX_BRANCHES = 40
"""Maximum number of lines of the tree that are printed."""


@no_collection()
def describe_plan(space: SearchSpace, workspace: Workspace, format: str, slots: Sequence[int] = ()) -> str:
    """A plan as text, JSON or CSV.

    Args:
        space: The search space.
        workspace: Where results and stages are.
        format: `text`, `json` or `csv`.
        slots: Numbers of slots for which the text has the expected time.

    Raises:
        ConfigError: If the space, its data or the format cannot be used.
    """
    found = reconcile(space, workspace.results)
    taken = find_elsewhere(workspace, space.name, found.todo) if found.todo and workspace.results.exists() else {}
    check_devices((trial.config for trial in found.plan.trials), space.device, space.file)
    check_data((trial.config for trial in found.plan.trials), space.file, decode=False)
    tell_notes(trial.config for trial in found.plan.trials)
    match format:
        case "json":
            return json.dumps(_plan_rows(found, taken), indent=1) + "\n"
        case "csv":
            return _format_csv(_plan_rows(found, taken))
        case "text":
            return _format_text(found, taken, workspace, slots)
    raise ConfigError([Fault("--format", "must be text, json or csv", format)])


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
    brackets = (
        f"; {scheduler.brackets} brackets, each without the first comparison of the one before" if scheduler.name == "hyperband" else ""
    )
    return f"{scheduler.name} after {epochs} of fine-tuning, {among}{cohorts}{brackets}"


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
            return ", ".join([f"pretrain {config.body.name}", *_content(config.pretrain)])
        case "source":
            start = config.start_weights
            if start == "pretrained":
                kept = kept_of_embedding(config.body.keep)
                start = "" if kept == KEPT_ALL else f"keeping {kept} of the embedding"
            return ", ".join([f"source {config.proxy} by {config.body.name}", *([start] if start else [])])
        case "align":
            return f"align {config.task}, {config.align.objective}{folds}"
        case "adapt":
            return f"adapt {config.task}, {config.adapt.train}{folds}"
    start = f" {config.task}, {config.body.name}" if stage.phase == 0 else ""
    train = config.phases[stage.phase].train
    return f"finetune{start}, {'all' if train == ALL else '+'.join(map(str, train))}{folds}"


def _content(pretrain: PretrainConfig) -> Iterator[str]:
    """What a pretraining is of, where it is not the body's own in full."""
    if pretrain.fraction < 1:
        yield f"{pretrain.fraction:g} of the data"
    if pretrain.corpus != OWN:
        yield f"on {pretrain.corpus}"
    if pretrain.objective != OWN:
        yield f"objective {pretrain.objective}"
    if pretrain.label_noise:
        yield f"label noise {pretrain.label_noise:g}"


def _tree_lines(root: Branch) -> list[str]:
    """The first `MAX_BRANCHES` lines of the tree."""
    lines = [
        f"  {'  ' * depth}{label}{_format_ends(node)}: {len(node.folders)} for {len(node.trials)} trials"
        for label, node, depth in _walk(root, 0)
    ]
    more = len(lines) - MAX_BRANCHES
    return [*lines[:MAX_BRANCHES], f"  and {more} more"] if more > 0 else lines


def _format_ends(node: Branch) -> str:
    return f", to epoch {', '.join(map(str, sorted(node.ends)))}" if node.ends else ""


def _walk(node: Branch, depth: int) -> Iterator[tuple[str, Branch, int]]:
    for label, child in node.children.items():
        yield label, child, depth
        yield from _walk(child, depth + 1)


def _state_of(trial: PlannedTrial, found: Reconciliation, taken: Container[str]) -> str:
    return "done" if trial.id in found.done else "take over" if trial.id in taken else "stale" if trial.id in found.stale else "to run"


def _plan_rows(found: Reconciliation, taken: Container[str]) -> list[dict[str, Any]]:
    return [
        {
            "trial": trial.id,
            "state": _state_of(trial, found, taken),
            "role": trial.role,
            "arm": trial.arm,
            "variant": trial.variant or None,
            **trial.cells(),
        }
        for trial in found.plan.trials
    ]


def _format_csv(rows: list[dict[str, Any]]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows({key: json.dumps(value) if isinstance(value, list) else value for key, value in row.items()} for row in rows)
    return text.getvalue()


def _format_text(found: Reconciliation, taken: Container[str], workspace: Workspace, slots: Sequence[int]) -> str:
    """The trials first, however many; then the stages they share; last the lines that sum up, where a terminal shows them."""
    plan, has_variants = found.plan, bool(found.plan.space.variants)
    knobs = [*plan.space.varied, *plan.space.vary]
    columns = ["trial", "state", *(["variant"] if has_variants else []), *(COLUMNS[knob] for knob in knobs)]
    rows = (
        [trial.id, _state_of(trial, found, taken), *([trial.variant or None] if has_variants else []), *map(trial.cell, knobs)]
        for trial in plan.trials
    )
    trials = text_table(columns, rows)
    tree = "\n".join(["Stages that trials share, and the epochs at which trials leave them", *_tree_lines(build_stage_tree(plan))])
    summary = list(_summary_lines(found, taken, workspace, slots))
    if sys.stdout.isatty():  # elsewhere each statement stays on one line, for programs that look for it
        summary = [textwrap.fill(line, terminal_width(), subsequent_indent=INDENT) for line in summary]
    return f"{trials}\n{tree}\n\n" + "\n".join(summary) + "\n"


def _why_later(plan: Plan) -> str:
    if plan.space.looks:
        return "are run only where the question is open"
    if plan.space.search.learns:
        replicates = " or repeat its best candidates" if plan.space.search.replicate else ""
        return f"are proposed by {plan.space.search.algorithm}{replicates} as results come in"
    return "repeat the best candidates once these are known"


def _summary_lines(found: Reconciliation, taken: Container[str], workspace: Workspace, slots: Sequence[int]) -> Iterator[str]:
    plan, costs = found.plan, CostModel(load_measured_costs(workspace))
    yield f"{plan.space.name}: {plan.space.description}".rstrip(": ")
    distinct = len(plan.trials) + plan.proposed_later
    merged = plan.combinations - distinct
    yield f"Trials   {plan.combinations} combinations, {distinct} distinct ({merged} differ from others only in knobs that are not read)"
    if plan.proposed_later:
        yield f"{INDENT}{plan.proposed_later} of them {_why_later(plan)}"
    for number, line in enumerate(question_lines(found.planner, workspace)):
        yield f"{INDENT if number else 'Question '}{line}"
    if plan.space.scheduler.name != "fifo":
        yield f"Stopping {_describe_stopping(plan)}"
    yield from plan_notes(plan)
    for number, line in enumerate(seed_lines(plan, workspace.results)):
        yield f"{'' if number else 'Seeds':<8} {line}"
    stages = [f"{kind} {distinct} distinct of {needed}" for kind, (needed, distinct) in plan.stage_counts.items()]
    yield f"Stages   {', '.join(stages)}"
    todo = [trial for trial in found.todo if trial.id not in taken]
    counts = [f"{len(found.done)} done", f"{len(found.stale)} stale", f"{len(todo)} to run"]
    if len(todo) < len(found.todo):
        counts.insert(1, f"{len(found.todo) - len(todo)} taken over from other sweeps")
    yield f"Results  {', '.join(counts)}"
    for number, line in enumerate(probe_lines(plan, workspace)):
        yield f"{INDENT if number else 'Probes   '}{line}"
    if note := describe_differences(row for trial, row in found.known.items() if trial in plan.by_id):
        yield f"{INDENT}{note}"
    if todo:
        yield from work_lines(found, todo, costs, slots, Packing.recall(plan.space.resources, workspace))
        yield f"Disk     {_describe_disk(plan, todo, costs)}"
    if found.dropped:
        yield f"{INDENT}{len(found.dropped)} trials of earlier runs are no longer planned; their rows stay, with in_plan false"
