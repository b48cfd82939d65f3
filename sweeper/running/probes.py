"""Adds the rows of probes that finished trials lack: from the store, or measured by this process on the states that the store has kept.

Trials that run measure their probes themselves, at their end. This is for those that ended before their probes were asked for, or were
taken over from another sweep. What would have to be trained again for it is left alone unless `probes.recompute` asks for it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from orca_core.errors import OrcaError
from orca_core.probes_afterwards import probe_finished
from orca_core.probing.finished import missing_states
from orca_core.probing.keys import ProbeStage, TrialProbes, probes_of
from orca_core.rows import ProbeRow
from orca_core.store import Store
from sweeper.planning.trials import PlannedTrial
from sweeper.results.workspace import Workspace
from sweeper.space.space import SearchSpace

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Lacking:
    """A finished trial that lacks rows of probes.

    Args:
        row: Its row.
        stored: Its probes whose rows are in the store.
        ready: Those that can be measured, as the states are kept.
        gone: Those whose states are not kept.
        states: What is not kept: `pretrain`, `align`, `adapt`, `weights`.
    """

    row: Row
    stored: TrialProbes
    ready: TrialProbes
    gone: TrialProbes
    states: tuple[str, ...]

    @property
    def seconds(self) -> float:
        """About how long it takes to train again what is not kept: as long as the trial took, with what it reused."""
        return float(self.row["seconds"] or 0.0) + float(self.row["saved_s"] or 0.0)


def find_lacking(space: SearchSpace, trials: Iterable[PlannedTrial], workspace: Workspace, *, retry: bool = False) -> list[Lacking]:
    """The finished trials of a sweep that lack rows of probes that the space asks for.

    Args:
        space: The search space.
        trials: Those of its plan.
        workspace: Where results and stages are.
        retry: Count probes that failed as lacking.

    Raises:
        StoreError: If results or stages cannot be read.
    """
    request = space.probe_request
    if request is None or not workspace.results.exists():
        return []
    planned, found = {trial.id: trial for trial in trials}, []
    columns = ["trial", "attempt", "run", "status", "result_key", "numpy_version", "seconds", "saved_s", "device"]
    rows = [row for row in workspace.results.live_trials(space.name, columns) if row["status"] == "COMPLETE" and row["trial"] in planned]
    known = _known_keys(space.name, workspace) if rows else {}
    for row in rows:
        trial = planned[row["trial"]]
        if not trial.accepts(row):
            continue
        probes = probes_of(trial.config, replace(request, retry=retry), space.device)
        lacks = [stage for stage in probes.stages if _lacks(stage, known.get(trial.id, {}), workspace.artifacts, retry)]
        if lacks:
            found.append(_sort(row, replace(probes, stages=tuple(lacks)), workspace.artifacts))
    return found


def _lacks(stage: ProbeStage, known: Mapping[str, bool], store: Store, retry: bool) -> bool:
    if stage.key not in known:
        return True
    if not retry or known[stage.key]:
        return False
    stored = _stored(stage, store)  # by another trial that shares the state, or without a number, which it will never have
    return not stored or any(row.value is not None for row in stored)


def _sort(row: Row, lacks: TrialProbes, store: Store) -> Lacking:
    """What a trial lacks, by what it takes to have it."""
    stored = tuple(stage for stage in lacks.stages if store.has(stage.address))
    others = replace(lacks, stages=tuple(stage for stage in lacks.stages if stage not in stored))
    missing = missing_states(others, store)
    ready, gone = (tuple(stage for stage in others.stages if (stage.moment in missing) == is_gone) for is_gone in (False, True))
    states = tuple(dict.fromkeys(state for of_moment in missing.values() for state in of_moment))
    return Lacking(row, replace(lacks, stages=stored), replace(lacks, stages=ready), replace(lacks, stages=gone), states)


def _known_keys(sweep: str, workspace: Workspace) -> dict[str, dict[str, bool]]:
    """Trial -> key of a probe -> whether it has numbers; one without has a reason."""
    found: dict[str, dict[str, bool]] = {}
    escaped = sweep.replace("'", "''")
    query = f"select trial, key, count(value) > 0 as has_value from probes where sweep = '{escaped}' group by all"
    for row in workspace.sql(query).rows():
        found.setdefault(row["trial"], {})[row["key"]] = row["has_value"]
    return found


@dataclass
class Added:
    """What came of adding probes.

    Args:
        trials: Number of trials that got rows.
        gone: Trials whose states are not kept, and that were left alone.
        failures: Why a trial got none, by its id.
        is_stopped: Whether the run was asked to end meanwhile.
    """

    trials: int = 0
    gone: tuple[Lacking, ...] = ()
    failures: dict[str, str] | None = None
    is_stopped: bool = False


def add_probes(
    space: SearchSpace,
    trials: Iterable[PlannedTrial],
    workspace: Workspace,
    *,
    retry: bool = False,
    should_stop: Callable[[], bool] = lambda: False,
    say: Callable[[str], None] = lambda text: None,
) -> Added:
    """Add the rows of probes that finished trials lack.

    Args:
        space: The search space.
        trials: Those of its plan.
        workspace: Where results and stages are.
        retry: Measure again what failed.
        should_stop: Asked before each trial.
        say: Told before something is measured.

    Raises:
        StoreError: If results cannot be read or written.
    """
    lacking = find_lacking(space, trials, workspace, retry=retry)
    added = Added(gone=tuple(one for one in lacking if one.gone.stages and not space.probes.recompute), failures={})
    assert added.failures is not None
    to_measure = [one for one in lacking if one.ready.stages or (one.gone.stages and space.probes.recompute)]
    if to_measure:
        count = len(to_measure)
        say(f"{space.name}: measuring probes of {count} finished trial{'s' if count > 1 else ''}")
    can_measure = _why_not(space) if to_measure else ""
    for one in lacking:
        if should_stop():
            added.is_stopped = True
            break
        rows = [row for stage in one.stored.stages for row in _stored(stage, workspace.artifacts)]
        stages = one.ready.stages + (one.gone.stages if space.probes.recompute else ())
        if stages and can_measure:
            added.failures[one.row["trial"]] = can_measure
        elif stages:
            try:
                rows += list(probe_finished(replace(one.ready, stages=stages), workspace.artifacts))
            except OrcaError as error:
                added.failures[one.row["trial"]] = " ".join(str(error).split())
        if rows:
            now = datetime.now(UTC)
            of_trial = {name: one.row[name] for name in ("trial", "attempt", "run")}
            workspace.results.append("probes", space.name, [row.cells() | of_trial | {"recorded_at": now} for row in rows])
            added.trials += 1
    return added


def describe_added(name: str, added: Added) -> list[str]:
    """What came of it, for people; a line each.

    Args:
        name: Name of the sweep.
        added: What was done.
    """
    lines = []
    if added.trials:
        lines.append(f"{name}: added probes to {added.trials} finished trial{'s' if added.trials > 1 else ''}.")
    if added.gone:
        lines.append(f"{name}: {describe_gone(added.gone)}")
    failures = added.failures or {}
    for reason in dict.fromkeys(failures.values()):
        trials = [trial for trial, other in failures.items() if other == reason]
        lines.append(f"{name}: no probes were added to {len(trials)} trial{'s' if len(trials) > 1 else ''}, as {trials[0]}: {reason}")
    return lines


_KINDS = {
    "pretrain": "pretrained bodies",
    "align": "aligned embedders",
    "adapt": "adapted models",
    "weights": "fine-tuned weights",
}


def describe_gone(gone: Sequence[Lacking]) -> str:
    """What is not kept, how long it takes to have it again, and how."""
    states = dict.fromkeys(state for one in gone for state in one.states)
    minutes = sum(one.seconds for one in gone) / 60
    count = f"{len(gone)} finished trial{'s lack' if len(gone) > 1 else ' lacks'} probes"
    kept = " and ".join(_KINDS[state] for state in states)
    remedy = "`--set sweep:probes.recompute=true` trains them again, to the same bits"
    return f"{count} whose {kept} were not kept; {remedy}: about {minutes:.1f} minutes."


def _stored(stage: ProbeStage, store: Store) -> Sequence[ProbeRow]:
    artifact = store.get(stage.address)
    return [] if artifact is None else [ProbeRow.from_cells(cells) for cells in artifact.data["rows"]]


def _why_not(space: SearchSpace) -> str:
    """Why this process cannot measure what trials of the sweep have computed; empty if it can."""
    from orca_core.numerics import UnpinnedError, check_pinned

    if space.device == "cuda":
        import torch

        if not torch.cuda.is_available():
            return "the trials ran on a GPU, and torch sees none here; run the sweep again on a machine with one."
    if space.bits == "portable":
        try:
            check_pinned(space.device)
        except UnpinnedError as error:
            return " ".join(str(error).split())
    return ""
