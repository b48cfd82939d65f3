"""Pairs: the mean answer of a trial and its twin that reads the task from its end, as rows of the role `derived`, like soups.

A row is known by its recipe and the result keys of the two.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

from orca_core.config.knobs import TrialConfig
from orca_core.errors import ConfigError, Fault
from orca_core.identity import hash_of
from sweeper.analysis.factors import KNOB_OF, cell
from sweeper.results.workspace import Workspace
from sweeper.running.reconcile import latest_space
from sweeper.running.soups import (
    OF_THE_DATA,
    Row,
    check_choice,
    check_device,
    check_weights,
    configs_of,
    facts_of_this_process,
    finished_rows,
)
from sweeper.space.space import SearchSpace

KIND = "flip"

VERSION = 1
"""Of the recipe, raised when its numbers change."""

_SCORES = ("valid_error", "valid_loss", "test_error")


@dataclass(frozen=True)
class Pair:
    """A trial and its twin.

    Args:
        name: Name of the sweep.
        forwards: Row of the trial that reads the task as it is.
        backwards: Row of the one that reads it from its end, and is the same otherwise.
        which: Which of their weights answer: those of the best epoch, or of the last.
    """

    name: str
    forwards: Row
    backwards: Row
    which: Literal["best", "last"]

    @property
    def rows(self) -> tuple[Row, Row]:
        """Both rows."""
        return self.forwards, self.backwards

    @property
    def _identity(self) -> dict[str, Any]:
        members = [row["result_key"] for row in self.rows]
        return {"recipe": KIND, "version": VERSION, "weights": self.which, "members": members}

    @property
    def id(self) -> str:
        """Id of the derived row."""
        return hash_of(self._identity)

    def row(self, scores: Mapping[str, float], attempt: int, started: datetime, seconds: float, worker: Row) -> dict[str, Any]:
        """The derived row: what both have in common, and the scores."""
        one, other = self.rows
        columns = (*KNOB_OF, "arm", "variant", *OF_THE_DATA)
        return {
            **{column: one[column] for column in columns if one[column] == other[column]},
            **worker,
            **{"sweep": self.name, "trial": self.id, "attempt": attempt, "sequence": 0, "status": "COMPLETE", "in_plan": False},
            **{"role": "derived", "derived_by": KIND, "result_key": hash_of(self._identity, digits=32), "config_hash": self.id},
            **{"members": [row["trial"] for row in self.rows], **scores},
            **{"started_at": started, "ended_at": datetime.now(UTC), "seconds": seconds, "saved_s": 0.0},
        }


@dataclass(frozen=True)
class Made:
    """A pair and its row; `news` as of a soup."""

    pair: Pair
    row: Row
    news: str


def make_pairs(
    workspace: Workspace,
    name: str,
    *,
    task: str | None = None,
    arm: str | None = None,
    where: str | None = None,
    recompute: bool = False,
    again: bool = False,
) -> list[Made]:
    """Score the mean answer of every finished trial and its twin with `reversed`, and add the rows.

    Args:
        workspace, name, task, arm, where, recompute, again: As of `make_soups`. Both of a pair must be chosen.

    Raises:
        ConfigError: With all faults: unknown names, no pair, weights that are not there.
        QueryError: If `where` is no condition.
    """
    check_choice(workspace, name, task, arm, where)
    space = latest_space(workspace.results, name)
    which: Literal["best", "last"] = "last" if space.keep == "last" else "best"
    rows = [row for row in finished_rows(workspace, name, task, arm, where) if row["validation_folds"] is None]
    pairs = _pairs(name, rows, which)
    if not pairs:
        rule = f"{name} must have finished trials of this choice that differ in `reversed` alone, and have a validation part"
        raise ConfigError([Fault("", rule, Fault.ABSENT, "Sweep over reversed: {grid: [false, true]}.")])
    known = {row["trial"]: row for row in workspace.results.live_trials(name) if row["role"] == "derived"}
    todo = [pair for pair in pairs if again or pair.id not in known]
    members = [row for pair in todo for row in pair.rows]
    configs = configs_of(workspace, space, members) if members else {}
    if not recompute:
        check_weights(workspace, which, members)
    made = []
    for pair in pairs:
        before = known.get(pair.id)
        if before is not None and not again:
            made.append(Made(pair, before, "there already"))
            continue
        row = _combine(workspace, space, pair, configs, before["attempt"] + 1 if before is not None else 1)
        if before is not None and all(row[column] == before[column] for column in _SCORES):
            made.append(Made(pair, before, "the same again"))
            continue
        workspace.results.append("trials", name, [row])
        made.append(Made(pair, row, "new numbers" if before is not None else "new"))
    return made


def _pairs(name: str, rows: Sequence[Row], which: Literal["best", "last"]) -> list[Pair]:
    """Each trial that reads forwards with the one that reads backwards and agrees with it in every other knob."""
    columns = [column for column in KNOB_OF if column not in ("reversed", "recipe")]
    twins = {tuple(cell(row, column) for column in columns): row for row in rows if row["reversed"]}
    found = []
    for row in rows:
        twin = twins.get(tuple(cell(row, column) for column in columns))
        if not row["reversed"] and twin is not None:
            found.append(Pair(name, row, twin, which))
    return found


def _combine(workspace: Workspace, space: SearchSpace, pair: Pair, configs: Mapping[str, TrialConfig], attempt: int) -> dict[str, Any]:
    from orca_core.pairing import combine  # loads torch

    check_device(space)
    started, clock = datetime.now(UTC), time.perf_counter()
    found = combine([configs[row["trial"]] for row in pair.rows], workspace.artifacts, pair.which, device=space.device)
    scores = {column: getattr(found, column) for column in _SCORES}
    return pair.row(scores, attempt, started, time.perf_counter() - clock, facts_of_this_process(space))
