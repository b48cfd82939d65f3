"""The stage store: complete artifacts by address, on a local disk, NFS, S3 or GCS.

    <root>/<address>/<attempt>/tensors.safetensors, data.json
    <root>/<address>/COMPLETE.json                        {"attempt": ..., "files": {name: {"size": ..., "sha256": ...}}}

The marker is written last, by a rename where the file system has one, and names the attempt it belongs to. So readers see a complete
artifact or none, and two writers of the same address do no harm: both are right, and the last marker wins. Sizes and digests
are checked on reading; an artifact that does not agree with its marker counts as absent.
"""

from __future__ import annotations

import errno
import hashlib
import json
import uuid
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pyarrow import fs

from orca_core.addresses import INTERIM, Address
from orca_core.errors import DiskFullError, StoreError
from orca_core.filesystem import open_filesystem, write_whole

if TYPE_CHECKING:
    from torch import Tensor

_MARKER = "COMPLETE.json"
_READ_AGAIN = 20
"""Retries when a writer replaces an artifact while it is being read."""


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

    Raises:
        StoreError: If it cannot be opened.
    """

    def __init__(self, uri: str | Path) -> None:
        self.uri = str(uri)
        self._fs, self._root = open_filesystem(uri)

    def get(self, address: Address) -> Artifact | None:
        """The artifact, or None if it is absent or does not agree with its marker."""
        if (contents := self.files(address)) is None:
            return None
        from safetensors.torch import load

        tensors = load(contents["tensors.safetensors"]) if "tensors.safetensors" in contents else {}
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
        """Store an artifact and return its size in bytes. Tensors may be on any device.

        Raises:
            StoreError: If it cannot be written.
        """
        from safetensors.torch import save

        contents = {"data.json": json.dumps(data).encode()}
        if tensors:
            contents["tensors.safetensors"] = save({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()})
        attempt = uuid.uuid4().hex[:12]
        folder = f"{self._root}/{address}"
        files = {name: {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()} for name, content in contents.items()}
        try:
            for name, content in contents.items():
                write_whole(self._fs, f"{folder}/{attempt}/{name}", content)
            before = self._read_marker(address)
            write_whole(self._fs, f"{folder}/{_MARKER}", json.dumps({"attempt": attempt, "files": files}).encode())
            if before is not None:
                with suppress(FileNotFoundError):  # another writer may have removed it
                    self._fs.delete_dir(f"{folder}/{before['attempt']}")
        except OSError as error:
            kind = DiskFullError if error.errno in (errno.ENOSPC, errno.EDQUOT) else StoreError
            raise kind(f"{self.uri}: cannot write {address} ({error})") from error
        return sum(len(content) for content in contents.values())

    def find_damaged(self) -> Iterator[Address]:
        """Artifacts whose marker and files do not agree; every file is read. One without a marker may still be being written."""
        for entry in self.entries():
            marker = self._read_marker(entry.address)
            if marker is None or self._contents(entry.address, marker) is None:
                yield entry.address

    def states(self, folder: str) -> list[Address]:
        """The stored states of a trajectory (`Address.folder`), by epoch, ascending."""
        found = self._fs.get_file_info(fs.FileSelector(f"{self._root}/{folder}", allow_not_found=True))
        addresses = [Address.parse(f"{folder}/{info.base_name}") for info in found]
        return sorted((address for address in addresses if address is not None and address.epoch is not None), key=lambda a: a.epoch or 0)

    def entries(self) -> list[Entry]:
        """Every artifact in the store, complete or not, the oldest first. Files that are not at an address are not the store's."""
        sizes: dict[Address, int] = {}
        times: dict[Address, float] = {}
        for info in self._fs.get_file_info(fs.FileSelector(self._root, allow_not_found=True, recursive=True)):
            parts = info.path.removeprefix(self._root).strip("/").split("/")
            if info.type == fs.FileType.File and len(parts) > 3 and (address := Address.parse("/".join(parts[:3]))):
                sizes[address] = sizes.get(address, 0) + info.size
                times[address] = max(times.get(address, 0.0), (info.mtime_ns or 0) / 1e9)
        return sorted((Entry(address, size, times[address]) for address, size in sizes.items()), key=lambda entry: entry.written_at)

    def strip(self, folder: str) -> None:
        """Remove the tensors of a trajectory's states, and its whole interim state; rows stay.

        Raises:
            StoreError: If it cannot be written.
        """
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
        self._delete(str(address))

    def drop_folder(self, folder: str) -> None:
        """Remove all artifacts of a key (`Address.folder`), if there are any."""
        self._delete(folder)

    def _delete(self, path: str) -> None:
        info = self._fs.get_file_info(f"{self._root}/{path}")
        if info.type != fs.FileType.NotFound:
            with suppress(FileNotFoundError):
                self._fs.delete_dir(f"{self._root}/{path}")

    def _read_marker(self, address: Address) -> dict[str, Any] | None:
        try:
            with self._fs.open_input_stream(f"{self._root}/{address}/{_MARKER}") as stream:
                marker = json.loads(stream.read())
        except (OSError, ValueError):
            return None
        whole = isinstance(marker, dict) and isinstance(marker.get("attempt"), str) and isinstance(marker.get("files"), dict)
        return (
            marker if whole and all(isinstance(of, dict) and {"size", "sha256"} <= of.keys() for of in marker["files"].values()) else None
        )

    def _contents(self, address: Address, marker: Mapping[str, Any]) -> dict[str, bytes] | None:
        """The files of an attempt by name; None if one is gone or not what the marker says."""
        contents = {}
        for name, expected in marker["files"].items():
            try:
                with self._fs.open_input_stream(f"{self._root}/{address}/{marker['attempt']}/{name}") as stream:
                    contents[name] = stream.read()
            except OSError:
                return None
            if hashlib.sha256(contents[name]).hexdigest() != expected["sha256"]:
                return None
        return contents if "data.json" in contents else None
