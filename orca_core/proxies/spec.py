"""A proxy data set without its data (`ProxySpec`) and with it (`ProxyData`)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from orca_core.datafiles.digests import content_digest
from orca_core.datafiles.expected import ExpectedFile, refuse
from orca_core.errors import DataError
from orca_core.plugins import resolve

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True)
class ProxyData:
    """A labelled data set in a body's own modality.

    Args:
        inputs: A list of n strings (text); (n, 3, height, width) float32 in [0, 1] or bytes (images); or (n, d) float32 features.
        labels: (n,) int64 from 0.
        label_names: Names of the labels, by id.
        spans: Of a text, the characters (from, to) that a sample is about, the rest being their context; None = all of it.
    """

    inputs: list[str] | np.ndarray
    labels: np.ndarray
    label_names: tuple[str, ...]
    spans: list[tuple[int, int]] | None = None

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class ProxySpec:
    """One proxy data set, described without its data.

    Args:
        name: As written in a config.
        summary: One line for `sweeper proxies`.
        modality: `text`, `images`, or `any` for a proxy that is drawn as features.
        loader: `"module:function"`, called as `load(spec) -> ProxyData`; empty for a proxy that is drawn as features.
        files: The files whose content defines the data.
        version: Raised when the loader gives other data than before from the same files.
        licence, source: Where the data comes from and on what terms.
        expects: The published files that must lie below the data root.
        identity: Gives what the proxy is known by beside its files, where that is not its name: names hold paths.
        width: Gives the width of features that are read as such; None for a proxy that a body embeds.
        shuffled: Labels are permuted by the trial's seed (`NAME+shuffled`): the control for what labels do.
        most: Samples that are used, at most (`NAME+k:N`).
    """

    name: str
    summary: str
    modality: Literal["text", "images", "any"]
    loader: str
    files: Callable[[], tuple[Path, ...]] = field(default=tuple)
    version: int = 1
    licence: str = ""
    source: str = ""
    expects: tuple[ExpectedFile, ...] = ()
    identity: Callable[[], str] | None = None
    width: Callable[[], int] | None = None
    shuffled: bool = False
    most: int | None = None

    def fits(self, modality: str) -> bool:
        """Whether a body of that modality can embed it."""
        return self.modality in ("any", modality)

    def fits_width(self, width: int | None) -> bool:
        """Whether features that are read as such are as wide as a body's tokens; true where that is not known.

        Raises:
            DataError: If their file is missing or not of the documented form.
        """
        return self.width is None or width is None or self.width() == width

    def check_files(self) -> None:
        """That the published files are there, and whole as far as their headers tell.

        Raises:
            DataError: With a line for every fault of every file.
        """
        refuse(line for file in self.expects for line in file.faults())

    def digest(self) -> str:
        """SHA-256 over the loader's name and version and the content of the files; paths do not enter.

        Raises:
            DataError: If files are missing; all of them are named.
        """
        try:
            if any(not file.place.exists() for file in self.expects):
                self.check_files()
            return self._digest()
        except DataError as error:
            error.knob = "proxy"
            raise

    def _digest(self) -> str:
        label = f"proxy {self.name if self.identity is None else self.identity()} {self.loader} {self.version}"
        label += (" shuffled" if self.shuffled else "") + ("" if self.most is None else f" most {self.most}")
        return content_digest(label, self.files())

    def load(self) -> ProxyData:
        """The whole proxy, in a fixed order.

        Raises:
            DataError: If a file is missing, damaged or not of the documented form.
        """
        self.check_files()
        data: ProxyData = resolve(self.loader)(self)
        if not isinstance(data, ProxyData) or len(data.inputs) != len(data.labels) or data.labels.dtype != "int64":
            raise DataError(f"{self.name}: {self.loader}: must give ProxyData with an int64 label for each input.")
        return data
