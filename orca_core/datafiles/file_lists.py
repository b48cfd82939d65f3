"""Published files that name other files, a line or an entry each: all that they name must exist."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

from orca_core.errors import DataError, Fault
from orca_core.workbench import Workbench, memoize


def require_files(paths: Iterable[Path], named_by: str) -> tuple[Path, ...]:
    """The paths, after a check that all of them are files.

    Raises:
        DataError: With the first missing ones and their number.
    """
    paths = tuple(paths)
    if missing := [path for path in paths if not path.is_file()]:
        shown = ", ".join(map(str, missing[:3])) + (", ..." if len(missing) > 3 else "")
        rule = f"must have the {len(paths)} files that {named_by} names"
        verb = "is" if len(missing) == 1 else "are"
        raise DataError(f"{Workbench.current().data_root}: {rule}, but {len(missing)} {verb} missing: {shown}.")
    return paths


def find_below(folder: Path, name: str, listed_in: Path, place: str = "") -> Path:
    """The file that a list names, which must be below a folder.

    Args:
        folder: Where the names start.
        name: As it is written in the list.
        listed_in, place: The list, and where in it, for the error: `line 3`.

    Raises:
        DataError: If the name is absolute, or leaves the folder by `..`.
    """
    if not name or "\0" in name or name.startswith("/") or ".." in name.split("/"):
        raise DataError(Fault(place, f"must be a path below {folder} that does not leave it", name).text(str(listed_in)))
    return folder / name


def find_named_files(lists: Iterable[Path], read: Callable[[Path], Iterable[Path]]) -> tuple[Path, ...]:
    """The files that some lists name, in order. They are looked up again only when the lists change.

    Args:
        lists: The files that name others.
        read: Returns the paths that one list names; a module-level function, as the result is cached under it.

    Raises:
        DataError: If some of the named files are missing.
    """
    lists = tuple(lists)
    return _read_lists(lists, read, stat_files(lists))


@memoize(maxsize=16)
def _read_lists(lists: tuple[Path, ...], read: Callable[[Path], Iterable[Path]], identity: object) -> tuple[Path, ...]:
    return require_files((path for file in lists for path in read(file)), " or ".join(map(str, lists)))


def stat_files(paths: Iterable[Path]) -> tuple[tuple[str, int, int], ...]:
    """Paths, sizes and times of the files that exist, which identify a list of files within a process."""
    found = [(str(path), path.stat()) for path in paths if path.is_file()]
    return tuple((name, stat.st_size, stat.st_mtime_ns) for name, stat in found)
