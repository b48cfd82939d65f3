"""Notes about sweeps beside the result tables: resolved plans, claims of drivers, requests to stop."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pyarrow import fs

from orca_core.errors import ConfigError, Fault, StoreError, nearest
from orca_core.filesystem import open_filesystem, write_whole

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
        uri: A folder or a URI that `pyarrow.fs` knows. It need not exist.

    Raises:
        StoreError: If the URI names an unknown file system.
    """

    def __init__(self, uri: str | Path) -> None:
        self.uri = str(uri)
        if not self.uri:
            raise StoreError("the path of the results must not be empty")
        self._fs, self._root = open_filesystem(uri)
        if self.local_folder is not None and Path(self._root).exists() and not Path(self._root).is_dir():
            raise StoreError(f"{self.uri}: must be a folder for results, but is a file")

    def sweeps(self) -> list[str]:
        """Names of the sweeps that have rows or a plan, sorted."""
        names = {info.base_name.removeprefix("sweep=") for info in self._get_infos("trials") if info.type == fs.FileType.Directory}
        plans = (info.path for info in self._get_infos("sweeps", recursive=True) if info.extension == "json")
        return sorted(names | {path.split("/")[-2] for path in plans if not path.endswith(f"/{OLD_HEARTBEAT}")})

    def save_plan(self, name: str, plan_hash: str, data: Mapping[str, Any]) -> None:
        """Store a resolved plan of a sweep, as JSON."""
        self._write(f"{self._root}/sweeps/{name}/{plan_hash}.json", json.dumps(data, indent=1).encode())

    def plans(self, name: str) -> dict[str, dict[str, Any]]:
        """Plan hash -> plan, in the order in which they were saved; empty for an unknown sweep.

        Raises:
            StoreError: If a plan is damaged.
        """
        plans = [info for info in self._get_infos(f"sweeps/{name}") if info.extension == "json" and info.base_name != OLD_HEARTBEAT]
        return {info.base_name.removesuffix(".json"): self._read_json(info.path) for info in sorted(plans, key=lambda info: info.mtime_ns)}

    def latest_plan(self, name: str) -> dict[str, Any] | None:
        """The latest plan of a sweep; None if there is none."""
        return max(self.plans(name).values(), key=lambda plan: plan["made_at"], default=None)

    def check_sweep(self, name: str, option: str = "") -> None:
        """Check that a sweep has rows or a plan here.

        Args:
            name: Name of the sweep.
            option: Command-line option that named it, for the message.

        Raises:
            ConfigError: If not; the message suggests the nearest name.
        """
        known = self.sweeps()
        if name not in known:
            remedy = nearest(name, known) if known else "There are no results yet: run a sweep, or give --results."
            raise ConfigError([Fault(option, "must be the name of a sweep in the results", name, remedy)])

    def claims(self, name: str) -> dict[str, Claim]:
        """Run -> the claim by which it drives a sweep, of the runs that have not ended.

        Raises:
            StoreError: If they cannot be read.
        """
        found = {}
        for info in self._list_claims(name):
            try:
                with self._fs.open_input_stream(info.path) as stream:
                    content = stream.read()
            except FileNotFoundError:
                continue  # its run has just ended
            except OSError as error:
                raise StoreError(f"{info.path}: cannot be read ({error})") from error
            found[info.base_name.removesuffix(f".{_CLAIM}")] = Claim(_parse_claim(content), _seconds(info))
        return found

    def _list_claims(self, name: str) -> list[fs.FileInfo]:
        def names(infos: list[fs.FileInfo]) -> set[str]:
            return {info.base_name for info in infos}

        found = [info for info in self._get_infos(f"sweeps/{name}") if info.extension == _CLAIM]
        if self.local_folder is None:
            return found
        # A file system may leave out a file that is renamed meanwhile, as a claim is at each heartbeat. List until two listings agree.
        while names(again := [info for info in self._get_infos(f"sweeps/{name}") if info.extension == _CLAIM]) != names(found):
            found = again
        return again

    def write_claim(self, name: str, run: str, data: Mapping[str, Any]) -> None:
        """Write the claim of a run to drive a sweep; replaces the one before.

        Raises:
            StoreError: If it cannot be written.
        """
        self._write(self._note(name, run, _CLAIM), json.dumps(data).encode())

    def drop_claim(self, name: str, run: str) -> None:
        """Remove the claim of a run, and the request to stop it, if they are there.

        Raises:
            StoreError: If one cannot be removed.
        """
        for path in (self._note(name, run, _STOP), self._note(name, run, _CLAIM)):
            try:
                if self._fs.get_file_info(path).type != fs.FileType.NotFound:
                    self._fs.delete_file(path)
            except FileNotFoundError:
                continue
            except OSError as error:
                raise StoreError(f"{path}: cannot be removed ({error})") from error

    def ask_to_stop(self, name: str, run: str) -> None:
        """Write a request to a run of a sweep to end. It names the run, so it never reaches a later one."""
        self._write(self._note(name, run, _STOP), b"")

    def is_asked_to_stop(self, name: str, run: str) -> bool:
        """Whether a run of a sweep was asked to end.

        Raises:
            StoreError: If this cannot be found out.
        """
        path = self._note(name, run, _STOP)
        try:
            return bool(self._fs.get_file_info(path).type != fs.FileType.NotFound)
        except OSError as error:
            raise StoreError(f"{path}: cannot be read ({error})") from error

    def store_time(self, name: str) -> float | None:
        """What the clock of the store shows now, in seconds since the epoch: the modification time of a file that is written for it.

        Ages of files in the store are measured by this clock alone, as the clocks of two machines may differ. Object stores give whole
        seconds. None if the store does not tell modification times, or nothing can be written.
        """
        path = f"{self._root}/sweeps/{name}/clock"
        try:
            self._write(path, b"")
            return _seconds(self._fs.get_file_info(path))
        except (OSError, StoreError):
            return None

    def _note(self, name: str, run: str, ending: str) -> str:
        return f"{self._root}/sweeps/{name}/{run}.{ending}"

    @property
    def local_folder(self) -> str | None:
        """The folder of the results if it is on a file system of this machine, else None."""
        return self._root if isinstance(self._fs, fs.LocalFileSystem) else None

    def _read_json(self, path: str) -> dict[str, Any]:
        with self._fs.open_input_stream(path) as stream:
            content = stream.read()
        try:
            data: dict[str, Any] = json.loads(content)
        except ValueError as error:
            remedy = "Remove it, or set it aside with `sweeper doctor --repair`; the next run of the sweep writes it again."
            raise StoreError(f"{path}: is damaged ({error}). {remedy}") from None
        return data

    def _get_infos(self, folder: str, recursive: bool = False) -> list[fs.FileInfo]:
        """The content of a folder under the root; empty if the folder does not exist."""
        try:
            found: list[fs.FileInfo] = self._fs.get_file_info(
                fs.FileSelector(f"{self._root}/{folder}", allow_not_found=True, recursive=recursive)
            )
        except OSError as error:
            raise StoreError(f"{self.uri}: {folder} cannot be listed ({error})") from error
        return found

    def _write(self, path: str, content: bytes) -> None:
        try:
            write_whole(self._fs, path, content)
        except OSError as error:
            raise StoreError(f"{path}: cannot be written ({error})") from error


def _parse_claim(content: bytes) -> Mapping[str, Any]:
    try:
        data = json.loads(content)
    except ValueError:
        return {}
    return data if isinstance(data, dict) else {}


def _seconds(info: fs.FileInfo) -> float | None:
    return None if info.mtime_ns is None else info.mtime_ns / 1e9
