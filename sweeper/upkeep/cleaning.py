"""Make room: drop stored stages by age, size or sweep, and the rows of a sweep. Results never depend on stages that are gone."""

from __future__ import annotations

import time
from dataclasses import dataclass

from orca_core.errors import ConfigError, Fault, nearest
from orca_core.store import Entry, Store
from sweeper.results.store import ResultStore
from sweeper.running.driver import driver_of

GIB = 2**30


@dataclass(frozen=True)
class Cleaning:
    """What `clean` dropped, or would drop.

    Args:
        dropped: Entries of the store.
        kept: Bytes that stay.
        protected: Sweeps that run now; nothing they need was touched.
    """

    dropped: tuple[Entry, ...]
    kept: int
    protected: tuple[str, ...]

    def text(self, dry_run: bool) -> str:
        """A sentence for people."""
        freed = sum(entry.size for entry in self.dropped) / GIB
        verb = "would drop" if dry_run else "dropped"
        lines = [f"{verb} {len(self.dropped)} stored stages, {freed:.2f} GiB; {self.kept / GIB:.2f} GiB stay"]
        if self.protected:
            lines.append(f"untouched, as they run: what {', '.join(self.protected)} need")
        return "\n".join(lines) + "\n"


def clean(
    results: ResultStore,
    store: Store,
    *,
    older_than_days: float | None = None,
    most_gib: float | None = None,
    sweep: str | None = None,
    dry_run: bool = False,
) -> Cleaning:
    """Drop stored stages, the oldest first.

    Args:
        results: Their sweeps say what is needed by whom.
        store: The stage store.
        older_than_days: Drop what was written longer ago.
        most_gib: Drop until the store is no larger than this.
        sweep: Drop what only this sweep needs.
        dry_run: Drop nothing, only say what would be.

    Raises:
        ConfigError: If none of the three bounds is given, or there is no such sweep.
    """
    if older_than_days is None and most_gib is None and sweep is None:
        raise ConfigError([Fault("", "must have --older-than, --most or --sweep", Fault.ABSENT, "Nothing was dropped.")])
    needed = {name: _places(results, name) for name in results.sweeps()}
    if sweep is not None and sweep not in needed:
        raise ConfigError([Fault("--sweep", "must be the name of a sweep in the results", sweep, nearest(sweep, needed))])
    running = tuple(name for name in needed if driver_of(results, name) is not None)
    protected = frozenset[str]().union(*(needed[name] for name in running))
    others = frozenset[str]().union(*(places for name, places in needed.items() if name != sweep))
    entries = store.entries()
    size = sum(entry.size for entry in entries)
    dropped = []
    for entry in entries:
        old = older_than_days is not None and entry.written_at < time.time() - older_than_days * 86400
        large = most_gib is not None and size > most_gib * GIB
        own = sweep is not None and entry.address.folder in needed[sweep] and entry.address.folder not in others
        if (old or large or own) and entry.address.folder not in protected:
            dropped.append(entry)
            size -= entry.size
            if not dry_run:
                store.drop(entry.address)
    return Cleaning(tuple(dropped), size, running)


def remove_sweep(results: ResultStore, name: str) -> str:
    """Delete the rows and plans of a sweep.

    Raises:
        ConfigError: If there is no such sweep, or it runs.
    """
    known = results.sweeps()
    if name not in known:
        raise ConfigError([Fault("", "must be the name of a sweep in the results", name, nearest(name, known) if known else "")])
    if driver := driver_of(results, name):
        raise ConfigError([Fault("", f"must not run: {driver} runs {name}", Fault.ABSENT, f"End it first: sweeper stop {name}")])
    trials = len(results.live_trials(name, columns=["trial"]))
    results.remove(name)
    return f"{name}: removed, with the rows of {trials} trials. Its stages stay in the store; `sweeper clean` drops them.\n"


def _places(results: ResultStore, sweep: str) -> frozenset[str]:
    """Places in the store that any plan of a sweep needs."""
    return frozenset(place for plan in results.plans(sweep).values() for place in plan.get("places", ()))
