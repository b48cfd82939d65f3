"""How data files are read: regular files alone, and whatever goes wrong becomes one error that names the file.

Libraries fail on damaged files in many ways: HDF5 raises RuntimeError, zip NotImplementedError, a header of numpy TokenError, a nested
JSON RecursionError. Readers therefore run inside `reading(path)`, which turns any error into a `DataError`, and `decode_once` blames the
file that was read last for what goes wrong with its content.
"""

from __future__ import annotations

import codecs
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

from orca_core.datafiles.room import require_memory
from orca_core.errors import DataError, OrcaError

MAX_REASON = 200
"""Longest text of a library's error that is shown."""

_KINDS = {
    stat.S_IFIFO: "a FIFO",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFSOCK: "a socket",
    stat.S_IFDIR: "a folder",
}

_latest: ContextVar[Path | None] = ContextVar("latest_file", default=None)


@contextmanager
def reading(path: Path, form: str, remedy: str = "Get it again.") -> Iterator[None]:
    """Within: whatever a reader raises becomes an error that names the file.

    Args:
        path: The file.
        form: What it must be: `a complete .wav file`.
        remedy: What to do if it is not.

    Raises:
        DataError: If it is not a regular file, or cannot be read.
    """
    _latest.set(path)
    try:
        require_regular(path)
        yield
    except OrcaError:
        raise
    except Exception as error:  # a damaged file may make a library fail in any way
        raise DataError(f"{path}: must be {form}, but cannot be read ({reason(error)}). {remedy}".rstrip()) from error


def latest_file() -> Path | None:
    """The file that was read last, if one was since `blaming_latest_file` began."""
    return _latest.get()


@contextmanager
def blaming_latest_file(name: str) -> Iterator[None]:
    """Within: an error of code that works on what was read is an error of the file that was read last.

    Args:
        name: Of the data, in case no file was read.

    Raises:
        DataError: Instead of any error that is not the project's own.
    """
    _latest.set(None)
    try:
        yield
    except OrcaError:
        raise
    except Exception as error:
        raise DataError(f"{_latest.get() or name}: must be of the documented form, but cannot be used ({reason(error)}).") from error


def require_regular(path: Path) -> os.stat_result:
    """Refuse what is not a regular file: opening a FIFO waits for ever, reading a device may never end.

    Returns:
        What the system says of the file.

    Raises:
        DataError: If it is something else.
        OSError: If there is nothing of that name.
    """
    found = path.stat()
    if not stat.S_ISREG(found.st_mode):
        raise DataError(f"{path}: must be a regular file, but is {_KINDS.get(stat.S_IFMT(found.st_mode), 'something else')}.")
    return found


def reason(error: BaseException) -> str:
    """What went wrong, in one line."""
    if isinstance(error, MemoryError):
        return "it does not fit into memory"
    if isinstance(error, RecursionError):
        return "it is nested too deeply, or holds itself"
    text = " ".join((getattr(error, "strerror", None) or str(error)).split())
    text = text if len(text) <= MAX_REASON else text[: MAX_REASON - 3] + "..."
    known = isinstance(error, (OSError, ValueError, EOFError))
    return text if text and known else f"{type(error).__name__}: {text}".rstrip(": ")


def require_utf8(*names: str) -> None:
    """Refuse names of files that are not UTF-8: they can neither be shown nor told apart reliably.

    Raises:
        DataError: With the first such name, its other bytes as hex escapes.
    """
    for name in names:
        try:
            name.encode()
        except UnicodeEncodeError:
            shown = os.fsencode(name).decode("utf-8", "backslashreplace")
            raise DataError(f"{shown}: must have a name in UTF-8. Rename it.") from None


def read_text(path: Path, form: str = "a text file in UTF-8") -> str:
    """The content of a text file, with lines that end in a newline character alone.

    Raises:
        DataError: If it cannot be read, does not fit into memory, or is not UTF-8; the line is named.
    """
    with reading(path, form):
        return decode_utf8(path).replace("\r\n", "\n").replace("\r", "\n")


def decode_utf8(path: Path) -> str:
    """The content of a text file, without the mark that some programs put at its start.

    Raises:
        DataError: If it does not fit into memory, or is not UTF-8; the line is named.
        OSError: If it cannot be read.
    """
    require_memory(path, "", path.stat().st_size)
    content = path.read_bytes()
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        encoding = "utf-16" if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else "latin1"
        remedy = f"Convert it: iconv -f {encoding} -t utf-8 {path.name}"
        raise DataError(f"{path}: line {line}: must be UTF-8, but has the byte 0x{content[error.start]:02x}. {remedy}") from None
