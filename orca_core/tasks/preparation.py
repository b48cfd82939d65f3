"""What turns raw samples into rows of a task, and the outputs of a model into answers.

A loader makes a `Preparation` while it prepares the training data, out of the very objects that prepare them. It is kept with
fine-tuned weights, so that an exported model takes raw data: `orca_core.load_model(folder).predict(...)`. It is plain JSON, and holds no
code: a type is known by its name, and only those in `_TYPES` are read.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from orca_core.errors import DataError, Fault
from orca_core.plugins import resolve

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from orca_core.tasks.spec import Prepare

_TYPES = {
    "preparation": "orca_core.tasks.preparation:Preparation",
    "answers": "orca_core.tasks.preparation:Answers",
    "scale": "orca_core.tasks.preparation:Scale",
    "arrays": "orca_core.tasks.raw_arrays:ArrayInputs",
    "divide": "orca_core.tasks.raw_arrays:Divide",
    "reorder": "orca_core.tasks.raw_arrays:Reorder",
    "coordinates": "orca_core.tasks.raw_arrays:Coordinates",
    "series": "orca_core.tasks.ucr:SeriesInputs",
    "pictures": "orca_core.tasks.own.raw_pictures:PictureInputs",
    "table": "orca_core.tasks.raw_tables:read_table_inputs",
    "states": "orca_core.tasks.pdebench:StateInputs",
}
"""Name of a type in JSON -> its class, or what makes one."""


class Described:
    """A frozen dataclass that JSON can hold: numbers, texts, tuples, arrays of numbers, and other such objects."""

    TYPE: ClassVar[str]

    def to_json(self) -> dict[str, Any]:
        """Its fields, and the name of its type; `from_json` reads it."""
        values = ((field.name, getattr(self, field.name)) for field in fields(self))  # type: ignore[arg-type]
        return {"type": self.TYPE} | {name: _to_json(value) for name, value in values}


def _to_json(value: Any) -> Any:
    if isinstance(value, Described):
        return value.to_json()
    if isinstance(value, tuple | list):
        return [_to_json(item) for item in value]
    if hasattr(value, "dtype") and getattr(value, "shape", ()) != ():
        return {"type": "array", "dtype": str(value.dtype), "values": value.tolist()}
    return value.item() if hasattr(value, "item") else value


def from_json(data: Any) -> Any:
    """What `Described.to_json` returned, as objects again: bit for bit, as JSON keeps every digit of a float.

    Raises:
        DataError: If it is not of a known type.
    """
    if isinstance(data, list):
        return tuple(from_json(item) for item in data)
    if not isinstance(data, dict):
        return data
    kind, values = data.get("type"), {name: value for name, value in data.items() if name != "type"}
    try:
        if kind == "array":
            import numpy as np

            return np.array(values["values"], dtype={"float32": np.float32, "float64": np.float64}[values["dtype"]])
        read = {name: from_json(value) for name, value in values.items()}
        return resolve(_TYPES[str(kind)])(**read) if "type" in data else read
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        known = f"must be a preparation as this version writes it, but the type {kind!r} cannot be read ({error})"
        raise DataError(f"{known}. Export the model again, or update this package.") from None


@dataclass(frozen=True)
class Samples:
    """Raw samples that were read from a file.

    Args:
        inputs: What `RawInputs.encode` takes.
        answers: (n, ...) true answers, if the file holds them.
        names: What to call each sample, if they have names.
        source: The file or folder; None if they were given as such.
    """

    inputs: Any
    answers: Any = None
    names: Sequence[str] | None = None
    source: Path | None = None


class RawInputs(Described, ABC):
    """How raw samples become rows of the task."""

    @property
    @abstractmethod
    def expected(self) -> str:
        """What `encode` and `read` take, as a phrase: `arrays of shape (n, 2, 64)`."""

    @abstractmethod
    def encode(self, samples: Any) -> np.ndarray:
        """Raw samples -> (n, ...) rows, as training rows were made from such samples.

        Raises:
            DataError: If they are not what the model expects.
        """

    @abstractmethod
    def read(self, path: Path) -> Samples:
        """The samples in a file or folder.

        Raises:
            DataError: If it cannot be read, or is of another format.
        """

    def in_any_range(self) -> RawInputs:
        """The same, without a check of the range of values."""
        return self

    @property
    def prepare(self) -> Prepare | None:
        """How rows become inputs of the model; None if they are."""
        return None


@dataclass(frozen=True, eq=False)
class Scale(Described):
    """Values at mean 0 and deviation 1, and back.

    Args:
        mean, deviation: Arrays that broadcast against the values, (n, ...).
    """

    TYPE = "scale"

    mean: np.ndarray
    deviation: np.ndarray

    def encode(self, values: np.ndarray) -> np.ndarray:
        """(n, ...) values -> (n, ...) float32, scaled."""
        import numpy as np

        return ((values - self.mean) / self.deviation).astype(np.float32, order="C", copy=False)

    def __call__(self, scaled: Tensor) -> Tensor:
        """(n, ...) scaled -> (n, ...) values."""
        import torch

        return scaled * torch.from_numpy(self.deviation).to(scaled) + torch.from_numpy(self.mean).to(scaled)


Kind = Literal["classification", "multilabel", "regression", "dense"]


@dataclass(frozen=True)
class Answers(Described):
    """What the outputs of a model say.

    Args:
        kind: As of the task.
        names: Of the classes, in the order of the outputs; of the labels of a multi-label task; of the values of a regression. May be empty
            for a regression, and is for a dense task.
        scale: From outputs to values in their own unit; None if they are.
        scored_scaled: Whether loss and score are of scaled values.
        are_logits: Whether the outputs of a dense task are logits, of each position being 1.
        unit: What the values are, as a phrase; may be empty.
    """

    TYPE = "answers"

    kind: Kind
    names: tuple[str | int | float, ...] = ()
    scale: Scale | None = None
    scored_scaled: bool = False
    are_logits: bool = False
    unit: str = ""

    @property
    def has_probabilities(self) -> bool:
        """Whether outputs are probabilities of something, rather than values."""
        return self.kind in ("classification", "multilabel") or self.are_logits

    @property
    def text(self) -> str:
        """What is answered, as a phrase."""
        if self.kind == "classification":
            return f"one of {len(self.names)} classes: {_listed(self.names)}"
        if self.kind == "multilabel":
            return f"0 or 1 for each of {len(self.names)} labels: {_listed(self.names)}"
        what = "numbers" if self.kind == "regression" else "0 or 1 at each position" if self.are_logits else "fields"
        return what + (f": {_listed(self.names)}" if self.names else "") + (f", {self.unit}" if self.unit else "")

    def decode(self, outputs: Tensor) -> np.ndarray:
        """(n, ...) outputs -> (n,) names of classes, (n, labels) 0 or 1, or (n, ...) values in their own unit."""
        import numpy as np

        if self.kind == "classification":
            return np.array(self.names)[outputs.argmax(1).numpy()]
        if self.has_probabilities:
            return (outputs > 0).numpy().astype(np.int64)
        values = outputs.double() if self.kind == "regression" else outputs
        return (values if self.scale is None else self.scale(values)).numpy()

    def probabilities(self, outputs: Tensor) -> np.ndarray:
        """(n, classes) outputs -> probabilities, float64; (n, ...) for labels and positions.

        Raises:
            DataError: If the task has none.
        """
        import torch

        self.check_probabilities()
        logits = outputs.double()
        return (torch.softmax(logits, 1) if self.kind == "classification" else torch.sigmoid(logits)).numpy()

    def check_probabilities(self) -> None:
        """Check that outputs are probabilities of something.

        Raises:
            DataError: If they are values.
        """
        if not self.has_probabilities:
            raise DataError(f"the model answers with {self.text}, which have no probabilities")

    def encode(self, answers: Any) -> np.ndarray:
        """(n, ...) answers -> targets as the task has them.

        Raises:
            DataError: If some are none of the classes, or not numbers.
        """
        import numpy as np

        if self.kind != "classification":
            values = np.asarray(answers)
            if values.dtype.kind not in "biuf":
                raise DataError(Fault("answers", "must be numbers", str(values.dtype)).text())
            if self.kind == "regression" and values.ndim == 1:
                values = values[:, None]
            return values.astype(np.float32) if self.scale is None else self.scale.encode(values)
        are_numbers = all(isinstance(name, int | float) for name in self.names)
        ids = {_spelled(name, are_numbers): number for number, name in enumerate(self.names)}
        plain = [_spelled(answer, are_numbers) for answer in np.asarray(answers).tolist()]
        found = [ids.get(answer, -1) for answer in plain]
        if unknown := sorted({answer for answer, number in zip(plain, found, strict=True) if number < 0}):
            raise DataError(Fault("answers", f"must be classes of the model: {_listed(self.names)}", unknown).text())
        return np.array(found, dtype=np.int64)


@dataclass(frozen=True)
class Preparation(Described):
    """How raw samples become inputs of the model, and its outputs answers.

    Args:
        inputs: How raw samples become rows.
        answers: What outputs say.
    """

    TYPE = "preparation"

    inputs: RawInputs
    answers: Answers

    def __post_init__(self) -> None:
        if not isinstance(self.inputs, RawInputs) or not isinstance(self.answers, Answers):
            raise TypeError("inputs and answers must be mappings with the type of each")


def _spelled(name: object, are_numbers: bool) -> str:
    """A class by one spelling, whether it is a text or a number: 1, 1.0 and "1" are one class; where all classes are numbers, "1.0" too."""
    if are_numbers and isinstance(name, str):
        with suppress(ValueError):
            name = float(name)
    is_number = isinstance(name, int | float) and (are_numbers or not isinstance(name, bool))
    return f"{name:.15g}" if is_number else str(name)


def _listed(names: Sequence[object], most: int = 8) -> str:
    shown = ", ".join(str(name) for name in names[:most])
    return shown + (f" and {len(names) - most} more" if len(names) > most else "")
