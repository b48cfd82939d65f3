"""Pictures as files, in memory or as bytes, and how they become rows of a task."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from orca_core.datafiles.expected import refuse
from orca_core.datafiles.pictures import BYTES, SUFFIXES, is_deep, read_square
from orca_core.errors import DataError, Fault
from orca_core.tasks.own.images import MAX_REPORTED, Normalised
from orca_core.tasks.preparation import RawInputs, Samples
from orca_core.tasks.raw_arrays import read_array_file

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True)
class PictureInputs(RawInputs):
    """Pictures of any size.

    Args:
        size: Side in pixels that they are brought to: the shorter side is resized to it, and the middle is cut out.
        mean, deviation: By colour, of values in [0, 1], by which inputs are normalised.
        scale: Of grey pictures of more than 8 bits: the values that become 0 and 255. None for pictures of 8 bits.
    """

    TYPE = "pictures"

    size: int
    mean: tuple[float, ...]
    deviation: tuple[float, ...]
    scale: tuple[float, float] | None = None

    @property
    def expected(self) -> str:
        kind = f"a grey picture file of more than 8 bits ({self.scale[0]:g} to {self.scale[1]:g})" if self.scale else "a picture file"
        return (
            f"{kind}, a folder of them (or of a folder for each class), a PIL image, a list of files or of PIL images, which are brought "
            f"to {self.size} x {self.size} pixels; or bytes (uint8, 0 to 255) of shape (n, 3, {self.size}, {self.size})"
        )

    @property
    def prepare(self) -> Normalised:
        return Normalised(self.size, self.mean, self.deviation)

    def encode(self, samples: Any) -> np.ndarray:
        import numpy as np

        if hasattr(samples, "convert"):  # one picture
            samples = [samples]
        if not isinstance(samples, list | tuple):
            return self._check(samples)
        if not samples or not all(isinstance(sample, str | Path) or hasattr(sample, "convert") for sample in samples):
            return self._check(samples)
        x, wrong = np.empty((len(samples), 3, self.size, self.size), dtype=np.uint8), []
        for number, sample in enumerate(samples):
            try:
                x[number] = self._read(sample, f"picture {number + 1}")
            except DataError as error:
                wrong.append(str(error))
                refuse(wrong if len(wrong) == MAX_REPORTED else ())
        refuse(wrong)
        return x

    def _read(self, sample: Any, name: str) -> np.ndarray:
        if isinstance(sample, str | Path):
            return self._read_file(Path(sample).expanduser())
        with TemporaryDirectory() as folder:  # a picture in memory takes the way of a file, so that both become the same
            path = Path(folder, "picture.tiff")
            try:
                sample.save(path)
            except (OSError, ValueError, KeyError) as error:
                raise DataError(f"{name}: of the mode {sample.mode}, which cannot be read ({error}). Give its file.") from None
            try:
                return self._read_file(path)
            except DataError as error:
                raise DataError(str(error).replace(str(path), name)) from None

    def _read_file(self, path: Path) -> np.ndarray:
        """A picture file as bytes, as the task's pictures were read.

        Raises:
            DataError: If it cannot be read, or has more than 8 bits and the task's pictures have not, or the other way round.
        """
        if is_deep(path) != (self.scale is not None):
            rule = f"must have {'more than 8' if self.scale else '8'} bits like the training pictures"
            raise DataError(Fault("", rule, Fault.ABSENT).text(str(path)))
        return read_square(path, self.size, self.scale or BYTES)

    def _check(self, samples: Any) -> np.ndarray:
        """Bytes of the right shape.

        Raises:
            DataError: If they are anything else.
        """
        import numpy as np

        try:
            array = np.asarray(samples)
        except (ValueError, TypeError, RuntimeError):
            array = np.array(None)
        if array.dtype != np.uint8 or array.shape[1:] != (3, self.size, self.size) or not len(array):
            found = type(samples).__name__ if array.dtype.kind == "O" else (str(array.dtype), array.shape)
            raise DataError(Fault("samples", "must be pictures", found, f"Expected {self.expected}.").text())
        return array

    def read(self, path: Path) -> Samples:
        if path.is_dir():
            return self._read_folder(path)
        if path.suffix in (".npy", ".npz"):
            return read_array_file(path, self.expected)
        if not path.is_file():
            raise DataError(Fault("", "must be an existing file or folder", Fault.ABSENT, f"Expected {self.expected}.").text(str(path)))
        return Samples([path], names=[path.name])

    def _read_folder(self, folder: Path) -> Samples:
        if found := _pictures_in(folder):
            return Samples(found, names=[at.name for at in found])
        classes = sorted(entry for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))
        rows = [(at, part.name) for part in classes for at in _pictures_in(part)]
        if not rows:
            rule = f"must have pictures ({' '.join(SUFFIXES)}), or a folder of pictures for each class"
            raise DataError(Fault("", rule, Fault.ABSENT).text(str(folder)))
        return Samples([at for at, _ in rows], [name for _, name in rows], [f"{name}/{at.name}" for at, name in rows])


def _pictures_in(folder: Path) -> Sequence[Path]:
    return sorted(entry for entry in folder.iterdir() if not entry.is_dir() and entry.name.lower().endswith(SUFFIXES))
