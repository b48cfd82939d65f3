"""Free disk space: drop stored stages by age, size or sweep, and the rows of a sweep. Results never depend on dropped stages."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

from orca_core.addresses import Address
from orca_core.errors import ConfigError, Fault
from orca_core.store import Entry
from sweeper.results.store import ResultStore
from sweeper.results.workspace import Workspace
from sweeper.running.driver import driver_of, stop_command

GIB = 2**30

CLOCKS_DIFFER_S = 60.0
"""Tolerated difference between the clocks of the stage store and of the store of the results, in seconds."""


@dataclass(frozen=True)
class Cleaning:
    """What `clean` dropped, or would drop.

    Args:
        dropped: Entries of the store.
        remaining: Bytes that remain in the store.
        protected: Running sweeps, whose stages were left alone.
    """

    dropped: tuple[Entry, ...]
    remaining: int
    protected: tuple[str, ...]

    def text(self, dry_run: bool) -> str:
        """The result as printed text."""
        freed = sum(entry.size for entry in self.dropped) / GIB
        verb = "would drop" if dry_run else "dropped"
        lines = [f"{verb} {len(self.dropped)} stored stages, {freed:.2f} GiB; {self.remaining / GIB:.2f} GiB remain"]
        if self.protected:
            lines.append(f"nothing was dropped that running sweeps need: {', '.join(self.protected)}")
        return "\n".join(lines) + "\n"


def clean(
    workspace: Workspace,
    *,
    older_than_days: float | None = None,
    max_gib: float | None = None,
    sweep: str | None = None,
    dry_run: bool = False,
) -> Cleaning:
    """Drop stored stages and models, oldest first; never what a running sweep needs.

    Args:
        workspace: The stage store, and the results, which tell what each sweep needs.
        older_than_days: Drop artifacts older than this.
        max_gib: Drop artifacts until the store is no larger than this.
        sweep: Drop what only this sweep needs, and the private stores of its trials.
        dry_run: Drop nothing, only report what would be dropped.

    Raises:
        ConfigError: If none of the three criteria is given, or the sweep is unknown.
    """
    if older_than_days is None and max_gib is None and sweep is None:
        raise ConfigError([Fault("", "requires --older-than, --most or --sweep", Fault.ABSENT, "Nothing was dropped.")])
    results = workspace.results
    if sweep is not None:
        results.check_sweep(sweep, "--sweep")
    needed = _folders_by_sweep(workspace)
    drivers = {name: driver for name in needed if (driver := driver_of(results, name)) is not None}
    running = tuple(drivers)
    protected = frozenset[str]().union(*(needed[name] for name in running))
    # Under tpe a running sweep also writes stages that no stored plan lists yet: so nothing written since the first start is dropped.
    first_start = min((driver.began for driver in drivers.values()), default=math.inf)
    others = frozenset[str]().union(*(folders for name, folders in needed.items() if name != sweep))
    entries = workspace.artifacts.entries()
    size = sum(entry.size for entry in entries)
    dropped = []
    for entry in entries:
        folder = entry.address.folder
        is_old = older_than_days is not None and entry.written_at < time.time() - older_than_days * 86400
        exceeds = max_gib is not None and size > max_gib * GIB
        is_own = sweep is not None and folder in needed[sweep] and folder not in others
        if (is_old or exceeds or is_own) and folder not in protected and entry.written_at < first_start - CLOCKS_DIFFER_S:
            dropped.append(entry)
            size -= entry.size
            if not dry_run:
                workspace.artifacts.drop(entry.address)
    if sweep is not None and sweep not in running and not dry_run:
        workspace.drop_private(sweep)
    return Cleaning(tuple(dropped), size, running)


def remove_sweep(results: ResultStore, name: str) -> str:
    """Delete the rows and plans of a sweep.

    Raises:
        ConfigError: If the sweep is unknown, or is running.
    """
    results.check_sweep(name)
    if driver := driver_of(results, name):
        remedy = f"End it first with `{stop_command(results, name)}`."
        raise ConfigError([Fault("", f"sweep {name} cannot be removed while it is being run by {driver}", Fault.ABSENT, remedy)])
    trials = len(results.live_trials(name, columns=["trial"]))
    results.remove(name)
    return f"{name}: removed, with the rows of {trials} trials. Its stages remain in the store; `sweeper clean` drops them.\n"


def _folders_by_sweep(workspace: Workspace) -> dict[str, frozenset[str]]:
    """Sweep -> its folders in the store, from its plans and from the rows of trials that tpe proposed after these."""
    results = workspace.results
    folders: dict[str, set[str]] = {name: set() for name in results.sweeps()}
    for name, known in folders.items():
        for plan in results.plans(name).values():
            known.update(plan.get("places", ()))
    if not folders:
        return {}
    for row in results.live_trials(columns=["sweep", "result_key"]):
        if row["result_key"]:
            folders[row["sweep"]].add(Address.model(row["result_key"], "best").folder)
    for row in workspace.sql("select distinct sweep, stage, key from stages").rows():
        folders[row["sweep"]].add(f"{row['stage']}/{row['key']}")
    for row in workspace.sql("select distinct sweep, key from probes where key <> ''").rows():
        folders[row["sweep"]].add(f"probe/{row['key']}")
    return {name: frozenset(known) for name, known in folders.items()}
