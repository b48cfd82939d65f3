"""A proxy data set without its data (`ProxySpec`) and with it (`ProxyData`)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple

from orca_core.datafiles.spec import DataSpec
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
        spans: The characters (from, to) of a text that a sample is about, the rest is context; None = all of it.
    """

    inputs: list[str] | np.ndarray
    labels: np.ndarray
    label_names: tuple[str, ...]
    spans: list[tuple[int, int]] | None = None

    def __len__(self) -> int:
        return len(self.labels)


class Choice(NamedTuple):
    """Which samples of a proxy are used: the nearest to the target by transport, or the farthest.

    Args:
        which: `near` or `far`.
        samples: How many, >= 2.
    """

    which: Literal["near", "far"]
    samples: int


@dataclass(frozen=True, kw_only=True)
class ProxySpec(DataSpec):
    """One proxy data set, described without its data.

    Args:
        name, summary, files, version, licence, source, expects: As for `DataSpec`.
        loader: `"module:function"`, called as `load(spec) -> ProxyData`; empty for a proxy that is drawn as features.
        modality: `text`, `images`, or `any` for a proxy that is drawn as features.
        identity: Returns what the proxy is known by beside its files, where that is not its name: names hold paths.
        width: Returns the width of features that are read as such; None for a proxy that a body embeds.
        shuffled: Labels are permuted by the trial's seed (`NAME+shuffled`): the control for what labels do.
        max_samples: Largest number of samples to use (`NAME+k:N`).
        matched: Its features are replaced by Gaussian ones of their mean and covariance (`noise-matched:NAME`): the control for what
            features hold beyond these two.
        chosen: Which of its samples are used, by their distance to the target (`NAME+near:N`, `NAME+far:N`); None = all.
        parts: Of a mixture: its proxies with their shares, in the order of their names.

    Whatever the order in which a name says it: `max_samples` are drawn, of these some are chosen, then features are matched, then labels
    permuted.
    """

    modality: Literal["text", "images", "any"]
    identity: Callable[[], str] | None = None
    width: Callable[[], int] | None = None
    shuffled: bool = False
    max_samples: int | None = None
    matched: bool = False
    chosen: Choice | None = None
    parts: tuple[tuple[ProxySpec, float], ...] = ()

    def fits(self, modality: str) -> bool:
        """Whether a body of that modality can embed it; a bodiless arm, of modality `none`, embeds nothing."""
        return modality != "none" and self.modality in ("any", modality)

    def fits_width(self, width: int | None) -> bool:
        """Whether features that are read as such are as wide as a body's tokens; true where the width is unknown.

        Raises:
            DataError: If their file is missing or not of the documented form.
        """
        return self.width is None or width is None or self.width() == width

    def digest(self) -> str:
        """SHA-256 over the loader's name and version and the content of the files; paths are left out.

        Raises:
            DataError: If files are missing; all of them are named.
        """
        try:
            return super().digest()
        except DataError as error:
            error.knob = "proxy"
            raise

    def _label(self, has_content: bool) -> str:
        label = f"proxy {self.name if self.identity is None else self.identity()} {self.loader} {self.version}"
        label += " matched" if self.matched else ""
        label += f" {self.chosen.which} {self.chosen.samples}" if self.chosen is not None else ""
        return label + (" shuffled" if self.shuffled else "") + ("" if self.max_samples is None else f" most {self.max_samples}")

    def sources(self) -> tuple[ProxySpec, ...]:
        """The proxies that files of the user's own are read for: those of a mixture, else this one."""
        return tuple(source for part, _ in self.parts for source in part.sources()) or (self,)

    def load(self) -> ProxyData:
        """The whole proxy, in a fixed order.

        Raises:
            DataError: If a file is missing, damaged or not of the documented form.
        """
        self.check_files()
        data: ProxyData = resolve(self.loader, self.name)(self)
        if not isinstance(data, ProxyData) or len(data.inputs) != len(data.labels) or data.labels.dtype != "int64":
            raise DataError(f"{self.name}: {self.loader}: must return ProxyData with an int64 label for each input.")
        if self.chosen is not None and self.chosen.samples >= len(data):
            raise DataError(f"{self.name}: must choose fewer samples than there are, {len(data)}, but got {self.chosen.samples}.")
        return data
