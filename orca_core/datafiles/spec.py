"""What a task and a proxy have in common: a name, a loader, and the files whose content defines the data."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from orca_core.datafiles.digests import digest_content, is_known
from orca_core.datafiles.expected import ExpectedFile, find_paths, refuse
from orca_core.datafiles.reading import blaming_latest_file


@dataclass(frozen=True, kw_only=True)
class DataSpec(ABC):
    """A data set, described without its data.

    Args:
        name: As written in a config.
        summary: One line for the list of its kind.
        loader: `"module:function"`.
        files: Returns the files whose content defines the data; by default the paths of `expects`. Data that code alone defines has none:
            its version counts.
        version: Raised when the loader returns other data than before from the same files.
        layout: Returns what of the names of the files decides how they are read, where neither their content nor their order does; empty
            for the usual layout.
        licence, source: Where the data comes from and on what terms.
        expects: The published files that must exist below the data root; they may list further ones, which `files` then adds.
        own_path: File or folder of the user's own data, as it is written in the name; empty for other data.
    """

    name: str
    summary: str
    loader: str
    files: Callable[[], tuple[Path, ...]] = tuple
    version: int = 1
    layout: Callable[[], str] | None = None
    licence: str = ""
    source: str = ""
    expects: tuple[ExpectedFile, ...] = ()
    own_path: str = ""

    def __post_init__(self) -> None:
        if self.files is tuple:
            object.__setattr__(self, "files", partial(find_paths, self.expects))

    def has_files(self) -> bool:
        """Whether all published files exist."""
        return all(file.find().exists() for file in self.expects)

    def check_files(self) -> None:
        """Check that all published files exist, and are whole as far as their headers tell.

        Raises:
            DataError: With a line for every fault of every file.
        """
        with blaming_latest_file(self.name):
            refuse(line for file in self.expects for line in file.faults())
        with blaming_latest_file(self.name):
            self.files()  # where published files list others, this looks for those

    def digest(self) -> str:
        """SHA-256 over what identifies the loader and the content of the files; paths are left out.

        Raises:
            DataError: If files are missing; all of them are named.
        """
        return digest_content(*self._identify())

    def has_known_digest(self) -> bool:
        """Whether `digest` has no large file, nor many files, to read.

        Raises:
            DataError: As `digest`.
        """
        return is_known(*self._identify())

    def _identify(self) -> tuple[str, tuple[Path, ...]]:
        if not self.has_files():
            self.check_files()
        with blaming_latest_file(self.name):
            files = self.files()
            layout = self.layout() if self.layout is not None else ""
        label = self._label(has_content=bool(files))
        return f"{label} {layout}" if layout else label, files

    @abstractmethod
    def _label(self, has_content: bool) -> str:
        """What the data is known by beside the content of its files, if it has any."""
