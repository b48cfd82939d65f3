"""Archives of files that are the same bytes wherever they are made, and that nothing can be hidden in.

An archive is a ZIP without compression, with its files in order and no dates, so that its content decides every byte. It is checked by
making it again from the files it holds: what differs, if only by a byte behind the end, is refused. A manifest lists the SHA-256 of every
other file, in the form of `sha256sum`; the SHA-256 of the manifest is the digest of the archive.

One file may quote that digest although it is listed itself: it is listed with 64 zeros in the place of the digest.
"""

from __future__ import annotations

import hashlib
import io
import re
import stat
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass

MANIFEST = "MANIFEST.txt"
"""The file that lists the others."""

UNKNOWN = "0" * 64
"""What stands for the digest in a file that quotes it, when that file is listed."""

MAX_BYTES = 8 * 2**30
"""Maximum size of an archive, which is held in memory."""

_NAME = re.compile(r"[A-Za-z0-9_+-][\w.=+@ -]*(/[A-Za-z0-9_+-][\w.=+@ -]*)*", re.ASCII)
"""Names of files: no empty part, and none that begins with a dot, so neither `..` nor an absolute path."""

_LINE = re.compile(r"([0-9a-f]{64})  (.+)")


@dataclass(frozen=True)
class Archive:
    """A checked archive.

    Args:
        files: Path -> content, without the manifest.
        digest: SHA-256 of the manifest.
    """

    files: Mapping[str, bytes]
    digest: str


class ArchiveError(ValueError):
    """What keeps bytes from being an archive as it was written: all that was found."""

    def __init__(self, faults: list[str]) -> None:
        super().__init__("; ".join(faults))
        self.faults = faults


def pack(files: Mapping[str, bytes], quoting: str | None = None) -> tuple[bytes, str]:
    """Make an archive.

    Args:
        files: Path -> content.
        quoting: The file that quotes the digest; `UNKNOWN` stands in it where the digest goes.

    Returns:
        The bytes of the archive, and its digest.

    Raises:
        ValueError: If a path is not one that an archive may have, or another file than `quoting` has `UNKNOWN` in it.
    """
    if wrong := [name for name in files if _NAME.fullmatch(name) is None or name == MANIFEST]:
        raise ValueError(f"not the path of a file in an archive: {wrong[0]!r}")
    if wrong := [name for name, content in files.items() if name != quoting and UNKNOWN.encode() in content]:
        raise ValueError(f"{wrong[0]} must not have 64 zeros in a row")
    manifest = "".join(f"{hashlib.sha256(files[name]).hexdigest()}  {name}\n" for name in sorted(files)).encode()
    digest = hashlib.sha256(manifest).hexdigest()
    content = dict(files) | {MANIFEST: manifest}
    if quoting is not None:
        content[quoting] = content[quoting].replace(UNKNOWN.encode(), digest.encode())
    return _write(content), digest


def _write(files: Mapping[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for name in sorted(files):
            info = zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))
            info.create_system, info.external_attr = 3, 0o100644 << 16
            archive.writestr(info, files[name])
    return buffer.getvalue()


def unpack(data: bytes) -> Archive:
    """Check an archive and return its files. Nothing is written, and nothing is decompressed.

    Args:
        data: Its bytes.

    Raises:
        ArchiveError: If it is not, byte for byte, what `pack` writes.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            entries = archive.infolist()
            if faults := _faults_of_entries(entries, len(data)):
                raise ArchiveError(faults)
            files = {entry.filename: archive.read(entry) for entry in entries}
    except (zipfile.BadZipFile, EOFError, OSError, NotImplementedError, RuntimeError, ValueError, OverflowError, MemoryError) as error:
        if isinstance(error, ArchiveError):
            raise
        raise ArchiveError([f"cannot be read as an archive: it was cut short, or damaged ({error})"]) from None
    faults = (
        [] if _write(files) == data else ["has bytes that belong to no file, or its files in another order or form than it is written in"]
    )
    faults += _faults_of_content(files)
    if faults:
        raise ArchiveError(faults)
    return Archive({name: content for name, content in files.items() if name != MANIFEST}, hashlib.sha256(files[MANIFEST]).hexdigest())


def _faults_of_entries(entries: list[zipfile.ZipInfo], size: int) -> list[str]:
    """What is wrong with the list of files, before any is read."""
    faults, names = [], [entry.filename for entry in entries]
    faults += [f"lists {name!r} more than once" for name in sorted({name for name in names if names.count(name) > 1})]
    for entry in entries:
        if _NAME.fullmatch(entry.filename) is None or entry.filename != entry.orig_filename:
            faults.append(f"has a file with a path that is refused: {entry.orig_filename!r}")
        elif entry.external_attr != 0o100644 << 16:
            kind = stat.S_IFMT(entry.external_attr >> 16)
            what = "has a file that `sweeper bundle` did not write" if kind in (0, stat.S_IFREG) else "has something that is no plain file"
            faults.append(f"{what}: {entry.filename}")
        elif entry.compress_type != zipfile.ZIP_STORED or entry.flag_bits or entry.file_size != entry.compress_size:
            faults.append(f"has a file that is compressed or encrypted: {entry.filename}")
    if sum(entry.file_size for entry in entries) > size:
        faults.append("says that its files are larger than it is itself")
    return faults


def _faults_of_content(files: Mapping[str, bytes]) -> list[str]:
    """In what the files differ from the manifest."""
    if MANIFEST not in files:
        return [f"lacks {MANIFEST}"]
    manifest = files[MANIFEST]
    lines = [_LINE.fullmatch(line) for line in manifest.decode("ascii", "replace").splitlines()]
    listed = {line[2]: line[1] for line in lines if line is not None}
    if None in lines or manifest != "".join(f"{listed[name]}  {name}\n" for name in sorted(listed)).encode():
        return [f"has a {MANIFEST} that is not as it is written"]
    digest = hashlib.sha256(manifest).hexdigest().encode()
    faults = [f"lacks {name}, which the manifest lists" for name in listed if name not in files]
    faults += [f"has {name}, which the manifest does not list" for name in files if name not in (*listed, MANIFEST)]
    for name in listed:
        content = files.get(name)
        if content is not None and hashlib.sha256(content.replace(digest, UNKNOWN.encode())).hexdigest() != listed[name]:
            faults.append(f"has another {name} than the manifest lists")
        elif content is not None and UNKNOWN.encode() in content:  # which reads like the digest, so nothing else may hold it
            faults.append(f"has a {name} with 64 zeros in the place of the digest")
    return faults
