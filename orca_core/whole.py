"""Files and folders that are written whole or not at all, and never over another one."""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from orca_core.errors import ConfigError, Fault


def check_free(path: Path, option: str) -> None:
    """Check that nothing is at a path yet, but perhaps an empty folder, and that its parent is a folder.

    Args:
        path: What is going to be written.
        option: Command-line option that named it.

    Raises:
        ConfigError: If not.
    """
    if path.is_symlink() or (path.exists() and not (path.is_dir() and not any(path.iterdir()))):
        raise ConfigError([Fault(option, "must not exist yet", str(path), "Nothing is overwritten: remove it, or name another one.")])
    above = next(parent for parent in path.absolute().parents if parent.exists())
    if not above.is_dir():
        raise ConfigError([Fault(option, f"must lie in a folder, but {above} is a file", str(path))])


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """A path beside `path` for a file or a folder. It takes its place at the end; if anything goes wrong before, it is removed.

    Raises:
        OSError: If it cannot be written.
    """
    path = path.absolute()
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.parent / f".{path.name}.{uuid.uuid4().hex[:8]}"
    try:
        yield beside
        if path.is_dir():
            path.rmdir()  # empty, as `check_free` found
        os.rename(beside, path)
    finally:
        if beside.is_dir():
            shutil.rmtree(beside, ignore_errors=True)
        else:
            for left in beside.parent.glob(f"{beside.name}*"):  # the journal of a database, too
                left.unlink(missing_ok=True)
