"""Pairs: the mean answer of a trial and its twin that reads the task from its end, as rows of the role `derived`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from orca_core.config.knobs import TrialConfig
from orca_core.errors import ConfigError, Fault
from sweeper.analysis.factors import KNOB_OF, cell
from sweeper.results.workspace import Workspace
from sweeper.running.derived import SCORES, Derivation, Made, Row, Which, add_derived, check_choice, finished_rows, kept_weights
from sweeper.space.space import SearchSpace

KIND = "flip"


@dataclass(frozen=True)
class Pair(Derivation):
    """A trial that reads the task as it is, then the one that reads it from its end and is the same otherwise."""

    VERSION: ClassVar[int] = 1

    @property
    def recipe(self) -> str:
        return KIND


def make_pairs(
    workspace: Workspace,
    name: str,
    *,
    task: str | None = None,
    arm: str | None = None,
    where: str | None = None,
    recompute: bool = False,
    again: bool = False,
) -> list[Made[Pair]]:
    """Score the mean answer of every finished trial and its twin with `reversed`, and add the rows.

    Args:
        workspace, name, task, arm, where, recompute, again: As of `make_soups`. Both of a pair must be chosen.

    Raises:
        ConfigError: With all faults: unknown names, no pair, weights that are not there.
        QueryError: If `where` is no condition.
    """
    check_choice(workspace, name, task, arm, where)
    rows = [row for row in finished_rows(workspace, name, task, arm, where) if row["validation_folds"] is None]
    pairs = _pairs(name, rows, kept_weights(workspace, name))
    if not pairs:
        rule = f"{name} must have finished trials of this choice that differ in `reversed` alone, and have a validation part"
        raise ConfigError([Fault("", rule, Fault.ABSENT, "Sweep over reversed: {grid: [false, true]}.")])

    def compute(space: SearchSpace, batch: Sequence[Pair], configs: Mapping[str, TrialConfig]) -> list[dict[str, Any]]:
        from orca_core.pairing import combine  # loads torch

        found = (combine([configs[row["trial"]] for row in one.rows], workspace.artifacts, one.which, device=space.device) for one in batch)
        return [{score: getattr(answer, score) for score in SCORES} for answer in found]

    return add_derived(workspace, name, [[pair] for pair in pairs], compute, recompute=recompute, again=again)


def _pairs(name: str, rows: Sequence[Row], which: Which) -> list[Pair]:
    """Each trial that reads forwards with the one that reads backwards and agrees with it in every other knob."""
    columns = [column for column in KNOB_OF if column not in ("reversed", "recipe")]
    twins = {tuple(cell(row, column) for column in columns): row for row in rows if row["reversed"]}
    found = []
    for row in rows:
        twin = twins.get(tuple(cell(row, column) for column in columns))
        if not row["reversed"] and twin is not None:
            found.append(Pair(name, (row, twin), which))
    return found
