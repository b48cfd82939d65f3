"""The stage store: whole artifacts by address, on a local disk, NFS, S3 or GCS.

    <root>/<address>/<attempt>/tensors.safetensors, data.json
    <root>/<address>/COMPLETE.json                        {"attempt": ..., "files": {name: {"size": ..., "sha256": ...}}}

The marker is written last, by rename where the file system has one, and names the attempt it stands for. So readers see a whole
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

from orca_core.errors import DiskFullError, StoreError

if TYPE_CHECKING:
    from torch import Tensor

_MARKER = "COMPLETE.json"
_READ_AGAIN = 20
"""Times an artifact is read again that a writer replaced while it was being read."""


@dataclass(frozen=True)
class Artifact:
    """What a stage left.

    Args:
        tensors: By name; on the CPU.
        data: JSON data: the rows the stage produced, and what else is no tensor.
    """

    tensors: Mapping[str, Tensor]
    data: Mapping[str, Any]


@dataclass(frozen=True)
class Entry:
    """Something in a store.

    Args:
        address: Where.
        size: Bytes of its files.
        written_at: When the last of them was written, in seconds since the epoch.
    """

    address: str
    size: int
    written_at: float

    @property
    def place(self) -> str:
        """The trajectory or stage it belongs to."""
        return self.address.rpartition("/")[0]


def open_filesystem(uri: str | Path) -> tuple[fs.FileSystem, str]:
    """File system and path of a URI (`s3://bucket/place`) or of a local path.

    Raises:
        StoreError: If the URI names no known file system.
    """
    text = str(uri)
    if "://" not in text:
        return fs.LocalFileSystem(), str(Path(text).expanduser().resolve())
    try:
        found: tuple[fs.FileSystem, str] = fs.FileSystem.from_uri(text)
    except (ValueError, OSError) as error:
        raise StoreError(f"{text}: cannot be opened as a store ({error}). Give a folder, or a URI like s3://bucket/place.") from None
    return found


def write_whole(filesystem: fs.FileSystem, path: str, content: bytes) -> None:
    """Write a file that is whole or absent: object stores do so by themselves, others by rename."""
    if isinstance(filesystem, fs.LocalFileSystem):
        draft = f"{path}.{uuid.uuid4().hex[:8]}.tmp"
        filesystem.create_dir(path.rpartition("/")[0], recursive=True)
        with filesystem.open_output_stream(draft) as stream:
            stream.write(content)
        filesystem.move(draft, path)
        return
    with filesystem.open_output_stream(path) as stream:
        stream.write(content)


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

    def has(self, address: str) -> bool:
        """Whether a whole artifact is there, by its marker and sizes; `get` also checks digests."""
        return self._marker(address) is not None

    def get(self, address: str) -> Artifact | None:
        """The artifact, or None if it is absent or does not agree with its marker."""
        from safetensors.torch import load

        for _ in range(_READ_AGAIN):
            marker = self._read_marker(address)
            if marker is None:
                return None
            contents = self._contents(address, marker)
            if contents is not None:
                tensors = load(contents["tensors.safetensors"]) if "tensors.safetensors" in contents else {}
                return Artifact(tensors, json.loads(contents["data.json"]))
            if self._read_marker(address) == marker:
                return None  # damaged; had it been replaced meanwhile, the marker would name another attempt
        return None

    def put(self, address: str, tensors: Mapping[str, Tensor], data: Mapping[str, Any]) -> int:
        """Store an artifact; gives its size in bytes. Tensors may lie on any device.

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

    def damaged(self) -> Iterator[str]:
        """Addresses whose marker or files do not agree; all of every file is read. One without a marker may be on its way."""
        for entry in self.entries():
            marker = self._read_marker(entry.address)
            if marker is None or self._contents(entry.address, marker) is None:
                yield entry.address

    def epochs(self, place: str) -> list[int]:
        """Epochs of a trajectory at which something is stored, ascending."""
        found = self._fs.get_file_info(fs.FileSelector(f"{self._root}/{place}", allow_not_found=True))
        names = [info.base_name for info in found]
        return sorted(int(name[1:]) for name in names if name[:1] == "e" and name[1:].isdecimal())

    def entries(self) -> list[Entry]:
        """Everything in the store by address, whole or not, the oldest first."""
        sizes: dict[str, int] = {}
        times: dict[str, float] = {}
        for info in self._fs.get_file_info(fs.FileSelector(self._root, allow_not_found=True, recursive=True)):
            parts = info.path.removeprefix(self._root).strip("/").split("/")
            if info.type == fs.FileType.File and len(parts) > 3:
                address = "/".join(parts[:3])  # kind / key / epoch
                sizes[address] = sizes.get(address, 0) + info.size
                times[address] = max(times.get(address, 0.0), (info.mtime_ns or 0) / 1e9)
        return sorted((Entry(address, size, times[address]) for address, size in sizes.items()), key=lambda entry: entry.written_at)

    def strip(self, place: str) -> None:
        """Remove the tensors of a trajectory's states, and all of its interim one; rows stay.

        Raises:
            StoreError: If it cannot be written.
        """
        for epoch in self.epochs(place):
            address = f"{place}/e{epoch:05d}"
            marker = self._read_marker(address)
            if marker is None or "tensors.safetensors" not in marker["files"]:
                continue
            data = {name: expected for name, expected in marker["files"].items() if name == "data.json"}
            contents = self._contents(address, marker | {"files": data})
            if contents is None:
                self.drop(address)  # damaged: nothing to keep
            else:
                self.put(address, {}, json.loads(contents["data.json"]))
        self.drop(f"{place}/interim")

    def drop(self, address: str) -> None:
        """Remove an artifact, or all of a place, if it is there."""
        info = self._fs.get_file_info(f"{self._root}/{address}")
        if info.type != fs.FileType.NotFound:
            with suppress(FileNotFoundError):
                self._fs.delete_dir(f"{self._root}/{address}")

    def _marker(self, address: str) -> dict[str, Any] | None:
        """The marker, if the files it names are there in the sizes it gives."""
        marker = self._read_marker(address)
        if marker is None:
            return None
        folder = f"{self._root}/{address}/{marker['attempt']}"
        infos = self._fs.get_file_info([f"{folder}/{name}" for name in marker["files"]])
        sizes = [expected["size"] for expected in marker["files"].values()]
        return marker if [info.size for info in infos] == sizes else None

    def _read_marker(self, address: str) -> dict[str, Any] | None:
        try:
            with self._fs.open_input_stream(f"{self._root}/{address}/{_MARKER}") as stream:
                marker = json.loads(stream.read())
        except (OSError, ValueError):
            return None
        whole = isinstance(marker, dict) and isinstance(marker.get("attempt"), str) and isinstance(marker.get("files"), dict)
        return (
            marker if whole and all(isinstance(of, dict) and {"size", "sha256"} <= of.keys() for of in marker["files"].values()) else None
        )

    def _contents(self, address: str, marker: Mapping[str, Any]) -> dict[str, bytes] | None:
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
