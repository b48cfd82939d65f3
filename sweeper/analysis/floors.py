"""The best floor of a task, read from the results, and what it says about the arms of a sweep: whether any of them beats it."""

from __future__ import annotations

import math
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from orca_core.floors.rows import COMPLETE, SIMPLE_FIRST, FloorCase
from orca_core.tasks.validation import Validation
from sweeper.results.store import ResultStore, results_option

_TOLERANCE = 1e-9
"""For rounding in means."""


@dataclass(frozen=True)
class Floor:
    """The model without a transformer that is best on a task by validation.

    Args:
        model: Its name.
        test_error: Its error on the test part; of several splits the mean.
        valid_error: Its error on the validation part, likewise.
        tied: Test error of the other models with the same validation error, by name.
    """

    model: str
    test_error: float
    valid_error: float
    tied: Mapping[str, float] = field(default_factory=dict)

    @property
    def to_beat(self) -> float:
        """The least test error among it and the models that validation does not tell from it."""
        return min([self.test_error, *self.tied.values()])

    def __str__(self) -> str:
        ties = [(error, model) for model, error in self.tied.items() if error < self.test_error]
        as_good = f" and, as good in validation, {min(ties)[1]} {min(ties)[0]:.3g}" if ties else ""
        return f"{self.model} {self.test_error:.3g}{as_good}"


class Floors:
    """All floors of some results.

    Args:
        rows: Rows of the view `floors`.
    """

    def __init__(self, rows: Iterable[Mapping[str, Any]]) -> None:
        self._by_case: dict[FloorCase, dict[str, Mapping[str, Any]]] = {}
        for row in rows:
            if row["status"] == COMPLETE:
                self._by_case.setdefault(FloorCase.of_row(row), {})[row["model"]] = row

    @classmethod
    def read(cls, results: ResultStore) -> Floors:
        """The floors of some results.

        Raises:
            StoreError: If a file is damaged.
        """
        return cls(results.floors())

    def best(self, cases: Iterable[FloorCase]) -> Floor | None:
        """The model with the least mean validation error over one or more cases; None if no model is known of all of them.

        Of equal ones it is the simplest.
        """
        found = [self._by_case.get(case, {}) for case in dict.fromkeys(cases)]
        common = [model for model in found[0] if all(model in of_case for of_case in found)] if found else []
        floors = [Floor(model, _mean(found, model, "test_error"), _mean(found, model, "valid_error")) for model in common]
        if not floors:
            return None
        first, *others = sorted(floors, key=lambda floor: (floor.valid_error, SIMPLE_FIRST.index(floor.model)))
        tied = {other.model: other.test_error for other in others if other.valid_error <= first.valid_error + _TOLERANCE}
        return replace(first, tied=tied)

    def of_trials(self, rows: Sequence[Mapping[str, Any]]) -> Floor | None:
        """The best floor on the task and the splits of some trials; None if it is not known.

        Args:
            rows: Rows of `trials`, of one task.
        """
        return self.best(map(FloorCase.of_row, rows))


def _mean(cases: Sequence[Mapping[str, Mapping[str, Any]]], model: str, column: str) -> float:
    return math.fsum(case[model][column] for case in cases) / len(cases)


def best_floor(
    results: ResultStore,
    task: str,
    split_seed: int = 0,
    train_samples: int | None = None,
    *,
    reference_data: bool = False,
    validation: Validation | None = None,
) -> Floor | None:
    """The best floor of a task by validation; None if there is none in the results.

    Args:
        results: The result tables.
        task: Name of the task.
        split_seed, train_samples, reference_data: As the knobs of the trials that it is compared with.
        validation: Which rows validate in these trials; None = the task's own share.

    Raises:
        StoreError: If a file is damaged.
    """
    return Floors.read(results).best([FloorCase(task, reference_data, split_seed, train_samples, validation or Validation())])


@dataclass(frozen=True)
class Compared:
    """An arm beside the floors.

    Args:
        rows: The rows of its trials, one for each seed.
        test_error: The mean of their test errors.
        half: Half the width of its interval over seeds; None for one seed.
        floor: The best floor on the same splits; None if it is not known.
    """

    rows: Sequence[Mapping[str, Any]]
    test_error: float
    half: float | None
    floor: Floor | None


def describe_floors(task: str, arms: Sequence[Compared], uri: str) -> list[str]:
    """What the best floor says about the arms of a task, a sentence or two for each set of splits that arms have.

    Args:
        task: The task.
        arms: All ranked arms of the task, the best first.
        uri: Folder or URI of the results, for the advice how to get floors.
    """
    by_cases: dict[tuple[FloorCase, ...], list[Compared]] = {}
    for arm in arms:
        by_cases.setdefault(tuple(sorted(set(map(FloorCase.of_row, arm.rows)), key=str)), []).append(arm)
    lines: list[str] = []
    unknown: list[FloorCase] = []
    for cases, group in by_cases.items():
        where = _describe_cases(cases) if len(by_cases) > 1 else ""
        if (floor := group[0].floor) is None:
            unknown += cases
        else:
            lines.append(_compare(task + where, floor, group))
    if unknown:
        commands = dict.fromkeys(f"`sweeper floors {shlex.quote(task)}{case.settings()}{results_option(uri)}`" for case in unknown)
        shown = ", ".join(list(commands)[:MAX_COMMANDS]) + (", ..." if len(commands) > MAX_COMMANDS else "")
        lines.append(f"Not compared with models that need no transformer: {shown} computes them.")
    return lines


MAX_COMMANDS = 3
"""How many commands are named that compute missing floors."""


def _describe_cases(cases: Sequence[FloorCase]) -> str:
    """What tells some splits from others, as a phrase to follow the task."""
    texts = [case.settings().replace(" --set ", ", ").removeprefix(", ") or "all training samples" for case in cases]
    return f" ({'; '.join(texts[:2])}{'; ...' if len(texts) > 2 else ''})"


def _compare(task: str, floor: Floor, arms: Sequence[Compared]) -> str:
    """Whether arms beat a floor; the first is the best one by the metric of the sweep."""
    best, at = arms[0], str(floor)
    below = [arm for arm in arms if arm.test_error < floor.to_beat - _TOLERANCE]
    if not below:
        none = "No arm beats the best model without a transformer."
        return f"No evidence of transfer on {task}: {at}, best arm {best.test_error:.3g}. {none}"
    if best not in below:
        others = "another arm is below it" if len(below) == 1 else f"{len(below)} other arms are below it"
        return f"The best arm of {task} does not beat the best model without a transformer: {at}, best arm {best.test_error:.3g}; {others}."
    if best.half is None:
        return f"The best arm of {task} is below the best model without a transformer, with one seed: {at}, best arm {best.test_error:.3g}."
    if best.test_error + best.half >= floor.to_beat:
        within = f"but by less than its interval over seeds: {at}, best arm {best.test_error:.3g} +- {best.half:.2g}"
        return f"The best arm of {task} is below the best model without a transformer, {within}."
    return f"The best arm of {task} beats the best model without a transformer: {at}, best arm {best.test_error:.3g} +- {best.half:.2g}."
