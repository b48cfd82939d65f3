"""Copies, on a machine's own disk, of what it has read from an object store or written there.

A copy is found by the digest of its content, which the marker of an artifact names. So a copy cannot be out of date, needs no word from
the store's `clean`, and serves every store that holds the same bytes. Which artifacts exist is never answered from here.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import uuid
from contextlib import suppress
from pathlib import Path

from orca_core.workbench import GIB, Workbench

_LEAVE_FREE = GIB
"""Bytes of the disk that copies leave to others."""


class NodeCache:
    """Copies of files by digest, for all processes of a machine. The least recently used go first.

    Nothing here raises: a copy that cannot be read or written counts as absent, since the store has what it is a copy of.

    Args:
        folder: Where the copies are. It need not exist, and may be deleted at any time.
        max_bytes: Size that all copies together do not exceed; 0 = no copies.

    Attributes:
        hits, saved_bytes: How many files this process found here, and their size: each one saved two requests.
    """

    def __init__(self, folder: Path, max_bytes: int) -> None:
        self.folder, self.max_bytes = folder, max_bytes
        self.hits = self.saved_bytes = 0

    @classmethod
    def of(cls, workbench: Workbench) -> NodeCache:
        """The cache in a workbench's cache root."""
        return cls(workbench.cache_root / "artifacts", int(workbench.artifact_cache_gib * GIB))

    def get(self, digest: str) -> bytes | None:
        """The content with this SHA-256, in hexadecimal digits; None if the cache has no copy of it."""
        if self.max_bytes <= 0:
            return None
        path = self.folder / digest
        try:
            content = path.read_bytes()
            os.utime(path)  # used just now
        except OSError:
            return None
        if hashlib.sha256(content).hexdigest() != digest:
            self.drop(digest)
            return None
        self.hits += 1
        self.saved_bytes += len(content)
        return content

    def add(self, digest: str, content: bytes) -> None:
        """Keep a copy, if there is room for it when others have gone."""
        if len(content) > self.max_bytes:
            return
        path, draft = self.folder / digest, self.folder / f"{uuid.uuid4().hex}.tmp"
        with suppress(OSError):
            if path.exists():
                return
            self.folder.mkdir(parents=True, exist_ok=True)
            with (self.folder / "lock").open("w") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)  # one at a time makes room, so that together they keep to the limit
                if not self._make_room(len(content)):
                    return
                try:
                    draft.write_bytes(content)
                    draft.rename(path)
                finally:
                    draft.unlink(missing_ok=True)

    def drop(self, digest: str) -> None:
        """Remove a copy, if it is there."""
        with suppress(OSError):
            (self.folder / digest).unlink(missing_ok=True)

    def _make_room(self, size: int) -> bool:
        """Remove copies until one of `size` bytes fits; False if it does not fit on the disk even then."""
        copies = []
        for entry in os.scandir(self.folder):
            with suppress(OSError):  # another process has removed it
                if entry.name != "lock":
                    found = entry.stat()
                    copies.append((found.st_mtime_ns, found.st_size, entry.path))
        copies.sort()
        total, free = sum(size for _, size, _ in copies), shutil.disk_usage(self.folder).free
        for _, of_copy, path in copies:
            if total + size <= self.max_bytes and free - size >= _LEAVE_FREE:
                break
            with suppress(OSError):
                os.unlink(path)
            total, free = total - of_copy, free + of_copy
        return total + size <= self.max_bytes and free - size >= _LEAVE_FREE
