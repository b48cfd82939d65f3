"""A task read from its end (`reversed`): every series, image or field turned round, and with it every dense target.

A series is reversed; an image or field is reversed along both of its axes, which reverses the order in which a text body reads its patches.
Classes, labels and values of a regression stay. A decoder, whose tokens see only those before them, learns something else from such data; an
encoder whose positions are learned anew hardly.

Reference:
    García-de-Herreros et al. 2025, arXiv 2510.05278 ("Parallel Flipping"), whose code reverses inputs and targets of the training and
    validation data, so that a second model reads them from their end.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from orca_core.tasks.spec import Prepare, Split, TaskData

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor


def reverse(data: TaskData) -> TaskData:
    """The data with inputs and dense targets from their end. `preparation` stays: it is of data as the task has it.

    Example:
        >>> import numpy as np
        >>> part = Split(np.array([[[1.0, 2.0, 3.0]]]), np.array([0]))
        >>> reverse(TaskData(part, part, part, num_classes=2)).train.x.tolist()
        [[[3.0, 2.0, 1.0]]]
    """
    is_dense = data.num_classes is None and data.train.y.ndim == len(data.input_shape) + 1
    prepare = None if data.prepare is None else Reversed(data.prepare)

    def turned(part: Split) -> Split:
        x, y = part.x if prepare else _turned(part.x), _turned(part.y) if is_dense else part.y
        return replace(part, x=x, y=y)

    train, valid = turned(data.train), turned(data.valid)
    test = valid if data.test is data.valid else turned(data.test)
    decode = data.decode if data.decode is None or not is_dense else _around(data.decode)
    return replace(data, train=train, valid=valid, test=test, prepare=prepare, decode=decode)


@dataclass(frozen=True)
class Reversed:
    """Prepares rows as another one does, then turns the inputs round.

    Args:
        prepare: The other one.
    """

    prepare: Prepare

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one prepared input."""
        return self.prepare.shape

    def __call__(self, rows: Tensor) -> Tensor:
        return from_end(self.prepare(rows))


def from_end(values: Tensor) -> Tensor:
    """(n, channels, ...) values, reversed along all axes after the channels."""
    return values.flip(tuple(range(2, values.dim())))


def _around(decode: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """What decodes values that are turned round: a scale may be another one at each position."""
    return lambda values: from_end(decode(from_end(values)))


def _turned(values: np.ndarray) -> np.ndarray:
    import numpy as np

    return np.ascontiguousarray(np.flip(values, tuple(range(2, values.ndim))))
