"""Notes about sweeps beside the result tables: resolved plans, heartbeats of drivers, requests to stop."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pyarrow import fs

from orca_core.errors import ConfigError, Fault, StoreError, nearest
from orca_core.filesystem import Files, shown_uri
from orca_core.patience import Patience


class SweepNotes:
    """The notes under one folder of results: `sweeps/<name>/<plan hash>.json`, `heartbeat.json` and `stop`.

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
        self._at_once = self._files.at_once()  # for what is written or read every few seconds anyway
        if self.local_folder is not None and Path(self.local_folder).exists() and not Path(self.local_folder).is_dir():
            raise StoreError(f"{self.uri}: must be a folder for results, but is a file")

    def sweeps(self) -> list[str]:
        """Names of the sweeps that have rows or a plan, sorted."""
        names = {info.base_name.removeprefix("sweep=") for info in self._files.infos("trials") if info.type == fs.FileType.Directory}
        plans = (info.path for info in self._files.infos("sweeps", recursive=True) if info.extension == "json")
        return sorted(names | {path.split("/")[-2] for path in plans if not path.endswith("/heartbeat.json")})

    def save_plan(self, name: str, plan_hash: str, data: Mapping[str, Any]) -> None:
        """Store a resolved plan of a sweep, as JSON."""
        self._files.write(f"sweeps/{name}/{plan_hash}.json", json.dumps(data, indent=1).encode())

    def plans(self, name: str) -> dict[str, dict[str, Any]]:
        """Plan hash -> plan, in the order in which they were saved; empty for an unknown sweep.

        Raises:
            StoreError: If a plan is damaged.
        """
        plans = [info for info in self._files.infos(f"sweeps/{name}") if info.extension == "json" and info.base_name != "heartbeat.json"]
        return {
            info.base_name.removesuffix(".json"): self._read_json(self._relative(info.path))
            for info in sorted(plans, key=lambda info: info.mtime_ns)
        }

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

    def beat(self, name: str, data: Mapping[str, Any]) -> None:
        """Write the heartbeat of a sweep's driver; replaces the one before. Never waits: another beat follows."""
        with self._files.patience.watching(shown_uri(self.uri)):
            self._at_once.write(f"sweeps/{name}/heartbeat.json", json.dumps(data).encode())

    def ask_to_stop(self, name: str) -> None:
        """Write a request to the driver of a sweep to end it."""
        self._files.write(f"sweeps/{name}/stop", repr(time.time()).encode())

    def read_stop_request(self, name: str) -> float:
        """Time of the last request to end a sweep, in seconds since the epoch; 0 if there was none, or if it cannot be read now."""
        try:
            return float(self._at_once.read(f"sweeps/{name}/stop") or 0)
        except (StoreError, ValueError):
            return 0.0

    @property
    def local_folder(self) -> str | None:
        """The folder of the results if it is on a file system of this machine, else None."""
        return self._files.root if self._files.is_local else None

    def heartbeat(self, name: str) -> dict[str, Any] | None:
        """The last heartbeat, as `beat` wrote it; None if there is none.

        Raises:
            StoreError: If it is damaged.
        """
        path = f"sweeps/{name}/heartbeat.json"
        content = self._files.read(path)
        return None if content is None else self._parse(path, content)

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
