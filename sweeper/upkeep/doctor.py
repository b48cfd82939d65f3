"""Implements `sweeper doctor`: checks the installation, the results and the stage store. With `repair`, damaged files are set aside."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from orca_core.errors import OrcaError
from sweeper.analysis.machines import COLUMNS, describe_differences
from sweeper.results.records import IDENTITY
from sweeper.results.store import ResultStore
from sweeper.results.workspace import Workspace
from sweeper.running.driver import MAX_SKEW_S, clock_skew, driver_of

PACKAGES = ("ray", "torch", "torchvision", "transformers", "timm", "peft", "pot", "optuna", "pyarrow", "duckdb", "pydantic")

Finding = tuple[bool, str, str]
"""(whether it is fine, what was checked, what was found)"""


def examine(workspace: Workspace, *, repair: bool = False) -> tuple[str, bool]:
    """Check everything. Returns the report, and whether all is fine (after the repair, if there was one)."""
    findings = [*_check_installation(), *_check_results(workspace, repair), *_check_store(workspace, repair)]
    lines = [f"{'ok   ' if is_fine else 'WRONG'}  {what:<14} {found}" for is_fine, what, found in findings]
    return "\n".join(lines) + "\n", all(is_fine for is_fine, _, _ in findings)


def _check_installation() -> Iterator[Finding]:
    yield sys.version_info >= (3, 11), "python", sys.version.split()[0]
    for package in PACKAGES:
        try:
            yield True, package, version(package)
        except PackageNotFoundError:
            yield False, package, "is not installed"
    import torch

    from orca_core.numerics import numerical_kind

    kind = numerical_kind()
    yield True, "processor", f"{kind.device_name}: torch uses {kind.cpu_capability}; {kind.blas}"
    gpus = [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]
    yield True, "devices", f"{os.cpu_count()} CPUs, " + (", ".join(gpus) if gpus else "no GPU that torch sees")


def _check_room(what: str, uri: str) -> Iterator[Finding]:
    if "://" in uri:
        return
    folder = Path(uri).expanduser().resolve()
    while not folder.exists():
        folder = folder.parent
    is_writable = os.access(folder, os.W_OK)
    free = f"{uri}: {shutil.disk_usage(folder).free / 2**30:.1f} GiB free"
    yield is_writable, what, free if is_writable else f"{free}, but {folder} is not writable"


def _check_results(workspace: Workspace, repair: bool) -> Iterator[Finding]:
    results = workspace.results
    yield from _check_room("results", workspace.uri)
    try:
        if not results.exists():
            yield True, "results", f"{workspace.uri}: no sweep yet"
            return
        damaged = list(results.find_damaged())
    except OrcaError as error:
        yield False, "results", str(error)
        return
    for path, message in damaged:
        yield repair, "results", f"set aside as {results.set_aside(path)}" if repair else message
    if repair or not damaged:
        yield from _check_sweeps(workspace, repair)


def _check_sweeps(workspace: Workspace, repair: bool) -> Iterator[Finding]:
    """Check each sweep: its driver, whether rows stand twice in its tables, and whether some are missing."""
    results = workspace.results
    doubled, missing, sweeps = _find_doubled(workspace), _find_missing(workspace), results.sweeps()
    for sweep in sweeps[:1]:
        yield from _check_clock(results, sweep)
    for sweep in sweeps:
        driver = driver_of(results, sweep)
        if note := describe_differences(results.live_trials(sweep, COLUMNS)):
            yield True, "sweep", f"{sweep}: {note}"
        if driver is not None:
            yield True, "sweep", f"{sweep}: {driver} runs it"
            continue
        if trials := doubled.get(sweep):
            if repair:
                results.compact(sweep, repair=True)
            found = f"{len(trials)} trials had doubled rows; one of each was kept" if repair else f"{len(trials)} trials have doubled rows"
            yield repair, "sweep", f"{sweep}: {found}"
        trials = missing.get(sweep, set())
        if not trials:
            yield True, "sweep", f"{sweep}: rows are complete"
            continue
        if repair:
            again = {"status": "FAIL", "cause": "infrastructure", "error": "some of its rows were lost with a damaged file"}
            rows = [row for row in results.live_trials(sweep) if row["trial"] in trials]
            results.append("trials", sweep, [row | again | {"sequence": row["sequence"] + 1} for row in rows])
        remedy = "; the next run of the sweep restores them" if repair else ""
        yield repair, "sweep", f"{sweep}: {len(trials)} trials lack rows{remedy}"


def _check_clock(results: ResultStore, sweep: str) -> Iterator[Finding]:
    skew = clock_skew(results, sweep)
    if skew is not None and abs(skew) > MAX_SKEW_S:
        order = "ahead of" if skew > 0 else "behind"
        yield False, "clock", f"the clock of this machine is {abs(skew):.0f} s {order} that of {results.uri}; set it by NTP"


def _find_doubled(workspace: Workspace) -> dict[str, set[str]]:
    """Sweep -> its trials of which a row stands twice: its file was written again, or two drivers of version 0.1 wrote it."""
    views = {"trials": "all_trials"}
    twice = " union ".join(
        f"select sweep, trial from (select {', '.join(names)} from {views.get(table, table)} group by all having count(*) > 1)"
        for table, names in IDENTITY.items()
    )
    return _trials_by_sweep(workspace, twice)


def _find_missing(workspace: Workspace) -> dict[str, set[str]]:
    """Sweep -> its COMPLETE trials that lack rows of epochs, as they do after a file is lost. Derived ones have none."""
    by_folds = "validation_folds is not null and validation_fold is null"
    expected = f"case when {by_folds} then validation_folds * finetune_epochs + best_epoch else finetune_epochs end"
    epochs = "select distinct sweep, trial, fold, epoch from metrics where stage = 'finetune'"
    return _trials_by_sweep(
        workspace,
        f"select sweep, trial from trial_status "
        f"left join (select sweep, trial, count(*) as epochs from ({epochs}) group by all) using (sweep, trial) "
        f"where status = 'COMPLETE' and coalesce(role, 'trial') != 'derived' and coalesce(epochs, 0) != {expected}",
    )


def _trials_by_sweep(workspace: Workspace, query: str) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for row in workspace.sql(query).rows():
        found.setdefault(row["sweep"], set()).add(row["trial"])
    return found


def _check_store(workspace: Workspace, repair: bool) -> Iterator[Finding]:
    uri, results = workspace.artifacts_uri, workspace.results
    try:
        store = workspace.artifacts
        running = [sweep for sweep in results.sweeps() if driver_of(results, sweep)]
        damaged = list(store.find_damaged())
        entries = store.entries()
    except OrcaError as error:
        yield False, "store", str(error)
        return
    yield from _check_room("store", uri)
    size = sum(entry.size for entry in entries) / 2**30
    yield True, "store", f"{uri}: {len(entries)} artifacts, {size:.2f} GiB"
    for address in damaged:
        if running:
            yield True, "store", f"{address}: incomplete; {', '.join(running)} may be writing it"
        elif repair:
            store.drop(address)
            yield True, "store", f"{address}: was incomplete and has been dropped"
        else:
            yield False, "store", f"{address}: is incomplete; it counts as absent and is computed again when needed"
