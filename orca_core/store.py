"""The stage store: complete artifacts by address, on a local disk, NFS, S3 or GCS.

    <root>/<address>/<attempt>/tensors.safetensors, data.json
    <root>/<address>/COMPLETE.json                        {"attempt": ..., "files": {name: {"size": ..., "sha256": ...}}}

The marker is written last, by a rename where the file system has one, and names the attempt it belongs to. So readers see a complete
artifact or none, and two writers of the same address do no harm: both are right, and the last marker wins. Sizes and digests
are checked on reading; an artifact that does not agree with its marker counts as absent. One that cannot be read, because the store is out
of reach or refuses, does not: that is an error.
"""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pyarrow import fs

from orca_core.addresses import INTERIM, Address
from orca_core.filesystem import Files
from orca_core.node_cache import NodeCache
from orca_core.patience import Patience

if TYPE_CHECKING:
    from torch import Tensor

_MARKER = "COMPLETE.json"
_READ_AGAIN = 20
"""Retries when a writer replaces an artifact while it is being read."""
_DOWNLOADS = 2
"""How often a file is fetched from an object store before a wrong digest counts as damage, and not as an accident on the way."""


@dataclass(frozen=True)
class Artifact:
    """What a stage left.

    Args:
        tensors: By name; on the CPU.
        data: JSON data: the rows the stage produced, and whatever else is not a tensor.
    """

    tensors: Mapping[str, Tensor]
    data: Mapping[str, Any]


@dataclass(frozen=True)
class Entry:
    """One artifact in a store, complete or not.

    Args:
        address: Its address.
        size: Bytes of its files.
        written_at: When the last of them was written, in seconds since the epoch.
    """

    address: Address
    size: int
    written_at: float


class Store:
    """Artifacts by address.

    Args:
        uri: A folder or a URI that `pyarrow.fs` knows.
        patience: How long the store is waited for while it is out of reach; None = not at all.
        cache: Where this machine keeps copies of what it reads and writes; used for object stores only. The marker of an artifact is
            always read from the store.

    Raises:
        StoreError: From every method: if the store cannot be opened, read or written; see `Files`.
    """

    def __init__(self, uri: str | Path, patience: Patience | None = None, cache: NodeCache | None = None) -> None:
        self.uri = str(uri)
        self._files = Files(uri, patience)
        self._cache = None if self._files.is_local else cache

    def get(self, address: Address) -> Artifact | None:
        """The artifact, or None if it is absent or does not agree with its marker."""
        if (contents := self.files(address)) is None:
            return None
        tensors: dict[str, Tensor] = {}
        if "tensors.safetensors" in contents:
            from safetensors.torch import load  # loads torch, which takes seconds and 400 MiB: the driver of a sweep does without

            tensors = load(contents["tensors.safetensors"])
        return Artifact(tensors, json.loads(contents["data.json"]))

    def files(self, address: Address) -> Mapping[str, bytes] | None:
        """The files of the artifact, `data.json` and perhaps `tensors.safetensors`, by name; None as for `get`."""
        for _ in range(_READ_AGAIN):
            marker = self._read_marker(address)
            if marker is None:
                return None
            contents = self._contents(address, marker)
            if contents is not None:
                return contents
            if self._read_marker(address) == marker:
                return None  # damaged; had it been replaced meanwhile, the marker would name another attempt
        return None

    def put(self, address: Address, tensors: Mapping[str, Tensor], data: Mapping[str, Any]) -> int:
        """Store an artifact and return its size in bytes. Tensors may be on any device."""
        contents = {"data.json": json.dumps(data).encode()}
        if tensors:
            from safetensors.torch import save

            contents["tensors.safetensors"] = save({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()})
        attempt = uuid.uuid4().hex[:12]
        files: dict[str, dict[str, Any]] = {
            name: {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()} for name, content in contents.items()
        }
        for name, content in contents.items():
            self._files.write(f"{address}/{attempt}/{name}", content)
        before = self._read_marker(address)
        self._files.write(f"{address}/{_MARKER}", json.dumps({"attempt": attempt, "files": files}).encode())
        if self._cache is not None:
            for entry in before["files"].values() if before is not None else ():
                self._cache.drop(entry["sha256"])
            for name, content in contents.items():
                self._cache.add(files[name]["sha256"], content)
        if before is not None and before["attempt"] != attempt:
            self._files.delete_folder(f"{address}/{before['attempt']}")
        return sum(len(content) for content in contents.values())

    def has(self, address: Address) -> bool:
        """Whether the artifact is there, by its marker alone: its files are not read."""
        return self._read_marker(address) is not None

    def find_damaged(self) -> Iterator[Address]:
        """Artifacts whose marker and files do not agree; every file is read. One without a marker may still be being written."""
        for entry in self.entries():
            marker = self._read_marker(entry.address)
            if marker is None or self._contents(entry.address, marker) is None:
                yield entry.address

    def states(self, folder: str) -> list[Address]:
        """The stored states of a trajectory (`Address.folder`), by epoch, ascending."""
        found = self._files.infos(folder)
        addresses = [Address.parse(f"{folder}/{info.base_name}") for info in found]
        return sorted((address for address in addresses if address is not None and address.epoch is not None), key=lambda a: a.epoch or 0)

    def entries(self) -> list[Entry]:
        """Every artifact in the store, complete or not, the oldest first. Files that are not at an address are not the store's."""
        sizes: dict[Address, int] = {}
        times: dict[Address, float] = {}
        for info in self._files.infos(recursive=True):
            parts = info.path.removeprefix(self._files.root).strip("/").split("/")
            if info.type == fs.FileType.File and len(parts) > 3 and (address := Address.parse("/".join(parts[:3]))):
                sizes[address] = sizes.get(address, 0) + info.size
                times[address] = max(times.get(address, 0.0), (info.mtime_ns or 0) / 1e9)
        return sorted((Entry(address, size, times[address]) for address, size in sizes.items()), key=lambda entry: entry.written_at)

    def strip(self, folder: str) -> None:
        """Remove the tensors of a trajectory's states, and its whole interim state; rows stay."""
        for address in self.states(folder):
            marker = self._read_marker(address)
            if marker is None or "tensors.safetensors" not in marker["files"]:
                continue
            data = {name: expected for name, expected in marker["files"].items() if name == "data.json"}
            contents = self._contents(address, marker | {"files": data})
            if contents is None:
                self.drop(address)  # damaged: nothing to keep
            else:
                self.put(address, {}, json.loads(contents["data.json"]))
        kind, _, key = folder.partition("/")
        self.drop(Address(kind, key, INTERIM))

    def drop(self, address: Address) -> None:
        """Remove an artifact, if it is there."""
        self._files.delete_folder(str(address))

    def drop_folder(self, folder: str) -> None:
        """Remove all artifacts of a key (`Address.folder`), if there are any."""
        self._files.delete_folder(folder)

    def _read_marker(self, address: Address) -> dict[str, Any] | None:
        content = self._files.read(f"{address}/{_MARKER}")
        if content is None:
            return None
        try:
            marker = json.loads(content)
        except ValueError:
            return None
        whole = isinstance(marker, dict) and isinstance(marker.get("attempt"), str) and isinstance(marker.get("files"), dict)
        return (
            marker if whole and all(isinstance(of, dict) and {"size", "sha256"} <= of.keys() for of in marker["files"].values()) else None
        )

    def _contents(self, address: Address, marker: Mapping[str, Any]) -> dict[str, bytes] | None:
        """The files of an attempt by name; None if one is gone or not what the marker says."""
        contents = {}
        for name, expected in marker["files"].items():
            content = self._read_checked(f"{address}/{marker['attempt']}/{name}", expected["sha256"])
            if content is None:
                return None
            contents[name] = content
        return contents if "data.json" in contents else None

    def _read_checked(self, path: str, digest: str) -> bytes | None:
        """A file with this digest, from the machine's own copy or from the store; None if the store has no such file."""
        if self._cache is not None and (copy := self._cache.get(digest)) is not None:
            return copy
        for _ in range(1 if self._files.is_local else _DOWNLOADS):
            content = self._files.read(path)
            if content is None:
                return None
            if hashlib.sha256(content).hexdigest() == digest:
                if self._cache is not None:
                    self._cache.add(digest, content)
                return content
        return None
