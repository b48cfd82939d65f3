"""Notes about sweeps beside the result tables: resolved plans, claims of drivers, requests to stop."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pyarrow import fs

from orca_core.config.spellings import in_present_spelling
from orca_core.errors import ConfigError, Fault, StoreError, StoreUnavailableError, nearest
from orca_core.filesystem import Files, shown_uri
from orca_core.patience import Patience

_CLAIM, _STOP = "claim", "stop"

OLD_HEARTBEAT = "heartbeat.json"
"""A note of version 0.1 that stands among the plans."""


@dataclass(frozen=True)
class Claim:
    """The claim of a run to drive a sweep, as it is stored.

    Args:
        data: What `write_claim` wrote; empty if it is damaged.
        written_at: When, by the clock of the store, in seconds since the epoch; None if the store does not tell.
    """

    data: Mapping[str, Any]
    written_at: float | None


class SweepNotes:
    """The notes under one folder of results: `sweeps/<name>/<plan hash>.json`, `<run>.claim`, `<run>.stop` and `clock`.

    Args:
        uri: A folder or a URI that `pyarrow.fs` knows. It need not exist, but its bucket must.
        patience: How long it is waited for while it is out of reach; None = not at all.

    Raises:
        StoreError: From every method: if it cannot be opened, read or written; see `Files`.
    """

    def __init__(self, uri: str | Path, patience: Patience | None = None) -> None:
        self.uri = str(uri)
        if not self.uri:
            raise StoreError("the path of the results must not be empty")
        self._files = Files(uri, patience)
        if self.local_folder is not None and Path(self.local_folder).exists() and not Path(self.local_folder).is_dir():
            raise StoreError(f"{self.uri}: must be a folder for results, but is a file")

    def sweeps(self) -> list[str]:
        """Names of the sweeps that have rows or a plan, sorted."""
        names = {info.base_name.removeprefix("sweep=") for info in self._files.infos("trials") if info.type == fs.FileType.Directory}
        plans = (info.path for info in self._files.infos("sweeps", recursive=True) if info.extension == "json")
        return sorted(names | {path.split("/")[-2] for path in plans if not path.endswith(f"/{OLD_HEARTBEAT}")})

    def save_plan(self, name: str, plan_hash: str, data: Mapping[str, Any]) -> None:
        """Store a resolved plan of a sweep, as JSON."""
        self._files.write(f"sweeps/{name}/{plan_hash}.json", json.dumps(data, indent=1).encode())

    def plans(self, name: str) -> dict[str, dict[str, Any]]:
        """Plan hash -> plan, in the order in which they were saved; empty for an unknown sweep.

        Raises:
            StoreError: If a plan is damaged.
        """
        plans = [info for info in self._files.infos(f"sweeps/{name}") if info.extension == "json" and info.base_name != OLD_HEARTBEAT]
        return {
            info.base_name.removesuffix(".json"): _in_present_spelling(self._read_json(self._relative(info.path)))
            for info in sorted(plans, key=lambda info: info.mtime_ns)
        }

    def latest_plan(self, name: str) -> dict[str, Any] | None:
        """The latest plan of a sweep; None if there is none."""
        return max(self.plans(name).values(), key=lambda plan: plan["made_at"], default=None)

    def check_sweep(self, name: str, option: str = "NAME") -> None:
        """Check that a sweep has rows or a plan here.

        Args:
            name: Name of the sweep.
            option: The argument or option that named it, for the message.

        Raises:
            ConfigError: If not; the message suggests the nearest name.
        """
        known = self.sweeps()
        if name not in known:
            if not known:
                raise ConfigError([no_results(self.uri)])
            raise ConfigError([Fault(option, "must be the name of a sweep in the results", name, nearest(name, known))])

    # Claims are read and written every few seconds. So nothing here waits for a store that is out of reach: another try follows.

    def claims(self, name: str) -> dict[str, Claim]:
        """Run -> the claim by which it drives a sweep, of the runs that have not ended.

        Raises:
            StoreError: If they cannot be read.
        """
        found = {}
        with self._watching():
            for info in self._list_claims(name):
                content = self._read_claim(self._relative(info.path))
                if content is not None:  # else its run has just ended
                    found[info.base_name.removesuffix(f".{_CLAIM}")] = Claim(_parse_claim(content), _seconds(info))
        return found

    def _read_claim(self, path: str) -> bytes | None:
        """The content of a claim; None if it is gone. Reading one that is deleted meanwhile can break off as if the store were gone."""
        try:
            return self._at_once.read(path)
        except StoreUnavailableError:
            return self._at_once.read(path)

    def _list_claims(self, name: str) -> list[fs.FileInfo]:
        def find() -> list[fs.FileInfo]:
            return [info for info in self._at_once.infos(f"sweeps/{name}") if info.extension == _CLAIM]

        def names(infos: list[fs.FileInfo]) -> set[str]:
            return {info.base_name for info in infos}

        found = find()
        if self.local_folder is None:
            return found
        # A file system may leave out a file that is renamed meanwhile, as a claim is at each heartbeat. List until two listings agree.
        while names(again := find()) != names(found):
            found = again
        return again

    def write_claim(self, name: str, run: str, data: Mapping[str, Any]) -> None:
        """Write the claim of a run to drive a sweep; replaces the one before.

        Raises:
            StoreError: If it cannot be written.
        """
        with self._watching():
            self._at_once.write(_note(name, run, _CLAIM), json.dumps(data).encode())

    def drop_claim(self, name: str, run: str) -> None:
        """Remove the claim of a run, and the request to stop it, if they are there.

        Raises:
            StoreError: If one cannot be removed.
        """
        for ending in (_STOP, _CLAIM):
            self._at_once.delete(_note(name, run, ending))

    def ask_to_stop(self, name: str, run: str) -> None:
        """Write a request to a run of a sweep to end. It names the run, so it never reaches a later one."""
        self._files.write(_note(name, run, _STOP), b"")

    def is_asked_to_stop(self, name: str, run: str) -> bool:
        """Whether a run of a sweep was asked to end.

        Raises:
            StoreError: If this cannot be found out.
        """
        return self._at_once.read(_note(name, run, _STOP)) is not None

    def store_time(self, name: str) -> float | None:
        """What the clock of the store shows now, in seconds since the epoch: the modification time of a file that is written for it.

        Ages of files in the store are measured by this clock alone, as the clocks of two machines may differ. Object stores give whole
        seconds. None if the store does not tell modification times, or nothing can be written.
        """
        path = f"sweeps/{name}/clock"
        try:
            self._at_once.write(path, b"")
            return _seconds(self._at_once.info(path))
        except StoreError:
            return None

    @property
    def _at_once(self) -> Files:
        return self._files.at_once()

    def _watching(self) -> AbstractContextManager[None]:
        return self._files.patience.watching(shown_uri(self.uri))

    @property
    def local_folder(self) -> str | None:
        """The folder of the results if it is on a file system of this machine, else None."""
        return self._files.root if self._files.is_local else None

    def _read_json(self, path: str) -> dict[str, Any]:
        content = self._files.read(path)
        if content is None:
            raise StoreError(f"{self._files.path(path)}: was removed while it was being read. Try again.")
        return self._parse(path, content)

    def _parse(self, path: str, content: bytes) -> dict[str, Any]:
        try:
            data: dict[str, Any] = json.loads(content)
        except ValueError as error:
            remedy = "Remove it, or set it aside with `sweeper doctor --repair`; the next run of the sweep writes it again."
            raise StoreError(f"{self._files.path(path)}: is damaged ({error}). {remedy}") from None
        return data

    def _relative(self, path: str) -> str:
        """The path of a listed file, from the root on."""
        return path.removeprefix(self._files.root).lstrip("/")


def no_results(uri: str) -> Fault:
    """What is said of a place without results, by every command that reads them."""
    if uri == "results":
        remedy = "Run a sweep first, or give the place of its results by --results."
    else:
        remedy = "Check the spelling of --results: it is the place with which the sweep was run."
    return Fault("", f"{shown_uri(uri)}: there are no results here", Fault.ABSENT, remedy)


def _in_present_spelling(plan: dict[str, Any]) -> dict[str, Any]:
    """A plan, with the knobs of its trials in the spellings of today."""
    common, trials = plan.get("common"), plan.get("trials")
    if isinstance(common, dict):
        plan = plan | {"common": in_present_spelling(common)}
    if isinstance(trials, dict):
        plan = plan | {"trials": {trial: in_present_spelling(cells) for trial, cells in trials.items()}}
    return plan


def _note(name: str, run: str, ending: str) -> str:
    return f"sweeps/{name}/{run}.{ending}"


def _parse_claim(content: bytes) -> Mapping[str, Any]:
    try:
        data = json.loads(content)
    except ValueError:
        return {}
    return data if isinstance(data, dict) else {}


def _seconds(info: fs.FileInfo) -> float | None:
    return None if info.mtime_ns is None else info.mtime_ns / 1e9
