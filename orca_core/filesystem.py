"""File systems by URI, and files that are complete or absent."""

from __future__ import annotations

import uuid
from pathlib import Path

from pyarrow import fs

from orca_core.errors import StoreError


def open_filesystem(uri: str | Path) -> tuple[fs.FileSystem, str]:
    """File system and path of a URI (`s3://bucket/folder`) or of a local path.

    Raises:
        StoreError: If the URI names no known file system.
    """
    text = str(uri)
    if "://" not in text:
        return fs.LocalFileSystem(), str(Path(text).expanduser().resolve())
    try:
        found: tuple[fs.FileSystem, str] = fs.FileSystem.from_uri(text)
    except (ValueError, OSError) as error:
        raise StoreError(f"{text}: cannot be opened as a store ({error}). Give a folder, or a URI like s3://bucket/folder.") from None
    return found


def write_whole(filesystem: fs.FileSystem, path: str, content: bytes) -> None:
    """Write a file that readers see complete or not at all: object stores guarantee this, file systems by a rename."""
    if isinstance(filesystem, fs.LocalFileSystem):
        draft = f"{path}.{uuid.uuid4().hex[:8]}.tmp"
        filesystem.create_dir(path.rpartition("/")[0], recursive=True)
        with filesystem.open_output_stream(draft) as stream:
            stream.write(content)
        filesystem.move(draft, path)
        return
    with filesystem.open_output_stream(path) as stream:
        stream.write(content)
