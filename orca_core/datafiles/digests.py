"""Digests of files, which identify data. Those of large files are kept in the cache root."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

from orca_core.datafiles.reading import require_regular
from orca_core.errors import DataError
from orca_core.workbench import Workbench, memoize

MANY_FILES = 256
"""With more files than this, a process checks sizes and times only once."""

KEPT_FROM_BYTES = 1 << 20
"""Size from which the digest of a file is kept in the cache root."""


def digest_content(label: str, files: tuple[Path, ...]) -> str:
    """SHA-256 over a label and the bytes of some files, in order."""
    return _digest_once(label, files) if len(files) > MANY_FILES else _digest_now(label, files)


def is_known(label: str, files: tuple[Path, ...]) -> bool:
    """Whether `digest_content` has no large file, nor many files, to read: their digests are in the cache root."""
    if len(files) > MANY_FILES:
        return _place(_identify_all(label, files)).is_file()
    return all(
        size < KEPT_FROM_BYTES or _place(f"{path.absolute()} {size} {time}").is_file() for path in files for size, time in [_stat(path)]
    )


def _digest_now(label: str, files: tuple[Path, ...]) -> str:
    digest = hashlib.sha256(label.encode())
    for path in files:
        digest.update(_digest_file(path, *_stat(path)).encode())
    return digest.hexdigest()


@memoize(maxsize=16)
def _digest_once(label: str, files: tuple[Path, ...]) -> str:
    return _read_or_compute(_identify_all(label, files), lambda: _digest_now(label, files))


def _identify_all(label: str, files: tuple[Path, ...]) -> str:
    return f"{label} {[(str(path), *_stat(path)) for path in files]}"


def _stat(path: Path) -> tuple[int, int]:
    try:
        stat = require_regular(path)
    except OSError as error:
        raise DataError(f"{path}: must be readable, but is not ({error.strerror})") from None
    return stat.st_size, stat.st_mtime_ns


@memoize(maxsize=256)
def _digest_file(path: Path, size: int, mtime_ns: int) -> str:
    def now() -> str:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    return now() if size < KEPT_FROM_BYTES else _read_or_compute(f"{path.absolute()} {size} {mtime_ns}", now)


def _place(identity: str) -> Path:
    return Workbench.current().cache_root / "digests" / hashlib.sha256(identity.encode()).hexdigest()


def _read_or_compute(identity: str, compute: Callable[[], str]) -> str:
    """A digest from the cache root, or computed and stored there; `identity` holds the paths, sizes and times of its files."""
    path = _place(identity)
    try:
        return path.read_text(encoding="ascii")
    except (OSError, ValueError):
        digest = compute()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=path.parent, delete=False, encoding="ascii") as file:
            file.write(digest)
        os.replace(file.name, path)
    except OSError:
        pass  # without the cache, digests are computed again: slower, not wrong
    return digest
