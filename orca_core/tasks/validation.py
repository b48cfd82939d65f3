"""Which rows of a task validate, where its split is drawn here: the task's own share, another share, or one of several folds.

Loaders have no argument for it. `TaskSpec.load` makes a `Validation` current while a loader runs, and the functions of
`orca_core.tasks.splitting`, with which loaders hold rows out, ask for it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING

from orca_core.errors import ConfigError, Fault

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True)
class Validation:
    """Which of the rows outside the test part validate.

    Args:
        share: Share of these rows; None = the task's own.
        folds: Number of folds that these rows are dealt into; None = they are not.
        fold: The fold that validates, from 0; None = none does, all rows train.
    """

    share: float | None = None
    folds: int | None = None
    fold: int | None = None

    @property
    def is_default(self) -> bool:
        """Whether the task holds out what it always does."""
        return self == OWN_SHARE

    @property
    def is_empty(self) -> bool:
        """Whether no row validates."""
        return self.folds is not None and self.fold is None

    def fault(self, rule: str, remedy: str = "") -> Fault:
        """The fault of a rule that the knob breaks which asked for this."""
        path, value = ("valid_share", self.share) if self.folds is None else ("validation.folds", self.folds)
        return Fault(path, rule, value, remedy)

    @contextmanager
    def use(self) -> Iterator[Request]:
        """Within: what loaders hold out is chosen by this."""
        request = Request(self)
        token = _current.set(request)
        try:
            yield request
        finally:
            _current.reset(token)


OWN_SHARE = Validation()
"""Each task holds out its own share."""


@dataclass
class Request:
    """A `Validation` that is in use.

    Args:
        validation: What is asked for.
        is_met: Whether a loader has held rows out by it. One that brings a validation part of its own does not.
    """

    validation: Validation
    is_met: bool = False


_current: ContextVar[Request | None] = ContextVar("validation", default=None)


def hold_out_first(rows: np.ndarray, strata: np.ndarray, number: int) -> tuple[np.ndarray, np.ndarray]:
    """Divide the rows outside the test part into those that train and those that validate, both in their given order.

    The first `number` rows validate, or what the `Validation` in use asks for: its share of them, also the first; or a fold. Folds are
    dealt class by class, so each class is spread over all folds as evenly as possible, and so is the number of rows.

    Args:
        rows: (n,) row numbers, in stratified order (`orca_core.tasks.splitting.stratified_order`).
        strata: Class of every row of the data set, by row number.
        number: Rows that the task holds out by itself; 0 if its validation part is not drawn from these rows.

    Raises:
        ConfigError: If there are fewer rows than folds, or there is only one row of a class: no other could train while it validates.
    """
    import numpy as np

    request = _current.get()
    if request is None or number == 0:
        return rows[number:], rows[:number]
    request.is_met = True
    validation = request.validation
    if validation.folds is None:
        share = number / len(rows) if validation.share is None else validation.share
        number = min(max(1, round(share * len(rows))), len(rows) - 1)
        return rows[number:], rows[:number]
    if validation.folds > len(rows):
        raise ConfigError([validation.fault(f"must be at most the {len(rows)} rows outside the test part")])
    if np.unique(strata[rows], return_counts=True)[1].min() < 2:
        raise ConfigError([validation.fault("must be null if there is only one row of a class outside the test part")])
    if validation.fold is None:
        return rows, rows[:0]
    by_class = rows[np.argsort(strata[rows], kind="stable")]
    is_held = np.isin(rows, by_class[validation.fold :: validation.folds])
    return rows[~is_held], rows[is_held]
