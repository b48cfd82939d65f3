"""Interpolations: models between the start and the end of one fine-tuning (WiSE-FT), as rows of the role `derived`, like soups.

A row is known by its recipe, its alpha and the result key of its trial.
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
from sweeper.analysis.factors import KNOB_OF
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

KINDS = ("wise", "wise-body")
"""What lies on the line: all weights; or those of embedder and body, with the predictor of the end."""

ALPHAS = (0.0, 0.25, 0.5, 0.75, 1.0)

VERSION = 1
"""Of the recipes, raised when their numbers change."""


@dataclass(frozen=True)
class Point:
    """A model between the start and the end of a trial.

    Args:
        name: Name of the sweep.
        member: The trial's row.
        kind: One of `KINDS`.
        which: What the end is: the weights of the best epoch, or of the last.
        alpha: 0 at the start, 1 at the end.
    """

    name: str
    member: Row
    kind: str
    which: Literal["best", "last"]
    alpha: float

    @property
    def _identity(self) -> dict[str, Any]:
        what = {"recipe": self.kind, "version": VERSION, "weights": self.which, "alpha": self.alpha}
        return what | {"members": [self.member["result_key"]]}

    @property
    def id(self) -> str:
        """Id of the derived row."""
        return hash_of(self._identity)

    def row(self, scores: Mapping[str, float], attempt: int, started: datetime, seconds: float, worker: Row) -> dict[str, Any]:
        """The derived row."""
        copied = (*KNOB_OF, "arm", "variant", *OF_THE_DATA)
        return {
            **{column: self.member[column] for column in copied},
            **worker,
            **{"sweep": self.name, "trial": self.id, "attempt": attempt, "sequence": 0, "status": "COMPLETE", "in_plan": False},
            **{"role": "derived", "derived_by": self.kind, "result_key": hash_of(self._identity, digits=32), "config_hash": self.id},
            **{"members": [self.member["trial"]], "alpha": self.alpha, **scores},
            **{"started_at": started, "ended_at": datetime.now(UTC), "seconds": seconds, "saved_s": 0.0},
        }


@dataclass(frozen=True)
class Made:
    """A point and its row; `news` as of a soup."""

    point: Point
    row: Row
    news: str


def make_interpolations(
    workspace: Workspace,
    name: str,
    *,
    kind: str = "wise",
    alphas: Sequence[float] = ALPHAS,
    task: str | None = None,
    arm: str | None = None,
    where: str | None = None,
    recompute: bool = False,
    again: bool = False,
) -> list[Made]:
    """Evaluate models between start and end of every finished trial that is chosen, and add their rows.

    Args:
        workspace, name, task, arm, recompute, again: As of `make_soups`.
        kind: One of `KINDS`.
        alphas: Shares of the end, in [0, 1].
        where: A condition in SQL on `trials`.

    Raises:
        ConfigError: With all faults: unknown names, alphas out of range, nothing to do, weights that are not there.
        QueryError: If `where` is no condition.
    """
    faults = [] if kind in KINDS else [Fault("--kind", f"must be one of {', '.join(KINDS)}", kind)]
    faults += [Fault("--alphas", "must be numbers from 0 to 1", alpha) for alpha in alphas if not 0 <= alpha <= 1]
    check_choice(workspace, name, task, arm, where, faults)
    space = latest_space(workspace.results, name)
    which: Literal["best", "last"] = "last" if space.keep == "last" else "best"
    rows = finished_rows(workspace, name, task, arm, where)
    with_parts = [row for row in rows if row["validation_folds"] is None]
    if not with_parts:
        remedy = "Of a trial with validation.folds the final training has no validation part." if rows else ""
        raise ConfigError([Fault("", f"{name} must have finished trials of this choice with a validation part", Fault.ABSENT, remedy)])
    known = {row["trial"]: row for row in workspace.results.live_trials(name) if row["role"] == "derived"}
    points = [[Point(name, row, kind, which, alpha) for alpha in sorted(set(map(float, alphas)))] for row in with_parts]
    todo = [[point for point in of_trial if again or point.id not in known] for of_trial in points]
    members = [of_trial[0].member for of_trial in todo if of_trial]
    configs = configs_of(workspace, space, members) if members else {}
    if not recompute:
        check_weights(workspace, which, members)
    made = []
    for every, missing in zip(points, todo, strict=True):
        new = _evaluate(workspace, space, missing, configs, known) if missing else {}
        for point in every:
            before, row = known.get(point.id), new.get(point.id)
            if row is None:
                assert before is not None
                made.append(Made(point, before, "there already"))
            elif before is not None and all(row[column] == before[column] for column in ("valid_error", "valid_loss", "test_error")):
                made.append(Made(point, before, "the same again"))
            else:
                workspace.results.append("trials", name, [row])
                made.append(Made(point, row, "new numbers" if before is not None else "new"))
    return made


def _evaluate(
    workspace: Workspace, space: SearchSpace, points: Sequence[Point], configs: Mapping[str, TrialConfig], known: Mapping[str, Row]
) -> dict[str, dict[str, Any]]:
    """Rows of the points of one trial, by id."""
    from orca_core.soup import interpolate  # loads torch

    check_device(space)
    started, clock = datetime.now(UTC), time.perf_counter()
    config, alphas = configs[points[0].member["trial"]], [point.alpha for point in points]
    keep = points[0].kind == "wise-body"
    found = interpolate(config, workspace.artifacts, alphas, points[0].which, keep_predictor=keep, device=space.device)
    seconds, worker = (time.perf_counter() - clock) / len(points), facts_of_this_process(space)
    rows = {}
    for point, one in zip(points, found, strict=True):
        scores = {"valid_error": one.valid_error, "valid_loss": one.valid_loss, "test_error": one.test_error}
        attempt = known[point.id]["attempt"] + 1 if point.id in known else 1
        rows[point.id] = point.row(scores, attempt, started, seconds, worker)
    return rows
