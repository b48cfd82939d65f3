"""A proxy data set without its data (`ProxySpec`) and with it (`ProxyData`)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from orca_core.tasks.spec import content_digest, resolve

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True)
class ProxyData:
    """A labelled data set in a body's own modality.

    Args:
        inputs: A list of n strings (text), or (n, 3, height, width) float32 in [0, 1] (images).
        labels: (n,) int64 from 0.
        label_names: Names of the labels, by id.
    """

    inputs: list[str] | np.ndarray
    labels: np.ndarray
    label_names: tuple[str, ...]

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
    """

    name: str
    summary: str
    modality: Literal["text", "images", "any"]
    loader: str
    files: Callable[[], tuple[Path, ...]] = field(default=tuple)
    version: int = 1
    licence: str = ""
    source: str = ""

    def fits(self, modality: str) -> bool:
        """Whether a body of that modality can embed it."""
        return self.modality in ("any", modality)

    def digest(self) -> str:
        """SHA-256 over the loader's name and version and the content of the files; paths do not enter."""
        return content_digest(f"proxy {self.name} {self.loader} {self.version}", self.files())

    def load(self) -> ProxyData:
        """The whole proxy, in a fixed order.

        Raises:
            DataError: If a file is missing, damaged or not of the documented form.
        """
        data: ProxyData = resolve(self.loader)(self)
        return data
